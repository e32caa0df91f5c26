"""A body that goes on where a tight portrait ends."""

import numpy as np

from mvp4d.core.cameras.camera import FIELDS, Camera, project
from mvp4d.core.cameras.crops import crop_image
from mvp4d.core.cameras.rigs import camera_rig
from mvp4d.core.capture.portrait import Portrait
from mvp4d.core.heads.motion import Motion
from mvp4d_jax.geometry.conditioning import ConditioningConfig
from mvp4d_jax.sampling.continuation import SHOULDER, continue_below
from mvp4d_jax.sampling.shot import crop_portrait, make_reference
from tests.geometry.test_conditioning import ball_head

SIDE = 40
RED, BLUE = (1.0, 0.0, 0.0), (0.0, 0.0, 1.0)


def photo(shirt: slice, rows: int = 30, width: int = 20) -> np.ndarray:
    """[rows, width, 4] on white: a red head in rows 5 to 15, below it a blue body over these columns."""
    picture = np.ones((rows, width, 4), np.float32)
    picture[..., 3] = 0
    picture[5:15, 6:14] = (*RED, 1)
    picture[15:, shirt] = (*BLUE, 1)
    return picture


def crop(picture: np.ndarray, left: int, top: int) -> tuple[np.ndarray, np.ndarray]:
    """A square whose pixels are the photo's, from this place on."""
    cut, outside = crop_image(picture, np.array([left, top, left + SIDE, top + SIDE], float), SIDE, background=1.0)
    return cut, 1 - outside


def test_a_body_that_fills_the_edge_goes_on_below_and_falls_aside():
    cut, inside = crop(photo(slice(0, 20)), -10, 0)
    whole, known = continue_below(cut, inside, 15.0, 4.0)
    np.testing.assert_array_equal(whole[:30, 10:30, :3], cut[:30, 10:30, :3])
    np.testing.assert_allclose(whole[31:, 10:30], np.broadcast_to((*BLUE, 1), (9, 20, 4)), atol=1e-6)
    for aside in (2, 5, 9):  # the shoulder's line, 15 at the photo's edge, falls by SHOULDER a column
        column = whole[:, 29 + aside, 3]
        assert abs(np.flatnonzero(column > 0.5)[0] - (15 + SHOULDER * aside)) <= 1
        np.testing.assert_array_equal(column, whole[:, 10 - aside, 3])
    assert (known[31:, 10:30] == 1).all() and (known[whole[..., 3] < 0.4] == inside[whole[..., 3] < 0.4]).all()


def test_a_neck_widens_to_shoulders_and_shoulders_do_not():
    cut, inside = crop(photo(slice(8, 12)), -10, 0)
    neck = continue_below(cut, inside, 15.0, 4.0)[0][..., 3] > 0.5
    assert (np.diff(neck[29:].sum(1)) >= 0).all() and neck[39].sum() > 12
    cut, inside = crop(photo(slice(2, 18)), -10, 0)
    shoulders = continue_below(cut, inside, 15.0, 4.0)[0][..., 3] > 0.5
    assert (shoulders[30:].sum(1) == 16).all()


def test_a_head_that_the_photo_cuts_does_not_go_on():
    """Above the chin, at the sides and on top, there is white and no person beyond the photo."""
    picture = photo(slice(0, 20))
    picture[:15] = (*RED, 1)
    cut, inside = crop(picture, -10, -5)
    whole, known = continue_below(cut, inside, 20.0, 10.0)
    assert (whole[:20, :10] == (1, 1, 1, 0)).all() and (whole[:5] == (1, 1, 1, 0)).all()
    assert (known[:20, :10] == 0).all()
    low, inside = crop(photo(slice(0, 20), rows=12), -10, 0)  # it ends above the chin
    assert (continue_below(low, inside, 15.0, 4.0)[0][13:, :, 3] == 0).all()


def test_a_photo_around_the_crop_stays_as_it_is():
    cut, inside = crop(photo(slice(0, 80), rows=80, width=80), 10, 10)
    whole, known = continue_below(cut, inside, 15.0, 4.0)
    np.testing.assert_array_equal(whole, cut)
    np.testing.assert_array_equal(known, inside)


def test_a_portraits_body_goes_on_below_its_chin():
    """A photo that ends 6 pixels below the chin, with a wide neck: blue below, known, and white beside the head."""
    head, rig = ball_head(40, 60), camera_rig("arc:40x3", (64, 64))
    camera = Camera(**{name: np.asarray(getattr(rig, name))[1:2] for name in FIELDS})
    columns, rows = np.asarray(project(camera[0], head.template)[0]).T
    chin, middle, half = round(rows.max()), columns.mean(), np.ptp(columns) / 2
    neck = slice(round(middle - 0.8 * half), round(middle + 0.8 * half))
    whole = np.zeros((64, 64, 4), np.uint8)
    whole[:chin, round(middle - half) : round(middle + half)] = (255, 0, 0, 255)
    whole[chin:, neck] = (0, 0, 255, 255)
    person = Portrait((whole[: chin + 6],), camera, Motion.still(1, 1), head, 0)
    cut, seen_by, known = crop_portrait(person, 0, 96, 1.8)
    scale = float(seen_by.fx / camera.fx[0])
    points = np.asarray(project(seen_by, head.template)[0])
    below, centre = points[:, 1].max() + 8 * scale, round(points[:, 0].mean())
    assert below < 90
    np.testing.assert_allclose(
        cut[round(below) :, centre], np.broadcast_to((*BLUE, 1), cut[round(below) :, centre].shape)
    )
    assert (known[round(below) :, centre] == 1).all()
    widths = (cut[round(below) :, :, 3] > 0.5).sum(1) / (half * scale)
    assert widths[-1] > widths[0] + 0.2 and widths[-1] < 4 * 1.05  # half widths of the head: shoulders have four
    beside = np.abs(np.arange(96) - points[:, 0].mean()) > 1.3 * half * scale
    assert (cut[: round(points[:, 1].max()) - 2, beside] == (1, 1, 1, 0)).all()


def test_shoulders_end_at_twice_the_heads_width():
    cut, inside = crop(photo(slice(8, 12), rows=18), -10, 0)
    widths = (continue_below(cut, inside, 15.0, 4.0)[0][..., 3] > 0.5).sum(1)
    assert widths[18:].max() == 16 and widths[-1] == 16  # of a head of 8


def test_vertices_beyond_a_photo_are_not_painted_with_its_surroundings():
    """Of a photo that ends in the middle of the head, the lower half has colours from above, not the white around."""
    head, rig = ball_head(40, 60), camera_rig("arc:40x3", (64, 64))
    camera = Camera(**{name: np.asarray(getattr(rig, name))[1:2] for name in FIELDS})
    half = np.zeros((32, 64, 4), np.uint8)
    half[..., 0] = half[..., 3] = 255
    person = Portrait((half,), camera, Motion.still(1, 1), head, 0)
    cut, seen_by, known = crop_portrait(person, 0, 64)
    config = ConditioningConfig(painted=3, image_to_latent=1, supersampling=1)
    reference = make_reference(
        cut[..., :3], seen_by, person.motion, head, lambda video: video[:, ::4], config, known, cut[..., 3]
    )
    np.testing.assert_allclose(reference.colours[:, :3], np.broadcast_to(RED, (head.vertex_count, 3)), atol=0.02)
