"""Light against closed forms, and the depth buffer against the exact rasteriser."""

import jax.numpy as jnp
import numpy as np

from mvp4d_jax.studio.lighting import Lights, environment, harmonics
from mvp4d_jax.studio.rendering import encode, faces_around
from mvp4d_jax.studio.zbuffer import nearest_face, unpack


def _sphere(count: int) -> np.ndarray:
    k = np.arange(count) + 0.5
    height, turn = 1 - 2 * k / count, k * np.pi * (3 - np.sqrt(5.0))
    flat = np.sqrt(1 - height**2)
    return np.stack([flat * np.sin(turn), height, flat * np.cos(turn)], -1)


def test_harmonics_are_orthonormal():
    basis = harmonics(_sphere(20_000))
    np.testing.assert_allclose(4 * np.pi / len(basis) * basis.T @ basis, np.eye(9), atol=1e-3)


def test_even_sky_lights_every_normal_alike():
    """A white environment of radiance 1 reflects 1 from white (integral of the cosine over pi); no lamp adds to it."""
    one, none = np.ones(3, np.float32), np.zeros((4, 3), np.float32)
    lights = Lights(np.eye(4, 3, dtype=np.float32), none, np.zeros(4, np.float32), one, one)
    coefficients = np.asarray(environment(lights, jnp.eye(3)))
    suns = _sphere(4000)
    for normal in _sphere(12):
        transfer = np.clip(suns @ normal, 0, 1) @ harmonics(suns) * 4 / len(suns)
        np.testing.assert_allclose(transfer @ coefficients, one, atol=2e-3)


def test_sky_stays_above_when_the_head_tilts():
    """Light from above is light from the head's own right once the head lies on its left side."""
    lights = Lights(
        np.eye(4, 3, dtype=np.float32),
        np.zeros((4, 3), np.float32),
        np.zeros(4, np.float32),
        np.ones(3, np.float32),
        np.zeros(3, np.float32),
    )
    roll = np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1]], np.float32)  # head x points up in the world
    coefficients = np.asarray(environment(lights, jnp.asarray(roll)))
    suns = _sphere(4000)

    def lit(normal):
        return (np.clip(suns @ normal, 0, 1) @ harmonics(suns) * 4 / len(suns) @ coefficients)[0]

    assert lit(np.array([1.0, 0, 0])) > 0.8 > 0.2 > lit(np.array([-1.0, 0, 0]))
    np.testing.assert_allclose(lit(np.array([0, 1.0, 0])), lit(np.array([0, -1.0, 0])), atol=1e-2)


def test_encoding_is_srgb_below_the_shoulder():
    values = jnp.linspace(0, 0.7, 50)
    expected = np.where(values <= 0.0031308, 12.92 * values, 1.055 * np.asarray(values) ** (1 / 2.4) - 0.055)
    np.testing.assert_allclose(encode(values), expected, atol=1e-6)
    bright = np.asarray(encode(jnp.linspace(0.7, 8.0, 100)))
    assert (np.diff(bright) >= 0).all() and bright.max() <= 1.0


def test_nearest_face_equals_brute_force():
    rng = np.random.default_rng(4)
    count, height, width = 300, 40, 56
    xy = (rng.uniform(0, [width, height], (count, 1, 2)) + rng.normal(0, 5, (count, 3, 2))).astype(np.float32)
    depth = rng.uniform(0.05, 0.95, (count, 3)).astype(np.float32)
    key, wanted = nearest_face(
        [(xy[:, k, 0], xy[:, k, 1]) for k in range(3)],
        [depth[:, k] for k in range(3)],
        np.ones(count, bool),
        (height, width),
        20_000,
    )
    face, _, covered = (np.asarray(item) for item in unpack(key))
    assert int(wanted) <= 20_000
    v, u = np.mgrid[:height, :width] + 0.5
    best, nearest = np.full((height, width), np.inf), np.full((height, width), -1)
    for index in range(count):
        (ax, ay), (bx, by), (cx, cy) = xy[index].astype(np.float64)
        area = (bx - ax) * (cy - ay) - (cx - ax) * (by - ay)
        wb = ((u - ax) * (cy - ay) - (cx - ax) * (v - ay)) / area
        wc = ((bx - ax) * (v - ay) - (u - ax) * (by - ay)) / area
        z = (1 - wb - wc) * depth[index, 0] + wb * depth[index, 1] + wc * depth[index, 2]
        closer = (np.minimum(np.minimum(wb, wc), 1 - wb - wc) >= 0) & (z < best)
        best, nearest = np.where(closer, z, best), np.where(closer, index, nearest)
    np.testing.assert_array_equal(covered.reshape(height, width), nearest >= 0)
    same = face.reshape(height, width)[nearest >= 0] == nearest[nearest >= 0]
    assert same.mean() > 0.999  # depth is kept to 1 / 32768


def test_faces_around():
    faces = np.array([[0, 1, 2], [0, 2, 3]])
    table = faces_around(faces, 4)
    assert [set(row) - {2} for row in table] == [{0, 1}, {0}, {0, 1}, {1}]
