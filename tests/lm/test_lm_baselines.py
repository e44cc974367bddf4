"""Rivals: what moves, along what, when; what they cost; and that they go on exactly where they stopped."""

import itertools
import math

import pytest
import torch
from torch import nn

from bilevel_rl.lm import (
    BilevelRLHFTrainer,
    HumanScore,
    IteratedRLHFTrainer,
    NestedLoopRLHFTrainer,
    PartialSGDRLHFTrainer,
    TwoStageRLHFTrainer,
)
from bilevel_rl.lm.objectives import UpperEstimate
from bilevel_rl.runs.folder import RunFolderError
from lm.tiny_trainers import PREFERENCES, TextTable, score, text_number, trainer

ASKING = [PartialSGDRLHFTrainer, IteratedRLHFTrainer, NestedLoopRLHFTrainer]
BASELINES = [*ASKING, TwoStageRLHFTrainer]
PROMPTS = ("", "b", "b a b")
STEPS = {"learning_rate": 0.02, "critic_learning_rate": 0.05, "upper_learning_rate": 0.03}


class Watched(TextTable):
    """Keeps what it was asked about."""

    def __init__(self, seed=0):
        super().__init__(seed)
        self.batches = []

    def forward(self, inputs):
        self.batches.append(inputs)
        return super().forward(inputs)


def moves_of_x(built, num_iterations):
    """The table after every iteration, the start first."""
    tables = [built.reward_model.table.detach().clone()]
    for k in range(num_iterations):
        built._iterate(k, sizes(built, k))
        tables.append(built.reward_model.table.detach().clone())
    return tables


def sizes(built, k):
    from bilevel_rl.lm.rows import StepSizeNumbers

    return StepSizeNumbers(*(float(value) for value in built.args.step_sizes()(k)))


@pytest.mark.parametrize("method", [*BASELINES, BilevelRLHFTrainer])
@pytest.mark.parametrize("parts", [1, 2])
def test_every_method_writes_as_much_and_asks_as_much_an_iteration(tmp_path, method, parts):
    asked = []

    def ask(texts, seed):
        asked.extend(texts)
        return score(texts)

    options = {"gradient_accumulation_steps": parts, "max_steps": 2} | STEPS
    built = trainer(
        tmp_path, method, reward_model=Watched(), upper_objective=HumanScore(ask), prompts=PROMPTS, **options
    )
    rows = built.train(progress=False).rows
    batches = built.reward_model.batches
    assert sum(len(inputs.texts) for inputs in batches) == 2 * 8 * parts
    assert rows[-1]["num_transitions"] == sum(inputs.completions.num_tokens for inputs in batches)
    num_answers = 0 if method is TwoStageRLHFTrainer else 4 * parts
    assert [row["num_answers"] for row in rows] == [num_answers, 2 * num_answers]
    assert len(asked) == 2 * num_answers


def test_two_stage_leaves_x_and_asks_nobody(tmp_path):
    built = trainer(tmp_path, TwoStageRLHFTrainer, upper_objective=None, preferences=PREFERENCES, **STEPS)
    table, adapter = built.reward_model.table.detach().clone(), built.followers.adapter("lower")
    before = [weight.detach().clone() for weight in adapter]
    rows = built.train(progress=False).rows
    assert torch.equal(built.reward_model.table, table)
    assert all(not torch.equal(weight, old) for weight, old in zip(adapter, before, strict=True))
    assert rows[-1]["num_answers"] == 0
    assert built.policies == ("lower",)


@pytest.mark.parametrize("method", ASKING)
def test_methods_that_ask_need_someone_to_ask(tmp_path, method):
    with pytest.raises(ValueError, match=f"upper_objective is None, but {method.__name__} asks people"):
        trainer(tmp_path, method, upper_objective=None)


def preference_gradient(built, table):
    x = table.clone().requires_grad_()
    r = x[text_number(built.preferences.inputs.completions)]
    losses = nn.functional.softplus(r[built.preferences.rejected] - r[built.preferences.chosen])
    return torch.autograd.grad(built.args.preference_weight * losses.mean(), x)[0]


def test_partial_sgd_with_scores_moves_x_along_the_preferences_alone(tmp_path):
    options = STEPS | {"optimizer": "sgd", "max_grad_norm": None, "offset": 1e9}
    built = trainer(tmp_path, PartialSGDRLHFTrainer, preferences=PREFERENCES, **options)
    old, new = moves_of_x(built, 1)
    torch.testing.assert_close(new, old - 0.03 * preference_gradient(built, old), rtol=1e-6, atol=1e-8)
    assert (new - old).abs().max() > 1e-3


def test_partial_sgd_adds_the_direct_part_of_what_it_asked(tmp_path):
    asked = []

    def half_of_the_reward(inputs, rewards, seed):
        asked.append(text_number(inputs.completions))
        return UpperEstimate(rewards.detach() / 2, rewards.mean() / 2, 0.0, len(rewards))

    options = STEPS | {"optimizer": "sgd", "max_grad_norm": None, "offset": 1e9, "gradient_accumulation_steps": 2}
    built = trainer(
        tmp_path, PartialSGDRLHFTrainer, preferences=PREFERENCES, upper_objective=half_of_the_reward, **options
    )
    old, new = moves_of_x(built, 1)
    numbers = torch.cat(asked)
    assert len(numbers) == 8
    direct = torch.bincount(numbers, minlength=27) / 8 / 2
    torch.testing.assert_close(new, old - 0.03 * (direct + preference_gradient(built, old)), rtol=1e-5, atol=1e-7)


