"""Rewards of few named features: their gradient is the features', and the hyper-gradient is that of enumeration."""

import math

import jaxtyping
import numpy as np
import pytest
import torch
from torch import nn

from bilevel_rl.lm import BilevelRLHFConfig, IteratedRLHFTrainer, WeightedRewards, evaluate
from bilevel_rl.lm.data import Example
from bilevel_rl.lm.rewards import RewardInputs, with_features
from bilevel_rl.lm.rows import StepSizeNumbers
from bilevel_rl.runs.folder import RunFolderError
from lm.tiny_models import all_completions, llama, log_probs, token_log_policies, tokenizer
from lm.tiny_trainers import PREFERENCES, score, trainer

W = 0.6
STEPS = StepSizeNumbers(upper=0.5, actor=0.3, critic=0.8, penalty=W, entropy=0.2)


def count(completions):
    """How many b."""
    return [float(text.count("b")) for text in completions]


def length(completion_ids):
    """Tokens, end mark included: another feature than `count`, since a is not shown."""
    return [len(ids) ** 2 / 4 for ids in completion_ids]


def is_short(prompts, completions, **columns):
    return np.array([text in ("", "b") for text in completions]) - 0.3


REWARDS = {"b": count, "length": length, "short": is_short}
START = [0.5, -1.0, 0.8]


def inputs_of(texts, words=None, prompt="", **columns):
    said = (words or tokenizer()).batch_decode(
        [ids[mask].tolist() for ids, mask in zip(texts.ids, texts.mask, strict=True)], skip_special_tokens=True
    )
    examples = tuple(Example(prompt, prompt, columns) for _ in said)
    return RewardInputs([text.strip() for text in said], texts, torch.zeros(len(said), 8), (), examples)


def by_hand(texts):
    """(15, 3), from tokens."""
    rows = [ids[mask].tolist() for ids, mask in zip(texts.ids, texts.mask, strict=True)]
    return torch.tensor([[float(row.count(1)), len(row) ** 2 / 4, (row.count(1) < 2) - 0.3] for row in rows])


def test_the_gradient_is_the_features_and_each_function_is_called_once():
    calls = []

    def counted(completions):
        calls.append(len(completions))
        return count(completions)

    model = WeightedRewards(REWARDS | {"b": counted}, weights=START)
    inputs = with_features(model, inputs_of(all_completions()))
    features = by_hand(inputs.completions)
    torch.testing.assert_close(inputs.features, features)
    jacobian = torch.stack([torch.autograd.grad(r, model.weights, retain_graph=True)[0] for r in model(inputs)])
    torch.testing.assert_close(jacobian, features)
    torch.testing.assert_close(model(inputs).detach(), features @ torch.tensor(START))
    rows = torch.tensor([3, 0, 3])
    torch.testing.assert_close(model(inputs.select(rows)), model(inputs)[rows])
    assert calls == [15]


@pytest.mark.variants(rest="long")
@pytest.mark.parametrize("coupled", [True, False], ids=["coupled", "independent"])
def test_the_gradient_of_the_weights_is_the_hyper_gradient_of_enumeration_in_expectation(tmp_path, coupled):
    built = trainer(
        tmp_path,
        reward_model=REWARDS,
        reward_weights=START,
        per_device_train_batch_size=32,
        coupled=coupled,
        prompts=("",),
    )
    texts = all_completions()
    policies = [
        log_probs(token_log_policies(built.followers, name, texts), texts).exp() for name in ("lower", "penalized")
    ]
    θ, θᴸ = (policy.detach() for policy in policies)
    assert (θ - θᴸ).abs().sum() > 0.2
    exact = (θ - θᴸ) @ by_hand(texts).double() / W  # f has no direct part
    draws = []
    for k in range(25):
        built.steps.optimizers["upper"].zero_grad()
        built._accumulate(k, STEPS)
        draws.append(built.reward_model.weights.grad.double().clone())
    draws = torch.stack(draws)
    errors = draws.std(dim=0) / len(draws) ** 0.5
    assert ((draws.mean(dim=0) - exact).abs() <= 4 * errors).all()
    assert (exact.abs() > 8 * errors).any(), "not more than noise"


