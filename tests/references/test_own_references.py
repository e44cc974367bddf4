"""Problems by reference: what is found, what becomes a flag, and one sentence for every mistake in a file."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from bilevel_rl import BilevelProblem, exact, problems
from bilevel_rl.references import ReferencedProblem, is_reference, loading
from bilevel_rl.references.parameters import flag_of, parameters_of

SOURCE = '''
from dataclasses import dataclass
from pathlib import Path
import bilevel_rl as brl

def problem(size: int = 3, walls: tuple[tuple[int, int], ...] = (), file: Path = Path("a.csv"), step=2.0, table={}):
    """A goal.

    Args:
        size: cells along
            a side.
    """
    assert isinstance(file, Path)
    return brl.problems.goal_position(size=size, target=(2, 0), initial_x=(0, 2), width=step, walls=walls)

@dataclass(frozen=True)
class Worked:
    slip: float = 0.1
    def problem(self):
        return brl.problems.goal_position(size=3, target=(2, 0), initial_x=(0, 2), slip=self.slip)
    def optimum(self, problem, entropy_weight):
        return brl.exact.Solution((2.0, 0.0), 0.25, 0.0, 0, "converged")

ready = Worked(0.2)
given = ready.problem()
def untyped(price): ...
def typed(price: dict): ...
def empty(): ...
NUMBER = 3
'''


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "goals.py"
    path.write_text(SOURCE)
    return path


def test_words_that_are_references():
    named = ("a.py", "a.py:b", "x/a.py", "package.module:name", "module:name", "package.module")
    assert [is_reference(word) for word in named] == [True] * len(named)
    assert not is_reference("goal-position")


def test_a_function_is_called_with_its_arguments_and_their_types(source):
    reference = ReferencedProblem.of(str(source))
    assert reference.reference == f"{source}:problem"
    found = reference.parameters()
    assert {name: (p.kind, p.default) for name, p in found.items()} == {
        "size": (int, 3),
        "walls": (tuple[tuple[int, int], ...], ()),
        "file": (Path, Path("a.csv")),
        "step": (float, 2.0),  # the type of its default; of a dict no flag can be made
    }
    assert found["size"].help == "cells along a side."
    told = reference.told(size=4, walls=((1, 1),), file=Path("b.csv"), step=1.5)
    assert json.loads(json.dumps(told.arguments)) == told.arguments
    expected = problems.goal_position(size=4, target=(2, 0), initial_x=(0, 2), width=1.5, walls=((1, 1),))
    x, weight = (1.0, 1.0), {"entropy_weight": 0.1}
    objective = exact.hyper_objective(told.problem(), x, **weight)
    np.testing.assert_array_equal(objective, exact.hyper_objective(expected, x, **weight))
    assert told.problem() is told.problem()
    assert told.flags() == [f"{source}:problem", "--size", "4", "--walls", "1", "1", "--file", "b.csv", "--step", "1.5"]


def test_classes_their_instances_and_problems_are_taken_too(source):
    of = {name: ReferencedProblem.of(f"{source}:{name}") for name in ("Worked", "ready", "given")}
    assert [list(reference.parameters()) for reference in of.values()] == [["slip"], [], []]
    for name, reference in of.items():
        assert isinstance(reference.problem(), BilevelProblem)
        assert reference.knows_optimum() == (name != "given")
    assert of["Worked"].optimum(of["Worked"].problem(), 0.1).objective == 0.25
    found = of["given"].optimum(of["given"].problem(), 0.1)
    assert found.status == "converged"
    assert found.objective < exact.hyper_objective(of["given"].problem(), (0.0, 2.0), entropy_weight=0.1)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("problm", "has no 'problm'; did you mean 'problem'? It has problem, Worked, ready, given"),
        ("untyped", "parameter 'price' of goals.py:untyped has no type and has no default"),
        ("typed", "parameter 'price' of goals.py:typed is of type <class 'dict'> and has no default"),
        ("empty", "goals.py:empty must return a BilevelProblem, got NoneType"),
        ("NUMBER", "goals.py:NUMBER must be a BilevelProblem, a function that returns one"),
    ],
)
def test_what_is_no_problem_is_refused(source, name, message):
    def build():
        reference = ReferencedProblem.of(f"{source}:{name}")
        reference.parameters()
        reference.problem()

    with pytest.raises(ValueError, match=re.escape(message)):
        build()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\ny = 1 / 0\n", ", line 2: ZeroDivisionError: division by zero"),
        ("import numpy\n\nimport not_there\n", ", line 3: ModuleNotFoundError: No module named 'not_there'"),
        ("def f(:\n", ", line 1: SyntaxError"),
        ("import sys\nsys.exit(3)\n", ", line 2: it ends the program"),
    ],
)
def test_a_mistake_in_the_file_is_named_with_its_line(tmp_path, text, message):
    path = tmp_path / "broken.py"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"^{re.escape(f'{path}{message}')}"):
        ReferencedProblem.of(str(path))


def test_files_and_modules_that_are_not_there(source):
    with pytest.raises(ValueError, match=r"there is no file .*goal\.py; did you mean .*goals\.py\?"):
        ReferencedProblem.of(str(source.with_name("goal.py")))
    with pytest.raises(ValueError, match=r"there is no module not_there; write path/to/file\.py:name"):
        ReferencedProblem.of("not_there:problem")
    with pytest.raises(ValueError, match="after the colon there must be a name, got '1x'"):
        ReferencedProblem.of(f"{source}:1x")


def test_a_file_may_import_its_neighbours_and_be_called_like_a_library(tmp_path):
    (tmp_path / "neighbour.py").write_text("WIDTH = 2.0\n")
    path = tmp_path / "statistics.py"
    path.write_text(
        "import bilevel_rl as brl\nfrom neighbour import WIDTH\n"
        "problem = brl.problems.goal_position(size=3, target=(2, 0), initial_x=(0, 2), width=WIDTH)\n"
    )
    import statistics

    assert isinstance(ReferencedProblem.of(str(path)).problem(), BilevelProblem)
    assert statistics.mean([1, 3]) == 2


def test_a_changed_file_is_refused_until_it_is_asked_for_anew(source):
    reference = ReferencedProblem.of(f"{source}:given")
    source.write_text(SOURCE + "# more\n")
    with pytest.raises(ValueError, match=r"goals\.py has changed since this was begun"):
        reference.problem()
    assert reference.renewed().sha256 != reference.sha256
    reference.renewed().problem()
    source.unlink()
    with pytest.raises(ValueError, match=r"goals\.py has gone"):
        reference.problem()


def test_an_installed_package_registers_its_problems(tmp_path, monkeypatch):
    package = tmp_path / "city"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "tolls.py").write_text(SOURCE)
    card = tmp_path / "city-1.0.dist-info"
    card.mkdir()
    (card / "METADATA").write_text("Metadata-Version: 2.1\nName: city\nVersion: 1.0\n")
    (card / "entry_points.txt").write_text("[bilevel_rl.problems]\ncity-tolls = city.tolls:Worked\n")
    monkeypatch.syspath_prepend(tmp_path)
    loading.registered.cache_clear()
    try:
        assert loading.registered() == {"city-tolls": "city.tolls:Worked"}
        assert is_reference("city-tolls")
        named, pointed = (ReferencedProblem.of(words) for words in ("city-tolls", "city.tolls:Worked"))
        assert (named.short_name, pointed.short_name) == ("city-tolls", "city.tolls-Worked")
        assert named.file == pointed.file == str(package / "tolls.py")
        assert list(named.parameters()) == ["slip"]
        assert named.told(slip=0.3).problem().mdp.num_states == 9
        assert named.told(slip=0.3).flags() == ["city-tolls", "--slip", "0.3"]
    finally:
        loading.registered.cache_clear()
        for name in ("city.tolls", "city"):
            sys.modules.pop(name, None)


def test_modules_and_registered_names(monkeypatch):
    of_module = ReferencedProblem.of("bilevel_rl.problems:FrozenLake")
    assert flag_of("entropy_weight") == "problem-entropy-weight"
    assert of_module.told(entropy_weight=0.1).flags()[1:] == ["--problem-entropy-weight", "0.1"]
    monkeypatch.setattr(loading, "registered", lambda: {"lake": "bilevel_rl.problems:FrozenLake"})
    assert loading.is_reference("lake")
    assert loading.find("lake") is problems.FrozenLake
    assert parameters_of(problems.FrozenLake, "lake")["discount"].default == 0.95
