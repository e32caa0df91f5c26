"""`mvp4d sample` and `train --export` on two processes: of one `--out`, or of folders that each sees alone."""

import fcntl
import socket
import subprocess
from pathlib import Path

import numpy as np
import pytest

from mvp4d import cli
from mvp4d.core.capture import Capture
from tests import host_processes
from tests.host_processes import finish
from tests.small_world import write_release, write_scene
from tests.training.tiny_run import overrides, run, write_autoencoder, write_shards


def start(folder: Path, words: list[str], devices: int) -> subprocess.Popen:
    folder.mkdir(exist_ok=True)
    kept_apart = "JAX_COMP", "JAX_PERS"
    return host_processes.start(folder, words, devices, kept_apart, XDG_CACHE_HOME=folder.parent / "cache")


def pair() -> list[list[str]]:
    """Flags of two processes that meet."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return [["--coordinator", f"127.0.0.1:{port}", "--processes", "2", "--process", str(index)] for index in range(2)]


def pixels(path: Path) -> np.ndarray:
    capture = Capture.open(path)
    return np.stack([capture.frames(view) for view in range(capture.view_count)]).astype(int)


def programs(cache: Path) -> set[str]:
    return {file.name for file in cache.rglob("*-cache")}


def test_a_host_of_a_job_does_not_ask_for_what_the_first_keeps(tmp_path, capsys):
    """A sample on one host is refused where another process writes; a host of several leaves that to the first."""
    words = ["sample", "--weights", "tiny", "--out", str(tmp_path / "out")]
    words += [word for name in ("--reference", "--motion", "--cameras") for word in (name, "scene")]
    with open(tmp_path / ".out.mvp4d-lock", "w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert cli.main(words) == 2
        assert "out: is being written by another process" in capsys.readouterr().err
        assert cli.main([*words, "--coordinator", "nowhere", "--processes", "2", "--process", "1"]) == 2
        assert "--coordinator: 'nowhere' is not host:port" in capsys.readouterr().err


@pytest.mark.slow  # four runs, about a minute
@pytest.mark.timeout(1200)
def test_two_processes_sample_what_one_does_and_a_second_start_compiles_nothing(tmp_path):
    write_release(tmp_path / "release")
    write_scene(tmp_path / "scene")
    words = ["sample", "--weights", "../release", "--steps", "2", "--mesh", "1,1,2", "--out", "out"]
    for name in ("--reference", "--motion", "--cameras"):
        words += [name, "../scene"]
    cache = tmp_path / "cache"
    finish(start(tmp_path / "alone", words, 2))
    first = programs(cache)
    assert len(first) > 5
    finish(start(tmp_path / "again", words, 2))
    assert programs(cache) == first  # every program that is compiled leaves a file
    assert (pixels(tmp_path / "again/out") == pixels(tmp_path / "alone/out")).all()

    # The command of docs/launch.md, section 8: the same on each host, `--out` one folder of a file system that all see.
    shared = [*words, "--out", "../shared/out"]
    both = [start(tmp_path / name, [*shared, *flags], 1) for name, flags in zip(("one", "two"), pair())]
    outputs = finish(*both)
    assert "2 views x 9 frames: ../shared/out" in outputs[0] and "process 0 wrote ../shared/out" in outputs[1]
    assert np.abs(pixels(tmp_path / "shared/out") - pixels(tmp_path / "alone/out")).max() <= 1
    assert not list((tmp_path / "one").iterdir()) and not list((tmp_path / "two").iterdir())
    assert not [path for path in (tmp_path / "shared").iterdir() if path.name.startswith(".")], "no lock is left"
    both = [start(tmp_path / name, [*shared, *flags], 1) for name, flags in zip(("one", "two"), pair())]
    said = [process.communicate(timeout=500)[0].strip().splitlines()[-1] for process in both]
    assert [process.returncode for process in both] == [2, 2]
    assert "out: is already there" in said[0] and "process 0: did not begin" in said[1]


@pytest.mark.slow  # three runs, about a minute
@pytest.mark.timeout(1200)
def test_the_first_of_two_processes_exports(tmp_path):
    shards = write_shards(tmp_path / "shards")
    write_autoencoder(tmp_path / "vae")
    run(tmp_path / "run", overrides(shards, steps=2))
    arguments = overrides(shards, steps=2, autoencoder=tmp_path / "vae")
    words = ["train", "--config", "tiny", "--workdir", "../run", "--export", "release", *arguments]
    finish(start(tmp_path / "alone", words, 2))
    both = [start(tmp_path / name, [*words, *flags], 1) for name, flags in zip(("one", "two"), pair())]
    outputs = finish(*both)
    assert "step 2" in outputs[0] and "process 0 writes release" in outputs[1]
    assert not list((tmp_path / "two").iterdir())
    files = [path.relative_to(tmp_path / "alone") for path in (tmp_path / "alone").rglob("*.safetensors")]
    assert len(files) == 2
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "alone" / file).read_bytes()
