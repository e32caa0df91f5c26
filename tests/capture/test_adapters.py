"""Adapters: pixels and axes survive the way out and back, and mean what the other tool means by them."""

import json

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from mvp4d.cli import main
from mvp4d.core import images
from mvp4d.core.cameras.camera import FIELDS, project
from mvp4d.core.cameras.path import CameraPath
from mvp4d.core.capture import Capture
from mvp4d.core.capture.cap4d import export_cap4d, import_cap4d
from mvp4d.core.capture.fit import Fit, read_references
from mvp4d.core.capture.gaussian_avatars import export_gaussian_avatars, import_gaussian_avatars
from mvp4d.core.capture.nerfstudio import export_nerfstudio
from mvp4d.core.capture.nersemble import correct_colour, import_nersemble
from mvp4d.core.capture.videos import import_videos
from mvp4d.core.errors import UserError
from mvp4d.core.heads.motion import ARRAYS
from mvp4d.core.video import VideoWriter
from mvp4d_jax.heads.skinning import skin, skin_in_head_space
from tests.capture.toy import (
    FRAMES,
    SIZE,
    VIEWS,
    make_cameras,
    make_flame,
    make_motion,
    make_pixels,
    make_rig,
    write_capture,
)


def assert_same_pictures(found: Capture, expected: Capture) -> None:
    for view in range(expected.view_count):
        np.testing.assert_array_equal(found.frames(view), expected.frames(view))
        for frame in range(expected.frame_count):
            np.testing.assert_array_equal(found.mask(view, frame), expected.mask(view, frame))


def assert_same_projection(found: Capture, expected: Capture) -> None:
    """The posed rig lands on the same pixels: cameras, axes, motion and identity taken together."""
    for view in range(expected.view_count):
        for frame in range(expected.frame_count):
            ours, _ = project(expected.camera(view, frame), np.asarray(skin(expected.head, expected.motion))[frame])
            theirs, _ = project(found.camera(view, frame), np.asarray(skin(found.head, found.motion))[frame])
            np.testing.assert_allclose(theirs, ours, atol=1e-3)


def full_alpha(path) -> Capture:
    """The capture at `path` with masks that are opaque everywhere, so that importers put nothing on white."""
    for file in (path / "masks").rglob("*.png"):
        images.write_png(file, np.full(SIZE, 255, np.uint8))
    return Capture.open(path)


@pytest.mark.parametrize("moving", [False, True])
def test_cap4d_round_trip(tmp_path, moving):
    write_capture(tmp_path / "c", moving=moving, reference=("cam1", 2), extra={"shape": [0.5]})
    capture = full_alpha(tmp_path / "c")
    note = export_cap4d(capture, tmp_path / "cap4d")
    assert "head 'toy'" in note and ("moving" in note) == moving
    head = make_rig(shapes=1)
    found = import_cap4d(tmp_path / "cap4d", tmp_path / "back", head=head)
    assert_same_pictures(found, capture)
    for name in ARRAYS:
        np.testing.assert_allclose(getattr(found.motion, name), getattr(capture.motion, name), atol=1e-7)
    for name in FIELDS:
        np.testing.assert_allclose(getattr(found.cameras, name), getattr(capture.cameras, name)[:, :1], atol=1e-12)
    assert found.reference == ("cam1", 2) and found.info.extra == {"shape": [0.5]}
    np.testing.assert_allclose(found.head.template, head.template + 0.5 * head.shape_basis[0], atol=1e-7)
    if moving:
        path = CameraPath.load(tmp_path / "cap4d" / "orbit_cam2.npz")
        np.testing.assert_allclose(path.camera.world_to_camera, capture.cameras.world_to_camera[2], atol=1e-12)
        assert path.image_size == SIZE and path.fps == 24.0


def test_cap4d_pixels_are_cap4ds(tmp_path):
    """CAP4D's own projection, written out: x_cv = diag(1,-1,-1)(R x + t), pixel = K extr x_cv."""
    capture = Capture.open(write_capture(tmp_path / "c"))
    export_cap4d(capture, tmp_path / "cap4d")
    with np.load(tmp_path / "cap4d" / "fit.npz") as data:
        fit = {name: data[name] for name in data}
    assert fit["resolutions"].tolist() == [list(SIZE)] * VIEWS
    assert fit["camera_order"].tolist() == ["cam0", "cam1", "cam2"]
    points = np.random.default_rng(0).normal(0, 0.1, (7, 3))  # in head space
    world = Rotation.from_rotvec(fit["rot"][3]).apply(points) + fit["tra"][3]
    for view in range(VIEWS):
        local = (world * [1, -1, -1]) @ fit["extr"][view][:3, :3].T + fit["extr"][view][:3, 3]
        theirs = np.stack(
            [
                fit["fx"][view, 0] * local[:, 0] / local[:, 2] + fit["cx"][view, 0],
                fit["fy"][view, 0] * local[:, 1] / local[:, 2] + fit["cy"][view, 0],
            ],
            -1,
        )
        ours, depth = project(capture.camera(view, 3), world)
        assert (depth > 0).all()
        np.testing.assert_allclose(theirs, ours, atol=1e-9)


