"""What may be written over, temporaries and their owners, locks, the disk that fills."""

import gzip
import json
import os
import resource
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mvp4d.cli import main
from mvp4d.core import lock, outputs, owner, places, room, stamps
from mvp4d.core.capture import Capture
from mvp4d.core.capture.fit import Fit
from mvp4d.core.capture.nerfstudio import export_nerfstudio
from mvp4d.core.errors import UserError
from mvp4d.core.files import atomic_file, atomic_folder
from mvp4d.core.images import write_png
from mvp4d.core.outputs import check_workdir
from mvp4d.core.video import VideoWriter, count_frames, read_video
from tests.capture.toy import make_cameras, make_motion, write_capture
from tests.files.process import python


# --- only what the program made, only when asked --------------------------------------------------------------------
def test_a_folder_is_replaced_only_when_it_is_ours_and_asked_for(tmp_path):
    thesis = tmp_path / "thesis"
    thesis.mkdir()
    (thesis / "chapter.tex").write_text("years of work")
    with (
        pytest.raises(UserError, match="no folder of frames that this program made"),
        atomic_folder(thesis, overwrite=True, kind="folder of frames"),
    ):
        pass
    assert (thesis / "chapter.tex").read_text() == "years of work"
    made = tmp_path / "made"
    with atomic_folder(made, kind="folder of frames") as folder:
        (folder / "0.png").write_text("old")
    with pytest.raises(UserError, match="already there"), atomic_folder(made, kind="folder of frames"):
        pass
    with (
        pytest.raises(UserError, match="no avatar that this program made"),
        atomic_folder(made, overwrite=True, kind="avatar"),
    ):
        pass
    with atomic_folder(made, overwrite=True, kind="folder of frames") as folder:
        (folder / "0.png").write_text("new")
    assert (made / "0.png").read_text() == "new"


@pytest.mark.parametrize("place", ["notes.txt", "images/cam0/mine.png", "sub/mine.txt"])
def test_a_users_file_in_our_folder_is_not_lost(tmp_path, place):
    path = write_capture(tmp_path / "c")
    (path / place).parent.mkdir(exist_ok=True)
    (path / place).write_text("mine")
    with pytest.raises(UserError, match="not of this program's making"):
        write_capture(path, overwrite=True)
    assert (path / place).read_text() == "mine"


def test_captures_of_before_the_marker_are_recognised(tmp_path):
    path = write_capture(tmp_path / "c")
    (path / outputs.MARKER).unlink()
    write_capture(path, overwrite=True)
    (path / outputs.MARKER).unlink()
    (path / "thesis.doc").write_text("mine")
    with pytest.raises(UserError, match=r"thesis\.doc"):
        write_capture(path, overwrite=True)


def test_another_tools_folder_is_not_taken_for_our_export(tmp_path):
    capture = Capture.open(write_capture(tmp_path / "c"))
    theirs = tmp_path / "data"
    theirs.mkdir()
    (theirs / "transforms.json").write_text("{}")
    with pytest.raises(UserError, match="not overwritten"):
        export_nerfstudio(capture, theirs, overwrite=True)
    export_nerfstudio(capture, tmp_path / "ours")
    export_nerfstudio(capture, tmp_path / "ours", overwrite=True)


@pytest.mark.parametrize("name", [".", "..", "../.."])
def test_the_folder_one_is_in_is_never_replaced(tmp_path, monkeypatch, name, capsys):
    inside = tmp_path / "a" / "b"
    inside.mkdir(parents=True)
    (tmp_path / "a" / "keep").write_text("mine")
    monkeypatch.chdir(inside)
    with pytest.raises(UserError, match="folder that you are in"), atomic_folder(name, overwrite=True, kind="capture"):
        pass
    assert (tmp_path / "a" / "keep").read_text() == "mine"