def test_a_nested_loop_of_one_step_is_the_single_loop_at_constant_penalty(tmp_path):
    options = STEPS | {"offset": 1e9, "preferences": PREFERENCES, "prompts": PROMPTS}
    nested = trainer(tmp_path / "nested", NestedLoopRLHFTrainer, method_options={"num_inner_steps": 1}, **options)
    single = trainer(tmp_path / "single", **options)
    for built in (nested, single):
        built.train(progress=False)
    for name, tensor in single.tensors().items():
        torch.testing.assert_close(nested.tensors()[name], tensor, rtol=1e-5, atol=1e-7)


def test_a_nested_loop_moves_x_every_t_th_iteration_along_the_mean_of_the_later_half(tmp_path):
    options = STEPS | {"optimizer": "sgd", "max_grad_norm": None, "offset": 1e9, "reward_gradient": "plain"}
    built = trainer(tmp_path / "nested", NestedLoopRLHFTrainer, method_options={"num_inner_steps": 3}, **options)
    still = trainer(tmp_path / "still", **(options | {"upper_learning_rate": 0.0}))
    gradients = []
    for k in range(3):  # the same followers learn at the same x
        still._accumulate(k, sizes(still, k))
        gradients.append(still.reward_model.table.grad.clone())
        for name in ("actor", "critic"):
            still.steps.move(name, getattr(sizes(still, k), name))
        still.steps.optimizers["upper"].zero_grad()
    tables = moves_of_x(built, 6)
    has_moved = [not torch.equal(one, other) for one, other in itertools.pairwise(tables)]
    assert has_moved == [False, False, True, False, False, True]
    expected = tables[0] - 0.03 * (gradients[1] + gradients[2]) / 2
    torch.testing.assert_close(tables[3], expected, rtol=1e-5, atol=1e-7)
    assert (gradients[0] - gradients[1]).abs().max() > 0.1


def test_a_nested_loop_notes_the_loss_of_the_preferences_in_every_row(tmp_path):
    built = trainer(tmp_path, NestedLoopRLHFTrainer, preferences=PREFERENCES, method_options={"num_inner_steps": 2})
    before = float(built._preference_loss(built.preferences, 0))
    rows = built.train(progress=False).rows
    losses = [row["preference_loss"] for row in rows]
    assert losses[:2] == pytest.approx([before, before], rel=1e-6)
    assert abs(losses[2] - before) > 1e-5, "x has moved"


def test_a_nested_loop_keeps_penalty_and_entropy_weight_and_says_so(tmp_path):
    built = trainer(
        tmp_path, NestedLoopRLHFTrainer, schedule="decaying", offset=1.0, entropy_weight=0.2, penalty=0.7, max_steps=3
    )
    used = []
    accumulate = built._accumulate

    def note(k, step_size, **options):
        used.append((step_size.penalty, step_size.entropy))
        return accumulate(k, step_size, **options)

    built._accumulate = note
    rows = built.train(progress=False).rows
    assert used == [(pytest.approx(0.7), pytest.approx(0.2))] * 3
    assert [(row["penalty"], row["entropy_weight"]) for row in rows] == used
    assert rows[2]["actor_step"] < rows[0]["actor_step"]


METHOD_OPTIONS = {
    NestedLoopRLHFTrainer: {"num_inner_steps": 4},
    IteratedRLHFTrainer: {"refit_every": 2, "num_fit_steps": 5},
}


@pytest.mark.variants(rest="long")
@pytest.mark.parametrize("method", BASELINES)
def test_a_stopped_run_goes_on_as_if_it_had_not_been(tmp_path, method):
    options = {"preferences": PREFERENCES, "prompts": PROMPTS, "method_options": METHOD_OPTIONS.get(method)} | STEPS
    whole = trainer(tmp_path / "whole", method, max_steps=6, **options)
    whole.train(progress=False)
    trainer(tmp_path / "stopped", method, max_steps=3, **options).train(progress=False)
    resumed = trainer(tmp_path / "stopped", method, max_steps=6, starts_at=0.1, **options)
    resumed.train(progress=False)
    expected, found = whole.tensors(), resumed.tensors()
    assert expected.keys() == found.keys()
    assert not [name for name, tensor in expected.items() if not torch.equal(tensor, found[name])]
    assert resumed.counters() == whole.counters()
    assert (tmp_path / "stopped/metrics.csv").read_bytes() == (tmp_path / "whole/metrics.csv").read_bytes()


