"""TARGET, the DAG named on a command line: `path/file.py[:name]` or `package.module[:name]`."""

from __future__ import annotations

import importlib
import sys
import traceback
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from dagrelay.cli.exits import CommandError
from dagrelay.dag.definition import DAG

if TYPE_CHECKING:
    from types import ModuleType, TracebackType

__all__ = ("Target", "load_target")


@attrs.frozen(kw_only=True)
class Target:
    """A DAG, and how to name it again."""

    dag: DAG
    """The DAG."""
    text: str
    """A TARGET that names it from any directory, where it is a file; always with its name in the module."""


def load_target(text: str) -> Target:
    """Import the module of a TARGET and return its DAG.

    A file is imported with its directory on the path, as if it were run; a module with the current directory on it.

    Raises:
        CommandError: there is no such file, module or name, its import failed, or it is not plain which DAG is meant.
    """
    place, _, name = text.partition(":")
    if not place:
        raise CommandError(f"{text!r} names no DAG; use path/file.py[:name] or package.module[:name]")
    is_file = place.endswith(".py") or "/" in place
    module = _import_file(Path(place)) if is_file else _import_module(place)
    shown = str(Path(place).absolute()) if is_file else place
    found = _choose(module, shown, name)
    return Target(dag=getattr(module, found), text=f"{shown}:{found}")


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise CommandError(f"there is no file {str(path)!r}")
    # A prefix, lest a file named like a module that is needed take its place.
    name = f"dagrelay_target_{path.stem}"
    spec = spec_from_file_location(name, path.absolute())
    if spec is None or spec.loader is None:
        raise CommandError(f"{str(path)!r} is no Python file")
    _put_on_path(path.absolute().parent)
    module = module_from_spec(spec)
    sys.modules[name] = module  # Dataclasses look their module up there while it is being imported.
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise _failed(str(path), error) from error
    return module


def _import_module(name: str) -> ModuleType:
    if not all(part.isidentifier() for part in name.split(".")):
        raise CommandError(f"{name!r} is neither a path of a .py file nor the name of a module")
    _put_on_path(Path.cwd())
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise CommandError(f"there is no module {name!r}; a file is named by its path, as in ./{name}.py") from error
        raise _failed(name, error) from error
    except (Exception, SystemExit) as error:
        raise _failed(name, error) from error


def _put_on_path(directory: Path) -> None:
    if str(directory) not in sys.path:
        sys.path.insert(0, str(directory))


def _failed(shown: str, error: BaseException) -> CommandError:
    lines = traceback.format_exception(type(error), error, _user_frames(error.__traceback__))
    return CommandError(f"{shown!r} can't be imported: {type(error).__name__}: {error}", details="".join(lines))


def _user_frames(trace: TracebackType | None) -> TracebackType | None:
    """Return the traceback from the user's first frame on."""
    while trace is not None and _is_ours(trace.tb_frame.f_code.co_filename):
        trace = trace.tb_next
    return trace


def _is_ours(filename: str) -> bool:
    return filename == __file__ or filename.startswith("<frozen importlib") or filename == importlib.__file__


def _choose(module: ModuleType, shown: str, name: str) -> str:
    """Return the name of the DAG meant: the one given, else that of the only DAG."""
    names: dict[int, str] = {}
    for each, value in vars(module).items():
        if isinstance(value, DAG):
            names.setdefault(id(value), each)  # One DAG under two names is one DAG.
    there = ", ".join(f"{shown}:{each}" for each in names.values())
    if name:
        if isinstance(vars(module).get(name), DAG):
            return name
        raise CommandError(f"{shown!r} has no DAG named {name!r}; {f'it has {there}' if there else 'it has none at all'}")
    if len(names) == 1:
        return next(iter(names.values()))
    raise CommandError(
        f"{shown!r} has {len(names)} DAGs; say which: {there}" if names else f"{shown!r} has no DAG among its names"
    )
