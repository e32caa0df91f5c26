"""Commands that are killed at random moments and run again, and disks that fill under them."""

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mvp4d.cli import main

ROOT = Path(__file__).resolve().parents[2]
KILLS = int(os.environ.get("MVP4D_KILLS", "10"))
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
# Of reports: what no two runs share. Of the marker: how many event files TensorBoard has, one for every resumption.
VOLATILE = ("seconds", "resumed", "minutes", "tensorboard")
DONE = "is already there"  # what a run says after one that was killed when all was in its place
pytestmark = [pytest.mark.slow, pytest.mark.timeout(5400)]


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """What the commands begin with: a small capture, a photo with its landmarks, an avatar."""
    root = tmp_path_factory.mktemp("world")
    assert (
        main(["studio", "--out", str(root / "capture"), "--cameras", "orbit:360x3", "--frames", "9", "--size", "64"])
        == 0
    )
    assert (
        main(["distill", str(root / "capture"), "--out", str(root / "avatar"), "--preset", "cpu", "--steps", "5"]) == 0
    )
    assert main(["export", str(root / "capture"), "--format", "cap4d", "--out", str(root / "cap4d")]) == 0
    from mvp4d.core.heads import load_head
    from tests.tracking.test_solve import SIZE, moving, observe

    head = load_head("builtin")
    seen = observe(head, moving(head, [[0.1, -0.3, 0.05]], {}), np.zeros(head.shape_count, np.float32))
    np.savez(root / "landmarks.npz", landmarks=seen.points)
    Image.new("RGB", SIZE[::-1], "grey").save(root / "photo.png")
    return root


COMMANDS: dict[str, Callable[[Path, Path], list[str]]] = {
    "studio": lambda world, out: [
        "studio",
        "--out",
        str(out / "c"),
        "--cameras",
        "orbit:360x2",
        "--frames",
        "6",
        "--size",
        "96",
    ],
    "track": lambda world, out: [
        "track",
        str(world / "photo.png"),
        "--landmarks",
        str(world / "landmarks.npz"),
        "--out",
        str(out / "fit.npz"),
    ],
    "import": lambda world, out: [
        "import",
        str(world / "cap4d"),
        "--from",
        "cap4d",
        "--head",
        "builtin",
        "--out",
        str(out / "i"),
        "--overlay",
        str(out / "i.png"),
    ],
    "render": lambda world, out: [
        "render",
        str(world / "avatar"),
        "--cameras",
        "turn:360",
        "--size",
        "96",
        "--out",
        str(out / "x.mp4"),
    ],
    "distill": lambda world, out: [
        "distill",
        str(world / "capture"),
        "--out",
        str(out / "a"),
        "--preset",
        "cpu",
        "--steps",
        "25",
    ],
    "prepare": lambda world, out: ["prepare", str(world / "capture"), "--config", "tiny", "--out", str(out / "s")],
    "sample": lambda world, out: [
        "sample",
        "--weights",
        "tiny",
        "--reference",
        str(world / "capture"),
        "--motion",
        str(world / "capture"),
        "--cameras",
        "orbit:360x2",
        "--steps",
        "2",
        "--frames",
        "9",
        "--out",
        str(out / "v"),
    ],
    "demo": lambda world, out: ["demo", "--weights", "tiny", "--frames", "5", "--out", str(out / "d")],
}
SMALL_DEMO = (
    "import mvp4d_jax.demo as demo; demo.VIEWS, demo.ORBIT_FRAMES, run = 3, 8, demo.run_command; "
    "demo.run_command = lambda words: run([*words, *['--steps', '30'] * (words[0] == 'distill')])"
)


def start(words: list[str], limit: int | None = None) -> subprocess.Popen:
    program = "import sys; from mvp4d.cli import main; sys.exit(main(sys.argv[1:]))"
    if words[0] == "demo":
        program = f"{SMALL_DEMO}; {program}"
    if limit is not None:
        program = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit})); {program}"
    return subprocess.Popen(
        [sys.executable, "-c", program, *words], cwd=ROOT, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )


def run(words: list[str]) -> float:
    """Runs a command to its end; returns the seconds it took."""
    began = time.monotonic()
    with start(words) as process:
        said = process.communicate()[1]
    assert process.returncode == 0, said
    return time.monotonic() - began


