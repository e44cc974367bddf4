"""Four Rooms from samples by certainty equivalence: count transitions, then lead on the estimated model.

    python -m benchmarks.four_rooms_counts --entropy-weight 0.003 --beta 1 --seeds 10 --transitions 1e5 1e6

Chains take the action that was tried least often where they are, and start afresh with probability 1 − γ and where an
episode ends. The kernel is estimated by counts, pairs that were never tried are taken to stay, and x is what the
experiment four-rooms finds on the estimate: exact descent, then transfers. F is that of x on the true model.
"""

import argparse
import dataclasses
import time

import jax
import numpy as np
from jaxtyping import Float, Int

import bilevel_rl as brl
from bilevel_rl.environments import TabularMDP
from bilevel_rl.problems import four_rooms_value
from bilevel_rl.problems.four_rooms_transfers import improved_by_transfers
from bilevel_rl.runs import compiler
from bilevel_rl.studies.four_rooms import FourRooms

NUM_CHAINS = 200


def counted(mdp: TabularMDP, num_transitions: int, seed: int) -> Int[np.ndarray, "S A S"]:
    """How often each transition was seen."""
    rng = np.random.default_rng(seed)
    cumulative = np.cumsum(kernel(mdp), axis=-1)
    counts, tried = np.zeros(cumulative.shape, int), np.zeros((mdp.num_states, mdp.num_actions))
    starts = np.flatnonzero(mdp.initial)
    s = rng.choice(starts, NUM_CHAINS)
    for _ in range(num_transitions // NUM_CHAINS):
        a = np.argmin(tried[s] + rng.random((NUM_CHAINS, mdp.num_actions)), axis=1)
        next_s = np.sum(rng.random((NUM_CHAINS, 1)) >= cumulative[s, a][:, :-1], axis=1)
        np.add.at(tried, (s, a), 1)
        np.add.at(counts, (s, a, next_s), 1)
        is_over = mdp.terminal[next_s] | (rng.random(NUM_CHAINS) >= mdp.discount)
        s = np.where(is_over, rng.choice(starts, NUM_CHAINS), next_s)
    return counts


def kernel(mdp: TabularMDP) -> Float[np.ndarray, "S A S"]:
    """P(s'|s, a)."""
    P = np.zeros((mdp.num_states, mdp.num_actions, mdp.num_states))
    shape = (*P.shape[:2], mdp.successors.shape[2])
    s, a, _ = np.indices(shape)
    np.add.at(P, (s, a, np.broadcast_to(mdp.successors, shape)), np.broadcast_to(mdp.probabilities, shape))
    return P


def estimated(problem: brl.BilevelProblem, counts: Int[np.ndarray, "S A S"]) -> brl.BilevelProblem:
    """The problem on the model that the counts suggest."""
    mdp, visits = problem.mdp, counts.sum(-1, keepdims=True)
    stays = np.eye(len(counts))[:, None]
    P = np.where((visits > 0) & ~mdp.terminal[:, None, None], counts / np.maximum(visits, 1), stays)
    environment = TabularMDP.from_dense(P, initial=mdp.initial, discount=mdp.discount, terminal=mdp.terminal)
    return dataclasses.replace(problem, environment=environment)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entropy-weight", type=float, default=0.003)
    parser.add_argument("--beta", type=float, default=1.0)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--transitions", type=float, nargs="+", default=[1e5, 1e6])
    arguments = parser.parse_args()
    compiler.fuse_small_loops(None)
    compiler.cache_compilations()
    study, problem = FourRooms(), brl.problems.four_rooms(arguments.entropy_weight, arguments.beta)
    options = {"progress": False, "evaluation_entropy_weight": arguments.entropy_weight}
    for num_transitions in map(int, arguments.transitions):
        begin, values = time.process_time(), []
        for seed in range(arguments.seeds):
            model = estimated(problem, counted(problem.mdp, num_transitions, seed))
            steps = study.run.num_iterations
            result = brl.run(study.algorithm_of(model), jax.random.key(seed), 1, steps, steps, **options)
            x = improved_by_transfers(model, np.asarray(result.x)[0], max_rounds=study.transfer_rounds)
            values.append(four_rooms_value(problem, np.asarray(x, np.float64)))
        seconds = (time.process_time() - begin) / arguments.seeds
        F = np.array(values)
        print(
            f"{num_transitions} transitions: F {F.mean():.4f} ± {F.std(ddof=1) / len(F) ** 0.5:.4f} (lowest "
            f"{F.min():.4f}, highest {F.max():.4f}), {seconds:.0f} s of processor time a seed",
            flush=True,
        )


if __name__ == "__main__":
    main()
