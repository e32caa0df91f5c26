"""Shapes may be right and the meaning wrong: what no consumer takes and `mvp4d validate` refuses."""

import dataclasses
import json
import zipfile

import numpy as np
import pytest

from mvp4d.cli import main
from mvp4d.core.cameras.camera import Camera
from mvp4d.core.capture import Capture
from mvp4d.core.capture.fit import Fit
from mvp4d.core.capture.motion_file import read_motion
from mvp4d.core.errors import UserError
from mvp4d.core.files import read_npy, read_npz
from mvp4d.core.live_link import read_live_link
from tests.capture.damage import edit_json, replace_array
from tests.capture.toy import FRAMES, SIZE, VIEWS, make_cameras, make_motion, make_rig, write_capture


def still(cameras: Camera, **changes) -> Camera:
    return dataclasses.replace(cameras, **changes)


def moved(cameras: Camera, factor: float) -> np.ndarray:
    matrices = np.array(cameras.world_to_camera)
    matrices[..., :3, 3] *= factor
    return matrices


def twice(array: np.ndarray) -> np.ndarray:
    array = np.array(array)
    array[2] = array[0]
    return array


CAMERAS = {
    "millimetres": (lambda c: still(c, world_to_camera=moved(c, 1000)), "are these millimetres"),
    "OpenGL axes": (lambda c: still(c, world_to_camera=np.diag([1.0, -1, -1, 1]) @ c.world_to_camera), "OpenGL"),
    "aside": (lambda c: still(c, cx=c.cx - 500), r"no camera has the head in its picture; .* pixel \(-"),
    "above": (lambda c: still(c, cy=c.cy - 200), "no camera has the head in its picture"),
    "focal of millimetres": (lambda c: still(c, fx=c.fx / 100), "'fx' of camera 'cam0' is 0.3"),
    "focal in metres": (lambda c: still(c, fy=c.fy * 1000), "'fy' of camera 'cam0'"),
    "stretched": (lambda c: still(c, fx=c.fx * 5), "fx 150 and fy 31"),
    "one camera twice": (
        lambda c: Camera(*(twice(getattr(c, f.name)) for f in dataclasses.fields(c))),
        "'cam0' and 'cam2' are one and the same",
    ),
}


def write_cameras(path, cameras: Camera) -> None:
    np.savez(path / "cameras.npz", **{f.name: getattr(cameras, f.name) for f in dataclasses.fields(cameras)})


@pytest.mark.parametrize("case", CAMERAS)
@pytest.mark.parametrize("moving", [False, True])
def test_cameras_that_cannot_be_meant(tmp_path, capsys, case, moving):
    path = write_capture(tmp_path / "c", moving=moving, motion=near())
    change, message = CAMERAS[case]
    cameras = change(make_cameras(VIEWS, FRAMES if moving else 1))
    write_cameras(path, cameras)
    with pytest.raises(UserError, match=message) as caught:
        Capture.open(path)
    assert "cameras.npz" in str(caught.value) and "\n" not in str(caught.value)
    assert main(["validate", str(path)]) == 2
    assert capsys.readouterr().err.strip() == f"mvp4d validate: {caught.value}"
    from tests.capture import toy

    original, toy.make_cameras = toy.make_cameras, lambda *_: cameras
    try:  # what no reader takes, no writer writes
        with pytest.raises(UserError, match=message):
            write_capture(tmp_path / "d", moving=moving, motion=near())
    finally:
        toy.make_cameras = original
    assert not (tmp_path / "d").exists()


def near():
    """The toy's motion with the head at the middle of its cameras."""
    motion = make_motion()
    return dataclasses.replace(motion, translation=motion.translation * 0)


def test_one_camera_that_sees_the_head_once_is_enough(tmp_path):
    cameras = make_cameras()
    write_cameras(
        path := write_capture(tmp_path / "c", motion=near()),
        still(cameras, cx=cameras.cx - np.array([[0], [500], [500]])),
    )
    Capture.open(path)


