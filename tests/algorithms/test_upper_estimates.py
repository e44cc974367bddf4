"""Estimates of upper objectives that are not means of costs, against their exact means and fixed points."""

import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bilevel_rl import Followers, SingleLoopActorCritic, exact
from bilevel_rl.algorithms import NestedLoop
from bilevel_rl.algorithms.step_sizes import PowerDecay, ScheduleWarning, StepSizes
from bilevel_rl.algorithms.transitions import Transitions
from bilevel_rl.algorithms.upper_estimates import Samples, estimate_upper, num_extra_uniforms
from bilevel_rl.exact.tables import linear_cost
from bilevel_rl.policies import CategoricalLaw
from garnets import UPPERS, random_policy, random_problem, upper_objective

NUM_SAMPLES = 20_000


def samples_of(problem, log_policy, uniforms, states=None, actions=None, visitation=None):
    """As the single loop gives them, of which only the chains' length matters where `states` is None."""
    B = uniforms.shape[1] if states is None else len(states)
    pairs = jnp.zeros((2, B), jnp.int32) if states is None else jnp.stack([states] * 2)
    taken = pairs if actions is None else jnp.stack([actions] * 2)
    floats = jnp.zeros((2, B))
    law = CategoricalLaw(floats[..., None], floats[..., None])
    booleans = jnp.zeros((2, B), bool)
    transitions = Transitions(pairs, taken, pairs, law, floats, floats, floats, booleans, booleans)
    x = jax.tree.map(jnp.asarray, problem.initial_x)
    logits = lambda s: jnp.asarray(log_policy)[s]  # noqa: E731
    return Samples(x, transitions, floats, logits, lambda s: floats, uniforms, visitation, jnp.int32(0))


def exact_slopes(problem, log_policy):
    """∇_x f and ∂f/∂logits at a fixed policy, for objectives that do not depend on d^π."""
    d = jnp.zeros(log_policy.shape)

    def upper(x, logits):
        return problem.upper.value(problem.environment, x, d, jax.nn.log_softmax(logits))

    with jax.enable_x64(True):
        slopes = jax.grad(upper, argnums=(0, 1))(problem.initial_x, jnp.asarray(log_policy))
        return jax.tree.map(np.asarray, slopes)


def into_table(explicit, shape):
    states, slopes = explicit
    return np.asarray(jnp.zeros(shape).at[states].add(slopes))


@pytest.mark.slow
def test_every_demonstration_counts_once():
    problem, log_policy = random_problem(3, upper=upper_objective("policy")), np.log(random_policy(4))
    count = len(problem.upper.states)
    uniforms = (jnp.arange(count) + 0.5)[None] / count
    samples = samples_of(problem, log_policy, uniforms)
    f = estimate_upper(problem.upper, problem, samples)
    of_x, of_logits = exact_slopes(problem, log_policy)
    np.testing.assert_allclose(into_table(f.explicit, (5, 3)), of_logits, atol=1e-6)
    np.testing.assert_allclose(jax.grad(f.objective)(samples.x), of_x, rtol=1e-4, atol=1e-5)
    assert not np.any(f.step_costs)


@pytest.mark.variants(rest="long")
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["one trajectory", "two trajectories"])
def test_scores_of_trajectories_are_unbiased(kind):
    """Means of 400 estimates from 50 tuples each, within four standard errors."""
    problem, log_policy = random_problem(3, upper=upper_objective(kind)), np.log(random_policy(4))

    @eqx.filter_jit
    def estimate(problem, key):
        samples = samples_of(problem, log_policy, jax.random.uniform(key, (num_extra_uniforms(problem.upper), 50)))
        f = estimate_upper(problem.upper, problem, samples)
        states, slopes = f.explicit
        return jax.grad(f.objective)(samples.x), jnp.zeros((5, 3)).at[states].add(slopes)

    estimates = jax.lax.map(lambda key: estimate(problem, key), jax.random.split(jax.random.key(1), 400))
    for values, mean in zip(estimates, exact_slopes(problem, log_policy), strict=True):
        errors = np.std(values, axis=0) / 20 + 1e-7
        assert np.all(np.abs(np.mean(values, axis=0) - mean) < 4 * errors)
        assert np.max(np.abs(mean)) > 10 * np.median(errors)