class ByHand(nn.Module):
    """The same reward as a module."""

    def __init__(self):
        super().__init__()
        self.weights = nn.Parameter(torch.tensor(START))

    def forward(self, inputs):
        return by_hand(inputs.completions) @ self.weights


@pytest.mark.variants
@pytest.mark.parametrize("method", [None, IteratedRLHFTrainer])
def test_a_run_is_that_of_a_module_with_the_same_features(tmp_path, method):
    options = {"preferences": PREFERENCES, "prompts": ("", "b"), "upper_learning_rate": 0.05}
    if method is not None:
        options |= {"method": method, "method_options": {"refit_every": 2, "num_fit_steps": 3}}
    expected = trainer(tmp_path / "module", reward_model=ByHand(), **options).train(progress=False)
    found = trainer(tmp_path / "list", reward_model=REWARDS, reward_weights=START, **options).train(progress=False)
    np.testing.assert_array_equal(found.x["weights"], expected.x["weights"])
    assert np.abs(found.x["weights"][0] - START).max() > 0.01
    names = [f"lower_reward/{name}" for name in REWARDS] + [f"reward_weight/{name}" for name in REWARDS]
    assert set(found.rows[0]) - set(expected.rows[0]) >= set(names)
    for row, other in zip(found.rows, expected.rows, strict=True):
        assert {name: row[name] for name in other} == other
        weights = [row[f"reward_weight/{name}"] for name in REWARDS]
        assert len(set(weights)) == 3
    assert weights == found.x["weights"][0].tolist()


def test_a_row_says_what_each_function_gave_and_what_it_weighs(tmp_path):
    built = trainer(tmp_path, reward_model=REWARDS, max_steps=1, upper_learning_rate=0.0)
    (row,) = built.train(progress=False).rows
    assert [row[f"reward_weight/{name}"] for name in REWARDS] == [1.0, 1.0, 1.0]
    parts = sum(row[f"lower_reward/{name}"] for name in REWARDS)
    assert row["lower_mean_reward"] == pytest.approx(parts, rel=1e-5)
    assert built.reward_model.named_weights() == {"b": 1.0, "length": 1.0, "short": 1.0}


def test_functions_are_asked_once_for_each_completion_and_each_preference(tmp_path):
    asked = []

    def counted(completions):
        asked.extend(completions)
        return count(completions)

    built = trainer(tmp_path, reward_model=[counted], preferences=PREFERENCES)
    assert sorted(asked) == ["", "b", "b b"]
    built.train(progress=False)
    assert len(asked) == 3 + 3 * 8
    assert evaluate(built, "lower", {}, num_completions=5, seed=0).scores["reward"].shape == (5,)


def test_columns_and_prompts_of_the_data_reach_the_functions(tmp_path):
    seen = []

    def wants(prompts, completions, target, scale=None):
        seen.append((prompts, completions, target, scale))
        return [text.count(letter) for text, letter in zip(completions, target, strict=True)]

    def wants_all(**given):
        seen.append(sorted(given))
        return [0.0] * len(given["completions"])

    rows = [{"prompt": "b", "target": "b", "chosen": "no"}, {"prompt": "b b", "target": "c"}]
    preferences = [row | {"target": "b", "scale": 3.0} for row in PREFERENCES]
    trainer(
        tmp_path, reward_model={"w": wants, "all": wants_all}, prompts=rows, preferences=preferences, max_steps=1
    ).train(progress=False)
    (offline, names, online, _), first = seen, 4
    assert offline[0] == [""] * 3
    assert (offline[2], offline[3]) == (["b"] * 3, [3.0] * 3)
    assert names == ["completion_ids", "completions", "prompts", "scale", "target"]
    assert [dict(zip(["b", "b b"], ["b", "c"], strict=True))[prompt] for prompt in online[0]] == online[2]
    assert online[3] is None
    assert online[0][:first] == online[0][first:], "both policies answer the same prompts"


