"""Python environments of their own for packages that cannot live beside current JAX, made on first use.

Each is a virtual environment below the user's cache folder; scripts in it are talked to through pipes and files.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO

from mvp4d.core.cache import user_cache
from mvp4d.core.errors import UserError
from mvp4d.core.lock import hold
from mvp4d.core.owner import discard, sweep, temporary_name
from mvp4d.core.progress import progress
from mvp4d.core.room import require_space
from mvp4d.core.stopping import tied

_STAMP = "mvp4d-complete"


@dataclasses.dataclass(frozen=True)
class Environment:
    """An environment to be made.

    Attributes:
      name: of its folder; a change of `packages` needs a change of name.
      what: what it is for, as a message says it; size: in megabytes, about.
      packages: requirements, pinned, with all that importing `imports` needs: nothing else is installed.
      imports: modules that are imported once it is made, to see that they work.
      trial: script that is run then, too, with an empty input: what it compiles is kept.
      without: how to do without it.
      source_builds: packages that come as source only.
    """

    name: str
    what: str
    size: int
    packages: tuple[str, ...]
    imports: tuple[str, ...]
    without: str
    source_builds: tuple[str, ...] = ()
    trial: Path | None = None

    @property
    def folder(self) -> Path:
        """Where it lies in the user's cache."""
        return user_cache() / f"{self.name}-py{sys.version_info.major}{sys.version_info.minor}"

    def python(self) -> Path:
        """Its Python; makes the environment when it is not there (a minute or two).

        Raises:
          UserError: it cannot be made: no network, no wheel for this platform, no space.
        """
        if not self._ready():
            with hold(self.folder, wait=True):  # another run may be making it
                if not self._ready():
                    self._make()
        return self.folder / "bin" / "python"

    def _ready(self) -> bool:
        return (self.folder / _STAMP).is_file() and (self.folder / "bin" / "python").exists()

    def _make(self) -> None:
        folder = self.folder
        folder.parent.mkdir(parents=True, exist_ok=True)
        sweep(folder.parent)
        require_space(folder, 1e6 * self.size, f"{self.what}'s environment")
        print(
            f"making an environment for {self.what} at {folder} (about {self.size} MB, once)",
            file=sys.stderr,
            flush=True,
        )
        fresh = temporary_name(folder)
        try:
            self._run([sys.executable, "-m", "venv", str(fresh)])
            wheels = ["--only-binary", ":all:", *(f"--no-binary={name}" for name in self.source_builds)]
            with progress(total=len(self.packages) + 1, what=f"installing {self.what}", unit="package") as bar:
                self._run(
                    [
                        str(fresh / "bin" / "python"),
                        "-m",
                        "pip",
                        "--disable-pip-version-check",
                        "install",
                        "--no-deps",
                        "--no-compile",
                        *wheels,
                        "--retries",
                        "1",
                        "--timeout",
                        "30",
                        *self.packages,
                    ],
                    lambda line: line.startswith("Collecting") and bar.update(),
                )
                self._run([str(fresh / "bin" / "python"), "-c", f"import {', '.join(self.imports)}"])
                if self.trial is not None:
                    self._run([str(fresh / "bin" / "python"), str(self.trial)])
                bar.update(bar.total - bar.n)
            (fresh / _STAMP).write_text("\n".join(self.packages) + "\n", encoding="utf-8")
            shutil.rmtree(folder, ignore_errors=True)
            fresh.rename(folder)
        finally:
            discard(fresh)

    def start(self, script: Path, *words: str, log: IO) -> subprocess.Popen:
        """A script of this project running in it, its standard input and output as pipes; its words go to `log`."""
        return subprocess.Popen(
            tied([str(self.python()), str(script), *words]),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env={**os.environ, "PYTHONPATH": "", "GLOG_minloglevel": "2"},
        )

    def failure(self, log: str) -> UserError:
        """The error to raise where a script has failed, from what it said."""
        return UserError(self.what, f"failed: {last_line(log)}", f"delete {self.folder} and try again, {self.without}")

    def _run(self, command: list[str], hear: Callable[[str], object] = lambda line: None) -> None:
        lines = []
        with subprocess.Popen(
            tied(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            env={**os.environ, "PYTHONPATH": ""},
        ) as process:
            for line in process.stdout or ():
                lines.append(line)
                hear(line)
        if process.returncode:
            raise UserError(
                self.what,
                f"its environment cannot be made: {last_line(''.join(lines))}",
                f"check the network and run again, {self.without}",
            )


def last_line(text: str) -> str:
    """What went wrong, from a log: the last line that says so, else the last line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line.lower()]
    return ((errors or lines or ["no message"])[-1])[:200]