@pytest.mark.parametrize("suffix", [".npz", ".gz", ".png", ".jpg", ".mp4"])
def test_files_say_who_made_them_and_stay_what_they_are(tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    pixels = np.arange(16 * 16 * 3, dtype=np.uint8).reshape(16, 16, 3)
    with atomic_file(path) as temporary:
        if suffix == ".npz":
            np.savez(temporary, a=np.arange(5))
        elif suffix == ".gz":
            temporary.write_bytes(gzip.compress(pixels.tobytes()))
        elif suffix == ".mp4":
            with VideoWriter(temporary, (16, 16), 10) as writer:
                writer.add(pixels)
        else:
            Image.fromarray(pixels).save(temporary)
    assert stamps.is_ours(path)
    outputs.check_file(path, True)
    if suffix == ".npz":
        np.testing.assert_array_equal(np.load(path)["a"], np.arange(5))
    elif suffix == ".gz":
        assert gzip.decompress(path.read_bytes()) == pixels.tobytes()
    elif suffix == ".mp4":
        assert len(list(read_video(path))) == 1
    else:
        with Image.open(path) as picture:
            picture.load()
            assert suffix != ".png" or np.array_equal(np.asarray(picture), pixels)
            if suffix == ".png":
                assert picture.text["Software"] == "mvp4d"


def test_a_users_file_is_never_replaced(tmp_path):
    path = tmp_path / "me.mp4"
    path.write_bytes(b"\0\0\0\x18ftypmp42 a wedding")
    for overwrite, words in ((False, "already there"), (True, "not made by this program")):
        with pytest.raises(UserError, match=words):
            outputs.check_file(path, overwrite)
    (tmp_path / "empty.mp4").touch()
    outputs.check_file(tmp_path / "empty.mp4", True)
    (tmp_path / "link.mp4").symlink_to(path)
    with pytest.raises(UserError, match="is a link"):
        outputs.check_file(tmp_path / "link.mp4", True)


def test_parts_of_an_avatar_are_not_replaced_by_other_outputs(tmp_path):
    """Every one of them is this program's, and `overwrite` was asked for: still nobody means that."""
    folder = tmp_path / "avatar"
    folder.mkdir()
    (folder / "avatar.json").write_text(json.dumps({"format": "mvp4d-avatar"}))
    with atomic_file(folder / "motion.npz") as temporary:
        np.savez(temporary, rotation=np.zeros((2, 3)))
    for name in ("avatar.json", "motion.npz"):
        with pytest.raises(UserError, match="not overwritten"):
            outputs.check_file(folder / name, True)
    outputs.check_file(folder / "talk.mp4", True)


def test_the_lock_is_never_named(tmp_path, capsys):
    (tmp_path / "file").write_text("x")
    for out in (tmp_path / "file" / "x.npz", tmp_path / "file" / "y" / "x.npz"):
        assert main(["speak", "a.wav", "--out", str(out)]) == 2
        told = capsys.readouterr().err
        assert told.startswith(f"mvp4d speak: {out}: cannot be written: ") and "mvp4d-lock" not in told


def test_work_folders(tmp_path):
    mine = tmp_path / "av.run"
    mine.mkdir()
    (mine / "log").write_text("mine")
    with pytest.raises(UserError, match="not made by this command"):
        outputs.work_folder(mine, "distill run")
    outputs.drop_work_folder(mine, "distill run")
    assert (mine / "log").exists()
    made = outputs.work_folder(tmp_path / "b.run", "distill run")
    (made / "checkpoint").touch()
    assert outputs.was_finishing(made, "distill run") is None
    outputs.mark_finishing(made, "distill run", "f1")
    outputs.work_folder(made, "distill run")
    assert outputs.was_finishing(made, "distill run") == "f1"
    outputs.drop_work_folder(made, "sampling run")
    assert made.exists()
    outputs.drop_work_folder(made, "distill run")
    assert not made.exists()


def test_a_workdir_full_of_something_else(tmp_path):
    for name in ("train.log", "my_config.py", ".hidden", "submit.sh"):
        (tmp_path / name).write_text("x")
    (tmp_path / "compilation_cache").mkdir()
    check_workdir(tmp_path)
    check_workdir(tmp_path / "new")
    (tmp_path / "holiday.jpg").write_text("x")
    with pytest.raises(UserError, match=r"holds 'holiday\.jpg', and no run was there"):
        check_workdir(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    check_workdir(tmp_path)


def test_modes_are_those_of_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        with atomic_folder(tmp_path / "f", kind="avatar") as folder:
            (folder / "a").touch(mode=0o600)
        with atomic_file(tmp_path / "g") as temporary:
            temporary.touch(mode=0o600)
    finally:
        os.umask(before)
    assert [oct((tmp_path / name).stat().st_mode & 0o777) for name in ("f", "f/a", "g")] == ["0o750", "0o640", "0o640"]


# --- temporaries ----------------------------------------------------------------------------------------------------
LEAVE = """
import os, signal, sys
from mvp4d.core.files import atomic_file, atomic_folder
with atomic_folder(sys.argv[1] + "/capture") as folder, atomic_file(sys.argv[1] + "/film.mp4") as path:
    (folder / "x").touch(); path.touch()
    print("ready", flush=True)
    os.kill(os.getpid(), signal.SIGKILL) if sys.argv[2] == "kill" else sys.stdin.read()
"""


def test_what_a_killed_process_left_is_swept_and_nothing_else(tmp_path):
    ours = [tmp_path / ".notes.mvp4d", tmp_path / ".x.1234.tmp", tmp_path / ".k.0a1b2c3d.tmp.npz"]
    for path in ours:
        path.write_text("mine")
    assert python(LEAVE, tmp_path, "kill").wait() == -signal.SIGKILL
    alive = python(LEAVE, tmp_path / "other", "wait", stdin=subprocess.PIPE)
    assert alive.stdout.readline() == "ready\n"
    assert len(list(tmp_path.glob(".*mvp4d-*"))) == 3  # two temporaries and a lock
    owner._swept.clear()
    with atomic_file(tmp_path / "anything.txt") as temporary:
        temporary.write_text("x")
    assert [path.name for path in tmp_path.glob(".*.mvp4d-*")] == [".capture.mvp4d-lock"]
    assert all(path.read_text() == "mine" for path in ours)
    assert not owner.sweep(tmp_path / "other")  # its process is alive
    alive.communicate("go on")
    assert {path.name for path in (tmp_path / "other").iterdir()} == {"capture", "film.mp4"}
    with atomic_folder(tmp_path / "capture") as folder:
        (folder / "x").touch()
    assert not list(tmp_path.glob(".*.mvp4d-*"))


def test_temporaries_of_other_machines_are_left_for_a_day(tmp_path):
    name = tmp_path / f".a.mvp4d-{'0' * 8}-{os.getpid()}-{'1' * 8}-{'2' * 8}.tmp.npz"
    name.touch()
    assert not owner.sweep(tmp_path)
    os.utime(name, (time.time() - 2 * owner.OTHER_HOST_SECONDS,) * 2)
    assert owner.sweep(tmp_path) == [name]


def test_an_output_that_was_moved_aside_comes_back(tmp_path):
    retired = owner.temporary_name(tmp_path / "capture.v1", "old")
    gone = retired.with_name(retired.name.replace(f"-{os.getpid()}-", "-999999-"))
    gone.mkdir()
    (gone / "x").write_text("whole")
    owner.sweep(tmp_path)
    assert (tmp_path / "capture.v1" / "x").read_text() == "whole"


def test_long_names_and_strange_ones(tmp_path):
    for name in ("n" * 250, "ü" * 120, "a b\n.npz", ".hidden", "x.y" + "z" * 200):
        with atomic_file(tmp_path / name) as temporary:
            temporary.write_text("x")
        assert (tmp_path / name).read_text() == "x"


# --- one writer at a time -------------------------------------------------------------------------------------------
HOLD = """
import sys
from mvp4d.core.lock import hold
with hold(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_the_second_process_says_who_holds_the_output(tmp_path, capsys):
    out = tmp_path / "new" / "capture"
    first = python(HOLD, out, stdin=subprocess.PIPE)
    assert first.stdout.readline() == "held\n"
    began = time.monotonic()
    assert main(["studio", "--out", str(out)]) == 2
    assert time.monotonic() - began < 5
    line = capsys.readouterr().err.strip()
    assert f"being written by process {first.pid} on " in line and "\n" not in line
    first.communicate("done")
    with lock.hold(out), lock.hold(out):  # as often as one likes
        pass
    assert not (tmp_path / "new").exists()


def test_a_lock_of_a_killed_process_does_not_bar(tmp_path):
    first = python(HOLD, tmp_path / "x", stdin=subprocess.PIPE)
    first.stdout.readline()
    first.kill()
    first.communicate()
    with lock.hold(tmp_path / "x"):
        pass
    assert not list(tmp_path.iterdir())


# --- the system refuses ---------------------------------------------------------------------------------------------
@pytest.fixture
def file_limit():
    """Sets how large a file may become, as a full disk would."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def noise(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 64, 64, 3), dtype=np.uint8)


def film(path: Path, frames: np.ndarray) -> None:
    with atomic_file(path) as temporary, VideoWriter(temporary, frames.shape[1:3], 25) as writer:
        for frame in frames:
            writer.add(frame)


@pytest.mark.parametrize("limit", [100, 16_000, 60_000])
def test_a_full_disk_leaves_the_old_film(tmp_path, file_limit, limit):
    path = tmp_path / "film.mp4"
    film(path, noise(3))
    before = path.read_bytes()
    file_limit(limit)
    with pytest.raises(UserError, match=r"cannot be written|were written"):
        film(path, noise(60))
    assert path.read_bytes() == before and [item.name for item in tmp_path.iterdir()] == ["film.mp4"]


def test_a_film_is_looked_at_before_it_counts(tmp_path):
    film(tmp_path / "film.MP4", noise(7))
    assert count_frames(tmp_path / "film.MP4") == 7 == len(list(read_video(tmp_path / "film.MP4")))


@pytest.mark.parametrize("limit", [0, 100, 2000, 5000])
def test_a_full_disk_leaves_the_old_capture(tmp_path, file_limit, limit):
    path = write_capture(tmp_path / "c")
    before = {item: item.read_bytes() for item in path.rglob("*") if item.is_file()}
    file_limit(limit)
    with pytest.raises(UserError, match="the disk is full"):
        write_capture(path, overwrite=True, size=(128, 128))
    assert before == {item: item.read_bytes() for item in path.rglob("*") if item.is_file()}
    assert [item.name for item in tmp_path.iterdir()] == ["c"]


def test_space_is_asked_before(tmp_path):
    with pytest.raises(UserError, match=r"takes about 1e\+03 TB|takes about 1000 TB"):
        room.require_space(tmp_path / "not" / "yet", 1e15, "filming")
    room.require_space(tmp_path / "not" / "yet", 10, "filming")


def test_errors_of_the_system_are_one_line(tmp_path, capsys, monkeypatch):
    (tmp_path / "file").touch()
    write_capture(tmp_path / "c")
    Fit(make_motion(), make_cameras(), np.full((3, 2), 16), ("a", "b", "c"), head="toy").save(tmp_path / "fit.npz")
    for arguments in (
        ["studio", "--out", str(tmp_path / "file" / "c")],
        ["export", str(tmp_path / "c"), "--format", "nerfstudio", "--out", str(tmp_path / "file" / "c")],
    ):
        assert main(arguments) == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1 and str(tmp_path / "file") in lines[0], lines


def test_a_reader_that_goes_away_is_no_error(tmp_path):
    path = write_capture(tmp_path / "c")
    process = python(
        "import sys; from mvp4d.cli import main; sys.exit(main(['validate', sys.argv[1]]))", path, bufsize=0
    )
    process.stdout.close()
    assert process.wait() == 141
    assert process.stderr.read() == ""


def test_nothing_of_the_host_is_given_away():
    assert places.without_folders("/home/alice/me.png") == "me.png"
    assert places.without_folders("file:/home/alice/orbit.npz") == "file:orbit.npz"
    assert places.without_folders("orbit:360x8") == "orbit:360x8"


def test_evaluation_is_part_of_the_capture_it_measures(tmp_path):
    path = write_capture(tmp_path / "c")
    (path / "evaluation.json").write_text("{}")
    outputs.add_to_marker(path, "evaluation.json")
    assert "evaluation.json" in json.loads((path / outputs.MARKER).read_text())["files"]
    write_capture(path, overwrite=True)


def test_png_of_every_shape(tmp_path):
    for shape in ((5, 7), (5, 7, 3), (5, 7, 4)):
        write_png(tmp_path / "x.png", np.zeros(shape, np.uint8))
        with Image.open(tmp_path / "x.png") as picture:
            assert picture.size == (7, 5)
