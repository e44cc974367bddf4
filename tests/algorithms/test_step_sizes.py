import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bilevel_rl import GeometricDecay, PowerDecay, StepSizes

DECAYING = (0.9, 0.5, 0.5, 0.15, 0.05)
CONSTANT_ENTROPY = (2 / 3, 0.5, 0.5, 1 / 6, 0.0)


def test_power_decay_follows_its_formula():
    decay = PowerDecay(initial=3.0, exponent=0.5, offset=4.0)

    np.testing.assert_allclose(decay(np.array([0, 12, 60])), [3.0, 1.5, 0.75], rtol=1e-6)
    with jax.enable_x64(True):
        np.testing.assert_allclose(decay(7), 3 * (11 / 4) ** -0.5, rtol=1e-15)


def test_offset_defaults_to_the_form_of_the_paper():
    k = np.arange(5)

    np.testing.assert_allclose(PowerDecay(initial=0.7, exponent=0.9)(k), 0.7 / (k + 1) ** 0.9, rtol=1e-6)


def test_exponent_zero_is_constant():
    assert PowerDecay(initial=0.3, exponent=0.0, offset=2.0)(10**6) == np.float32(0.3)


@pytest.mark.parametrize("form", [StepSizes.decaying, StepSizes.constant_entropy])
def test_each_sequence_has_its_own_initial_value_and_exponent(form):
    exponents = (0.1, 0.2, 0.3, 0.4, 0.5)
    initials = {"upper": 2.0, "actor": 3.0, "critic": 5.0, "penalty": 7.0, "entropy": 11.0}

    values = form(**initials, offset=10.0, exponents=exponents)(25)

    expected = [initial * 3.5**-exponent for initial, exponent in zip(initials.values(), exponents, strict=True)]
    assert values._fields == tuple(initials)
    np.testing.assert_allclose(values, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("form", "exponents"), [(StepSizes.decaying, DECAYING), (StepSizes.constant_entropy, CONSTANT_ENTROPY)]
)
def test_default_schedules_are_those_of_the_method_and_valid(form, exponents):
    step_sizes = form()

    assert step_sizes.violations() == []
    assert tuple(float(sequence.exponent) for sequence in vars(step_sizes).values()) == exponents
    assert form(offset=1.0)(np.array([0, 1])).entropy[1] == pytest.approx(0.1 * 2 ** -exponents[-1])


def test_vmap_over_a_grid_of_schedules_equals_the_schedules_one_by_one():
    grid = [
        {"initial": initial, "exponent": exponent, "offset": offset}
        for initial in (0.5, 2.0)
        for exponent in (0.0, 0.9)
        for offset in (1.0, 30.0)
    ]
    stacked = PowerDecay(**{name: np.array([point[name] for point in grid]) for name in grid[0]})

    values = jax.jit(jax.vmap(lambda decay: decay(9)))(stacked)

    np.testing.assert_allclose(
        values, [point["initial"] * (1 + 9 / point["offset"]) ** -point["exponent"] for point in grid], rtol=1e-6
    )


def test_vmap_over_one_field_of_step_sizes():
    step_sizes = eqx.tree_at(lambda sizes: sizes.upper.initial, StepSizes.decaying(offset=1.0), np.array([0.1, 0.4]))
    axes = jax.tree.map(lambda leaf: 0 if np.ndim(leaf) else None, step_sizes)

    values = jax.vmap(lambda sizes, k: sizes(k), in_axes=(axes, None))(step_sizes, 3)

    np.testing.assert_allclose(values.upper, np.array([0.1, 0.4]) * 4**-0.9, rtol=1e-6)
    np.testing.assert_allclose(values.actor, [0.5, 0.5], rtol=1e-6)


def test_a_schedule_can_be_built_and_differentiated_inside_a_transformation():
    def value(exponent):
        return PowerDecay(initial=2.0, exponent=exponent, offset=1.0)(3)

    np.testing.assert_allclose(jax.grad(value)(0.5), -np.log(4.0), rtol=1e-6)


@pytest.mark.parametrize(
    ("exponents", "name"),
    [
        ((1.25, 0.5, 0.5, 0.15, 0.05), "p_upper <= 1"),
        ((0.5, 0.5, 0.5, 0.15, 0.0), "p_upper > p_actor"),
        ((0.9, 0.5, 0.6, 0.15, 0.05), "p_actor >= p_critic"),
        ((0.9, 0.5, 0.15, 0.15, 0.05), "p_critic > p_penalty"),
        ((2 / 3, 0.5, 0.5, 0.0, 0.0), "p_penalty > p_entropy"),
        ((0.9, 0.5, 0.5, 0.15, 0.075), "p_penalty > 2 p_entropy"),
        ((0.9, 0.25, 0.25, 0.125, 0.05), "p_actor > 2 p_penalty"),
        ((0.75, 0.5, 0.5, 0.125, 0.05), "p_upper - p_actor > 2 p_penalty"),
    ],
)
def test_the_one_violated_condition_is_named(exponents, name):
    (violation,) = StepSizes.decaying(exponents=exponents).violations()

    assert violation.startswith(f"{name}: otherwise ")
    assert f"p_upper={np.round(exponents[0], 4)}" in violation


