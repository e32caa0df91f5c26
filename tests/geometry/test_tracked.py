"""Real tracker output (two portraits, one driving sequence) drives the ICT and the built-in head.

FLAME itself is not at hand, but the tracker's 2D positions of FLAME's vertices are: they say where the face is.
"""

import dataclasses

import numpy as np
import pytest

from mvp4d.core.cameras.camera import project
from mvp4d.core.cameras.path import CameraPath
from mvp4d.core.cameras.rigs import camera_rig
from mvp4d.core.capture.fit import Fit
from mvp4d.core.heads import load_head
from mvp4d.core.heads.flame import LANDMARKS
from mvp4d.core.heads.transfer import FLAME_EYES, carry_pose
from mvp4d_jax.geometry.rasterize import rasterize
from mvp4d_jax.heads.skinning import landmarks, skin

PORTRAITS = ("lincoln", "tesla")
INNER = slice(17, 68)  # brows, nose, eyes, mouth: the jaw line's landmarks are not the same points on all heads


@pytest.fixture(scope="session", params=["builtin", "ict"])
def head(request, shared_data):
    packed = shared_data / "ict_facekit" / "ict_facekit.npz"
    return load_head("builtin" if request.param == "builtin" else f"ict:{packed}")


def drive(fit, head):
    """The fit's motion on another head: pose and gaze as recorded, FLAME's expressions left out."""
    motion = carry_pose(fit.motion, FLAME_EYES, head)
    return dataclasses.replace(motion, expression=np.zeros((motion.frame_count, head.expression_count), np.float32))


@pytest.mark.parametrize("portrait", PORTRAITS)
def test_head_pose_puts_the_mesh_on_the_portraits_face(portrait, head, shared_data):
    folder = shared_data / "tracked_examples" / portrait
    fit = Fit.load(folder / "fit.npz")
    with np.load(folder / "alignment.npz") as data:
        observed = data["vertex_coords"][0, 0][list(LANDMARKS)]  # [68, 2]
    vertices = np.asarray(skin(head, drive(fit, head)))  # [1, N, 3]
    camera = fit.cameras[0, 0]
    marks, _ = project(camera, np.asarray(landmarks(head, vertices), np.float64)[0])
    eyes_apart = np.linalg.norm(observed[45] - observed[36])
    errors = np.linalg.norm(marks - observed, axis=1)[INNER] / eyes_apart
    # No identity is fitted: these are an average face's landmarks on Lincoln's and Tesla's. The outer eye corners
    # are about 90 mm apart.
    assert errors.mean() < 0.08, errors.mean()
    assert errors.max() < 0.25, errors.max()
    offset = (marks[INNER] - observed[INNER]).mean(axis=0) / eyes_apart
    assert np.abs(offset).max() < 0.08, offset
    tilt = np.arctan2(*(marks[45] - marks[36])[::-1]) - np.arctan2(*(observed[45] - observed[36])[::-1])
    assert abs(tilt) < np.deg2rad(3)
    size = tuple(int(item) for item in fit.resolutions[0])
    covered = np.asarray(rasterize(camera, vertices[0], head.faces, size).face) >= 0
    columns, rows = np.clip(observed.astype(int), 0, [size[1] - 1, size[0] - 1]).T
    assert covered[rows, columns][INNER].all()


def test_driving_sequence_stays_in_the_picture_of_its_camera_path(head, shared_data):
    folder = shared_data / "tracked_examples" / "driving_00"
    fit = Fit.load(folder / "fit.npz")
    found = CameraPath.load(folder / "orbit.npz")
    path, size = found.camera, found.image_size
    assert fit.frame_count == 384 and path.batch_shape == (384,) and fit.motion.fps == 24
    chosen = np.arange(0, 384, 24)
    motion = drive(fit, head)[chosen]
    marks = np.asarray(landmarks(head, skin(head, motion)), np.float64)  # [F, 68, 3]
    for camera in (path[chosen], fit.cameras[0]):
        pixels, depth = project(camera, marks)
        assert (depth > 0.5).all()
        assert (pixels > 0).all() and (pixels < [size[1], size[0]]).all()
        centre = pixels.mean(axis=1) / [size[1], size[0]]
        assert np.abs(centre - 0.5).max() < 0.2
    same = camera_rig(f"file:{folder / 'orbit.npz'}", size, frames=384)
    np.testing.assert_array_equal(same.world_to_camera[0], path.world_to_camera)
    # The face turns to +z of the world; the first camera of the path looks at it from above its front.
    assert np.median(motion.translation[:, 2]) < -1
