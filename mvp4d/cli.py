"""The console script `mvp4d`: each verb parses its flags, calls one function and reports in one line.

A verb is a module with `configure(parser)` and `run(args) -> str | None`; it is imported only when it is used, so that
rendering an avatar does not load JAX and `mvp4d --help` is instant.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib
import importlib.metadata
import io
import itertools
import os
import re
import shlex
import signal
import sys
import warnings
from collections.abc import Sequence
from types import ModuleType
from typing import Any, NoReturn

from mvp4d.core.cache import keep_programs
from mvp4d.core.errors import UserError, memory_error, printable, system_error
from mvp4d.core.host import choose_platform
from mvp4d.core.lock import hold
from mvp4d.core.places import is_remote, require_local
from mvp4d.core.stopping import Stopped, last_stop, stoppable
from mvp4d.core.words import meant

# verb -> (module, one line for --help)
VERBS: dict[str, tuple[str, str]] = {
    "demo": ("mvp4d.commands.demo", "the whole pipeline on the built-in weights: photo to avatar"),
    "studio": ("mvp4d.commands.studio", "render a synthetic multi-view capture with ground truth"),
    "track": ("mvp4d.commands.track", "fit a head model to a photo or video"),
    "convert": ("mvp4d.commands.convert", "diffusers checkpoint <-> ours"),
    "prepare": ("mvp4d.commands.prepare", "captures -> training shards of latents"),
    "train": ("mvp4d.commands.train", "train on a device mesh"),
    "sample": ("mvp4d.commands.sample", "generate synchronised multi-view video from one photo"),
    "evaluate": ("mvp4d.commands.evaluate", "measure a capture against another"),
    "preflight": ("mvp4d.commands.preflight", "compile a job ahead of time for a named topology: does it fit?"),
    "validate": ("mvp4d.commands.validate", "check a capture, person, motion, shards, weights or avatar"),
    "import": ("mvp4d.commands.import_capture", "read another tool's folder into a capture"),
    "export": ("mvp4d.commands.export", "write a capture, an avatar or a motion in another tool's format"),
    "speak": ("mvp4d.commands.speak", "recorded speech -> a motion that says it"),
    "distill": ("mvp4d.commands.distill", "capture -> 4D Gaussian avatar"),
    "render": ("mvp4d.commands.render", "render an avatar: any motion, any cameras"),
    "view": ("mvp4d.commands.view", "open an avatar in the browser"),
}
# Verbs that run JAX and whose compiled programs are kept in the user's cache. `train` keeps them in its workdir, and
# `preflight` has them compiled to look at.
KEPT = frozenset({"demo", "studio", "track", "prepare", "sample", "evaluate", "view"})
# A path below the user's home, behind a flag and a kind of file, or in a setting's list.
_HOME = re.compile(r"((?:--[\w.-]+=)?(?:(?:file|flame|ict):)?)(~(?:/.*)?)", re.DOTALL)
_HOME_IN_LIST = re.compile(r"(?<=[=,])~(?=[/,]|$)")


def main(argv: list[str] | None = None) -> int:
    """Runs one verb.

    Returns:
      0 when done, 2 for a user's mistake or the system's refusal (one line on standard error), 128 + N when stopped by
      signal N (130 for Ctrl-C), 141 when whoever read the output went away.
    """
    _open_standard_streams()
    arguments = list(sys.argv[1:] if argv is None else argv)
    code = 0
    try:
        try:
            with stoppable():
                code = _dispatch(arguments)
        finally:
            if (
                argv is None
            ):  # all is put away: what Ctrl-C ends now is the interpreter, at once and without a traceback
                signal.signal(signal.SIGINT, signal.SIG_DFL)
            sys.stdout.flush()  # also what --help prints before its SystemExit
    except KeyboardInterrupt as stop:  # while the closing line was printed
        return getattr(stop, "exit_code", 130)
    except BrokenPipeError:
        _drop_output()
        return 141
    except OSError as error:
        _drop_output()
        if code == 0:
            _tell(f"mvp4d: {system_error(error, 'standard output')}")
        return 2
    return code


def _open_standard_streams() -> None:
    """Makes standard input, output and error what all code takes them for.

    One that is closed becomes the null device: its number would otherwise go to the first file that is opened, and what
    libraries log would go into that. A character that the terminal's encoding lacks is shown escaped.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one
            os.set_inheritable(number, True)
        if getattr(sys, name) is None:
            stream = open(number, mode, encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
            setattr(sys, name, stream)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _drop_output() -> None:
    """Sends what is left of standard output nowhere, so that the interpreter does not try again at its end."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class _Parser(argparse.ArgumentParser):
    """Says what is wrong with the flags in one line."""

    words: Sequence[str] = ()

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        self.words = args or ()
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        known = itertools.takewhile(lambda word: word != "--", self.words)  # behind it there are no flags
        flags = (word for word in known if word.startswith("--") and not word.startswith("--config."))
        foreign = [flag for flag in flags if flag.partition("=")[0] not in self._option_string_actions]
        if foreign and "required" in message:  # what lacks may be what is misspelt
            self.unknown(foreign)
        self.refuse(message, f"see '{self.prog} --help'")

    def unknown(self, words: Sequence[str]) -> NoReturn:
        """Refuses words that no flag takes, and names the flag that the first may stand for."""
        close = meant(words[0].partition("=")[0], self._option_string_actions) if words[0].startswith("-") else None
        fix = f"did you mean {close}?" if close else self._as_photos(words) or f"see '{self.prog} --help'"
        self.refuse(f"unrecognized arguments: {' '.join(words)}", fix)

    def _as_photos(self, words: Sequence[str]) -> str:
        """The flag that pictures or a video belong behind, where there is one; else nothing."""
        from mvp4d.core import images, video

        kinds = {os.path.splitext(word)[1].lower() for word in words}
        for flag, suffixes in (("--photo", images.SUFFIXES), ("--video", video.SUFFIXES)):
            if flag in self._option_string_actions and kinds <= set(suffixes):
                return f"give {flag} {shlex.join(words)}"
        return ""

    def refuse(self, message: str, fix: str) -> NoReturn:
        self.exit(2, f"{UserError(self.prog, message, fix)}\n")


def _dispatch(arguments: list[str]) -> int:
    """Answers what no verb is needed for; runs the verb otherwise. Returns the exit code."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_overview())
        return 0
    if arguments[0] == "--version" and arguments[1:]:
        _tell(f"mvp4d: --version takes nothing: {printable(arguments[1])}")
        return 2
    if arguments[0] == "--version":
        print(f"mvp4d {importlib.metadata.version('mvp4d-jax')}")
        return 0
    verb, rest = arguments[0], arguments[1:]
    if not _inside_a_folder():
        _tell(f"mvp4d {printable(verb)}: the folder that you are in does not exist any more; go to another (cd)")
        return 2
    if verb not in VERBS:
        close = meant(verb, VERBS)
        hint = f"; did you mean '{close}'?" if close else "; see 'mvp4d --help'"
        _tell(f"mvp4d: no such command '{printable(' '.join(verb.split()))}'{hint}")
        return 2
    _prepare_process(verb)
    return _run_verb(verb, rest)


def _prepare_process(verb: str) -> None:
    """JAX's platform, its cache of programs, and warnings: before a verb's module is imported."""
    choose_platform()
    if verb in KEPT:
        keep_programs()
    # ffmpeg is started by fork and exec; JAX warns of forks that go on running Python.
    warnings.filterwarnings("ignore", message=r"os\.fork\(\) was called", category=RuntimeWarning)


def _run_verb(verb: str, words: Sequence[str]) -> int:
    """Imports a verb's module, reads its flags and runs it; what goes wrong becomes one line and an exit code."""
    module_name, summary = VERBS[verb]
    module = parser = parsed = None
    try:
        module = importlib.import_module(module_name)
        parser = _Parser(
            prog=f"mvp4d {verb}",
            description=module.__doc__ or summary,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,  # `--frame` of one verb is another flag than `--frames` of the next
        )
        module.configure(parser)
        parsed = _parse(module, parser, words)
        _refuse_numbers(parsed)
        _refuse_buckets(module, parsed)
        from mvp4d.core.progress import worded  # takes a moment, which --help need not

        with _held(module, parsed), worded(functools.partial(as_flags, parser=parser)):
            message = module.run(parsed)
    except KeyboardInterrupt as stop:
        return _stopped(stop, verb, _resumes(module, parsed))
    except BrokenPipeError:
        raise
    except OSError as error:
        _tell(f"mvp4d {verb}: {as_flags(str(system_error(error)), parser)}")
        return 2
    except Exception as error:
        told = error if hasattr(error, "exit_code") else memory_error(error) or _no_device()
        if told is None and (stop := last_stop()) is not None:
            return _stopped(stop, verb, _resumes(module, parsed))
        if told is None:
            raise
        _tell(f"mvp4d {verb}: {as_flags(str(told), parser)}")
        return getattr(told, "exit_code", 2)
    if message:
        print(printable(message))
    return 0


def _parse(module: ModuleType, parser: _Parser, words: Sequence[str]) -> argparse.Namespace:
    """A verb's flags; `overrides` are those words that only the verb itself can tell (`TAKES_OVERRIDES`)."""
    _refuse_empty(words)
    parsed, leftovers = parser.parse_known_args([_at_home(word) for word in words])
    if getattr(module, "TAKES_OVERRIDES", False):  # `--config.a.b=v`: the verb knows which exist
        parsed.overrides = leftovers
    elif leftovers:
        parser.unknown(leftovers)
    return parsed


def _no_device() -> UserError | None:
    """JAX has no device of the platforms that the environment asks for, as one line; it fails there in many words."""
    jax, platforms = sys.modules.get("jax"), os.environ.get("JAX_PLATFORMS")
    if jax is None or not platforms:
        return None
    try:
        jax.devices()
    except Exception as error:
        said = " ".join(str(error).split())[:160]
        why = f"JAX finds no such device here{f' ({said})' if said else ''}"
        return UserError(f"JAX_PLATFORMS={platforms}", why, "unset it, or give what this machine has: cpu, cuda, tpu")
    return None


def _stopped(stop: KeyboardInterrupt, verb: str, resumes: bool) -> int:
    """Says that a signal ended the verb; returns the exit code."""
    how = f"stopped by {stop}" if isinstance(stop, Stopped) else "interrupted"
    again = "run the same command again to go on" if resumes else "the same command starts over"
    _tell(f"mvp4d {verb}: {how}; {again}")
    return getattr(stop, "exit_code", 130)


def _inside_a_folder() -> bool:
    """Whether relative paths mean anything: the working directory may have been removed under its shell, and numeric
    libraries then end the process."""
    try:
        os.getcwd()
    except FileNotFoundError:
        return False
    return True


def _tell(line: str) -> None:
    """Prints a line on standard error, below what progress bars have shown."""
    if progress := sys.modules.get("mvp4d.core.progress"):  # without it there are none
        progress.end_bars()
    with contextlib.suppress(OSError):  # nobody reads it: the exit code still tells
        print(line, file=sys.stderr, flush=True)


def _resumes(module: ModuleType | None, args: argparse.Namespace | None) -> bool:
    """Whether the verb goes on where it was when it is given again; those that do say so (`resumes(args)`)."""
    return args is not None and module is not None and hasattr(module, "resumes") and module.resumes(args)


def _held(module: ModuleType, args: argparse.Namespace) -> contextlib.AbstractContextManager:
    """Keeps the verb's output for this process, so that two never write to one; a verb whose output several processes
    may share (`shares_out(args)`) sees to that itself."""
    out = getattr(args, "out", None)
    if out is None or is_remote(out) or (hasattr(module, "shares_out") and module.shares_out(args)):
        return contextlib.nullcontext()
    return hold(out)


def _refuse_empty(words: Sequence[str]) -> None:
    """Refuses empty arguments: a path of no name is the folder that one is in, which a script with an unset variable
    does not mean."""
    for before, word in zip(("", *words), words):
        flag, equals, value = word.partition("=")
        named = flag if equals and not value and flag.startswith("--") and not flag.startswith("--config.") else ""
        if not word or named:
            flag = named or (before if before.startswith("-") else "")
            raise UserError(flag or "an argument", "is empty", "give a value, or leave it out")


def _at_home(word: str) -> str:
    """The word with `~/` spelt out where shells leave it: behind `=` and `file:`, in quotes and in a setting's list."""
    if word.startswith("--config."):
        return _HOME_IN_LIST.sub(lambda _: os.path.expanduser("~"), word)
    found = _HOME.fullmatch(word)
    return word if found is None else found[1] + os.path.expanduser(found[2])


def _refuse_numbers(args: argparse.Namespace) -> None:
    """Refuses numbers that no flag means: nan, infinity, whole numbers of more than 18 digits."""
    for name, value in vars(args).items():
        for item in value if isinstance(value, list | tuple) else [value]:
            if isinstance(item, float) and not abs(item) < 1e18:
                raise UserError(f"`{name}`", f"{item} is no number that can be meant")
            if isinstance(item, int) and not abs(item) < 10**18:
                raise UserError(f"`{name}`", "is a number of more than 18 digits")
            if name == "seed" and not 0 <= item < 2**32:
                raise UserError("`seed`", f"is {item}", "it is a whole number from 0 to 4,294,967,295")


def _refuse_buckets(module: ModuleType, args: argparse.Namespace) -> None:
    """Refuses arguments that lie in a bucket, but for those that the verb can read and write (`IN_BUCKETS`)."""
    for name, value in vars(args).items():
        if name in getattr(module, "IN_BUCKETS", ()):
            continue
        for item in value if isinstance(value, list) else [value]:
            if name != "overrides" and isinstance(item, str | os.PathLike):
                require_local(item, f"`{name}`", "which this command does not reach")


def as_flags(message: str, parser: argparse.ArgumentParser | None) -> str:
    """A message of the library, in which arguments stand in backticks, with the flags of the verb in their place."""
    actions = parser._actions if parser else ()
    # The first name of a flag: the last of one that can be switched off is its --no-.
    flags = {action.dest: action.option_strings[0] for action in actions if action.option_strings}
    return re.sub(r"`(\w+)`", lambda match: flags.get(match[1], match[1]), message)


def _overview() -> str:
    lines = ["mvp4d: one portrait photo to a 4D Gaussian head avatar", "", "usage: mvp4d COMMAND [...]", ""]
    lines += [f"  {verb:<10} {summary}" for verb, (_, summary) in VERBS.items()]
    return "\n".join([*lines, "", "mvp4d COMMAND --help tells a command's flags; mvp4d --version its version."])


if __name__ == "__main__":
    sys.exit(main())
