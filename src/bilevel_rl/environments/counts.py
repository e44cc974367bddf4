"""How often each state followed each pair, and what that says about a kernel: Dirichlet laws on sparse successors."""

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.optimize import minimize_scalar
from scipy.special import gammaln

from bilevel_rl import checks
from bilevel_rl.checks.arrays import numbers, whole_numbers

Unseen = Literal["stay", "prior", "pessimistic"]
"""What a pair does that was never tried, see `TransitionCounts.kernel`."""

PRIOR_RANGE = 1e-3, 1e3
"""In which `TransitionCounts.fitted_prior` looks."""


@dataclass(frozen=True, eq=False)
class KernelPosterior:
    """Independent Dirichlet laws of the rows P(·|s, a), each on K successors.

    The Dirichlet law is conjugate to counts (Gelman et al., *Bayesian Data Analysis*, section 3.4): with pseudo-counts
    α and counts n, a row's law is Dirichlet(α + n). A row with one positive entry is certain.

    Attributes:
        successors: shape (S, 1, K), which all actions of a state share.
        concentrations: α + n, shape (S, A, K); 0 where an entry only pads.
    """

    successors: Int[np.ndarray, "S 1 K"]
    concentrations: Float[np.ndarray, "S A K"]

    def mean(self) -> Float[np.ndarray, "S A K"]:
        """E[P(s'|s, a)]."""
        return self.concentrations / self.concentrations.sum(-1, keepdims=True)

    def draw(self, rng: np.random.Generator) -> Float[np.ndarray, "S A K"]:
        """One kernel of this law."""
        is_possible = self.concentrations > 0
        shape = np.where(is_possible, self.concentrations, 1.0)
        # Γ(α) as Γ(α+1) U^(1/α), in logarithms: with small α all entries of a row may round to 0 otherwise.
        logs = np.log(rng.standard_gamma(shape + 1)) + np.log1p(-rng.random(shape.shape)) / shape
        logs = np.where(is_possible, logs, -np.inf)
        weights = np.exp(logs - logs.max(-1, keepdims=True))
        return weights / weights.sum(-1, keepdims=True)

    def padded(self, num_successors: int) -> "KernelPosterior":
        """The same laws with K = `num_successors`, entries of probability 0 added."""
        extra = num_successors - self.successors.shape[-1]
        successors = np.pad(self.successors, ((0, 0), (0, 0), (0, extra)), mode="edge")
        return KernelPosterior(successors, np.pad(self.concentrations, ((0, 0), (0, 0), (0, extra))))


