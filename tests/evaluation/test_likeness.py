"""Likeness: medians by hand on descriptors that are made up; real faces where dlib's network can be had."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from mvp4d.cli import main
from mvp4d.core.cameras.camera import Camera, stack
from mvp4d.core.capture import Capture
from mvp4d.core.capture.portrait import Portrait, save_person
from mvp4d.core.errors import UserError
from mvp4d.core.heads.motion import Motion
from mvp4d.core.outputs import MARKER, check_folder, mark_folder
from mvp4d.likeness import Likeness, measure_avatar
from mvp4d_jax.evaluation import likeness
from mvp4d_jax.evaluation.likeness_report import likeness_table
from mvp4d_jax.tracking import likeness as describing
from mvp4d_jax.tracking.likeness import DLIB, cosines, describe_faces, distances
from tests.small_world import ball, motion, write_scene

PICTURE = np.zeros((8, 8, 3), np.uint8)


def at(degrees):
    return [np.cos(np.radians(degrees)), np.sin(np.radians(degrees)), *np.zeros(126)]


def portrait(count):
    camera = Camera(np.eye(4), *(np.float64(value) for value in (10, 10, 4, 4)))
    return Portrait(
        (np.full((8, 8, 4), 255, np.uint8),) * count,
        stack([camera] * count),
        motion(count),
        ball(),
        1,
        tuple(f"{index}.png" for index in range(count)),
    )


def test_medians_by_hand(monkeypatch):
    """Photos at 0 and 60 degrees, the reference the second; views at (60, 70, none) and (none, none, none)."""
    nothing = np.full(128, np.nan)
    rows = np.array([at(0), at(60), at(60), at(70), nothing, nothing, nothing, nothing])
    monkeypatch.setattr(likeness, "describe_faces", lambda pictures, count: rows)
    views = [(0.0, np.stack([PICTURE] * 3)), (90.0, np.stack([PICTURE] * 3))]
    found = likeness.score_likeness(portrait(2), views)
    chord = lambda degrees: 2 * np.sin(np.radians(degrees / 2))  # noqa: E731
    assert found["reference"] == "1.png" and [row["name"] for row in found["photos"]] == ["0.png"]
    assert found["photos"][0]["distance"] == pytest.approx(chord(60))
    front, side = found["views"]
    assert (front["frames"], front["faces"]) == (3, 2) and (side["faces"], side["distance"]) == (0, None)
    assert front["distance"] == pytest.approx((0 + chord(10)) / 2)
    assert front["csim"] == pytest.approx((1 + np.cos(np.radians(10))) / 2)
    assert found["all"]["distance"] == front["distance"] and found["all"]["frames"] == 6
    page = likeness_table({"likeness": found, "left_out": {}})
    assert "2 of 3" in page and f"{front['distance']:.3f}" in page
    assert "No face was found in avatar, +90°" in page and "0 of 3" not in page
    assert "no network" in likeness_table({"left_out": {"CSIM": "no network"}})


def test_csim_of_views_leaves_out_frames_without_a_face(monkeypatch):
    rows = np.array(
        [at(0), at(0), np.full(128, np.nan), *[np.full(128, np.nan)] * 3, at(60), at(0), at(0), at(0), at(0), at(0)]
    )
    monkeypatch.setattr(likeness, "describe_faces", lambda pictures, count: rows)
    values = likeness.csim_of_views([np.stack([PICTURE] * 3)] * 2, [np.stack([PICTURE] * 3)] * 2)
    assert values[0] == pytest.approx((0.5 + 1) / 2) and np.isnan(values[1])


class Mirror:
    """An avatar that shows the photos themselves, of any size."""

    head = ball()

    def motion(self, given):
        return motion(3)

    def render(self, motion, *, cameras, size):
        shown = (size, size) if isinstance(size, int) else size
        return SimpleNamespace(frames=lambda: np.full((1, *shown, 3), 255, np.uint8), each_view=lambda: [])


def test_pairs_end_below_the_head(monkeypatch):
    """A ball of a head two metres before a camera: pairs end at 1.2 times its half extent, below its middle."""
    monkeypatch.setattr(likeness, "score_likeness", lambda portrait, views: {})
    pose = np.diag([1.0, -1.0, -1.0, 1.0])
    pose[2, 3] = 2.0
    camera = Camera(pose, *(np.float64(value) for value in (300, 300, 40, 70)))
    photo = np.full((200, 80, 4), 255, np.uint8)
    found = measure_avatar(Mirror(), Portrait((photo,), stack([camera]), Motion.still(1, 2), ball(), 0, ("a.png",)))
    x, y, z = np.asarray(ball().template, np.float64).T
    across, down = 40 + 300 * x / (2 - z), 70 - 300 * y / (2 - z)
    below = round((down.min() + down.max()) / 2 + 1.2 * max(np.ptp(across), np.ptp(down)) / 2)
    assert [picture.shape for picture in found.pairs[0]] == [(below, 80, 3)] * 2 and 80 < below < 100
    assert found.scores["photos"] == [{"name": "a.png", "psnr": np.inf, "ssim": pytest.approx(1)}]


ECHO = """
import sys
import numpy as np
while header := sys.stdin.buffer.read(8):
    height, width = np.frombuffer(header, "<u4").tolist()
    value = sys.stdin.buffer.read(height * width * 3)[0]
    if value == 99:
        sys.exit("Error: ninety-nine")
    sys.stdout.buffer.write(np.full(129, value, "<f8").tobytes())
    sys.stdout.buffer.flush()
