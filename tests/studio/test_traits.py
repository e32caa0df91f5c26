"""Identities, splits, the painted skin and the places of things on the head."""

import dataclasses

import numpy as np
import pytest

from mvp4d.core.errors import UserError
from mvp4d_jax.studio import face_regions
from mvp4d_jax.studio.eyes import IRIS_RADIUS, SIZE, paint_eye
from mvp4d_jax.studio.skin_texture import paint
from mvp4d_jax.studio.studio import builtin_head
from mvp4d_jax.studio.traits import BEARDS, STYLES, draw_identity, linear, split_of


def test_splits():
    assert [split_of(n) for n in (0, 9_999, 10_000, 10_999, 11_000, 50_000)] == [
        "train",
        "train",
        "validation",
        "validation",
        "test",
        "test",
    ]
    with pytest.raises(UserError, match="negative"):
        split_of(-1)


def test_people_cover_what_people_look_like():
    people = [draw_identity(number, 32) for number in range(400)]
    assert {person.style for person in people} == set(STYLES)
    assert {person.beard for person in people} == set(BEARDS)
    assert 0.1 < np.mean([person.glasses != "none" for person in people]) < 0.4
    tone = np.array([np.mean(person.skin) for person in people])
    assert tone.min() < 0.08 and tone.max() > 0.42
    shapes = np.stack([person.shape for person in people])
    assert np.abs(shapes.mean(0)).max() < 0.2 and (np.abs(shapes.std(0) - 0.78) < 0.12).all()
    assert all(red > green > blue for red, green, blue in (person.skin for person in people))


def test_same_number_same_person():
    first, second = draw_identity(77, 32), draw_identity(77, 32)
    for field in dataclasses.fields(first):
        np.testing.assert_array_equal(getattr(first, field.name), getattr(second, field.name))


def test_srgb_to_linear_known_values():
    np.testing.assert_allclose(linear(np.array([0.0, 0.04045, 0.5, 1.0])), [0, 0.0031308, 0.2140411, 1], atol=1e-6)


def painted_vertices(person, parts):
    """Canonical positions [N, 3] of the vertices of some parts and the colours [N, 3] that they are painted in."""
    head = builtin_head()
    texture = paint(person, head)
    size = texture.shape[0]
    corner_vertex, corner_uv = np.asarray(head.faces).ravel(), np.asarray(head.face_uvs).ravel()
    uv = np.zeros((head.vertex_count, 2))
    uv[corner_vertex] = np.asarray(head.uv)[corner_uv]
    colour = texture[
        np.clip(((1 - uv[:, 1]) * size).astype(int), 0, size - 1),
        np.clip((uv[:, 0] * size).astype(int), 0, size - 1),
        :3,
    ]
    faces = np.isin(head.face_parts, [head.part_names.index(part) for part in parts])
    chosen = np.unique(np.asarray(head.faces)[faces])
    return np.asarray(head.canonical)[chosen], colour[chosen]


def test_lips_are_redder_than_cheeks_and_brows_darker_than_the_forehead():
    points, colour = painted_vertices(draw_identity(6, 32), ("skin", "lips"))
    lips = face_regions.lips(points) > 0.9
    cheek = (np.abs(points[:, 0] - 0.045) < 0.008) & (np.abs(points[:, 1] + 0.045) < 0.008) & (points[:, 2] > 0.05)
    brow = face_regions.brow(points)[0] > 0.8
    forehead = (np.abs(points[:, 0]) < 0.03) & (np.abs(points[:, 1] - 0.045) < 0.008) & (points[:, 2] > 0.05)
    assert lips.sum() > 20 and cheek.sum() > 4 and brow.sum() > 8 and forehead.sum() > 8
    redness = colour[:, 0] / colour[:, 1]
    assert redness[lips].mean() > 1.15 * redness[cheek].mean()
    assert colour[brow].mean() < 0.6 * colour[forehead].mean()


def test_hair_colours_the_skull_and_not_the_backs_of_the_ears():
    """11007 has dark skin and grey hair; hair begins at the ears' height, behind them."""
    person = draw_identity(11007, builtin_head().shape_count)
    ears, ear_colour = painted_vertices(person, ("ears",))
    behind = (face_regions.scalp(ears) > 0.9) & (face_regions.ear_shells(ears) > 0.9)
    skull, skull_colour = painted_vertices(person, ("skin",))
    assert (face_regions.ear_shells(skull) == 0).all()
    covered = face_regions.scalp(skull) > 0.9
    assert behind.sum() > 40 and covered.sum() > 500
    assert np.linalg.norm(np.median(ear_colour[behind], 0) - person.skin) < 0.02
    assert np.linalg.norm(np.median(skull_colour[covered], 0) - person.skin) > 0.1


def test_eye_has_pupil_iris_and_sclera():
    person = draw_identity(3, 32)
    eye = paint_eye(person)
    axis = (np.arange(SIZE) + 0.5) / SIZE * 2 - 1
    radius = np.hypot(*np.meshgrid(axis, axis))
    pupil, iris = eye[radius < 0.8 * person.pupil], eye[(radius > 0.3) & (radius < 0.4)]
    sclera = eye[(radius > 1.15 * IRIS_RADIUS) & (radius < 0.7)]
    ring = eye[(radius > 0.95 * IRIS_RADIUS) & (radius < IRIS_RADIUS)]
    assert pupil.mean() < 0.02 < iris.mean() < sclera.mean()
    assert ring.mean() < sclera.mean() / 2
    assert sclera.min() > 0.3


def test_regions_are_symmetric_and_apart():
    rng = np.random.default_rng(0)
    points = np.asarray(builtin_head().canonical)[rng.permutation(builtin_head().vertex_count)[:3000]]
    mirrored = points * np.array([-1, 1, 1])
    for region in (
        face_regions.scalp,
        face_regions.ear_shells,
        face_regions.lips,
        lambda p: face_regions.beard(p, "full"),
        lambda p: face_regions.brow(p)[0],
    ):
        values = region(points)
        np.testing.assert_allclose(values, region(mirrored), atol=1e-4)  # float32 positions
        assert values.min() >= 0 and values.max() <= 1 and values.max() > 0.5
    assert (face_regions.scalp(points) * face_regions.lips(points)).max() == 0
    assert (face_regions.lips(points) * face_regions.beard(points, "full")).max() < 0.3