@dataclass(frozen=True, eq=False)
class TransitionCounts:
    """n(s, a, s') of the triples that were seen; memory is O(triples).

    Attributes:
        states: s of each distinct triple.
        actions: a of each.
        next_states: s' of each.
        counts: how often each was seen.
        num_states: S.
        num_actions: A.
    """

    states: Int[np.ndarray, " triples"]
    actions: Int[np.ndarray, " triples"]
    next_states: Int[np.ndarray, " triples"]
    counts: Float[np.ndarray, " triples"]
    num_states: int
    num_actions: int

    @classmethod
    def of(
        cls, states: Any, actions: Any, next_states: Any, *, num_states: int, num_actions: int
    ) -> "TransitionCounts":
        """Of transitions, a number each.

        Raises:
            TypeError: `num_states` or `num_actions` is no integer.
            ValueError: an array holds no whole numbers or numbers out of range (the first is named with its row), or
                lengths differ.
        """
        S = checks.integer("num_states", num_states, at_least=1)
        A = checks.integer("num_actions", num_actions, at_least=1)
        columns = []
        for name, values, count in (("states", states, S), ("actions", actions, A), ("next_states", next_states, S)):
            column = whole_numbers(name, values)
            if column.ndim != 1:
                raise ValueError(f"{name} must have one axis, a number for each transition, got shape {column.shape}")
            if np.any(column >= count):
                row = int(np.argmax(column >= count))
                raise ValueError(f"{name} must lie in 0..{count - 1}, got {column[row]} in row {row}")
            columns.append(column)
        if len({len(column) for column in columns}) > 1:
            lengths = ", ".join(str(len(column)) for column in columns)
            raise ValueError(f"states, actions and next_states must be equally many, got {lengths}")
        triples, counts = np.unique(np.stack(columns, axis=1), axis=0, return_counts=True)
        s, a, reached = triples.T
        return cls(s, a, reached, counts.astype(np.float64), S, A)

    def visits(self) -> Float[np.ndarray, "S A"]:
        """n(s, a)."""
        pairs = self.states.astype(np.int64) * self.num_actions + self.actions
        visits = np.bincount(pairs, self.counts, minlength=self.num_states * self.num_actions)
        return visits.reshape(self.num_states, self.num_actions)

    def unseen(self, terminal: Bool[np.ndarray, " S"]) -> Int[np.ndarray, "pairs 2"]:
        """Pairs (s, a) that were never tried, where the episode goes on."""
        return np.argwhere((self.visits() == 0) & ~terminal[:, None])

    def posterior(
        self, terminal: Bool[np.ndarray, " S"], *, prior: float = 0.0, unseen: Unseen = "stay"
    ) -> KernelPosterior:
        """The law of the kernel, given the counts: rows are Dirichlet on the *candidates* of their state.

        The candidates C(s) are the states that were seen to follow s, under whichever action. A row starts as if
        `prior` transitions had been seen, spread evenly over them:

            P(·|s, a) ~ Dirichlet(n(s, a, ·) + prior / |C(s)|)
            E[P(s'|s, a)] = (n(s, a, s') + prior / |C(s)|) / (n(s, a) + prior)

        With 0, the mean is the kernel of maximum likelihood.

        Args:
            terminal: which states end an episode; nothing is unseen there.
            prior: pseudo-counts of a row.
            unseen: what a pair does that was never tried. `"stay"`: it leaves the state as it is. `"prior"`: each
                candidate is as likely; a state that was never left stays. `"pessimistic"`: it leads to an additional
                state S, the *trap*, which is never left. The kernel has S + 1 states then, also where all was seen.

        Raises:
            TypeError: `prior` is no number, or `unseen` no string.
            ValueError: `prior` is negative or not finite, or `unseen` is none of the three.
        """
        prior = checks.number("prior", prior, at_least=0)
        checks.one_of("unseen", unseen, get_args(Unseen))
        S, A = self.num_states, self.num_actions
        sources, targets, edge_of, num_candidates = self._candidates()
        slots = np.arange(len(sources)) - (np.cumsum(num_candidates) - num_candidates)[sources]
        # One more outcome: where pairs go that nobody tried.
        K = int(num_candidates.max()) + 1
        successors = np.repeat(np.arange(S)[:, None], K, axis=1)
        successors[sources, slots] = targets
        is_candidate = np.arange(K) < num_candidates[:, None]
        weights = np.zeros((S, A, K))
        np.add.at(weights, (self.states, self.actions, slots[edge_of]), self.counts)
        is_unseen = weights.sum(-1) == 0
        evenly = (is_candidate / np.maximum(num_candidates, 1)[:, None])[:, None]
        weights += prior * evenly
        if unseen == "prior":
            weights = np.where(is_unseen[..., None], (prior or 1.0) * evenly, weights)
            is_unseen &= num_candidates[:, None] == 0
        weights[is_unseen] = np.eye(K)[-1]
        weights[terminal] = np.eye(K)[0]
        if unseen == "pessimistic":
            successors[~terminal, -1] = S
            successors = np.concatenate([successors, np.full((1, K), S)])
            weights = np.concatenate([weights, np.broadcast_to(np.eye(K)[0], (1, A, K))])
        if not weights[..., -1].any():
            successors, weights = successors[:, :-1], weights[..., :-1]
        return KernelPosterior(successors[:, None], weights)

    def fitted_prior(self) -> float:
        """The `prior` that the counts make likeliest: small where pairs are nearly deterministic.

        Maximizes the likelihood of the Dirichlet-multinomial law, Π_(s,a) Γ(c) / Γ(c + n(s, a)) · Π_s' Γ(n(s, a, s') +
        c/|C|) / Γ(c/|C|), times a standard normal law of log c, which decides where the log is too short to say
        anything: c = 1 without data. (Empirical Bayes; Minka, *Estimating a Dirichlet distribution*, 2000.)
        """
        _, _, _, num_candidates = self._candidates()
        has_choice = num_candidates > 1
        of_pairs = self.visits()[has_choice].ravel()
        is_open = has_choice[self.states]
        counts, sizes = self.counts[is_open], num_candidates[self.states[is_open]]

        def misfit(log_prior: float) -> float:
            c = np.exp(log_prior)
            rows = gammaln(c) - gammaln(c + of_pairs)
            of_triples = gammaln(counts + c / sizes) - gammaln(c / sizes)
            return 0.5 * log_prior**2 - float(rows.sum() + of_triples.sum())

        low, high = np.log(PRIOR_RANGE)
        best = minimize_scalar(misfit, bounds=(low, high), method="bounded").x  # pyright: ignore[reportAttributeAccessIssue]
        return float(np.exp(best))

    def _candidates(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Distinct (s, s') in order: s of each, s' of each, which of them a triple has, and how many a state has."""
        edges, edge_of = np.unique(
            self.states.astype(np.int64) * self.num_states + self.next_states, return_inverse=True
        )
        sources, targets = np.divmod(edges, self.num_states)
        return sources, targets, edge_of, np.bincount(sources, minlength=self.num_states)


def start_law(
    initial: Any, starts: Float[np.ndarray, " S"] | None, terminal: Bool[np.ndarray, " S"], num_states: int
) -> Float[np.ndarray, " states"]:
    """ρ over `num_states` states, of which the last may be a trap: what is given, else as often as episodes started.

    Where no starts are known either, every state is as likely in which the episode goes on.

    Raises:
        ValueError: `initial` is no array of numbers, or all states end the episode.
    """
    if initial is None:
        law = (~terminal).astype(float) if starts is None else starts
        if not law.sum():
            raise ValueError("terminal must leave a state in which an episode can start, got True for all of them")
        law = law / law.sum()
    else:
        law = numbers("initial", initial)
    is_short = law.shape == (len(terminal),)
    return np.pad(law, (0, num_states - len(terminal))) if is_short else law