@pytest.mark.parametrize("person", ["tesla", "lincoln"])
def test_tracked_portraits_project_onto_the_face(shared_data, person):
    """FLAME's head centre (its origin lies inside the skull) lands in the middle of the tracker's own 2D vertices."""
    folder = shared_data / "tracked_examples" / person
    fit = Fit.load(folder / "fit.npz")
    with np.load(folder / "alignment.npz") as data:
        vertices = data["vertex_coords"][0, 0]
    pixel, depth = project(fit.cameras[0, 0], np.asarray(fit.motion.translation, np.float64))
    low, high = vertices.min(0), vertices.max(0)
    assert depth[0] > 0.5
    assert (np.abs(pixel[0] - (low + high) / 2) < 0.25 * (high - low)).all()
    assert read_references(folder / "reference_images.json") == [("cam0", 0)]
    assert fit.shape.shape == (150,) and fit.head == "flame2023-nojaw" and fit.motion.expression.shape == (1, 65)


def test_driving_sequence_loads(shared_data):
    folder = shared_data / "tracked_examples" / "driving_00"
    fit, path = Fit.load(folder / "fit.npz"), CameraPath.load(folder / "orbit.npz")
    assert fit.shape is None and fit.frame_count == 384 and fit.motion.fps == 24.0
    assert path.camera.fx.shape == (384,) and path.image_size == (512, 512)
    pixel, depth = project(path.camera, np.asarray(fit.motion.translation, np.float64)[:, None])
    assert (depth > 0.5).all() and (np.abs(pixel - 256) < 60).all()


@pytest.mark.parametrize(
    "path, said",
    [
        ("lincoln", "1 frame at 30 fps, 150 identity coefficients, 65 expression coefficients, 1 camera (800 x 600)"),
        ("tesla", "1 frame at 30 fps, 150 identity coefficients, 65 expression coefficients, 1 camera (1144 x 912)"),
        ("driving_00", "384 frames at 24 fps, 65 expression coefficients, 1 camera (512 x 512)"),
        ("driving_00/orbit.npz", "camera path, 384 frames, 512 x 512 pixels"),
    ],
)
def test_tracked_examples_validate(shared_data, capsys, path, said):
    assert main(["validate", str(shared_data / "tracked_examples" / path)]) == 0
    assert said in capsys.readouterr().out


def test_gaussian_avatars_round_trip(tmp_path):
    rig = make_flame().personalise(np.array([0.7, -0.4], np.float32))
    write_capture(tmp_path / "c", head=rig, motion=make_motion(expressions=4))
    capture = full_alpha(tmp_path / "c")
    note = export_gaussian_avatars(capture, tmp_path / "ga")
    assert "teeth" in note
    found = import_gaussian_avatars(tmp_path / "ga", tmp_path / "back", head=make_flame(), fps=24.0)
    assert_same_pictures(found, capture)
    assert_same_projection(found, capture)
    np.testing.assert_allclose(found.head.template, rig.template, atol=1e-7)
    assert found.names == capture.names and found.cameras.fx.shape == (VIEWS, 1)


def test_gaussian_avatars_pose_is_flames(tmp_path):
    """FLAME turns the head about its root joint: x = R (v - J) + J + translation, J regressed from the shaped mesh."""
    rig = make_flame().personalise(np.array([0.7, -0.4], np.float32))
    motion = make_motion(expressions=4)
    capture = Capture.open(write_capture(tmp_path / "c", head=rig, motion=motion))
    export_gaussian_avatars(capture, tmp_path / "ga")
    entry = json.loads((tmp_path / "ga" / "transforms.json").read_text())["frames"][-1]
    assert entry["file_path"] == "images/00003_02.png" and entry["fg_mask_path"] == "fg_masks/00003_02.png"
    with np.load(tmp_path / "ga" / entry["flame_param_path"]) as data:
        flame = {name: data[name] for name in data}
    shapes = {name: array.shape for name, array in flame.items()}
    assert shapes == {
        "translation": (1, 3),
        "rotation": (1, 3),
        "neck_pose": (1, 3),
        "jaw_pose": (1, 3),
        "eyes_pose": (1, 6),
        "shape": (300,),
        "expr": (1, 100),
        "static_offset": (1, 5143, 3),
    }
    head = make_flame()
    shaped = (
        head.template
        + flame["static_offset"][0][: head.vertex_count]
        + np.tensordot(flame["expr"][0, :4], head.expression_basis, 1)
    )
    joint = shaped[:3].mean(0)  # make_flame regresses its root from the first three vertices
    still = capture.motion[3:4]
    local = np.asarray(skin_in_head_space(capture.head, still))[0]
    theirs = Rotation.from_rotvec(flame["rotation"][0]).apply(local - joint) + joint + flame["translation"][0]
    np.testing.assert_allclose(theirs, np.asarray(skin(capture.head, still))[0], atol=2e-6)

    # and the camera: OpenGL axes, camera to world
    to_world = np.array(entry["transform_matrix"])
    local = (np.linalg.inv(to_world) @ np.append(theirs[0], 1))[:3]
    pixel = [entry["fl_x"] * local[0] / -local[2] + entry["cx"], entry["fl_y"] * -local[1] / -local[2] + entry["cy"]]
    np.testing.assert_allclose(pixel, project(capture.camera(2, 3), theirs[:1].astype(np.float64))[0][0], atol=1e-6)


