"""`dagrelay`: the arguments it takes, and how it ends."""

from __future__ import annotations

import argparse
import math
import os
import sys
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, TextIO

from dagrelay.cli import asking, keeping, looking, running
from dagrelay.cli.exits import EXIT_CODES, CommandError, ExitCode, exit_code_of
from dagrelay.cli.interrupts import Interrupted
from dagrelay.cli.output import tell
from dagrelay.errors import DagrelayError, DAGValidationError
from dagrelay.model.states import RunState

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ("main", "make_parser")

_TARGET = "the DAG: path/file.py[:name] or package.module[:name]; without a name the only DAG there is"


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out a command line and return its exit code."""
    options = make_parser().parse_args(arguments)
    _accept_all_letters(sys.stdout)
    try:
        code: ExitCode = options.command(options)
        sys.stdout.flush()
    except BrokenPipeError:
        _let_go_of_stdout()
        return ExitCode.OUTPUT_CLOSED
    except Interrupted as interrupted:
        return ExitCode[interrupted.number.name]
    except KeyboardInterrupt:
        return ExitCode.SIGINT
    except CommandError as error:
        if error.details:
            tell(error.details.rstrip("\n"), prefix="")
        tell(str(error))
        return ExitCode.WRONG
    except DAGValidationError as error:
        tell("\n".join([f"DAG {error.dag_id!r} can't be run:", *(f"  - {problem}" for problem in error.problems)]))
        return ExitCode.WRONG
    except DagrelayError as error:
        tell(str(error))
        return exit_code_of(error)
    return code


def _accept_all_letters(stream: TextIO) -> None:
    """Have a letter that the terminal lacks written as an escape, which is better than to fail."""
    reconfigure: Callable[..., None] | None = getattr(stream, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="backslashreplace")


def _let_go_of_stdout() -> None:
    """Point stdout at nothing, so that flushing it at the end of the process does not fail again."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, sys.stdout.fileno())
    os.close(nothing)


# -------------------------------------------------------------------------------------------------- arguments


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="dagrelay",
        description="Run DAGs of async tasks, and look at what a store remembers of them.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[_common()],
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"dagrelay {version('dagrelay')}")
    parser.set_defaults(json=False)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_running(commands)
    _add_looking(commands)
    _add_asking(commands)
    _add_keeping(commands)
    return parser


def _common() -> argparse.ArgumentParser:
    """Return the options that stand before or after the command."""
    common = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    common.add_argument("--store", metavar="FILE", help="the store; else $DAGRELAY_STORE, else ./dagrelay.db")
    common.add_argument("--json", action="store_true", help="print JSON for programs (events, check: one a line)")
    return common


def _add(commands: Any, name: str, command: Callable[[argparse.Namespace], ExitCode]) -> argparse.ArgumentParser:
    text = (command.__doc__ or "").strip()
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=text[0].lower() + text[1:].rstrip("."),
        description=text,
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[_common()],
        allow_abbrev=False,
    )
    parser.set_defaults(command=command)
    return parser


def _add_running(commands: Any) -> None:
    demo = _add(commands, "demo", running.demo)
    demo.add_argument("--pause-s", type=_seconds, default=0.0, metavar="N", help="seconds to pause between two tasks")
    run = _add(commands, "run", running.run)
    run.add_argument("target", metavar="TARGET", help=_TARGET)
    _add_params(run)
    run.add_argument("--run-id", metavar="ID", help="the run's id; one that is there already means that run")
    resume = _add(commands, "resume", running.resume)
    _add_run(resume)
    resume.add_argument("target", metavar="TARGET", help=_TARGET)
    fork = _add(commands, "fork", running.fork)
    _add_run(fork)
    fork.add_argument("target", metavar="TARGET", help=_TARGET)
    fork.add_argument("--from", dest="from_task", metavar="TASK", required=True, help="the first task to run again")
    _add_params(fork)
    fork.add_argument("--run-id", metavar="ID", help="the new run's id, which must be free")
    for parser in (demo, run, resume, fork):
        _add_backend(parser)
    demo.set_defaults(pools=[])
    for parser in (run, resume, fork):
        _add_pools(parser)


