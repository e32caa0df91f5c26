"""Which of some triangles covers a pixel first: what a mesh shows, and where a UV chart lies."""

from __future__ import annotations

import math

import numpy as np

from mvp4d_export.compiled import compiled

SMALLEST = 1e-12  # square pixels: smaller triangles cover nothing
BESIDE = -1e-6  # least barycentric coordinate of a pixel's centre that counts as covered


def first_triangle(triangles: np.ndarray, resolution: int) -> tuple[np.ndarray, np.ndarray]:
    """The first triangle [T, 3, 2] (pixels, float64) that covers each pixel's centre, on a square of R x R pixels.

    Returns:
      [R R] int64 its index, -1 for none, and [R R, 3] its barycentric coordinates there, 0 where there is none.
    """
    owner, weights = np.full(resolution * resolution, -1), np.zeros((resolution * resolution, 3))
    _cover(np.ascontiguousarray(triangles, np.float64), resolution, owner, weights)
    return owner, weights


@compiled
def _area(p, q, r):
    """Twice the signed area of a triangle."""
    return (q[0] - p[0]) * (r[1] - p[1]) - (q[1] - p[1]) * (r[0] - p[0])


@compiled
def _range(low, high, resolution):
    """First pixel and the one after the last whose centres lie from `low` to `high`."""
    first, last = max(low - 0.5, 0.0), min(high - 0.5, resolution - 1.0)  # cut while they are no integers: 1e20 is none
    return math.ceil(min(first, resolution)), math.floor(max(last, -1.0)) + 1


@compiled
def _cover(triangles, resolution, owner, weights):
    """Writes the first triangle of each pixel, and its coordinates there."""
    for t in range(len(triangles)):
        a, b, c = (triangles[t, 0, 0], triangles[t, 0, 1]), (triangles[t, 1, 0], triangles[t, 1, 1]), triangles[t, 2]
        total = _area(a, b, c)
        if not SMALLEST < abs(total) < math.inf:
            continue
        left, right = _range(min(a[0], b[0], c[0]), max(a[0], b[0], c[0]), resolution)
        top, bottom = _range(min(a[1], b[1], c[1]), max(a[1], b[1], c[1]), resolution)
        for y in range(top, bottom):
            for x in range(left, right):
                pixel, point = y * resolution + x, (x + 0.5, y + 0.5)
                if owner[pixel] >= 0:
                    continue
                first, second = _area(point, b, c) / total, _area(a, point, c) / total
                third = _area(a, b, point) / total
                if first >= BESIDE and second >= BESIDE and third >= BESIDE:
                    first, second, third = min(max(first, 0), 1), min(max(second, 0), 1), min(max(third, 0), 1)
                    owner[pixel] = t
                    weights[pixel, 0], weights[pixel, 1], weights[pixel, 2] = first, second, third
                    weights[pixel] /= first + second + third
