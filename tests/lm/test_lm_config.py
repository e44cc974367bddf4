"""Options that cannot be are refused by name, with the value."""

import json
import math

import pytest

from bilevel_rl.lm import BilevelRLHFConfig

OUT_OF_RANGE = [
    *[(name, value) for name in ("max_steps", "logging_steps") for value in (0, -3)],
    *[("checkpoint_every", value) for value in (-1.0, math.nan)],
    *[(name, 0) for name in ("per_device_train_batch_size", "gradient_accumulation_steps", "max_completion_length")],
    ("seed", -1),
    ("seed", 2**32),
    *[
        (name, value)
        for name in ("beta", "upper_beta", "preference_weight", "prior_precision")
        for value in (-0.1, math.nan, math.inf)
    ],
    *[(name, value) for name in ("discount", "gae_lambda") for value in (-0.1, 1.1, math.nan)],
    *[(name, value) for name in ("preference_batch_size", "max_grad_norm") for value in (0, -1)],
    ("max_grad_norm", math.nan),
    *[(name, -0.1) for name in ("upper_learning_rate", "learning_rate", "critic_learning_rate")],
    *[(name, math.nan) for name in ("upper_learning_rate", "learning_rate", "critic_learning_rate")],
    *[(name, value) for name in ("penalty", "entropy_weight", "offset") for value in (0.0, -0.1, math.inf)],
]


@pytest.mark.parametrize(("name", "value"), OUT_OF_RANGE)
def test_a_number_out_of_its_range_is_refused_by_name_and_value(name, value):
    with pytest.raises(ValueError, match=rf"^{name} must .*, got {value}$"):
        BilevelRLHFConfig("folder", **{name: value})


def test_without_a_weight_of_its_own_the_entropy_needs_a_positive_beta():
    with pytest.raises(ValueError, match=r"^entropy_weight must be .*, got 0"):
        BilevelRLHFConfig("folder", beta=0.0)
    first = BilevelRLHFConfig("folder", beta=0.0, entropy_weight=0.2).step_sizes()(0)
    assert float(first.entropy) == pytest.approx(0.2)


@pytest.mark.parametrize("name", ["schedule", "reward_gradient", "optimizer", "report_to"])
def test_a_choice_that_there_is_not_is_refused_by_name_and_value(name):
    config = BilevelRLHFConfig("folder")
    object.__setattr__(config, name, "Adam")  # past the check of types, which there is in tests only
    with pytest.raises(ValueError, match=rf"^{name} must be one of .*, got 'Adam'$"):
        config.__post_init__()


def test_the_ends_of_the_ranges_are_allowed():
    least = {"max_steps": 1, "seed": 2**32 - 1, "discount": 0.0, "gae_lambda": 1.0, "learning_rate": 0.0}
    config = BilevelRLHFConfig(
        "folder", beta=0.0, entropy_weight=0.1, preference_weight=0.0, max_grad_norm=None, **least
    )
    assert {name: getattr(config, name) for name in least} == least
    assert float(config.step_sizes()(0).actor) == 0.0
    assert float(config.step_sizes()(0).entropy) == pytest.approx(0.1)


def test_schedules_decay_as_they_say():
    options = {"upper_learning_rate": 0.1, "penalty": 0.4, "beta": 0.3, "offset": 1.0}
    constant, decaying = (
        BilevelRLHFConfig("folder", schedule=schedule, **options).step_sizes()
        for schedule in ("constant-entropy", "decaying")
    )
    assert float(constant(7).upper) == pytest.approx(0.1 * 8 ** (-2 / 3))
    assert float(constant(7).entropy) == pytest.approx(0.3)
    assert float(decaying(7).upper) == pytest.approx(0.1 * 8**-0.9)
    assert float(decaying(7).entropy) == pytest.approx(0.3 * 8**-0.05)
    assert float(decaying(7).penalty) == pytest.approx(0.4 * 8**-0.15)


def test_the_identity_is_json_and_holds_what_decides_the_numbers(tmp_path):
    one = BilevelRLHFConfig(tmp_path / "a", max_steps=5, checkpoint_every=2.0, report_to="tensorboard").identity()
    assert one == json.loads(json.dumps(one)) == BilevelRLHFConfig("b").identity()
    for name, value in {"seed": 1, "penalty": 0.3, "coupled": False, "logging_steps": 2, "bf16": True}.items():
        assert BilevelRLHFConfig("b", **{name: value}).identity() != one, name
