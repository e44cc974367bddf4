"""Networks as policies: how they begin, what they read, and what one step does to them."""

import equinox as eqx
import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bilevel_rl import FunctionalEnvironment, NeuralActorCritic
from bilevel_rl.policies import Categorical, Gaussian, Moments
from bilevel_rl.policies.networks import ACTOR_GAIN, CRITIC_GAIN, HIDDEN_GAIN
from garnets import garnet

MDP = garnet(seed=0)
STATES = jnp.array([3, 0, 4, 3])
POINT = FunctionalEnvironment(
    initial=lambda key: jax.random.normal(key, (3,)),
    transition=lambda s, a, key: s + jnp.sum(a),
    observe=lambda s: s[:2],
    discount=0.9,
    num_action_dimensions=2,
)


def steps(directions, value_moves, actor=0.1, critic=0.2):
    arrays = jnp.asarray(directions, float), jnp.asarray(value_moves, float)
    return *arrays, jnp.float32(actor), jnp.float32(critic)


def random_steps(num_parameters=3, **sizes):
    rng = np.random.default_rng(1)
    return steps(rng.normal(size=(4, num_parameters)), rng.normal(size=4), **sizes)


@pytest.mark.variants(rest="long")
@pytest.mark.slow
@pytest.mark.parametrize("shared", [False, True])
def test_linear_layers_begin_orthogonal_with_the_gains_of_their_place(shared):
    policy = NeuralActorCritic.mlp(MDP, width=6, depth=2, shared=shared)
    follower = policy.init(jax.random.key(0))
    trunk, actor, critic = policy.networks(follower)
    hidden = [*(trunk.layers if shared else ()), *actor.layers[:-1], *critic.layers[:-1]]
    assert len(hidden) == (2 if shared else 4)
    lasts = [(actor.layers[-1], ACTOR_GAIN), (critic.layers[-1], CRITIC_GAIN)]
    for layer, gain in [*((layer, HIDDEN_GAIN) for layer in hidden), *lasts]:
        rows = np.asarray(layer.weight, np.float64)
        rows = rows if rows.shape[0] <= rows.shape[1] else rows.T
        np.testing.assert_allclose(rows @ rows.T, gain**2 * np.eye(len(rows)), atol=1e-5)
        np.testing.assert_array_equal(layer.bias, 0.0)
    logits, values = policy.read(follower, jnp.arange(5))
    np.testing.assert_allclose(jax.nn.softmax(logits), 1 / 3, atol=0.02)
    assert logits.shape == (5, 3)
    assert values.shape == (5,)
    np.testing.assert_array_equal(values, policy.values(follower, jnp.arange(5)))
    assert np.ptp(values) > 0.01  # states are told apart
    again, other = (policy.init(jax.random.key(i)) for i in (0, 1))
    jax.tree.map(np.testing.assert_array_equal, again, follower)
    assert np.any(other.weights.actor[0] != follower.weights.actor[0])


def test_given_weights_are_kept_where_the_start_is_not_orthogonal():
    class Quadratic(eqx.Module):
        slope: jax.Array
        name: str = "any module"

        def __call__(self, features):
            return self.slope @ (features * features)

    actor, critic = Quadratic(jnp.arange(15.0).reshape(3, 5)), Quadratic(jnp.arange(5.0)[None])
    for orthogonal in (False, True):  # it has no linear layer that could be drawn
        policy = NeuralActorCritic(
            actor, critic, Categorical(3), lambda s: 2.0 * jax.nn.one_hot(s, 5), orthogonal=orthogonal
        )
        policy.check(MDP)
        logits, values = policy.read(policy.init(jax.random.key(0)), STATES)
        np.testing.assert_allclose(logits, 4 * np.asarray(actor.slope)[:, STATES].T)
        np.testing.assert_allclose(values, 4 * np.arange(5.0)[np.asarray(STATES)])


@pytest.mark.variants(rest="long")
@pytest.mark.slow
@pytest.mark.parametrize("shared", [False, True])
def test_a_plain_step_is_the_gradient_of_the_mean_of_the_samples_directions(shared):
    plain = optax.sgd(1.0)
    policy = NeuralActorCritic.mlp(MDP, width=6, depth=1, shared=shared, actor_optimizer=plain, critic_optimizer=plain)
    follower = policy.init(jax.random.key(2))
    directions, value_moves, α, β = random_steps()

    def gain(weights):
        logits, values = policy.read(follower._replace(weights=weights), STATES)
        return jnp.mean(jnp.sum(α * directions * logits, axis=1) + value_moves * values)

    learned = policy.update(follower, STATES, directions, value_moves, α, β)
    expected = jax.tree.map(jnp.add, follower.weights, jax.grad(gain)(follower.weights))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), learned.weights, expected)
    assert not np.allclose(learned.weights.actor[0], follower.weights.actor[0], atol=1e-4)
    assert bool(learned.weights.trunk) == shared


