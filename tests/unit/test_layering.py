"""The shape of the house: who may import whom, what is loaded late, and how large a thing may grow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

from tests.unit.sources import MODULES, Module, functions, imports, parse

if TYPE_CHECKING:
    from collections.abc import Callable

FLOORS: Final = (
    ("cancellation", "errors", "ids", "log"),
    ("model",),
    ("serializers",),
    ("templates",),
    ("dag",),
    ("engine",),
    ("stores",),
    ("actors",),
    ("xcom",),
    ("runtime",),
    ("",),  # the root package, which re-exports
    ("testing", "otel", "examples"),
    ("cli", "web"),
    ("__main__",),
)
FLOOR_OF: Final = {room: number for number, floor in enumerate(FLOORS) for room in floor}
PURE_ROOMS: Final = frozenset({"model", "serializers", "templates", "dag", "engine"})
LOOPS: Final = frozenset({"aiosqlite", "anyio", "asyncio", "trio"})
OUTSIDE_WORLD: Final = frozenset({"logging", "select", "signal", "socket", "sqlite3", "structlog", "time"})
OTHER_THREADS: Final = frozenset({"multiprocessing", "subprocess", "threading"})
IMPURE: Final = LOOPS | OUTSIDE_WORLD | OTHER_THREADS
LOADED_LATE: Final = frozenset({"cattrs", "msgspec", "orjson", "pydantic", "rich", "trio", "uvloop"})
ROOMS_LOADED_ON_DEMAND: Final = frozenset({"testing", "otel", "cli", "web", "__main__"})
HOMES: Final = {
    "aiosqlite": ("dagrelay.stores.sqlite",),
    "sqlite3": ("dagrelay.stores.sqlite", "dagrelay.testing"),
    "structlog": ("dagrelay.log",),
}
VAGUE_NAMES: Final = frozenset({"utils", "util", "helpers", "common", "misc", "tools"})


def upward_imports(module: Module) -> list[str]:
    """Name the imports that do not go down a floor."""
    own = FLOOR_OF[module.room]
    found: list[str] = []
    for item in imports(module):
        if not item.module.startswith("dagrelay"):
            continue
        room = item.module.partition(".")[2].partition(".")[0]
        floor = FLOOR_OF.get(room, FLOOR_OF[""])  # a name of the root package, as in `from dagrelay import DAG`
        goes_down = floor < own or room == module.room or (floor == own == 0)
        if not goes_down:
            found.append(f"line {item.line} imports {item.module}")
    return found


def relative_imports(module: Module) -> list[str]:
    """Name the imports written with dots, which hide the floor they go to."""
    return [f"line {item.line} imports from .{item.module}" for item in imports(module) if item.is_relative]


def late_first_party_imports(module: Module) -> list[str]:
    """Name the imports of our own modules inside functions, by which cycles are hidden."""
    return [
        f"line {item.line} imports {item.module} in a function"
        for item in imports(module)
        if item.in_function and item.module.startswith("dagrelay")
    ]


def impurities(module: Module) -> list[str]:
    """Name what a pure room imports of loops, I/O, clocks and logs."""
    if module.room not in PURE_ROOMS:
        return []
    return [f"line {item.line} imports {item.module}" for item in imports(module) if item.module.partition(".")[0] in IMPURE]


def early_imports(module: Module) -> list[str]:
    """Name the packages loaded with the module that must wait until they are needed."""
    if module.room in ROOMS_LOADED_ON_DEMAND:
        return []
    return [
        f"line {item.line} imports {item.module} at once"
        for item in imports(module)
        if item.module.partition(".")[0] in LOADED_LATE and not item.in_function and not item.for_types_only
    ]


def strays(module: Module) -> list[str]:
    """Name the imports of packages that only one room may use."""
    found: list[str] = []
    for item in imports(module):
        homes = HOMES.get(item.module.partition(".")[0])
        if homes is None or item.for_types_only:
            continue
        if not any(module.name == home or module.name.startswith(f"{home}.") for home in homes):
            found.append(f"line {item.line} imports {item.module}, which belongs to {' and '.join(homes)}")
    return found


def oversizes(module: Module) -> list[str]:
    """Name what is over a ceiling: 500 lines a module, 70 a function, 6 positional parameters."""
    found: list[str] = []
    lines = len(module.text.splitlines())
    if lines > 500:
        found.append(f"{lines} lines")
    for function in functions(module):
        length = (function.end_lineno or function.lineno) - function.lineno + 1
        if length > 70:
            found.append(f"{function.name} has {length} lines")
        parameters = [*function.args.posonlyargs, *function.args.args]
        count = sum(parameter.arg not in {"self", "cls"} for parameter in parameters)
        if count > 6:
            found.append(f"{function.name} has {count} positional parameters")
    return found


def vague_names(module: Module) -> list[str]:
    """Name the parts of the module's name that say nothing."""
    return [part for part in module.name.split(".") if part.strip("_") in VAGUE_NAMES]