"""


class EchoEnvironment:
    """In place of dlib's: a descriptor repeats the picture's first value; 0 is no face, 99 ends the process."""

    def __init__(self):
        self.processes = []

    def start(self, script, *, log):
        command = [sys.executable, "-c", ECHO]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log)
        self.processes.append(process)
        return process

    def failure(self, log):
        return UserError("dlib", log.strip(), "try again")


@pytest.mark.parametrize("values", [[], [7], [5, 0, 3, 9, 1, 1, 250], range(1, 12)])
@pytest.mark.parametrize("cores", [1, 3])
def test_several_processes_answer_in_order(monkeypatch, values, cores):
    """No more processes than cores and pictures; none outlives the call."""
    echo = EchoEnvironment()
    monkeypatch.setattr(describing, "DLIB", echo)
    monkeypatch.setattr(describing, "cpu_count", lambda: cores)
    pictures = [np.full((512 + index, 600, 3), value, np.uint8) for index, value in enumerate(values)]
    expected = [[value or np.nan] * 128 for value in values]
    assert np.array_equal(
        describe_faces(iter(pictures), len(pictures)), np.reshape(expected, (-1, 128)), equal_nan=True
    )
    assert len(echo.processes) == max(1, min(cores, len(pictures)))
    assert all(process.returncode is not None for process in echo.processes)


@pytest.mark.parametrize("at_picture", [0, 3, 6])
def test_a_process_that_fails_is_one_line(monkeypatch, at_picture):
    echo = EchoEnvironment()
    monkeypatch.setattr(describing, "DLIB", echo)
    monkeypatch.setattr(describing, "cpu_count", lambda: 2)
    pictures = [np.full((600, 600, 3), 99 if index == at_picture else 1, np.uint8) for index in range(7)]
    with pytest.raises(UserError, match="ninety-nine"):
        describe_faces(pictures, len(pictures))
    assert all(process.returncode is not None for process in echo.processes)


def test_real_faces(shared_data):
    """Two photos of one person are nearer than 0.6, another person is not; a picture without a face has none."""
    try:
        DLIB.python()
    except UserError as error:
        pytest.skip(f"dlib's descriptors cannot be had here: {error}")
    files = [
        shared_data / "photos" / "person_a_1.png",
        shared_data / "photos" / "person_a_2.png",
        shared_data / "tracked_examples" / "lincoln" / "abraham_lincoln.png",
    ]
    pictures = [np.asarray(Image.open(file).convert("RGB")) for file in files] + [np.full((100, 80, 3), 90, np.uint8)]
    found = describe_faces(pictures, len(pictures))
    apart = distances(found, found)
    assert apart[0, 1] < 0.35 and apart[0, 2] > 0.7 and np.isnan(found[3]).all()
    assert cosines(found, found)[0, 1] == pytest.approx(1 - apart[0, 1] ** 2 / 2, abs=0.05)


def test_views_are_measured_against_photos(monkeypatch, tmp_path):
    """Views within 75 degrees of the reference, nearest first; flags that are not for it are refused."""
    capture = Capture.open(write_scene(tmp_path / "views", views=8, frames=2))
    save_person(tmp_path / "person", portrait(2))
    given = []

    def describe(pictures, count):
        given.extend(pictures)
        return np.array([at(0)] * 2 + [at(30)] * (count - 2))

    monkeypatch.setattr(likeness, "describe_faces", describe)
    words = ["evaluate", str(capture.path), "--against", str(tmp_path / "person"), "--out", str(tmp_path / "found")]
    assert main(words) == 0
    scores = json.loads((tmp_path / "found" / "evaluation.json").read_text())["likeness"]
    assert [round(row["angle"]) for row in scores["views"]] == [0, 45, 45]
    expected = [capture.frame(view, frame) for view in (0, 1, 7) for frame in range(2)]
    assert np.array_equal(given[2:], expected)  # after the photos
    assert all(row["distance"] == pytest.approx(2 * np.sin(np.radians(15))) for row in scores["views"])
    assert main([*words, "--overwrite", "--motion", "x.npz"]) == 2


@pytest.fixture
def measured(monkeypatch, tmp_path):
    """An avatar's folder with a marker, photos of its person, and what stands in for measuring; and how often."""
    avatar, calls = tmp_path / "avatar", []
    avatar.mkdir()
    (avatar / "avatar.json").write_text("{}")
    mark_folder(avatar, "avatar")
    save_person(tmp_path / "person", portrait(2))

    def measure(opened, against, *, motion):
        calls.append(opened)
        rows = [{"name": name, "psnr": 1.0, "ssim": 1.0} for name in against.sources]
        return Likeness({"photos": rows, "left_out": {"CSIM": "none here"}}, [(PICTURE, PICTURE)] * len(rows))

    monkeypatch.setattr("mvp4d.open_avatar", lambda path: path)
    monkeypatch.setattr("mvp4d.likeness.measure_avatar", measure)
    return ["evaluate", str(avatar), "--against", str(tmp_path / "person")], calls


@pytest.mark.parametrize("overwrite", [[], ["--overwrite"]])
def test_a_picture_of_the_users_own_stays(measured, tmp_path, capsys, overwrite):
    """`photo_01.png` in the folder of the report: refused before anything is measured, even with --overwrite."""
    words, calls = measured
    own = tmp_path / "report" / "photo_01.png"
    own.parent.mkdir()
    own.write_bytes(b"a holiday")
    assert main([*words, "--out", str(own.parent), *overwrite]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and str(own) in said
    assert own.read_bytes() == b"a holiday" and list(own.parent.iterdir()) == [own] and not calls


def test_only_what_was_written_is_marked(measured):
    """Beside the report in the avatar's folder lies a picture of the user's, named as that of a third photo."""
    words, _ = measured
    folder = Path(words[1])
    (folder / "photo_02.png").write_bytes(b"a holiday")
    assert main(words) == 0 and main([*words, "--overwrite"]) == 0
    written = {"evaluation.json", "evaluation.html", "photo_00.png", "photo_01.png"}
    assert set(json.loads((folder / MARKER).read_text())["files"]) == {"avatar.json", *written}
    with pytest.raises(UserError, match=r"photo_02\.png"):
        check_folder(folder, "avatar", overwrite=True)
