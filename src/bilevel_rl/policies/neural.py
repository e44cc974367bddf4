"""Neural networks as policies: any equinox modules, moved by optax through the vjp of the direction in logit space.

The algorithms ask for directions of the law's parameters (a table's logits) and of values, one of each a sample. Here
the vjp of the networks turns them into gradients of the weights, an optax transformation turns these into steps, and
the step sizes α and β scale the steps. With a linear network on one-hot states and `optax.sgd(1.0)` that is the table's
update exactly.

| part   | maps                                    | moved by                       |
|--------|-----------------------------------------|--------------------------------|
| trunk  | observation → features; may be missing  | both optimizers, α and β       |
| actor  | features → parameters of the law        | `actor_optimizer`, α           |
| critic | features → value                        | `critic_optimizer`, β          |
"""

from collections.abc import Callable
from typing import Any, NamedTuple, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, ArrayLike, Float, PyTree

from bilevel_rl import checks
from bilevel_rl.checks.functions import answer, takes
from bilevel_rl.environments import Episode, HostEpisode, ObservedEnvironment, TabularMDP
from bilevel_rl.formulation.closures import open_function
from bilevel_rl.policies.categorical import Categorical
from bilevel_rl.policies.gaussian import Gaussian
from bilevel_rl.policies.networks import (
    ACTOR_GAIN,
    CRITIC_GAIN,
    HIDDEN_GAIN,
    Parts,
    orthogonal,
    weights_of,
    with_weights,
)
from bilevel_rl.policies.observations import Moments

ADAM = optax.adam(1.0)


class NeuralFollower(NamedTuple):
    """A neural policy and its critic, arrays only.

    Attributes:
        weights: of trunk, actor and critic, each a tuple of arrays (`NeuralActorCritic.networks` gives the modules).
        optimizers: states of the actor's and of the critic's optimizer.
        moments: running mean and variance of the observations; None where they are taken as they are.
    """

    weights: Parts
    optimizers: tuple[PyTree, PyTree]
    moments: Moments | None


