"""The user's cache: where it lies, and compiled programs that outlive the process, whatever state they are in."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mvp4d.cli import KEPT, VERBS
from mvp4d.core import cache

# Says the sum of what a program gives and how many programs were taken from the folder.
PROGRAM = """
import json, os, sys
from mvp4d.core.cache import keep_programs
keep_programs()
assert "jax" not in sys.modules
import jax
hits = []
jax.monitoring.register_event_listener(lambda name, **given: hits.append(name))
value = jax.jit(lambda x: jax.numpy.sin(x) @ x.T)(jax.numpy.arange(12.0).reshape(3, 4)).sum()
print(json.dumps([float(value), hits.count("/jax/compilation_cache/cache_hits"), os.environ.get(sys.argv[1])]))
"""


def command():
    return [sys.executable, "-c", PROGRAM, cache.FOLDER]


def environment(root, **more):
    kept = {name: value for name, value in os.environ.items() if name not in (cache.FOLDER, cache.SHORTEST)}
    return {**kept, "JAX_PLATFORMS": "cpu", "XDG_CACHE_HOME": str(root), **more}


def run(root, **more):
    done = subprocess.run(command(), env=environment(root, **more), capture_output=True, text=True, check=True)
    return json.loads(done.stdout), done.stderr


def entries(root):
    return sorted((root / "mvp4d" / "compiled").glob("*/*-cache"))


def test_a_second_process_compiles_nothing(tmp_path):
    (first, hits, folder), _ = run(tmp_path)
    assert hits == 0 and Path(folder).parent == tmp_path / "mvp4d" / "compiled" and entries(tmp_path)
    assert run(tmp_path) == ([first, len(entries(tmp_path)), folder], "")


@pytest.mark.parametrize("damage", [b"", b"no program", None], ids=["empty", "other", "half"])
def test_damaged_programs_are_compiled_again_in_silence(tmp_path, damage):
    (value, *_), _ = run(tmp_path)
    for path in entries(tmp_path):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2] if damage is None else damage)
    (again, hits, _), said = run(tmp_path)
    assert (again, hits, said) == (value, 0, "")
    assert all(path.stat().st_size for path in entries(tmp_path))  # empty ones are made anew


def test_processes_that_begin_together_agree(tmp_path):
    started = [
        subprocess.Popen(
            command(), env=environment(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    told = [process.communicate() for process in started]
    assert [said for _, said in told] == ["", ""]
    assert len({json.loads(out)[0] for out, _ in told}) == 1
    (_, hits, _), said = run(tmp_path)
    assert hits == len(entries(tmp_path)) and not said


def test_without_a_folder_that_can_be_written_nothing_is_kept(tmp_path):
    """The cache is a file, or there is no home."""
    (tmp_path / "mvp4d").write_text("mine")
    (_, hits, folder), said = run(tmp_path)
    assert (hits, folder, said) == (0, None, "") and (tmp_path / "mvp4d").read_text() == "mine"


def test_no_home_is_no_error(tmp_path, monkeypatch):
    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv(cache.FOLDER, raising=False)
    monkeypatch.delitem(sys.modules, "jax", raising=False)
    cache.keep_programs()
    assert cache.FOLDER not in os.environ


def test_the_users_own_folder_stays(tmp_path):
    own = tmp_path / "own"
    (_, _, folder), _ = run(tmp_path / "cache", **{cache.FOLDER: str(own)})
    assert folder == str(own) and not (tmp_path / "cache").exists()


def test_where_jax_is_loaded_nothing_is_changed(monkeypatch):
    monkeypatch.setitem(sys.modules, "jax", object())
    monkeypatch.delenv(cache.FOLDER, raising=False)
    cache.keep_programs()
    assert cache.FOLDER not in os.environ


def test_the_oldest_make_room(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "MOST_BYTES", 25)
    for age, name in enumerate(("new", "old", "older")):
        (tmp_path / name).write_bytes(bytes(10))
        os.utime(tmp_path / name, (time.time() - age, time.time() - age))
    cache._make_room(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "old"]


@pytest.mark.parametrize("given", ["", "relative/cache"])
def test_a_relative_cache_counts_as_none(monkeypatch, given):
    """XDG's base directory standard: paths in these variables must be absolute, others are to be ignored."""
    monkeypatch.setenv("XDG_CACHE_HOME", given)
    assert cache.user_cache() == Path.home() / ".cache" / "mvp4d"


def test_training_keeps_its_own():
    assert set(VERBS) > KEPT and not KEPT & {"train", "preflight"}