RULES: Final[tuple[Callable[[Module], list[str]], ...]] = (
    upward_imports,
    relative_imports,
    late_first_party_imports,
    impurities,
    early_imports,
    strays,
    oversizes,
    vague_names,
)

BROKEN: Final = [
    pytest.param(upward_imports, parse("import dagrelay.stores.base", "dagrelay.engine.machine"), id="upward"),
    pytest.param(upward_imports, parse("from dagrelay import DAG", "dagrelay.runtime.context"), id="root"),
    pytest.param(upward_imports, parse("from dagrelay import stores", "dagrelay.model.states"), id="upward-from-root"),
    pytest.param(upward_imports, parse("from dagrelay.examples import x", "dagrelay.otel"), id="sideways"),
    pytest.param(relative_imports, parse("from . import states"), id="relative"),
    pytest.param(late_first_party_imports, parse("def f():\n    from dagrelay.errors import Skip"), id="late"),
    pytest.param(impurities, parse("def f():\n    import asyncio.events", "dagrelay.engine.machine"), id="impure"),
    pytest.param(early_imports, parse("import cattrs.preconf", "dagrelay.serializers.converter"), id="early"),
    pytest.param(strays, parse("import sqlite3", "dagrelay.stores.memory"), id="stray"),
    pytest.param(strays, parse("from structlog import get_logger", "dagrelay.logs"), id="stray-logger"),
    pytest.param(oversizes, parse("x = 1\n" * 501), id="long-module"),
    pytest.param(oversizes, parse("def f():\n" + "    x = 1\n" * 70), id="long-function"),
    pytest.param(oversizes, parse("def f(a, b, /, c, d, e, f, g): ..."), id="many-parameters"),
    pytest.param(vague_names, parse("", "dagrelay.xcom._utils"), id="vague-name"),
]

ALLOWED: Final = [
    pytest.param(upward_imports, parse("import dagrelay.model.states", "dagrelay.engine.machine"), id="down"),
    pytest.param(upward_imports, parse("from dagrelay.errors import Skip", "dagrelay.ids"), id="ground-floor"),
    pytest.param(upward_imports, parse("from dagrelay import DAG", "dagrelay.examples.weather"), id="root-from-above"),
    pytest.param(late_first_party_imports, parse("def f():\n    import cattrs"), id="late-third-party"),
    pytest.param(impurities, parse("import asyncio", "dagrelay.runtime.attempt"), id="impure-above"),
    pytest.param(early_imports, parse("if TYPE_CHECKING:\n    import cattrs"), id="for-types"),
    pytest.param(strays, parse("import sqlite3", "dagrelay.stores.sqlite.driver"), id="at-home"),
    pytest.param(oversizes, parse("def f(self, a, b, c, d, e, f, *, g, h): ...\n" + "x = 1\n" * 499), id="at-the-ceiling"),
]


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.name)
def test_each_room_stands_on_a_floor(module: Module) -> None:
    """A new package is put on a floor before anything is written in it."""
    assert module.room in FLOOR_OF


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.name)
def test_the_library_keeps_the_rule(module: Module, rule: Callable[[Module], list[str]]) -> None:
    """No module of the library breaks a rule of the house."""
    assert rule(module) == []


@pytest.mark.parametrize(("rule", "module"), BROKEN)
def test_the_rule_sees_a_planted_breach(rule: Callable[[Module], list[str]], module: Module) -> None:
    """Each rule can fail."""
    assert len(rule(module)) == 1


@pytest.mark.parametrize(("rule", "module"), ALLOWED)
def test_the_rule_lets_pass_what_is_allowed(rule: Callable[[Module], list[str]], module: Module) -> None:
    """No rule forbids more than it says."""
    assert rule(module) == []
