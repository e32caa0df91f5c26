"""Folders as other tools really leave them: UNION folders, Windows paths, root intrinsics, lenses, lost frames."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.optimize import fsolve

from mvp4d.cli import main
from mvp4d.commands.import_capture import _with_overlay
from mvp4d.core.cameras.distortion import Distortion, read_distortion, undistort
from mvp4d.core.capture import Capture, schema
from mvp4d.core.capture.cap4d import export_cap4d, import_cap4d
from mvp4d.core.capture.gaussian_avatars import export_gaussian_avatars, import_gaussian_avatars
from mvp4d.core.capture.videos import import_videos
from mvp4d.core.errors import UserError
from mvp4d.core.images import on_white, write_png
from tests.capture.damage import replace_array
from tests.capture.toy import FRAMES, SIZE, VIEWS, make_cameras, make_flame, make_motion, write_capture


@pytest.fixture(scope="module")
def flame():
    return make_flame()


@pytest.fixture(scope="module")
def exported(tmp_path_factory, flame):
    root = tmp_path_factory.mktemp("ga")
    write_capture(root / "c", head=flame, motion=make_motion(expressions=4))
    export_gaussian_avatars(Capture.open(root / "c"), root / "SUBJECT")
    return root


@pytest.fixture
def folder(exported, tmp_path) -> Path:
    shutil.copytree(exported / "SUBJECT", tmp_path / "SUBJECT")
    return tmp_path / "SUBJECT"


def edit(folder: Path, change, name: str = "transforms.json") -> None:
    value = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps(change(value) or value))


def same(found: Capture, expected: Capture) -> None:
    for view in range(expected.view_count):
        np.testing.assert_array_equal(found.frames(view), found.frames(view))
        np.testing.assert_array_equal(found.masks(view), expected.masks(view))
    np.testing.assert_allclose(found.cameras.world_to_camera, expected.cameras.world_to_camera, atol=1e-9)
    for name in ("fx", "fy", "cx", "cy"):
        np.testing.assert_allclose(getattr(found.cameras, name), getattr(expected.cameras, name), rtol=1e-9)


def test_union_folders_have_their_pictures_beside_them(folder, exported, flame, tmp_path):
    """What VHAP's combine script writes: transforms whose paths lead to the sequences' own folders."""
    union = tmp_path / "UNION"
    union.mkdir()

    def beside(value):
        for frame in value["frames"]:
            for key in ("file_path", "fg_mask_path", "flame_param_path"):
                frame[key] = f"../SUBJECT/{frame[key]}"

    shutil.copy(folder / "transforms.json", union)
    edit(union, beside)
    same(import_gaussian_avatars(union, tmp_path / "out", head=flame), Capture.open(exported / "c"))


@pytest.mark.parametrize("path", ["../../{}", "/etc/passwd", "C:\\x.png", "..\\..\\x.png", "../SUBJECT/../../x.png"])
def test_further_out_nothing_is_read(folder, flame, tmp_path, path):
    def out(value):
        value["frames"][0]["file_path"] = path.format(value["frames"][0]["file_path"])

    edit(folder, out)
    with pytest.raises(UserError, match=r"leads out of|no such picture"):
        import_gaussian_avatars(folder, tmp_path / "out", head=flame)


def test_backslashes_and_a_byte_order_mark(folder, exported, flame, tmp_path):
    def windows(value):
        for frame in value["frames"]:
            for key in ("file_path", "fg_mask_path", "flame_param_path"):
                frame[key] = frame[key].replace("/", "\\")

    edit(folder, windows)
    text = (folder / "transforms.json").read_text()
    (folder / "transforms.json").write_text("\ufeff" + text, encoding="utf-8")
    same(import_gaussian_avatars(folder, tmp_path / "out", head=flame), Capture.open(exported / "c"))


def test_intrinsics_at_the_root(folder, exported, flame, tmp_path):
    names = ("fl_x", "fl_y", "cx", "cy", "w", "h", "camera_angle_x", "camera_angle_y")

    def root(value):
        value |= {key: value["frames"][0][key] for key in names}
        for frame in value["frames"]:
            for key in names:
                del frame[key]

    edit(folder, root)
    same(import_gaussian_avatars(folder, tmp_path / "out", head=flame), Capture.open(exported / "c"))

    def angle(value):
        for key in names[:6]:
            del value[key]
        del value["camera_angle_y"]

    edit(folder, angle)
    found = import_gaussian_avatars(folder, tmp_path / "out2", head=flame)
    height, width = SIZE
    expected = width / (2 * math.tan(math.atan(width / (2 * 30.0))))  # of camera_angle_x alone: fx = 30, square pixels
    np.testing.assert_allclose([found.cameras.fx, found.cameras.fy], expected, rtol=1e-9)
    assert (found.cameras.cx == width / 2).all() and (found.cameras.cy == height / 2).all()

    def none(value):
        del value["camera_angle_x"]

    edit(folder, none)
    with pytest.raises(UserError, match="neither 'fl_x' nor 'camera_angle_x'"):
        import_gaussian_avatars(folder, tmp_path / "out3", head=flame)


def test_a_frame_that_one_camera_lost(folder, exported, flame, tmp_path, capsys):
    def lose(value):
        value["frames"] = [
            frame for frame in value["frames"] if (frame["camera_index"], frame["timestep_index"]) != (1, 2)
        ]

    edit(folder, lose)
    with pytest.raises(UserError, match=r"camera 1 has no timestep 2.*drop_incomplete"):
        import_gaussian_avatars(folder, tmp_path / "out", head=flame)
    found = import_gaussian_avatars(folder, tmp_path / "out", head=flame, drop_incomplete=True)
    assert "1 of 4 timesteps are left out" in capsys.readouterr().err
    expected, kept = Capture.open(exported / "c"), [0, 1, 3]
    assert found.frame_count == 3
    for view in range(VIEWS):
        np.testing.assert_array_equal(found.masks(view), expected.masks(view)[kept])
    np.testing.assert_allclose(found.motion.rotation, expected.motion.rotation[kept], atol=1e-6)


def test_names_of_other_alphabets(folder, flame, tmp_path, capsys):
    names = ["Kamera hinten", "カメラ", "Caméra/links"]

    def rename(value):
        for frame in value["frames"]:
            frame["camera_id"] = names[frame["camera_index"]]

    edit(folder, rename)
    found = import_gaussian_avatars(folder, tmp_path / "out", head=flame)
    assert found.names == ("Kamera_hinten", "cam01", "Camera_links")
    assert "'Kamera hinten' is 'Kamera_hinten'" in capsys.readouterr().err
    assert schema.clean_names(["a b", "a_b", "A B", "..", "x" * 99], "x") == (
        "a_b",
        "a_b_2",
        "A_B_3",
        "cam03",
        "x" * 60,
    )


def test_transparency_is_the_mask_where_there_is_no_other(folder, exported, flame, tmp_path):
    expected = Capture.open(exported / "c")
    rng = np.random.default_rng(3)
    alpha = rng.integers(0, 256, SIZE, dtype=np.uint8)

    def no_masks(value):
        for frame in value["frames"]:
            del frame["fg_mask_path"]

    edit(folder, no_masks)
    colours = rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    for path in (folder / "images").iterdir():
        write_png(path, np.dstack([colours, alpha]))
    found = import_gaussian_avatars(folder, tmp_path / "out", head=flame)
    assert found.has_masks and expected.has_masks
    np.testing.assert_array_equal(found.mask(0, 0), alpha)
    np.testing.assert_array_equal(found.frame(0, 0), on_white(colours, alpha))


# --- lenses ---------------------------------------------------------------------------------------------------------
LENSES = {
    "radial": Distortion("OPENCV", (("k1", -0.2), ("k2", 0.05))),
    "all": Distortion("OPENCV", (("k1", 0.1), ("k2", -0.05), ("k3", 0.01), ("k4", 0.02), ("p1", 0.01), ("p2", -0.02))),
    "fisheye": Distortion("OPENCV_FISHEYE", (("k1", 0.05), ("k2", -0.02), ("k3", 0.01), ("k4", -0.003))),
}


def test_opencvs_own_numbers():
    """Computed once with OpenCV's formulas by hand: x = 0.5, y = -0.25, r^2 = 0.3125."""
    point = np.array([0.5, -0.25])
    r2 = 0.3125
    expected = point * (1 - 0.2 * r2 + 0.05 * r2**2)
    np.testing.assert_allclose(LENSES["radial"].apply(point), expected, rtol=1e-12)
    tangential = Distortion("OPENCV", (("p1", 0.01), ("p2", -0.02))).apply(point)
    np.testing.assert_allclose(
        tangential,
        point + [2 * 0.01 * -0.125 - 0.02 * (r2 + 0.5), 0.01 * (r2 + 0.125) + 2 * -0.02 * -0.125],
        rtol=1e-12,
    )
    theta = math.atan(math.sqrt(r2))
    series = theta * (1 + 0.05 * theta**2 - 0.02 * theta**4 + 0.01 * theta**6 - 0.003 * theta**8)
    np.testing.assert_allclose(LENSES["fisheye"].apply(point), point / math.sqrt(r2) * series, rtol=1e-12)
    np.testing.assert_allclose(LENSES["fisheye"].apply(np.zeros(2)), 0)


