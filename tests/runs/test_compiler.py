"""What is asked of XLA, and that it changes no result."""

import os
import subprocess
import sys

import pytest

from bilevel_rl.runs import compiler

OPTION = "--xla_backend_extra_options=xla_cpu_small_while_loop_byte_threshold="

PROGRAM = """
import hashlib, jax, numpy as np, bilevel_rl as brl
problem = brl.problems.goal_position(size=4, target=(3, 1), initial_x=(0, 3))
algorithm = brl.SingleLoopActorCritic(problem, followers=brl.Followers(8))
result = brl.run(algorithm, jax.random.key(0), 2, 300, log_every=100, progress=False)
leaves = jax.tree.leaves(result.states)
print(hashlib.sha256(b"".join(np.ascontiguousarray(leaf).tobytes() for leaf in leaves)).hexdigest())
"""


def outcome(flags: str) -> str:
    environment = os.environ | {"XLA_FLAGS": flags}
    command = [sys.executable, "-c", PROGRAM]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=120).stdout


@pytest.mark.slow
def test_one_kernel_and_many_give_the_same_bits():
    one, many = outcome(""), outcome(OPTION + "1")
    assert len(one.strip()) == 64
    assert one == many


@pytest.mark.parametrize(
    ("before", "limit", "after"),
    [
        ("", 1_000, OPTION + "1000"),
        ("--xla_dump_to=x", 1_000, f"--xla_dump_to=x {OPTION}1000"),
        (OPTION + str(compiler.SMALL_LOOP_BYTES), None, OPTION + str(compiler.NO_LIMIT)),
        (OPTION + "77", None, OPTION + "77"),
        ("--xla_backend_extra_options=other=1", None, "--xla_backend_extra_options=other=1"),
    ],
)
def test_the_limit_is_set_unless_somebody_else_set_it(before, limit, after, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", before)
    compiler.fuse_small_loops(limit)
    assert os.environ["XLA_FLAGS"] == after
