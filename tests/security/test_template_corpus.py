"""Payloads against template languages are text here, or errors: nothing is evaluated, and no attribute of a value is reached."""

from __future__ import annotations

from typing import Any, Final

import pytest

from dagrelay import (
    DAG,
    DagrelayError,
    DAGValidationError,
    MemoryStore,
    RunFailedError,
    Runtime,
    TemplateError,
    XComNotFoundError,
    resolve_templates,
    template,
)
from dagrelay.templates import Expression, parse, render

# Shapes of known attacks on Jinja, Mako, Twig, Freemarker, ERB, JavaScript and Python's own format languages, and on ours.
PAYLOADS: Final = {
    "product": "{{ 7*7 }}",
    "product of text": "{{ '7'*7 }}",
    "classes": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "classes of a list": "{{ [].__class__.__base__.__subclasses__()[104].__init__.__globals__ }}",
    "configuration": "{{ config.items() }}",
    "configuration class": "{{ config.__class__.__init__.__globals__['os'].popen('id').read() }}",
    "cycler": "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "lipsum": '{{ lipsum.__globals__["os"].popen("id").read() }}',
    "self": "{{ self._TemplateReference__context.cycler.__init__.__globals__.os }}",
    "attr filter": "{{ request|attr('application')|attr('\\x5f\\x5fglobals\\x5f\\x5f') }}",
    "block": "{% for x in ().__class__.__base__.__subclasses__() %}{{ x }}{% endfor %}",
    "set block": "{% set x = cycler.__init__ %}{{ x }}",
    "import": "{{ __import__('os').system('id') }}",
    "range": "{{ range(10000000000) }}",
    "dollar": "${7*7}",
    "dollar import": "${__import__('os').system('id')}",
    "mako": "<% import os %>${os.system('id')}",
    "erb": "<%= 7*7 %>",
    "hash": "#{7*7}",
    "freemarker": '<#assign ex="freemarker.template.utility.Execute"?new()>${ex("id")}',
    "twig": "{{ _self.env.registerUndefinedFilterCallback('exec') }}{{ _self.env.getFilter('id') }}",
    "n8n": "={{ (function(){ return this.process.mainModule.require('child_process').execSync('id') })() }}",
    "constructor": "{{ this.constructor.constructor('return process')() }}",
    "json root": "{{ $json.constructor }}",
    "format class": "{0.__class__.__init__.__globals__}",
    "format name": "{xcom.__class__}",
    "percent": "%(password)s %s %x",
    "f-string": "{__import__('os')}",
    "string template": "$password ${password}",
    "own class": "{{ xcom.a.value.__class__ }}",
    "own class by item": '{{ xcom.a.value["__class__"] }}',
    "own globals": "{{ xcom.a.value.__init__.__globals__ }}",
    "own method": "{{ xcom.a.value.items }}",
    "own call": "{{ xcom.a.value.items() }}",
    "own list method": "{{ xcom.a.list.append }}",
    "own text method": "{{ xcom.a.text.upper }}",
    "own product": "{{ xcom.a.list[7*7] }}",
    "own slice": "{{ xcom.a.list[0:1] }}",
    "own filter": '{{ xcom.a.value | attr("__class__") }}',
    "own map": '{{ xcom.a.value | map("__class__") }}',
    "own format": '{{ xcom.a.text | format("x") }}',
    "own sum": "{{ xcom.a.number + 1 }}",
    "own condition": "{{ xcom.a.number if 1 else 2 }}",
    "own not": "{{ not xcom.a.number }}",
    "own nested": "{{ xcom.a.{{ run.id }} }}",
    "own task": "{{ xcom.__class__.__init__ }}",
    "own run": "{{ run.__class__ }}",
    "own run id": "{{ run.id.__class__ }}",
    "own run id method": "{{ run.id.upper() }}",
    "own underscore": "{{ xcom._store }}",
    "own params": "{{ params.__class__ }}",
    "own default": "{{ xcom.a.gone | default(__import__('os')) }}",
    "own default call": "{{ xcom.a.gone | default(range(3)) }}",
    "own join": '{{ ",".join("a") }}',
}
VALUES: Final[dict[str, Any]] = {
    "value": {"k": 1},
    "list": [1, 2],
    "text": "words",
    "number": 7,
}
REFUSED: Final = (TemplateError, XComNotFoundError)


