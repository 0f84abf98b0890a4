"""SQL is made of the library's own constants; whatever comes from elsewhere goes in as a parameter.

The rule is read off the source: each statement is traced back, through names, functions and their callers, to constants.
"""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING, Final

import attrs
import pytest

from tests.unit.sources import MODULES, Module, functions, parse

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

SINKS: Final = frozenset({"execute", "executemany", "executescript", "execute_fetchall", "execute_insert"})
"""What takes a statement as its first argument."""
PATTERN_WORDS: Final = re.compile(r"\b(LIKE|GLOB|REGEXP|MATCH)\b")

Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
Scope = tuple[Module, tuple[Function, ...]]
"""A module, and the functions around a place in it, the outermost first."""


@attrs.define
class Tracer:
    """Tells of expressions whether they are made of constants only."""

    modules: Sequence[Module]
    _calls: dict[str, list[tuple[ast.Call, tuple[Function, ...]]]] = attrs.field(init=False)
    _seen: set[tuple[str, str, int]] = attrs.field(init=False, factory=set[tuple[str, str, int]])

    def __attrs_post_init__(self) -> None:
        """List the calls once."""
        self._calls = {module.name: list(calls_in(module)) for module in self.modules}

    def findings(self) -> list[str]:
        """Name every statement that is not."""
        found: list[str] = []
        for module in self.modules:
            for call, around in self._calls[module.name]:
                # A method of that name hands on what it was given; whoever calls it is looked at.
                is_hand_on = any(not isinstance(each, ast.Lambda) and each.name in SINKS for each in around)
                if called(call) not in SINKS or is_hand_on:
                    continue
                if not call.args or not self.is_constant(call.args[0], (module, around)):
                    found.append(f"{module.name}: {ast.unparse(call)[:80]}")
        return found

    def is_constant(self, node: ast.expr, scope: Scope) -> bool:
        """Tell whether an expression can have no text in it that is not in the source."""

        def are(nodes: Sequence[ast.expr]) -> bool:
            return all(self.is_constant(each, scope) for each in nodes)

        match node:
            case ast.Constant() | ast.Call(func=ast.Name(id="range" | "len")):  # The latter are numbers.
                return True
            case ast.JoinedStr(values=values):
                return are([each.value if isinstance(each, ast.FormattedValue) else each for each in values])
            case ast.BinOp(left=left, op=ast.Add(), right=right):
                return are([left, right])
            case ast.BinOp(left=left, op=ast.Mult()):
                return self.is_constant(left, scope)  # The other side says how often.
            case ast.Tuple(elts=elements) | ast.List(elts=elements):
                return are(elements)
            case ast.Dict(values=elements):
                return are(elements)
            case ast.Subscript(value=container):
                return self.is_constant(container, scope)
            case ast.Name(id=name):
                return self._is_constant_name(name, scope)
            case ast.Attribute(value=ast.Name(id=place), attr=name):
                return self._is_constant_elsewhere(place, name)
            case ast.Call(func=ast.Attribute(value=text, attr="join" | "replace"), args=arguments):
                return are([text, *arguments])
            case ast.Call(func=ast.Name(id=name)):
                return self._returns_constants(name, scope[0])
            case _:
                return False

    def _is_constant_name(self, name: str, scope: Scope) -> bool:
        module, around = scope
        place = (module.name, name, id(around[-1]) if around else 0)
        if place in self._seen:
            return True  # It is being looked at: `question += ...` adds to itself.
        self._seen.add(place)
        try:
            for depth in range(len(around), 0, -1):
                inside = (module, around[:depth])
                bound = list(bindings(around[depth - 1], name))
                if bound:
                    return all(self.is_constant(each, inside) for each in bound)
                if name in parameters(around[depth - 1]):
                    return self._is_given_constants(around[depth - 1], name)
            bound = list(bindings(module.tree, name))
            if bound:
                return all(self.is_constant(each, (module, ())) for each in bound)
            return self._is_constant_elsewhere("", name)
        finally:
            self._seen.discard(place)

    def _is_constant_elsewhere(self, place: str, name: str) -> bool:
        """Look for a constant of another module of the library, by the last part of that module's name if it is known."""
        homes = [each for each in self.modules if not place or each.name.rpartition(".")[2] == place]
        found = [(each, bound) for each in homes for bound in bindings(each.tree, name)]
        return name.strip("_").isupper() and bool(found) and all(self.is_constant(bound, (each, ())) for each, bound in found)

    def _is_given_constants(self, function: Function, name: str) -> bool:
        """Tell whether everybody who calls the function gives it constants."""
        if isinstance(function, ast.Lambda):
            return False
        names = parameters(function)
        position = names.index(name) - (1 if names[0] in {"self", "cls"} else 0)
        given: list[bool] = []
        for module in self.modules:
            for call, around in self._calls[module.name]:
                if called(call) != function.name:
                    continue
                argument = next((each.value for each in call.keywords if each.arg == name), None)
                if argument is None and position < len(call.args):
                    argument = call.args[position]
                given.append(argument is not None and self.is_constant(argument, (module, around)))
        return bool(given) and all(given)

    def _returns_constants(self, name: str, module: Module) -> bool:
        """Tell whether a function of the module returns constants only."""
        for function in functions(module):
            if function.name == name:
                returned = [each.value for each in ast.walk(function) if isinstance(each, ast.Return) and each.value is not None]
                return bool(returned) and all(self.is_constant(each, (module, (function,))) for each in returned)
        return False


