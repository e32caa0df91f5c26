"""The studio's pictures: the same for the same seed, on true white, where the head model says they are."""

import dataclasses
import json

import numpy as np
import pytest

from mvp4d import cli
from mvp4d.core.cameras.camera import FIELDS, Camera
from mvp4d.core.cameras.rigs import camera_rig
from mvp4d.core.capture import Capture
from mvp4d.core.capture.fit import Fit
from mvp4d.core.capture.motion_file import save_motion
from mvp4d.core.errors import UserError
from mvp4d.core.heads.motion import ARRAYS, Motion
from mvp4d_jax.geometry.rasterize import rasterize
from mvp4d_jax.heads.skinning import skin
from mvp4d_jax.studio.produce import Order, make_capture, make_set, write_motion
from mvp4d_jax.studio.studio import Studio

SIZE = 48


def test_same_number_same_bytes(short_haired, rig, pictures):
    again = Studio(6)
    rgb, alpha = again.render(again.motion(3), rig, SIZE)
    np.testing.assert_array_equal(rgb, pictures[0])
    np.testing.assert_array_equal(alpha, pictures[1])


def test_seed_changes_light_and_not_the_person(short_haired, rig):
    other = Studio(6, seed=5)
    np.testing.assert_array_equal(other.head.template, short_haired.head.template)
    still = short_haired.motion(1, "still")
    first, mask = short_haired.render(still, rig, SIZE)
    second, other_mask = other.render(still, rig, SIZE)
    np.testing.assert_array_equal(mask, other_mask)
    assert np.abs(first.astype(int) - second).mean() > 1


def test_alpha_and_white_background(pictures):
    rgb, alpha = pictures
    assert (rgb[alpha == 0] == 255).all() and (alpha == 0).mean() > 0.2 and (alpha == 255).mean() > 0.2
    # Four samples a pixel: five levels, the middle ones only along edges, where anti-aliasing lets white through.
    assert set(np.unique(alpha)) == {0, 64, 128, 191, 255}
    assert 0.01 < ((alpha > 0) & (alpha < 255)).mean() < 0.25
    assert (rgb.astype(int) >= 255 - alpha[..., None].astype(int) - 1).all()


def test_a_view_rendered_alone_is_the_same(short_haired, rig, pictures):
    """Ground truth at a view or time asked for later is what a larger rendering would have held."""
    alone = Camera(*(getattr(rig, name)[2:3] for name in FIELDS))
    rgb, alpha = short_haired.render(short_haired.motion(3)[1:2], alone, SIZE)
    np.testing.assert_array_equal(rgb[0, 0], pictures[0][2, 1])
    np.testing.assert_array_equal(alpha[0, 0], pictures[1][2, 1])


def test_head_lies_where_the_rig_says(short_haired, rig, pictures):
    """Against the exact rasteriser: every pixel that the bare head fills is opaque, and hair adds little to it."""
    vertices = np.asarray(skin(short_haired.head, short_haired.motion(3)))[2]
    for view in range(4):
        camera = Camera(*(getattr(rig, name)[view] for name in FIELDS))
        double = Camera(camera.world_to_camera, camera.fx * 2, camera.fy * 2, camera.cx * 2, camera.cy * 2)
        face = np.asarray(rasterize(double, vertices, short_haired.head.faces, (2 * SIZE, 2 * SIZE)).face)
        filled = (face >= 0).reshape(SIZE, 2, SIZE, 2).mean((1, 3))
        alpha = pictures[1][view, 2] / 255.0
        assert (alpha[filled == 1] == 1).mean() > 0.998
        assert (alpha >= filled - 0.01).mean() > 0.998
        assert alpha.mean() < 1.5 * filled.mean()


def test_moving_cameras(short_haired):
    turn = camera_rig("turn:180", (SIZE, SIZE), 2)
    rgb, _ = short_haired.render(short_haired.motion(2, "still"), turn, SIZE)
    still = camera_rig("orbit:180x2", (SIZE, SIZE))
    other, _ = short_haired.render(short_haired.motion(1, "still"), still, SIZE)
    np.testing.assert_array_equal(rgb[0, 0], other[0, 0])
    np.testing.assert_array_equal(rgb[0, 1], other[1, 0])
    with pytest.raises(UserError, match="moments"):
        short_haired.render(short_haired.motion(5), turn, SIZE)


def test_people_differ(short_haired, long_haired, rig):
    still = short_haired.motion(1, "still")
    first, _ = short_haired.render(still, rig, SIZE)
    second, _ = long_haired.render(still, rig, SIZE)
    assert np.abs(first.astype(int) - second).mean() > 10
    assert np.abs(short_haired.head.template - long_haired.head.template).max() > 1e-3


def test_hair_covers_the_back_of_the_head(short_haired, long_haired, rig):
    """Seen from behind, the skull is hair-coloured: far darker than the face, and none of it shows skin."""
    for studio, rows in ((short_haired, slice(10, 20)), (long_haired, slice(10, 34))):
        rgb, alpha = studio.render(studio.motion(1, "still"), rig, SIZE)
        back, face = rgb[2, 0, rows, 20:28], rgb[0, 0, 22:27, 20:28]
        assert (alpha[2, 0, rows, 20:28] == 255).all()
        assert np.median(back) < 0.6 * np.median(face)
        assert (back[..., 0].astype(int) > 0.8 * np.median(face[..., 0])).mean() < 0.05


