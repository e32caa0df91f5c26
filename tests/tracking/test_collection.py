"""A folder of clips, tracked in shares: disjoint, complete, gone on with, and one that fails stops no other."""

import csv
import subprocess
import sys

import numpy as np
import pytest

from mvp4d.cli import main
from mvp4d.core import shares
from mvp4d.core.cameras.camera import project
from mvp4d.core.capture import Capture
from mvp4d.core.errors import UserError
from mvp4d.core.heads import load_head
from mvp4d.core.lock import hold
from mvp4d.core.room import Full
from mvp4d.core.video import VideoWriter
from mvp4d_jax.heads.skinning import landmarks, skin
from mvp4d_jax.tracking.collection import find_clips
from tests.tracking.test_solve import SIZE, degrees_between, moving, observe

TURNS = {"a": [0.0, 0.3, 0.0], "b": [0.1, -0.2, 0.0], "deep__c": [0.0, 0.0, 0.1]}


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Three clips of two frames with their landmarks, one of them in a folder of its own, and one that is no video."""
    root, head = tmp_path_factory.mktemp("clips"), load_head("builtin")
    (root / "films" / "deep").mkdir(parents=True)
    (root / "marks").mkdir()
    for name, turn in TURNS.items():
        with VideoWriter(root / "films" / f"{name.replace('__', '/')}.mp4", SIZE, 25.0) as writer:
            for _ in range(2):
                writer.add(np.full((*SIZE, 3), 128, np.uint8))
        seen = observe(head, moving(head, [turn] * 2, {}), np.zeros(head.shape_count, np.float32))
        np.savez(root / "marks" / f"{name}.npz", landmarks=seen.points)
    (root / "films" / "broken.mp4").write_bytes(b"no film")
    (root / "films" / "notes.txt").write_text("")
    return root


def command(clips, out, share):
    words = ["track", str(clips / "films"), "--share", share, "--landmarks", str(clips / "marks")]
    return [*words, "--matte", "none", "--out", str(out)]


def table(path):
    with open(path, newline="") as handle:
        return list(csv.reader(handle))


def test_shares_cover_all_and_a_failure_stops_no_other(clips, tmp_path, capsys):
    out = tmp_path / "captures"
    assert list(find_clips(clips / "films")) == ["a", "b", "broken", "deep__c"]
    assert main(command(clips, out, "1/2")) == 0  # b, deep__c
    assert "2 of 2 clips tracked" in capsys.readouterr().out
    assert sorted(path.name for path in out.iterdir()) == ["b", "collection.json", "deep__c"]
    assert main(command(clips, out, "0/2")) == 2  # a, broken
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert "failed.csv: 1 of 2 clips failed; broken: " in line
    assert table(out / "failed.csv")[0] == ["clip", "why"] and table(out / "failed.csv")[1][0] == "broken"
    head = load_head("builtin")
    for name, turn in TURNS.items():
        capture = Capture.open(out / name)
        assert capture.names == ("cam0",) and capture.frame_count == 2
        # the world is the camera's; where the marks were is where the fitted head has them
        seen = observe(head, moving(head, [turn] * 2, {}), np.zeros(head.shape_count, np.float32))
        points = np.asarray(landmarks(capture.head, skin(capture.head, capture.motion)), np.float64)
        pixels = project(capture.cameras[0, 0], points)[0]
        assert np.linalg.norm(pixels - seen.points, axis=-1).mean() < 0.01 * seen.box_size
        assert degrees_between(capture.motion.rotation[0], turn) < 5
        assert main(["validate", str(out / name)]) == 0
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.png")}
    capsys.readouterr()
    assert main(command(clips, out, "0/1")) == 2  # only what failed is tried again
    assert before == {path: path.stat().st_mtime_ns for path in out.rglob("*.png")}
    (clips / "films" / "broken.mp4").rename(clips / "broken.mp4")
    assert main(command(clips, out, "0/1")) == 0
    assert not (out / "failed.csv").exists()
    (clips / "broken.mp4").rename(clips / "films" / "broken.mp4")
    assert main(["track", str(clips / "films"), "--share", "0/1", "--head", "ict:x", "--out", str(out)]) == 2


def test_processes_that_begin_together_are_one_collection(clips, tmp_path, monkeypatch, capsys):
    """Share 4 of 5 has none of the four clips to do."""
    assert main(command(clips, tmp_path / "first", "4/5")) == 0
    plan, out = (tmp_path / "first" / "collection.json").read_bytes(), tmp_path / "out"
    out.mkdir()
    listed = type(out).iterdir

    def list_it(path):
        if path == out:
            (path / "collection.json").write_bytes(plan)  # another process, just now
        return listed(path)

    monkeypatch.setattr(type(out), "iterdir", list_it)
    assert main(command(clips, out, "4/5")) == 0, capsys.readouterr().err
    assert (out / "collection.json").read_bytes() == plan


@pytest.mark.parametrize(
    "more, message",
    [
        (["--share", "2/2"], "--share: '2/2' is not I/N"),
        (["--share", "x"], "is not I/N"),
        (["--share", "0/1", "--cameras", "c"], "--share: takes no --cameras"),
        (["--share", "0/1", "--mask", "m.png"], "--share: takes no --mask"),
        (["--share", "0/1", "--most", "3"], "--share: takes no --most"),
        (["--share", "0/1", "--landmarks", "x.npz"], "--landmarks: is no folder"),
        ([], "--share 0/1 where the folder holds clips"),
    ],
)
def test_refusals(clips, tmp_path, capsys, more, message):
    assert main(["track", str(clips / "films"), "--out", str(tmp_path / "o"), *more]) == 2
    assert message in capsys.readouterr().err.strip().splitlines()[-1]


def test_a_folder_without_clips_and_names_that_are_taken(clips, tmp_path):
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError, match="holds no clip"):
        find_clips(tmp_path / "none")
    for name in ("x.mp4", "x.mov"):
        (tmp_path / "none" / name).write_bytes(b"")
    with pytest.raises(UserError, match="a second clip 'x'"):
        find_clips(tmp_path / "none")


def test_every_number_is_in_one_share():
    names = [f"{number:03d}" for number in range(23)]
    parts = [names[index::count] for index, count in (shares.parse_share(f"{index}/5") for index in range(5))]
    assert sorted(name for part in parts for name in part) == names and max(map(len, parts)) - min(map(len, parts)) <= 1


def test_what_kills_its_process_comes_last_and_is_told(tmp_path):
    """A clip that ends the process (out of memory): the next run has it last, the table has it."""
    program = (
        "import os, signal, sys; from pathlib import Path; from mvp4d.core.shares import work_through\n"
        "folder = Path(sys.argv[1])\n"
        "def do(name):\n"
        "    if name == 'b': os.kill(os.getpid(), signal.SIGKILL)\n"
        "    (folder / name).mkdir()\n"
        "work_through('abc', folder, (0, 1), lambda name: (folder / name).exists(), do)"
    )
    for left in (["a"], ["a", "c"]):
        ended = subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False)
        assert ended.returncode == -9
        assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == left
    assert [name for name, why in shares.read_notes(tmp_path, "abc") if "its process ended" in why] == ["b"]
    with hold(tmp_path / "b"):
        pass  # this process's own lock does not hide it from itself


def test_a_full_disk_and_stopping_are_no_failures_of_an_input(tmp_path):
    tried = []

    def fail(name):
        tried.append(name)
        raise errors[0]

    for error in (Full("x", "is full"), OSError(28, "No space left on device"), KeyboardInterrupt()):
        errors = [error]
        with pytest.raises(type(error)):
            shares.work_through("ab", tmp_path, (0, 1), lambda name: False, fail)
    assert tried == ["a"] * 3 and not list(tmp_path.glob("*.failed"))
    errors = [ValueError("odd")]
    assert shares.work_through("ab", tmp_path, (0, 1), lambda name: False, fail) == (0, 0)
    assert [why for _, why in shares.read_notes(tmp_path, "ab")] == ["an error of this program: ValueError: odd"] * 2
