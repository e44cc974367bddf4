"""all-MiniLM-L6-v2: a text to a vector of length 1 whose angles follow meaning (Reimers & Gurevych, EMNLP 2019)."""

from collections.abc import Sequence

import numpy as np
import torch
from transformers import AutoModel, AutoTokenizer

from bilevel_rl.studies.happy_tweets.assets import Assets

MAX_TOKENS = 128


class SentenceEncoder:
    """The encoder; loading it takes a second.

    Args:
        assets: where the model is.

    Raises:
        AssetError: the model cannot be had.
    """

    def __init__(self, assets: Assets):
        folder = assets.pinned("minilm")
        self._tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        self._model = AutoModel.from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True, trust_remote_code=False
        ).eval()

    def embed(self, texts: Sequence[str], batch_size: int = 64) -> np.ndarray:
        """Means of the last hidden states over tokens, scaled to length 1; float32, shape (len(texts), 384)."""
        # Texts of like length share a batch, so little is spent on padding.
        order = np.argsort([len(text) for text in texts], kind="stable")
        vectors = np.empty((len(texts), self._model.config.hidden_size), np.float32)
        for start in range(0, len(texts), batch_size):
            rows = order[start : start + batch_size]
            inputs = self._tokenizer(
                [texts[row] for row in rows], padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt"
            )
            with torch.inference_mode():
                hidden = self._model(**inputs).last_hidden_state
            mask = inputs["attention_mask"].unsqueeze(-1)
            means = (hidden * mask).sum(1) / mask.sum(1)
            vectors[rows] = torch.nn.functional.normalize(means, dim=-1).numpy()
        return vectors