@pytest.mark.slow
def test_the_occupancy_is_tracked_and_its_slope_is_the_cost():
    problem, policy = random_problem(3, upper=upper_objective("functional")), random_policy(4)
    d = np.asarray(exact.occupancy(problem.environment, jnp.asarray(policy)))
    states, actions = np.divmod(np.random.default_rng(2).choice(15, size=(400, 16), p=d.ravel() / d.sum()), 3)

    def track(visitation, pair):
        samples = samples_of(problem, np.log(policy), jnp.zeros((0, 16)), *pair, visitation)
        f = estimate_upper(problem.upper, problem, samples)
        return f.visitation, f.visitation

    start = jnp.full((5, 3), 1 / 15)
    last, path = jax.lax.scan(track, start, (jnp.asarray(states, jnp.int32), jnp.asarray(actions, jnp.int32)))
    np.testing.assert_allclose(path.sum((1, 2)), 1, atol=1e-5)
    # Geometric weights of independent draws: variance η / (2 − η) d (1 − d) / 16, and (1 − η)^400 of the start is left.
    errors = np.sqrt(0.01 / 1.99 * d * (1 - d) / 16)
    assert np.all(np.abs(last - d) < 4 * errors + 0.99**400 * np.abs(start - d))

    pairs = jnp.asarray(np.divmod(np.arange(15), 3), jnp.int32)
    samples = samples_of(problem, np.log(policy), jnp.zeros((0, 15)), *pairs, jnp.asarray(d))
    f = estimate_upper(problem.upper, problem, samples)
    costs = linear_cost(problem, samples.x, f.visitation, jnp.log(policy))
    np.testing.assert_allclose(f.step_costs.reshape(5, 3), costs, atol=1e-5)


@pytest.mark.variants(rest="long")
@pytest.mark.slow
@pytest.mark.parametrize(("kind", "natural"), [*((kind, False) for kind in UPPERS), ("two trajectories", True)])
def test_the_penalized_policy_is_learned(kind, natural):
    """x stands still; θᴸ must come close to π^L, which is far from the follower's answer."""
    problem = random_problem(3, upper=upper_objective(kind), discount=0.8)
    with warnings.catch_warnings(action="ignore", category=ScheduleWarning):
        step_sizes = StepSizes(
            upper=PowerDecay(0.0, 0.9),
            actor=PowerDecay(0.3 if natural else 1.0, 0.8, 1_000.0),
            critic=PowerDecay(4.0, 0.8, 1_000.0),
            penalty=PowerDecay(0.8, 0.0),
            entropy=PowerDecay(0.4, 0.0),
        )
        algorithm = SingleLoopActorCritic(problem, step_sizes, Followers(64, natural=natural))

    def iterate(state, key):
        return algorithm.step(algorithm.draw(key, 1)[0], state)[0], None

    @jax.jit
    def learn(key):
        return jax.lax.scan(iterate, algorithm.init(key), jax.random.split(key, 20_000))[0]

    state = learn(jax.random.key(0))
    weights = {"entropy_weight": 0.4, "penalty": 0.8}
    lower, penalized = np.exp(np.asarray(algorithm.log_policies(state), np.float64))
    residual = exact.lower_residual(problem, problem.initial_x, penalized, **weights)
    assert residual < 0.02 * exact.lower_residual(problem, problem.initial_x, lower, **weights)
    np.testing.assert_allclose(penalized, exact.penalized_policy(problem, problem.initial_x, **weights), atol=0.02)


def test_trajectories_cost_transitions():
    algorithm = SingleLoopActorCritic(
        random_problem(3, upper=upper_objective("two trajectories")), followers=Followers(8)
    )
    assert algorithm.num_transitions_per_iteration == 8 * (2 + 2 * 2)


def test_methods_that_know_costs_only_refuse_other_objectives():
    with pytest.raises(ValueError, match=r"upper is a PolicyLoss, which NestedLoop does not sample; use SingleLoop"):
        NestedLoop(random_problem(3, upper=upper_objective("policy")))
