"""What is public is listed, documented, and re-exported where the documents say."""

from __future__ import annotations

import ast
import importlib
import inspect
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

import pytest

import dagrelay
from dagrelay import errors
from dagrelay.model import events
from tests.unit.sources import MODULES, Module, parse

if TYPE_CHECKING:
    from collections.abc import Iterator

PUBLIC_PACKAGES: Final = ("xcom", "stores", "serializers", "testing", "web", "examples")
SPECIFIED: Final = """
DAG Durability JsonSerializer Limits MemoryStore MissingPolicy RetryAfter RetryPolicy RunHandle RunResult RunState Runtime
Serializer Skip SqliteStore Store Task TaskContext TaskState TriggerRule XComEntry XComManager XComOptions XComRef XComValue
literal resolve_templates template
each zip_each Approval Pool AttemptReads EntryRead OtherRun TaskStatistics
Run TaskInstance
RunFinished RunStarted TaskStateChanged XComDeleted XComPushed
"""
ROOT_NAMES: Final = {*SPECIFIED.split(), *errors.__all__}
CODE_MODULES: Final = [module for module in MODULES if len(module.tree.body) > 1 and not module.name.endswith("__main__")]

PLANTED: Final = """
from a import b as b
from a import c
__all__ = ("D",)
T = TypeVar("T")
@attrs.frozen
class D:
    x: int
    y: int
    "Why."
E = 1
"""


def listed_names(module: Module) -> tuple[str, ...] | None:
    """Return the module's `__all__` if it is a tuple written out."""
    for node in module.tree.body:
        match node:
            case ast.Assign(targets=[ast.Name(id="__all__")], value=ast.Tuple() as names):
                value: tuple[str, ...] = ast.literal_eval(names)
                return value
            case _:
                pass
    return None


