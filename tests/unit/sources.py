"""The library's own source, parsed, for the tests that read code."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

import dagrelay

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ("MODULES", "Import", "Module", "functions", "imports", "parse")


@attrs.frozen(kw_only=True)
class Module:
    """One module, parsed."""

    name: str
    """Its dotted name; a package goes by its own."""
    text: str
    """Its source."""
    tree: ast.Module
    """Its syntax tree."""

    @property
    def room(self) -> str:
        """What stands after `dagrelay.` first: the package or module that has a floor; empty for the root."""
        return self.name.partition(".")[2].partition(".")[0]


@attrs.frozen(kw_only=True)
class Import:
    """One import of one module."""

    module: str
    """The dotted name imported, or imported from."""
    line: int
    """Where."""
    is_relative: bool
    """Whether it is written with leading dots."""
    in_function: bool
    """Whether it waits for a call."""
    for_types_only: bool
    """Whether it stands under TYPE_CHECKING."""


def parse(text: str, name: str = "dagrelay.planted") -> Module:
    """Return a module made of `text`, as the rules see one of the library."""
    return Module(name=name, text=text, tree=ast.parse(text))


def imports(module: Module) -> list[Import]:
    """Return every import in the module, wherever it stands."""
    return list(_imports_below(module.tree, in_function=False, for_types_only=False))


def functions(module: Module) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Return every function and method in the module, nested ones included."""
    return [node for node in ast.walk(module.tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]


def _imports_below(parent: ast.AST, *, in_function: bool, for_types_only: bool) -> Iterator[Import]:
    for node in ast.iter_child_nodes(parent):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            # `from dagrelay import errors` imports a module as well as `import dagrelay.errors` does.
            names = [f"dagrelay.{alias.name}" for alias in node.names] if node.module == "dagrelay" else [node.module or ""]
        else:
            names = []
        for name in names:
            yield Import(
                module=name,
                line=node.lineno if isinstance(node, ast.stmt) else 0,
                is_relative=isinstance(node, ast.ImportFrom) and node.level > 0,
                in_function=in_function,
                for_types_only=for_types_only,
            )
        yield from _imports_below(
            node,
            in_function=in_function or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)),
            for_types_only=for_types_only or _asks_for_type_checking(node),
        )


def _asks_for_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}


def _library_modules() -> Iterator[Module]:
    root = Path(dagrelay.__file__).parent
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root.parent).with_suffix("").parts
        yield parse(path.read_text(encoding="utf-8"), ".".join(part for part in parts if part != "__init__"))


MODULES = tuple(_library_modules())
"""Every module of the library, by name."""
