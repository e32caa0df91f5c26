"""Checks every command in README.md, docs/*.md, the headers of launch/*.sh, the docstrings of configs/*.py and the last
table of the demo's report; `make docs-check` runs it.

A fenced block marked ```bash run``` is executed, line by line, in one scratch folder, in the order of the files. Lines
of other ```bash``` blocks need weights, data or machines that are not here: their flags are parsed, and the files they
name must exist. Of these, `convert`, and `train`, `prepare`, `preflight` and `sample` are run, too: small, on a random
CogVideoX, captures and shards of noise (`small_inputs`), as far as `--dry-run` or `--plan` go, on eight host devices or
as many as they say; launch scripts with DRY_RUN=1, then what they start on every host. `--dry` leaves blocks marked
`run` out; files that are named are checked alone.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import importlib
import io
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from mvp4d.cli import VERBS
from mvp4d.core.errors import UserError
from mvp4d_jax.evaluation import demo_report
from mvp4d_jax.training.config import load_config

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from tests import small_inputs  # noqa: E402

BLOCK = re.compile(r"^ *```bash([^\n]*)\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
DRY = {"train": ["--dry-run"], "prepare": ["--dry-run"], "preflight": [], "sample": ["--plan"], "convert": []}


def blocks(path: Path) -> list[tuple[bool, list[str]]]:
    """(whether to run it, its command lines) of every bash block; continued lines are joined, comments dropped."""
    found = []
    for info, body in BLOCK.findall(path.read_text()):
        lines = [line.split(" #")[0].strip() for line in body.replace("\\\n", " ").splitlines()]
        found.append(("run" in info.split(), [line for line in lines if line and not line.startswith("#")]))
    return found


def header(path: Path) -> list[tuple[bool, list[str]]]:
    """Of a launch script, as `blocks`: the commands with a config in the comment that it begins with."""
    comment = path.read_text().partition("\nset ")[0].replace("\\\n#", " ")
    lines = [line[1:].strip() for line in comment.splitlines() if line.startswith("#   ")]
    return [(False, [line for line in lines if "launch/" in line and "--config " in line])]


def docstring(path: Path) -> list[tuple[bool, list[str]]]:
    """Of a config, as `blocks`: the commands in its docstring."""
    lines = (ast.get_docstring(ast.parse(path.read_text())) or "").replace("\\\n", " ").splitlines()
    return [(False, [" ".join(line.split()) for line in lines if line.startswith("    mvp4d ")])]


def shown() -> dict[Path, list[tuple[bool, list[str]]]]:
    """All that users are shown: file -> its blocks."""
    report = [command for command, _ in demo_report.next_steps(Path("out/a demo"), ())]
    report += [command for command, _ in demo_report.next_steps(Path("out/a demo"), [Path("me.jpg")])]
    return {
        **{path: blocks(path) for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]},
        **{path: header(path) for path in sorted((ROOT / "launch").glob("*.sh"))},
        **{path: docstring(path) for path in sorted((ROOT / "configs").glob("*.py"))},
        Path(demo_report.__file__): [(False, report)],
    }


def check_line(line: str) -> str | None:
    """What is wrong with a command that is not run, or None."""
    words = shlex.split(line)
    while words and re.fullmatch(r"\w+=\S*", words[0]):
        words.pop(0)
    if not words:
        return None
    if words[0] == "mvp4d":
        return check_verb(words[1:])
    if words[0] == "make":
        targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
        missing = [word for word in words[1:] if "=" not in word and word not in targets]
        return f"the Makefile has no target '{missing[0]}'" if missing else None
    scripts = [word for word in words if re.match(r"(\./)?(launch|benchmarks)/", word)]
    absent = [script for script in scripts if not (ROOT / script).exists()]
    return f"no such file '{absent[0]}'" if absent else None


def dry_run(line: str, scratch: Path, environment: dict[str, str]) -> str | None:
    """What is wrong with a command, found by running it small and dry; None where nothing is, or where it cannot be.

    An export needs a run, a student its teacher, and the autoencoder's training has no dry run.
    """
    words = shlex.split(line)
    settings = [words.pop(0) for _ in range(len(words)) if re.fullmatch(r"\w+=\S*", words[0])]
    if words[:1] == ["export"]:
        environment.update(word.split("=", 1) for word in words[1:])
    elif words and words[0].startswith("launch/"):
        own = {**environment, **dict(word.split("=", 1) for word in settings), "DRY_RUN": "1"}
        problem = _outcome([ROOT / words[0], *words[1:]], scratch, own)
        return problem or ("--config" in words and _dry_verb(started(words[1:]), scratch, environment)) or None
    elif any(word.startswith("--config.distill.teacher=") for word in words):
        return None
    elif words[:1] == ["mvp4d"] and words[1] in DRY and not {"--export", "tiny_autoencoder"} & set(words):
        own = dict(word.split("=", 1) for word in settings)
        return _dry_verb(words[1:], scratch, {**environment, **own})
    return None


def started(arguments: list[str]) -> list[str]:
    """What a launch script with these arguments starts, its paths in the scratch folder: verb and arguments."""
    verb, *rest = arguments if arguments[0] in DRY else ["train", *arguments]
    here = [re.sub(r"(^|=)/", r"\1", word) for word in rest]
    return [verb, *here, *(["--workdir", "runs/launched"] if verb == "train" else [])]


def _dry_verb(words: list[str], scratch: Path, environment: dict[str, str]) -> str | None:
    small = small_inputs.shrink(words)
    small_inputs.furnish(scratch, small)
    dry = [word for word in DRY[words[0]] if word not in small]
    # The command's own number of devices comes last and counts. These programs are compiled and not run: without LLVM's
    # optimisations, and once.
    flags = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0 "
    flags += environment.get("XLA_FLAGS", "")
    own = {"JAX_COMPILATION_CACHE_DIR": str(scratch / ".programs"), **environment, "XLA_FLAGS": flags}
    alone = _without(small, "--coordinator", "--processes", "--process") if words[0] == "train" else small
    return _outcome(["mvp4d", *alone, *dry], scratch, own)


def _without(words: list[str], *flags: str) -> list[str]:
    """A command without some flags and their values: one process stands for all."""
    kept = list(words)
    for flag in flags:
        if flag in kept:
            del kept[kept.index(flag) : kept.index(flag) + 2]
    return kept


def _outcome(command: list, scratch: Path, environment: dict[str, str]) -> str | None:
    began = time.monotonic()
    done = subprocess.run(command, cwd=scratch, env=environment, capture_output=True, text=True, check=False)
    seconds = time.monotonic() - began
    print(f"dry: {shlex.join(map(str, command))[:140]}: {done.returncode} ({seconds:.0f} s)", flush=True)
    said = (done.stderr or done.stdout).strip()[-600:]
    return f"exit status {done.returncode}: {said}" if done.returncode else None


def check_verb(words: list[str]) -> str | None:
    """What the command line says of a verb and its arguments, without running it; None where it takes them.

    Settings are checked against their config where it comes along.
    """
    if not words or words[0] in ("--help", "-h"):
        return None
    if words[0] not in VERBS:
        return f"no verb '{words[0]}'"
    module = importlib.import_module(VERBS[words[0]][0])
    parser = argparse.ArgumentParser(prog=f"mvp4d {words[0]}", exit_on_error=False, allow_abbrev=False)
    module.configure(parser)
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            parsed, extra = parser.parse_known_args(words[1:])
    except (argparse.ArgumentError, SystemExit) as error:
        return f"flags are not understood ({said.getvalue().strip() or error})"
    if not getattr(module, "TAKES_OVERRIDES", False):
        return f"unknown argument '{extra[0]}'" if extra else None
    if Path(parsed.config).suffix:
        unknown = [word for word in extra if not word.startswith("--config.")]
        return f"unknown argument '{unknown[0]}'" if unknown else None
    try:
        return _missing(words[0], load_config(parsed.config, extra), getattr(parsed, "export", None) is not None)
    except UserError as error:
        return str(error)


def _missing(verb: str, config, exported: bool) -> str | None:
    """A setting without which the verb ends in one line, as far as the config itself tells."""
    if config.get("job") == "autoencoder":
        return None if config.data.captures else "config.data.captures is not given"
    if verb in ("prepare", "train") and not config.autoencoder:
        return "config.autoencoder is not given"
    stages = [config.stages[name] for name in config.curriculum]
    if verb == "train" and not exported and not all(stage.shards or config.data.shards for stage in stages):
        return "config.data.shards is not given"
    return None


def _own_scratch(scratch: Path, name: str) -> Path:
    """A folder for the commands of one config, whose names (shards, vae) are other configs', too."""
    own = scratch / "configs" / name
    own.mkdir(parents=True)
    (scratch / ".programs").mkdir(exist_ok=True)
    for shared in ("CogVideoX-2b", ".programs"):
        (own / shared).symlink_to(scratch / shared)
    return own


