"""Completions as Parquet: everything that was written, once, also after a kill."""

import pytest
import torch

from bilevel_rl.lm import IteratedRLHFTrainer, TwoStageRLHFTrainer
from lm.tiny_trainers import PREFERENCES, Bomb, score, trainer

pandas = pytest.importorskip("pandas")
pytest.importorskip("pyarrow")


def count(completions):
    return [float(text.count("b")) for text in completions]


def size(completion_ids):
    return [float(len(ids)) for ids in completion_ids]


OPTIONS = {
    "reward_model": {"b": count, "size": size},
    "log_completions": True,
    "prompts": ("", "b"),
    "gradient_accumulation_steps": 2,
    "checkpoint_every": 0.0,
    "max_steps": 4,
    "preferences": PREFERENCES,
}


def table_of(folder):
    return pandas.read_parquet(folder / "completions")


def test_every_completion_is_there_with_what_it_was_worth(tmp_path):
    built = trainer(tmp_path, judges={"j": Bomb()}, logging_steps=3, **OPTIONS)
    rows = built.train(progress=False).rows
    assert sorted(path.name for path in (tmp_path / "completions").iterdir()) == [
        "completions_00003.parquet",
        "completions_00004.parquet",
    ]
    table = table_of(tmp_path)
    assert list(table) == [
        "step",
        "policy",
        "prompt",
        "completion",
        "reward",
        "reward/b",
        "reward/size",
        "judge_j",
        "cost",
    ]
    assert table.groupby(["step", "policy"]).size().to_dict() == {
        (step, policy): 8 for step in (1, 2, 3, 4) for policy in ("lower", "penalized")
    }
    assert set(table.prompt) == {"", "b"}
    assert table["judge_j"].tolist() == pytest.approx(score(table.completion.tolist()))
    assert table["reward/b"].tolist() == count(table.completion)
    lower, penalized = (table[table.policy == policy] for policy in ("lower", "penalized"))
    assert lower.cost.isna().all()
    assert penalized.cost.tolist() == pytest.approx([-s for s in score(penalized.completion.tolist())])
    for row, steps in ((rows[0], (1, 2, 3)), (rows[1], (4,))):
        of_row = lower[lower.step.isin(steps)]
        assert row["lower_mean_reward"] == pytest.approx(of_row.reward.mean(), rel=1e-5)
        assert row["lower_reward/size"] == pytest.approx(of_row["reward/size"].mean(), rel=1e-5)


def test_after_a_kill_nothing_is_there_twice_and_nothing_is_missing(tmp_path):
    trainer(tmp_path / "whole", judges={"j": Bomb()}, **OPTIONS).train(progress=False)
    killed = trainer(tmp_path / "killed", judges={"j": Bomb(explodes_at=6)}, **OPTIONS)
    with pytest.raises(KeyboardInterrupt):
        killed.train(progress=False)  # in the second half of the third iteration
    # As a kill between the rows of an iteration and its checkpoint would leave it.
    written = tmp_path / "killed/completions"
    (written / "completions_00003.parquet").write_bytes((written / "completions_00002.parquet").read_bytes())
    (written / "completions_00004.parquet.tmp").write_bytes(b"half")
    trainer(tmp_path / "killed", judges={"j": Bomb()}, **(OPTIONS | {"max_steps": 3})).train(progress=False)
    assert len(list(written.iterdir())) == 3
    killed.train(progress=False)  # the same trainer, from the checkpoint of the other one
    pandas.testing.assert_frame_equal(table_of(tmp_path / "killed"), table_of(tmp_path / "whole"))


@pytest.mark.parametrize("method", [IteratedRLHFTrainer, TwoStageRLHFTrainer])
def test_methods_with_one_policy_note_what_people_were_asked_about(tmp_path, method):
    options = OPTIONS | {"max_steps": 1}
    if method is TwoStageRLHFTrainer:
        options |= {"upper_objective": None}
    trainer(tmp_path, method, **options).train(progress=False)
    table = table_of(tmp_path)
    assert len(table) == 16
    assert table.cost.notna().sum() == (0 if method is TwoStageRLHFTrainer else 8)


def test_numbers_do_not_depend_on_it_and_it_may_be_turned_on_later(tmp_path):
    options = OPTIONS | {"log_completions": False, "max_steps": 2}
    found = [trainer(tmp_path / "without", **options).train(progress=False)]
    assert not (tmp_path / "without/completions").exists()
    found.append(trainer(tmp_path / "with", **(options | {"log_completions": True})).train(progress=False))
    assert found[0].rows == found[1].rows
    trainer(tmp_path / "without", **OPTIONS).train(progress=False)
    assert set(table_of(tmp_path / "without").step) == {3, 4}
    assert torch.get_num_threads() == 1