@pytest.mark.parametrize("factor, unit", [(1000.0, "millimetres"), (100.0, "centimetres"), (0.01, "another unit")])
def test_a_head_of_another_size(tmp_path, factor, unit):
    path = write_capture(tmp_path / "c", motion=near())
    replace_array("template", lambda array: array * np.float32(factor))(path / "head.npz")
    with pytest.raises(UserError, match=rf"head\.npz.* is it in {unit}"):
        Capture.open(path)


def test_a_head_far_away(tmp_path):
    path = write_capture(tmp_path / "c")
    replace_array("translation", lambda array: array + 1500)(path / "motion.npz")
    with pytest.raises(UserError, match=r"motion\.npz.*are these millimetres"):
        Capture.open(path)


@pytest.mark.parametrize("name", ["expression", "rotation", "neck", "jaw", "eyes"])
def test_numbers_that_pose_nothing(tmp_path, name):
    """Finite in the file, infinite once squared."""
    path = write_capture(tmp_path / "c")
    replace_array(name, lambda array: np.float32(array + 1e30))(path / "motion.npz")
    for reader in (Capture.open, lambda path: read_motion(path / "motion.npz")):
        with pytest.raises(UserError, match=rf"motion\.npz.*'{name}' reaches 1e\+30"):
            reader(path)