def test_capture_holds_what_was_rendered(tmp_path, short_haired):
    order = Order("orbit:360x2", frames=2, size=SIZE)
    make_capture(tmp_path / "person", 6, order, quiet=True)
    capture = Capture.open(tmp_path / "person")
    rgb, alpha = short_haired.render(short_haired.motion(2), camera_rig("orbit:360x2", (SIZE, SIZE)), SIZE)
    for view in range(2):
        np.testing.assert_array_equal(capture.frames(view), rgb[view])
        np.testing.assert_array_equal(capture.mask(view, 1), alpha[view, 1])
    assert capture.info.extra["split"] == "train"
    np.testing.assert_array_equal(capture.head.template, short_haired.head.template)


def test_a_motion_without_pictures_is_the_filmed_one(tmp_path, short_haired):
    order = Order(cameras="orbit:360x1", frames=3, size=16, seed=1)
    path = write_motion(tmp_path / "drive.npz", short_haired.identity, order)
    fit, filmed = Fit.load(path), Capture.open(make_capture(tmp_path / "one", short_haired.identity, order)).motion
    assert fit.head == "builtin"
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(fit.motion, name), getattr(filmed, name))
    with pytest.raises(UserError, match="already there"):
        write_motion(path, short_haired.identity, order)
    with pytest.raises(UserError, match="still ones"):
        write_motion(tmp_path / "turn.npz", short_haired.identity, Order(cameras="turn:360", frames=3, size=16))


@pytest.mark.parametrize("flags, fps", [(["--fps", "25"], 25.0), ([], 60.0)])
def test_a_recording_is_filmed_at_the_rate_that_is_asked_for(flags, fps, tmp_path, short_haired, capsys):
    """A head that turns by 1.2 radians a second, recorded at 60 frames a second, turns as fast in what is written."""
    count = short_haired.head.expression_count
    turning = np.stack([np.zeros(31), 1.2 * np.arange(31) / 60, np.zeros(31)], -1).astype(np.float32)
    recorded = dataclasses.replace(Motion.still(31, count, 60.0), rotation=turning)
    save_motion(tmp_path / "rec60.npz", recorded, short_haired.head)
    words = ["studio", "--identity", "6", "--views", "1", "--size", "16", "--frames", "13", *flags]
    words += ["--motion", str(tmp_path / "rec60.npz")]
    assert cli.main([*words, "--out", str(tmp_path / "filmed")]) == 0
    assert cli.main([*words, "--out", str(tmp_path / "drive.npz"), "--motion-only"]) == 0
    filmed, driven = Capture.open(tmp_path / "filmed"), Fit.load(tmp_path / "drive.npz").motion
    assert filmed.fps == driven.fps == fps
    for motion in (filmed.motion, driven):
        np.testing.assert_allclose(motion.rotation[:, 1], 1.2 * np.arange(13) / fps, atol=1e-6)
    capsys.readouterr()
    if flags:  # half a second: 13 frames of 25 a second
        assert cli.main([*words, "--frames", "14", "--out", str(tmp_path / "long")]) == 2
        assert "holds 13 frames at 25 a second, 14 were asked for; --frames 13" in capsys.readouterr().err


def test_set_goes_on_where_it_stopped(tmp_path):
    order = Order("random:2", frames=1, size=SIZE)
    assert make_set(tmp_path, range(6, 7), order) == 1
    written = (tmp_path / "00006" / "capture.json").stat().st_mtime_ns
    assert make_set(tmp_path, range(6, 7), order) == 0
    for change in ({"size": 24}, {"frames": order.frames + 1}, {"seed": 9}, {"own_motion": 1.0}, {"fps": 30.0}):
        (name, now), *_ = change.items()
        before = {"size": SIZE, "frames": 1, "seed": 0, "own_motion": 0.0, "fps": 25.0}[name]
        line = f"was filmed with `{name}` {before}, now {now} is given; give {before}, or choose another `out`$"
        with pytest.raises(UserError, match=line):
            make_set(tmp_path, range(6, 8), dataclasses.replace(order, **change))
    assert not (tmp_path / "00007").exists()
    assert (tmp_path / "00006" / "capture.json").stat().st_mtime_ns == written


def test_a_capture_that_tells_no_order_is_not_asked_for_again(tmp_path):
    order, path = Order("random:2", frames=1, size=SIZE), tmp_path / "00006" / "capture.json"
    path.parent.mkdir()
    for facts, told in (({}, "`cameras` None"), ({"image_size": [SIZE, 20]}, f"`size` \\[{SIZE}, 20\\]")):
        path.write_text(json.dumps({"image_size": [SIZE, SIZE], "frame_count": 1, "fps": 25.0, "extra": {}, **facts}))
        with pytest.raises(UserError, match=f"was filmed with {told}, now .* is given; choose another `out`$"):
            make_set(tmp_path, range(6, 7), order)


@pytest.mark.parametrize(
    "order, word",
    [
        (Order("orbit:x8"), "rig"),
        (Order(frames=0), "frames"),
        (Order(size=4), "pixels"),
        (Order(motion="dance"), "dance"),
        (Order("random:0"), "cameras"),
        (Order(fps=0.0), "fps"),
    ],
)
def test_mistakes_are_named_before_anything_is_rendered(tmp_path, order, word):
    with pytest.raises(UserError, match=word):
        make_capture(tmp_path / "never", 0, order)
    assert not list(tmp_path.iterdir())