def defined_names(module: Module) -> set[str]:
    """Return the names without a leading underscore that the module itself defines."""
    names: set[str] = set()
    for node in _statements(module.tree.body):
        match node:
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                names.add(name)
            case ast.Assign(value=ast.Call(func=ast.Name(id="TypeVar" | "ParamSpec" | "TypeVarTuple"))):
                pass  # a variable of types is part of the signatures that use it
            case ast.Assign(targets=targets):
                names.update(target.id for target in targets if isinstance(target, ast.Name))
            case ast.AnnAssign(target=ast.Name(id=name)):
                names.add(name)
            case _:
                pass
    return {name for name in names if not name.startswith("_")}


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Iterate over statements, and those under `else` of an `if TYPE_CHECKING`, which are what the interpreter sees."""
    for node in body:
        yield node
        if isinstance(node, ast.If):
            yield from node.orelse


def reexported_names(module: Module) -> set[str]:
    """Return the names that the module imports as themselves (`from a import b as b`), or that a package imports."""
    return {
        alias.asname or alias.name
        for node in module.tree.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.asname == alias.name
    }


def undocumented_fields(module: Module) -> list[str]:
    """Name the public fields of attrs classes that no string explains."""
    return [
        f"{node.name}.{field}"
        for node in ast.walk(module.tree)
        if isinstance(node, ast.ClassDef) and any("attrs." in ast.unparse(decorator) for decorator in node.decorator_list)
        for field in _fields_without_string(node)
        if not node.name.startswith("_") and not field.startswith("_")
    ]


def _fields_without_string(node: ast.ClassDef) -> Iterator[str]:
    for index, statement in enumerate(node.body):
        match statement:
            case ast.AnnAssign(target=ast.Name(id=field)):
                follower = node.body[index + 1] if index + 1 < len(node.body) else None
                match follower:
                    case ast.Expr(value=ast.Constant(value=str())):
                        pass
                    case _:
                        yield field
            case _:
                pass


def attributes(package: ModuleType) -> set[str]:
    """Return what a user sees of a package without being shown its modules."""
    return {
        name
        for name, value in vars(package).items()
        if not name.startswith("_") and name != "annotations" and not isinstance(value, ModuleType)
    }


def public_packages() -> list[ModuleType]:
    """Return the root and the public packages that are built already."""
    rooms = {module.name for module in MODULES}
    names = [f"dagrelay.{name}" for name in PUBLIC_PACKAGES if f"dagrelay.{name}" in rooms]
    return [dagrelay, *map(importlib.import_module, names)]


@pytest.mark.parametrize("module", CODE_MODULES, ids=lambda module: module.name)
def test_a_module_lists_exactly_its_public_names_in_a_tuple(module: Module) -> None:
    """`__all__` is a tuple and holds what the module defines or re-exports, no more and no less."""
    listed = listed_names(module)

    assert listed is not None, f"{module.name} has no tuple __all__"
    assert set(listed) == defined_names(module) | reexported_names(module)
    assert len(listed) == len(set(listed))


@pytest.mark.parametrize("module", CODE_MODULES, ids=lambda module: module.name)
def test_every_field_of_a_record_is_explained(module: Module) -> None:
    """A string stands under each public field."""
    assert undocumented_fields(module) == []


@pytest.mark.parametrize("package", public_packages(), ids=lambda package: package.__name__)
def test_a_public_package_shows_exactly_what_it_lists(package: ModuleType) -> None:
    """Attributes and `__all__` agree, and `from package import *` works."""
    listed: tuple[str, ...] = getattr(package, "__all__", ())

    assert isinstance(listed, tuple)
    assert set(listed) == attributes(package)


@pytest.mark.parametrize("package", public_packages(), ids=lambda package: package.__name__)
def test_every_public_class_and_function_has_a_docstring(package: ModuleType) -> None:
    """The first line is a sentence of its own, on public methods as well."""
    listed: tuple[str, ...] = getattr(package, "__all__", ())
    bare = [problem for name in listed for problem in _undocumented(name, getattr(package, name))]

    assert bare == []


def test_the_root_exports_what_the_specification_names() -> None:
    """A user needs no other import for anything in the documents."""
    assert set(getattr(dagrelay, "__all__", ())) >= ROOT_NAMES


@pytest.mark.parametrize("name", events.__all__)
def test_every_event_is_documented(name: str) -> None:
    """An event says when it happens."""
    if name != "Event":
        assert _undocumented(name, getattr(events, name)) == []


def test_a_planted_gap_is_seen() -> None:
    """The readers of source can fail."""
    module = parse(PLANTED)

    assert listed_names(module) == ("D",)
    assert defined_names(module) == {"D", "E"}
    assert reexported_names(module) == {"b"}
    assert undocumented_fields(module) == ["D.x"]
    assert listed_names(parse("__all__ = ['D']")) is None


def test_a_planted_silence_is_seen() -> None:
    """The reader of docstrings can fail."""

    class Loud:
        """A class that is explained."""

        def silent(self) -> None: ...

    assert _undocumented("Loud", Loud) == ["Loud.silent"]
    assert _undocumented("silent", Loud.silent) == ["silent"]


def _undocumented(name: str, value: Any) -> list[str]:
    if not (inspect.isclass(value) or inspect.isroutine(value)):
        return []  # a constant, an alias of types: the string under it is for readers of the source
    bare = [] if _has_sentence(value) else [name]
    if inspect.isclass(value):
        own = {key: _unwrapped(member) for key, member in vars(value).items() if not key.startswith("_")}
        bare += [f"{name}.{key}" for key, member in own.items() if inspect.isfunction(member) and not _has_sentence(member)]
    return bare


def _unwrapped(member: Any) -> Any:
    if isinstance(member, property):
        return member.fget
    return getattr(member, "__func__", member)


def _has_sentence(value: Any) -> bool:
    first_line = (value.__doc__ or "").strip().partition("\n")[0]
    return first_line.endswith((".", ":"))
