"""Errors of photos and fits: as large as asked, where they belong, and as trackers leave them."""

import numpy as np
import pytest
from scipy.spatial import cKDTree
from skimage.metrics import structural_similarity

from mvp4d.core.cameras.camera import look_at, perspective, project
from mvp4d.core.heads import load_head
from mvp4d.core.heads.motion import Motion
from mvp4d_jax.data.photos import apart, cut_out, degrade, disturb_head, disturb_pose
from mvp4d_jax.heads.skinning import landmarks, skin

SIZE = 128


@pytest.fixture(scope="module")
def head():
    return load_head("builtin")


@pytest.fixture(scope="module")
def camera():
    return perspective(look_at(np.array([0.0, 0.0, 1.2]), np.zeros(3)), np.radians(20), (SIZE, SIZE))


def points(head, motion, camera):
    """[K, 2] pixels of the landmarks."""
    return np.asarray(project(camera, np.asarray(landmarks(head, skin(head, motion)))[0])[0])


@pytest.mark.parametrize("error", [0.015, 0.03])
def test_a_disturbed_fit_misses_landmarks_by_as_much_as_asked(head, camera, error):
    still = Motion.still(1, head.expression_count)
    true = points(head, still, camera)
    side = (true.max(0) - true.min(0)).max()
    missed = []
    for seed in range(24):
        random = np.random.default_rng(seed)
        fitted = disturb_head(head, error, random)
        motion, moved = disturb_pose(head, still, camera, error, random)
        missed.append(np.sqrt(((points(fitted, motion, moved) - true) ** 2).sum(1).mean()) / side)
    assert np.median(missed) == pytest.approx(error, rel=0.3)
    assert np.quantile(missed, 0.9) < 2 * error


def test_the_surface_error_is_alike_over_the_face_and_not_over_the_head(head):
    """Neighbours a centimetre apart err alike, points a whole face apart do not."""
    template = np.asarray(head.template, np.float64)
    near, far = [], []
    for seed in range(12):
        field = np.asarray(disturb_head(head, 0.02, np.random.default_rng(seed)).template, np.float64) - template
        random = np.random.default_rng(100 + seed)
        chosen = random.choice(len(template), 200, replace=False)
        distance, other = cKDTree(template).query(template[chosen], k=40)
        other = other[np.arange(200), np.argmin(np.abs(distance - 0.01), axis=1)]
        strangers = random.choice(len(template), 200, replace=False)
        distant = np.linalg.norm(template[chosen] - template[strangers], axis=1) > 0.15

        def alike(a, b):
            return (a * b).sum() / np.sqrt((a**2).sum() * (b**2).sum())

        near.append(alike(field[chosen], field[other]))
        far.append(alike(field[chosen[distant]], field[strangers[distant]]))
    assert np.mean(near) > 0.9 and abs(np.mean(far)) < 0.2


def test_a_fit_without_error_is_the_fit(head, camera):
    still, random = Motion.still(1, head.expression_count), np.random.default_rng(0)
    np.testing.assert_allclose(disturb_head(head, 0.0, random).template, head.template, atol=1e-7)
    motion, moved = disturb_pose(head, still, camera, 0.0, random)
    np.testing.assert_allclose(points(head, motion, moved), points(head, still, camera), atol=1e-3)


def disc():
    """A striped disc on white, with a soft edge."""
    y, x = np.mgrid[:SIZE, :SIZE] + 0.5 - SIZE / 2
    alpha = np.clip(40.5 - np.hypot(x, y), 0, 1)
    colour = np.stack([0.5 + 0.4 * np.sin(x), 0.4 + 0 * x, 0.3 + 0 * x], axis=-1)
    return (alpha[..., None] * colour + 1 - alpha[..., None]).astype(np.float32), alpha.astype(np.float32)


def test_a_bad_cut_moves_the_edge_and_nothing_else():
    picture, alpha = disc()
    changed = np.abs(cut_out(picture, alpha, 1.5, np.random.default_rng(0)) - picture).max(-1)
    y, x = np.mgrid[:SIZE, :SIZE] + 0.5 - SIZE / 2
    away = np.abs(np.hypot(x, y) - 40)
    assert changed[away > 8].max() < 1e-3
    assert (changed[away < 1.5] > 0.1).mean() > 0.3
    np.testing.assert_array_equal(cut_out(picture, np.ones_like(alpha), 1.5, np.random.default_rng(0)), picture)


def test_degradation_grows_with_its_amount():
    picture, alpha = disc()
    np.testing.assert_array_equal(degrade(picture, alpha, 0.0, np.random.default_rng(0)), picture)
    similar = [
        np.mean(
            [
                structural_similarity(
                    picture, degrade(picture, alpha, amount, np.random.default_rng(seed)), channel_axis=-1, data_range=1
                )
                for seed in range(8)
            ]
        )
        for amount in (0.25, 0.5, 1.0)
    ]
    assert 0.99 > similar[0] > similar[1] > similar[2] > 0.5
    result = degrade(picture, alpha, 1.0, np.random.default_rng(1))
    assert result.shape == picture.shape and result.min() >= 0 and result.max() <= 1


def test_frames_are_as_far_apart_as_their_landmarks(head):
    """Against the landmarks of the posed mesh; a head that does not move in between is the same."""
    random = np.random.default_rng(0)
    motion = Motion.still(4, head.expression_count)
    motion.expression[1:3] = random.uniform(0, 1, (2, head.expression_count))
    motion.rotation[3] = [0, 0.4, 0]
    distance = apart(head, motion)
    places = np.asarray(landmarks(head, skin(head, motion)))
    for one, other in ((0, 1), (1, 2), (0, 2)):
        expected = np.sqrt(((places[one] - places[other]) ** 2).sum(-1).mean())
        assert distance[one, other] == pytest.approx(expected, rel=0.1)
    assert distance[0, 3] == 0 and (distance == distance.T).all()
