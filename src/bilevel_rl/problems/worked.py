"""A worked problem is a frozen dataclass: its fields are the problem's arguments; its known optimum is beside it."""

import functools
import inspect
import re
from collections.abc import Callable
from typing import ParamSpec, Protocol, runtime_checkable

from bilevel_rl.exact.solver import Solution
from bilevel_rl.formulation.problem import BilevelProblem

Arguments = ParamSpec("Arguments")


class ProblemOptions(Protocol):
    """The arguments of a problem, from which every process builds the same one."""

    def problem(self) -> BilevelProblem:
        """What is solved."""
        ...


@runtime_checkable
class WorkedProblem(ProblemOptions, Protocol):
    """A problem whose optimum is known."""

    def optimum(self, problem: BilevelProblem, entropy_weight: float) -> Solution:
        """The known optimum of what `problem` built, at an entropy weight τ > 0."""
        ...


def as_function(options: Callable[Arguments, ProblemOptions]) -> Callable[Arguments, BilevelProblem]:
    """A problem's class as a function that builds it, with the same arguments and the same documentation."""

    def build(*arguments: Arguments.args, **named: Arguments.kwargs) -> BilevelProblem:
        return options(*arguments, **named).problem()

    functools.update_wrapper(build, options, assigned=("__module__", "__doc__"), updated=())
    build.__name__ = build.__qualname__ = re.sub(r"(?<!^)(?=[A-Z])", "_", options.__name__).lower()
    build.__signature__ = inspect.signature(options).replace(return_annotation=BilevelProblem)  # pyright: ignore
    return build