def test_array_files_with_damaged_headers(tmp_path):
    """Headers that make numpy's parser stumble over itself: a bracket that is never closed."""
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (3,  "
    data = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(24)
    (tmp_path / "x.npy").write_bytes(data)
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("x.npy", data)
    for reader, name in ((read_npy, "x.npy"), (read_npz, "x.npz")):
        with pytest.raises(UserError, match=rf"{name}: not a readable"):
            reader(tmp_path / name)
    np.save(tmp_path / "y.npy", values := np.arange(6.0).reshape(2, 3).T)
    np.testing.assert_array_equal(read_npy(tmp_path / "y.npy"), values)


@pytest.mark.parametrize("fps", [-25, 0, 0.01, 5000])
def test_rates(tmp_path, fps):
    path = write_capture(tmp_path / "c")
    edit_json(fps=fps)(path / "capture.json")
    with pytest.raises(UserError, match=r"between 0\.1 and 1000"):
        Capture.open(path)


def test_two_rates_in_one_capture(tmp_path):
    path = write_capture(tmp_path / "c")
    edit_json(fps=30)(path / "capture.json")
    with pytest.raises(UserError, match=r"'fps' is 24, capture\.json says 30"):
        Capture.open(path)


def test_fits(tmp_path):
    cameras = make_cameras()
    fit = Fit(make_motion(), cameras, np.tile(SIZE, (3, 1)), ("a", "b", "c"), head="toy")
    fit.save(tmp_path / "fit.npz")
    Fit.load(tmp_path / "fit.npz")
    for array, change, message in (
        ("fx", lambda a: a / 1000, "'fx' of camera 'a'"),
        ("tra", lambda a: a * 1000 + 500, "are these millimetres"),
    ):
        fit.save(tmp_path / "bad.npz")
        replace_array(array, change)(tmp_path / "bad.npz")
        with pytest.raises(UserError, match=message):
            Fit.load(tmp_path / "bad.npz")
        assert main(["validate", str(tmp_path / "bad.npz")]) == 2


def test_motions_are_validated(tmp_path, capsys):
    from mvp4d.core.capture.motion_file import write_motion

    write_motion(tmp_path / "motion.npz", make_motion(), make_rig())
    assert main(["validate", str(tmp_path / "motion.npz")]) == 0
    assert "motion of head 'toy', 4 frames at 24 fps" in capsys.readouterr().out
    replace_array("fps", lambda array: array * np.nan)(tmp_path / "motion.npz")
    assert main(["validate", str(tmp_path / "motion.npz")]) == 2


# --- releases -------------------------------------------------------------------------------------------------------
FACTS = {
    "head 5": {"head": 5},
    "head only": ...,
    "no head": {"head": ...},
    "size a word": {"image_size": "64"},
    "size odd": {"image_size": 61},
    "size huge": {"image_size": 10**30},
    "views 0": {"views": 0},
    "views half": {"views": 2.5},
    "views true": {"views": True},
    "shift 0": {"snr_shift": 0},
    "margin text": {"crop_margin": "wide"},
    "conditioning list": {"conditioning": []},
    "conditioning unknown": {"conditioning": {"colour": 1}},
    "conditioning stride text": {"conditioning": {"temporal_stride": "4"}},
    "conditioning stride 10^20": {"conditioning": {"temporal_stride": 10**20}},
    "another layout": {"conditioning": {"motion": "stacked"}},
    "sampler a word": {"sampler": "dpm"},
    "sampler of lists": {"sampler": {"steps": [1]}},
    "sampler of none": {"sampler": {"method": "euler"}},
}


@pytest.mark.parametrize("case", FACTS)
def test_release_facts(tmp_path, capsys, case):
    from mvp4d_jax.release import BUILT_IN, load_release

    for part in ("vae", "transformer"):
        (tmp_path / part).symlink_to(BUILT_IN / "tiny" / part)
    value = json.loads((BUILT_IN / "tiny" / "mvp4d.json").read_text())
    value = {"head": 5} if FACTS[case] is ... else value | FACTS[case]
    value = {key: item for key, item in value.items() if item is not ...}
    (tmp_path / "mvp4d.json").write_text(json.dumps(value))
    assert main(["validate", str(tmp_path)]) == 2
    line = capsys.readouterr().err.strip()
    assert "mvp4d.json" in line and "\n" not in line
    with pytest.raises(UserError):
        load_release(tmp_path)


def test_a_release_without_a_config(tmp_path, capsys):
    from mvp4d_jax.release import BUILT_IN

    for name in ("mvp4d.json", "transformer"):
        (tmp_path / name).symlink_to(BUILT_IN / "tiny" / name)
    (tmp_path / "vae").mkdir()
    assert main(["validate", str(tmp_path)]) == 2
    assert "vae/config.json: is missing" in capsys.readouterr().err
    (tmp_path / "vae").rmdir()
    (tmp_path / "vae").symlink_to(BUILT_IN / "tiny" / "vae")
    assert main(["validate", str(tmp_path)]) == 0


# --- recordings -----------------------------------------------------------------------------------------------------
def recording(path, *, spell=lambda name: name, start="", timecode="00:00:00:{:02d}.000"):
    names = [
        "JawOpen",
        "EyeBlinkLeft",
        "HeadYaw",
        "HeadPitch",
        "HeadRoll",
        "LeftEyeYaw",
        "LeftEyePitch",
        "RightEyeYaw",
        "RightEyePitch",
    ]
    lines = [",".join(["Timecode", "BlendShapeCount", *map(spell, names)])]
    lines += [",".join([timecode.format(frame), "61", *("0.25" for _ in names)]) for frame in range(4)]
    path.write_text(start + "\n".join(lines) + "\n")
    return path


def test_headers_in_any_spelling(tmp_path):
    expected = read_live_link(recording(tmp_path / "a.csv"))
    for spell in (lambda name: name[0].lower() + name[1:], lambda name: f" {name} "):
        motion, names = read_live_link(recording(tmp_path / "b.csv", spell=spell, start="\ufeff"))
        assert names == expected[1] == ("JawOpen", "EyeBlinkLeft")
        np.testing.assert_array_equal(motion.rotation, expected[0].rotation)


def test_timecodes_of_5000_digits(tmp_path):
    motion, _ = read_live_link(recording(tmp_path / "a.csv", timecode="9" * 5000 + ":00:00:{:02d}"))
    assert motion.fps == 60
    with pytest.raises(UserError, match="two columns 'JawOpen'"):
        read_live_link(recording(tmp_path / "b.csv", spell=lambda name: "jawOpen" if name == "EyeBlinkLeft" else name))
