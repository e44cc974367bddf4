"""The loop of an environment that lives on the host: the algorithm is compiled, the transitions are pushed in.

An iteration is `SingleLoopActorCritic.step` in three parts: the device decides, Gymnasium steps, the device learns.
Keys and uniforms are those that `loop` gives the first seed of a compiled run.

| of the chains   | here                                                                                          |
|-----------------|-----------------------------------------------------------------------------------------------|
| terminal states | the chain waits for its restart. Its sub-environment starts anew at once, because vector      |
|                 | environments step all or none; what it does until the restart is not looked at                |
| restarts        | with probability 1 − γ, and where truncated: a reset with a seed made of a uniform's bits     |
| coupled chains  | share the seeds of their resets, and so the environments' randomness while both act alike     |
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree, Shaped

from bilevel_rl import checks
from bilevel_rl.algorithms import SingleLoopActorCritic
from bilevel_rl.algorithms.single_loop import SingleLoopInfo, SingleLoopState
from bilevel_rl.algorithms.transitions import Decision, Transitions, Uniforms
from bilevel_rl.environments import HostEnvironment, HostEpisode
from bilevel_rl.runs import fingerprint
from bilevel_rl.runs.compiled import key_of_start, length_of_block
from bilevel_rl.runs.divergence import healthy
from bilevel_rl.runs.interruption import asked


class Progressed(NamedTuple):
    """How far a run has come.

    Attributes:
        state: the last one whose numbers are all finite.
        info_totals: sums of the Infos since they were last cleared.
        is_finite: whether every leaf of the state after that one is.
    """

    state: SingleLoopState
    info_totals: SingleLoopInfo
    is_finite: PyTree[Bool[Array, ""]]


class HostChains:
    """2 B sub-environments as the chains of two followers.

    Args:
        envs: a `gymnasium.vector.VectorEnv`, in the order (follower, chain).
        environment: what the problem says of it.
        num_chains: B.

    Raises:
        TypeError: `envs` are no vector environment.
        ValueError: the number of sub-environments, their spaces or their mode of resets are not what is asked for.
    """

    def __init__(self, envs: Any, environment: HostEnvironment, num_chains: int):
        from gymnasium.vector import AutoresetMode, VectorEnv

        checks.instance("envs", envs, VectorEnv, remedy="make them by gymnasium.make_vec(…)")
        self._envs, self._environment, self._shape = envs, environment, (2, num_chains)
        if envs.num_envs != 2 * num_chains:
            raise ValueError(
                f"envs must be {2 * num_chains} sub-environments, {num_chains} chains of each of two followers; got "
                f"{envs.num_envs}"
            )
        if envs.metadata.get("autoreset_mode") != AutoresetMode.DISABLED:
            raise ValueError(
                "envs must leave resets to the loop: gymnasium.make_vec(…, vectorization_mode='sync', "
                "vector_kwargs={'autoreset_mode': gymnasium.vector.AutoresetMode.DISABLED})"
            )
        given = HostEnvironment.from_vector(envs, discount=environment.discount)
        for name in ("observation", "num_actions", "num_action_dimensions"):
            if getattr(given, name) != getattr(environment, name):
                raise ValueError(
                    f"envs do not fit problem.environment: {name} is {getattr(given, name)}, not "
                    f"{getattr(environment, name)}"
                )

    def start(self, uniforms: Float[np.ndarray, "2 B"]) -> HostEpisode:
        """New episodes everywhere; a uniform makes a seed."""
        observations, _ = self._envs.reset(seed=_seeds(uniforms))
        nowhere = np.zeros(self._shape, bool)
        self._episode, self._has_ended = HostEpisode(self._chains(observations), nowhere, nowhere), nowhere
        return self._episode

    def step(self, actions: Shaped[np.ndarray, "2 B ..."]) -> HostEpisode:
        """Where the actions lead, terminal and truncated states included."""
        before = self._episode
        observations, _, terminated, truncated, _ = self._envs.step(self._acted(actions))
        terminated, truncated = terminated.reshape(self._shape), truncated.reshape(self._shape)
        self._has_ended = terminated | truncated
        waits = before.is_terminal
        self._episode = HostEpisode(
            _pick(waits, before.state, self._chains(observations)), waits | terminated, truncated & ~terminated & ~waits
        )
        return self._episode

    def restart(self, uniforms: Float[np.ndarray, "U 2 B"]) -> HostEpisode:
        """Where the chains go on; the uniforms are those of one transition."""
        after = self._episode
        restarts = (uniforms[2] >= np.asarray(self._environment.discount, uniforms.dtype)) | after.is_truncated
        is_reset = (restarts | self._has_ended).ravel()
        if is_reset.any():
            seeds = _seeds(uniforms[3])
            seeds = [seed if restarts else None for seed, restarts in zip(seeds, restarts.ravel(), strict=True)]
            observations, _ = self._envs.reset(seed=seeds, options={"reset_mask": is_reset})
            nowhere = np.zeros(self._shape, bool)
            self._episode = HostEpisode(
                _pick(restarts, self._chains(observations), after.state), after.is_terminal & ~restarts, nowhere
            )
        return self._episode

    def _chains(self, observations: np.ndarray) -> np.ndarray:
        """The same, with the axes (follower, chain) and the type that is promised."""
        observations = np.asarray(observations, self._environment.observation.dtype)
        return observations.reshape(self._shape + self._environment.observation.shape)

    def _acted(self, actions: np.ndarray) -> np.ndarray:
        """As the environments want them: counted from their first action, or within their bounds."""
        space = self._envs.single_action_space
        actions = actions.reshape(-1, *actions.shape[2:])
        if self._environment.num_actions is not None:
            return actions + space.start
        return np.clip(actions, space.low, space.high).astype(space.dtype)


class HostLoop:
    """An algorithm whose followers live in a vector environment.

    Args:
        algorithm: what runs, in a `HostEnvironment`.
        key: root of all randomness but that which environments draw beyond their seeds.
        envs: a `gymnasium.vector.VectorEnv`.

    Raises:
        ValueError: the problem has another environment, or as `HostChains`.
    """

    def __init__(self, algorithm: SingleLoopActorCritic, key: Array, envs: Any):
        environment = algorithm.problem.environment
        if not isinstance(environment, HostEnvironment):
            raise ValueError(f"problem.environment must be a HostEnvironment, got a {type(environment).__name__}")
        self._algorithm = jax.tree.map(lambda leaf: jnp.asarray(leaf) if eqx.is_array(leaf) else leaf, algorithm)
        self._chains = HostChains(envs, environment, algorithm.followers.num_chains)
        self._key, self._block_length = jax.random.fold_in(key, 0), length_of_block(algorithm)
        self.num_taken = 0
        self._block: tuple[int, np.ndarray] | None = None
        self._decide = jax.jit(self._decided)
        self._learn = jax.jit(self._learned, donate_argnums=0)
        self._draw = jax.jit(lambda key: self._algorithm.draw(key, self._block_length))

    def start(self) -> Progressed:
        """Iteration 0, of new followers in new episodes."""
        key = key_of_start(self._key)
        state = self._algorithm.init(key, self._new_episodes(key))
        return self.cleared(jax.tree.map(jnp.copy, state))  # What a problem starts from stays its own.

    def resumed(self, state: SingleLoopState) -> Progressed:
        """A saved state, in new episodes."""
        key = jax.random.fold_in(key_of_start(self._key), state.num_iterations)
        return self.cleared(jax.tree.map(jnp.array, state)._replace(chain_states=self._new_episodes(key)))

    def cleared(self, state: SingleLoopState) -> Progressed:
        """Nothing added up yet."""
        uniforms = jax.eval_shape(self._draw, self._key)
        uniforms = jax.ShapeDtypeStruct(uniforms.shape[1:], uniforms.dtype)
        _, info = jax.eval_shape(self._iteration, state, uniforms, state.chain_states)
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), info)
        return Progressed(state, zeros, jax.tree.map(lambda _: jnp.array(True), state))

    def advance(self, progressed: Progressed, first: int, last: int) -> Progressed:
        """After iterations first … last−1, or fewer where a stop is asked for, the number of which `num_taken` tells.

        The buffers of `progressed` are given to the result.
        """
        for k in range(first, last):
            if asked() and k > first:
                break
            self.num_taken = k + 1
            uniforms = self._uniforms(k)
            decision = self._decide(progressed.state, uniforms)
            following = self._chains.step(np.asarray(decision.actions))
            going_on = self._chains.restart(np.broadcast_to(uniforms[:4], (4, 2, *uniforms.shape[2:])))
            progressed = self._learn(progressed, uniforms, decision, following, going_on)
        return progressed

    def program(self) -> str:
        """Digest of what an iteration computes, which says nothing of the environments."""
        batch = 2, self._algorithm.followers.num_chains
        seen = self._algorithm.problem.environment.observation
        flags = jax.ShapeDtypeStruct(batch, bool)
        episode = HostEpisode(jax.ShapeDtypeStruct(batch + seen.shape, seen.dtype), flags, flags)
        begun, (state, uniforms) = fingerprint.of_program(
            lambda key, episode: (self._algorithm.init(key, episode), self._algorithm.draw(key, 1)[0]),
            self._key,
            episode,
        )
        return fingerprint.of_texts(begun, fingerprint.of_program(self._iteration, state, uniforms, episode)[0])

    def _iteration(
        self, state: SingleLoopState, uniforms: Array, following: HostEpisode
    ) -> tuple[SingleLoopState, SingleLoopInfo]:
        """An iteration as one program, whose actions lead to episodes that are given."""
        transitions = self._transitions(state, uniforms, self._decided(state, uniforms), following)
        return self._algorithm.step_from(transitions, following, uniforms, state)

    def _learned(
        self,
        progressed: Progressed,
        uniforms: Array,
        decision: Decision,
        following: HostEpisode,
        going_on: HostEpisode,
    ) -> Progressed:
        state, totals, was_finite = progressed
        transitions = self._transitions(state, uniforms, decision, following)
        new, info = self._algorithm.step_from(transitions, going_on, uniforms, state)
        was_fine = _all(was_finite)
        is_finite = jax.tree.map(lambda was, is_: was & (~was_fine | is_), was_finite, healthy(new))
        is_fine = _all(is_finite)
        state = jax.tree.map(lambda new, old: jnp.where(is_fine, new, old), new, state)
        return Progressed(state, jax.tree.map(jnp.add, totals, info), is_finite)

    def _decided(self, state: SingleLoopState, uniforms: Array) -> Decision:
        """The actions of an iteration."""
        followers, environment = self._algorithm.followers, self._algorithm.problem.environment
        return followers.decide(environment, state.parameters, state.chain_states, self._of_one_step(uniforms))

    def _transitions(
        self, state: SingleLoopState, uniforms: Array, decision: Decision, following: HostEpisode
    ) -> Transitions:
        """What an iteration learns from, once it is known where its actions led."""
        followers, environment = self._algorithm.followers, self._algorithm.problem.environment
        return followers.complete(
            environment, state.parameters, state.chain_states, decision, following, self._of_one_step(uniforms)
        )

    def _of_one_step(self, uniforms: Array) -> Uniforms:
        return jax.tree.map(lambda leaf: leaf[0], self._algorithm.followers.uniforms(uniforms))

    def _uniforms(self, k: int) -> Float[np.ndarray, "U D B"]:
        number = k // self._block_length
        if self._block is None or self._block[0] != number:
            self._block = number, np.asarray(self._draw(jax.random.fold_in(self._key, number)))
        return self._block[1][k % self._block_length]

    def _new_episodes(self, key: Array) -> HostEpisode:
        followers = self._algorithm.followers
        uniforms = np.array(jax.random.uniform(key, (2, followers.num_chains)))
        if followers.coupled:
            uniforms[1] = uniforms[0]
        return jax.tree.map(jnp.array, self._chains.start(uniforms))


def _seeds(uniforms: Float[np.ndarray, "2 B"]) -> list[int]:
    """Seeds of as many bits as a uniform has."""
    return (uniforms.ravel().astype(np.float64) * 2**32).astype(np.int64).tolist()


def _pick(which: Bool[np.ndarray, "2 B"], ours: np.ndarray, others: np.ndarray) -> np.ndarray:
    return np.where(which.reshape(which.shape + (1,) * (ours.ndim - which.ndim)), ours, others)


def _all(flags: PyTree[Bool[Array, ""]]) -> Bool[Array, ""]:
    return jnp.all(jnp.stack(jax.tree.leaves(flags)))
