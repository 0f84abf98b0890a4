"""What went wrong elsewhere, each tried here under the number it has there; `.github/docs/guarantees.md` tells of each."""

from __future__ import annotations

import json
import pickle
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import anyio
import pytest

from dagrelay import DAG, InvalidIdError, Runtime, XComSerializationError, resolve_templates, template
from dagrelay.cli.main import main
from tests.security.dumps import dump
from tests.security.forgery import forge_entry
from tests.unit.sources import MODULES, Module, imports, parse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DOCUMENT: Final = Path(__file__).parents[2] / ".github" / "docs" / "guarantees.md"
CALLED: Final[list[str]] = []
"""What was called though it should not have been."""


def planted(*words: str) -> str:
    """Note that it was called."""
    CALLED.append(" ".join(words))
    return "planted"


class Bomb:
    """Calls `planted` when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Say how to be made again."""
        return planted, ("unpickled",)


CONSTRUCTOR: Final[dict[str, Any]] = {
    "lc": 2,
    "type": "constructor",
    "id": [*__name__.split("."), "planted"],
    "args": ["called"],
    "kwargs": {},
}


async def test_cve_2025_64439_langgraph_a_failed_encoding_falls_back_to_nothing(tmp_path: Path) -> None:
    """There, text with a lone surrogate went to a second format, whose reader made objects. Here it is refused."""
    async with Runtime(tmp_path / "runs.db") as runtime:
        with pytest.raises(XComSerializationError):
            await runtime.xcom.push("r", "t", "k", {**CONSTRUCTOR, "trigger": "\ud800"})
        await runtime.xcom.push("r", "t", "k", CONSTRUCTOR)
        assert await runtime.xcom.pull("r", "t", "k") == CONSTRUCTOR
        (entry,) = await runtime.xcom.list("r")
        assert entry.serializer == "json"
    assert CALLED == []


FILTERS: Final = ("x') OR 1=1 --", "$.a') UNION SELECT value FROM xcom --", "'; DROP TABLE run; --", "%", "_")


async def test_cve_2025_67644_langgraph_a_filter_is_no_sql(tmp_path: Path) -> None:
    """There, the key of a metadata filter was pasted into the query. Here whatever is filtered by is a parameter."""
    path = tmp_path / "runs.db"
    async with Runtime(path) as runtime:
        await runtime.run(DAG("d", tags=["t"]), run_id="r")
        await runtime.xcom.push("r", "t", "k", 1)
        for text in FILTERS:
            assert await runtime.runs(tags=[text]) == []
            assert await runtime.xcom.list("r", prefix=text) == []
            assert await runtime.xcom.pull("r", "t", text, default="none") == "none"
            with pytest.raises(InvalidIdError):
                await runtime.runs(dag_id=text + "'")
    assert dump(path).counts["run"] == 1


FORGED: Final = {
    "CVE-2026-28277 langgraph: msgpack": ("msgpack", b"\xc7\x05\x00hello"),
    "CVE-2026-28277 langgraph: msgpack under json": ("json", b"\xc7\x05\x00hello"),
    "CVE-2026-48775 langgraph: constructor in JSON": ("json+constructor", json.dumps(CONSTRUCTOR).encode()),
    "CVE-2026-25917 airflow: pickle": ("pickle", pickle.dumps(Bomb())),
    "CVE-2026-25917 airflow: pickle under json": ("json", pickle.dumps(Bomb())),
}


@pytest.mark.parametrize(("serializer", "data"), FORGED.values(), ids=FORGED)
async def test_cve_2026_28277_and_cve_2026_48775_langgraph_changed_bytes_make_no_object(
    tmp_path: Path, serializer: str, data: bytes
) -> None:
    """There, whoever could write the store had code run by its readers. Here the bytes are JSON of plain values, or an error."""
    path = tmp_path / "runs.db"
    async with Runtime(path) as runtime:
        await runtime.xcom.push("r", "t", "k", 1)
    forge_entry(path, "k", serializer=serializer, value=data)
    async with Runtime(path) as runtime:
        with pytest.raises(XComSerializationError):
            await runtime.xcom.pull("r", "t", "k")
    assert CALLED == []