@pytest.mark.parametrize(
    ("method", "name"),
    [
        (NestedLoopRLHFTrainer, "num_inner_steps"),
        (IteratedRLHFTrainer, "refit_every"),
        (IteratedRLHFTrainer, "num_fit_steps"),
    ],
)
def test_a_run_with_other_numbers_of_steps_is_not_continued(tmp_path, method, name):
    trainer(tmp_path, method, max_steps=1, method_options={name: 3}).train(progress=False)
    with pytest.raises(RunFolderError, match=rf"another run: its {name} is 3, not 2; use another"):
        trainer(tmp_path, method, method_options={name: 2}).train(progress=False)


def on_policy_loss(built):
    """Mean −log σ of all pairs of one iteration's texts with different scores."""
    losses = []
    for numbers, texts, scores in built._answers:
        prompts = [built.batches.example(number).text for number in numbers]
        r = built.reward_model(built.encoder.encode(prompts, texts)).tolist()
        for i, one in enumerate(scores):
            losses += [math.log1p(math.exp(r[j] - r[i])) for j, other in enumerate(scores) if one > other]
    return sum(losses) / len(losses)


@pytest.mark.parametrize("preferences", [None, PREFERENCES], ids=["alone", "with preferences"])
def test_iterated_fits_x_to_the_answers_every_m_th_iteration(tmp_path, preferences):
    built = trainer(
        tmp_path,
        IteratedRLHFTrainer,
        prompts=PROMPTS,
        preferences=preferences,
        per_device_train_batch_size=8,
        method_options={"refit_every": 2, "num_fit_steps": 30},
        **STEPS,
    )
    start = built.reward_model.table.detach().clone()
    tables = moves_of_x(built, 5)
    has_moved = [not torch.equal(one, other) for one, other in itertools.pairwise(tables)]
    assert has_moved == [False, True, False, True, False]
    after = on_policy_loss(built)
    with torch.no_grad():
        built.reward_model.table.copy_(start)
    assert after < on_policy_loss(built) - 0.05
    assert len(built._answers) == 5
    assert all(len(texts) == len(numbers) == len(scores) == 8 for numbers, texts, scores in built._answers)


def test_iterated_knows_prompts_texts_and_scores_of_what_it_asked(tmp_path):
    asked = []

    def ask(inputs, rewards, seed):
        asked.append(inputs)
        return HumanScore(score)(inputs, rewards, seed)

    built = trainer(
        tmp_path, IteratedRLHFTrainer, upper_objective=ask, prompts=PROMPTS, gradient_accumulation_steps=2, max_steps=2
    )
    built.train(progress=False)
    prompts = [
        tuple(ids[mask].tolist())
        for inputs in asked
        for ids, mask in zip(inputs.completions.prompts.ids, inputs.completions.prompts.mask, strict=True)
    ]
    texts = [text for inputs in asked for text in inputs.texts]
    kept = [list(column) for column in zip(*built._answers, strict=True)]
    flat = [[entry for part in column for entry in part] for column in kept]
    assert [tuple(built.encoder.prompt_ids(built.batches.example(number).text)) for number in flat[0]] == prompts
    assert flat[1] == texts
    assert flat[2] == pytest.approx(score(texts))
    assert len(texts) == 16


def test_iterated_counts_an_answer_as_much_as_a_preference(tmp_path):
    built = trainer(
        tmp_path,
        IteratedRLHFTrainer,
        preferences=PREFERENCES,
        optimizer="sgd",
        max_grad_norm=None,
        offset=1e9,
        prior_precision=0.2,
        method_options={"refit_every": 1, "num_fit_steps": 1},
        **STEPS,
    )
    old, new = moves_of_x(built, 1)
    (numbers, texts, scores), x = built._answers[0], old.clone().requires_grad_()
    prompts = [built.batches.example(number).text for number in numbers]
    r = x[text_number(built.encoder.encode(prompts, texts).completions)]
    pairs = [(i, j) for i, one in enumerate(scores) for j, other in enumerate(scores) if one > other]
    assert pairs
    on_policy = torch.stack([nn.functional.softplus(r[j] - r[i]) for i, j in pairs]).mean()
    gradient = torch.autograd.grad(4 / 7 * on_policy, x)[0]  # four answers, three preferences
    offline = preference_gradient(built, old) / built.args.preference_weight
    torch.testing.assert_close(new, old - 0.03 * (gradient + 3 / 7 * offline + 0.2 * old), rtol=1e-5, atol=1e-7)


def test_iterated_stays_where_it_is_while_all_answers_are_the_same(tmp_path):
    built = trainer(
        tmp_path,
        IteratedRLHFTrainer,
        upper_objective=HumanScore(lambda texts, seed: [0.5] * len(texts)),
        method_options={"refit_every": 1},
    )
    table = built.reward_model.table.detach().clone()
    built.train(progress=False)
    assert torch.equal(built.reward_model.table, table)


@pytest.mark.parametrize(
    ("method", "name"),
    [
        (NestedLoopRLHFTrainer, "num_inner_steps"),
        (IteratedRLHFTrainer, "refit_every"),
        (IteratedRLHFTrainer, "num_fit_steps"),
    ],
)
def test_numbers_of_steps_must_be_positive(tmp_path, method, name):
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        trainer(tmp_path, method, method_options={name: 0})
