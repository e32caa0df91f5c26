"""The photo's hair colour in views: hair takes its hue, skin keeps its own, and photos without hair change nothing."""

import jax
import numpy as np
import pytest

from mvp4d.core.cameras.rigs import camera_rig
from mvp4d.core.capture.portrait import Portrait
from mvp4d.core.heads import load_head
from mvp4d.core.heads.motion import Motion
from mvp4d_jax.geometry.rasterize import rasterize
from mvp4d_jax.heads.skinning import skin
from mvp4d_jax.sampling.finish import Finisher, Finishing
from mvp4d_jax.sampling.hair_colour import colour_hair, read_hair

SIZE = 96
SKIN, WHITE, BROWN = np.array([200, 140, 110]), np.array([215, 212, 214]), np.array([96, 60, 40])
HEAD = load_head("builtin")
CAMERAS = camera_rig("orbit:360x4", (SIZE, SIZE))
MOTION = Motion.still(2, HEAD.expression_basis.shape[0])


@pytest.fixture(scope="module")
def drawn():
    """The rig in two frames of all four views, and [4, S, S, 3] where in head space its pixels lie."""
    vertices = np.asarray(skin(HEAD, MOTION))
    views = jax.tree.map(lambda array: np.asarray(array, np.float32), CAMERAS)
    rasters = [rasterize(views[view][None], vertices, HEAD.faces, (SIZE, SIZE)) for view in range(4)]
    places = []
    for raster in rasters:
        face, weights = np.asarray(raster.face)[0], np.asarray(raster.barycentric)[0]
        corners = vertices[0][np.asarray(HEAD.faces)[np.maximum(face, 0)]]
        places.append(np.where((face >= 0)[..., None], (corners * weights[..., None]).sum(-2), np.nan))
    return rasters, np.stack(places)


def painted(place, hair, skin_colour=SKIN, noise=0.0):
    """[S, S, 3] uint8: hair from 9 cm up, and behind the ears down to the mouth; skin elsewhere, white beside."""
    x, y, z = np.moveaxis(place, -1, 0)
    covered = ((y > 0.09) | ((z < -0.03) & (y > -0.05)))[..., None]
    picture = np.where(covered, hair, skin_colour) + noise * np.random.default_rng(0).normal(size=place.shape)
    return np.where(np.isnan(x)[..., None], 255, picture).clip(0, 255).astype(np.uint8), covered[..., 0]


def portrait(place, hair):
    picture, _ = painted(place, hair)
    alpha = np.where(np.isnan(place[..., :1]), 0, 255).astype(np.uint8)
    return Portrait((np.dstack([picture, alpha]),), CAMERAS[slice(0, 1)], MOTION[slice(0, 1)], HEAD)


def saturation(picture):
    """How far red lies over blue, as a share of the mean."""
    mean = picture.reshape(-1, 3).mean(0)
    return (mean[0] - mean[2]) / mean.mean()


def deep(covered):
    """Well inside of hair: 4 pixels off its edge."""
    for axis in (0, 1):
        covered = np.min([np.roll(covered, shift, axis) for shift in range(-4, 5)], axis=0)
    return covered


def test_hair_of_skins_colour_takes_the_photos_hue_and_keeps_its_light_and_strands(drawn):
    rasters, places = drawn
    hair = read_hair(portrait(places[0], WHITE))
    frame, covered = painted(places[2], SKIN, noise=8.0)  # from behind
    found = colour_hair(hair, rasters[2], np.stack([frame, frame]))
    np.testing.assert_array_equal(found[0], found[1])
    before, after = frame[deep(covered)], found[0][deep(covered)]
    assert saturation(before) > 0.5 and abs(saturation(after) - saturation(WHITE[None])) < 0.03
    grey = [values @ [0.2126, 0.7152, 0.0722] for values in (before, after)]
    assert abs(grey[1].mean() - grey[0].mean()) < 6 and np.corrcoef(grey)[0, 1] > 0.95
    neck = (places[2][..., 1] < -0.1) | np.isnan(places[2][..., 0])
    np.testing.assert_array_equal(found[0][neck], frame[neck])


def test_the_face_stays_as_it_is(drawn):
    rasters, places = drawn
    frame, _ = painted(places[0], SKIN)
    found = colour_hair(read_hair(portrait(places[0], WHITE)), rasters[0], np.stack([frame, frame]))[0]
    x, y, z = np.moveaxis(places[0], -1, 0)
    face = (y < 0.05) & (z > 0.03) & (np.abs(x) < 0.055)  # the photo sees temples from the side
    np.testing.assert_array_equal(found[face], frame[face])
    assert saturation(found[places[0][..., 1] > 0.105]) < 0.1


@pytest.mark.parametrize("hair", [WHITE, BROWN])
def test_hair_of_the_photos_own_hue_stays_as_it_is(drawn, hair):
    rasters, places = drawn
    for light in (1.0, 0.7):
        frame, covered = painted(places[2], light * hair)
        found = colour_hair(read_hair(portrait(places[0], hair)), rasters[2], np.stack([frame, frame]))[0]
        off = np.abs(found.astype(int) - frame)[deep(covered)]
        assert off.mean() < 1.5 and off.max() <= 6  # the most beside skin, which the mean around takes in


def test_a_bald_photo_gives_no_hair_and_leaves_views_alone(drawn):
    places = drawn[1]
    assert read_hair(portrait(places[0], SKIN)) is None
    frames = np.stack([painted(places[2], BROWN)[0]] * 2)
    views = jax.tree.map(lambda array: array[:, None], CAMERAS)
    bald = Finisher(Finishing(hair_colour=True), HEAD, MOTION, views, SIZE, portrait(places[0], SKIN), 1.2)
    np.testing.assert_array_equal([picture for picture, _ in bald.view(2, frames)], frames)
    white = Finisher(Finishing(hair_colour=True), HEAD, MOTION, views, SIZE, portrait(places[0], WHITE), 1.2)
    expected = colour_hair(white.hair, drawn[0][2], frames)
    np.testing.assert_array_equal([picture for picture, _ in white.view(2, frames)], expected)
    assert (expected != frames).any()
