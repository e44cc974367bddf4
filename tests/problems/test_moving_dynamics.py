"""Continuous dynamics that depend on x: the sampled gradient against the exact one, and what is refused."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bilevel_rl as brl
from bilevel_rl.environments import Episode, PathwiseTransition, ScoreTransition
from bilevel_rl.exact import lqr
from bilevel_rl.policies import linear_quadratic
from bilevel_rl.runs.identity import differences, identity_of
from bilevel_rl.runs.log_points import LogPoints
from linear_systems import GAMMA, TAU, X, random_system
from mean_steps import one_draw, z_scores

W, NUM_CHAINS, NUM_SAMPLES = 0.6, 4_000, 60
SIZES = brl.StepSizes.decaying(upper=1e-3, actor=0.1, critic=0.1, penalty=W, entropy=TAU, offset=1e12)


@pytest.fixture(scope="module")
def system():
    return random_system(independent=True)


@pytest.fixture(scope="module")
def answers(system):
    """π_τ* and π^L with their values."""
    return lqr.lower_policy(system, X, entropy_weight=TAU), lqr.penalized_policy(
        system, X, entropy_weight=TAU, penalty=W
    )


def as_weights(answer):
    """Of the actor and the critic."""
    n = len(answer.values) - 1
    actor = -answer.gain[:, :n], -answer.gain[:, n], np.log(np.diagonal(answer.covariance)) / 2
    return actor, (-answer.values,)


def visited_states(system, answer, rng):
    """Of chains in their stationary law: after as many steps as a restart with probability 1 − γ leaves."""
    n, _ = system.num_dimensions
    with jax.enable_x64(True):
        model = lqr.LinearQuadratic(*map(np.asarray, system.at(jnp.asarray(X))))
    start = rng.normal(size=(NUM_CHAINS, system.initial_factor.shape[1]))
    states = system.initial_mean + start @ system.initial_factor.T
    ages = np.sort(rng.geometric(1 - GAMMA, NUM_CHAINS) - 1)[::-1]
    for t in range(ages[0]):
        going = states[: np.sum(ages > t)]
        actions = -going @ answer.gain[:, :n].T - answer.gain[:, n]
        actions += rng.normal(size=actions.shape) * np.diagonal(answer.covariance) ** 0.5
        z = np.concatenate([going, actions, np.ones((len(going), 1))], axis=1)
        states[: len(going)] = z @ model.transition.T + rng.normal(size=going.shape) @ model.noise.T
    return states


@pytest.fixture(scope="module")
def chains(system, answers):
    """Of both followers, anew for every estimate."""
    rng = np.random.default_rng(5)
    return [np.stack([visited_states(system, answer, rng) for answer in answers]) for _ in range(NUM_SAMPLES)]


def estimates(system, answers, chains, transition):
    """Independent estimates of (U) at the answers, each a mean over chains in their stationary laws."""
    with jax.enable_x64(True):
        problem = system.sampled(transition)
        followers = brl.Followers(NUM_CHAINS, policies=linear_quadratic(problem.environment), coupled=False)
        algorithm = brl.SingleLoopActorCritic(problem, SIZES, followers)
        start = algorithm.init(jax.random.key(0))
        exact = jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(as_weights, answers))
        weights = start.parameters.weights._replace(actor=exact[0], critic=exact[1])
        start = start._replace(parameters=start.parameters._replace(weights=weights))
        step, found = eqx.filter_jit(algorithm.step), []
        for i, states in enumerate(chains):
            episodes = Episode(jnp.asarray(states), jnp.zeros(states.shape[:2], jnp.int32))
            _, info = step(one_draw(algorithm, jax.random.key(i)), start._replace(chain_states=episodes))
            found.append(np.asarray(info.upper_gradient))
    return np.array(found)


@pytest.mark.variants
@pytest.mark.parametrize("transition", ["pathwise", "score"])
def test_the_mean_of_the_upper_step_is_the_first_order_gradient(system, answers, chains, transition):
    found = estimates(system, answers, chains, transition)
    expected = lqr.penalty_gradient(system, X, entropy_weight=TAU, penalty=W)
    assert z_scores(found, expected).max() < 4
    still = system.at(jnp.asarray(X))

    def frozen_at(x):
        return system.at(x)._replace(transition=still.transition, noise=still.noise)

    frozen = eqx.tree_at(lambda problem: problem.at, system, frozen_at)
    without = lqr.penalty_gradient(frozen, X, entropy_weight=TAU, penalty=W)
    assert z_scores(found, without).max() > 6


def walk(transition, **options):
    return brl.FunctionalEnvironment(
        **{
            "initial": lambda key: jax.random.normal(key),
            "transition": transition,
            "observe": lambda s: s[None],
            "discount": GAMMA,
            "num_action_dimensions": 1,
        }
        | options
    )


def next_place(x, s, a, key):
    return s + x * a[0] + 0.1 * jax.random.normal(key)


def log_density(x, s, a, following):
    return -(((following - s - x * a[0]) / 0.1) ** 2) / 2


def problem_of(environment, **options):
    cost = brl.OccupancyCost(lambda x, s, a: (s - 1.0) ** 2)
    return brl.BilevelProblem(environment, lambda x, s, a: -(s**2) - a[0] ** 2, cost, initial_x=0.5, **options)


def test_an_environment_is_stepped_at_an_x():
    moving = walk(PathwiseTransition(next_place))
    start, push, uniforms = moving.reset(jnp.array([0.3, 0.6])), jnp.ones((2, 1)), jnp.array([0.2, 0.9])
    near, far = (moving.at(x).step(start, push, uniforms) for x in (0.5, 2.0))
    np.testing.assert_allclose(far.state - near.state, 1.5, rtol=1e-5)
    assert moving.is_driven
    assert not moving.at(0.5).is_driven
    with pytest.raises(ValueError, match=r"stepped as environment.at\(x\)"):
        moving.step(start, push, uniforms)
    plain = walk(lambda s, a, key: s)
    assert plain.at(0.5) is plain


def density_of(environment):
    """Of a step from 0 to 0.6 and of one from 2 to 2, where the mean step is 0.5."""
    states = Episode(jnp.array([0.0, 2.0]), jnp.zeros(2, jnp.int32))
    return environment.log_density(0.5, states, jnp.ones((2, 1)), states._replace(state=jnp.array([0.6, 2.0])))


def test_a_density_is_nothing_in_the_end():
    transition = ScoreTransition(next_place, log_density)
    np.testing.assert_allclose(density_of(walk(transition, is_end=lambda s: s > 1.0)), [-0.5, 0.0], rtol=1e-4)
    np.testing.assert_allclose(density_of(walk(transition)), [-0.5, -12.5], rtol=1e-4)


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (lambda: PathwiseTransition(lambda s, a, key: s), TypeError, r"next_state must take the arguments \(x, state"),
        (lambda: ScoreTransition(next_place, lambda s: s), TypeError, "log_density must take the arguments"),
        (
            lambda: walk(PathwiseTransition(next_place), is_end=lambda s: s > 1.0),
            ValueError,
            "is_end must be left out beside a PathwiseTransition",
        ),
        (
            lambda: problem_of(walk(PathwiseTransition(lambda x, s, a, key: s[None]))),
            ValueError,
            "transition must keep the structure",
        ),
        (
            lambda: problem_of(walk(ScoreTransition(next_place, lambda x, s, a, following: following[None]))),
            ValueError,
            "log_density must return a scalar",
        ),
        (
            lambda: problem_of(walk(lambda s, a, key: s), outcome_probabilities=lambda x, s, a: jnp.ones(1)),
            ValueError,
            "has a PathwiseTransition or a ScoreTransition",
        ),
        (lambda: density_of(walk(PathwiseTransition(next_place))), TypeError, "must be a ScoreTransition"),
    ],
)
def test_what_cannot_be_is_refused(make, kind, message):
    with pytest.raises(kind, match=message):
        make()


def test_a_density_asks_for_noise_in_all_directions(system):
    def narrow_at(x):
        found = system.at(x)
        return found._replace(noise=found.noise[:, :2])

    narrow = eqx.tree_at(lambda problem: problem.at, system, narrow_at)
    assert narrow.sampled() is not None
    with pytest.raises(ValueError, match=r"noise must have 3 columns .* got 2"):
        narrow.sampled("score")


def test_a_folder_does_not_go_on_with_other_dynamics():
    def noted(transition):
        problem = problem_of(walk(transition))
        followers = brl.Followers(2, policies=linear_quadratic(problem.environment))
        return identity_of(
            brl.SingleLoopActorCritic(problem, SIZES, followers), jax.random.key(0), LogPoints(1), "same"
        )

    def of_next(x, s, a, key):
        return next_place(x, s, a, key) + 0.01

    def of_density(x, s, a, following):
        return 2 * log_density(x, s, a, following)

    first = noted(ScoreTransition(next_place, log_density))
    assert differences(first, noted(ScoreTransition(next_place, log_density))) == []
    for other in (of_next, log_density), (next_place, of_density):
        assert differences(first, noted(ScoreTransition(*other))) == ["its environment is another one"]