def test_in_a_conversation_functions_get_messages(tmp_path):
    words, seen = tokenizer(3), []
    words.chat_template = "{% for m in messages %}{{ m.content }} {% endfor %}"

    def role(prompts, completions):
        seen.append((prompts, completions))
        return [float(len(completion[0]["content"])) for completion in completions]

    asked = [{"role": "user", "content": "b"}]
    said = [[{"role": "assistant", "content": text}] for text in ("b b", "b")]
    preferences = [{"prompt": asked, "chosen": said[0], "rejected": said[1]}]
    options = {"words": words, "max_steps": 1, "preferences": preferences}
    options["model"] = lambda: llama(vocab_size=4)
    built = trainer(tmp_path, reward_model=[role], prompts=[{"prompt": asked}], **options)
    built.train(progress=False)
    assert seen[0] == ([asked] * 2, said)
    prompts, completions = seen[1]
    assert prompts == [asked] * 8
    assert all(completion[0]["role"] == "assistant" for completion in completions)


def test_weights_stay_within_their_bounds(tmp_path):
    bounds = {"b": (0.99, 1.01), "short": (-math.inf, 1.0)}
    built = trainer(
        tmp_path, reward_model=REWARDS, reward_bounds=bounds, upper_learning_rate=1.0, optimizer="sgd", max_steps=4
    )
    rows = built.train(progress=False).rows
    b, long, short = ([row[f"reward_weight/{name}"] for row in rows] for name in REWARDS)
    assert {round(weight, 6) for weight in b} <= {0.99, 1.01}
    assert max(short) <= 1.0
    assert max(abs(weight - 1.0) for weight in long) > 0.05
    low = trainer(tmp_path / "low", reward_model=REWARDS, reward_bounds=(-1.0, 0.5))
    assert low.reward_model.weights.tolist() == [0.5] * 3, "the default weight of 1 is out of bounds"


NAMES = "b, length, short"


