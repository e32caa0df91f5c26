"""How a command is stopped: signals become an exception that cleans up and saves; child processes end with theirs."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

# What comes sooner is the same stop: a terminal tells a whole group of processes, and they tell each other.
AGAIN_SECONDS = 1.0
IMPORT_SECONDS = 10.0


class Stopped(KeyboardInterrupt):
    """SIGTERM or SIGHUP came. Whatever saves and cleans up when a person presses Ctrl-C does so now too."""

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.number, self.exit_code = number, 128 + number


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """While the block runs, the first SIGTERM, SIGHUP or SIGINT raises in the main thread (`Stopped` or
    KeyboardInterrupt); until it has unwound, others are ignored, but for a SIGINT a second later, which raises again.

    A SIGHUP that was ignored before (`nohup`) stays ignored. What Python swallows, because the signal came in a
    finaliser or a callback of the garbage collector, is raised again a moment later. What comes during an import waits
    for its end, some seconds at most: compiled modules crash where their initialisation raises. Does nothing outside of
    the main thread.
    """
    global _last
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _last = None
    numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in numbers}
    owner, stopping, since, put_off = os.getpid(), False, 0.0, False
    report, main_thread = sys.unraisablehook, threading.main_thread().ident
    assert main_thread is not None  # it runs this

    def repeat(number: int, seconds: float) -> None:
        again = threading.Timer(seconds, signal.pthread_kill, (main_thread, number))
        again.daemon = True
        again.start()

    def stop(number: int, frame: FrameType | None) -> None:
        global _last
        nonlocal stopping, since, put_off
        if os.getpid() != owner:  # a child made by fork: what it would do without us
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        now = time.monotonic()
        if stopping and (number != signal.SIGINT or now - since < AGAIN_SECONDS):
            return
        if _importing(frame) and (not put_off or now - since < IMPORT_SECONDS):
            since, put_off = since if put_off else now, True
            repeat(number, 0.05)
            return
        stopping, since = True, now
        _last = KeyboardInterrupt() if number == signal.SIGINT else Stopped(number)
        raise _last

    def swallowed(unraisable: Any) -> None:
        nonlocal stopping
        lost = unraisable.exc_value
        if not isinstance(lost, KeyboardInterrupt):
            report(unraisable)
            return
        stopping = False
        repeat(lost.number if isinstance(lost, Stopped) else signal.SIGINT, 0.01)

    for number in numbers:
        if before[number] is not signal.SIG_IGN and before[number] is not None:
            signal.signal(number, stop)
    sys.unraisablehook = swallowed
    try:
        yield
    finally:
        if sys.unraisablehook is swallowed:
            sys.unraisablehook = report
        for number, handler in before.items():
            if handler is not None and signal.getsignal(number) is stop:
                signal.signal(number, handler)


def _importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False


_last: KeyboardInterrupt | None = None


def last_stop() -> KeyboardInterrupt | None:
    """What a signal last raised in the newest `stoppable`. Compiled modules that are stopped while they are imported
    raise an ImportError in its place."""
    return _last


@contextlib.contextmanager
def unbroken() -> Iterator[None]:
    """While the block runs, signals that would raise in it wait for its end, so that what it changes is changed whole:
    a step of an optimiser, after which the state can be saved.

    Does nothing outside of the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    before = {}
    try:
        for number in (getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)):
            handler = signal.getsignal(number)
            if callable(handler):
                before[number] = handler
                signal.signal(number, lambda number, frame: came.append(number))
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if came:
            signal.raise_signal(came[0])


_TIE = """
import ctypes, os, sys
try:
    ctypes.CDLL(None).prctl(1, 15, 0, 0, 0)
except (AttributeError, OSError, TypeError):
    pass
if os.getppid() != int(sys.argv[1]):
    sys.exit(143)
os.execvp(sys.argv[2], sys.argv[2:])
"""


def tied(command: list[str]) -> list[str]:
    """A command that gets SIGTERM when this process dies, however it dies (Linux; elsewhere just the command).

    Start it from the main thread: it is the thread's end that the kernel tells.
    """
    if not sys.platform.startswith("linux"):
        return command
    # PR_SET_PDEATHSIG survives exec; set by a Python that then becomes the command, because code between fork and exec
    # may hang in a process with many threads.
    return [sys.executable, "-I", "-S", "-c", _TIE, str(os.getpid()), *command]