@pytest.mark.parametrize("name", LENSES)
def test_pictures_are_undistorted(name):
    """A smooth pattern on the pinhole's plane, photographed by inverting the lens numerically; undistorted it is the
    pattern again."""
    lens, size, (fx, fy, cx, cy) = LENSES[name], (32, 40), (38.0, 35.0, 19.0, 17.0)
    pattern = lambda x, y: 128 + 60 * np.sin(4 * x + 1) + 50 * np.cos(3 * y - 2 * x)  # noqa: E731
    rows, columns = np.mgrid[: size[0], : size[1]] + 0.5
    photographed = np.zeros(size)
    for row in range(size[0]):
        for column in range(size[1]):
            seen = np.array([(columns[row, column] - cx) / fx, (rows[row, column] - cy) / fy])
            photographed[row, column] = pattern(*fsolve(lambda point, seen=seen: lens.apply(point) - seen, seen))
    found = undistort(np.uint8(np.rint(photographed)), lens, fx, fy, cx, cy, outside=0)
    truth = pattern((columns - cx) / fx, (rows - cy) / fy)
    inner = np.s_[6:-6, 7:-7]
    assert np.abs(found[inner] - truth[inner]).max() < 2.5 and np.abs(photographed - truth)[inner].max() > 4


def test_lenses_of_a_folder(folder, flame, tmp_path):
    def distort(value):
        value |= {"camera_model": "OPENCV", "k1": -0.3, "k2": 0.0}

    plain = import_gaussian_avatars(folder, tmp_path / "plain", head=flame)
    edit(folder, distort)
    found = import_gaussian_avatars(folder, tmp_path / "out", head=flame)
    camera = plain.camera(0, 0)
    numbers = [float(value) for value in (camera.fx, camera.fy, camera.cx, camera.cy)]
    expected, mask = (
        undistort(
            np.asarray(Image.open(folder / kind / "00000_00.png")),
            Distortion("OPENCV", (("k1", -0.3),)),
            *numbers,
            outside=outside,
        )
        for kind, outside in (("images", 255), ("fg_masks", 0))
    )
    np.testing.assert_array_equal(found.frame(0, 0), on_white(expected, mask))
    assert (found.frame(0, 0) != plain.frame(0, 0)).any()


