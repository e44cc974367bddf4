"""Extension of griffe, which reads the API from the sources: what it does not know of this library."""

import ast
from typing import Any

import griffe

BASES = {"equinox.Module", "typing.NamedTuple"}


def _is_field(call: griffe.Expr | str | None) -> bool:
    return isinstance(call, griffe.ExprCall) and call.canonical_path in {"equinox.field", "dataclasses.field"}


def _default(value: Any) -> Any:
    if not _is_field(value):
        return value
    arguments = {a.name: a.value for a in value.arguments if isinstance(a, griffe.ExprKeyword)}
    if "default_factory" in arguments:
        return griffe.ExprCall(function=arguments["default_factory"], arguments=[])
    return arguments.get("default")


class House(griffe.Extension):
    """Constructors of `eqx.Module` and `NamedTuple` from their fields, as for dataclasses; examples as doctests."""

    def on_instance(self, *, obj: griffe.Object, **kwargs: Any):
        """`Example:` is a section of prose to griffe, `Examples:` one of doctests."""
        if obj.docstring is not None:
            obj.docstring.value = obj.docstring.value.replace("\nExample:\n", "\nExamples:\n")

    def on_class_members(self, *, node: ast.AST, cls: griffe.Class, **kwargs: Any):
        """Called when all fields of the class are known."""
        bases = {base.canonical_path for base in cls.bases if isinstance(base, griffe.Expr)}
        if not bases & BASES or "__init__" in cls.members:
            return
        kind = griffe.ParameterKind.positional_or_keyword
        fields = [
            member
            for member in cls.members.values()
            if isinstance(member, griffe.Attribute)
            and member.annotation is not None
            and "property" not in member.labels
        ]
        parameters = [
            griffe.Parameter("self", kind=kind),
            *(griffe.Parameter(f.name, annotation=f.annotation, kind=kind, default=_default(f.value)) for f in fields),
        ]
        cls.set_member("__init__", griffe.Function("__init__", parameters=griffe.Parameters(*parameters), parent=cls))
