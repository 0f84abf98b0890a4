"""A stored value comes back as plain data, whatever its keys say; nothing in the store names a class, a function or a module."""

from __future__ import annotations

import marshal
import pickle
import sys
from typing import TYPE_CHECKING, Any, Final

import attrs
import pytest

from dagrelay import DAG, Runtime, XComSerializationError, XComTypeError
from tests.security.forgery import forge_entry

if TYPE_CHECKING:
    from pathlib import Path

REVIVED: Final[list[str]] = []
"""What was called though it should not have been."""


def revive(word: str = "called") -> str:
    """Note that it was called."""
    REVIVED.append(word)
    return word


class Bomb:
    """Calls `revive` when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Say how to be made again."""
        return revive, ("unpickled",)


HERE: Final = __name__
VALUES: Final[dict[str, Any]] = {
    "class": {"__class__": f"{HERE}.Bomb", "k": 1},
    "reduce": {"__reduce__": [f"{HERE}.revive", ["called"]]},
    "init": {"__init__": {"__globals__": {}}},
    "module": {"__module__": "os", "__qualname__": "system", "args": ["id"]},
    "proto": {"__proto__": {"polluted": True}, "constructor": {"prototype": {}}},
    "dollar type": {"$type": "System.Diagnostics.Process, System", "$values": []},
    "dollar ref": {"$ref": "#/definitions/x", "$id": "1"},
    "at type": {"@type": "java.lang.Runtime", "@class": "x"},
    "jsonpickle": {"py/object": f"{HERE}.Bomb", "py/reduce": [{"py/function": f"{HERE}.revive"}, {"py/tuple": ["called"]}]},
    "langchain": {"lc": 2, "type": "constructor", "id": [*HERE.split("."), "revive"], "kwargs": {"word": "called"}},
    "airflow": {"__classname__": f"{HERE}.Bomb", "__version__": 1, "__data__": {"word": "called"}},
    "airflow var": {"__type": "dict", "__var": {"a": 1}},
    "yaml": f"!!python/object/apply:{HERE}.revive ['called']",
    "celery": {"__type__": "Bomb", "__value__": "called"},
    "union tag": {"_type": "Bomb", "type": f"{HERE}:Bomb"},
    "attrs": {"__attrs_attrs__": [], "__dataclass_fields__": {}},
    "pydantic": {"__pydantic_validator__": "x", "model_config": {}},
    "pickle text": pickle.dumps(Bomb(), protocol=0).decode("ascii"),
    "code": "__import__('os').system('id')",
}


@attrs.frozen
class Plain:
    """A class with one field, to ask for."""

    k: int


async def test_a_value_that_names_classes_is_plain_data(tmp_path: Path) -> None:
    """It comes back equal and of the exact types, through a handler, from outside, and in a later runtime."""
    dag = DAG("d")

    @dag.task
    async def give(name: str) -> Any:
        return VALUES[name]

    @dag.task
    async def take(got: Any = give.output) -> Any:
        return got

    before = set(sys.modules)
    async with Runtime(tmp_path / "runs.db") as runtime:
        for number, (name, value) in enumerate(VALUES.items()):
            result = await runtime.run(dag, run_id=f"r{number}", params={"name": name})
            assert same(result[take], value), name
            await runtime.xcom.push(f"r{number}", "give", "outside", value)
    async with Runtime(tmp_path / "runs.db") as runtime:
        for number, (name, value) in enumerate(VALUES.items()):
            assert same(await runtime.xcom.pull(f"r{number}", "take"), value), name
            (listed,) = await runtime.xcom.list(f"r{number}", "give", prefix="outside", include_values=True)
            assert same(listed.value, value), name
            # The type is the reader's to say, never the value's: what does not fit it is an error.
            with pytest.raises(XComTypeError):
                await runtime.xcom.pull(f"r{number}", "take", as_type=Plain)
    assert REVIVED == []
    assert {name for name in set(sys.modules) - before if name.partition(".")[0] in {"os", "pickle", "yaml"}} == set()


def same(one: object, other: object) -> bool:
    """Tell whether two values are equal and of the same types all through, which their texts tell apart."""
    return type(one) is type(other) and one == other and repr(one) == repr(other)


ROWS: Final[dict[str, tuple[str, bytes]]] = {
    "pickle under json": ("json", pickle.dumps(Bomb())),
    "pickle under pickle": ("pickle", pickle.dumps(Bomb())),
    "pickle under its module": (f"{HERE}.revive", pickle.dumps(Bomb())),
    "marshal": ("marshal", marshal.dumps(compile(f"import {HERE}", "x", "exec"))),
    "json under a module": ("os.system", b'"id"'),
    "json under an entry point": (f"{HERE}:revive", b'"called"'),
    "json under msgpack": ("msgpack", b'"called"'),
    "json under another case": ("JSON", b'"called"'),
    "json under a path": ("../json", b'"called"'),
    "json under nothing": ("", b'"called"'),
}


async def test_a_forged_row_revives_nothing(tmp_path: Path) -> None:
    """Even with right checksums: the serializer named is looked up among those registered, and bytes are read as JSON or not."""
    path = tmp_path / "runs.db"
    async with Runtime(path) as runtime:
        for name in ROWS:
            await runtime.xcom.push("r", "t", name, "honest")
    for name, (serializer, data) in ROWS.items():
        forge_entry(path, name, serializer=serializer, value=data)
    async with Runtime(path) as runtime:
        for name, (serializer, _) in ROWS.items():
            with pytest.raises(XComSerializationError):
                await runtime.xcom.pull("r", "t", name)
            with pytest.raises(XComSerializationError):
                await runtime.xcom.list("r", prefix=name, include_values=True)
            assert [entry.serializer for entry in await runtime.xcom.list("r", prefix=name) if entry.key == name] == [serializer]
    assert REVIVED == []
