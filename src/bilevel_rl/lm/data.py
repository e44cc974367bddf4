"""Prompts and preferences as users and TRL have them, as texts: read once, before anything is computed from them.

Texts come as strings, or as conversations (lists of {"role": …, "content": …}) that the tokenizer's chat template
turns into a prompt; the answer is then what the last message, the assistant's, says.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerBase


class Example(NamedTuple):
    """A prompt of the data: the text that a completion follows, what it was given as, and other columns of its row."""

    text: str
    prompt: str | list[Mapping[str, Any]]
    columns: Mapping[str, Any]

    def answer(self, text: str) -> str | list[dict[str, str]]:
        """A completion in the prompt's form: a text, or the assistant's message."""
        return text if isinstance(self.prompt, str) else [{"role": "assistant", "content": text}]


class Pair(NamedTuple):
    """A preference: which of two texts after a prompt people chose."""

    example: Example
    chosen: str
    rejected: str


NOT_COLUMNS = ("prompt", "chosen", "rejected", "completion")
"""Columns of a row that are no further information about its prompt."""


def no_column(column: str) -> bool:
    """Whether a column is read, where none is."""
    return False


def read_rows(name: str, rows: Any) -> list[Any]:
    """The rows of a list, a dataset or a generator.

    Raises:
        ValueError: it is one text, a table of columns, or not iterable.
    """
    if isinstance(rows, str | bytes):
        raise ValueError(f"{name} must be a list, got one text, {rows!r:.80}: put it into a list")
    if isinstance(rows, Mapping) or hasattr(rows, "iterrows"):
        what = f"a {type(rows).__name__} of {', '.join(map(str, rows))}"
        raise ValueError(f"{name} must be a list of rows, got {what:.120}: pass one split, or the rows of the table")
    if not isinstance(rows, Iterable):
        raise ValueError(f"{name} must be a list, got {rows!r:.80}")
    return list(rows)


def read_prompts(
    dataset: Iterable[Any] | None, tokenizer: PreTrainedTokenizerBase, reads: Callable[[str], bool] = no_column
) -> list[Example]:
    """The examples of strings, of conversations, or of rows with such a "prompt".

    Args:
        dataset: strings, conversations or rows.
        tokenizer: whose chat template is used.
        reads: whether a column of this name is wanted.

    Raises:
        ValueError: there is none, or one is no text.
    """
    if dataset is None:
        raise ValueError("train_dataset is None: give rows with a 'prompt', or texts that completions begin with")
    rows = read_rows("train_dataset", dataset)
    if not rows:
        raise ValueError("train_dataset must hold at least one text; the empty text '' is the start mark alone")
    found = []
    for number, row in enumerate(rows):
        where = f"train_dataset: row {number}"
        columns: dict[str, Any] = {}
        if isinstance(row, Mapping):
            if "prompt" not in row:
                raise ValueError(f"{where} needs 'prompt', got {sorted(map(str, row))}")
            columns = _columns(row, reads)
            row = row["prompt"]
        found.append(_example(where, row, columns, tokenizer))
    return found


def read_preferences(
    rows: Sequence[Any], tokenizer: PreTrainedTokenizerBase, reads: Callable[[str], bool] = no_column
) -> list[Pair]:
    """Pairs in TRL's forms: rows with "chosen" and "rejected", and "prompt" where it is not empty.

    Args:
        rows: mappings.
        tokenizer: whose chat template is used.
        reads: whether a column of this name is wanted.

    Raises:
        ValueError: there is no row, one lacks a column, or what it holds is neither text nor conversation.
    """
    if not rows:
        raise ValueError("preference_dataset is empty; pass None where there are no preferences")
    pairs = []
    for number, row in enumerate(rows):
        where = f"preference_dataset: row {number}"
        if not isinstance(row, Mapping):
            raise ValueError(f"{where} must be a mapping with 'chosen' and 'rejected', got {row!r:.80}")
        if not {"chosen", "rejected"} <= set(row):
            raise ValueError(f"{where} needs 'chosen' and 'rejected', got {sorted(map(str, row))}")
        prompt, chosen, rejected = row.get("prompt", ""), row["chosen"], row["rejected"]
        columns = _columns(row, reads)
        if _is_conversation(chosen) or _is_conversation(rejected):
            messages, *texts = _parts_of_conversations(where, prompt, chosen, rejected)
            pairs.append(Pair(_example(where, messages, columns, tokenizer), *texts))
            continue
        example = _example(where if _is_conversation(prompt) else f"{where}, 'prompt',", prompt, columns, tokenizer)
        pairs.append(Pair(example, _text(f"{where}, 'chosen',", chosen), _text(f"{where}, 'rejected',", rejected)))
    return pairs


def _columns(row: Mapping[str, Any], reads: Callable[[str], bool]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in NOT_COLUMNS and reads(name)}


def _example(where: str, prompt: Any, columns: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase) -> Example:
    if _is_conversation(prompt):
        return Example(_render(where, prompt, tokenizer), list(prompt), columns)
    return Example(_text(where, prompt), prompt, columns)


def _parts_of_conversations(where: str, prompt: Any, chosen: Any, rejected: Any) -> tuple[list[Any], str, str]:
    """The messages before the answers, and both answers."""
    before: list[Any] = prompt if _is_conversation(prompt) else []
    if not before and prompt != "":
        raise ValueError(f"{where}, 'prompt', must be a conversation, as 'chosen' is, got {prompt!r:.80}")
    starts, answers = [], []
    for side, messages in (("chosen", chosen), ("rejected", rejected)):
        if not _is_conversation(messages) or messages[-1]["role"] != "assistant":
            raise ValueError(
                f"{where}, {side!r}, must be a conversation that ends with the assistant, got {messages!r:.120}"
            )
        starts.append([*before, *messages[:-1]])
        answers.append(_text(f"{where}, {side!r},", messages[-1]["content"]))
    if starts[0] != starts[1]:
        raise ValueError(f"{where}: 'chosen' and 'rejected' must differ in the last message only")
    if not starts[0]:
        raise ValueError(f"{where} has no message before the answer: put it into 'prompt'")
    return starts[0], answers[0], answers[1]


def _is_conversation(value: Any) -> bool:
    return (
        isinstance(value, list | tuple)
        and len(value) > 0
        and all(isinstance(message, Mapping) and {"role", "content"} <= set(message) for message in value)
    )


def _render(where: str, messages: Sequence[Any], tokenizer: PreTrainedTokenizerBase) -> str:
    if tokenizer.chat_template is None:
        raise ValueError(
            f"{where} is a conversation, and the tokenizer has no chat template: set processing_class.chat_template, "
            "or pass texts"
        )
    return str(tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True))


def _text(where: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{where} must be a text or a conversation, got {value!r:.80}")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise ValueError(f"{where} holds half a character (a lone surrogate), got {value!r:.80}")
    return value
