"""A trained model on the Hugging Face Hub: one commit with the adapter, the reward and the model card."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from huggingface_hub import CommitOperationAdd


@runtime_checkable
class Hub(Protocol):
    """What is asked of the Hub, as `huggingface_hub.HfApi` has it."""

    def create_repo(self, repo_id: str, *, private: bool | None, exist_ok: bool) -> Any:
        """Makes a repository, unless it is there; what it returns has its full name as `repo_id`."""
        ...

    def create_commit(self, repo_id: str, operations: list[Any], *, commit_message: str) -> Any:
        """Adds files, all at once."""
        ...


def push(hub: Hub, repo_id: str, folder: Path, policy: str, *, commit_message: str, private: bool | None) -> Any:
    """Uploads what `save_model` wrote into a run folder.

    Args:
        hub: where to.
        repo_id: name of the repository, with or without its owner.
        folder: the run folder.
        policy: whose adapter lies where `PeftModel.from_pretrained` looks for it.
        commit_message: of the commit.
        private: of a new repository; None for what its owner has set.

    Returns:
        What the Hub says of the commit.
    """
    operations = [CommitOperationAdd(place, str(path)) for place, path in _files(folder, policy)]
    created = hub.create_repo(repo_id, private=private, exist_ok=True)
    return hub.create_commit(created.repo_id, operations, commit_message=commit_message)


def _files(folder: Path, policy: str) -> Iterator[tuple[str, Path]]:
    """Places in the repository, and files; nothing else of the run folder is anybody's business."""
    for name in ("README.md", "reward.safetensors"):
        yield name, folder / name
    for path in sorted((folder / "adapters" / policy).iterdir()):
        if path.name != "README.md":
            yield path.name, path
    if (folder / "reward").is_dir():
        for path in sorted((folder / "reward").iterdir()):
            yield f"reward/{path.name}", path
