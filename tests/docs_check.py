"""Checks every command in README.md and docs/*.md; `make docs-check` runs it.

A fenced block marked ```bash run``` is executed, line by line, in one scratch folder, in the order of the files. Lines
of other ```bash``` blocks need weights, data or machines that are not here: their flags are parsed, and the files they
name must exist.
"""

from __future__ import annotations

import argparse
import importlib
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from mvp4d.cli import VERBS

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"^```bash([^\n]*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(path: Path) -> list[tuple[bool, list[str]]]:
    """(whether to run it, its command lines) of every bash block; continued lines are joined, comments dropped."""
    found = []
    for info, body in BLOCK.findall(path.read_text()):
        lines = [line.split(" #")[0].strip() for line in body.replace("\\\n", " ").splitlines()]
        found.append(("run" in info.split(), [line for line in lines if line and not line.startswith("#")]))
    return found


def check_line(line: str) -> str | None:
    """What is wrong with a command that is not run, or None."""
    words = shlex.split(line)
    while words and re.fullmatch(r"\w+=\S*", words[0]):
        words.pop(0)
    if not words:
        return None
    if words[0] == "mvp4d":
        return _check_verb(words[1:])
    if words[0] == "make":
        targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
        missing = [word for word in words[1:] if "=" not in word and word not in targets]
        return f"the Makefile has no target '{missing[0]}'" if missing else None
    scripts = [word for word in words if re.match(r"(\./)?(launch|benchmarks)/", word)]
    absent = [script for script in scripts if not (ROOT / script).exists()]
    return f"no such file '{absent[0]}'" if absent else None


def _check_verb(words: list[str]) -> str | None:
    if not words or words[0] in ("--help", "-h"):
        return None
    if words[0] not in VERBS:
        return f"no verb '{words[0]}'"
    module = importlib.import_module(VERBS[words[0]][0])
    parser = argparse.ArgumentParser(prog=f"mvp4d {words[0]}", exit_on_error=False)
    module.configure(parser)
    try:
        _, extra = parser.parse_known_args(words[1:])
    except (argparse.ArgumentError, SystemExit) as error:
        return f"flags are not understood ({error})"
    unknown = [word for word in extra if word.startswith("-") and not word.startswith("--config.")]
    return f"unknown flag '{unknown[0]}'" if unknown else None


def main() -> int:
    failures, executed, parsed = [], 0, 0
    scratch = Path(tempfile.mkdtemp(prefix="mvp4d-docs-"))
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for run, lines in blocks(path):
            for line in lines:
                if run:
                    began = time.monotonic()
                    done = subprocess.run(line, shell=True, cwd=scratch, env=environment, check=False)
                    problem = f"exit status {done.returncode}" if done.returncode else None
                    executed += 1
                    print(f"{path.name}: {line}: {problem or 'ok'} ({time.monotonic() - began:.0f} s)", flush=True)
                else:
                    problem = check_line(line)
                    parsed += 1
                if problem:
                    failures.append(f"{path.relative_to(ROOT)}: `{line}`: {problem}")
    print("\n".join(failures))
    print(f"{executed} commands run, {parsed} checked, {len(failures)} wrong")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
