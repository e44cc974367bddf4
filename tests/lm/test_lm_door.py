"""What users pass to a trainer: understood in every form that means something, and refused by name before any work.

The checks of types that tests have elsewhere are off here, as they are for users.
"""

import math

import jaxtyping
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tokenizers import processors
from torch import nn

from bilevel_rl.lm import (
    BilevelRLHFConfig,
    BilevelRLHFTrainer,
    HumanScore,
    IteratedRLHFTrainer,
    NestedLoopRLHFTrainer,
    PreferenceLoss,
    RewardHead,
    TwoStageRLHFTrainer,
    evaluate,
)
from bilevel_rl.lm.encoder import Encoder
from bilevel_rl.lm.followers import Followers
from bilevel_rl.lm.objectives import UpperEstimate
from lm.tiny_models import gpt2, llama, tokenizer
from lm.tiny_trainers import PREFERENCES, SCORES, TextTable, score, trainer

TEMPLATE = (
    "{% for m in messages %}{{ 'd ' if m.role == 'user' else 'a ' }}{{ m.content }} {% endfor %}"
    "{% if add_generation_prompt %}a{% endif %}"
)


@pytest.fixture(autouse=True)
def _as_for_users():
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def words(*, ends=False, starts=False, template=None, end_id=2):
    """The four words; some tokenizers put a start mark before and an end mark behind every text."""
    built = tokenizer(end_id)
    single = f"{'a ' if starts else ''}$A{' c' if ends else ''}"
    if ends or starts:
        built.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single=single, special_tokens=[("a", 0), ("c", 2)]
        )
    built.chat_template = template
    return built


def encoder(of=None, *, max_length=8, model=None):
    return Encoder(Followers(model or llama(vocab_size=4), ("lower",)), of or words(), max_length, 4)


def built_with(folder, **arguments):
    """A trainer of arguments that are all right but these."""
    usual = {
        "model": llama(vocab_size=4),
        "processing_class": tokenizer(),
        "reward_model": TextTable(),
        "upper_objective": SCORES,
        "train_dataset": [{"prompt": ""}],
        "preference_dataset": None,
        "args": BilevelRLHFConfig(folder, max_steps=2, per_device_train_batch_size=4, max_completion_length=3),
    }
    return BilevelRLHFTrainer(**(usual | arguments))


def rows_of(folder, reward_model, **options):
    return trainer(folder, reward_model=reward_model, **options).train(progress=False).rows


# Numbers, functions and instances.


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("max_steps", value) for value in (1.5, 2.0, True, "3", None)],
        *[("preference_batch_size", value) for value in (2.5, True)],
        ("seed", 0.0),
        *[("beta", value) for value in ("0.1", True, None, 1j)],
        ("max_grad_norm", "1"),
        ("entropy_weight", False),
        *[(name, value) for name in ("bf16", "coupled") for value in (1, "no", None)],
        ("output_dir", 3),
        ("output_dir", ""),
    ],
)
def test_an_option_of_another_type_is_refused_by_name_and_value(name, value):
    with pytest.raises(TypeError, match=rf"^{name} must be .*, got {value!r}$"):
        BilevelRLHFConfig(**({"output_dir": "folder"} | {name: value}))