def test_adams_first_step_has_the_length_of_the_step_size_and_the_sign_of_the_gradient():
    policy = NeuralActorCritic.mlp(MDP, width=6, depth=1)
    follower = policy.init(jax.random.key(2))
    directions, value_moves, *_ = random_steps()
    learned = policy.update(follower, STATES, *steps(directions, value_moves, actor=0.1, critic=0.02))
    moves = jax.tree.map(lambda new, old: np.asarray(new - old), learned.weights, follower.weights)
    for step, move in ((0.1, moves.actor[-1]), (0.02, moves.critic[-1])):  # the biases of the last layers
        np.testing.assert_allclose(np.abs(move), step, rtol=1e-3)
    np.testing.assert_array_equal(np.sign(moves.actor[-1]), np.sign(directions.sum(0)))
    np.testing.assert_array_equal(np.sign(moves.critic[-1]), np.sign(value_moves.sum()))
    assert [int(state[0].count) for state in learned.optimizers] == [1, 1]


def test_a_critic_step_of_zero_moves_no_critic():
    policy = NeuralActorCritic.mlp(MDP, width=6, depth=1)
    follower = policy.init(jax.random.key(2))
    directions, _, α, _ = random_steps()
    learned = policy.update(follower, STATES, directions, jnp.zeros(4), α, jnp.float32(0.0))
    jax.tree.map(np.testing.assert_array_equal, learned.weights.critic, follower.weights.critic)
    assert np.all(np.isfinite(learned.weights.actor[0]))


@pytest.mark.long
def test_observations_are_normalized_by_the_moments_of_all_that_were_met():
    policy = NeuralActorCritic.mlp(POINT, width=6, depth=1, normalizes=True)
    assert policy.law == Gaussian(2)
    follower, met = policy.init(jax.random.key(0)), [np.zeros(2)]
    for i in range(3):
        episode = POINT.reset(jax.random.uniform(jax.random.key(i), (4,)))
        follower = policy.update(follower, episode, *random_steps(num_parameters=4))
        met.extend(np.asarray(episode.state[:, :2]))
    # One observation of mean 0 and variance 1 comes before them all.
    mean, variance = np.mean(met, axis=0), (np.var(met, axis=0) * len(met) + 1) / len(met)
    np.testing.assert_allclose(follower.moments.mean, mean, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(follower.moments.variance, variance, rtol=1e-4)

    _, actor, _ = policy.networks(follower)
    seen = (np.asarray(episode.state[:, :2]) - mean) / np.sqrt(variance)
    parameters, _ = policy.read(follower, episode)
    np.testing.assert_allclose(parameters, jax.vmap(actor)(jnp.asarray(seen, float)), rtol=1e-3, atol=1e-5)
    far = Moments.of_shape((2,)).normalized(jnp.array([[1e6, -1e6]]))
    np.testing.assert_array_equal(far, [[10.0, -10.0]])


def linear(num_inputs, num_outputs):
    return eqx.nn.Linear(num_inputs, num_outputs, key=jax.random.key(0))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"law": Categorical(2)}, "policies.law must be"),
        ({"law": Gaussian(3)}, "policies.law must be"),
        ({"actor": linear(5, 4)}, r"policies.actor must return shape \(3,\), got \(4,\)"),
        ({"critic": linear(5, 2)}, r"policies.critic must return shape \(\), got \(2,\)"),
    ],
)
def test_networks_that_do_not_fit_are_refused(changes, message):
    fitting = {
        "actor": linear(5, 3),
        "critic": linear(5, 1),
        "law": Categorical(3),
        "observe": lambda s: jax.nn.one_hot(s, 5),
    }
    NeuralActorCritic(**fitting).check(MDP)
    with pytest.raises(ValueError, match=message):
        NeuralActorCritic(**fitting | changes).check(MDP)


def test_a_shared_network_needs_a_hidden_layer():
    with pytest.raises(ValueError, match="depth must be at least 1 where shared, got 0"):
        NeuralActorCritic.mlp(MDP, depth=0, shared=True)


def factorized_shapes(jaxpr):
    """Shapes of all matrices that are factorized, also in loops."""
    shapes = [equation.invars[0].aval.shape for equation in jaxpr.eqns if equation.primitive.name == "qr"]
    for equation in jaxpr.eqns:
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            shapes += factorized_shapes(inner)
    return shapes


@pytest.mark.long
def test_weights_of_seeds_side_by_side_are_drawn_one_after_the_other():
    # Batched factorizations inside of a compiled program can deadlock on two cores (dev/LOG.md).
    policies = NeuralActorCritic.mlp(MDP, width=8)
    keys = jax.random.split(jax.random.key(3), 5)
    shapes = factorized_shapes(jax.make_jaxpr(jax.vmap(policies.init))(keys).jaxpr)
    assert shapes
    assert {len(shape) for shape in shapes} == {2}
    init = jax.jit(lambda key: policies.init(key))
    together, alone = jax.jit(jax.vmap(lambda key: policies.init(key)))(keys), [init(key) for key in keys]
    for leaf, others in zip(jax.tree.leaves(together), zip(*map(jax.tree.leaves, alone), strict=True), strict=True):
        np.testing.assert_array_equal(leaf, np.stack(others))
