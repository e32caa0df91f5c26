"""Cameras, rigs and crops against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mvp4d_jax  # noqa: F401  teaches JAX the nouns
from mvp4d.core.cameras import camera as cameras
from mvp4d.core.cameras.camera import Camera
from mvp4d.core.cameras.crops import crop_camera, crop_image, head_box
from mvp4d.core.cameras.path import CameraPath
from mvp4d.core.cameras.rigs import DISTANCE, HEAD_CENTRE, attach_to_head, camera_rig, rig_names
from mvp4d.core.errors import UserError

SIZE = (120, 160)


def some_cameras(count=4, seed=0):
    rng = np.random.default_rng(seed)
    positions = rng.normal(0, 1, (count, 3)) + [0, 0, 3]
    camera = cameras.perspective(cameras.look_at(positions, np.zeros(3)), np.deg2rad(40), SIZE)
    return Camera(camera.world_to_camera, camera.fx * 1.1, camera.fy, camera.cx + 3, camera.cy - 2), positions


def test_look_at_axes():
    matrix = cameras.look_at(np.array([0.0, 0.0, 2.0]), np.zeros(3))
    np.testing.assert_allclose(matrix, [[1, 0, 0, 0], [0, -1, 0, 0], [0, 0, -1, 2], [0, 0, 0, 1]], atol=1e-12)
    camera = cameras.perspective(matrix, np.deg2rad(90), (100, 100))
    pixels, depth = cameras.project(camera, np.array([[0, 0, 0], [2, 0, 0], [0, 2, 0]], float))
    np.testing.assert_allclose(pixels, [[50, 50], [100, 50], [50, 0]], atol=1e-9)  # right is right, up is up
    np.testing.assert_allclose(depth, 2)


def test_projection_equals_matrices_and_inverts():
    camera, positions = some_cameras()
    points = np.random.default_rng(1).normal(0, 0.3, (4, 7, 3))
    pixels, depth = cameras.project(camera, points)
    for view in range(4):
        intrinsics = np.array([[camera.fx[view], 0, camera.cx[view]], [0, camera.fy[view], camera.cy[view]], [0, 0, 1]])
        homogeneous = intrinsics @ (camera.world_to_camera[view] @ np.c_[points[view], np.ones(7)].T)[:3]
        np.testing.assert_allclose(pixels[view], (homogeneous[:2] / homogeneous[2]).T)
        np.testing.assert_allclose(depth[view], homogeneous[2])
    np.testing.assert_allclose(cameras.centre(camera), positions, atol=1e-12)
    device = jax.tree.map(jnp.asarray, camera)
    np.testing.assert_allclose(cameras.project(device, jnp.asarray(points))[0], pixels, rtol=1e-4)
    assert pixels.dtype == np.float64


def test_rays_pass_through_pixel_centres():
    camera, positions = some_cameras()
    rays = cameras.pixel_rays(camera, SIZE)
    np.testing.assert_allclose(np.linalg.norm(rays, axis=-1), 1)
    points = positions[:, None, None] + 2.5 * rays
    pixels, _ = cameras.project(camera, points.reshape(4, -1, 3))
    expected = np.tile(cameras.pixel_grid(SIZE).reshape(-1, 2), (4, 1, 1))
    np.testing.assert_allclose(pixels, expected, atol=1e-6)
    assert expected[0, 0].tolist() == [0.5, 0.5]


def test_resize_and_crop_move_pixels_with_the_picture():
    camera, _ = some_cameras()
    points = np.random.default_rng(1).normal(0, 0.3, (4, 7, 3))
    before, _ = cameras.project(camera, points)
    resized, _ = cameras.project(cameras.resize(camera, SIZE, (60, 40)), points)
    np.testing.assert_allclose(resized, before * [0.25, 0.5])
    cropped, _ = cameras.project(crop_camera(camera, np.array([10, -20, 90, 60]), 40), points)
    np.testing.assert_allclose(cropped, (before - [10, -20]) / 2)


@pytest.mark.parametrize(
    "damage, word",
    [
        (lambda c: {"world_to_camera": np.where(np.arange(4)[:, None, None] == 2, np.nan, c.world_to_camera)}, "NaN"),
        (lambda c: {"world_to_camera": c.world_to_camera * np.array([-1, 1, 1, 1])[:, None]}, "left-handed"),
        (lambda c: {"world_to_camera": c.world_to_camera * np.array([2, 2, 2, 1])[:, None]}, "rigid"),
        (lambda c: {"fx": -c.fx}, "positive"),
        (lambda c: {"cx": c.cx[:2]}, "cx"),
        (lambda c: {"world_to_camera": c.world_to_camera[:, :3]}, "shape"),
    ],
)
def test_unsound_cameras_are_named(damage, word):
    camera, _ = some_cameras()
    cameras.check(camera, "cameras.npz")
    values = {name: getattr(camera, name) for name in cameras.FIELDS}
    with pytest.raises(UserError, match=word):
        cameras.check(Camera(**{**values, **damage(camera)}), "cameras.npz")


def test_rigs_by_spec():
    orbit = camera_rig("orbit:360x8", SIZE)
    centres = cameras.centre(orbit) - HEAD_CENTRE
    np.testing.assert_allclose(np.linalg.norm(centres, axis=1), DISTANCE)
    np.testing.assert_allclose(
        centres[:3], DISTANCE * np.array([[0, 0, 1], [0.5**0.5, 0, 0.5**0.5], [1, 0, 0]]), atol=1e-12
    )
    arc = camera_rig("arc:120x5@15,distance=2,fov=30", SIZE)
    centres = cameras.centre(arc) - HEAD_CENTRE
    np.testing.assert_allclose(np.rad2deg(np.arctan2(centres[:, 0], centres[:, 2])), [-60, -30, 0, 30, 60], atol=1e-9)
    np.testing.assert_allclose(centres[:, 1], 2 * np.sin(np.deg2rad(15)))
    np.testing.assert_allclose(arc.fy, 60 / np.tan(np.deg2rad(15)))
    for rig in (orbit, arc):
        target, _ = cameras.project(rig, np.tile(HEAD_CENTRE, (rig.batch_shape[0], 1, 1)))
        np.testing.assert_allclose(target, np.tile([80.0, 60.0], (rig.batch_shape[0], 1, 1)))
        cameras.check(rig, "rig")
    turn = camera_rig("turn:-360@10", SIZE, frames=4)
    assert turn.batch_shape == (1, 4)
    assert cameras.centre(turn)[0, 1, 0] < -1
    sway = cameras.centre(camera_rig("sway:30", SIZE, frames=8))[0] - HEAD_CENTRE
    np.testing.assert_allclose(np.rad2deg(np.arctan2(sway[:, 0], sway[:, 2]))[[0, 2, 4, 6]], [0, 30, 0, -30], atol=1e-9)
    assert rig_names(12)[-1] == "cam11"


@pytest.mark.parametrize(
    "spec",
    [
        "orbit",
        "orbit:360",
        "orbit:360x0",
        "circle:3",
        "arc:120x6@95",
        "turn:360x4",
        "orbit:360x8,fov=0",
        "orbit:360x8,zoom=2",
        "file:absent.npz",
        "",
        "orbit:1e9x8",
    ],
)
def test_unreadable_rigs_are_refused(spec):
    with pytest.raises(UserError) as raised:
        camera_rig(spec, SIZE)
    assert "\n" not in str(raised.value)


def test_cameras_follow_the_head_they_are_attached_to():
    """A head yawed by t is seen frontally: CAP4D's generation cameras are off by a transposed rotation here."""
    rig = camera_rig("orbit:360x4", SIZE)
    yaw = np.deg2rad(40)
    rotation = np.array([[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]])
    translation = np.array([0.1, -0.2, -1.5])
    moved = attach_to_head(rig, rotation, translation)
    front = rotation @ np.array([0, 0, 1])  # where the face looks
    towards = cameras.centre(moved)[0] - (rotation @ HEAD_CENTRE + translation)
    np.testing.assert_allclose(towards / np.linalg.norm(towards), front, atol=1e-12)
    points = np.random.default_rng(0).normal(0, 0.1, (1, 5, 3))
    np.testing.assert_allclose(
        cameras.project(moved, points @ rotation.T + translation)[0], cameras.project(rig, points)[0]
    )