def test_numbers_of_numpy_become_pythons():
    config = BilevelRLHFConfig("folder", max_steps=np.int64(3), beta=np.float32(0.5), seed=np.uint8(7))
    assert [type(value) for value in (config.max_steps, config.beta, config.seed)] == [int, float, int]
    assert (config.max_steps, config.beta, config.seed) == (3, 0.5, 7)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: HumanScore(3), "score must be a function, got 3"),
        (lambda: HumanScore(lambda texts: [0.0]), r"score must take the arguments \(texts, seed\), got"),
        (
            lambda: PreferenceLoss(lambda texts, seed: [True]),
            r"prefer must take the arguments \(first, second, seed\), got",
        ),
        (lambda: RewardHead(8.0), r"num_features must be an integer, got 8\.0"),
        (lambda: RewardHead(0), "num_features must be at least 1, got 0"),
        (lambda: RewardHead(8, hidden_size=True), "hidden_size must be an integer, got True"),
        (lambda: RewardHead(8, bound=math.inf), "bound must be finite and positive, got inf"),
        (lambda: RewardHead(8).standardize(torch.zeros(3, 7)), r"states must be finite and of shape \(N, 8\)"),
        (lambda: RewardHead(8).standardize(torch.full((3, 8), math.nan)), r"\(3, 8\), of which 24 numbers"),
        (
            lambda: NestedLoopRLHFTrainer(num_inner_steps=2.5),
            "num_inner_steps must be an integer, got 2.5",
        ),
        (lambda: IteratedRLHFTrainer(refit_every=True), "refit_every must be an integer, got True"),
        (lambda: IteratedRLHFTrainer(num_fit_steps="9"), "num_fit_steps must be an integer, got '9'"),
    ],
)
def test_what_cannot_be_made_is_refused_by_name_and_value(make, message):
    with pytest.raises((TypeError, ValueError), match=message):
        make()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("model", 3, "model must be a PreTrainedModel, got 3"),
        ("processing_class", "my-model", "processing_class must be a PreTrainedTokenizerBase, got 'my-model'"),
        ("reward_model", score, "reward_model must be a Module"),
        ("upper_objective", score, r"upper_objective must take the arguments \(inputs, rewards, seed\).*HumanScore"),
        ("upper_objective", "people", "upper_objective must be a function"),
        ("args", {"max_steps": 3}, "args must be a BilevelRLHFConfig, got {'max_steps': 3}"),
        ("peft_config", {"r": 8}, "peft_config must be a PeftConfig"),
        ("callbacks", [3], r"callbacks\[0\] must be a TrainerCallback, got 3"),
        ("callbacks", score, "callbacks must be a list or tuple, got the function score"),
        ("judges", [score], "judges must be a Mapping"),
        ("judges", {"j": 3}, r"judges\['j'\] must be a function, got 3"),
        ("reward_model", RewardHead(7), r"made for 7 features, and the model's states have 8: RewardHead\(8\)"),
        ("reward_model", nn.Flatten(), "reward_model has no weights that can be trained"),
        ("reward_model", TextTable().bfloat16(), "single precision, got table in torch.bfloat16"),
        ("reward_model", nn.LazyLinear(1), "reward_model has weights without a shape"),
    ],
)
def test_an_argument_that_cannot_be_is_refused_by_name(tmp_path, name, value, message):
    with pytest.raises((TypeError, ValueError), match=message):
        built_with(tmp_path, **{name: value})
    assert not list(tmp_path.iterdir())


def test_a_reward_that_has_left_the_numbers_is_refused(tmp_path):
    spoiled = TextTable()
    spoiled.table.data[3] = math.nan
    with pytest.raises(ValueError, match="reward_model must hold finite numbers, got others in table"):
        built_with(tmp_path, reward_model=spoiled)


def test_pairs_need_an_even_batch(tmp_path):
    args = BilevelRLHFConfig(tmp_path, per_device_train_batch_size=3)
    with pytest.raises(ValueError, match=r"per_device_train_batch_size must be even, .*got 3"):
        built_with(tmp_path, args=args, upper_objective=PreferenceLoss(lambda first, second, seed: [True]))


def test_asking_a_trainer_for_what_it_has_not_got_is_refused(tmp_path):
    built = trainer(tmp_path)
    for options, message in [
        ({"policy": "uper"}, "policy must be one of lower, penalized, __base__, got 'uper'"),
        ({"policy": ""}, "policy must be one of"),
        ({"num_completions": 2.0}, "num_completions must be an integer, got 2.0"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
    ]:
        with pytest.raises((TypeError, ValueError), match=message):
            built.complete(**({"num_completions": 2} | options))
    with pytest.raises(ValueError, match=r"judges\['j'\]: expected 4 finite answers, one each, got \[1\.0\]"):
        evaluate(built, "lower", {"j": lambda texts: [1.0]}, num_completions=4, seed=0)


# Prompts and preferences.


def said(*messages):
    return [{"role": role, "content": content} for role, content in messages]


def test_prompts_come_as_texts_rows_conversations_or_from_a_generator(tmp_path):
    asked = said(("user", "b"))
    for prompts in (["b", ""], ({"prompt": text} for text in ("b", "")), ("b", ""), np.array(["b", ""])):
        assert built_with(tmp_path, train_dataset=prompts).batches.examples == [("b", "b", {}), ("", "", {})]
    of = words(template=TEMPLATE)
    for prompts in ([asked], [{"prompt": asked, "other": 1}]):
        built = built_with(tmp_path, train_dataset=prompts, processing_class=of)
        assert [built.encoder.prompt_ids(text) for text, _, _ in built.batches.examples] == [[3, 1, 0]]


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ("b b", "train_dataset must be a list, got one text, 'b b': put it into a list"),
        (b"b", "train_dataset must be a list, got one text"),
        ({"prompt": ["b"]}, "train_dataset must be a list of rows, got a dict of prompt"),
        (3, "train_dataset must be a list, got 3"),
        ([], "train_dataset must hold at least one text"),
        (iter(()), "train_dataset must hold at least one text"),
        (["b", None], "train_dataset: row 1 must be a text or a conversation, got None"),
        (["b", 3], "train_dataset: row 1 must be a text or a conversation, got 3"),
        ([[]], r"train_dataset: row 0 must be a text or a conversation, got \[\]"),
        ([["b"]], "train_dataset: row 0 must be a text or a conversation"),
        ([{"text": "b"}], r"train_dataset: row 0 needs 'prompt', got \['text'\]"),
        ([said(("user", "b"))], "train_dataset: row 0 is a conversation, and the tokenizer has no chat template"),
        (["b \ud83d"], "train_dataset: row 0 holds half a character"),
    ],
)
def test_prompts_that_cannot_be_are_refused(tmp_path, prompts, message):
    with pytest.raises(ValueError, match=message):
        built_with(tmp_path, train_dataset=prompts)


