"""Rotations against scipy; skinning against a plain numpy second implementation on a made-up head."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from mvp4d.core.errors import UserError
from mvp4d.core.heads.check import check_head
from mvp4d.core.heads.model import HeadModel
from mvp4d.core.heads.motion import Motion
from mvp4d.core.heads.transfer import carry_pose, eye_centre
from mvp4d.core.rotation import compose, rotate, rotation_matrix
from mvp4d_jax.heads.skinning import place_in_world, skin, skin_in_head_space

JOINTS = ("root", "neck", "jaw", "left_eye", "right_eye")


def toy_head(vertices=60, seed=0, shapes=3, expressions=4):
    rng = np.random.default_rng(seed)

    def small(*size):
        return rng.normal(0, 0.1, size).astype(np.float32)

    faces = rng.permuted(np.tile(np.arange(vertices), (40, 1)), axis=1)[:, :3].astype(np.int32)
    template = small(vertices, 3)
    return HeadModel(
        "toy",
        template,
        template,
        faces,
        rng.uniform(size=(vertices, 2)).astype(np.float32),
        faces,
        np.zeros(len(faces), np.uint8),
        small(shapes, vertices, 3),
        small(expressions, vertices, 3),
        small(36, vertices, 3),
        small(5, 3),
        small(shapes, 5, 3),
        small(expressions, 5, 3),
        rng.dirichlet(np.ones(5), vertices).astype(np.float32),
        np.arange(5, dtype=np.int32),
        np.full((5, 3), 1 / 3, np.float32),
        tuple(f"s{i}" for i in range(shapes)),
        tuple(f"e{i}" for i in range(expressions)),
        JOINTS,
        (-1, 0, 1, 1, 1),
        ("skin",),
    )


def toy_motion(frames=3, expressions=4, seed=1):
    rng = np.random.default_rng(seed)
    rest = [rng.normal(0, 0.4, (frames, 3)).astype(np.float32) for _ in range(4)]
    return Motion(
        rng.normal(0, 1, (frames, expressions)).astype(np.float32),
        *rest,
        rng.normal(0, 0.4, (frames, 2, 3)).astype(np.float32),
    )


def numpy_skin(head, motion, shape, frame):
    """4x4 matrices, one vertex at a time: nothing in common with the implementation but the definition."""
    coefficients = motion.expression[frame]
    rest = (
        head.template + np.tensordot(shape, head.shape_basis, 1) + np.tensordot(coefficients, head.expression_basis, 1)
    )
    joints = (
        head.joints
        + np.tensordot(shape, head.joint_shape_basis, 1)
        + np.tensordot(coefficients, head.joint_expression_basis, 1)
    )
    angles = [np.zeros(3), motion.neck[frame], motion.jaw[frame], *motion.eyes[frame]]
    rotations = [Rotation.from_rotvec(angle).as_matrix() for angle in angles]
    features = np.concatenate([(rotation - np.eye(3)).reshape(-1) for rotation in rotations[1:]])
    rest = rest + np.tensordot(features, head.pose_basis, 1)
    matrices = []
    for index, parent in enumerate(head.joint_parents):
        about = np.eye(4)
        about[:3, :3] = rotations[index]
        about[:3, 3] = joints[index] - rotations[index] @ joints[index]
        matrices.append(about if parent < 0 else matrices[parent] @ about)
    world = np.eye(4)
    world[:3, :3] = Rotation.from_rotvec(motion.rotation[frame]).as_matrix()
    world[:3, 3] = motion.translation[frame]
    result = []
    for vertex, weights in zip(rest, head.skin_weights):
        blended = sum(weight * matrix for weight, matrix in zip(weights, matrices))
        result.append((world @ blended @ np.append(vertex, 1))[:3])
    return np.array(result)


def test_rotation_matrix_equals_scipy_at_every_size_of_angle():
    rng = np.random.default_rng(0)
    axes = rng.normal(size=(200, 3))
    axes /= np.linalg.norm(axes, axis=1, keepdims=True)
    angles = np.concatenate([[0.0, 1e-12, 1e-5, 9.9e-5, 1.01e-4, 1e-3, np.pi, 2 * np.pi], rng.uniform(0, 7, 192)])
    vectors = (axes * angles[:, None]).astype(np.float32)
    expected = Rotation.from_rotvec(vectors.astype(np.float64)).as_matrix()
    np.testing.assert_allclose(rotation_matrix(vectors), expected, atol=1e-6)


def test_rotation_gradient_at_zero_is_the_cross_product():
    jacobian = jax.jacobian(rotation_matrix)(jnp.zeros(3))  # [3, 3, 3]
    expected = np.zeros((3, 3, 3))
    for i, j, k in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
        expected[k, j, i], expected[j, k, i] = 1, -1
    np.testing.assert_allclose(jacobian, expected, atol=1e-7)


@pytest.mark.parametrize("vertices", [10, 30_000])
def test_rotate_and_place_at_sizes_beyond_one_parallel_task(vertices):
    rng = np.random.default_rng(3)
    points = rng.normal(size=(1, vertices, 3)).astype(np.float32)
    motion = toy_motion(1)
    matrix = Rotation.from_rotvec(motion.rotation[0]).as_matrix()
    expected = points @ matrix.T + motion.translation[:, None]
    np.testing.assert_allclose(place_in_world(motion, points), expected, atol=1e-5)
    np.testing.assert_allclose(rotate(matrix, points), points @ matrix.T, atol=1e-5)
    other = Rotation.from_rotvec([0.3, -0.2, 0.9]).as_matrix()
    np.testing.assert_allclose(compose(jnp.asarray(matrix), jnp.asarray(other)), matrix @ other, atol=1e-6)


def test_skinning_equals_a_plain_implementation():
    head, motion, shape = toy_head(), toy_motion(), np.array([0.5, -1.0, 2.0], np.float32)
    ours = np.asarray(skin(head, motion, shape))
    for frame in range(3):
        np.testing.assert_allclose(ours[frame], numpy_skin(head, motion, shape, frame), atol=2e-6)
    np.testing.assert_allclose(skin(head.personalise(shape), motion), ours, atol=2e-6)
    # Fewer coefficients than the head has mean zeros.
    short = dataclasses.replace(motion, expression=motion.expression[:, :2])
    padded = dataclasses.replace(motion, expression=motion.expression * [1, 1, 0, 0])
    np.testing.assert_allclose(skin(head, short, shape[:1]), skin(head, padded, shape * [1, 0, 0]), atol=1e-6)


def test_skinning_works_under_vmap_and_differentiates():
    head, motion = toy_head(), toy_motion(4)
    batched = jax.tree.map(lambda a: jnp.asarray(a).reshape(2, 2, *a.shape[1:]), motion)
    stacked = jax.vmap(lambda m: skin(head, m))(batched)
    np.testing.assert_allclose(stacked.reshape(4, -1, 3), skin(head, motion), atol=1e-6)

    def height(neck):
        return skin_in_head_space(head, dataclasses.replace(motion, neck=neck))[..., 1].sum()

    neck = jnp.zeros((4, 3))
    gradient = np.asarray(jax.grad(height)(neck))
    step = np.zeros((4, 3), np.float32)
    step[2, 0] = 1e-2
    numeric = (height(neck + step) - height(neck - step)) / 2e-2
    assert np.isfinite(gradient).all()
    np.testing.assert_allclose(gradient[2, 0], numeric, rtol=1e-2)


def test_too_many_coefficients_are_refused():
    head = toy_head()
    with pytest.raises(UserError, match="expression: 5 coefficients"):
        skin(head, toy_motion(expressions=5))
    with pytest.raises(UserError, match="shape: 4 coefficients"):
        skin(head, toy_motion(), np.zeros(4))


def test_carry_pose_keeps_the_eyes():
    head, motion = toy_head(), toy_motion()
    source = np.array([0.1, -0.2, 0.3])
    carried = carry_pose(motion, source, head)
    before = np.asarray(place_in_world(motion, np.tile(source, (3, 1, 1)).astype(np.float32)))
    after = np.asarray(place_in_world(carried, np.tile(eye_centre(head), (3, 1, 1))))
    np.testing.assert_allclose(before, after, atol=1e-6)


def test_saved_heads_load_equal_and_damage_is_named(tmp_path):
    head = toy_head()
    head.save(tmp_path / "head.npz")
    loaded = HeadModel.load(tmp_path / "head.npz")
    for field in dataclasses.fields(HeadModel):
        value = getattr(head, field.name)
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(getattr(loaded, field.name), value)
        else:
            assert getattr(loaded, field.name) == value
    nan = head.template.copy()
    nan[3, 1] = np.nan
    damages = {
        "template": nan,
        "faces": head.faces + 60,
        "skin_weights": head.skin_weights * 2,
        "expression_basis": head.expression_basis[:, :-1],
        "joint_parents": (-1, 0, 3, 1, 1),
        "joint_names": ("root", "neck", "jaw", "tail", "right_eye"),
        "landmark_faces": head.landmark_faces + 99,
        "pose_basis": head.pose_basis[:9],
        "face_uvs": head.face_uvs.astype(np.float32),
        "uv": head.uv[:, :1],
    }
    for name, value in damages.items():
        with pytest.raises(UserError) as raised:
            check_head(dataclasses.replace(head, **{name: value}), "rig.npz")
        message = str(raised.value)
        assert message.startswith("rig.npz: ") and (name in message or "joint" in message), (name, message)
