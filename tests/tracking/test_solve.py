"""Fitting landmarks that were projected from the head itself, so that the truth is known."""

import dataclasses

import jax
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from mvp4d.core.cameras.camera import Camera, project
from mvp4d.core.heads import load_head
from mvp4d.core.heads.motion import Motion
from mvp4d_jax.heads.skinning import landmarks, skin
from mvp4d_jax.tracking import problem as problems
from mvp4d_jax.tracking import solve as solving
from mvp4d_jax.tracking.landmarks import Landmarks
from mvp4d_jax.tracking.observations import observations
from mvp4d_jax.tracking.portrait import RARELY
from mvp4d_jax.tracking.solve import UP, SolveConfig, solve, told
from tests.capture.toy import make_flame

SIZE, FOCAL = (800, 600), 2100.0
CAMERA = Camera(UP, *(np.float64(value) for value in (FOCAL, FOCAL, SIZE[1] / 2, SIZE[0] / 2)))


@pytest.fixture(scope="session")
def builtin():
    return load_head("builtin")


def degrees_between(first, second):
    relative = Rotation.from_rotvec(np.asarray(first)) * Rotation.from_rotvec(np.asarray(second)).inv()
    return np.degrees(relative.magnitude())


def observe(head, motion, shape, noise=0.0, iris=False, camera=CAMERA):
    """What a perfect detector would see."""
    vertices = np.asarray(skin(head, motion, shape), np.float64)
    points = project(camera, np.asarray(landmarks(head, vertices), np.float64))[0]
    points = points + np.random.default_rng(3).normal(0, noise, points.shape)
    centres = np.full((len(points), 2, 2), np.nan)
    if iris:
        vertex = [_iris(head, name) for name in ("left_eye", "right_eye")]
        centres = project(camera, vertices[:, vertex])[0]
    return Landmarks(points, centres, SIZE, motion.fps)


def _iris(head, joint):
    owned = np.flatnonzero(np.asarray(head.skin_weights)[:, head.joint_names.index(joint)] > 0.5)
    return owned[np.argmax(np.asarray(head.template)[owned, 2])]


def moving(head, rotations, expressions):
    count = len(rotations)
    still = Motion.still(count, head.expression_count)
    expression = np.array(still.expression)
    for name, values in expressions.items():
        expression[:, head.expression_names.index(name)] = values
    translation = np.tile(np.float32([0.02, -0.03, -1.25]), (count, 1))
    return dataclasses.replace(still, expression=expression, rotation=np.float32(rotations), translation=translation)


def test_a_focal_length_that_the_camera_wrote_down_is_believed(builtin):
    """A phone held near, whose perspective landmarks hardly tell: the prior is a portrait lens's."""
    shape = np.random.default_rng(1).normal(0, 0.8, builtin.shape_count).astype(np.float32)
    motion = moving(builtin, [[0.05, 0.2, 0.0]], {})
    motion = dataclasses.replace(motion, translation=np.float32([[0.02, -0.03, -0.6]]))
    near = Camera(UP, *(np.float64(value) for value in (1110.0, 1110.0, SIZE[1] / 2, SIZE[0] / 2)))
    seen = observe(builtin, motion, shape, camera=near)
    unknown, known = (solve(builtin, seen, told(SolveConfig(), focals)) for focals in ([None], [1110 / SIZE[0] * 1.02]))
    assert float(unknown.camera.fx) > 1.2 * 1110
    assert float(known.camera.fx) == pytest.approx(1110, rel=0.05)
    assert float(known.motion.translation[0, 2]) == pytest.approx(-0.6, rel=0.08)
    assert float(known.error[0]) < 0.01