async def test_cve_2026_48775_langgraph_a_constructor_in_json_is_a_dict(tmp_path: Path) -> None:
    """Under the serializer that there is, forged with right checksums, it comes back as the plain dict it is."""
    path = tmp_path / "runs.db"
    async with Runtime(path) as runtime:
        await runtime.xcom.push("r", "t", "k", 1)
    forge_entry(path, "k", value=json.dumps(CONSTRUCTOR).encode())
    async with Runtime(path) as runtime:
        assert await runtime.xcom.pull("r", "t", "k") == CONSTRUCTOR
    assert CALLED == []


AIRFLOW: Final[dict[str, Any]] = {
    "__classname__": f"{__name__}.Bomb",
    "__version__": 1,
    "__data__": {"__reduce__": "planted"},
}


def test_cve_2026_25917_airflow_a_viewer_makes_no_object(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """There, looking at a value in the web view rebuilt it. Here the viewer prints the JSON, forged rows included."""
    path = tmp_path / "runs.db"

    async def fill() -> None:
        async with Runtime(path) as runtime:
            await runtime.xcom.push("r", "t", "airflow", AIRFLOW)
            await runtime.xcom.push("r", "t", "pickled", 1)

    anyio.run(fill)
    forge_entry(path, "pickled", serializer="pickle", value=pickle.dumps(Bomb()))
    assert main(["xcom", "get", "r", "t", "airflow", "--store", str(path)]) == 0
    assert json.loads(capsys.readouterr().out) == AIRFLOW
    assert main(["xcom", "list", "r", "--store", str(path)]) == 0
    assert main(["xcom", "list", "r", "--values", "--store", str(path)]) == 2
    assert main(["xcom", "get", "r", "t", "pickled", "--store", str(path)]) == 2
    assert CALLED == []


TEMPLATES: Final = {
    "CVE-2024-56373 airflow": "{{ ''.__class__.__mro__[1].__subclasses__() }}{{ cycler.__init__.__globals__.os.system('id') }}",
    "CVE-2025-68613 n8n": "={{ (function(){ return this.process.mainModule.require('child_process').execSync('id') })() }}",
    "own": "{{ xcom.t.k }}",
}


@pytest.mark.parametrize("text", TEMPLATES.values(), ids=TEMPLATES)
async def test_cve_2024_56373_airflow_and_cve_2025_68613_n8n_stored_text_is_not_evaluated(tmp_path: Path, text: str) -> None:
    """There, a template or an expression that came out of the database was evaluated. Here it is a text among texts."""
    dag = DAG("d", tags=[text])

    @dag.task(description=text)
    async def give(param: str) -> str:
        return param

    async def take(line: Any = template("<{{ xcom.give }}>")) -> str:  # noqa: B008 - a reference, made once
        return str(line)

    dag.add(take, id="take")
    async with Runtime(tmp_path / "runs.db") as runtime:
        assert (await runtime.run(dag, run_id="r", params={"param": text}))["take"] == f"<{text}>"
    async with Runtime(tmp_path / "runs.db") as runtime:
        assert await resolve_templates("{{ xcom.take }}", "r", runtime.xcom) == f"<{text}>"
        run = await runtime.get_run("r")
        assert (run.tags, dict(run.params)) == ((text,), {"param": text})


RUN_IDS: Final = (
    "../../../etc/passwd",
    "..",
    "/etc/cron.d/planted",
    "a/../b",
    "a\\..\\b",
    "%2e%2e%2f",
    "r\0.log",
    ".hidden",
    "~root",
)


async def test_cve_2026_31886_dagu_a_run_id_is_no_path(tmp_path: Path) -> None:
    """There, it became part of the path of a log. Here such an id is refused at every door, and none becomes a path."""
    dag = DAG("d")
    async with Runtime(tmp_path / "runs.db") as runtime:
        asks: list[Callable[[str], Any]] = [
            lambda run_id: runtime.run(dag, run_id=run_id),
            lambda run_id: runtime.start(dag, run_id=run_id),
            lambda run_id: runtime.resume(run_id, dag),
            runtime.get_run,
            runtime.cancel,
            runtime.delete_run,
            lambda run_id: runtime.xcom.push(run_id, "t", "k", 1),
            lambda run_id: runtime.xcom.pull(run_id, "t", "k"),
            runtime.xcom.list,
        ]
        for run_id in RUN_IDS:
            for ask in asks:
                with pytest.raises(InvalidIdError):
                    await ask(run_id)
            with pytest.raises(InvalidIdError):
                runtime.events(run_id)
        assert await runtime.runs() == []
    assert sorted(file.name for file in tmp_path.iterdir()) == ["runs.db", "runs.db.lock"]


# -------------------------------------------------------------------------------------------------- no server yet

SERVERS: Final = frozenset(
    {"aiohttp", "asyncore", "flask", "h11", "http", "hypercorn", "jinja2", "mako", "socketserver", "starlette", "tornado"}
    | {"urllib", "uvicorn", "werkzeug", "wsgiref", "xmlrpc", "requests", "httpx", "ssl", "multiprocessing", "grpc"}
)
LISTENERS: Final = frozenset(
    {"create_server", "start_server", "create_unix_server", "start_unix_server", "create_tcp_listener", "create_unix_listener"}
    | {"open_tcp_listeners", "serve_tcp", "listen", "bind_socket", "serve_forever", "create_connection", "connect_tcp"}
)


def network(module: Module) -> Iterator[str]:
    """Name every way in a module to a network; the room `web` of a later version has rules of its own."""
    if module.room == "web":
        return
    for each in imports(module):
        if each.module.partition(".")[0] in SERVERS:
            yield f"line {each.line} imports {each.module}"
    for line, text in enumerate(module.text.splitlines(), 1):
        for name in LISTENERS:
            if f"{name}(" in text:
                yield f"line {line} calls {name}"
        # The name of the host is all that is asked of it.
        if "socket." in text.replace("socket.gethostname()", ""):
            yield f"line {line} uses a socket"


@cache
def networks() -> dict[str, list[str]]:
    """Return what is found in the library, by module."""
    return {module.name: found for module in MODULES if (found := list(network(module)))}


@pytest.mark.parametrize("cve", ["CVE-2025-66414 mcp-sdk", "CVE-2026-7723 prefect", "CVE-2026-3514 prefect"])
def test_there_is_no_server_yet(cve: str) -> None:
    """They need one that answers without looking at Host, or leaves paths out of its authentication: nothing here listens."""
    assert networks() == {}, cve


@pytest.mark.parametrize("text", ["import http.server", "from wsgiref import x", "asyncio.start_server(f)", "socket.socket()"])
def test_a_planted_server_is_seen(text: str) -> None:
    """The rule can fail, and leaves the room of the web view alone."""
    assert len(list(network(parse(text)))) == 1
    assert list(network(parse(text, "dagrelay.web.server"))) == []


async def test_a_run_opens_no_socket_that_listens(tmp_path: Path) -> None:
    """By what the kernel says of this process."""
    before = listening()
    async with Runtime(tmp_path / "runs.db") as runtime:
        await runtime.run(DAG("d"))
        assert listening() == before


def listening() -> set[str]:
    """Return the inodes of this process' sockets in state LISTEN (0A)."""
    own: set[str] = set()
    for each in Path("/proc/self/fd").iterdir():
        try:
            own.add(str(each.readlink()).removeprefix("socket:[").removesuffix("]"))
        except OSError:  # It was closed meanwhile.
            continue
    lines = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/self/net/{name}").read_text().splitlines()[1:]]
    return own & {words[9] for words in lines if words[3] == "0A"}


def test_the_document_tells_of_each_by_its_test() -> None:
    """Number and name of a test stand in one row, and every name is one of this file's."""
    rows = [line for line in DOCUMENT.read_text(encoding="utf-8").splitlines() if line.startswith("| CVE-")]
    source = Path(__file__).read_text(encoding="utf-8")
    numbers = {row.split("|")[1].strip() for row in rows}
    assert len(numbers) == len(rows) == 11
    for row in rows:
        number, name = row.split("|")[1].strip(), row.split("|")[-2].strip().strip("`")
        assert f"def {name}(" in source, row
        assert number in source or number.lower().replace("-", "_") in name, row
