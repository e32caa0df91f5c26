"""Mattes of pictures whose alpha is known: an antialiased disk on white."""

import numpy as np
import pytest

from mvp4d_jax.sampling.matte import matte

SIDE, FINE = 64, 8


def disk(radius: float) -> np.ndarray:
    """[H, W] how much of each pixel a disk in the middle covers."""
    at = (np.arange(SIDE * FINE) + 0.5) / FINE - SIDE / 2
    inside = at[:, None] ** 2 + at**2 < radius**2
    return inside.reshape(SIDE, FINE, SIDE, FINE).mean((1, 3))


@pytest.mark.parametrize("colour", [(0.05, 0.04, 0.04), (0.8, 0.6, 0.5), (0.35, 0.2, 0.15)])
def test_coverage_is_found_whatever_the_colour(colour):
    alpha = disk(20.3)[..., None]
    found = matte(alpha * np.array(colour) + 1 - alpha)
    np.testing.assert_allclose(found, alpha[..., 0], atol=0.01)


def test_two_colours_side_by_side():
    alpha, colour = disk(20.3), np.where(np.arange(SIDE)[:, None, None] < SIDE // 2, 0.1, (0.8, 0.6, 0.5))
    found = matte(alpha[..., None] * colour + 1 - alpha[..., None])
    assert found.sum() == pytest.approx(alpha.sum(), rel=0.003)  # an outline off by 0.03 pixels
    apart = np.abs(np.arange(SIDE) - SIDE / 2) > 6
    assert np.abs(found - alpha)[apart].max() < 0.02


def test_white_that_the_head_covers_is_opaque_and_a_picture_of_nothing_is_clear():
    head = disk(10) > 0.5
    assert (matte(np.ones((SIDE, SIDE, 3)), head)[disk(8) == 1] == 1).all()
    assert not matte(np.ones((SIDE, SIDE, 3))).any()


def test_a_head_thinner_than_two_rims_is_seen():
    strand = np.ones((SIDE, SIDE, 3))
    strand[:, 30:33] = 0.2
    assert (matte(strand)[:, 31] == 1).all()
