"""How fast the loop is: one table, against a numba and a NumPy loop of the same equations in the same run.

    python -m benchmarks.throughput            # the numbers of docs/reports/scaling.md, ten minutes on two idle cores
    python -m benchmarks.throughput --full     # every combination of the axes

Every case runs in a process of its own that is pinned to one core. Times are medians of RUNS runs after one to warm up;
compilation is timed apart. Memory is what XLA reserves for arguments, results and temporaries, as a multiple of the
tables (the followers' and the environment's), beside the growth of the process.
"""

import argparse
import itertools
import json
import os
import resource
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

RUNS = 7
SECONDS_PER_RUN = 0.4
SEEDS, CHAINS, SIZES, PRECISIONS = (1, 8, 64, 512), (1, 16, 256), (10, 100, 1000), ("float32", "float64")
MAX_BYTES = 4e9
"""Cases whose followers' tables take more are left out."""

SHORT = [
    *((seeds, chains, 10, "float32") for seeds in SEEDS for chains in CHAINS),
    *((1, chains, size, "float32") for chains in CHAINS for size in (100, 1000)),
    *((64, 1, size, "float32") for size in (100,)),
    *((seeds, 1, 10, "float64") for seeds in (1, 64)),
]


def median_seconds(advance: Callable[[int, int], Any]) -> tuple[float, int]:
    """Median seconds an iteration, and iterations a run. `advance(first, number)` must wait until it is done."""
    number, first = 1, 0
    while True:
        begin = time.perf_counter()
        advance(first, number)
        seconds, first = time.perf_counter() - begin, first + number
        if seconds > SECONDS_PER_RUN / 4:
            break
        number *= 2
    number = max(1, round(number * SECONDS_PER_RUN / seconds))
    times = []
    for _ in range(RUNS):
        begin = time.perf_counter()
        advance(first, number)
        times.append((time.perf_counter() - begin) / number)
        first += number
    return sorted(times)[RUNS // 2], number


def ours(seeds: int, chains: int, size: int, precision: str, generator: str = "threefry2x32") -> dict[str, float]:
    """The library's loop."""
    import jax

    import bilevel_rl as brl
    from bilevel_rl.runs import compiler

    jax.config.update("jax_enable_x64", precision == "float64")
    from bilevel_rl.runs import compiled as loops

    compiler.fuse_small_loops(None)
    warnings.simplefilter("ignore")
    algorithm = brl.SingleLoopActorCritic(
        brl.problems.goal_position(size=size), followers=brl.Followers(chains, coupled=False)
    )
    loop = loops.Loop(algorithm, jax.random.key(0, impl=generator), loops.Layout.plan(algorithm, seeds))
    states = jax.block_until_ready(loop.start())
    environment = algorithm.problem.mdp
    tables = states.parameters.nbytes + environment.successors.nbytes + environment.start_states.nbytes
    before = _resident_bytes()
    begin = time.perf_counter()
    reserved = loop.reserved_bytes(states)
    states = jax.block_until_ready(loop.advance(states, 0, 1))[0]
    compile_seconds = time.perf_counter() - begin

    def advance(first: int, number: int):
        nonlocal states
        states = jax.block_until_ready(loop.advance(states, first, first + number))[0]

    seconds, _ = median_seconds(advance)
    return {
        "microseconds": 1e6 * seconds,
        "nanoseconds": 1e9 * seconds / (2 * chains * seeds),
        "compile": compile_seconds,
        "memory": reserved / tables,
        "growth": (_resident_bytes() - before) / tables,
        "tables": tables,
    }


def numba(chains: int, size: int, precision: str) -> dict[str, float]:
    """The hand-written loop; seeds run one after the other, so one is enough."""
    import numpy as np

    from benchmarks import numba_loop
    from benchmarks.workload import Workload

    workload, generator = Workload(size, np.dtype(precision).type), np.random.default_rng(0)
    state = workload.initial_state(generator.integers(0, size**2, (2, chains)))
    block = max(1, 1024 // chains)
    buffer = np.empty((block, 4, 2, chains), workload.dtype)

    def advance(first: int, number: int):
        for start in range(first, first + number, block):
            generator.random(out=buffer, dtype=workload.dtype)
            numba_loop.advance(workload, state, buffer[: first + number - start], start)

    advance(0, 1)
    seconds, _ = median_seconds(advance)
    return {"microseconds": 1e6 * seconds, "nanoseconds": 1e9 * seconds / (2 * chains)}


def numpy(chains: int, size: int) -> dict[str, float]:
    """The loop that one writes first; seeds run one after the other."""
    import numpy as np

    from benchmarks import numpy_loop
    from benchmarks.workload import Workload

    workload, generator = Workload(size, np.float64), np.random.default_rng(0)
    state = workload.initial_state(generator.integers(0, size**2, (2, chains)))

    def advance(first: int, number: int):
        numpy_loop.advance(workload, state, workload.uniforms(generator, number, chains), first)

    seconds, _ = median_seconds(advance)
    return {"microseconds": 1e6 * seconds, "nanoseconds": 1e9 * seconds / (2 * chains)}


def member(process_id: int, num_processes: int, port: int, seeds: int) -> dict[str, float]:
    """One process of a job that shares the seeds; its transitions a second are those of the whole job."""
    from bilevel_rl.runs import processes

    processes.connect(f"127.0.0.1:{port}", num_processes, process_id)
    result = ours(seeds, 1, 10, "float32")
    processes.agree(0)  # Nobody leaves while others are still at work.
    return {"rate": 2 * seeds / (result["microseconds"] * 1e-6)}


def _resident_bytes() -> float:
    return 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def in_process(name: str, *arguments: Any) -> dict[str, float]:
    """Calls a function of this module in a new process that is pinned to the first core."""
    return collect(start_process(0, name, *arguments))


def start_process(core: int, name: str, *arguments: Any) -> subprocess.Popen:
    command = [sys.executable, "-m", "benchmarks.throughput", "--case", json.dumps([name, *arguments])]
    return subprocess.Popen([*command, "--core", str(core)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def collect(process: subprocess.Popen) -> dict[str, float]:
    output, errors = process.communicate()
    if process.returncode:
        raise RuntimeError(f"{process.args} failed:\n{errors}")
    return json.loads(output.splitlines()[-1])


def rate(num_processes: int, seeds: int = 512) -> float:
    """Transitions a second of a job, each of whose processes has a core of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    members = [start_process(i, "member", i, num_processes, port, seeds) for i in range(num_processes)]
    return min(collect(process)["rate"] for process in members)


def main(full: bool):
    """Prints the table and the summary."""
    cases = SHORT if not full else list(itertools.product(SEEDS, CHAINS, SIZES, PRECISIONS))
    references: dict[tuple, dict[str, float]] = {}
    results: dict[tuple, dict[str, float]] = {}
    print(
        "| seeds | chains | states | precision | µs/iteration | ns/transition | ÷ numba | compile s | memory ÷ tables |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for seeds, chains, size, precision in cases:
        width = 8 if precision == "float64" else 4
        if seeds * 2 * size**2 * 6 * width > MAX_BYTES:
            continue
        key = chains, size, precision
        if key not in references:
            references[key] = in_process("numba", *key)
        result = results[seeds, chains, size, precision] = in_process("ours", seeds, chains, size, precision)
        ratio = result["nanoseconds"] / references[key]["nanoseconds"]
        print(
            f"| {seeds} | {chains} | 10^{round(2 * len(str(size)) - 2)} | {precision} | {result['microseconds']:.2f} | "
            f"{result['nanoseconds']:.1f} | {ratio:.2f} | {result['compile']:.1f} | {result['memory']:.2f} |",
            flush=True,
        )
    first = in_process("numpy", 1, 10)
    print(f"\nnumba, 1 chain, 10^2 states: {references[1, 10, 'float32']['nanoseconds']:.1f} ns a transition")
    print(f"NumPy, 1 chain, 10^2 states: {first['nanoseconds']:.0f} ns a transition")
    many = results[64, 1, 10, "float32"]["nanoseconds"]
    print(f"NumPy ÷ ours, 64 seeds × 1 chain: {first['nanoseconds'] / many:.0f}")
    for chains in (1, 16):
        small, large = (results[1, chains, size, "float32"]["microseconds"] for size in (10, 1000))
        print(f"iteration at 10^6 states ÷ at 10^2, {chains} chains: {large / small:.2f}")
    one, two = rate(1), rate(2)
    print(f"512 seeds: one process {one / 1e6:.1f} M transitions/s, two processes {two / 1e6:.1f} M, {two / one:.2f} ×")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="every combination of the axes")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    parser.add_argument("--core", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case is None:
        main(options.full)
    else:
        os.sched_setaffinity(0, {options.core})
        case, *arguments = json.loads(options.case)
        print(json.dumps(globals()[case](*arguments)))
