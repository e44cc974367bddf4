"""The example of a reward of three functions shows what its docstring says."""

import importlib.util
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples/reward_weights.py"


def load():
    spec = importlib.util.spec_from_file_location("reward_weights", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.long
def test_the_weights_move_to_where_people_like_what_is_written(tmp_path):
    example = load()
    trainer, found = example.main(tmp_path, progress=False)
    rows = trainer.folder.read_rows("metrics")
    lengths = [row["lower_mean_length"] for row in rows]
    assert max(lengths[:15]) > 8, "first it praises without end"
    assert lengths[-1] < 4
    weights = trainer.reward_model.named_weights()
    assert weights["length"] < 0 < weights["nice"]
    assert weights["nasty"] < -0.5
    before = example.evaluate(trainer, "__base__", {"people": example.people}, num_completions=200, seed=0)
    assert found.scores["people"].mean() > before.scores["people"].mean() + 1.5


def test_people_and_functions_by_hand():
    example = load()
    texts = ["good", "good and good and great", "slow and friendly", ""]
    assert example.people(texts) == [3.0, 1.0, 0.0, 0.0]
    assert example.nice(texts) == [1.0, 2.0, 1.0, 0.0]
    assert example.nasty(texts) == [0.0, 0.0, 1.0, 0.0]
    assert example.length(texts) == [1.0, 5.0, 3.0, 0.0]