def test_a_photo_of_the_builtin_head(builtin):
    shape = np.random.default_rng(0).normal(0, 0.8, builtin.shape_count).astype(np.float32)
    motion = moving(builtin, [[0.2, 0.35, -0.1]], {"jawOpen": 0.5, "mouthSmileLeft": 0.6, "eyeBlinkLeft": 0.9})
    motion = dataclasses.replace(motion, eyes=np.float32([[[0.1, -0.2, 0], [0.1, -0.2, 0]]]))
    found = solve(builtin, observe(builtin, motion, shape, iris=True), SolveConfig())
    assert found.error[0] < 0.01
    assert degrees_between(found.motion.rotation[0], motion.rotation[0]) < 3
    value = dict(zip(builtin.expression_names, found.motion.expression[0]))
    assert value["jawOpen"] > 0.2 and value["mouthSmileLeft"] > value["mouthSmileRight"] + 0.15
    assert value["eyeBlinkLeft"] > value["eyeBlinkRight"] + 0.3
    assert found.motion.expression.min() >= 0 and found.motion.expression.max() <= 1
    # the eyes turn the right way; a single photo leaves some of it to the eyeball's place
    assert np.abs(found.motion.eyes[0, :, :2] - motion.eyes[0, :, :2]).max() < 0.12


def test_a_known_focal_length_gives_the_distance(builtin):
    shape = np.zeros(builtin.shape_count, np.float32)
    motion = moving(builtin, [[0.0, -0.5, 0.0]], {})
    found = solve(builtin, observe(builtin, motion, shape), SolveConfig(), focal=FOCAL)
    assert found.camera.fx == pytest.approx(FOCAL, rel=1e-3)
    np.testing.assert_allclose(found.motion.translation[0], motion.translation[0], atol=0.03)
    assert degrees_between(found.motion.rotation[0], motion.rotation[0]) < 1


def test_outliers_do_not_pull(builtin):
    """Six of 68 landmarks are somewhere else altogether (a hand before the mouth)."""
    shape = np.zeros(builtin.shape_count, np.float32)
    motion = moving(builtin, [[0.1, 0.2, 0.0]], {})
    seen = observe(builtin, motion, shape)
    points = seen.points.copy()
    points[0, 55:61] += [90.0, 60.0]
    found = solve(builtin, dataclasses.replace(seen, points=points), SolveConfig())
    assert degrees_between(found.motion.rotation[0], motion.rotation[0]) < 3
    inliers = np.r_[0:55, 61:68]
    assert np.linalg.norm(found.projected[0] - seen.points[0], axis=-1)[inliers].mean() / seen.box_size < 0.02


def step_ratio(projected):
    """Largest distance of a frame from the middle of its neighbours, over the median step."""
    steps = np.linalg.norm(np.diff(projected, axis=0), axis=-1).mean(-1)
    middle = (projected[:-2] + projected[2:]) / 2
    return np.linalg.norm(projected[1:-1] - middle, axis=-1).mean(-1).max() / np.median(steps)


def test_a_video_is_smooth_and_gaps_are_bridged(builtin):
    """Thirty noisy frames of a turning, speaking head; three frames have no face."""
    time = np.linspace(0, 1, 30)
    rotations = np.stack([0.1 * np.sin(6 * time), 0.6 * np.sin(4 * time), 0.05 * time], axis=-1)
    motion = moving(builtin, rotations, {"jawOpen": 0.3 - 0.3 * np.cos(12 * time)})
    shape = np.random.default_rng(1).normal(0, 0.5, builtin.shape_count).astype(np.float32)
    seen = observe(builtin, motion, shape, noise=1.5)
    points = seen.points.copy()
    points[12:15] = np.nan
    found = solve(builtin, dataclasses.replace(seen, points=points), SolveConfig())
    truth = observe(builtin, motion, shape).points
    assert degrees_between(found.motion.rotation, motion.rotation).max() < 5
    assert np.isnan(found.error[12:15]).all() and np.nanmax(found.error) < 0.02
    away = np.linalg.norm(found.projected - truth, axis=-1).mean(-1) / seen.box_size
    assert away.max() < 0.02  # gaps included
    assert step_ratio(found.projected) < 1.5
    jitter = np.linalg.norm(np.diff(found.projected - truth, 2, axis=0), axis=-1).mean()
    noise = np.linalg.norm(np.diff(seen.points - truth, 2, axis=0), axis=-1).mean()
    assert jitter < 0.35 * noise


