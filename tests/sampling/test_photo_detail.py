"""The photo's detail in views: exact under a known shift, and nothing where the photo does not show the same skin."""

import dataclasses

import jax
import numpy as np
import pytest
from plates import DISTANCE, FOCAL, HALF, SIZE, camera, head_of, plate, pose
from scipy.ndimage import gaussian_filter

from mvp4d.core.capture.portrait import Portrait
from mvp4d.core.heads.motion import Motion
from mvp4d.core.ramps import smoothstep
from mvp4d_jax.geometry.rasterize import rasterize
from mvp4d_jax.heads.skinning import skin
from mvp4d_jax.sampling.photo_detail import MEAN, add_detail, read_photo, read_poses

MARGIN = (SIZE / 2) / (FOCAL * HALF / DISTANCE)  # a crop with it is the photo itself
SIGMA = MEAN * SIZE


def picture(seed=0):
    """[S, S, 3] in [0, 1]: mid-grey with fine noise, which has no mean at large."""
    noise = np.random.default_rng(seed).normal(size=(SIZE, SIZE, 3))
    return (0.5 + 0.1 * (noise - gaussian_filter(noise, (2, 2, 0)))).clip(0, 1)


def detailed(head, photo, model, shown, seen, shift=0.0):
    """Frames [F, S, S, 3] in [0, 1] with the detail of a photo in pose `shown`, the view in pose `seen`."""
    rgba = np.dstack([np.rint(255 * photo).astype(np.uint8), np.full((SIZE, SIZE), 255, np.uint8)])
    source = read_photo(Portrait((rgba,), camera(), shown, head), SIZE, MARGIN)
    vertices = np.asarray(skin(head, seen))
    view = jax.tree.map(lambda array: np.asarray(array, np.float32), camera(shift))
    raster = rasterize(view, vertices, head.faces, (SIZE, SIZE))
    frames = np.rint(255 * model)[None].astype(np.uint8).repeat(seen.frame_count, 0)
    return add_detail(read_poses(source, seen, vertices), camera(shift), raster, frames) / 255


FLAT = np.full((SIZE, SIZE, 3), 0.5)
INSIDE = slice(14, -14)  # farther from the plate's outline than trust and the mean reach


def test_a_shifted_plate_takes_the_photos_detail_exactly():
    head, photo = head_of(plate(HALF, 0.0)), picture()
    found = detailed(head, photo, FLAT, pose(), pose(), shift=5.0)[0]
    moved = np.roll(np.rint(255 * photo) / 255, 5, axis=1)
    off = moved - np.rint(255 * FLAT) / 255
    expected = FLAT + off - gaussian_filter(off, (SIGMA, SIGMA, 0), truncate=3)
    rows, columns = INSIDE, slice(19, -14)
    np.testing.assert_allclose(found[rows, columns], expected[rows, columns], atol=1.5 / 255)
    np.testing.assert_array_equal(found[:2], np.rint(255 * FLAT[:2]) / 255)  # beyond the plate


def test_shading_at_large_stays_the_models():
    head, photo = head_of(plate(HALF, 0.0)), picture()
    darker = FLAT - 0.03
    found = detailed(head, photo, darker, pose(), pose())[0]
    assert abs((found - darker)[INSIDE, INSIDE].mean()) < 1 / 255
    assert (found - darker)[INSIDE, INSIDE].std() > 0.9 * (photo - FLAT)[INSIDE, INSIDE].std()


@pytest.mark.parametrize("shown, seen", [(pose(turn=1.4), pose()), (pose(), pose(turn=1.45)), (pose(), pose(turn=3.1))])
def test_nothing_is_taken_where_either_sees_the_skin_from_the_side_or_behind(shown, seen):
    head = head_of(plate(HALF, 0.0))
    found = detailed(head, picture(), FLAT, shown, seen)[0]
    np.testing.assert_array_equal(found, np.rint(255 * FLAT) / 255)


