"""The public API as a program uses it."""

import copy
import dataclasses
import inspect
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from small_world import FRAMES, SIZE, write_release, write_scene

import mvp4d

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    return write_release(folder / "release"), write_scene(folder / "truth")


def test_importing_takes_neither_long_nor_a_half():
    program = (
        "import time; t = time.time(); import mvp4d; print(time.time() - t); import sys; "
        "print(sorted({'jax', 'torch', 'numpy'} & set(sys.modules)))"
    )
    seconds, loaded = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert float(seconds) < 0.3
    assert loaded == "[]"


def test_every_name_is_there_and_documented():
    page = (ROOT / "docs" / "api.md").read_text()
    for name in mvp4d.__all__:
        assert inspect.getdoc(getattr(mvp4d, name)), name
        assert re.search(rf"`(mvp4d\.)?{name}\b", page), f"docs/api.md does not tell of {name}"
    with pytest.raises(AttributeError):
        _ = mvp4d.nothing


def test_sampling_gives_arrays_or_a_capture_and_they_agree(world, tmp_path):
    release, scene = world
    model = mvp4d.load(release)
    with mvp4d.silence():
        views = model.sample(scene, motion=scene, cameras=scene, steps=2)
        capture = model.sample(scene, motion=scene, cameras=scene, steps=2, out=tmp_path / "views")
    assert views.frames.shape == (capture.view_count, FRAMES, SIZE, SIZE, 3)
    np.testing.assert_array_equal(views.frames, np.stack([capture.frames(v) for v in range(capture.view_count)]))
    saved = views.save(tmp_path / "saved")
    np.testing.assert_array_equal(saved.frames(0), capture.frames(0))
    assert saved.names == capture.names
    assert mvp4d.evaluate(views, scene)["mean"] == mvp4d.evaluate(capture, scene)["mean"]


def test_what_a_notebook_shows_is_one_line(world):
    release, scene = world
    truth = mvp4d.open_capture(scene)
    (views, frames), (height, width) = (len(truth.names), truth.frame_count), truth.image_size
    shown = {
        repr(mvp4d.Views.read(truth)): f"Views({views} views x {frames} frames, {width} x {height} pixels)",
        repr(truth.motion[:1]): f"Motion(frames x expressions: 1 x {truth.head.expression_count}, 25.0 a second)",
        repr(mvp4d.camera_rig("orbit:90x3", (8, 8))): "Camera(3)",
        repr(mvp4d.camera_rig("turn:90", (8, 8), 5)): "Camera(1 x 5)",
        repr(mvp4d.camera_rig("turn:90", (8, 8), 5)[0, 0]): "Camera(one)",
    }
    assert list(shown) == list(shown.values())
    assert repr(mvp4d.load(release)).startswith(f"Model('{release}': ") and "\n" not in repr(mvp4d.load(release))


def test_what_is_shown_of_trees_without_arrays(world):
    """jax's trees hold whatever stands for arrays, and its errors and pytest's show them."""
    truth = mvp4d.open_capture(world[1])
    views = mvp4d.Views.read(truth)
    for noun in (truth.cameras, truth.motion, truth.head, views):
        hollow = copy.copy(noun)
        for field in dataclasses.fields(noun):
            if isinstance(getattr(noun, field.name), np.ndarray):
                object.__setattr__(hollow, field.name, None)
        assert repr(hollow).startswith(type(noun).__name__)
    flat = dataclasses.replace(views, frames=views.frames[0])
    assert repr(flat) == f"Views(of shape {FRAMES} x {SIZE} x {SIZE} x 3)"
    with pytest.raises(mvp4d.UserError, match=r"`capture`: \[Views\(of shape 9 x"):
        mvp4d.evaluate(capture=[flat], against=world[1])


def test_a_shell_completes_what_is_public():
    names = [name for name in dir(mvp4d) if not name.startswith("_")]
    assert names == sorted(mvp4d.__all__)


def test_silence_is_silent(world, tmp_path, capfd):
    release, scene = world
    capfd.readouterr()
    with mvp4d.silence():
        mvp4d.load(release).sample(scene, motion=scene, cameras=scene, steps=2, frames=5)
    assert capfd.readouterr() == ("", "")


def test_errors_speak_of_arguments_and_the_command_line_of_flags(world, tmp_path, capsys):
    release, scene = world
    with pytest.raises(mvp4d.UserError, match=r"^`frames`: 50 asked for"):
        mvp4d.load(release).sample(scene, motion=scene, cameras=scene, frames=50)
    other = dataclasses.replace(mvp4d.open_capture(scene).motion, expression=np.zeros((5, 3), np.float32))
    with pytest.raises(mvp4d.UserError, match=r"^`motion`: has expressions \[5, 3\], head "):
        mvp4d.load(release).plan(scene, motion=other, cameras=scene)
    for wrong, line in (
        ({"stepz": 3}, "`stepz`: no such argument; did you mean `steps`?"),
        ({"ouput": "a"}, "`ouput`: no such argument; did you mean `out`?"),
        ({"overwritte": True}, "`overwritte`: no such argument; did you mean `overwrite`?"),
        ({"clean_view": scene}, "`clean_view`: no such argument; did you mean `clean_views`?"),
        ({"steps": "3"}, "`steps`: '3' (str) is not of type int | None"),
    ):
        with pytest.raises(mvp4d.UserError) as caught:
            mvp4d.load(release).sample(scene, motion=scene, cameras=scene, **wrong)
        assert str(caught.value) == line
    from mvp4d.cli import main

    words = [
        "sample",
        "--weights",
        str(release),
        "--reference",
        str(scene),
        "--motion",
        str(scene),
        "--cameras",
        str(scene),
        "--out",
        str(tmp_path / "x"),
        "--frames",
        "50",
    ]
    assert main(words) == 2
    assert "--frames: 50 asked for" in capsys.readouterr().err
    for more in (["--mask", "no.png"], ["--window", "0"]):
        assert main([*words[:-2], "--plan", *more]) == 2
        assert f"mvp4d sample: {more[0]}: " in capsys.readouterr().err


