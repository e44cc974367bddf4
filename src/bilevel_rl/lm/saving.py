"""What a trainer leaves for others: adapters, reward and model card, in its folder and on the Hub."""

from collections.abc import Sequence
from typing import Any

from huggingface_hub import HfApi
from safetensors.torch import save_file

from bilevel_rl.files.atomic import write_atomically
from bilevel_rl.lm.classifier import ClassifierReward
from bilevel_rl.lm.hub import Hub, push
from bilevel_rl.lm.iterations import Iterations
from bilevel_rl.lm.model_card import model_card
from bilevel_rl.runs.folder import RunFolder


class Saving(Iterations):
    """A trainer whose results can be taken elsewhere."""

    folder: RunFolder

    def save_model(self):
        """Writes the adapters in peft's form, the reward's parameters and the model card into `output_dir`."""
        self.followers.save(self.folder.path / "adapters")
        # Copies, since safetensors refuses tensors that share memory, as tied weights do.
        tensors = {name: tensor.contiguous().clone() for name, tensor in self._reward_tensors().items()}
        save_file(tensors, self.folder.path / "reward.safetensors")
        if isinstance(self.reward_model, ClassifierReward):
            self.reward_model.save(self.folder.path / "reward")
        self.create_model_card()

    def create_model_card(
        self,
        model_name: str | None = None,
        dataset_name: str | None = None,
        tags: str | Sequence[str] | None = None,
    ):
        """Writes the model's page, README.md of `output_dir`: metadata, reward, options, citation.

        Args:
            model_name: title; by default the name of the folder.
            dataset_name: on the Hub, of the prompts.
            tags: beside the usual ones.
        """
        write_atomically(self.folder.path / "README.md", model_card(self, model_name, dataset_name, tags))

    def push_to_hub(
        self,
        repo_id: str | None = None,
        *,
        commit_message: str = "End of training",
        private: bool | None = None,
        hub: Hub | None = None,
    ) -> Any:
        """Uploads adapter, reward and model card to the Hugging Face Hub; the first process does.

        Args:
            repo_id: name of the repository; by default the name of the folder.
            commit_message: of the commit.
            private: of a new repository; None for what its owner has set.
            hub: by default `huggingface_hub.HfApi()`, who you are logged in as.

        Returns:
            What the Hub says of the commit; None in other processes.
        """
        told = None
        if self._processes.is_main_process:
            if not (self.folder.path / "reward.safetensors").is_file():
                self.save_model()
            place = repo_id or self.folder.path.name
            options = {"commit_message": commit_message, "private": private}
            told = push(hub or HfApi(), place, self.folder.path, self.policies[0], **options)
        self._processes.wait_for_everyone()
        return told