@pytest.mark.parametrize(
    "values, message",
    [
        ({"camera_model": "THIN_PRISM_FISHEYE", "k1": 0.1}, "'THIN_PRISM_FISHEYE' is not known"),
        ({"camera_model": "OPENCV_FISHEYE", "p1": 0.1}, "has no 'p1'"),
        ({"k1": "0.1"}, "distortion 'k1' is 0.1"),
        ({"k1": float("nan")}, "distortion 'k1' is nan"),
        ({"k1": 1e9}, "distortion 'k1'"),
    ],
)
def test_lenses_that_are_refused_by_name(values, message):
    with pytest.raises(UserError, match=message):
        read_distortion(values, "transforms.json")


@pytest.mark.parametrize("values", [{}, {"camera_model": "PINHOLE"}, {"k1": 0, "k2": 0.0, "p1": 0, "p2": 0}])
def test_lenses_without_distortion(values):
    assert read_distortion(values, "x") is None


# --- CAP4D's and plain folders ----------------------------------------------------------------------------------------
def test_cap4d_folders_with_lost_frames_and_strange_names(tmp_path):
    expected = Capture.open(write_capture(tmp_path / "c", reference=("cam0", 3)))
    export_cap4d(expected, tmp_path / "cap4d")
    new = ["cam 0", "cam1", "cam2"]
    replace_array("camera_order", lambda array: np.array(new))(tmp_path / "cap4d" / "fit.npz")
    (tmp_path / "cap4d" / "reference_images.json").write_text(json.dumps([["cam 0", 3]]))
    for kind in ("images", "bg"):
        (tmp_path / "cap4d" / kind / "cam0").rename(tmp_path / "cap4d" / kind / "cam 0")
    next((tmp_path / "cap4d" / "images" / "cam1").glob("*1.png")).unlink()
    with pytest.raises(UserError, match=r"has 3 pictures, the fit has 4 frames.*drop_incomplete"):
        import_cap4d(tmp_path / "cap4d", tmp_path / "out", head=expected.head)
    found = import_cap4d(tmp_path / "cap4d", tmp_path / "out", head=expected.head, drop_incomplete=True)
    assert found.names == ("cam_0", "cam1", "cam2") and found.frame_count == 3 and found.reference == ("cam_0", 2)
    np.testing.assert_array_equal(found.masks(2), expected.masks(2)[[0, 2, 3]])
    np.testing.assert_array_equal(found.motion.expression, expected.motion.expression[[0, 2, 3]])