def test_conversations_are_the_preferences_that_their_texts_are(tmp_path):
    of, asked = words(template=TEMPLATE), said(("user", "b"))
    chosen, rejected = said(("assistant", "b b")), said(("assistant", "d"))
    expected = encoder(of).encode_preferences([{"prompt": "d b a", "chosen": "b b", "rejected": "d"}])
    for row in (
        {"prompt": asked, "chosen": chosen, "rejected": rejected},
        {"chosen": asked + chosen, "rejected": asked + rejected},
        {"prompt": asked, "chosen": "b b", "rejected": "d"},
    ):
        found = encoder(of).encode_preferences([row])
        assert torch.equal(found.inputs.completions.input_ids, expected.inputs.completions.input_ids)
        assert torch.equal(found.inputs.states, expected.inputs.states)
    built = built_with(tmp_path, preference_dataset=(row for row in PREFERENCES))
    assert len(built.preferences.chosen) == 3


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "preference_dataset is empty"),
        ({"chosen": ["b"], "rejected": ["d"]}, "preference_dataset must be a list of rows, got a dict of chosen, rej"),
        (["b"], "row 0 must be a mapping with 'chosen' and 'rejected', got 'b'"),
        ([PREFERENCES[0], {"chosen": "b", "rejected": None}], "row 1, 'rejected', must be a text or a conversation"),
        ([{"chosen": 3, "rejected": "b"}], "row 0, 'chosen', must be a text or a conversation, got 3"),
        ([{"prompt": None, "chosen": "b", "rejected": "d"}], "row 0, 'prompt', must be a text .*, got None"),
        ([{"chosen": [], "rejected": []}], r"row 0, 'chosen', must be a text or a conversation, got \[\]"),
        (
            [{"chosen": said(("user", "b")), "rejected": said(("user", "d"))}],
            "row 0, 'chosen', must be a conversation that ends with the assistant",
        ),
        (
            [{"chosen": said(("user", "b"), ("assistant", "b")), "rejected": said(("user", "d"), ("assistant", "d"))}],
            "row 0: 'chosen' and 'rejected' must differ in the last message only",
        ),
        ([{"prompt": "b", "chosen": said(("assistant", "b")), "rejected": said(("assistant", "d"))}], "'prompt', must"),
        ([{"chosen": said(("assistant", "b")), "rejected": said(("assistant", "d"))}], "has no message before the ans"),
    ],
)
def test_preferences_that_are_no_pairs_of_texts_are_refused(tmp_path, rows, message):
    with pytest.raises(ValueError, match=f"preference_dataset.*{message}|{message}"):
        built_with(tmp_path, preference_dataset=rows, processing_class=words(template=TEMPLATE))


def test_preferences_that_the_cut_makes_equal_are_told_of():
    cut, whole = {"chosen": "b d b b", "rejected": "b d d"}, {"chosen": "b", "rejected": "d"}
    with pytest.warns(UserWarning, match=r"in 2 of 3 pairs .*max_completion_length=3 tokens.*the longest has 5"):
        found = encoder(max_length=3).encode_preferences([cut, whole, cut])
    assert len(found.chosen) == 3
    with pytest.raises(ValueError, match=r"preference_dataset: in 2 of 2 pairs"):
        encoder(max_length=3).encode_preferences([cut, cut])
    encoder(max_length=5).encode_preferences([cut, cut])


