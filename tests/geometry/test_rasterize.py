"""The rasteriser against a brute-force reference in float64 that tests every triangle at every pixel."""

import numpy as np
import pytest

from mvp4d_jax.geometry import cameras
from mvp4d_jax.geometry.rasterize import interpolate, rasterize

SIZE = (48, 64)


def brute_force(camera, vertices, faces, size, cull_backfaces):
    """Face, barycentrics, depth, and a mask of ties: pixels on an edge or with two surfaces at the same depth."""
    rotation, translation = camera.world_to_camera[:3, :3], camera.world_to_camera[:3, 3]
    local = vertices.astype(np.float64) @ rotation.T + translation
    height, width = size
    best = np.full((height, width), np.inf)
    second = np.full((height, width), np.inf)
    face = np.full((height, width), -1)
    barycentric = np.zeros((height, width, 3))
    near_edge = np.zeros((height, width), bool)
    v, u = np.meshgrid(np.arange(height) + 0.5, np.arange(width) + 0.5, indexing="ij")
    # Intersect each pixel's ray (z = 1) with each triangle by Cramer's rule: no projection of corners involved.
    rays = np.stack([(u - camera.cx) / camera.fx, (v - camera.cy) / camera.fy, np.ones_like(u)], -1)
    for index, corner in enumerate(faces):
        triangle = local[corner]
        normal = np.cross(triangle[1] - triangle[0], triangle[2] - triangle[0])
        if cull_backfaces and normal @ triangle[0] >= 0:
            continue
        if (triangle[:, 2] <= 0.01).any() or abs(np.linalg.det(triangle)) < 1e-14:
            continue
        weights = rays @ np.linalg.inv(triangle)  # [H, W, 3], homogeneous barycentrics
        total = weights.sum(-1)
        with np.errstate(divide="ignore", invalid="ignore"):
            normalised = weights / total[..., None]
            depth = 1 / total
        inside = (normalised >= 0).all(-1) & (depth > 0)
        near_edge |= (normalised > -1e-4).all(-1) & (np.abs(normalised).min(-1) < 1e-4)
        closer = inside & (depth < best)
        second = np.where(closer, best, np.where(inside, np.minimum(second, depth), second))
        best = np.where(closer, depth, best)
        face = np.where(closer, index, face)
        barycentric = np.where(closer[..., None], normalised, barycentric)
    return face, barycentric, best, near_edge | (second - best < 1e-5)


def frontal_camera(size=SIZE, distance=1.0, fov=40.0):
    return cameras.perspective(cameras.look_at(np.array([0.1, 0.05, distance]), np.zeros(3)), np.deg2rad(fov), size)


def soup(seed, count=300, extent=0.06):
    rng = np.random.default_rng(seed)
    centres = rng.uniform(-0.3, 0.3, (count, 1, 3))
    vertices = (centres + rng.normal(0, extent, (count, 3, 3))).reshape(-1, 3).astype(np.float32)
    return vertices, np.arange(count * 3).reshape(-1, 3).astype(np.int32)


def bumpy_sphere(rows=48, columns=60):
    """A closed mesh with concavities, counter-clockwise from outside."""
    polar, azimuth = np.meshgrid(np.linspace(0, np.pi, rows), np.arange(columns) / columns * 2 * np.pi, indexing="ij")
    radius = 0.3 * (1 + 0.15 * np.sin(5 * azimuth) * np.sin(3 * polar))
    points = radius[..., None] * np.stack([np.sin(polar) * np.sin(azimuth), np.cos(polar),
                                           np.sin(polar) * np.cos(azimuth)], -1)
    index = np.arange(rows * columns).reshape(rows, columns)
    a, b = index[:-1], np.roll(index, -1, axis=1)[:-1]
    c, d = index[1:], np.roll(index, -1, axis=1)[1:]
    faces = np.concatenate([np.stack([a, c, b], -1).reshape(-1, 3), np.stack([b, c, d], -1).reshape(-1, 3)])
    return points.reshape(-1, 3).astype(np.float32), faces.astype(np.int32)


@pytest.mark.parametrize("mesh", ["soup", "sphere", "few large"])
@pytest.mark.parametrize("cull", [False, True])
def test_agrees_with_brute_force(mesh, cull):
    vertices, faces = {"soup": lambda: soup(0), "sphere": lambda: bumpy_sphere(24, 30),
                       "few large": lambda: soup(1, 12, 0.5)}[mesh]()
    camera = frontal_camera()
    raster = rasterize(camera, vertices, faces, SIZE, cull_backfaces=cull)
    face, barycentric, depth, ties = brute_force(camera, vertices, faces, SIZE, cull)
    ours = np.asarray(raster.face)
    assert (face >= 0).mean() > 0.1
    assert (ours == face)[~ties].mean() >= 0.999
    same = (ours == face) & (face >= 0)
    attributes = np.random.default_rng(2).uniform(-1, 1, (len(vertices), 4)).astype(np.float32)
    expected = (attributes[faces[np.maximum(face, 0)]] * barycentric[..., None]).sum(-2)
    painted = np.asarray(interpolate(raster, faces, attributes))
    # Slivers amplify the float32 rounding of their corners' pixel positions: judge triangles wider than a tenth pixel.
    pixels, _ = cameras.project(camera, vertices)
    corner = pixels[faces]
    area = np.abs(np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])) / 2
    longest = np.linalg.norm(corner - np.roll(corner, 1, axis=1), axis=-1).max(1)
    sound = same & (2 * area / longest > 0.1)[face]
    assert sound.sum() > 0.9 * same.sum()
    assert np.abs(painted - expected)[sound].max() < 1e-4
    assert np.quantile(np.abs(painted - expected)[sound], 0.99) < 1e-5
    np.testing.assert_allclose(np.asarray(raster.depth)[sound], depth[sound], rtol=1e-5)
    np.testing.assert_array_equal(painted[ours < 0], 0)
    assert np.isinf(np.asarray(raster.depth)[ours < 0]).all()
