"""No attribute is reached by a name that is data, and no text of data is a format: the rule for the whole library."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING, Final

import pytest

from tests.unit.sources import MODULES, Module, parse

if TYPE_CHECKING:
    from collections.abc import Iterator

BY_NAME: Final = frozenset({"attrgetter", "delattr", "getattr", "hasattr", "methodcaller", "setattr"})
FORMATS: Final = frozenset({"format", "format_map", "vformat", "Formatter", "safe_substitute", "substitute", "Template"})
ALLOWED: Final = {
    "dagrelay.cli.target": "the name is one of the module's own, or what the user typed",
    "dagrelay.dag.references": "the steps are those a handler's signature wrote, into its own default",
    "dagrelay.serializers.models": "the names are constants, one line further up",
}
"""Modules where a name is no constant, each with its reason; none of them has a stored value in its hands."""


def by_name(module: Module) -> Iterator[str]:
    """Name every place where an attribute is reached by a name that is no constant."""
    for node in ast.walk(module.tree):
        match node:
            case ast.Call(func=ast.Name(id=name), args=[*_, last]) if name in BY_NAME:
                names = [last] if name in {"attrgetter", "methodcaller"} else node.args[1:2]
                if not all(isinstance(each, ast.Constant) for each in names):
                    yield f"line {node.lineno}: {ast.unparse(node)}"
            case _:
                pass


def formats(module: Module) -> Iterator[str]:
    """Name every place where a format language other than f-strings is used."""
    for node in ast.walk(module.tree):
        match node:
            case ast.Call(func=ast.Attribute(attr=name) | ast.Name(id=name)) if name in FORMATS:
                # A template of ours is made by its own class, which is no format language.
                if name != "Template" or module.room not in {"templates", "dag"}:
                    yield f"line {node.lineno}: {ast.unparse(node)[:60]}"
            case ast.BinOp(op=ast.Mod(), left=left) if not _is_number(left):
                yield f"line {node.lineno}: {ast.unparse(node)[:60]}"
            case _:
                pass


def _is_number(node: ast.expr) -> bool:
    """Tell whether the left of a percent sign is no text: a name or a call here is a number, by the types."""
    return not (isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str)))


def test_names_of_attributes_are_constants() -> None:
    """But where the reason is given above, and nowhere above for nothing."""
    found = {module.name: places for module in MODULES if (places := list(by_name(module)))}

    assert {name: places for name, places in found.items() if name not in ALLOWED} == {}
    assert set(found) == set(ALLOWED)


def test_no_text_is_a_format() -> None:
    """F-strings are code; `str.format`, `%` and `string.Template` would take theirs from wherever."""
    assert {module.name: places for module in MODULES if (places := list(formats(module)))} == {}


@pytest.mark.parametrize("text", ["getattr(x, name)", "setattr(x, row[0], 1)", "attrgetter(name)", "hasattr(x, f'{y}')"])
def test_a_planted_name_is_seen(text: str) -> None:
    """The rule can fail."""
    assert len(list(by_name(parse(text)))) == 1


@pytest.mark.parametrize("text", ["text.format(x)", "str.format_map(x, y)", "'%s' % x", "string.Template(x)", "Formatter()"])
def test_a_planted_format_is_seen(text: str) -> None:
    """The rule can fail."""
    assert len(list(formats(parse(text)))) == 1