def test_a_flame_shaped_head_with_a_jaw_joint():
    """Coefficients without bounds and a jaw that is a joint: the other kind of head."""
    head = make_flame(vertices=300)
    shape = np.float32([0.8, -0.5])
    motion = Motion(
        np.float32([[0.5, -0.7, 0.3, 0.9]]),
        np.float32([[0.1, -0.4, 0.05]]),
        np.float32([[0, 0, -1.3]]),
        np.zeros((1, 3), np.float32),
        np.float32([[0.2, 0, 0]]),
        np.zeros((1, 2, 3), np.float32),
    )
    found = solve(head, observe(head, motion, shape), SolveConfig())
    assert degrees_between(found.motion.rotation[0], motion.rotation[0]) < 4
    assert found.error[0] < 0.02 and found.motion.jaw[0, 0] > 0.05


def test_the_banded_step_is_the_dense_one():
    """Banded factor and Schur complement against the same normal equations, written out densely."""
    head = make_flame(vertices=300)
    rng = np.random.default_rng(0)
    motion = Motion(
        rng.normal(0, 0.3, (5, 4)).astype(np.float32),
        rng.normal(0, 0.2, (5, 3)).astype(np.float32),
        np.tile(np.float32([0, 0, -1.3]), (5, 1)),
        *(np.zeros((5, 3), np.float32),) * 2,
        np.zeros((5, 2, 3), np.float32),
    )
    seen = observe(head, motion, np.float32([0.8, -0.5]))
    config, small = SolveConfig(), problems.landmark_rig(head)
    layout = problems.Layout(2, 4, True, False)
    data = observations(seen, 3.0 / seen.box_size)
    problem = problems.Problem(small, layout, config, data, problems.acceleration_weights(layout, config, seen.fps))
    shared = np.array([0.2, 0.1, np.log(2.5)])
    frames = solving.start(small, layout, seen, 2000.0) + rng.normal(0, 0.01, (5, layout.frame_size))
    value, by_shared, by_frame = problem._chunks(problems.linearise, shared, frames)
    damping = 0.01
    shared_step, frame_step = problem._solve(value, by_shared, by_frame, shared, frames, damping, False)

    count, size = frames.shape
    rows = [np.zeros((0, 3 + count * size))]
    residuals = [np.zeros(0)]
    for frame in range(count):
        block = np.zeros((value.shape[1], 3 + count * size))
        block[:, :3], block[:, 3 + frame * size : 3 + (frame + 1) * size] = by_shared[frame], by_frame[frame]
        rows.append(block)
        residuals.append(value[frame])
    measured = np.concatenate(rows)
    corner = measured[:, :3].T @ measured[:, :3] + np.diag(problem._shared_spread**-2.0)
    prior = np.zeros((3, 3 + count * size))
    prior[:, :3] = np.diag(1 / problem._shared_spread)
    operator = np.kron(np.diff(np.eye(count), 2, axis=0), np.diag(problem._smooth))
    smooth = np.concatenate([np.zeros((len(operator), 3)), operator], axis=1)
    jacobian = np.concatenate([measured, prior, smooth])
    residual = np.concatenate([*residuals, problem._shared_prior(shared), operator @ frames.reshape(-1)])
    normal = jacobian.T @ jacobian
    diagonal = np.diag(measured.T @ measured)[3:]
    normal += np.diag(np.concatenate([damping * np.diag(corner), damping * (diagonal + 1)]))
    expected = -np.linalg.solve(normal, jacobian.T @ residual)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(shared_step, expected[:3], atol=1e-6 * scale)
    np.testing.assert_allclose(frame_step.reshape(-1), expected[3:], atol=1e-6 * scale)


