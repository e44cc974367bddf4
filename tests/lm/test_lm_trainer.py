"""The bi-level trainer: unbiased estimates, equal updates however a batch is made, exact resumption, clear errors."""

import math
import re

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import nn

from bilevel_rl.algorithms.step_sizes import ScheduleWarning
from bilevel_rl.lm import HumanScore, PreferenceLoss, batches
from bilevel_rl.lm.followers import REFERENCE
from bilevel_rl.lm.identity import of_callable
from bilevel_rl.lm.objectives import UpperEstimate
from bilevel_rl.lm.rewards import RewardInputs
from bilevel_rl.lm.rows import StepSizeNumbers
from bilevel_rl.runs.folder import RunFolderError
from lm.tiny_models import all_completions, llama, log_probs, prefix_table, token_log_policies, token_logits, tokenizer
from lm.tiny_trainers import PREFERENCES, Bomb, TextTable, score, text_number, trainer

W = 0.6
STEPS = StepSizeNumbers(upper=0.5, actor=0.3, critic=0.8, penalty=W, entropy=0.2)


def random_numbers(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class FeatureReward(nn.Module):
    """r_x(y) = tanh(φ(y) · x), φ random."""

    def __init__(self):
        super().__init__()
        self.x = nn.Parameter(torch.tensor([0.5, -1.0, 0.3, 0.8]))
        self.features = random_numbers(27, 4, seed=11)

    def forward(self, inputs):
        return torch.tanh(self.features[text_number(inputs.completions)] @ self.x)


class Length:
    """A judge that values words."""

    def __init__(self, worth=1.0):
        self.worth = worth

    def __call__(self, texts):
        return [self.worth * len(text.split()) for text in texts]


class CostWithDirectPart:
    """f = E_π[c(y) + r_x(y)/2], c random."""

    def __init__(self):
        self.costs = random_numbers(27, seed=12)

    def __call__(self, inputs, rewards, seed):
        costs = self.costs[text_number(inputs.completions)] + rewards.detach() / 2
        return UpperEstimate(costs, rewards.mean() / 2, float(costs.mean()), len(costs))


def prefer(first, second, seed=0):
    return [one > other for one, other in zip(score(first), score(second), strict=True)]


def enumerated(built):
    """All texts, r_x of them, and log π of both policies; all differentiable."""
    texts = all_completions()
    inputs = RewardInputs(texts.texts(built.tokenizer), texts, torch.zeros(15, 8))
    policies = {
        name: log_probs(token_log_policies(built.followers, name, texts), texts) for name in built.followers.names
    }
    return inputs, built.reward_model(inputs).double(), policies


def exact_objective(objective, inputs, rewards, π):
    """f(x, π), differentiable."""
    if isinstance(objective, CostWithDirectPart):
        return (π * (objective.costs[text_number(inputs.completions)] + rewards / 2)).sum()
    scores = torch.tensor(score(inputs.texts))
    sign = torch.where(scores[:, None] > scores[None, :], 1.0, -1.0)
    losses = -nn.functional.logsigmoid(sign * (rewards[:, None] - rewards[None, :]))
    return π @ losses.to(π.dtype) @ π


def draws_of_gradients(built, weights, num_iterations):
    """Gradients that `_accumulate` leaves, one row an iteration, while nothing moves."""
    rows = []
    for k in range(num_iterations):
        for optimizer in built.steps.optimizers.values():
            optimizer.zero_grad()
        built._accumulate(k, STEPS)
        rows.append(torch.cat([weight.grad.flatten() for weight in weights]))
    return torch.stack(rows).double()


def assert_unbiased(draws, exact):
    standard_errors = draws.std(dim=0) / len(draws) ** 0.5
    assert ((draws.mean(dim=0) - exact).abs() <= 4 * standard_errors).all()
    assert (exact.abs() > 8 * standard_errors).any(), "not more than noise"


OBJECTIVES = {"direct": CostWithDirectPart, "preferences": lambda: PreferenceLoss(prefer)}


@pytest.mark.variants(rest="long")
@pytest.mark.parametrize("coupled", [True, False], ids=["coupled", "independent"])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_gradient_of_x_is_the_hyper_gradient_in_expectation_and_balance_has_less_noise(
    tmp_path, coupled, objective
):
    variances = {}
    for kind in ("balance", "plain"):
        built = trainer(
            tmp_path / kind,
            reward_model=FeatureReward(),
            upper_objective=OBJECTIVES[objective](),
            per_device_train_batch_size=32,
            reward_gradient=kind,
            coupled=coupled,
        )
        inputs, rewards, policies = enumerated(built)
        θ, θᴸ = (log_policy.detach().exp() for log_policy in policies.values())
        assert (θ - θᴸ).abs().sum() > 0.2
        f = exact_objective(built.upper_objective, inputs, rewards, θᴸ)
        (f + ((θ - θᴸ) * rewards).sum() / W).backward()
        exact = built.reward_model.x.grad.double()
        draws = draws_of_gradients(built, [built.reward_model.x], 25)
        assert_unbiased(draws, exact)
        variances[kind] = float(draws.var(dim=0).sum())
    assert variances["balance"] < variances["plain"]


@pytest.mark.variants(rest="long")
@pytest.mark.parametrize("η", [0.0, 0.7])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_both_policies_follow_their_objectives_gradient_in_expectation(tmp_path, objective, η):
    built = trainer(
        tmp_path,
        model=prefix_table,
        reward_model=FeatureReward(),
        upper_objective=OBJECTIVES[objective](),
        per_device_train_batch_size=32,
        beta=0.4,
        upper_beta=η,
    )
    inputs, rewards, policies = enumerated(built)
    log_reference = token_log_policies(built.followers, REFERENCE, inputs.completions).detach()
    strayed = policies["penalized"] - log_probs(log_reference, inputs.completions)
    f = exact_objective(built.upper_objective, inputs, rewards.detach(), policies["penalized"].exp())
    f = f + η * (policies["penalized"].exp() * strayed).sum()
    J = -W * f
    for name, log_policy in policies.items():
        log_policies = token_log_policies(built.followers, name, inputs.completions)
        R = (log_policies.exp() * (0.4 * log_reference - STEPS.entropy * log_policies)).sum(dim=2)
        learned = rewards.detach() + torch.where(inputs.completions.mask, R, 0.0).sum(dim=1)
        J = J + (log_policy.exp() * learned).sum()
    # Single logits of states that are rarely visited have no normal law; random sums of all of them do.
    deltas = [weight for name in built.policies for weight in built.followers.adapter(name) if weight.requires_grad]
    (-J).backward()
    projection = random_numbers(2 * 39, 6, seed=13).double()
    exact = torch.cat([delta.grad.flatten() for delta in deltas]).double() @ projection
    assert_unbiased(draws_of_gradients(built, deltas, 40) @ projection, exact)


def test_a_preference_losss_direct_part_and_costs_are_exact_in_expectation():
    texts = all_completions()
    inputs = RewardInputs(texts.texts(tokenizer()), texts, torch.zeros(15, 8))
    objective = PreferenceLoss(prefer)
    logits = random_numbers(15, seed=3).double().requires_grad_()
    x = random_numbers(15, seed=4).double().requires_grad_()
    f = exact_objective(objective, inputs, x, torch.softmax(logits, dim=0))
    exact_x, exact_logits = torch.autograd.grad(f, (x, logits))
    π = torch.softmax(logits, dim=0).detach()
    score_function = torch.eye(15).double() - π  # row y is ∇ log π(y)
    expected_x, expected_logits, expected_f = torch.zeros(15).double(), torch.zeros(15).double(), 0.0
    for y in range(15):
        for other in range(15):
            rows = torch.tensor([y, other])
            estimate = objective(inputs.select(rows), x[rows].float(), 0)
            chance = float(π[y] * π[other])
            expected_x += chance * torch.autograd.grad(estimate.direct, x)[0]
            expected_logits += chance * (estimate.costs.double()[:, None] * score_function[rows]).mean(dim=0)
            expected_f += chance * estimate.objective
    torch.testing.assert_close(expected_x, exact_x, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(expected_logits, exact_logits, rtol=1e-5, atol=1e-7)
    assert math.isclose(expected_f, float(f), rel_tol=1e-5)


def test_a_preference_loss_asks_about_neighbouring_rows_with_its_seed():
    asked = []

    def prefer_and_note(first, second, seed):
        asked.append((first, second, seed))
        return [True, False]

    texts = all_completions().select(slice(0, 4))
    rewards = torch.tensor([1.0, 3.0, 0.5, 2.0], requires_grad=True)
    estimate = PreferenceLoss(prefer_and_note)(RewardInputs(list("pqrs"), texts, torch.zeros(4, 8)), rewards, 17)
    assert asked == [(["p", "r"], ["q", "s"], 17)]
    losses = torch.log1p(torch.tensor([2.0, -1.5]).exp())  # first wins with −2; second wins with +1.5
    torch.testing.assert_close(estimate.direct.detach(), losses.mean())
    torch.testing.assert_close(estimate.costs, 2 * losses[[0, 0, 1, 1]])
    assert not estimate.costs.requires_grad
    assert estimate.num_answers == 2
    with pytest.raises(ValueError, match="even batch size, got 3 completions"):
        PreferenceLoss(prefer)(RewardInputs(list("pqr"), texts.select(slice(0, 3)), torch.zeros(3, 8)), rewards[:3], 0)


def tensors_of(built):
    return {name: tensor.clone() for name, tensor in built.tensors().items()}


def train(built):
    rows = built.train(progress=False).rows
    return tensors_of(built), rows


def assert_same_bits(one, other):
    assert one.keys() == other.keys()
    different = [name for name in one if not torch.equal(one[name], other[name])]
    assert not different


def test_two_passes_of_four_rows_make_the_update_of_one_of_eight(tmp_path):
    found = []
    for parts in (1, 2):
        built = trainer(
            tmp_path / str(parts),
            per_device_train_batch_size=8 // parts,
            gradient_accumulation_steps=parts,
            prompts=("", "b", "b a b"),
            preferences=PREFERENCES,
            upper_objective=PreferenceLoss(prefer),
            optimizer="sgd",
            learning_rate=0.3,
            critic_learning_rate=0.5,
            upper_learning_rate=0.2,
        )
        before = tensors_of(built)
        after, rows = train(built)
        found.append((after, rows))
    (whole, rows), (parts, other_rows) = found
    for name, tensor in whole.items():
        torch.testing.assert_close(parts[name], tensor, rtol=1e-4, atol=1e-6)
        if "lora" in name or "critic" in name or name == "reward.table":
            assert (tensor - before[name]).abs().max() > 1e-3, name
    for row, other in zip(rows, other_rows, strict=True):
        assert row == pytest.approx(other, rel=1e-4, abs=1e-6)


def test_how_many_rows_are_learned_from_at_a_time_does_not_matter(tmp_path, monkeypatch):
    found = []
    for number in (16, 3):
        monkeypatch.setattr(batches, "ROWS_PER_PASS", number)
        built = trainer(
            tmp_path / str(number),
            per_device_train_batch_size=5,
            prompts=("", "b a"),
            preferences=PREFERENCES,
            optimizer="sgd",
        )
        found.append(train(built))
    (whole, rows), (parts, other_rows) = found
    for name, tensor in whole.items():
        torch.testing.assert_close(parts[name], tensor, rtol=1e-4, atol=1e-6)
    for row, other in zip(rows, other_rows, strict=True):
        assert row == pytest.approx(other, rel=1e-4, abs=1e-6)


EVERYTHING = {
    "prompts": ("", "b", "b a b"),
    "preferences": PREFERENCES,
    "preference_batch_size": 2,
    "gradient_accumulation_steps": 2,
    "checkpoint_every": 0.0,
    "learning_rate": 0.01,
    "critic_learning_rate": 0.05,
    "upper_learning_rate": 0.02,
}


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_a_run_that_was_stopped_or_killed_in_an_iteration_goes_on_as_if_it_had_not(tmp_path, optimizer):
    options = EVERYTHING | {"optimizer": optimizer}
    whole = trainer(tmp_path / "whole", judges={"j": Bomb()}, max_steps=6, **options)
    expected, rows = train(whole)

    train(trainer(tmp_path / "stopped", judges={"j": Bomb()}, max_steps=3, **options))
    killed = trainer(tmp_path / "killed", judges={"j": Bomb(explodes_at=8)}, max_steps=6, **options)
    with pytest.raises(KeyboardInterrupt):
        killed.train(progress=False)  # in the second pass of the fourth iteration; three iterations are saved
    assert (tmp_path / "killed/metrics.csv").read_text().count("\n") == 4
    for folder in ("stopped", "killed"):
        # Started anew at other numbers, as a new process would.
        resumed = trainer(tmp_path / folder, judges={"j": Bomb()}, max_steps=6, starts_at=0.1, **options)
        found, found_rows = train(resumed)
        assert_same_bits(found, expected)
        assert found_rows == rows
        assert (tmp_path / folder / "metrics.csv").read_bytes() == (tmp_path / "whole/metrics.csv").read_bytes()
        assert sorted(path.name for path in (tmp_path / folder / "checkpoints").iterdir()) == ["5", "6"]
        assert (resumed.num_transitions, resumed.num_answers) == (whole.num_transitions, whole.num_answers)


def test_a_trainer_that_was_interrupted_goes_on_from_its_last_checkpoint(tmp_path):
    expected, rows = train(trainer(tmp_path / "whole", judges={"j": Bomb()}, max_steps=4, **EVERYTHING))
    built = trainer(tmp_path / "interrupted", judges={"j": Bomb(explodes_at=6)}, max_steps=4, **EVERYTHING)
    with pytest.raises(KeyboardInterrupt):
        built.train(progress=False)  # in the second pass of the third iteration
    found, found_rows = train(built)
    assert_same_bits(found, expected)
    assert found_rows == rows


def test_a_trainer_that_was_interrupted_before_it_saved_anything_is_not_gone_on_with(tmp_path):
    built = trainer(tmp_path, judges={"j": Bomb(explodes_at=4)}, gradient_accumulation_steps=2)
    with pytest.raises(KeyboardInterrupt):
        built.train(progress=False)
    with pytest.raises(RuntimeError, match=r"this trainer was interrupted.*build the trainer again"):
        built.train(progress=False)


def test_gradients_that_a_fit_left_do_not_enter_the_first_step(tmp_path):
    found = []
    for left in (None, torch.ones(27)):
        reward_model = TextTable()
        reward_model.table.grad = left
        found.append(train(trainer(tmp_path / str(len(found)), reward_model=reward_model, max_steps=1))[0])
    assert_same_bits(*found)


def test_a_finished_run_is_left_as_it_is(tmp_path):
    expected, _ = train(trainer(tmp_path))
    metrics = (tmp_path / "metrics.csv").read_bytes()
    asked = []

    def ask(texts, seed):
        asked.append(texts)
        return score(texts)

    # Its owner says that these are the same people.
    asks = HumanScore(ask, identity=of_callable(score))
    found, rows = train(trainer(tmp_path, upper_objective=asks, starts_at=0.1))
    assert_same_bits(found, expected)
    assert len(rows) == 3
    assert (tmp_path / "metrics.csv").read_bytes() == metrics
    assert not asked


def test_the_same_seed_gives_the_same_bits_and_another_seed_others(tmp_path):
    runs = {name: trainer(tmp_path / name, seed=seed, **EVERYTHING) for name, seed in [("a", 5), ("b", 5), ("c", 6)]}
    found = {name: train(built) for name, built in runs.items()}
    assert_same_bits(found["a"][0], found["b"][0])
    assert (tmp_path / "a/metrics.csv").read_bytes() == (tmp_path / "b/metrics.csv").read_bytes()
    assert not torch.equal(found["a"][0]["reward.table"], found["c"][0]["reward.table"])
    assert found["a"][1][0]["lower_mean_reward"] != found["c"][1][0]["lower_mean_reward"]


def test_building_and_training_leave_the_callers_random_numbers_alone(tmp_path):
    model = llama()
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    reward_model = TextTable()
    trainer(tmp_path, model=lambda: model, reward_model=reward_model).train(progress=False)
    assert torch.equal(torch.rand(2), expected)


def test_a_folder_with_a_run_of_other_options_is_refused(tmp_path):
    trainer(tmp_path, max_steps=1).train(progress=False)
    with pytest.raises(RunFolderError, match=r"its penalty is 0\.5, not 0\.4; use another"):
        trainer(tmp_path, max_steps=2, penalty=0.4).train(progress=False)
    assert len(trainer(tmp_path, max_steps=2, checkpoint_every=7.0).train(progress=False).rows) == 2, (
        "these do not change numbers"
    )


class OtherReward(TextTable):
    def forward(self, inputs):
        return 2 * super().forward(inputs)


class Bounded(TextTable):
    def __init__(self, bound):
        super().__init__()
        self.bound = bound


def kinder(texts, seed):
    return [answer + 1.0 for answer in score(texts, seed)]


def with_template(text):
    changed = tokenizer()
    changed.chat_template = text
    return changed


@pytest.mark.parametrize(
    ("name", "usual", "other"),
    [
        ("train_dataset", {"prompts": ("", "b")}, {"prompts": ("", "b", "b b")}),
        ("preference_dataset", {"preferences": PREFERENCES}, {"preferences": PREFERENCES[:2]}),
        ("reward_model", {}, {"reward_model": OtherReward()}),
        ("reward_model", {}, {"reward_model": TextTable(seed=1)}),
        ("reward_model", {"reward_model": Bounded(3.5)}, {"reward_model": Bounded(2.0)}),
        ("model", {}, {"model": prefix_table}),
        ("model", {}, {"model": lambda: llama(seed=1)}),
        ("tokenizer", {}, {"words": with_template("{{ messages }}")}),
        ("tokenizer", {}, {"words": tokenizer(end_id=1)}),
        ("upper_objective", {}, {"upper_objective": HumanScore(kinder)}),
        ("judges", {"judges": {"j": Length()}}, {"judges": {"j": Length(2.0)}}),
    ],
)
def test_a_folder_with_a_run_on_other_data_weights_or_answers_is_refused(tmp_path, name, usual, other):
    trainer(tmp_path, max_steps=1, **usual).train(progress=False)
    with pytest.raises(RunFolderError, match=rf"another run: its {name} is another one; use another"):
        trainer(tmp_path, max_steps=2, **(usual | other)).train(progress=False)


def test_people_are_known_by_what_their_owner_says_and_not_asked_for_it(tmp_path):
    def ask(texts, seed):
        asked.append(texts)
        return score(texts)

    asked = []
    named = [HumanScore(ask, identity=name) for name in ("panel of May", "panel of May", "panel of June")]
    assert named[0].identity == named[1].identity != named[2].identity
    assert PreferenceLoss(prefer, identity=1).identity != PreferenceLoss(prefer).identity
    trainer(tmp_path, max_steps=1, upper_objective=named[0]).train(progress=False)
    num_asked = len(asked)
    trainer(tmp_path, max_steps=1, upper_objective=named[1]).train(progress=False)
    with pytest.raises(RunFolderError, match="its upper_objective is another one"):
        trainer(tmp_path, max_steps=1, upper_objective=named[2]).train(progress=False)
    assert len(asked) == num_asked


def test_a_reward_that_is_not_a_number_ends_the_run_at_the_last_finite_state(tmp_path):
    class Spoiled(TextTable):
        calls = 0

        def forward(self, inputs):
            self.calls += 1
            return super().forward(inputs) * (math.nan if self.calls == 3 else 1.0)

    whole, states = trainer(tmp_path / "whole", max_steps=2), []
    whole.train(progress=False)
    built = trainer(tmp_path / "spoiled", reward_model=Spoiled(), checkpoint_every=0.0, max_steps=5)
    with pytest.warns(RuntimeWarning, match=r"seed 0 diverged: .*lower_mean_reward.* is not finite after iteration 2"):
        result = built.train(progress=False)
    (divergence,) = result.divergences
    assert (divergence.seed, divergence.num_iterations) == (0, 2)
    assert "lower_mean_reward" in divergence.quantity
    assert "lower learning_rate" in divergence.likely_cause
    assert len(built.folder.read_rows("metrics")) == len(result.rows) == 2
    assert built.folder.read_divergences()[0]["num_iterations"] == 2
    assert_same_bits(tensors_of(built), tensors_of(whole))
    assert np.isfinite(result.x["table"]).all()
    states.append(tensors_of(built))
    again = trainer(tmp_path / "spoiled", reward_model=Spoiled(), max_steps=5, starts_at=0.1)
    assert again.train(progress=False).divergences == (divergence,), "a run that has diverged is over"
    assert_same_bits(tensors_of(again), states[0])


def test_invalid_step_sizes_are_warned_of(tmp_path):
    with pytest.warns(ScheduleWarning, match="step sizes violate actor <= critic at the start") as caught:
        trainer(tmp_path, learning_rate=0.02, critic_learning_rate=0.01)
    assert sum(warning.category is ScheduleWarning for warning in caught) == 1


@pytest.mark.parametrize(
    ("answers", "got"),
    [([1.0, 2.0], "got [1.0, 2.0]"), ([1.0, math.nan, 0.0, 2.0], "nan"), ([0.0] * 5, "got [0.0, 0.0, 0.0, 0.0, 0.0]")],
)
def test_people_must_give_one_number_for_each_text(tmp_path, answers, got):
    built = trainer(tmp_path, upper_objective=HumanScore(lambda texts, seed: answers))
    with pytest.raises(ValueError, match="upper_objective: expected 4 finite answers, one each") as caught:
        built.train(progress=False)
    assert got in str(caught.value)


def test_people_are_asked_about_the_penalized_policys_texts_with_a_seed_of_the_question(tmp_path):
    asked = []

    def ask(texts, seed):
        asked.append((texts, seed))
        return score(texts)

    written = []

    class Reward(TextTable):
        def forward(self, inputs):
            written.append(inputs.texts[4:])
            return super().forward(inputs)

    built = trainer(tmp_path, upper_objective=HumanScore(ask), reward_model=Reward(), gradient_accumulation_steps=2)
    rows = built.train(progress=False).rows
    assert [texts for texts, _ in asked] == written
    assert len({seed for _, seed in asked}) == len(asked) == 6
    assert [row["num_answers"] for row in rows] == [8, 16, 24]
    means = [np.mean(score(asked[2 * k][0] + asked[2 * k + 1][0])) for k in range(3)]
    assert [row["upper_value"] for row in rows] == pytest.approx([-mean for mean in means], rel=1e-5)


def test_a_method_that_asks_people_needs_an_upper_objective(tmp_path):
    with pytest.raises(ValueError, match="upper_objective is None, but BilevelRLHFTrainer asks people"):
        trainer(tmp_path, upper_objective=None)


def test_no_prompts_are_refused(tmp_path):
    with pytest.raises(ValueError, match="train_dataset must hold at least one text"):
        trainer(tmp_path, prompts=())


def test_every_prompt_comes_once_an_epoch_in_an_order_of_the_epochs_own(tmp_path):
    seen = []

    class Reward(TextTable):
        def forward(self, inputs):
            prompts = inputs.completions.prompts
            lists = [tuple(ids[mask].tolist()) for ids, mask in zip(prompts.ids, prompts.mask, strict=True)]
            assert lists[:2] == lists[2:], "both policies answer the same prompts"
            seen.extend(lists[:2])
            return super().forward(inputs)

    prompts = ("", "b", "b b", "b a", "b b b")
    options = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "max_steps": 5}
    trainer(tmp_path, prompts=prompts, reward_model=Reward(), **options).train(progress=False)
    expected = {(0,), (1,), (1, 1), (1, 0), (1, 1, 1)}
    epochs = [seen[i : i + 5] for i in range(0, 20, 5)]
    assert all(set(epoch) == expected for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_metric_rows_say_what_happened_since_the_last_one(tmp_path):
    seen = []

    class Reward(TextTable):
        def forward(self, inputs):
            rewards = super().forward(inputs)
            seen.append((inputs, rewards.detach()))
            return rewards

    built = trainer(tmp_path, reward_model=Reward(), judges={"j": lambda texts: score(texts)}, logging_steps=2)
    rows = built.train(progress=False).rows
    assert [row["num_iterations"] for row in rows] == [2, 3]
    for row, since, last in ((rows[0], seen[:2], 1), (rows[1], seen[2:], 2)):
        for policy, part in (("lower", slice(0, 4)), ("penalized", slice(4, 8))):
            lengths = [float(inputs.completions.mask[part].sum(dim=1).float().mean()) for inputs, _ in since]
            judged = [np.mean(score(inputs.texts[part])) for inputs, _ in since]
            expected = np.mean([float(rewards[part].mean()) for _, rewards in since])
            assert row[f"{policy}_mean_reward"] == pytest.approx(expected)
            assert row[f"{policy}_mean_length"] == pytest.approx(np.mean(lengths))
            assert row[f"{policy}_judge_j"] == pytest.approx(np.mean(judged))
        ids = [inputs.completions.ids for inputs, _ in since]
        same = [float((i[:4] == i[4:]).all(dim=1).float().mean()) for i in ids]
        assert row["coupling_rate"] == pytest.approx(np.mean(same))
        assert row["num_transitions"] == sum(inputs.completions.num_tokens for inputs, _ in seen[: last + 1])
        assert row["seed"] == 0
        names = ("upper_step", "actor_step", "critic_step", "penalty", "entropy_weight")
        assert [row[name] for name in names] == pytest.approx([float(value) for value in built.args.step_sizes()(last)])
        assert math.isnan(row["preference_loss"])


def test_policies_start_at_the_reference_where_nothing_pulls(tmp_path):
    rows = trainer(tmp_path, starts_at=0, max_steps=1).train(progress=False).rows
    assert rows[0]["lower_mean_divergence"] == rows[0]["penalized_mean_divergence"] == 0.0
    assert rows[0]["coupling_rate"] == 1.0
    assert rows[0]["reward_difference"] == 0.0


def test_equal_policies_write_the_same_only_where_they_are_coupled(tmp_path):
    options = {"starts_at": 0, "max_steps": 1, "per_device_train_batch_size": 32}
    rates = {
        coupled: trainer(tmp_path / str(coupled), coupled=coupled, **options)
        .train(progress=False)
        .rows[0]["coupling_rate"]
        for coupled in (True, False)
    }
    assert rates[True] == 1.0
    assert rates[False] < 0.8


def test_in_bfloat16_only_the_frozen_model_is_coarse(tmp_path):
    built = trainer(tmp_path, bf16=True, starts_at=0)
    frozen = [w for w in built.followers.policies.parameters() if not w.requires_grad]
    assert {w.dtype for w in frozen} == {torch.bfloat16}
    rest = [w for w in [*built.followers.parameters(), *built.reward_model.parameters()] if w.requires_grad]
    assert {w.dtype for w in rest} == {torch.float32}
    rows = built.train(progress=False).rows
    assert rows[0]["lower_mean_divergence"] == 0.0
    assert rows[0]["reward_difference"] == 0.0
    assert all(math.isfinite(value) for name, value in rows[-1].items() if name != "preference_loss")


def test_long_gradients_are_shortened_policy_by_policy_but_not_the_critics(tmp_path):
    built = trainer(tmp_path, optimizer="sgd", max_grad_norm=1.0)
    sizes = {"lower": 10.0, "penalized": 0.1}
    for name, size in sizes.items():
        for weight in built.followers.adapter(name) + built.followers.critic(name):
            weight.grad = torch.full_like(weight, size)
    built.reward_model.table.grad = torch.full_like(built.reward_model.table, 3.0)
    groups = {f"adapter {name}": built.followers.adapter(name) for name in sizes}
    groups |= {f"critic {name}": built.followers.critic(name) for name in sizes}
    groups["x"] = [built.reward_model.table]
    before = {name: [w.detach().clone() for w in group] for name, group in groups.items()}
    lengths = {name: sum(float(w.grad.square().sum()) for w in group) ** 0.5 for name, group in groups.items()}
    returned = {name: built.steps.move(name, 0.5) for name in ("upper", "actor", "critic")}
    moved = {
        name: sum(float((w.detach() - b).square().sum()) for w, b in zip(group, before[name], strict=True)) ** 0.5
        for name, group in groups.items()
    }
    expected = {name: 0.5 * (length if "critic" in name else min(length, 1.0)) for name, length in lengths.items()}
    assert lengths["adapter lower"] > 1 > lengths["critic penalized"]
    assert moved == pytest.approx(expected, rel=1e-4)
    assert returned["upper"] == pytest.approx(lengths["x"])
    assert returned["actor"] == pytest.approx(math.hypot(lengths["adapter lower"], lengths["adapter penalized"]))
    assert all(weight.grad is None for group in groups.values() for weight in group)


@pytest.mark.parametrize("κ", [0.0, 0.2])
def test_preferences_and_prior_pull_x_with_their_weight(tmp_path, κ):
    built = trainer(tmp_path, preferences=PREFERENCES, preference_weight=3.0, prior_precision=κ)
    table = built.reward_model.table
    loss = built._add_preference_gradient(0)
    codes = text_number(built.preferences.inputs.completions)
    expected = torch.zeros(27, requires_grad=True)
    r = (expected + table.detach())[codes]
    chosen, rejected = built.preferences.chosen, built.preferences.rejected
    hand = torch.log1p(torch.exp(r[rejected] - r[chosen])).mean()
    (3.0 * hand).backward()
    torch.testing.assert_close(table.grad, expected.grad + 3.0 * κ * table.detach())
    assert loss == pytest.approx(float(hand.detach()))
    assert table.grad.count_nonzero() == (3 if κ == 0 else 27)


def test_a_batch_of_preferences_is_drawn_anew_every_iteration_with_the_right_mean(tmp_path):
    built = trainer(tmp_path, preferences=PREFERENCES, preference_batch_size=2)
    losses = torch.tensor([built._add_preference_gradient(k) for k in range(400)])
    assert len(set(losses.tolist())) == 6, "two pairs out of three, with replacement"
    exact = float(built.preferences.negative_log_likelihood(built.reward_model).detach())
    assert abs(float(losses.mean()) - exact) <= 4 * float(losses.std()) / 20
    again = trainer(tmp_path, preferences=PREFERENCES, preference_batch_size=2)
    assert [again._add_preference_gradient(k) for k in range(5)] == losses[:5].tolist()


def test_tensorboard_gets_the_metric_rows(tmp_path):
    trainer(tmp_path, report_to="tensorboard", max_steps=2).train(progress=False)
    events = list((tmp_path / "tensorboard").rglob("*tfevents*"))
    assert len(events) == 1
    assert b"lower_mean_reward" in events[0].read_bytes()
    trainer(tmp_path / "without").train(progress=False)
    assert not (tmp_path / "without/tensorboard").exists()


def test_saved_adapters_and_rewards_are_what_the_trainer_holds(tmp_path):
    built = trainer(tmp_path, learning_rate=0.01, critic_learning_rate=0.05)
    built.train(progress=False)
    texts = all_completions()
    with torch.no_grad():
        for name in built.policies:
            loaded = PeftModel.from_pretrained(llama(), tmp_path / "adapters" / name).eval()
            logits = loaded(texts.input_ids).logits[:, :-1]
            expected = token_logits(built.followers, [name] * 15, texts)
            torch.testing.assert_close(logits[texts.mask], expected[texts.mask], rtol=1e-5, atol=1e-5)
    saved = load_file(tmp_path / "reward.safetensors")
    assert torch.equal(saved["table"], built.reward_model.table)


def test_completions_of_a_policy_are_the_same_in_batches_of_any_size(tmp_path, monkeypatch):
    built, texts = trainer(tmp_path, prompts=("", "b")), []
    for size in (20, 3):
        monkeypatch.setattr(batches, "ROWS_WITHOUT_GRADIENTS", size)
        names = (None, "lower", "penalized", REFERENCE)
        texts.append({name: built.complete(20, policy=name, seed=2) for name in names})
        assert built.complete(20, seed=3) != texts[-1][None]
    assert texts[0] == texts[1]
    assert texts[0][None] == texts[0]["lower"]
    assert len({tuple(rows) for rows in texts[0].values()}) == 3
    assert all(len(rows) == 20 for rows in texts[0].values())


@pytest.mark.parametrize("is_terminal", [True, False])
def test_progress_shows_iterations_rewards_and_texts(tmp_path, monkeypatch, capsys, is_terminal):
    for variable in ("FORCE_COLOR", "TTY_COMPATIBLE", "NO_COLOR"):
        monkeypatch.delenv(variable, raising=False)
    if is_terminal:
        monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")
    trainer(tmp_path).train(progress=True)
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capsys.readouterr().err)
    assert ("100%" if is_terminal else "3 of 3 iterations") in shown
    assert "reward" in shown
    assert any(f"  {text}\n" in shown for text in ("b", "b b", "b b b"))
    trainer(tmp_path / "silent").train(progress=False)
    assert capsys.readouterr().err == ""