def test_pictures_of_a_phone_and_of_a_matting_tool(tmp_path):
    """EXIF turns and straight alpha in an imported folder."""
    from tests.capture.test_adapters import make_fit

    upright = np.random.default_rng(5).integers(0, 256, (SIZE[0], SIZE[1], 4), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    source = tmp_path / "shots"
    for name in ("a", "b", "c"):
        (source / name).mkdir(parents=True)
        for frame in range(FRAMES):
            Image.fromarray(np.rot90(upright)).save(source / name / f"{frame}.png", exif=exif)
    make_fit(("a", "b", "c"), SIZE).save(source / "fit.npz")
    head = Capture.open(write_capture(tmp_path / "c")).head
    found = import_videos(source, tmp_path / "out", head=head)
    np.testing.assert_array_equal(found.mask(1, 2), upright[..., 3])
    np.testing.assert_array_equal(found.frame(1, 2), on_white(upright[..., :3], upright[..., 3]))


def test_a_trackers_pickle_is_told_from_a_fit(tmp_path, capsys):
    import zipfile

    with zipfile.ZipFile(tmp_path / "00000.npz", "w") as archive:
        archive.writestr("00000/data.pkl", b"\x80\x02}q\x00.")
    assert main(["validate", str(tmp_path / "00000.npz")]) == 2
    assert "is a PyTorch file" in capsys.readouterr().err


def _read_toy(folder: Path) -> Capture:
    write_capture(folder)
    return Capture.open(folder)


@pytest.mark.parametrize("why", [UserError("cameras.npz", "is wrong"), KeyboardInterrupt()])
def test_a_capture_and_its_overlay_come_together_or_not_at_all(tmp_path, monkeypatch, why):
    """Stopped while the overlay is drawn, the same command starts over: no capture is in its way."""
    out, overlay = tmp_path / "out", tmp_path / "rig.png"

    def draw(path, capture):
        assert not out.exists()
        if isinstance(why, UserError):
            raise UserError(capture.path / "cameras.npz", "is wrong")
        raise why

    monkeypatch.setattr("mvp4d_jax.tracking.sheet.write_rig_sheet", draw)
    with pytest.raises(type(why)) as told:
        _with_overlay(_read_toy, out, overlay, False)
    assert not list(tmp_path.iterdir())
    assert isinstance(why, KeyboardInterrupt) or str(told.value) == f"{out}/cameras.npz: is wrong"
    monkeypatch.setattr(
        "mvp4d_jax.tracking.sheet.write_rig_sheet", lambda path, _: write_png(path, np.zeros((4, 4, 3), np.uint8))
    )
    _with_overlay(_read_toy, out, overlay, False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "rig.png"]
    same(Capture.open(out), _read_toy(tmp_path / "other"))


@pytest.mark.slow
def test_the_overlay_shows_the_rig_over_every_camera(tmp_path):
    """The mesh is grey where the studio's own mask is opaque; a camera of another convention is seen at once."""
    assert (
        main(["studio", "--out", str(tmp_path / "c"), "--cameras", "orbit:360x2", "--frames", "1", "--size", "96"]) == 0
    )
    capture = Capture.open(tmp_path / "c")
    export_cap4d(capture, tmp_path / "cap4d")
    assert (
        main(
            [
                "import",
                str(tmp_path / "cap4d"),
                "--from",
                "cap4d",
                "--head",
                "builtin",
                "--out",
                str(tmp_path / "out"),
                "--overlay",
                str(tmp_path / "rig.png"),
            ]
        )
        == 0
    )
    sheet = np.asarray(Image.open(tmp_path / "rig.png").convert("RGB"))
    height, width = capture.image_size
    assert sheet.shape[0] % height == 0 and sheet.shape[1] % width == 0
    tile, mask = sheet[:height, :width].astype(int), capture.mask(0, capture.frame_count // 2)
    plain = capture.frame(0, capture.frame_count // 2).astype(int)
    changed = np.abs(tile - plain).max(-1) > 12
    assert changed[mask == 255].mean() > 0.4 and changed[mask == 0].mean() < 0.05


def test_make_cameras_differ():
    """The toy's cameras are not one and the same, which a capture refuses."""
    assert len(np.unique(make_cameras().world_to_camera.reshape(VIEWS, -1), axis=0)) == VIEWS