def called(call: ast.Call) -> str:
    """Return the name of what is called, without what it is an attribute of."""
    match call.func:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
        case _:
            return ""


def parameters(function: Function) -> list[str]:
    """Return the names of a function's parameters."""
    given = function.args
    return [each.arg for each in (*given.posonlyargs, *given.args, *given.kwonlyargs)]


def calls_in(module: Module) -> Iterator[tuple[ast.Call, tuple[Function, ...]]]:
    """Return every call in a module with the functions around it."""
    waiting: list[tuple[ast.AST, tuple[Function, ...]]] = [(module.tree, ())]
    while waiting:
        node, around = waiting.pop()
        if isinstance(node, ast.Call):
            yield node, around
        inner = (*around, node) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)) else around
        waiting += [(each, inner) for each in ast.iter_child_nodes(node)]


def bindings(parent: ast.AST, name: str) -> Iterator[ast.expr]:
    """Return every expression that a name is bound to in a function, or at the top of a module."""
    nodes = parent.body if isinstance(parent, ast.Module) else ast.walk(parent)
    for node in nodes:
        match node:
            case ast.Assign(targets=targets, value=value):
                for target in targets:
                    yield from _bound(target, value, name)
            case ast.AnnAssign(target=target, value=ast.expr() as value) | ast.AugAssign(target=target, value=value):
                yield from _bound(target, value, name)
            case ast.For(target=ast.Tuple() as target, iter=ast.Tuple(elts=rows)):
                for row in rows:
                    yield from _bound(target, row, name)
            case ast.For(target=target, iter=value):
                yield from _bound(target, value, name)
            case _:
                pass


def _bound(target: ast.expr, value: ast.expr, name: str) -> Iterator[ast.expr]:
    match target, value:
        case ast.Name(id=found), _ if found == name:
            yield value
        case ast.Tuple(elts=targets), ast.Tuple(elts=values):
            for one, other in zip(targets, values, strict=False):
                yield from _bound(one, other, name)
        case ast.Tuple(elts=targets), _:
            for one in targets:
                yield from _bound(one, value, name)
        case _:
            pass


def texts(module: Module) -> Iterator[str]:
    """Return every text constant in a module but its docstrings and other bare texts."""
    bare = {id(node.value) for node in ast.walk(module.tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in bare:
            yield node.value


def test_every_statement_is_made_of_constants() -> None:
    """No text of anybody's, checked or not, becomes a part of one."""
    assert Tracer(MODULES).findings() == []


def test_no_statement_matches_patterns() -> None:
    """To LIKE, `%`, `_` and case mean something; prefixes are compared letter by letter instead, so nothing needs escaping."""
    found = [text for module in MODULES if module.room == "stores" for text in texts(module) if PATTERN_WORDS.search(text)]

    assert found == []


PLANTED: Final = {
    "an argument": "def f(cursor, name):\n    cursor.execute(name)",
    "a formatted argument": "def f(cursor, name):\n    cursor.execute(f'SELECT {name}')\n\ndef g(c, row):\n    f(c, row.name)",
    "an added argument": "def f(cursor, row):\n    question = 'SELECT '\n    question += row[0]\n    cursor.execute(question)",
    "an attribute": "def f(cursor, query):\n    cursor.execute('SELECT * FROM run ORDER BY ' + query.order)",
    "the percent sign": "def f(cursor, name):\n    cursor.execute('SELECT %s' % name)",
    "format": "def f(cursor, name):\n    cursor.execute('SELECT {}'.format(name))",
    "a call": "def f(cursor):\n    cursor.execute(input())",
    "a join": "def f(cursor, names):\n    cursor.execute('SELECT ' + ', '.join(names))",
    "a replacement": "STATEMENT = 'SELECT {x}'\ndef f(cursor, name):\n    cursor.execute(STATEMENT.replace('{x}', name))",
    "a local function": "def make(x):\n    return 'SELECT ' + x\ndef f(cursor):\n    cursor.execute(make(input()))",
    "many": "def f(cursor, names):\n    cursor.executemany(names[0], [])",
    "a script": "def f(cursor, names):\n    cursor.executescript(names)",
}


@pytest.mark.parametrize("text", PLANTED.values(), ids=PLANTED)
def test_a_planted_statement_is_seen(text: str) -> None:
    """The rule can fail."""
    assert len(Tracer([parse(text)]).findings()) == 1


HARMLESS: Final = {
    "a constant": "A = 'SELECT ' + 'x'\ndef f(cursor, name):\n    cursor.execute(A + ' WHERE x = ?', (name,))",
    "places": "def f(cursor, names):\n    cursor.execute(f\"SELECT IN ({', '.join('?' * len(names))})\", names)",
    "a map": "ORDERS = {'a': 'x', 'b': 'y'}\ndef f(cursor, by):\n    cursor.execute('ORDER BY ' + ORDERS[by])",
    "a parameter of constants": "def f(cursor, name):\n    cursor.execute(f'PRAGMA {name}')\ndef g(c):\n    f(c, 'x')",
}


@pytest.mark.parametrize("text", HARMLESS.values(), ids=HARMLESS)
def test_a_harmless_statement_is_let_pass(text: str) -> None:
    """The rule forbids no more than it says."""
    assert Tracer([parse(text)]).findings() == []
