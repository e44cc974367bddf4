"""What policies wrote and what it was worth, as Parquet: RUN/completions/completions_00010.parquet and so on.

A file has the completions of all iterations since the file before. It is written with its metric row, whole or not at
all, and under the same name again where a killed run repeats its iterations: so nothing is there twice.
"""

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import gather_object
from jaxtyping import Float
from torch import Tensor

from bilevel_rl.files.atomic import write_atomically
from bilevel_rl.lm.batches import Batch

FOLDER, STEM = "completions", "completions_"


class CompletionLog:
    """Completions of a run.

    Args:
        path: of the run folder.

    Raises:
        ModuleNotFoundError: pyarrow is not installed.
    """

    def __init__(self, path: Path):
        if importlib.util.find_spec("pyarrow") is None:
            raise ModuleNotFoundError(
                "log_completions needs pyarrow, which is not installed: pip install 'bilevel-rl[data]'", name="pyarrow"
            )
        self._path = path / FOLDER
        self._rows: list[dict[str, Any]] = []
        self._costs: dict[int, float] = {}

    def begin(self, num_iterations: int):
        """Forgets what is later than these iterations, from which a run goes on."""
        self._rows, self._costs = [], {}
        if PartialState().is_main_process and self._path.is_dir():
            for file in self._path.glob(f"{STEM}*"):
                if file.suffix != ".parquet" or int(file.stem.removeprefix(STEM)) > num_iterations:
                    file.unlink()

    def note_costs(self, rows: range, costs: Float[Tensor, " n"]):
        """What the upper objective said of some rows of the batch that is added next."""
        self._costs = dict(zip(rows, costs.tolist(), strict=True))

    def add(self, step: int, batch: Batch, numbers: Mapping[str, Float[Tensor, " N"]]):
        """A batch of an iteration, with further columns."""
        columns: dict[str, Sequence[Any]] = {
            "policy": batch.policies,
            "prompt": [example.text for example in batch.inputs.examples],
            "completion": batch.inputs.texts,
            "reward": batch.rewards.tolist(),
        }
        columns |= {name: values.tolist() for name, values in numbers.items()}
        for number, row in enumerate(zip(*columns.values(), strict=True)):
            cost = self._costs.get(number)
            self._rows.append({"step": step, **dict(zip(columns, row, strict=True)), "cost": cost})
        self._costs = {}

    def write(self, num_iterations: int):
        """Writes the completions of all processes since the last file."""
        rows = gather_object(self._rows)
        self._rows = []
        if not rows or not PartialState().is_main_process:
            return
        import pyarrow as pa
        from pyarrow import parquet

        kinds = {"step": pa.int64(), "policy": pa.string(), "prompt": pa.string(), "completion": pa.string()}
        schema = pa.schema([(name, kinds.get(name, pa.float64())) for name in rows[0]])
        written = pa.BufferOutputStream()
        parquet.write_table(pa.Table.from_pylist(rows, schema), written)
        self._path.mkdir(exist_ok=True)
        write_atomically(self._path / f"{STEM}{num_iterations:05d}.parquet", written.getvalue().to_pybytes())