def main() -> int:
    failures, executed, parsed, seen = [], 0, 0, set()
    scratch = Path(tempfile.mkdtemp(prefix="mvp4d-docs-"))
    small_inputs.write_cogvideox(scratch / "CogVideoX-2b")
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    named = {Path(word).resolve() for word in sys.argv[1:] if not word.startswith("--")}
    for path, found in shown().items():
        place = scratch if path.suffix != ".py" else _own_scratch(scratch, path.stem)
        if named and path not in named:  # but for the weights that all pages begin with
            found = [(False, [line for _, lines in found for line in lines if line.startswith("mvp4d convert ")])]
        for run, lines in found:
            if run and "--dry" in sys.argv:
                continue
            for line in lines:
                if run:
                    began = time.monotonic()
                    done = subprocess.run(line, shell=True, cwd=scratch, env=environment, check=False)
                    problem = f"exit status {done.returncode}" if done.returncode else None
                    executed += 1
                    print(f"{path.name}: {line}: {problem or 'ok'} ({time.monotonic() - began:.0f} s)", flush=True)
                else:
                    problem = check_line(line) or (line not in seen and dry_run(line, place, environment)) or None
                    parsed += 1
                    seen.add(line)
                if problem:
                    failures.append(f"{path.name}: `{line}`: {problem}")
    print("\n".join(failures))
    print(f"{executed} commands run, {parsed} checked, {len(failures)} wrong")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
