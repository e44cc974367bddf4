"""Transitions a second on CartPole: compiled, on the host, and stable-baselines3's A2C, in turns in one run.

    python -m benchmarks.control_throughput    # the table of docs/reports/networks.md, about five minutes

Besides this library it needs `pip install stable-baselines3 flax`, and with them torch. All learn with the same
networks, two hidden layers of 64 tanh units for the policy and as many for the critic. stable-baselines3 trains one
policy, and takes a gradient step for every 5 transitions of its environments (its defaults, with one thread of PyTorch
and with as many as there are cores); ours train two, and take a step of both, and of x, for every transition of their
chains. Every case has a process of its own on the same cores, and only one of them works at a time.

A chain of ours waits in terminal states for its restart. Only transitions out of other states are counted.
"""

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

REPEATS, SECONDS = 5, 3.0
DISCOUNT, TIME_LIMIT = 0.99, 500

CASES = {
    "stable_baselines3": {8: 40_000, 16: 40_000, 128: 100_000},
    "stable_baselines3_threads": {16: 40_000, 128: 100_000},
    "compiled": {16: 500_000, 64: 2_000_000, 256: 4_000_000},
    "host": {8: 100_000, 16: 200_000, 64: 400_000},
}
"""Of every case and number of environments (chains per policy): transitions before the clock starts."""

PACKAGES = {"stable_baselines3": "stable-baselines3", "torch": "torch", "flax": "flax"}

Advance = Callable[[int], float]
"""Takes a number of iterations and returns the share of their transitions that do not wait in a terminal state."""


def algorithm_in(environment: Any, num_chains: int) -> Any:
    """The follower is paid for a pole that stands near x. The cost of −1 a step tells how much of the time it does."""
    import jax.numpy as jnp

    import bilevel_rl as brl

    problem = brl.BilevelProblem(
        environment,
        reward=lambda x, s, a: 1.0 - 0.1 * (s[0] - x) ** 2,
        upper=brl.OccupancyCost(lambda x, s, a: -1.0, regularizer=lambda x: (x - 0.5) ** 2),
        initial_x=0.0,
        project=lambda x: jnp.clip(x, -1.0, 1.0),
    )
    sizes = brl.StepSizes.decaying(upper=1e-3, actor=1e-3, critic=3e-3)
    policies = brl.NeuralActorCritic.mlp(problem.environment, width=64, depth=2)
    return brl.SingleLoopActorCritic(problem, sizes, brl.Followers(num_chains, policies=policies))


def compiled(num_chains: int) -> tuple[Advance, int]:
    """Gymnasium's functional CartPole; also the transitions of an iteration."""
    import jax
    from gymnasium.envs.phys2d.cartpole import CartPoleFunctional

    import bilevel_rl as brl
    from bilevel_rl.runs.compiled import Layout, Loop

    environment = brl.FunctionalEnvironment.from_func_env(
        CartPoleFunctional(), discount=DISCOUNT, time_limit=TIME_LIMIT
    )
    algorithm = algorithm_in(environment, num_chains)
    loop = Loop(algorithm, jax.random.key(0), Layout.plan(algorithm, 1))
    states, first = loop.start(), 0

    def advance(number: int) -> float:
        nonlocal states, first
        states, info, _ = jax.block_until_ready(loop.advance(states, first, first + number))
        first += number
        return -float(info.mean_cost.mean()) / number

    return advance, algorithm.num_transitions_per_iteration


def host(num_chains: int) -> tuple[Advance, int]:
    """CartPole-v1 in a SyncVectorEnv; also the transitions of an iteration."""
    import gymnasium
    import jax

    import bilevel_rl as brl
    from bilevel_rl.runs.host_loop import HostLoop

    by_hand = {"autoreset_mode": gymnasium.vector.AutoresetMode.DISABLED}
    envs = gymnasium.make_vec("CartPole-v1", 2 * num_chains, vectorization_mode="sync", vector_kwargs=by_hand)
    algorithm = algorithm_in(brl.HostEnvironment.from_vector(envs, discount=DISCOUNT), num_chains)
    loop = HostLoop(algorithm, jax.random.key(0), envs)
    progressed, first = loop.start(), 0

    def advance(number: int) -> float:
        nonlocal progressed, first
        progressed = jax.block_until_ready(loop.advance(loop.cleared(progressed.state), first, first + number))
        first += number
        return -float(progressed.info_totals.mean_cost.mean()) / number

    return advance, algorithm.num_transitions_per_iteration


