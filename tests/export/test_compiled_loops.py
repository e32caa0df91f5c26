"""Loops that numba compiles, against brute force and convolutions."""

import math

import numba
import numpy as np
import torch
from torch.nn.functional import conv2d

from mvp4d_export.blur import blurred
from mvp4d_export.compositor import _exp
from mvp4d_export.cover import first_triangle
from mvp4d_export.projection import ALPHA_THRESHOLD

SIDE = 24


def test_first_triangle_is_the_first_of_all_that_cover_a_pixel():
    random = np.random.default_rng(0)
    triangles = random.uniform(-4, SIDE + 4, (40, 1, 2)) + random.normal(size=(40, 3, 2)) * 5
    triangles[3, 2] = triangles[3, 1]  # covers nothing
    triangles[4] = np.nan
    owner, weights = first_triangle(triangles, SIDE)
    for pixel in range(SIDE * SIDE):
        point, expected = np.array([pixel % SIDE + 0.5, pixel // SIDE + 0.5]), -1
        for index, corners in enumerate(triangles):
            system = np.vstack([corners.T, np.ones(3)])
            if index in (3, 4):
                continue
            solution = np.linalg.solve(system, [*point, 1])
            if (solution >= 0).all():
                expected = index
                np.testing.assert_allclose(weights[pixel], solution, atol=1e-9)
                break
        assert owner[pixel] == expected
    assert 0.2 < (owner >= 0).mean() < 1


def test_triangles_beyond_all_integers_stay_on_the_picture():
    """As the rig of a fit that diverges has them: pixels are counted in 64 bits, which 1e20 does not fit into."""
    owner, weights = first_triangle(
        np.array([[[4, 5], [6, 5], [5, y]] for y in (np.inf, -np.inf, np.nan, 1e20, -1e20)]), SIDE
    )
    owner = owner.reshape(SIDE, SIDE)
    assert (owner[5:, 4:6] == 3).all() and (owner[:5, 4:6] == 4).all() and (owner >= 0).sum() == 2 * SIDE
    np.testing.assert_allclose(weights.reshape(SIDE, SIDE, 3)[5:, 4], [[0.75, 0.25, 0]] * (SIDE - 5), atol=1e-15)


def test_the_window_is_a_convolution_and_its_gradient():
    taps = torch.tensor([0.1, 0.25, 0.3, 0.25, 0.1], dtype=torch.float64)
    pictures = torch.rand(2, 3, 9, 11, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    kernel = torch.outer(taps, taps)[None, None]
    expected = conv2d(pictures.flatten(0, 1)[:, None], kernel)[:, 0].unflatten(0, (2, 3))
    torch.testing.assert_close(blurred(pictures, taps), expected)
    torch.testing.assert_close(blurred(pictures.mT, taps), expected.mT)  # laid out otherwise
    small = pictures[:1, :2, :7, :6].requires_grad_()
    assert torch.autograd.gradcheck(lambda values: blurred(values, taps), small)
    assert torch.autograd.gradgradcheck(lambda values: blurred(values, taps), small)


def test_the_exponential_of_float32_is_right_where_it_counts():
    @numba.njit
    def exponentials(values):
        out = np.empty_like(values)
        for index, value in enumerate(values):
            out[index] = _exp(value)
        return out

    values = -np.geomspace(1e-6, 80, 20000).astype(np.float32)
    error = np.abs(exponentials(values) / np.exp(values.astype(np.float64)) - 1)
    assert error[values > math.log(ALPHA_THRESHOLD)].max() < 5e-7  # rounding of x log2 e alone gives 2.4e-7
    assert error.max() < 1e-5
    above = exponentials(np.float32([1e-6, 1, 80, 100, 1e4, 1e10, 1e38, np.inf]))
    assert np.isfinite(above).all() and (above >= 1).all() and (above[2:] > 1e30).all()
    np.testing.assert_allclose(exponentials(values.astype(np.float64)), np.exp(values.astype(np.float64)), rtol=1e-15)
