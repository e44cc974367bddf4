"""The model card says what was trained, and what is pushed to the Hub can be used from there. No network."""

from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import ModelCard
from peft import PeftModel
from safetensors.torch import load_file
from transformers import LlamaForCausalLM

from lm.tiny_models import all_completions, llama, token_logits
from lm.tiny_trainers import trainer


class FakeHub:
    """A Hub in memory."""

    def __init__(self, fails=False):
        self.repositories, self.calls, self.fails = {}, [], fails

    def create_repo(self, repo_id, *, private, exist_ok):
        full = repo_id if "/" in repo_id else f"me/{repo_id}"
        assert exist_ok
        self.repositories.setdefault(full, {"private": private, "files": {}})
        return SimpleNamespace(repo_id=full)

    def create_commit(self, repo_id, operations, *, commit_message):
        if self.fails:
            raise ConnectionError("no network")
        for operation in operations:
            with operation.as_file() as file:
                self.repositories[repo_id]["files"][operation.path_in_repo] = file.read()
        self.calls.append(commit_message)
        return SimpleNamespace(commit_message=commit_message)

    def download(self, repo_id, folder):
        for name, data in self.repositories[repo_id]["files"].items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)


def count(completions):
    return [float(text.count("b")) for text in completions]


def short(completion_ids):
    return [1.0 / len(ids) for ids in completion_ids]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two iterations on a model that has a name."""
    folder = tmp_path_factory.mktemp("runs") / "kind-notes"

    def model():
        built = llama()
        built.name_or_path = "somebody/small-llama"
        return built

    options = {"max_steps": 2, "learning_rate": 0.02, "critic_learning_rate": 0.05, "reward_weights": [0.25, 3.0]}
    built = trainer(folder, model=model, reward_model=[count, short], **options)
    built.train(progress=False)
    return built


def test_the_model_card_says_what_was_trained_and_how(trained):
    text = (trained.folder.path / "README.md").read_text()
    data = ModelCard(text).data.to_dict()
    assert data["base_model"] == "somebody/small-llama"
    assert (data["library_name"], data["model_name"]) == ("peft", "kind-notes")
    assert {"bilevel-rl", "rlhf"} <= set(data["tags"])
    for name, weight in trained.reward_model.named_weights().items():
        assert f"| `{name}` | {weight:.4g} |" in text
    for line in (
        "| iterations | 2 |",
        "| answers of people | 8 |",
        "| `beta` | 0.1 |",
        "| `reward_weights` | [0.25, 3.0] |",
    ):
        assert line in text
    assert "@inproceedings{zeng2026hessianfree" in text
    assert "BilevelRLHFTrainer" in text
    assert str(trained.folder.path.parent) not in text


def test_title_dataset_and_tags_can_be_given(trained):
    trained.create_model_card("Kind notes", "somebody/notes", "notes")
    path = trained.folder.path / "README.md"
    data = ModelCard(path.read_text()).data.to_dict()
    assert (data["model_name"], data["datasets"]) == ("Kind notes", "somebody/notes")
    assert data["tags"][-1] == "notes"
    assert "# Kind notes\n" in path.read_text()
    trained.create_model_card(tags=["a", "b", "a"])
    assert ModelCard(path.read_text()).data.to_dict()["tags"][-2:] == ["a", "b"]


def test_a_path_of_this_machine_is_no_name(tmp_path):
    def model():
        built = llama()
        built.name_or_path = str(tmp_path / "secret")
        return built

    built = trainer(tmp_path / "run", model=model)
    built.create_model_card()
    text = (tmp_path / "run/README.md").read_text()
    assert "secret" not in text
    assert "base_model" not in ModelCard(text).data.to_dict()


def test_what_is_pushed_can_be_used_from_there(trained, tmp_path):
    hub = FakeHub()
    told = trained.push_to_hub("me/notes", hub=hub, private=True, commit_message="first")
    assert told.commit_message == "first"
    repository = hub.repositories["me/notes"]
    assert repository["private"]
    assert set(repository["files"]) == {
        "README.md",
        "reward.safetensors",
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    hub.download("me/notes", tmp_path)
    loaded, texts = PeftModel.from_pretrained(llama(), tmp_path).eval(), all_completions()
    with torch.no_grad():
        expected = token_logits(trained.followers, ["lower"] * 15, texts)
        logits = loaded(texts.input_ids).logits[:, :-1]
    torch.testing.assert_close(logits[texts.mask], expected[texts.mask], rtol=1e-5, atol=1e-5)
    assert torch.equal(load_file(tmp_path / "reward.safetensors")["weights"], trained.reward_model.weights)


def test_a_repository_is_called_as_the_folder_is_and_pushed_to_again(trained):
    hub = FakeHub()
    for _ in range(2):
        trained.push_to_hub(hub=hub)
    assert list(hub.repositories) == ["me/kind-notes"]
    assert hub.calls == ["End of training"] * 2


def test_what_the_hub_refuses_comes_through(trained):
    with pytest.raises(ConnectionError, match="no network"):
        trained.push_to_hub(hub=FakeHub(fails=True))


def test_a_whole_model_is_pushed_as_one(tmp_path):
    hub = FakeHub()
    built = trainer(tmp_path / "run", peft_config=None, max_steps=1)
    built.train(progress=False)
    built.push_to_hub("me/whole", hub=hub)
    hub.download("me/whole", tmp_path / "there")
    data = ModelCard((tmp_path / "there/README.md").read_text()).data.to_dict()
    assert data["library_name"] == "transformers"
    loaded, texts = LlamaForCausalLM.from_pretrained(tmp_path / "there").eval(), all_completions()
    with torch.no_grad():
        expected = token_logits(built.followers, ["lower"] * 15, texts)
        logits = loaded(texts.input_ids).logits[:, :-1]
    torch.testing.assert_close(logits[texts.mask], expected[texts.mask], rtol=1e-5, atol=1e-5)