def test_camera_path_files(tmp_path):
    path = tmp_path / "orbit.npz"
    camera, _ = some_cameras()
    arrays = {
        "extr": camera.world_to_camera * [1, -1, -1, 1],
        "fx": camera.fx[:, None],
        "fy": camera.fy[:, None],
        "cx": camera.cx[:, None],
        "cy": camera.cy[:, None],
        "resolution": np.array(SIZE),
        "fps": np.array(24),
    }
    np.savez(path, **arrays)
    read = CameraPath.load(path)
    assert (read.image_size, read.fps) == (SIZE, 24.0)
    np.testing.assert_allclose(read.camera.world_to_camera, camera.world_to_camera)
    rig = camera_rig(f"file:{path}", (60, 80), frames=3)
    assert rig.batch_shape == (1, 3)
    np.testing.assert_allclose(rig.fx[0], camera.fx[:3] / 2)
    with pytest.raises(UserError, match="4 cameras for 5 frames"):
        camera_rig(f"file:{path}", SIZE, frames=5)
    for key, value in (("extr", arrays["extr"][:, :3]), ("fx", np.ones((3, 1))), ("resolution", np.zeros(2))):
        np.savez(path, **{**arrays, key: value})
        with pytest.raises(UserError, match=key):
            CameraPath.load(path)