def test_gaussian_avatars_without_flame_says_so(tmp_path):
    capture = Capture.open(write_capture(tmp_path / "c"))
    assert "not a FLAME" in export_gaussian_avatars(capture, tmp_path / "ga")
    assert not (tmp_path / "ga" / "flame_param").exists()
    with pytest.raises(UserError, match="FLAME"):
        import_gaussian_avatars(tmp_path / "ga", tmp_path / "back", head=make_rig())


def test_nerfstudio(tmp_path):
    """nerfstudio's ray through a pixel (OpenGL camera-to-world) passes through the point that projects there."""
    capture = Capture.open(write_capture(tmp_path / "c", moving=True))
    export_nerfstudio(capture, tmp_path / "ns")
    meta = json.loads((tmp_path / "ns" / "transforms.json").read_text())
    assert len(meta["frames"]) == VIEWS * FRAMES
    point = np.array([0.03, -0.02, 0.05])
    for entry in meta["frames"]:
        name, frame = entry["file_path"].removeprefix("images/").removesuffix(".png").rsplit("_", 1)
        pixel = project(capture.camera(name, int(frame)), point[None])[0][0]
        matrix = np.array(entry["transform_matrix"])
        ray = matrix[:3, :3] @ [(pixel[0] - entry["cx"]) / entry["fl_x"], -(pixel[1] - entry["cy"]) / entry["fl_y"], -1]
        offset = point - matrix[:3, 3]
        assert np.linalg.norm(np.cross(ray, offset)) < 1e-9 * np.linalg.norm(ray) + 1e-9 and ray @ offset > 0
        np.testing.assert_array_equal(
            images.read_image(tmp_path / "ns" / entry["file_path"], mode="RGB"), capture.frame(name, int(frame))
        )
        assert entry["time"] == int(frame) / (FRAMES - 1)


def make_fit(names, size, frames=FRAMES, head="toy"):
    return Fit(make_motion(frames), make_cameras(len(names)), np.tile(size, (len(names), 1)), tuple(names), None, head)


def smooth_video(path, view, size, frames=FRAMES):
    """A bright square on dark ground at a place that tells view and frame."""
    writer = VideoWriter(path, size, 24.0, crf=1)
    pictures = []
    for frame in range(frames):
        picture = np.full((*size, 3), 40, np.uint8)
        picture[8 * view : 8 * view + 8, 8 * frame : 8 * frame + 8] = 200
        writer.add(picture)
        pictures.append(picture)
    writer.close()
    return np.stack(pictures)