@pytest.mark.parametrize("foreign", ["keep", "error"])
async def test_a_payload_is_kept_as_text_or_refused(foreign: Any) -> None:
    """Outside a DAG a foreign expression is kept letter by letter, or refused; one that begins as ours is refused."""
    async with Runtime(MemoryStore()) as runtime:
        for key, value in VALUES.items():
            await runtime.xcom.push("r", "a", key, value)
        for name, payload in PAYLOADS.items():
            try:
                result = await resolve_templates(payload, "r", runtime.xcom, foreign=foreign)
            except REFUSED:
                assert "{{" in payload, name
                continue
            assert result == payload, name
            assert "{{" not in payload or foreign == "keep", name


async def test_a_payload_in_a_dag_is_refused_or_is_text() -> None:
    """In a parameter and in a config: planning finds it, or the task fails, or the handler gets it letter by letter."""
    async with Runtime(MemoryStore()) as runtime:
        for name, payload in PAYLOADS.items():
            dag = DAG("d")

            @dag.task
            async def a() -> dict[str, Any]:
                return {"k": 1}

            async def reader(text: Any = template(payload)) -> Any:  # noqa: B008 - planned within the turn of the loop
                return text

            dag.add(reader, id="reader", depends_on=a)
            try:
                result = await runtime.run(dag)
            except (DAGValidationError, RunFailedError):
                assert "{{" in payload, name
                continue
            assert result["reader"] == payload, name
            assert "{{" not in payload, name


async def test_a_value_is_never_rendered() -> None:
    """Payloads come out of values as they went in, in text and alone, by one template or through a second run."""
    async with Runtime(MemoryStore()) as runtime:
        for name, payload in PAYLOADS.items():
            await runtime.xcom.push("r", "a", "payload", {"inner": payload})
            for native in (False, True):
                found = await resolve_templates("{{ xcom.a.payload.inner }}", "r", runtime.xcom, native=native)
                assert found == payload, name
            assert await resolve_templates("<{{ xcom.a.payload.inner }}>", "r", runtime.xcom) == f"<{payload}>", name


class Trap:
    """Notes whatever is asked of it by name, item, call or text."""

    reached: list[str]

    def __init__(self) -> None:
        """Note nothing yet."""
        object.__setattr__(self, "reached", [])

    def __getattribute__(self, name: str) -> Any:
        """Note the name, but for the notes themselves, and for what `isinstance` asks of everything."""
        if name not in {"reached", "__class__"}:
            object.__getattribute__(self, "reached").append(name)
        return object.__getattribute__(self, name)

    def __getitem__(self, key: object) -> Any:
        """Note the key."""
        self.reached.append(f"[{key!r}]")

    def __len__(self) -> int:
        """Note the question."""
        self.reached.append("len")
        return 1

    def __iter__(self) -> Any:
        """Note the question."""
        self.reached.append("iter")
        return iter("x")

    def __str__(self) -> str:
        """Note the question."""
        self.reached.append("str")
        return "trap"

    __repr__ = __str__

    def __format__(self, spec: str) -> str:
        """Note the question."""
        self.reached.append("format")
        return "trap"

    def __call__(self) -> None:
        """Note the call."""
        self.reached.append("call")


class OneValue:
    """A scope in which everything is one value."""

    def __init__(self, value: object) -> None:
        """Take it."""
        self.value = value

    def get(self, expression: Expression) -> object:
        """Return it."""
        del expression
        return self.value


@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize(
    "text",
    [
        "{{ xcom.a }}",
        "<{{ xcom.a }}>",
        "{{ xcom.a.value.__class__ }}",
        "{{ xcom.a.value.reached }}",
        "{{ xcom.a.value[0] }}",
        '{{ xcom.a.value["k"] }}',
        "{{ xcom.a | length }}",
        '{{ xcom.a | join(",") }}',
        "{{ xcom.a | default(1) }}",
        "{{ xcom.a | tojson }}",
    ],
)
def test_no_attribute_of_an_unknown_object_is_reached(text: str, native: bool) -> None:
    """A value that is no plain dict, list, text or number is refused by its exact type, before anything is asked of it."""
    trap = Trap()
    try:
        result = render(parse(text, foreign="keep"), OneValue(trap), native=native)
    except DagrelayError:
        result = None
    assert trap.reached == []
    assert result is None or result is trap or result == text