def test_loading_checks_dtype_and_mesh(world):
    with pytest.raises(mvp4d.UserError, match="`dtype`: 'int7'"):
        mvp4d.load(world[0], dtype="int7")
    assert mvp4d.load(world[0], dtype="bfloat16").dtype == "bfloat16"
    for mesh in ((0, 1, 1), (64, 1, 1)):
        with pytest.raises(mvp4d.UserError, match="`mesh`"):
            mvp4d.load(world[0], mesh=mesh)
    assert mvp4d.load(world[0], mesh=(1, 1, -1)).mesh == (1, 1, 8)


@pytest.mark.parametrize(
    "words, where",
    [
        (["demo", "--out", ""], "--out"),
        (["demo", "--out="], "--out"),
        (["view", "avatar", "--host", ""], "--host"),
        (["track", ""], "an argument"),
    ],
)
def test_an_empty_argument_is_refused(words, where, capsys):
    """An unset variable of a script: as a path it would be the folder that one is in."""
    from mvp4d.cli import main

    assert main(words) == 2
    assert capsys.readouterr().err == f"mvp4d {words[0]}: {where}: is empty; give a value, or leave it out\n"


def test_a_plan_costs_no_weights(world):
    release, scene = world
    job = mvp4d.load(release).plan(scene, motion=scene, cameras=scene, steps=3)
    assert "tokens" in job.describe()
    with pytest.raises(mvp4d.UserError, match="`head`: is for a photo; what is given as `reference` brings its own"):
        mvp4d.load(release).plan(scene, motion=scene, cameras=scene, head="flame:/nowhere")


def test_the_fingerprint_is_of_everything_the_pictures_depend_on(world, tmp_path):
    """Each input changed alone changes it; the same inputs give it again."""
    release, scene = world
    model, base = mvp4d.load(release), {"motion": scene, "cameras": scene, "steps": 2}

    def fingerprint(**changes):
        return model.plan(scene, **{**base, **changes}).fingerprint()

    first = fingerprint()
    assert fingerprint() == first
    other = write_scene(tmp_path / "other", seed=2)
    moved = mvp4d.open_capture(scene).cameras
    moved = mvp4d.Camera(moved.world_to_camera, moved.fx, moved.fy * 1.01, moved.cx, moved.cy)
    changes = [
        {"seed": 1},
        {"steps": 3},
        {"guidance": 2.0},
        {"eta": 0.5},
        {"sampler": "ddim"},
        {"frames": 5},
        {"cameras": moved},
        {"clean_views": f"{scene}:cam01"},
        {"clean_views": f"{other}:cam01"},
        {"guidance_interval": (0.1, 0.9)},
        {"photo_detail": True},
        {"temporal_filter": True},
        {"hair_colour": True},
        {"enlarge": 2},
    ]
    seen = [fingerprint(**change) for change in changes]
    assert fingerprint(clean_views=Path(f"{scene}:cam01")) == seen[changes.index({"clean_views": f"{scene}:cam01"})]
    assert len({first, *seen}) == 1 + len(changes)


@pytest.mark.slow
def test_ten_lines_from_a_photo_to_an_avatar(tmp_path, monkeypatch):
    """The program of docs/api.md, word for word, on scikit-image's astronaut and the built-in weights."""
    from skimage import data, io

    program = re.search(r"```python ten-lines\n(.*?)```", (ROOT / "docs" / "api.md").read_text(), re.S)[1]
    monkeypatch.chdir(tmp_path)
    io.imsave("me.jpg", data.astronaut())
    names = ["JawOpen", "EyeBlinkLeft", "EyeBlinkRight", "MouthSmileLeft", "MouthSmileRight"]
    angles = ["HeadYaw", "HeadPitch", "HeadRoll", "LeftEyeYaw", "LeftEyePitch", "RightEyeYaw", "RightEyePitch"]
    rows = [",".join(["Timecode", "BlendShapeCount", *names, *angles])]
    for frame in range(5):
        values = [0.1 * frame, 0, 0, 0.3, 0.3, 0.05 * frame, 0, 0, 0, 0, 0, 0]
        rows.append(",".join([f"00:00:00:{frame:02d}", "61", *map(str, values)]))
    Path("drive.csv").write_text("\n".join(rows))
    exec(program, {})
    assert Path("talk.mp4").stat().st_size > 10_000
    assert Path("me.html").read_text().startswith("<!doctype html>")
    assert "avatar" in mvp4d.validate("out/avatar")
