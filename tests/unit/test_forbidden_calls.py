"""Stored data never becomes code: no pickle, no eval, no import by a stored name, no format language over values."""

from __future__ import annotations

import ast
from typing import Final

import pytest

from tests.unit.sources import MODULES, Module, imports, parse

REVIVERS: Final = frozenset({"cloudpickle", "dill", "jsonpickle", "marshal", "pickle", "pickletools", "shelve", "yaml"})
EVALUATORS: Final = frozenset({"__import__", "breakpoint", "compile", "eval", "exec"})
IMPORTERS: Final = frozenset({"import_module", "load_module", "exec_module", "spec_from_file_location", "run_module", "run_path"})
FORMATTERS: Final = frozenset({"format", "format_map", "vformat", "Formatter", "safe_substitute", "substitute"})
ATTRIBUTE_CALLS: Final = frozenset({"attrgetter", "delattr", "getattr", "methodcaller", "setattr", "vars"})
DUNDERS: Final = frozenset({"__getattribute__", "__dict__", "__class__", "__globals__"})


def name_of(call: ast.Call) -> str:
    """Return what is called without what it is an attribute of; empty if it has no name."""
    match call.func:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
        case _:
            return ""


def dangers(module: Module) -> list[str]:
    """Name every way in the module by which data could become code."""
    found = [f"line {item.line} imports {item.module}" for item in imports(module) if item.module.partition(".")[0] in REVIVERS]
    found += [f"line {item.line} imports {item.module}" for item in imports(module) if item.module == "builtins"]
    for node in ast.walk(module.tree):
        # `re.compile` compiles no code, so the evaluators count only by their plain name.
        if isinstance(node, ast.Name) and node.id in EVALUATORS:
            found.append(f"line {node.lineno} uses {node.id}")
        # The command line loads what its user names on the command line, which is no stored data.
        if isinstance(node, ast.Call) and name_of(node) in IMPORTERS and module.room != "cli":
            found.append(f"line {node.lineno} calls {name_of(node)}")
    return found


def reaches(module: Module) -> list[str]:
    """Name every way in a template module to attributes or to a format language."""
    if module.room != "templates" and not module.name.startswith("dagrelay.xcom.templates"):
        return []
    found: list[str] = []
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Call) and name_of(node) in FORMATTERS | ATTRIBUTE_CALLS:
            found.append(f"line {node.lineno} calls {name_of(node)}")
        if isinstance(node, ast.Attribute) and node.attr in DUNDERS:
            found.append(f"line {node.lineno} reads {node.attr}")
    return found


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.name)
def test_no_module_can_turn_data_into_code(module: Module) -> None:
    """The library has no evaluator, no object reviver and no import by name outside the command line's target."""
    assert dangers(module) == []


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.name)
def test_no_template_module_reaches_for_attributes(module: Module) -> None:
    """Templates index exact dicts and lists, and know no other way into a value."""
    assert reaches(module) == []


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "from marshal import loads",
        "def f():\n    import cloudpickle.compat",
        "import builtins",
        "eval(row)",
        "run = exec",
        "compile(row, '', 'exec')",
        "__import__(row)",
        "importlib.import_module(row)",
        "import_module(row)",
        "importlib.util.spec_from_file_location(row, row)",
    ],
)
def test_a_planted_danger_is_seen(text: str) -> None:
    """The rule can fail."""
    assert len(dangers(parse(text))) == 1


@pytest.mark.parametrize("text", ["re.compile(row)", "store.evaluate(row)", "import picklejar"])
def test_a_harmless_likeness_is_let_pass(text: str) -> None:
    """The rule forbids no more than it says."""
    assert dangers(parse(text)) == []


def test_the_command_line_may_load_its_target() -> None:
    """The one import by name is of what the user typed."""
    text = "importlib.import_module(target)"

    assert dangers(parse(text, "dagrelay.cli.target")) == []


@pytest.mark.parametrize(
    "text",
    [
        "text.format(value)",
        "str.format_map(text, value)",
        "getattr(value, name)",
        "vars(value)",
        "value.__class__",
        "Formatter()",
    ],
)
def test_a_planted_reach_is_seen_in_templates_and_only_there(text: str) -> None:
    """The rule can fail, and binds the rooms that hold values of strangers."""
    assert len(reaches(parse(text, "dagrelay.templates.resolver"))) == 1
    assert len(reaches(parse(text, "dagrelay.xcom.templates"))) == 1
    assert reaches(parse(text, "dagrelay.dag.binding")) == []