# Tokens.


def test_the_end_mark_that_a_tokenizer_puts_behind_a_text_is_not_part_of_a_prompt():
    plain = encoder(words())
    for of in (words(ends=True), words(ends=True, starts=True), words(starts=True)):
        found = encoder(of)
        start = [0] if of is not None and found.prompt_ids("b")[0] == 0 else []
        assert found.prompt_ids("b d") == [*start, *plain.prompt_ids("b d")]
        assert found.prompt_ids("b c") == [*start, 1, 2], "an end mark that the user wrote"
        assert found.prompt_ids("") == [0]


def test_a_start_mark_that_stands_there_already_is_not_doubled():
    assert encoder(words(starts=True)).prompt_ids("a b") == [0, 1]
    assert encoder(words()).prompt_ids("a a b") == [0, 0, 1]


def test_an_end_mark_behind_a_text_of_the_data_is_not_doubled():
    assert encoder().completions(["b", "b"], ["b c", "b"]).ids.tolist() == [[1, 2], [1, 2]]


def test_tokens_that_the_model_does_not_know_are_refused_with_a_remedy():
    padded = words()
    padded.add_special_tokens({"pad_token": "[PAD]"})
    with pytest.raises(
        ValueError, match=r"pad_token '\[PAD\]' has the number 4, and .* knows 4 tokens only: model\.res"
    ):
        encoder(padded)
    with pytest.raises(ValueError, match=r"train_dataset: 'd' holds the token 3, and the model knows 3 only"):
        encoder(model=llama(vocab_size=3)).prompts(["b", "d"])
    with pytest.raises(ValueError, match=r"preference_dataset: 'd' holds the token 3"):
        encoder(model=llama(vocab_size=3)).completions(["b"], ["d"])


@pytest.mark.parametrize("model", [llama, gpt2])
def test_prompts_and_completions_that_the_model_has_no_room_for_are_refused(tmp_path, model):
    args = BilevelRLHFConfig(tmp_path, max_completion_length=30)
    with pytest.raises(ValueError, match=r"'b b b' has 3 tokens; with max_completion_length=30 .* 32 positions"):
        built_with(tmp_path, model=model(vocab_size=4), train_dataset=["b", "b b b"], args=args)
    built = built_with(tmp_path, model=model(vocab_size=4), train_dataset=["b b"], args=args)
    assert len(built.complete(4)) == 4, "32 tokens are room enough"


# Rewards.


class Shaped(nn.Module):
    def __init__(self, form):
        super().__init__()
        self.form, self.head = form, nn.Linear(8, 1)
        with torch.no_grad():
            self.head.weight.copy_(torch.linspace(-1, 1, 8))
            self.head.bias.zero_()

    def forward(self, inputs):
        return self.form(self.head(inputs.states))


def test_a_column_of_rewards_is_one_reward_a_row(tmp_path):
    options = {"preferences": PREFERENCES}
    flat = rows_of(tmp_path / "flat", Shaped(lambda u: u[:, 0]), **options)
    assert rows_of(tmp_path / "column", Shaped(lambda u: u), **options) == flat
    built = trainer(tmp_path / "evaluated", reward_model=Shaped(lambda u: u))
    assert evaluate(built, "lower", {}, num_completions=4, seed=0).scores["reward"].shape == (4,)


@pytest.mark.parametrize(
    ("form", "got"),
    [
        (lambda u: u.mean(), r"a tensor of shape \(\)"),
        (lambda u: u.expand(-1, 2), r"shape \(8, 2\)"),
        (lambda u: u[:3, 0], r"shape \(3,\)"),
        (lambda u: u[:, 0].long(), r"torch\.int64"),
        (lambda u: u[:, 0].tolist(), r"got \["),
        (lambda u: None, "got None"),
    ],
)
def test_rewards_that_are_not_one_number_a_row_are_refused(tmp_path, form, got):
    with pytest.raises(
        ValueError, match=f"reward_model must give one real number for each of the 8 completions, .*{got}"
    ):
        rows_of(tmp_path, Shaped(form))


@pytest.mark.parametrize("preferences", [None, PREFERENCES], ids=["completions", "preferences"])
def test_a_reward_that_is_no_number_from_the_start_is_refused(tmp_path, preferences):
    def form(u):
        return u[:, 0] if preferences is not None and len(u) == 8 else u[:, 0] * math.nan

    with pytest.raises(ValueError, match="reward_model gives NaN or infinity"):
        rows_of(tmp_path, Shaped(form), preferences=preferences)


