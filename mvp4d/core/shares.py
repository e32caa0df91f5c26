"""Work on many inputs: shares of several processes, a note of each that failed, one table of them.

Processes need nothing of each other but the folder. A note is a file `NAME.failed` that holds one line; it is there
while its input is being worked on, too, so that an input that kills its process is known for it, and comes last when
the work goes on.
"""

from __future__ import annotations

import contextlib
import csv
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from mvp4d.core.errors import UserError, system_error
from mvp4d.core.files import atomic_file, read_json, write_json
from mvp4d.core.lock import Busy, hold
from mvp4d.core.room import FULL, Full

TABLE = "failed.csv"
_NOTE = ".failed"
_BEGUN = "was begun, and its process ended before it did (killed, or out of memory?)"


class SomeFailed(UserError):
    """All that could be done is done; the rest is in the table."""


def parse_share(text: str) -> tuple[int, int]:
    """ "I/N" to (I, N).

    Raises:
      UserError: it is none, or I is not below N.
    """
    index, separator, count = text.partition("/")
    whole = separator and all(part.isascii() and part.isdigit() and len(part) < 10 for part in (index, count))
    if not whole or int(index) >= int(count):
        raise UserError("`share`", f"'{text}' is not I/N with I < N", "for example 0/4, 1/4, 2/4 and 3/4")
    return int(index), int(count)


def begin_plan(file: Path, plan: dict[str, Any], passed_over: Callable[[str], bool], refusal: UserError) -> Any:
    """What a shared folder was begun with: `plan`, written now where it is new, maybe a moment ago by another process.

    Processes look, and the first writes, one after another.

    Args:
      file: where the plan lies in its folder.
      plan: a JSON object.
      passed_over: whether what has this name may lie in a new folder.
      refusal: raised where something else does.

    Returns:
      the JSON value of `file`.
    """
    with hold(file, wait=True):
        if not file.is_file():
            filled = not all(passed_over(path.name) for path in file.parent.iterdir())
            if not file.is_file():  # on a mount without locks it may have come in between
                if filled:
                    raise refusal
                write_json(file, plan)
        return read_json(file)


def work_through(
    names: Sequence[str], folder: Path, share: tuple[int, int], done: Callable[[str], bool], do: Callable[[str], object]
) -> tuple[int, int]:
    """Does every N-th of `names` from the I-th on, one that failed before after all others.

    Args:
      folder: where the notes lie.
      share: (I, N).
      done: whether a name needs nothing more.
      do: does it; what it raises is noted, and the next one is begun. Stopping, and a disk that is full, end the work.

    Returns:
      how many are done now, and how many another process is at.
    """
    mine = [name for name in list(names)[share[0] :: share[1]] if not done(name)]
    mine.sort(key=lambda name: _note(folder, name).exists())
    finished = busy = 0
    for name in mine:
        try:
            with hold(folder / name):
                if not done(name):  # another process may have been faster
                    with _noted(folder, name):
                        do(name)
                    finished += 1
        except Busy:
            busy += 1
        except Exception as error:
            if _is_no_inputs(error):
                raise
    return finished, busy


@contextlib.contextmanager
def _noted(folder: Path, name: str) -> Iterator[None]:
    """While the block runs, and after it failed, a note says so."""
    note = _note(folder, name)
    before = note.read_text(encoding="utf-8") if note.exists() else None
    _write(note, _BEGUN)
    try:
        yield
    except Exception as error:
        if _is_no_inputs(error):
            _restore(note, before)
        else:
            _write(note, _one_line(error))
        raise
    except BaseException:  # stopped: that is no failure
        _restore(note, before)
        raise
    note.unlink(missing_ok=True)


def _is_no_inputs(error: Exception) -> bool:
    """Whether an error has to do with where is written, and would come with any input."""
    return isinstance(error, Full) or (isinstance(error, OSError) and error.errno in FULL)


def _one_line(error: Exception) -> str:
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError):
        return str(system_error(error))
    return " ".join(f"an error of this program: {type(error).__name__}: {error}".split())[:400]


def _note(folder: Path, name: str) -> Path:
    return folder / f"{name}{_NOTE}"


def _write(note: Path, line: str) -> None:
    with atomic_file(note) as temporary:
        temporary.write_text(line + "\n", encoding="utf-8", errors="replace")


def _restore(note: Path, before: str | None) -> None:
    note.unlink(missing_ok=True) if before is None else _write(note, before.strip())


def read_notes(folder: Path, names: Iterable[str]) -> list[tuple[str, str]]:
    """(name, why) of those that failed."""
    found = []
    for name in names:
        try:
            why = _note(folder, name).read_text(encoding="utf-8").strip()
            with hold(folder / name) if why == _BEGUN else contextlib.nullcontext():
                found.append((name, why))
        except (FileNotFoundError, Busy):  # another process has just done it, or is at it
            continue
    return found


def write_table(folder: Path, kind: str, failures: Sequence[tuple[str, str]]) -> None:
    """Writes, or removes where nothing failed, `failed.csv`: `kind` and why."""
    if not failures:
        (folder / TABLE).unlink(missing_ok=True)
        return
    with (
        atomic_file(folder / TABLE) as temporary,
        open(temporary, "w", newline="", encoding="utf-8", errors="backslashreplace") as handle,
    ):
        rows = csv.writer(handle)
        rows.writerow((kind, "why"))
        rows.writerows(failures)


def raise_failures(folder: Path, kind: str, total: int, failures: Sequence[tuple[str, str]]) -> None:
    """Raises SomeFailed where there are failures."""
    if failures:
        name, why = failures[0]
        first = f"the first: {name}: {why}" if len(failures) > 1 else f"{name}: {why}"
        raise SomeFailed(folder / TABLE, f"{len(failures)} of {total} {kind}s failed", first)