def content(folder: Path) -> dict[str, str]:
    """Every file below a folder with a hash; of reports without what no two runs share."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_dir():
            continue
        if "tensorboard" in name:
            name, data = name.partition("events")[0], b""  # the time is in its name
        elif path.suffix == ".json":
            data = json.dumps(_steady(json.loads(path.read_text()), folder)).encode()
        elif path.name == "report.html":
            data = b""  # tells the seconds
        elif path.suffix == ".html":
            data = path.read_bytes().replace(str(folder).encode(), b"OUT")
        else:
            data = path.read_bytes()
        found[name] = hashlib.sha256(data).hexdigest()
    return found


def _steady(value: object, folder: Path) -> object:
    if isinstance(value, dict):
        return {key: _steady(item, folder) for key, item in value.items() if key not in VOLATILE}
    if isinstance(value, list):
        return [_steady(item, folder) for item in value]
    return value.replace(str(folder), "OUT") if isinstance(value, str) else value


@pytest.mark.parametrize("name", COMMANDS)
def test_killed_and_run_again(world, tmp_path, name):
    """Ten kills one after another; what the last run ends with is what an undisturbed one does, and nothing more."""
    for folder in ("calm", "killed"):
        (tmp_path / folder).mkdir()
    seconds = run(COMMANDS[name](world, tmp_path / "calm"))
    words, moments = COMMANDS[name](world, tmp_path / "killed"), random.Random(name)
    for number in range(KILLS):
        with start(words) as process:
            try:
                process.wait(moments.uniform(0.05, 1.0) * seconds)
            except subprocess.TimeoutExpired:
                process.send_signal(SIGNALS[number % len(SIGNALS)])
            said = process.communicate()[1]
        assert "Traceback" not in said, said[-3000:]
        if process.returncode == 0 or DONE in said:  # it was faster than the kill, or than the last one
            assert content(tmp_path / "killed") == content(tmp_path / "calm")
            shutil.rmtree(tmp_path / "killed")
            (tmp_path / "killed").mkdir()
    with start(words) as process:
        said = process.communicate()[1]
    assert process.returncode == 0 or DONE in said, said[-3000:]
    assert content(tmp_path / "killed") == content(tmp_path / "calm")


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Callable[[int], Path]]:
    """Mounts a file system of so many kilobytes."""
    mounted: list[Path] = []

    def mount(kilobytes: int) -> Path:
        path = tmp_path / f"disk{len(mounted)}"
        path.mkdir()
        options = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(path)]
        if shutil.which("mount") is None or subprocess.run(options, capture_output=True).returncode:
            pytest.skip("no small file system can be mounted here (needs root)")
        mounted.append(path)
        return path

    yield mount
    for path in mounted:
        subprocess.run(["umount", str(path)], check=True)


def pages(folder: Path) -> int:
    """Kilobytes that the files below a folder take on a file system of 4 KB pages."""
    return sum(4 * -(-path.stat().st_size // 4096) for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("name", COMMANDS)
def test_a_disk_that_fills(world, tmp_path, small_disk, name):
    """At ten different points: one line, exit code 2, what was there before is whole, nothing is left behind.

    Every second disk holds an earlier output of the same command, which is to be replaced; where no flag asks for that
    (prepare, demo) it is left out.
    """
    calm = tmp_path / "calm"
    calm.mkdir()
    run(COMMANDS[name](world, calm))
    failures = 0
    for number in range(KILLS):
        old = number % 2 == 1 and name not in ("prepare", "demo")
        disk = small_disk(8 + (pages(calm) + 4 if old else 0) + round(pages(calm) * number / KILLS))
        (disk / "old.txt").write_text("old")
        if old:
            shutil.copytree(calm, disk, dirs_exist_ok=True)
        before = content(disk)
        with start([*COMMANDS[name](world, disk), *(["--overwrite"] if old else [])]) as process:
            said = process.communicate()[1]
        if process.returncode == 0:  # it needs less than its output takes on another file system
            continue
        failures += 1
        assert process.returncode == 2 and "Traceback" not in said, said[-3000:]
        *_, above, line = ["", *said.strip().splitlines()]
        assert line.startswith(f"mvp4d {name}: "), line
        reason = above if "its own message is above" in line else line  # of a demo's stage, which is a command itself
        assert reason.startswith("mvp4d ") and ("free" in reason or "full" in reason), said[-1000:]
        after = {path: hashed for path, hashed in content(disk).items() if not _kept(path, name)}
        assert after == before
    assert failures


def _kept(path: str, name: str) -> bool:
    """Whether a file is one that a long job keeps to go on from."""
    top = path.split("/")[0]
    return top.endswith((".run", ".work")) or (name, top) in (("prepare", "s"), ("demo", "d"))
