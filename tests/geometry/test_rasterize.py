"""The rasteriser against a brute-force reference in float64 that tests every triangle at every pixel."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mvp4d.core.cameras import camera as cameras
from mvp4d_jax.geometry.rasterize import interpolate, on_pixels, rasterize

SIZE = (48, 64)


def camera_points(camera, vertices):
    """[N, 3] float64 in the camera's axes, exactly where `project` puts the vertices to the last bit of float32.

    Its rounding (a hundred-thousandth of a pixel) is a property of the vertices it is handed, not of rasterising:
    across a sliver a tenth of a pixel wide it is a ten-thousandth of the whole.
    """
    pixels, depth = (
        np.asarray(item, np.float64)
        for item in cameras.project(jax.tree.map(jnp.float32, camera), jnp.asarray(vertices, jnp.float32))
    )
    return np.stack(
        [(pixels[:, 0] - camera.cx) / camera.fx * depth, (pixels[:, 1] - camera.cy) / camera.fy * depth, depth], -1
    )


def brute_force(camera, vertices, faces, size, cull_backfaces):
    """Face, barycentrics, depth, and a mask of ties: pixels on an edge or with two surfaces at the same depth."""
    local = camera_points(camera, vertices)
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
    with np.errstate(invalid="ignore"):
        return face, barycentric, best, near_edge | (np.nan_to_num(second - best, nan=np.inf) < 1e-5)


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
    points = radius[..., None] * np.stack(
        [np.sin(polar) * np.sin(azimuth), np.cos(polar), np.sin(polar) * np.cos(azimuth)], -1
    )
    index = np.arange(rows * columns).reshape(rows, columns)
    a, b = index[:-1], np.roll(index, -1, axis=1)[:-1]
    c, d = index[1:], np.roll(index, -1, axis=1)[1:]
    faces = np.concatenate([np.stack([a, c, b], -1).reshape(-1, 3), np.stack([b, c, d], -1).reshape(-1, 3)])
    return points.reshape(-1, 3).astype(np.float32), faces.astype(np.int32)


@pytest.mark.parametrize("mesh", ["soup", "sphere", "few large"])
@pytest.mark.parametrize("cull", [False, True])
def test_agrees_with_brute_force(mesh, cull):
    vertices, faces = {
        "soup": lambda: soup(0),
        "sphere": lambda: bumpy_sphere(24, 30),
        "few large": lambda: soup(1, 12, 0.5),
    }[mesh]()
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
    assert np.abs(painted - expected)[same].max() < 1e-5
    np.testing.assert_allclose(np.asarray(raster.depth)[same], depth[same], rtol=1e-5)
    np.testing.assert_array_equal(painted[ours < 0], 0)
    assert np.isinf(np.asarray(raster.depth)[ours < 0]).all()


def test_corners_are_projected_to_float32():
    camera, (vertices, _) = frontal_camera(), bumpy_sphere()
    rotation, translation = camera.world_to_camera[:3, :3], camera.world_to_camera[:3, 3]
    local = vertices.astype(np.float64) @ rotation.T + translation
    np.testing.assert_allclose(camera_points(camera, vertices), local, atol=3e-7)  # metres: 1e-5 pixels here


def test_many_chunks_batches_and_vmap_give_the_same():
    vertices, faces = bumpy_sphere(64, 80)  # 10080 faces: several chunks
    camera = frontal_camera()
    poses = np.stack([vertices, vertices * 0.8, vertices + [0.05, 0, 0]]).astype(np.float32)
    together = rasterize(camera, poses, faces, SIZE)
    single = [rasterize(camera, pose, faces, SIZE) for pose in poses]
    mapped = jax.vmap(lambda pose: rasterize(camera, pose, faces, SIZE).face)(poses)
    for index, raster in enumerate(single):
        np.testing.assert_array_equal(together.face[index], raster.face)
        np.testing.assert_array_equal(mapped[index], raster.face)
    colours = np.random.default_rng(0).uniform(size=(3, len(vertices), 2)).astype(np.float32)
    painted = np.asarray(interpolate(together, faces, colours))
    for index, raster in enumerate(single):
        np.testing.assert_allclose(painted[index], interpolate(raster, faces, colours[index]), atol=1e-6)


def test_values_follow_perspective():
    # A square that recedes steeply: the middle of the picture shows less than half of it.
    vertices = np.array([[-1, -1, 0], [1, -1, 0], [1, 1, -6], [-1, 1, -6]], np.float32)
    faces = np.array([[0, 1, 2], [0, 2, 3]], np.int32)
    camera = cameras.perspective(cameras.look_at(np.array([0.0, 0.0, 2.0]), np.zeros(3)), np.deg2rad(60), SIZE)
    raster = rasterize(camera, vertices, faces, SIZE)
    values = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], np.float32)
    uv = np.asarray(interpolate(raster, faces, values))
    hit = np.asarray(raster.face) >= 0
    rays = np.asarray(cameras.pixel_rays(camera, SIZE))[hit]
    points = np.array([0, 0, 2.0]) + rays * (np.asarray(raster.depth)[hit] / -rays[:, 2])[:, None]
    np.testing.assert_allclose(uv[hit][:, 1], (points[:, 1] + 1) / 2, atol=1e-5)
    np.testing.assert_allclose(points[:, 2], -3 * (points[:, 1] + 1), atol=1e-4)
    assert (np.asarray(interpolate(raster, faces, values, background=-1.0))[~hit] == -1).all()


def test_near_plane_and_points_behind_the_camera_draw_nothing_wrong():
    vertices = np.array(
        [
            [-1, -1, 3],
            [1, -1, 3],
            [0, 1, 3],  # behind
            [-5, -1, 0.5],
            [5, -1, 0.5],
            [0, 1, 1.5],  # crosses the camera plane
            [np.nan, 0, 0],
            [0.1, 0, 0],
            [0, 0.1, 0],  # not finite
            [-0.1, -0.1, 0],
            [0.1, -0.1, 0],
            [0, 0.1, 0],
        ],
        np.float32,
    )
    faces = np.arange(12).reshape(4, 3).astype(np.int32)
    raster = rasterize(frontal_camera(), vertices, faces, SIZE)
    assert set(np.unique(raster.face)) == {-1, 3}
    assert np.isfinite(np.asarray(raster.barycentric)).all()


def test_ties_go_to_the_lower_face():
    vertices = np.array([[-0.1, -0.1, 0], [0.1, -0.1, 0], [0, 0.1, 0]] * 2, np.float32)
    raster = rasterize(frontal_camera(), vertices, np.array([[3, 4, 5], [0, 1, 2]], np.int32), SIZE)
    assert set(np.unique(raster.face)) == {-1, 0}


def test_gradient_of_depth_follows_the_mesh():
    vertices, faces = bumpy_sphere(12, 16)
    camera = frontal_camera()

    def mean_depth(shift):
        depth = rasterize(camera, vertices + shift * jnp.array([0.0, 0.0, 1.0]), faces, SIZE).depth
        return jnp.where(jnp.isfinite(depth), depth, 0.0)[20:28, 28:36].mean()

    toward = float(jax.jit(jax.grad(mean_depth))(0.0))
    step = 2e-3
    numeric = float((mean_depth(step) - mean_depth(-step)) / (2 * step))
    assert np.isfinite(toward) and abs(toward - numeric) < 0.05 * abs(numeric) and numeric < -0.5


def test_values_on_pixels_are_those_of_their_triangle():
    """The middle of one triangle, a corner of another."""
    faces = np.array([[0, 1, 2], [2, 1, 3]], np.int32)
    face, weights = np.array([0, 1]), np.array([[1, 1, 1], [0, 0, 3]], np.float32) / 3
    values = np.array([3.0, 6.0, 12.0, 5.0], np.float32)
    np.testing.assert_allclose(on_pixels(faces, face, weights, values), [7, 5], rtol=1e-6)
    both = on_pixels(faces, face, weights, np.stack([values, -values], -1))
    np.testing.assert_allclose(both, [[7, -7], [5, -5]], rtol=1e-6)