class NeuralActorCritic(eqx.Module):
    """A policy and a critic that are networks of what a state looks like.

    Attributes:
        actor: an equinox module from features to the parameters of `law`.
        critic: an equinox module from features to the value, of shape () or (1,).
        law: what the parameters are parameters of: `Categorical` or `Gaussian`.
        observe: what the networks see of a state, an array.
        trunk: an equinox module from observations to features that actor and critic share; None: they see observations.
        actor_optimizer: an optax transformation of the actor's and the trunk's gradients. As with every optax optimizer
            its update, for gradients of what is to be lowered, is added; α_k scales it, so its own learning rate is
            best 1.
        critic_optimizer: likewise for the critic, the trunk and β_k.
        moments: mean and variance by which observations are normalized at first (`Moments.of_shape`); those that the
            follower's chains meet are added. None: observations are taken as they are.
        orthogonal: every run draws the weights of all `eqx.nn.Linear` layers anew, orthogonal and without biases, the
            actor's last layer so small that the policy begins close to its middle. False: all runs begin with the
            weights that are given.

    Raises:
        TypeError: a field is of another type.

    Example:
        >>> import jax, equinox as eqx, bilevel_rl as brl
        >>> problem = brl.problems.goal_position(size=5, target=(3, 1), initial_x=(1, 3))
        >>> policies = brl.NeuralActorCritic.mlp(problem.environment, width=16, depth=1)
        >>> step_sizes = brl.StepSizes.decaying(actor=1e-3, critic=3e-3)
        >>> algorithm = brl.SingleLoopActorCritic(problem, step_sizes, brl.Followers(policies=policies))
        >>> log_policies = algorithm.log_policies(algorithm.init(jax.random.key(0)))
        >>> log_policies.shape, bool(abs(log_policies + jax.numpy.log(5)).max() < 0.02)
        ((2, 25, 5), True)
    """

    actor: eqx.Module
    critic: eqx.Module
    law: Categorical | Gaussian
    observe: Callable[[Any], ArrayLike] = eqx.field(converter=open_function)
    trunk: eqx.Module | None = None
    actor_optimizer: optax.GradientTransformation = eqx.field(static=True, default=ADAM)
    critic_optimizer: optax.GradientTransformation = eqx.field(static=True, default=ADAM)
    moments: Moments | None = None
    orthogonal: bool = eqx.field(static=True, default=True)

    def __check_init__(self):
        for name in ("actor", "critic", *(["trunk"] if self.trunk is not None else [])):
            checks.instance(name, getattr(self, name), eqx.Module)
        checks.instance("law", self.law, Categorical, Gaussian)
        takes("observe", self.observe, "state")
        for name in ("actor_optimizer", "critic_optimizer"):
            remedy = "for instance optax.adam(1.0)"
            checks.instance(name, getattr(self, name), optax.GradientTransformation, remedy=remedy)
        if self.moments is not None:
            checks.instance("moments", self.moments, Moments, remedy="Moments.of_shape(shape), or None")
        checks.flag("orthogonal", self.orthogonal)

    @classmethod
    def mlp(
        cls,
        environment: TabularMDP | ObservedEnvironment,
        observe: Callable[[Any], ArrayLike] | None = None,
        *,
        width: int = 64,
        depth: int = 2,
        shared: bool = False,
        activation: Callable[[Array], Array] = jnp.tanh,
        actor_optimizer: optax.GradientTransformation = ADAM,
        critic_optimizer: optax.GradientTransformation = ADAM,
        normalizes: bool = False,
    ) -> "NeuralActorCritic":
        """Multilayer perceptrons for an environment.

        Args:
            environment: what the follower lives in; its actions decide the law.
            observe: what is seen of a state; by default a table's state as one-hot row, and otherwise what the
                environment says.
            width: of the hidden layers.
            depth: hidden layers.
            shared: actor and critic are linear in the last hidden layer of one network.
            activation: of the hidden layers.
            actor_optimizer: as the attribute.
            critic_optimizer: as the attribute.
            normalizes: observations are normalized by their running mean and variance.

        Raises:
            TypeError: an argument is of another type.
            ValueError: `width` is not positive, `depth` is negative, or the network is shared and has no hidden layer.
        """
        checks.instance("environment", environment, TabularMDP, *get_args(ObservedEnvironment))
        checks.integer("width", width, at_least=1)
        checks.integer("depth", depth, at_least=0)
        for name, value in (("shared", shared), ("normalizes", normalizes)):
            checks.flag(name, value)
        answer("activation", activation, {"features": jax.ShapeDtypeStruct((width,), float)})
        if shared and depth < 1:
            raise ValueError(f"depth must be at least 1 where shared, got {depth}")
        law = _law_of(environment)
        see = _sight_of(environment) if observe is None else takes("observe", observe, "state")

        def flat(state: Any) -> Array:
            return jnp.ravel(jnp.asarray(see(state), float))

        shape = answer("observe", flat, {"state": _example_state(environment)}).shape
        key = jax.random.key(0)  # Weights are drawn anew in every run.
        trunk, features, head_depth = None, shape[0], depth
        if shared:
            trunk = eqx.nn.MLP(features, width, width, depth - 1, activation, activation, key=key)
            features, head_depth = width, 0
        return cls(
            actor=eqx.nn.MLP(features, law.num_parameters, width, head_depth, activation, key=key),
            critic=eqx.nn.MLP(features, "scalar", width, head_depth, activation, key=key),
            law=law,
            observe=flat,
            trunk=trunk,
            actor_optimizer=actor_optimizer,
            critic_optimizer=critic_optimizer,
            moments=Moments.of_shape(shape) if normalizes else None,
        )

    def check(self, environment: TabularMDP | ObservedEnvironment):
        """Raises `ValueError` where the networks do not fit the law, or the law does not fit the environment."""
        if self.law != _law_of(environment):
            raise ValueError(f"policies.law must be {_law_of(environment)} in this environment, got {self.law}")
        features = jax.eval_shape(lambda state: jnp.asarray(self.observe(state), float), _example_state(environment))
        if self.trunk is not None:
            features = _shape_of(self.trunk, features)
        for name, part, accepted in (
            ("actor", self.actor, [(self.law.num_parameters,)]),
            ("critic", self.critic, [(), (1,)]),
        ):
            found = _shape_of(part, features).shape
            if found not in accepted:
                raise ValueError(f"policies.{name} must return shape {accepted[0]}, got {found}")

    def init(self, key: Array) -> NeuralFollower:
        """Weights as they are given, or drawn orthogonally; nothing learned."""
        parts = self._parts
        if self.orthogonal:
            keys = jax.random.split(key, 3)
            gains = HIDDEN_GAIN, ACTOR_GAIN, CRITIC_GAIN
            parts = Parts(*(orthogonal(part, gain, k) for part, gain, k in zip(parts, gains, keys, strict=True)))
        weights = Parts(*(tuple(jnp.asarray(leaf) for leaf in weights_of(part)) for part in parts))
        optimizers = (
            self.actor_optimizer.init((weights.trunk, weights.actor)),
            self.critic_optimizer.init((weights.trunk, weights.critic)),
        )
        return NeuralFollower(weights, optimizers, jax.tree.map(jnp.asarray, self.moments))

    def networks(self, follower: NeuralFollower) -> Parts:
        """The modules of a follower, for use elsewhere; with `moments` they expect normalized observations."""
        return Parts(*(with_weights(part, own) for part, own in zip(self._parts, follower.weights, strict=True)))

    def read(self, follower: NeuralFollower, states: PyTree) -> tuple[Float[Array, "B parameters"], Float[Array, " B"]]:
        """Parameters of the laws (logits) and values of a batch of states."""
        trunk, actor, critic = follower.weights
        observations = self._observations(follower, states)
        return self._parameters((trunk, actor), observations), self._values((trunk, critic), observations)

    def values(self, follower: NeuralFollower, states: PyTree) -> Float[Array, " B"]:
        """Values of a batch of states."""
        trunk, _, critic = follower.weights
        return self._values((trunk, critic), self._observations(follower, states))

    def update(
        self,
        follower: NeuralFollower,
        states: PyTree,
        directions: Float[Array, "B parameters"],
        value_moves: Float[Array, " B"],
        actor_step: Float[Array, ""],
        critic_step: Float[Array, ""],
    ) -> NeuralFollower:
        """One step of both optimizers along the mean over the batch.

        Args:
            follower: what learns.
            states: where the samples were taken.
            directions: in which each sample wants the law's parameters to go.
            value_moves: by how much each sample would have a table move the value of its state, β in it.
            actor_step: α.
            critic_step: β.
        """
        (trunk, actor, critic), (of_actor, of_critic) = follower.weights, follower.optimizers
        observations = self._observations(follower, states)
        _, pull_actor = jax.vjp(lambda own: self._parameters(own, observations), (trunk, actor))
        _, pull_critic = jax.vjp(lambda own: self._values(own, observations), (trunk, critic))
        value_directions = value_moves / jnp.where(critic_step == 0, 1.0, critic_step)
        # Losses go down where directions go up.
        (actor_loss,), (critic_loss,) = (
            pull_actor(-directions / len(value_moves)),
            pull_critic(-value_directions / len(value_moves)),
        )
        actor_update, of_actor = self.actor_optimizer.update(actor_loss, of_actor, (trunk, actor))
        critic_update, of_critic = self.critic_optimizer.update(critic_loss, of_critic, (trunk, critic))
        trunk, actor = _moved((trunk, actor), actor_step, actor_update)
        trunk, critic = _moved((trunk, critic), critic_step, critic_update)
        moments = None if follower.moments is None else follower.moments.after(self._seen(states))
        return NeuralFollower(Parts(trunk, actor, critic), (of_actor, of_critic), moments)

    @property
    def _parts(self) -> Parts:
        return Parts(self.trunk, self.actor, self.critic)

    def _seen(self, states: PyTree) -> Float[Array, "B ..."]:
        states = states.state if isinstance(states, Episode | HostEpisode) else states
        return jax.vmap(lambda state: jnp.asarray(self.observe(state), float))(states)

    def _observations(self, follower: NeuralFollower, states: PyTree) -> Float[Array, "B ..."]:
        seen = self._seen(states)
        return seen if follower.moments is None else follower.moments.normalized(seen)

    def _features(self, weights: tuple, observations: Array) -> Array:
        return observations if self.trunk is None else jax.vmap(with_weights(self.trunk, weights))(observations)

    def _parameters(self, weights: tuple, observations: Array) -> Float[Array, "B parameters"]:
        trunk, actor = weights
        return jax.vmap(with_weights(self.actor, actor))(self._features(trunk, observations))

    def _values(self, weights: tuple, observations: Array) -> Float[Array, " B"]:
        trunk, critic = weights
        values = jax.vmap(with_weights(self.critic, critic))(self._features(trunk, observations))
        return values[:, 0] if values.shape[1:] == (1,) else values


def _law_of(environment: TabularMDP | ObservedEnvironment) -> Categorical | Gaussian:
    if isinstance(environment, ObservedEnvironment) and environment.num_action_dimensions is not None:
        return Gaussian(environment.num_action_dimensions)
    assert environment.num_actions is not None
    return Categorical(environment.num_actions)


def _sight_of(environment: TabularMDP | ObservedEnvironment) -> Callable[[Any], ArrayLike]:
    if isinstance(environment, ObservedEnvironment):
        return environment.observe
    num_states = environment.num_states
    return lambda state: jax.nn.one_hot(state, num_states)


def _example_state(environment: TabularMDP | ObservedEnvironment) -> PyTree[jax.ShapeDtypeStruct]:
    if isinstance(environment, ObservedEnvironment):
        return environment.example_state
    return jax.ShapeDtypeStruct((), jnp.int32)


def _shape_of(part: Any, features: jax.ShapeDtypeStruct) -> Any:
    return jax.eval_shape(lambda features: part(features), features)


def _moved(weights: tuple, step: Array, update: PyTree) -> tuple:
    return jax.tree.map(lambda w, u: w + step * u, weights, update)
