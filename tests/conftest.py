"""What all tests share: the loops they run on, the `--full` sweeps, missing tools, and the table of figures at the end."""

from __future__ import annotations

import asyncio
import os
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest

from tests.legality import judge_all_writes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from _pytest.terminal import TerminalReporter

_FIGURE = "figure"

# A shared machine is slow now and then, which is no finding; the global timeout catches what hangs.
hypothesis.settings.register_profile("dagrelay", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.register_profile("full", parent=hypothesis.settings.get_profile("dagrelay"), max_examples=2_000)


def _new_eager_loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    if sys.version_info >= (3, 12):
        loop.set_task_factory(asyncio.eager_task_factory)
    return loop


def _backends() -> dict[str, tuple[str, dict[str, Any]]]:
    backends: dict[str, tuple[str, dict[str, Any]]] = {"asyncio": ("asyncio", {"debug": True})}
    if sys.version_info >= (3, 12):
        backends["asyncio-eager"] = ("asyncio", {"debug": True, "loop_factory": _new_eager_loop})
    if find_spec("trio") is not None:
        backends["trio"] = ("trio", {})
    return backends


_BACKENDS = _backends()


@pytest.fixture(scope="module", params=list(_BACKENDS.values()), ids=list(_BACKENDS))
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """Run each async test on asyncio in debug mode, with eager tasks where Python has them, and on trio."""
    return request.param


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--full`, which runs long sweeps whole."""
    parser.addoption("--full", action="store_true", help="run long sweeps (kills, faults, seeds) whole instead of in short form")


def pytest_configure(config: pytest.Config) -> None:
    """Choose how many examples Hypothesis tries."""
    hypothesis.settings.load_profile("full" if config.getoption("--full") else "dagrelay")


@pytest.fixture(scope="session", autouse=True)
def legal_states_only() -> Iterator[None]:
    """Refuse any write of a state that the transition tables don't have, in every SQLite store of this process."""
    with pytest.MonkeyPatch.context() as patch:
        judge_all_writes(patch)
        yield


@pytest.fixture(scope="session")
def is_full(pytestconfig: pytest.Config) -> bool:
    """Tell whether long sweeps run whole."""
    return bool(pytestconfig.getoption("--full"))


@pytest.fixture(scope="session")
def missing() -> Callable[[str], None]:
    """Return what a test calls when the machine lacks a tool it needs: a skip, or a failure where all are required."""

    def report(tool: str) -> None:
        if os.environ.get("DAGRELAY_REQUIRE_ALL") == "1":
            pytest.fail(f"this machine lacks {tool}, and DAGRELAY_REQUIRE_ALL=1 asks for every test")
        pytest.skip(f"this machine lacks {tool}")

    return report


@pytest.fixture
def figure(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Return what a test tells its figures to, for the table at the end."""
    return lambda text: record_property(_FIGURE, text)


def pytest_terminal_summary(terminalreporter: TerminalReporter) -> None:
    """Print the table of figures."""
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.getreports(kind)]
    rows = [str(text) for report in reports for name, text in report.user_properties if name == _FIGURE]
    if rows:
        terminalreporter.section("figures")
        for row in rows:
            terminalreporter.write_line(row)