@pytest.fixture
def _as_for_users():
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.usefixtures("_as_for_users")
@pytest.mark.parametrize(
    ("rewards", "options", "message"),
    [
        ([], {}, "reward_model must hold at least one reward function, got none"),
        ({}, {}, "reward_model must hold at least one"),
        ([count, 3], {}, r"reward_model\[1\] must be a function, got 3"),
        ({"b": "b"}, {}, r"reward_model\['b'\] must be a function, got 'b'"),
        ([count, count], {}, "two rewards are called 'count': give a mapping of different names"),
        ({"a,b": count}, {}, "names must be printable, without commas or quotes, got 'a,b'"),
        ({3: count}, {}, "names must be printable"),
        (REWARDS, {"reward_weights": [1.0]}, rf"reward_weights must be one number for each of {NAMES}, got \[1\.0\]"),
        (REWARDS, {"reward_weights": {"b": 1.0}}, f"reward_weights must name the rewards {NAMES}, got b"),
        (REWARDS, {"reward_weights": [1.0, math.nan, 1.0]}, r"reward_weights\['length'\] must .*, got nan"),
        (REWARDS, {"reward_bounds": (1.0, 0.0)}, "reward_bounds: the lowest value must be below the highest"),
        (REWARDS, {"reward_bounds": {"c": (0.0, 1.0)}}, f"reward_bounds must name the rewards {NAMES}, got c"),
        (REWARDS, {"reward_bounds": {"b": (0.0, math.nan)}}, r"reward_bounds\['b'\] must be .*, got nan"),
        (
            REWARDS,
            {"reward_bounds": (0.0, 1.0), "reward_weights": [0.0, 2.0, 0.0]},
            r"reward_weights\['length'\] must lie in \[0, 1\], got 2\.0",
        ),
        (ByHand(), {"reward_weights": START}, "reward_weights are of several rewards: give reward_model as a list"),
        (
            lambda prompts, completions: [],
            {},
            "reward_model must be a Module, got .*; put a reward function into a",
        ),
        ([lambda prompts, goal: []], {}, r"reward_model\['<lambda>'\] takes 'goal', which row 0 of .* has not"),
    ],
)
def test_rewards_that_cannot_be_are_refused(tmp_path, rewards, options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        trainer(tmp_path, reward_model=rewards, **options)


@pytest.mark.parametrize("given", [[1.0], [1.0] * 9, [1.0] * 7 + [math.nan], [None] * 8, ["1"] * 8, 3.0, "12345678"])
def test_a_function_that_does_not_give_one_number_a_completion_is_refused_by_name(tmp_path, given):
    built = trainer(tmp_path, reward_model={"b": count, "bad": lambda completions: given})
    with pytest.raises(ValueError, match=r"reward_model\['bad'\]: expected 8 finite answers, one each, got"):
        built.train(progress=False)


def twice(completions):
    return [2.0 * number for number in count(completions)]


@pytest.mark.variants
@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"reward_model": {"b": twice}}, "its reward_model is another one"),
        ({"reward_model": {"c": count}}, "its reward_model is another one"),
        ({"reward_weights": [0.5]}, r"its reward_weights is None, not \[0\.5\]"),
        ({"reward_bounds": (0.0, 2.0)}, r"its reward_bounds is None, not \[0\.0, 2\.0\]"),
        ({"prompts": [{"prompt": "", "goal": 2}]}, "its train_dataset is another one"),
    ],
)
def test_a_folder_goes_on_with_the_same_functions_and_columns_only(tmp_path, other, message):
    def goal(goal):
        return [1.0 for _ in goal]

    usual = {"reward_model": {"b": count}, "prompts": [{"prompt": "", "goal": 1}], "max_steps": 1}
    if "goal" in str(other):
        usual |= {"reward_model": {"g": goal}}
    trainer(tmp_path, **usual).train(progress=False)
    trainer(tmp_path, **(usual | {"max_steps": 2})).train(progress=False)
    with pytest.raises(RunFolderError, match=message):
        trainer(tmp_path, **(usual | other)).train(progress=False)


def test_a_stopped_run_goes_on_with_the_same_bits(tmp_path):
    options = {"reward_model": REWARDS, "reward_bounds": {"b": (0.9, 1.1)}, "preferences": PREFERENCES}
    options |= {"checkpoint_every": 0.0, "upper_learning_rate": 0.1}
    whole = trainer(tmp_path / "whole", max_steps=4, **options).train(progress=False)
    for steps in (2, 4):
        found = trainer(tmp_path / "stopped", max_steps=steps, **options).train(progress=False)
    assert found.rows == whole.rows
    assert (tmp_path / "stopped/metrics.csv").read_bytes() == (tmp_path / "whole/metrics.csv").read_bytes()


def test_learned_weights_load_into_a_reward_of_the_same_functions(tmp_path):
    from safetensors.torch import load_file

    built = trainer(tmp_path, reward_model=REWARDS, upper_learning_rate=0.1)
    built.train(progress=False)
    loaded = WeightedRewards(REWARDS)
    loaded.load_state_dict(load_file(tmp_path / "reward.safetensors"))
    assert loaded.named_weights() == built.reward_model.named_weights()
    inputs = inputs_of(all_completions())
    assert torch.equal(loaded(inputs), built.reward_model(inputs))
    assert score(inputs.texts)


def test_options_of_weights_are_json():
    config = BilevelRLHFConfig("folder", reward_weights=(1.0, 2.0), reward_bounds={"b": (0.0, 1.0)})
    assert config.identity()["reward_weights"] == [1.0, 2.0]
    assert config.identity()["reward_bounds"] == {"b": [0.0, 1.0]}