def test_an_actor_faster_than_its_critic_is_named():
    (violation,) = StepSizes.decaying(actor=5.0, critic=4.0).violations()

    assert violation.startswith("actor <= critic at the start")
    assert "actor=5.0, critic=4.0" in violation
    assert StepSizes.decaying(actor=4.0, critic=4.0).violations() == []


def test_two_violated_conditions_are_both_named():
    violations = StepSizes.decaying(exponents=(1.25, 0.5, 0.5, 0.15, 0.1)).violations()

    assert [text.split(":")[0] for text in violations] == ["p_upper <= 1", "p_penalty > 2 p_entropy"]


def test_an_array_of_schedules_violates_where_any_entry_does():
    valid, invalid = (PowerDecay(0.03, np.array([0.9, last])) for last in (1.0, 1.5))

    def with_upper(upper):
        return eqx.tree_at(lambda sizes: sizes.upper, StepSizes.decaying(), upper)

    assert with_upper(valid).violations() == []
    assert [text[:12] for text in with_upper(invalid).violations()] == ["p_upper <= 1"]


@pytest.mark.parametrize(
    ("field", "value", "sign"),
    [
        ("initial", -0.1, "non-negative"),
        ("initial", np.nan, "non-negative"),
        ("initial", np.inf, "non-negative"),
        ("exponent", -0.5, "non-negative"),
        ("exponent", np.array([0.5, np.nan]), "non-negative"),
        ("offset", 0.0, "positive"),
        ("offset", -1.0, "positive"),
        ("offset", np.inf, "positive"),
    ],
)
def test_an_impossible_sequence_is_refused(field, value, sign):
    fields = {"initial": 1.0, "exponent": 0.5, "offset": 1.0, field: value}

    with pytest.raises(ValueError, match=rf"^{field} .* finite and {sign}, got ") as error:
        PowerDecay(**fields)
    assert str(value) in str(error.value)


@pytest.mark.parametrize(("field", "value"), [("initial", 0.0), ("exponent", 2.0)])
def test_zero_is_allowed(field, value):
    decay = PowerDecay(**{"initial": 2.0, "exponent": 0.5, field: 0.0})
    assert float(decay(3)) == value


def test_errors_name_the_sequence():
    with pytest.raises(ValueError, match=r"^step sizes, penalty: initial .*-2\.0"):
        StepSizes.constant_entropy(penalty=-2.0)
    with pytest.raises(ValueError, match=r"^step sizes, entropy: exponent .*-0\.5"):
        StepSizes.decaying(exponents=(0.9, 0.5, 0.5, 0.15, -0.5))
    with pytest.raises(ValueError, match=r"offset .*0\.0"):
        StepSizes.decaying(offset=0.0)


def test_the_number_of_exponents_is_checked():
    with pytest.raises(ValueError, match=r"one number each for .*'entropy'.*got \(0\.5, 0\.5\)"):
        StepSizes._from_initial((1.0,) * 5, (0.5, 0.5), 1.0)


def test_values_follow_the_iteration_inside_a_compiled_loop():
    step_sizes = StepSizes.decaying(offset=1.0)

    _, uppers = jax.lax.scan(lambda k, _: (k + 1, step_sizes(k).upper), jnp.int32(0), length=4)

    np.testing.assert_allclose(uppers, 0.03 * np.arange(1, 5) ** -0.9, rtol=1e-6)


def test_geometric_decay_has_equal_ratios_and_then_stays():
    decay = GeometricDecay(initial=3.0, final=0.003, num_iterations=6)
    np.testing.assert_allclose(decay(np.arange(0, 7, 2)), [3, 0.3, 0.03, 0.003], rtol=1e-5)
    np.testing.assert_allclose(decay(np.array([7, 10**6])), 0.003, rtol=1e-5)
    assert float(decay(1)) == pytest.approx(3 * 10**-0.5, rel=1e-5)


def test_a_grid_of_geometric_decays_runs_under_vmap():
    grid = GeometricDecay(np.array([1.0, 4.0]), np.array([0.25, 0.25]), np.array([2.0, 4.0]))
    np.testing.assert_allclose(jax.vmap(lambda decay: decay(1))(grid), [0.5, 2.0], rtol=1e-6)


def test_an_annealed_entropy_weight_counts_as_constant_in_the_end():
    step_sizes = dataclasses.replace(StepSizes.constant_entropy(), entropy=GeometricDecay(1.0, 0.1, 100))
    assert step_sizes.violations() == []
    assert float(step_sizes(50).entropy) == pytest.approx(10**-0.5, rel=1e-5)


@pytest.mark.parametrize("field", ["initial", "final", "num_iterations"])
@pytest.mark.parametrize("value", [0.0, -1.0, np.inf, np.nan])
def test_an_impossible_geometric_sequence_is_refused(field, value):
    fields = {"initial": 2.0, "final": 1.0, "num_iterations": 3.0}
    with pytest.raises(ValueError, match=rf"^{field} of a geometric sequence must be finite and positive, got {value}"):
        GeometricDecay(**(fields | {field: value}))