@pytest.mark.parametrize("scale", [1, 4])
def test_folder_of_videos(tmp_path, scale):
    source, size = tmp_path / "videos", (32, 48)
    source.mkdir()
    pictures = [smooth_video(source / f"{name}.mp4", view, size) for view, name in enumerate("ab")]
    make_fit("ab", size).save(source / "fit.npz")
    capture = import_videos(source, tmp_path / "c", head=make_rig(), scale=scale)
    assert capture.image_size == (32 // scale, 48 // scale)
    for view in range(2):
        averaged = pictures[view].reshape(FRAMES, 32 // scale, scale, 48 // scale, scale, 3).mean((2, 4))
        assert np.abs(capture.frames(view).astype(float) - averaged).max() < 12
    # the point that is seen at pixel (u, v) is seen at (u, v) / scale
    fit, point = make_fit("ab", size), np.array([[0.01, 0.02, 0.03]])
    np.testing.assert_allclose(project(capture.camera(1, 0), point)[0], project(fit.cameras[1, 0], point)[0] / scale)


def test_nersemble(tmp_path):
    """Cameras come out of the calibration, tied to the fit's world by the one camera that the fit knows."""
    serials, size = ["222200036", "222200037", "222200042"], (32, 22)
    person = tmp_path / "017"
    folder = person / "sequences" / "EMO-1-shout+laugh" / "images"
    folder.mkdir(parents=True)
    (person / "calibration").mkdir()
    true = make_cameras(3)  # in the fit's world
    other = np.eye(4)  # the calibration's world is turned and moved
    other[:3, :3], other[:3, 3] = Rotation.from_rotvec([0.3, -1.2, 2.0]).as_matrix(), [0.4, -0.2, 1.0]
    calibrated = np.asarray(true.world_to_camera)[:, 0] @ other
    swap = [[0, 1, 0], [1, 0, 0], [0, 0, 1]]
    (person / "calibration" / "camera_params.json").write_text(
        json.dumps(
            {
                "world_2_cam": {serial: matrix.tolist() for serial, matrix in zip(serials, calibrated)},
                "intrinsics": [[8000.0, 0, 1100.0], [0, 8010.0, 1600.0], [0, 0, 1]],
            }
        )
    )
    (person / "calibration" / "color_calibration.json").write_text(json.dumps({serials[1]: swap}))
    pictures = [smooth_video(folder / f"cam_{serial}.mp4", view, size) for view, serial in enumerate(serials)]
    fit = Fit(make_motion(), true[2:3], np.array([size]), (serials[2],), None, "toy")
    fit.save(tmp_path / "fit.npz")
    capture = import_nersemble(
        person, tmp_path / "c", sequence="EMO-1-shout+laugh", head=make_rig(), fit=tmp_path / "fit.npz", scale=2
    )
    assert capture.names == tuple(serials) and capture.image_size == (16, 11)
    np.testing.assert_allclose(capture.cameras.world_to_camera, true.world_to_camera, atol=1e-9)
    np.testing.assert_allclose(capture.cameras.fx, 8000 / 100 / 2)
    np.testing.assert_allclose(capture.cameras.cy, 1600 * 32 / 3208 / 2)
    averaged = pictures[0].reshape(FRAMES, 16, 2, 11, 2, 3).mean((2, 4))
    assert np.abs(capture.frames(0).astype(float) - averaged).max() < 12
    with pytest.raises(UserError, match="none of this calibration's"):
        Fit(make_motion(), true[2:3], np.array([size]), ("front",), None, "toy").save(tmp_path / "fit.npz")
        import_nersemble(
            person, tmp_path / "d", sequence="EMO-1-shout+laugh", head=make_rig(), fit=tmp_path / "fit.npz"
        )


def test_colour_correction_in_closed_form():
    rgb = np.array([[[10, 100, 250], [0, 0, 0], [255, 255, 255], [30, 128, 77]]], np.uint8)
    swap = np.array([[0, 1, 0], [1, 0, 0], [0, 0, 1.0]])
    np.testing.assert_array_equal(correct_colour(rgb, swap), rgb[..., [1, 0, 2]])
    for terms in (5, 7, 8, 10, 11):
        constant = np.zeros((3, terms))
        constant[:, -1] = 0.2158605  # linear value of sRGB 128, on the last term, which is 1
        assert set(np.unique(correct_colour(rgb, constant))) == {128}
    product = np.zeros((3, 11))
    product[:, 3] = 1.0  # red times green, in linear light
    linear = np.array([(value / 255 + 0.055) / 1.055 for value in (30, 128)]) ** 2.4
    expected = 1.055 * linear.prod() ** (1 / 2.4) - 0.055
    assert correct_colour(rgb, product)[0, 3, 0] == round(255 * expected)


def test_commands(tmp_path, capsys):
    write_capture(tmp_path / "c")
    for kind in ("cap4d", "nerfstudio", "gaussian-avatars"):
        command = ["export", str(tmp_path / "c"), "--format", kind, "--out", str(tmp_path / kind)]
        assert [main(command), main(command), main([*command, "--overwrite"])] == [0, 2, 0]
    assert main(["validate", str(tmp_path / "c")]) == 0
    assert main(["validate", str(tmp_path / "cap4d")]) == 0
    assert main(["validate", str(tmp_path)]) == 2
    assert main(["export", str(tmp_path / "c"), "--format", "obj", "--out", str(tmp_path / "x")]) == 2
    captured = capsys.readouterr()
    assert "3 views x 4 frames" in captured.out and "a fit without an identity, of head 'toy'" in captured.out
    assert captured.err.count("already there") == 3 and "Traceback" not in captured.err


def test_pixels_of_exported_pictures(tmp_path):
    capture = Capture.open(write_capture(tmp_path / "c"))
    export_gaussian_avatars(capture, tmp_path / "ga")
    rgb, alpha = make_pixels()
    folder = tmp_path / "ga"
    np.testing.assert_array_equal(images.read_image(folder / "images" / "00002_01.png", mode="RGB"), rgb[1, 2])
    np.testing.assert_array_equal(images.read_image(folder / "fg_masks" / "00002_01.png", mode="L"), alpha[1, 2])
