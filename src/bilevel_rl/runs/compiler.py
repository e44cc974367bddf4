"""What is asked of XLA, so that a loop of small operations runs like a hand-written one.

On CPUs XLA runs a program as a list of kernels, and calling one costs as much as 50 multiplications of it. Loops whose
iterations touch few bytes it compiles into a single kernel instead; `fuse_small_loops` raises that limit from 1 kB to
what an iteration of a group of seeds touches. Measured: 1.4 µs an iteration becomes 0.2 µs (docs/reports/scaling.md).
"""

import hashlib
import os
import platform
from pathlib import Path
from typing import Any

import jax

SMALL_LOOP_BYTES = 2**20
"""Loops that touch fewer bytes an iteration become one kernel. Larger ones gain from a kernel's threads instead."""

NO_LIMIT = 2**62


def _flag(limit: int) -> str:
    return f"--xla_backend_extra_options=xla_cpu_small_while_loop_byte_threshold={limit}"


def fuse_small_loops(limit: int | None = SMALL_LOOP_BYTES):
    """Sets the option in `XLA_FLAGS`, which XLA reads when the first program of the process is compiled.

    It has no other form, so it holds for all programs of the process. A value that somebody else set stays.

    Args:
        limit: bytes that a loop may touch in an iteration, where a table counts with its whole size; None: any number.
            Importing the library sets 1 MB, its command line none.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    for earlier in (SMALL_LOOP_BYTES, NO_LIMIT):
        flags = flags.replace(_flag(earlier), "").strip()
    if "xla_backend_extra_options" not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {_flag(NO_LIMIT if limit is None else limit)}".strip()


def loop_options() -> dict[str, Any]:
    """Compiler options of the iteration loop on this process's default backend."""
    # The older emitters turn a scatter into a loop, and loops with a scatter cannot become one kernel.
    return {"xla_cpu_use_fusion_emitters": False} if jax.default_backend() == "cpu" else {}


def cache_compilations():
    """Keeps compiled programs where the next process finds them: `JAX_COMPILATION_CACHE_DIR` or the user's cache.

    The user's cache has a folder for every kind of CPU: machines of a cluster may share a home, but not instructions.
    """
    if jax.config.jax_compilation_cache_dir is None:  # pyright: ignore[reportAttributeAccessIssue]
        caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(caches / "bilevel-rl" / f"xla-{_kind_of_cpu()}"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.05)


def _kind_of_cpu() -> str:
    """The same on machines whose processors have the same instructions."""
    description = Path("/proc/cpuinfo")
    lines = description.read_text().splitlines() if description.is_file() else [platform.processor()]
    instructions = next((line for line in lines if line.startswith(("flags", "Features"))), lines[0])
    return hashlib.sha256(f"{platform.machine()} {instructions}".encode()).hexdigest()[:12]


def split_cpu(num_devices: int):
    """Makes this process's CPU several devices, before it is first used."""
    if num_devices > 1:
        jax.config.update("jax_num_cpu_devices", num_devices)