def test_what_another_surface_hides_in_the_photo_is_left_alone():
    wall, cover = plate(HALF, 0.0), plate(0.03, 0.04)
    offsets = np.zeros((len(wall[0]) + len(cover[0]), 3))
    offsets[len(wall[0]) :, 0] = 1.0  # the expression takes the cover out of the picture
    head = head_of(wall, cover, offsets=offsets, parts=("skin", "skin2"))
    changed = np.abs(detailed(head, picture(), FLAT, pose(), pose(1.0))[0] - np.rint(255 * FLAT) / 255).max(-1)
    middle = slice(SIZE // 2 - 8, SIZE // 2 + 8)  # 0.03 m are 8 pixels
    assert changed[middle, middle].max() == 0
    assert (changed[8:14, 8:-8] > 0).mean() > 0.8


def test_an_eye_takes_nothing_from_a_lid_that_covers_it():
    eye, lid = plate(0.05, 0.0), plate(0.06, 0.001)  # as near as no test of depth tells
    offsets = np.zeros((len(eye[0]) + len(lid[0]), 3))
    offsets[len(eye[0]) :, 2] = -0.01  # the expression takes the lid behind all else
    wall = plate(HALF, -0.002)
    offsets = np.concatenate([offsets, np.zeros((len(wall[0]), 3))])
    head = head_of(eye, lid, wall, offsets=offsets, parts=("sclera", "lid", "skin"))
    model = np.rint(255 * FLAT) / 255
    middle = slice(SIZE // 2 - 12, SIZE // 2 + 12)
    opened = detailed(head, picture(), FLAT, pose(0.0), pose(1.0))[0]
    np.testing.assert_array_equal(opened[middle, middle], model[middle, middle])
    still = detailed(head, picture(), FLAT, pose(1.0), pose(1.0))[0]
    assert np.abs(still - model)[middle, middle].std() > 0.02


def test_stretched_skin_and_the_inside_of_the_mouth_are_left_alone():
    points, faces = plate(HALF, 0.0)
    offsets = np.zeros_like(points)
    offsets[:, 1] = np.minimum(points[:, 1], 0)  # the expression doubles the lower half
    model = np.rint(255 * FLAT) / 255
    head = head_of((points, faces), offsets=offsets)
    changed = np.abs(detailed(head, picture(), FLAT, pose(), pose(1.0))[0] - model).max(-1)
    assert changed[SIZE // 2 + 16 :].max() == 0 and (changed[8:24, 8:-8] > 0).mean() > 0.8
    teeth = head_of((points, faces), parts=("upper_teeth",))
    np.testing.assert_array_equal(detailed(teeth, picture(), FLAT, pose(), pose())[0], model)


def test_what_is_of_another_colour_at_large_is_left_alone():
    model = FLAT.copy()
    model[:, : SIZE // 2] = 0.1  # hair before half of the plate
    found = detailed(head_of(plate(HALF, 0.0)), picture(), model, pose(), pose())[0]
    given = np.rint(255 * model) / 255
    np.testing.assert_array_equal(found[:, : SIZE // 2 - 4], given[:, : SIZE // 2 - 4])
    assert np.abs(found - given)[INSIDE, SIZE // 2 + 6 : -14].std() > 0.02


def test_frames_do_not_depend_on_each_other():
    head, photo = head_of(plate(HALF, 0.0)), picture()
    turns = [0.0, 0.3, 1.5]
    motion = dataclasses.replace(Motion.still(3, 1), rotation=np.array([[0, turn, 0] for turn in turns], np.float32))
    together = detailed(head, photo, FLAT, pose(), motion)
    for frame, turn in enumerate(turns):
        np.testing.assert_array_equal(detailed(head, photo, FLAT, pose(), pose(turn=turn))[0], together[frame])


def test_smoothstep_is_flat_at_its_ends_and_half_between():
    np.testing.assert_allclose(smoothstep(np.array([0.0, 1.0, 2.0, 3.0, 9.0]), 1, 3), [0, 0, 0.5, 1, 1])