def test_head_box_is_square_with_margin():
    box = head_box(np.array([[10, 20], [30, 20], [20, 80], [12, 40]]))
    np.testing.assert_allclose(box, [20 - 36, 50 - 36, 20 + 36, 50 + 36])
    with pytest.raises(UserError):
        head_box(np.array([[np.nan, 0]]))


def test_crop_of_an_affine_picture_is_affine_and_its_mask_soft():
    v, u = np.meshgrid(np.arange(40) + 0.5, np.arange(50) + 0.5, indexing="ij")
    picture = np.stack([u, v, 2 * u + v], axis=-1)
    inner, outside = crop_image(picture, np.array([10.3, 8.1, 34.3, 32.1]), 16)
    y, x = np.meshgrid(8.1 + (np.arange(16) + 0.5) * 1.5, 10.3 + (np.arange(16) + 0.5) * 1.5, indexing="ij")
    np.testing.assert_allclose(inner, np.stack([x, y, 2 * x + y], axis=-1), atol=0.05)
    assert not outside.any()
    cut, outside = crop_image(np.zeros((40, 50), np.uint8), np.array([-12, 0, 28, 40]), 10)
    np.testing.assert_allclose(outside[:, 0], 1)
    np.testing.assert_allclose(outside[5, 4:9], 0, atol=1e-6)
    assert 0 < outside[5, 2] < 1 or 0 < outside[5, 3] < 1
    np.testing.assert_allclose(cut, 255 * outside, atol=1e-3)
    # A box larger by the filter's support keeps the mean.
    assert abs(outside[5].mean() - 12 / 40) < 0.02


def test_a_camera_file_keeps_its_whole_view_in_both_halves(tmp_path):
    """Scaled by one factor and centred: a point's place, worked out by hand, in a wider and in a taller picture."""
    from mvp4d.core.cameras.path import CameraPath
    from mvp4d.core.cameras.rigs import camera_rig
    from mvp4d_export.cameras import camera_path

    matrix = np.eye(4)
    matrix[2, 3] = 2.0
    camera = cameras.make_camera(matrix[None], 300.0, 320.0, 110.0, 90.0)
    CameraPath(camera, (200, 240)).save(tmp_path / "orbit.npz")
    point = np.array([0.3, -0.1, 0.0])
    u, v = 300 * 0.3 / 2 + 110, 320 * -0.1 / 2 + 90
    for size in ((100, 360), (400, 240), (200, 240)):
        factor = min(size[0] / 200, size[1] / 240)
        expected = [u * factor + (size[1] - factor * 240) / 2, v * factor + (size[0] - factor * 200) / 2]
        ours = camera_rig(f"file:{tmp_path / 'orbit.npz'}", size)
        pixels, _ = cameras.project(ours[0], point[None, None])
        np.testing.assert_allclose(np.asarray(pixels)[0, 0], expected, atol=1e-9)
        theirs = camera_path(f"file:{tmp_path / 'orbit.npz'}", size, 1)
        local = theirs.Ks[0] @ (theirs.viewmats[0] @ [*point, 1])[:3]
        np.testing.assert_allclose(local[:2] / local[2], expected, atol=1e-4)