class Noisy(nn.Module):
    """Dropout, running statistics, and numbers of its own."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.norm, self.dropout, self.head = nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 1)

    def forward(self, inputs):
        noise = torch.randn(len(inputs.states))
        return self.head(self.dropout(self.norm(inputs.states))).squeeze(-1) + 0.1 * noise


def test_a_reward_that_draws_random_numbers_goes_on_with_the_same_bits(tmp_path):
    options = {"preferences": PREFERENCES, "checkpoint_every": 0.0}
    whole = rows_of(tmp_path / "whole", Noisy(), max_steps=4, **options)
    for steps in (2, 4):
        built = trainer(tmp_path / "stopped", reward_model=Noisy(), max_steps=steps, **options)
        torch.manual_seed(steps)  # as another process would have another state
        rows = built.train(progress=False).rows
    assert rows == whole
    assert len({row["preference_loss"] for row in whole}) == 4


def test_dropout_is_off_so_that_a_text_has_one_reward(tmp_path):
    losses = []
    for name, wrap in (("with", nn.Dropout(0.5)), ("without", nn.Identity())):
        reward_model = Shaped(lambda u: u[:, 0])
        reward_model.head = nn.Sequential(wrap, reward_model.head)
        losses.append(
            [row["preference_loss"] for row in rows_of(tmp_path / name, reward_model, preferences=PREFERENCES)]
        )
    assert losses[0] == losses[1]


class Tied(nn.Module):
    """An output that is the embedding, and a view of a part of it."""

    def __init__(self):
        super().__init__()
        self.embed, self.out, self.head = nn.Embedding(4, 8), nn.Linear(8, 4, bias=False), nn.Linear(8, 1)
        self.out.weight = self.embed.weight
        self.register_buffer("scale", torch.ones(4))
        self.register_buffer("first", self.scale[:2])

    def forward(self, inputs):
        return self.head(self.embed(inputs.completions.ids).mean(dim=1)).squeeze(-1)


def test_weights_that_are_shared_are_saved_and_load_back(tmp_path):
    torch.manual_seed(0)
    built = trainer(tmp_path, reward_model=Tied(), checkpoint_every=0.0)
    built.train(progress=False)
    loaded = Tied()
    loaded.load_state_dict(load_file(tmp_path / "reward.safetensors"))
    assert torch.equal(loaded.embed.weight, built.reward_model.embed.weight)
    assert loaded.out.weight is loaded.embed.weight
    torch.manual_seed(0)
    resumed = trainer(tmp_path, reward_model=Tied(), max_steps=4)
    resumed.train(progress=False)
    assert resumed.reward_model.out.weight is resumed.reward_model.embed.weight


# People and judges.


@pytest.mark.parametrize(
    "answers", ["1234", ["1", "2", "3", "4"], None, 4.0, {1: 2.0}, [1.0, None, 2.0, 3.0], [1e300] * 4, [[1.0, 2.0]] * 4]
)
def test_answers_that_are_no_numbers_are_refused(tmp_path, answers):
    built = trainer(tmp_path, upper_objective=HumanScore(lambda texts, seed: answers))
    with pytest.raises(ValueError, match="upper_objective: expected 4 finite answers, one each, got"):
        built.train(progress=False)


def test_answers_come_as_lists_arrays_columns_tensors_or_generators(tmp_path):
    forms = [list, np.array, lambda s: np.array(s)[:, None], torch.tensor, iter, lambda s: torch.tensor(s)[:, None]]
    found = [
        rows_of(tmp_path / str(i), TextTable(), upper_objective=HumanScore(lambda texts, seed, f=f: f(score(texts))))
        for i, f in enumerate(forms)
    ]
    assert all(rows[0]["upper_value"] == pytest.approx(found[0][0]["upper_value"], abs=1e-6) for rows in found)


def test_a_preference_is_true_or_false(tmp_path):
    built = trainer(tmp_path, upper_objective=PreferenceLoss(lambda first, second, seed: [-1.0] * len(first)))
    with pytest.raises(ValueError, match=r"prefer must say true or false of each pair, or .* got \[-1\.0, -1\.0\]"):
        built.train(progress=False)


@pytest.mark.parametrize("error", [ConnectionError("nobody is there"), KeyboardInterrupt()])
def test_where_asking_fails_the_error_comes_through_and_the_run_goes_on_afterwards(tmp_path, error):
    asked = []

    def ask(texts, seed):
        asked.append(texts)
        if len(asked) == 3:
            raise error
        return score(texts)

    options = {"preferences": PREFERENCES, "max_steps": 4}
    expected = rows_of(tmp_path / "whole", TextTable(), **options)
    built = trainer(tmp_path / "failed", upper_objective=HumanScore(ask), checkpoint_every=0.0, **options)
    with pytest.raises(type(error)) as caught:
        built.train(progress=False)
    assert caught.value is error
    if isinstance(error, Exception):
        assert any("upper_objective" in note for note in error.__notes__)
    assert built.train(progress=False).rows == expected


def test_an_objective_of_another_form_is_refused(tmp_path):
    for number, (objective, message) in enumerate(
        [
            (lambda inputs, rewards, seed: [0.0] * len(rewards), "must give an UpperEstimate.*HumanScore"),
            (lambda inputs, rewards, seed: UpperEstimate(torch.zeros(3), torch.zeros(()), 0.0, 3), r"shape \(4,\)"),
        ]
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            trainer(tmp_path / str(number), upper_objective=objective).train(progress=False)


@pytest.mark.parametrize("scores", [[1.0], [1.0] * 9, [math.nan] * 8, ["1"] * 8, "12345678"])
def test_a_judge_gives_one_number_a_text(tmp_path, scores):
    built = trainer(tmp_path, TwoStageRLHFTrainer, upper_objective=None, judges={"j": lambda texts: scores})
    with pytest.raises(ValueError, match=r"judges\['j'\]: expected 8 finite answers, one each"):
        built.train(progress=False)


# Arguments as TRL has them.


def test_arguments_of_before_are_told_by_their_new_names(tmp_path):
    for name, new in (("prompts", "train_dataset"), ("tokenizer", "processing_class"), ("reward_funcs", "reward_mod")):
        with pytest.raises(TypeError, match=f"BilevelRLHFTrainer has no argument '{name}'; it is called {new}"):
            built_with(tmp_path, **{name: [""]})
    with pytest.raises(TypeError, match=r"IteratedRLHFTrainer has no argument 'refits'$"):
        IteratedRLHFTrainer(llama(), TextTable(), refits=3)
    with pytest.raises(TypeError, match=r"reward_model is a tokenizer: the arguments of .* are "):
        BilevelRLHFTrainer(llama(), tokenizer(), TextTable(), SCORES, [""])


def test_what_is_not_given_comes_from_the_models_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = str(tmp_path / "models/small")
    llama(vocab_size=4).save_pretrained(path)
    tokenizer().save_pretrained(path)
    built = BilevelRLHFTrainer(path, TextTable(), train_dataset=[{"prompt": "b"}], upper_objective=SCORES)
    assert built.folder.path == tmp_path / "small-BilevelRLHF"
    assert built.tokenizer.get_vocab() == tokenizer().get_vocab()
    loaded = llama(vocab_size=4)
    for arguments, message in (
        ({"args": None}, r"args is None, .* has no name to call a folder by: give BilevelRLHFConfig\(FOLDER\)"),
        ({"processing_class": None}, "processing_class is None, and the model was not loaded from a path"),
        ({"train_dataset": None}, "train_dataset is None: give rows with a 'prompt'"),
    ):
        with pytest.raises(ValueError, match=message):
            built_with(tmp_path, model=loaded, **arguments)


def test_a_dataset_is_the_list_of_its_rows(tmp_path):
    datasets = pytest.importorskip("datasets")
    asked = said(("user", "b"))
    for number, rows in enumerate(([{"prompt": "b"}, {"prompt": ""}], [{"prompt": asked}, {"prompt": asked * 2}])):
        preferences = [{"prompt": asked, "chosen": said(("assistant", "b")), "rejected": said(("assistant", "d"))}]
        lists = {"train_dataset": rows, "preference_dataset": preferences}
        tables = {name: datasets.Dataset.from_list(data) for name, data in lists.items()}
        built = [
            built_with(tmp_path / f"{number}", processing_class=words(template=TEMPLATE), **data)
            for data in (lists, tables)
        ]
        assert built[0].batches.examples == built[1].batches.examples
        assert built[0].identity() == built[1].identity()
    with pytest.raises(ValueError, match="train_dataset must be a list of rows, got a DatasetDict of train: pass one"):
        built_with(tmp_path, train_dataset=datasets.DatasetDict({"train": tables["train_dataset"]}))
