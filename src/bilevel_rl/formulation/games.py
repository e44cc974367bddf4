"""Two-player Markov games whose leader commits to a policy of its own, to which the follower answers."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jaxtyping import Array, ArrayLike, Float, Int, PyTree

from bilevel_rl import checks
from bilevel_rl.checks.arrays import flags, numbers, whole_numbers
from bilevel_rl.checks.functions import answer, takes
from bilevel_rl.environments import TabularMDP
from bilevel_rl.environments.kernels import check_distribution, possible_successors
from bilevel_rl.formulation.closures import open_function
from bilevel_rl.formulation.names import Names
from bilevel_rl.formulation.problem import BilevelProblem, unconstrained
from bilevel_rl.formulation.projections import Box
from bilevel_rl.formulation.upper_objectives import OccupancyCost, Regularizer, no_regularizer
from bilevel_rl.formulation.upper_variables import as_arrays


class LeaderPolicy(eqx.Module):
    """π_x(b|s) = softmax(logits(x, s)): what the leader of a `MarkovGame` commits to. `table` and `network` make one.

    Attributes:
        logits: a plain JAX function (x, state) -> B numbers, one for each of the leader's actions.
        initial_x: x_0, any pytree of arrays.
        project: maps any x to the nearest feasible one; the identity by default.

    Raises:
        TypeError: what should be a function is none, or `initial_x` holds no numbers.
        ValueError: `logits` does not return one axis of numbers, or cannot be compiled.

    Example:
        >>> import bilevel_rl as brl
        >>> policy = brl.LeaderPolicy.table(num_states=2, num_actions=3)
        >>> policy(policy.initial_x, 0).round(3).tolist()
        [0.3330000042915344, 0.3330000042915344, 0.3330000042915344]
    """

    logits: Callable[[PyTree, Any], Float[ArrayLike, " B"]]
    initial_x: PyTree[Float[np.ndarray, "..."]]
    project: Callable[[PyTree], PyTree]

    def __init__(
        self,
        logits: Callable[[PyTree, Any], Float[ArrayLike, " B"]],
        initial_x: PyTree[ArrayLike],
        project: Callable[[PyTree], PyTree] = unconstrained,
    ):
        self.logits = open_function(takes("logits", logits, "x", "state"))
        self.initial_x = as_arrays("initial_x", initial_x)
        self.project = checks.function("project", project)
        shape = answer("logits", self.logits, self._example())
        if len(jnp.shape(shape)) != 1:
            raise ValueError(f"logits must return one axis, a number for each action, got shape {jnp.shape(shape)}")

    @classmethod
    def table(
        cls, num_states: int, num_actions: int, *, sees: npt.ArrayLike | None = None, largest: float = float("inf")
    ) -> "LeaderPolicy":
        """x holds a row of B logits for whatever the leader can tell apart; 0, so even chances, at the start.

        Args:
            num_states: S.
            num_actions: B, the leader's.
            sees: shape (S,), the number of the row for each state, from 0; every state has its own by default. Zeros
                are for a leader that sees nothing, and whose chances are the same everywhere.
            largest: |logits| stay below it. Where the best commitment is certain of an action, there is no optimum
                without such a bound.

        Raises:
            TypeError: an argument is of another type.
            ValueError: a number is not positive, or `sees` has another shape or negative numbers.
        """
        num_states = checks.integer("num_states", num_states, at_least=1)
        num_actions = checks.integer("num_actions", num_actions, at_least=1)
        rows = np.arange(num_states) if sees is None else whole_numbers("sees", sees)
        checks.shape("sees", rows, (num_states,))
        bound = checks.number("largest", largest, above=0, allow_infinite=True)
        return cls(
            lambda x, s: jnp.asarray(x)[jnp.asarray(rows)[s]],
            np.zeros((int(rows.max()) + 1, num_actions)),
            Box(-bound, bound) if np.isfinite(bound) else unconstrained,
        )

    @classmethod
    def network(cls, features: npt.ArrayLike, num_actions: int, *, width: int = 16, seed: int = 0) -> "LeaderPolicy":
        """x holds the weights of a network with one hidden layer of tanh; even chances at the start.

        Args:
            features: shape (S, F), what the leader sees of each state.
            num_actions: B, the leader's.
            width: of the hidden layer.
            seed: of the hidden layer's first weights; those of the last are 0.

        Raises:
            TypeError: an argument is of another type.
            ValueError: a number is not positive, or `features` is no table of finite numbers.
        """
        seen = numbers("features", features)
        if seen.ndim != 2:
            raise ValueError(f"features must have shape (S, F), a row for each state, got {seen.shape}")
        num_actions = checks.integer("num_actions", num_actions, at_least=1)
        width = checks.integer("width", width, at_least=1)
        rng = np.random.default_rng(checks.integer("seed", seed, at_least=0))
        x = {
            "hidden": rng.normal(size=(seen.shape[1], width)) / np.sqrt(seen.shape[1]),
            "hidden_bias": np.zeros(width),
            "last": np.zeros((width, num_actions)),
            "last_bias": np.zeros(num_actions),
        }

        def logits(x: PyTree, s: Any) -> Array:
            hidden = jnp.tanh(jnp.asarray(seen)[s] @ x["hidden"] + x["hidden_bias"])
            return hidden @ x["last"] + x["last_bias"]

        return cls(logits, x)

    def __call__(self, x: PyTree, state: Int[ArrayLike, ""]) -> Float[Array, " B"]:
        """π_x(·|s)."""
        # No softmax: XLA rounds its division in another way on several devices than on one.
        return jnp.exp(jax.nn.log_softmax(jnp.asarray(self.logits(x, state), float)))

    @property
    def num_actions(self) -> int:
        """B."""
        return jnp.shape(answer("logits", self.logits, self._example()))[0]

    def _example(self) -> dict[str, Any]:
        return {"x": jax.tree.map(jnp.asarray, self.initial_x), "state": jnp.int32(0)}


class MarkovGame(eqx.Module):
    """A leader with B actions and a follower with A, who choose at the same time in each of S states.

    The leader commits to a policy π_x(b|s) that the follower knows. What the follower then lives in is an MDP, the game
    with the leader's actions averaged out:

        r_x(s, a) = Σ_b π_x(b|s) r(s, a, b),    c_x(s, a) = Σ_b π_x(b|s) c(s, a, b),
        P_x(s'|s, a) = Σ_b π_x(b|s) P(s'|s, a, b).

    `problem` gives it as a `BilevelProblem`, whose reward, cost and dynamics x moves. Where the follower's entropy
    weight tends to 0, its optimum is the leader's best commitment, a strong Stackelberg equilibrium in stationary
    policies.

    Attributes:
        successors: states that the k-th outcome of (s, a) leads to, whatever the leader does, of shape (S, A, K).
        probabilities: its probability for each of the leader's actions, of shape (S, A, B, K).
        follower_reward: r(s, a, b), of shape (S, A, B).
        leader_cost: c(s, a, b), of shape (S, A, B); lower is better.
        initial: start distribution, of shape (S,).
        terminal: whether a state ends the episode, of shape (S,).
        discount: γ.

    Raises:
        TypeError: an argument is of another type.
        ValueError: shapes disagree, a table holds something else than finite numbers, a distribution is negative or
            does not sum to 1, or `discount` lies outside [0, 1).

    Example:
        >>> import numpy as np, bilevel_rl as brl
        >>> stays = np.ones((1, 2, 2, 1))  # One state: a game of two by two.
        >>> earns, costs = np.array([[[1.0, 0.0], [0.0, 1.0]]]), -np.array([[[2.0, 1.0], [4.0, 3.0]]])
        >>> game = brl.MarkovGame(stays, earns, costs, initial=[1.0], discount=0.5)
        >>> problem = game.problem(brl.LeaderPolicy.table(1, 2))
        >>> round(brl.exact.solve(problem, entropy_weight=(0.1, 0.03, 0.01, 0.003)).objective, 1)  # 3.5 by hand.
        -3.5
    """

    successors: Int[np.ndarray, "S A K"]
    probabilities: Float[np.ndarray, "S A B K"]
    follower_reward: Float[np.ndarray, "S A B"]
    leader_cost: Float[np.ndarray, "S A B"]
    initial: Float[np.ndarray, " S"]
    terminal: np.ndarray
    discount: float = eqx.field(static=True)

    def __init__(
        self,
        transition: npt.ArrayLike,
        follower_reward: npt.ArrayLike,
        leader_cost: npt.ArrayLike,
        *,
        initial: npt.ArrayLike,
        discount: float,
        terminal: npt.ArrayLike | None = None,
    ):
        """Makes one from P[s, a, b, s'] = Pr(s' | s, a, b), of shape (S, A, B, S); terminal rows are overwritten."""
        dense = numbers("transition", transition)
        if dense.ndim != 4 or dense.shape[0] != dense.shape[3]:
            raise ValueError(f"transition must have shape (S, A, B, S), follower's actions first, got {dense.shape}")
        num_states = len(dense)
        self.initial = numbers("initial", initial)
        self.terminal = np.zeros(num_states, bool) if terminal is None else flags("terminal", terminal)
        for name, table in (("initial", self.initial), ("terminal", self.terminal)):
            checks.shape(name, table, (num_states,))
        dense = np.where(self.terminal[:, None, None, None], np.eye(num_states)[:, None, None], dense)
        check_distribution("transition", dense)
        check_distribution("initial", self.initial)
        self.follower_reward, self.leader_cost = (
            np.asarray(checks.shape(name, checks.finite(name, table), dense.shape[:3]), np.float64)
            for name, table in (("follower_reward", follower_reward), ("leader_cost", leader_cost))
        )
        self.discount = checks.number("discount", discount, at_least=0, below=1)
        # The outcomes are those that can happen under any of the leader's actions.
        self.successors = possible_successors(dense.max(axis=2) > 0).astype(np.int32)
        self.probabilities = np.take_along_axis(dense, self.successors[:, :, None], axis=-1)

    @property
    def num_states(self) -> int:
        """S."""
        return self.follower_reward.shape[0]

    @property
    def num_follower_actions(self) -> int:
        """A."""
        return self.follower_reward.shape[1]

    @property
    def num_leader_actions(self) -> int:
        """B."""
        return self.follower_reward.shape[2]

    def problem(
        self,
        policy: LeaderPolicy,
        *,
        regularizer: Regularizer = no_regularizer,
        entropy_weight: float | None = None,
        names: Names = Names(),  # noqa: B008  Frozen.
    ) -> BilevelProblem:
        """Which x makes π_x the commitment that costs the leader least, once the follower has answered it?

        Args:
            policy: π_x and where x starts.
            regularizer: g(x), what the leader pays for x itself; nothing by default.
            entropy_weight: λ of a follower that values entropy itself; None for one that maximizes its reward.
            names: of the follower's states and actions, and of the numbers of x.

        Raises:
            TypeError: an argument is of another type.
            ValueError: `policy` has another number of actions than the leader, or as `BilevelProblem`.
        """
        checks.instance("policy", policy, LeaderPolicy, remedy="LeaderPolicy.table(num_states, num_actions)")
        if policy.num_actions != self.num_leader_actions:
            raise ValueError(
                f"policy must have a logit for each of the leader's {self.num_leader_actions} actions, got "
                f"{policy.num_actions}"
            )

        def averaged(table: Float[np.ndarray, "S A B *K"]) -> Callable[[PyTree, Any, Any], Array]:
            return lambda x, s, a: policy(x, s) @ jnp.asarray(table)[s, a]

        return BilevelProblem(
            environment=self._at_even_chances(),
            reward=averaged(self.follower_reward),
            upper=OccupancyCost(
                averaged(self.leader_cost), regularizer=regularizer, cost_bound=_largest(self.leader_cost)
            ),
            initial_x=policy.initial_x,
            project=policy.project,
            reward_bound=_largest(self.follower_reward),
            entropy_weight=entropy_weight,
            outcome_probabilities=averaged(self.probabilities),
            names=names,
        )

    def commitment(self, policy: LeaderPolicy, x: PyTree) -> Float[np.ndarray, "S B"]:
        """π_x(b|s) of every state, in double precision."""
        checks.instance("policy", policy, LeaderPolicy)
        with jax.enable_x64(True):
            x = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf, np.float64)), x)
            return np.asarray(jax.vmap(lambda s: policy(x, s))(jnp.arange(self.num_states)))

    def _at_even_chances(self) -> TabularMDP:
        return TabularMDP.from_successors(
            self.successors,
            self.probabilities.mean(axis=2),
            initial=self.initial,
            discount=self.discount,
            terminal=self.terminal,
        )


def _largest(table: np.ndarray) -> float:
    """A bound of |table| that is positive."""
    return float(np.abs(table).max()) or 1.0
