"""Arguments, and the ways a command can end."""

from __future__ import annotations

import importlib
import signal
from typing import TYPE_CHECKING, NoReturn

import pytest

from dagrelay.cli import looking, main
from dagrelay.cli.exits import ExitCode, exit_code_of
from dagrelay.cli.interrupts import Interrupted
from dagrelay.errors import (
    DagrelayError,
    RunCancelledError,
    RunInterruptedError,
    RunNotFoundError,
    StoreFullError,
    XComNotFoundError,
)

if TYPE_CHECKING:
    from tests.cli.conftest import Cli


def test_options_stand_before_or_after_the_command(cli: Cli) -> None:
    """Both ways mean the same."""
    cli("demo")

    assert cli.bare("--store", cli.store, "--json", "runs").json() == cli.bare("runs", "--json", "--store", cli.store).json()


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["fly"],
        ["run"],
        ["runs", "--limit", "0"],
        ["runs", "--limit", "many"],
        ["runs", "--state", "running away"],
        ["xcom"],
        ["xcom", "get", "r"],
        ["runs", "--js"],
        ["demo", "--backend", "curio"],
    ],
)
def test_wrong_usage_ends_with_2(cli: Cli, words: list[str]) -> None:
    """Options are not guessed from their first letters."""
    done = cli(*words)

    assert done.code == 2
    assert "usage: dagrelay" in done.err


def test_help_tells_the_exit_codes(cli: Cli) -> None:
    """On the first page and on each command's."""
    for words in (["--help"], ["run", "--help"], ["xcom", "get", "--help"]):
        done = cli.bare(*words)

        assert done.code == 0
        for code in ExitCode:
            assert f"\n  {code:d} " in done.out


def test_the_version_is_told(cli: Cli) -> None:
    """It is the package's."""
    assert cli.bare("--version").out.startswith("dagrelay 0.")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RunCancelledError("r"), ExitCode.CANCELLED),
        (RunInterruptedError("r"), ExitCode.STORE),
        (StoreFullError("s"), ExitCode.STORE),
        (RunNotFoundError("r"), ExitCode.WRONG),
        (XComNotFoundError("r", "t", "k"), ExitCode.WRONG),
    ],
)
def test_errors_have_their_exit_codes(cli: Cli, monkeypatch: pytest.MonkeyPatch, error: DagrelayError, code: ExitCode) -> None:
    """And are told in one line."""

    def fail(_options: object) -> NoReturn:
        """Fail."""
        raise error

    monkeypatch.setattr(looking, "runs", fail)

    done = cli("runs")

    assert (done.code, done.err) == (code, f"dagrelay: {error}\n")
    assert exit_code_of(error) == code


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (KeyboardInterrupt(), 130),
        (Interrupted(signal.SIGINT), 130),
        (Interrupted(signal.SIGTERM), 143),
    ],
)
def test_signals_have_the_exit_codes_that_shells_give_them(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int
) -> None:
    """128 and the signal's number."""

    def fail(_options: object) -> NoReturn:
        """Fail."""
        raise error

    monkeypatch.setattr(looking, "runs", fail)

    done = cli("runs")

    assert (done.code, done.out, done.err) == (code, "", "")


def test_a_failure_to_import_a_target_shows_the_users_traceback_first(cli: Cli, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Then our one line."""
    path = tmp_path_factory.mktemp("targets") / "broken.py"
    path.write_text("1 / 0\n")

    done = cli("run", path)

    assert done.code == 2
    assert done.err.startswith("Traceback (most recent call last):\n")
    assert done.err.splitlines()[-1] == f"dagrelay: '{path}' can't be imported: ZeroDivisionError: division by zero"


def test_a_bug_of_ours_is_not_hidden(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes out with its traceback."""

    def fail(_options: object) -> NoReturn:
        """Fail."""
        raise ZeroDivisionError

    monkeypatch.setattr(looking, "runs", fail)

    with pytest.raises(ZeroDivisionError):
        cli("runs")


def test_python_m_is_the_same_program() -> None:
    """The module hands over to `main`."""
    module = importlib.import_module("dagrelay.__main__")

    assert vars(module)["main"] is main.main
