"""The one exception type for mistakes a user can make, and for what the system refuses."""

from __future__ import annotations

import errno


class UserError(Exception):
    """A mistake in an input: one line that names the file, the field and the fix. The command line exits with 2.

    Args:
      where: the file or field at fault, or the argument: `name`, in backticks, which the command line shows as
        its flag. So do `what` and `fix`.
      what: what is wrong with it.
      fix: what the user can do about it; empty when `what` already says it.
    """

    exit_code = 2

    def __init__(self, where: object, what: str, fix: str = ""):
        super().__init__(str(where), what, fix)  # what it was made from, so that worker processes can hand it on

    def __str__(self) -> str:
        where, what, fix = (_clipped(part) for part in self.args)
        return printable(" ".join((f"{where}: {what}" + (f"; {fix}" if fix else "")).split()))


def printable(text: str) -> str:
    """Text that a terminal shows and does not obey: what damaged files and foreign names hold of control characters,
    escape sequences, marks that turn the writing direction, and bytes that are no UTF-8, stands escaped."""
    return "".join(
        char if char.isprintable() or char in "\n\t" else char.encode("unicode_escape").decode() for char in text
    )


def _clipped(text: str, most: int = 400) -> str:
    """Text whose middle is left out where a damaged file would fill the screen with it."""
    return text if len(text) <= most else f"{text[: most - 60]} ... {text[-50:]}"


_FIXES = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space",
    errno.EFBIG: "raise the limit on file sizes (ulimit -f)",
    errno.EACCES: "check who may read and write there",
    errno.EPERM: "check who may read and write there",
    errno.EROFS: "write to another place",
    errno.EMFILE: "raise the limit on open files (ulimit -n)",
}


def system_error(error: OSError, where: object = None) -> UserError:
    """What the operating system refused, as one line: the path, or `where`, and the reason."""
    names = [str(name) for name in (error.filename, error.filename2) if name is not None]
    reason = error.strerror or str(error) or type(error).__name__
    return UserError(
        " -> ".join(names) or where or "the system", reason[:1].lower() + reason[1:], _FIXES.get(error.errno or 0, "")
    )


_NO_MEMORY = ("RESOURCE_EXHAUSTED", "Out of memory", "out of memory", "not enough memory", "std::bad_alloc")


def memory_error(error: Exception) -> UserError | None:
    """The machine's or the device's memory ran out, as one line; None where an error means something else. JAX, XLA and
    torch say it in words."""
    said = " ".join(str(error).split())
    if not isinstance(error, MemoryError) and not any(words in said for words in _NO_MEMORY):
        return None
    how = f" ({said[-200:].strip()})" if said else ""
    return UserError(
        "memory",
        f"ran out{how}",
        "make less at once (fewer views or frames, smaller pictures), or use a larger machine",
    )