def _add_looking(commands: Any) -> None:
    runs = _add(commands, "runs", looking.runs)
    runs.add_argument("--dag", metavar="ID", help="only runs of this DAG")
    runs.add_argument("--state", choices=[str(state) for state in RunState], help="only runs in this state")
    runs.add_argument("--limit", type=_count, default=20, metavar="N", help="at most so many (20)")
    _add_run(_add(commands, "show", looking.show))
    xcom = commands.add_parser("xcom", help="list the values of a run, or print one", allow_abbrev=False)
    actions = xcom.add_subparsers(title="commands", metavar="COMMAND", required=True)
    entries = _add(actions, "list", looking.xcom_list)
    _add_run(entries)
    entries.add_argument("task", nargs="?", metavar="TASK", help="only entries of this task")
    entries.add_argument("--values", action="store_true", help="show the values too; sensitive ones stay masked")
    entries.add_argument("--all-attempts", action="store_true", help="also those of failed and unfinished attempts")
    get = _add(actions, "get", looking.xcom_get)
    _add_run(get)
    _add_task(get)
    get.add_argument("key", nargs="?", default="return_value", metavar="KEY", help="the key; else return_value")
    get.add_argument("--index", type=_index, metavar="N", help="of a mapped task only this element, from 0; else a list of all")
    get.add_argument("--raw", action="store_true", help="print a text as it is, anything else as compact JSON")
    get.add_argument("--reveal", action="store_true", help="print it though it is sensitive")
    _add_run(_add(commands, "events", looking.events))
    _add_run(_add(commands, "lineage", looking.lineage))
    render = _add(commands, "render", looking.render)
    _add_run(render)
    render.add_argument("template", metavar="TEMPLATE", help="the text, with {{ xcom.task.key.path }} and {{ run.id }} in it")
    render.add_argument("--reveal", action="store_true", help="print it though it reads a sensitive value")


def _add_asking(commands: Any) -> None:
    provide = _add(commands, "provide", asking.provide)
    cancel = _add(commands, "cancel", asking.cancel)
    retry = _add(commands, "retry", asking.retry)
    for parser in (provide, cancel, retry):
        _add_run(parser)
        parser.add_argument(
            "--wait", type=_seconds, default=5.0, metavar="S", help="seconds to wait for the store's owner to carry it out (5)"
        )
    _add_task(provide)
    provide.add_argument("value", nargs="?", metavar="VALUE", help="the value, in JSON")
    provide.add_argument("--text", metavar="TEXT", help="the value, a text as it is")
    answer = provide.add_mutually_exclusive_group()
    for word in ("approve", "reject"):
        answer.add_argument(f"--{word}", action="store_const", const=word, dest="answer", help=f"{word}, for an approval")
    provide.add_argument("--by", metavar="NAME", help="who approves or rejects; else the name of the user")
    provide.add_argument("--note", metavar="TEXT", help="why")
    _add_task(retry)
    retry.add_argument("target", nargs="?", metavar="TARGET", help=f"to run it here if nobody owns the store: {_TARGET}")
    _add_backend(retry)
    _add_pools(retry)


def _add_keeping(commands: Any) -> None:
    backup = _add(commands, "backup", keeping.backup)
    check = _add(commands, "check", keeping.check)
    for parser in (backup, check):
        # In the place of `--store`, which would be easy to forget where a file is written or judged.
        parser.add_argument("store", metavar="DB", help="the store")
    backup.add_argument("target", metavar="TARGET", help="where the copy goes; never over a file that is there")


def _add_params(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-p",
        "--param",
        action="append",
        default=[],
        dest="params",
        metavar="NAME=TEXT",
        help="a param of the run; NAME:=JSON for anything but text (-p n:=3)",
    )


def _add_pools(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--pool",
        action="append",
        default=[],
        dest="pools",
        metavar="NAME=SLOTS",
        help="a pool that tasks of the DAG name, and how many run in it at once; NAME=SLOTS:PER_S also bounds starts in a second",
    )


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="the run's id")


def _add_task(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("task", metavar="TASK", help="the task's id")


def _add_backend(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--backend", choices=("asyncio", "trio"), default="asyncio", help="the event loop")


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds")
    return value


def _index(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no index, which counts from 0")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no count above 0")
    return value
