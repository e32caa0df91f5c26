"""Benchmarks run rarely and on rented machines: what they take from the project is there, and takes what they give."""

import ast
import importlib
import inspect
import os
import subprocess
from pathlib import Path

import docs_check
import pytest

from mvp4d_jax.training.config import load_config

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = sorted((ROOT / "benchmarks").glob("*.sh"))
PROGRAMS = sorted((ROOT / "benchmarks").glob("*.py"))
OURS = ("mvp4d", "mvp4d_jax", "mvp4d_export", "mvp4d_configs")
# In place of Python: notes what it was started with; leaves the capture and the shards that later parts look for.
STAND_IN = """#!/usr/bin/env bash
printf '%s\\0' "$@" > "$NOTES/$BASHPID"
[ "$1" != "-c" ] || echo release
out=""
for word in "$@"; do [ "$out" != next ] || out="$word"; [ "$word" != "--out" ] || out=next; done
case " $* " in *" mvp4d.cli studio "*) mkdir -p "$out/11000"; touch "$out/11000/capture.json";; esac
case " $* " in *" mvp4d.cli prepare "*) mkdir -p "$out"; touch "$out/manifest.json";; esac
"""


def started(script: Path, scratch: Path, *words: str) -> list[list[str]]:
    """What a script starts Python with, found by running it with a stand-in for Python."""
    stand_in, notes = scratch / "python", scratch / "notes"
    stand_in.write_text(STAND_IN)
    stand_in.chmod(0o755)
    notes.mkdir()
    environment = {**os.environ, "PYTHON": str(stand_in), "NOTES": str(notes)}
    command = ["bash", str(script), *words, str(scratch / "out")]
    subprocess.run(command, env=environment, capture_output=True, check=False, timeout=120)
    return [path.read_text().split("\0")[:-1] for path in notes.iterdir()]


@pytest.mark.parametrize("sizes", [["--cpu"], []], ids=["cpu", "gpu"])
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_commands_of_a_script_are_understood(script, sizes, tmp_path):
    """Every line of a script with the CLI in it is reached, and the CLI's own parsers take it."""
    commands = started(script, tmp_path, *sizes)
    verbs = [words[2:] for words in commands if words[:2] == ["-m", "mvp4d.cli"]]
    assert [problem for words in verbs if (problem := docs_check.check_verb(words))] == []
    assert all((ROOT / word).is_file() for words in commands for word in words if word.startswith("benchmarks/"))
    written = [
        line.split('"${mvp4d[@]}"')[1].split()[0] for line in script.read_text().splitlines() if "mvp4d[@]" in line
    ]
    assert {words[0] for words in verbs} == set(written)


def test_gpu_train_takes_a_folder_with_spaces_and_commas(tmp_path):
    scratch = tmp_path / "a b, c"
    scratch.mkdir()
    trainings = [words for words in started(ROOT / "benchmarks" / "gpu_train.sh", scratch, "--cpu") if "train" in words]
    read = {
        load_config(
            words[words.index("--config") + 1], [word for word in words if word.startswith("--config.")]
        ).data.shards
        for words in trainings
    }
    people = tuple(str(scratch / "out" / "people" / str(index) / "shards") for index in range(2))
    assert read == {people, (str(scratch / "out" / "calibration" / "shards"),)}


def test_gpu_train_films_both_kinds_of_people_on_many_cores(tmp_path, monkeypatch):
    (tmp_path / "nproc").write_text("#!/bin/sh\necho 16\n")
    (tmp_path / "nproc").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("PEOPLE", "4")
    commands = started(ROOT / "benchmarks" / "gpu_train.sh", tmp_path)
    motions = [words[words.index("--motion") + 1] for words in commands if "studio" in words]
    assert sorted(motions) == ["expressive"] * 2 + ["mixed"] * 3  # of which one calibrates


def test_gpu_train_exports_what_it_trained(tmp_path, monkeypatch):
    monkeypatch.setenv("FLAGS", "--config.transformer.skip_width=96")
    commands = started(ROOT / "benchmarks" / "gpu_train.sh", tmp_path, "--cpu")
    trainings = [words for words in commands if "train" in words]
    assert trainings and all("--config.transformer.skip_width=96" in words for words in trainings)


@pytest.mark.parametrize(("words", "told"), [
    (["prepare", "captures", "--config", "tiny", "--process", "0/4", "--out", "shards"], "--process"),
    (["prepare", "captures", "--config", "tiny", "--config.prepare.fotos=2", "--out", "shards"], "fotos"),
    (["distill", "capture", "--out", "avatar", "--preset", "slow"], "slow"),
])  # fmt: skip
def test_commands_that_exit_with_2_are_told(words, told):
    assert told in docs_check.check_verb(words)


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.name)
def test_what_a_program_takes_from_the_project_is_there(program):
    """Names imported from the project exist, attributes of its modules do, and its functions take these arguments."""
    tree = ast.parse(program.read_text())
    known = _imported(tree)
    wrong = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute | ast.Call) and (problem := _problem(node, known)):
            wrong.append(f"line {node.lineno}: {problem}")
    assert known and not wrong


def test_what_is_not_there_is_told():
    tree = ast.parse("from mvp4d_jax.training import autoencoder\nautoencoder.batches(1)\nautoencoder.validate(1)")
    known = _imported(tree)
    found = [_problem(node, known) for node in ast.walk(tree) if isinstance(node, ast.Attribute | ast.Call)]
    assert any("no 'batches'" in (problem or "") for problem in found)
    assert any("missing a required argument: 'params'" in (problem or "") for problem in found)
    with pytest.raises(ImportError):
        _imported(ast.parse("from mvp4d_jax.training.autoencoder import batches"))


def _imported(tree: ast.AST) -> dict[str, object]:
    """Name -> the module, function or class of the project that it is imported as."""
    known: dict[str, object] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] in OURS:
                    module = importlib.import_module(alias.name)
                    top = alias.name.split(".")[0]
                    known[alias.asname or top] = module if alias.asname else importlib.import_module(top)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in OURS:
            for alias in node.names:
                module = importlib.import_module(node.module)
                if not hasattr(module, alias.name):
                    importlib.import_module(f"{node.module}.{alias.name}")
                known[alias.asname or alias.name] = getattr(module, alias.name)
    return known


def _problem(node: ast.Attribute | ast.Call, known: dict[str, object]) -> str | None:
    if isinstance(node, ast.Attribute):
        module = _value(node.value, known)
        if inspect.ismodule(module) and not hasattr(module, node.attr):
            return f"{module.__name__} has no '{node.attr}'"
        return None
    called, starred = _value(node.func, known), any(isinstance(word, ast.Starred) for word in node.args)
    if not callable(called) or starred or any(word.arg is None for word in node.keywords):
        return None
    try:
        inspect.signature(called).bind(*node.args, **{word.arg: word.value for word in node.keywords})
    except TypeError as error:
        return f"{called}: {error}"
    return None


def _value(node: ast.AST, known: dict[str, object]) -> object:
    """What a name, or an attribute of a module, stands for; None where that is not told here."""
    if isinstance(node, ast.Name):
        return known.get(node.id)
    if isinstance(node, ast.Attribute):
        module = _value(node.value, known)
        return getattr(module, node.attr, None) if inspect.ismodule(module) else None
    return None