def stable_baselines3(num_envs: int, num_threads: int = 1) -> tuple[Advance, int]:
    """CartPole-v1 in its own vector environment; also the transitions of an update."""
    import torch
    from stable_baselines3 import A2C  # pyright: ignore[reportMissingImports]
    from stable_baselines3.common.env_util import make_vec_env  # pyright: ignore[reportMissingImports]

    torch.set_num_threads(num_threads)
    model = A2C("MlpPolicy", make_vec_env("CartPole-v1", num_envs), gamma=DISCOUNT, device="cpu", seed=0)

    def advance(number: int) -> float:
        model.learn(number * model.n_steps * num_envs, log_interval=10**9, reset_num_timesteps=False)
        return 1.0

    return advance, model.n_steps * num_envs


def stable_baselines3_threads(num_envs: int) -> tuple[Advance, int]:
    """The same with a thread for every core."""
    return stable_baselines3(num_envs, len(os.sched_getaffinity(0)))


def work(case: str, num_envs: int):
    """What the process of a case does: warm up, and measure whenever it is told to."""
    warnings.simplefilter("ignore")
    cases = (compiled, host, stable_baselines3, stable_baselines3_threads)
    advance, transitions = {function.__name__: function for function in cases}[case](num_envs)
    number = max(2, CASES[case][num_envs] // transitions)
    advance(number)
    begin = time.perf_counter()
    advance(number // 2)
    number = max(1, round(number // 2 * SECONDS / (time.perf_counter() - begin)))
    print("ready", flush=True)
    for _ in sys.stdin:
        begin = time.perf_counter()
        share = advance(number)
        rate = number * transitions / (time.perf_counter() - begin)
        print(json.dumps([share * rate, share]), flush=True)


def start(case: str, num_envs: int, num_cores: int) -> subprocess.Popen:
    """The process of a case, warmed up."""
    command = [sys.executable, "-m", "benchmarks.control_throughput", "--case", case, "--envs", str(num_envs)]
    process = subprocess.Popen(
        [*command, "--cores", str(num_cores)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    if read(process) != "ready":
        raise RuntimeError(f"{case} with {num_envs} environments failed; its errors stand above")
    return process


def read(process: subprocess.Popen) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def measure(process: subprocess.Popen) -> tuple[float, float]:
    """Transitions a second that do not wait, and their share of all."""
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()
    rate, share = json.loads(read(process))
    return rate, share


def main(num_cores: int):
    """Prints the table."""
    missing = [package for module, package in PACKAGES.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise SystemExit(f"this benchmark needs {' and '.join(missing)}: pip install {' '.join(missing)}")
    processes = {(case, size): start(case, size, num_cores) for case, sizes in CASES.items() for size in sizes}
    measured = {key: [] for key in processes}
    for _ in range(REPEATS):
        for key, process in processes.items():
            measured[key].append(measure(process))
    for process in processes.values():
        process.communicate()
    rates = {key: statistics.median(rate for rate, _ in pairs) for key, pairs in measured.items()}
    reference = max(rate for (case, _), rate in rates.items() if "stable_baselines3" in case)
    print(f"{num_cores} cores, medians of {REPEATS} runs of {SECONDS:g} s in turns\n")
    print("| | environments | policies | transitions/s | least … most | not waiting | ÷ stable-baselines3 |")
    print("|---|---|---|---|---|---|---|")
    for (case, size), rate in rates.items():
        policies = 1 if "stable_baselines3" in case else 2
        low, high = (pick(rate for rate, _ in measured[case, size]) for pick in (min, max))
        share = statistics.median(share for _, share in measured[case, size])
        print(
            f"| {case} | {policies} × {size} | {policies} | {rate:,.0f} | {low:,.0f} … {high:,.0f} | {share:.0%} | "
            f"{rate / reference:.2f} |"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cores", type=int, default=os.cpu_count(), help="cores of every case")
    parser.add_argument("--case", choices=list(CASES), help=argparse.SUPPRESS)
    parser.add_argument("--envs", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case is None:
        main(options.cores)
    else:
        os.sched_setaffinity(0, range(options.cores))
        work(options.case, options.envs)