def test_derivatives_against_finite_differences():
    head = make_flame(vertices=300)
    layout = problems.Layout(2, 4, True, False)
    seen = Landmarks(np.random.default_rng(0).uniform(200, 400, (1, 68, 2)), np.full((1, 2, 2), np.nan), SIZE)
    small, data = problems.landmark_rig(head), observations(seen, 30.0 / seen.box_size)
    problem = problems.Problem(small, layout, SolveConfig(), data, None)
    shared, frames = np.array([0.2, 0.1, np.log(2.5)]), np.zeros((1, layout.frame_size))
    frames[0, :6] = [0.1, -0.2, 0.05, 0.01, 0.02, -1.3]
    _, by_shared, by_frame = problem._chunks(problems.linearise, shared, frames)
    for index in (0, 4, 7, 10, 14):
        step = np.zeros_like(frames)
        step[0, index] = 1e-3
        numeric = (
            problem._chunks(problems.values, shared, frames + step)
            - problem._chunks(problems.values, shared, frames - step)
        ) / 2e-3
        np.testing.assert_allclose(by_frame[0, :, index], numeric[0], atol=0.02 * np.abs(numeric).max() + 1e-2)
    assert jax.tree.all(jax.tree.map(np.isfinite, [by_shared.sum(), by_frame.sum()]))


def test_what_hardly_anybody_does_for_a_photo_is_who_they_are(builtin):
    """A face that looks as if it sneered and puffed its cheeks: with photos' prior its identity does, and it smiles."""
    shape = np.random.default_rng(5).normal(0, 0.5, builtin.shape_count).astype(np.float32)
    looks = {
        "noseSneerLeft": 0.3,
        "noseSneerRight": 0.3,
        "cheekPuff": 0.4,
        "mouthSmileLeft": 0.5,
        "mouthSmileRight": 0.5,
    }
    seen = observe(builtin, moving(builtin, [[0.05, 0.1, 0.0]], looks), shape)
    sneers, smiles = (
        [builtin.expression_names.index(name) for name in looks if name.startswith("mouth") == mouth]
        for mouth in (False, True)
    )
    found = [solving.solve_photos(builtin, [seen], SolveConfig(rare=rare), FOCAL)[0] for rare in (0.35, RARELY)]
    sneer, smile = ([float(one.motion.expression[0, chosen].mean()) for one in found] for chosen in (sneers, smiles))
    assert sneer[1] < 0.02 and sneer[0] > 0.1 and min(smile) > 0.3, (sneer, smile)
    assert max(float(one.error[0]) for one in found) < 0.01


def test_photos_of_one_person_share_an_identity(builtin):
    """Three photos of other sizes, lenses, poses and expressions: one shape, and each its own camera and pose."""
    shape = np.random.default_rng(2).normal(0, 0.8, builtin.shape_count).astype(np.float32)
    poses = [
        ([0.0, 0.05, 0.0], (800, 600), 2100.0),
        ([0.1, 0.5, 0.0], (480, 640), 1500.0),
        ([0.0, -0.6, 0.1], (1200, 900), 3600.0),
    ]
    seen, motions = [], []
    for index, (rotation, size, focal) in enumerate(poses):
        motion = moving(builtin, [rotation], {"jawOpen": 0.2 * index})
        camera = Camera(UP, *(np.float64(value) for value in (focal, focal, size[1] / 2, size[0] / 2)))
        vertices = np.asarray(skin(builtin, motion, shape), np.float64)
        points = project(camera, np.asarray(landmarks(builtin, vertices), np.float64))[0]
        seen.append(Landmarks(points, np.full((1, 2, 2), np.nan), size))
        motions.append(motion)
    found = solving.solve_photos(builtin, seen, SolveConfig())
    for one, motion in zip(found, motions):
        np.testing.assert_array_equal(one.shape, found[0].shape)
        assert one.error[0] < 0.01
        assert degrees_between(one.motion.rotation[0], motion.rotation[0]) < 3
    assert found[0].camera.cx == 300 and found[1].camera.cx == 320
    # the shape is nearer to the truth than what one photo tells
    alone = solve(builtin, seen[0], SolveConfig())
    surface = lambda coefficients: np.asarray(builtin.shape_basis).transpose(1, 2, 0) @ (coefficients - shape)  # noqa: E731
    face = np.unique(np.asarray(builtin.faces)[np.asarray(builtin.landmark_faces)])
    error = [np.linalg.norm(surface(one.shape)[face], axis=-1).mean() for one in (found[0], alone)]
    assert error[0] < 0.8 * error[1]
