"""The one skinning function of every head: blendshapes, pose correctives, joints, linear blend skinning.

The order of operations is SMPL's (Loper et al. 2015) as FLAME uses it (Li et al. 2017): identity and expression
offsets, pose correctives on flattened R - I, then linear blend skinning about rest joints. The head's own rotation and
translation come last and act on the whole skinned head: x_world = R(rotation) x + translation, so the root joint stays
at rest.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mvp4d.core.errors import UserError
from mvp4d.core.heads.model import HeadModel
from mvp4d.core.heads.motion import Motion
from mvp4d.core.rotation import array_namespace, compose, float32, rotate, rotation_matrix

Array = Any
__all__ = [
    "expression_offsets",
    "joint_rotations",
    "joint_transforms",
    "landmarks",
    "neutral",
    "place_in_world",
    "rotation_matrix",
    "skin",
    "skin_in_head_space",
]


def skin(head: HeadModel, motion: Motion, shape: Array | None = None) -> Array:
    """World vertices of a moving head: numpy of numpy arrays, else compiled and differentiable in everything.

    Args:
      head: any HeadModel.
      motion: F frames. It may carry fewer expression coefficients than the head (the rest are zero), never more.
      shape: [S'] identity coefficients, S' <= S; none means the head's own neutral.

    Returns:
      [F, N, 3] float32, metres, world axes (y up, z towards the viewer of a frontal face).
    """
    return place_in_world(motion, skin_in_head_space(head, motion, shape))


def skin_in_head_space(head: HeadModel, motion: Motion, shape: Array | None = None) -> Array:
    """[F, N, 3] as `skin`, before the head's own rotation and translation."""
    _check(head, motion, shape)
    given = (head, _arrays(motion), shape)
    return _skin(*given) if array_namespace(*jax.tree.leaves(given)) is np else _compiled_skin(*given)


def place_in_world(motion: Motion, vertices: Array) -> Array:
    """[F, N, 3] world vertices from head-space vertices [F, N, 3]: R(rotation) x + translation."""
    given = (motion.rotation, motion.translation, vertices)
    return _place(*given) if array_namespace(*given) is np else _compiled_place(*map(jnp.asarray, given))


def neutral(head: HeadModel, shape: Array | None = None) -> Array:
    """[N, 3] vertices at rest, in head space: template plus identity. Pose correctives vanish there."""
    template = float32(head.template)
    return template if shape is None else template + _of_shape(shape, head.shape_basis)


def expression_offsets(head: HeadModel, motion: Motion, shape: Array | None = None) -> Array:
    """[F, N, 3] expressive minus neutral in head space, joint rotations included: what the expression map draws."""
    return skin_in_head_space(head, motion, shape) - neutral(head, shape)


def landmarks(head: HeadModel, vertices: Array) -> Array:
    """[..., K, 3] landmark points on the surface of `vertices` [..., N, 3]."""
    corners = jnp.asarray(head.faces)[jnp.asarray(head.landmark_faces)]  # [K, 3]
    points = jnp.asarray(vertices)[..., corners, :]  # [..., K, 3, 3]
    return jnp.einsum("kc,...kcd->...kd", jnp.asarray(head.landmark_barycentric, jnp.float32), points)


def joint_transforms(head: HeadModel, joints: Array, rotations: Array) -> tuple[Array, Array]:
    """Rest-relative transforms of joints: x -> R x + t for points that follow each joint rigidly.

    Args:
      joints: [F, J, 3] rest positions.
      rotations: [F, J, 3, 3] relative to the parent.

    Returns:
      rotations [F, J, 3, 3], translations [F, J, 3], both in head space.
    """
    chained_rotations, positions = [], []
    for index, parent in enumerate(head.joint_parents):
        if parent < 0:
            chained_rotations.append(rotations[:, index])
            positions.append(joints[:, index])
            continue
        offset = joints[:, index] - joints[:, parent]
        chained_rotations.append(compose(chained_rotations[parent], rotations[:, index]))
        positions.append(rotate(chained_rotations[parent], offset) + positions[parent])
    xp = array_namespace(joints, rotations)
    chained = xp.stack(chained_rotations, axis=1)
    return chained, xp.stack(positions, axis=1) - rotate(chained, joints)


def joint_rotations(head: HeadModel, motion_arrays: dict[str, Array]) -> Array:
    """[F, J, 3, 3] rotation of every joint by its role; the root stays at rest: the head rotation acts on the world."""
    neck, jaw, eyes = (float32(motion_arrays[key]) for key in ("neck", "jaw", "eyes"))
    xp = array_namespace(neck, jaw, eyes)
    by_role = {"root": xp.zeros_like(neck), "neck": neck, "jaw": jaw, "left_eye": eyes[:, 0], "right_eye": eyes[:, 1]}
    return rotation_matrix(xp.stack([by_role[name] for name in head.joint_names], axis=1))


def _arrays(motion: Motion) -> dict[str, Array]:
    return {name: getattr(motion, name) for name in ("expression", "neck", "jaw", "eyes")}


def _check(head: HeadModel, motion: Motion, shape: Array | None) -> None:
    given = jnp.shape(motion.expression)[-1]
    if given > head.expression_count:
        raise UserError(
            "expression",
            f"{given} coefficients, head '{head.name}' has {head.expression_count}",
            "use motion made for this head",
        )
    if shape is not None and jnp.shape(shape)[-1] > head.shape_count:
        raise UserError("shape", f"{jnp.shape(shape)[-1]} coefficients, head '{head.name}' has {head.shape_count}")


def _place(rotation: Array, translation: Array, vertices: Array) -> Array:
    return rotate(rotation_matrix(float32(rotation))[:, None], vertices) + float32(translation)[:, None]


def _skin(head: HeadModel, motion: dict[str, Array], shape: Array | None) -> Array:
    expression = float32(motion["expression"])  # [F, E]
    frames, count = expression.shape
    vertices = neutral(head, shape) + _blend(expression, head.expression_basis[:count])  # [F, N, 3]
    joints = float32(head.joints)
    if shape is not None:
        joints = joints + _of_shape(shape, head.joint_shape_basis)
    joints = joints + _blend(expression, head.joint_expression_basis[:count])  # [F, J, 3]

    rotations = joint_rotations(head, motion)  # [F, J, 3, 3]
    if head.pose_basis.shape[0]:
        features = (rotations[:, 1:] - np.eye(3, dtype=np.float32)).reshape(frames, -1)  # [F, (J-1)*9]
        vertices = vertices + _blend(features, head.pose_basis)

    matrices, offsets = joint_transforms(head, joints, rotations)
    xp = array_namespace(matrices, offsets)
    transforms = xp.concatenate([matrices, offsets[..., None]], axis=-1).reshape(frames, -1, 12)  # [F, J, 12]
    blended = _einsum("nj,fjk->fnk", float32(head.skin_weights), transforms)  # [F, N, 12]
    blended = blended.reshape(*blended.shape[:2], 3, 4)
    return rotate(blended[..., :3], vertices) + blended[..., 3]


_compiled_place, _compiled_skin = jax.jit(_place), jax.jit(_skin)


def _of_shape(shape: Array, basis: Array) -> Array:
    """Identity coefficients [S'] by the first S' of a basis [S, N, 3] -> [N, 3]."""
    shape = float32(shape)
    return array_namespace(shape, basis).tensordot(shape, float32(basis[: shape.shape[0]]), 1)


def _blend(coefficients: Array, basis: Array) -> Array:
    """[F, K] x [K, N, 3] -> [F, N, 3] in full float32 on every device."""
    flat = float32(basis).reshape(basis.shape[0], -1)
    return _einsum("fk,kn->fn", coefficients, flat).reshape(-1, *basis.shape[1:])


def _einsum(subscripts: str, first: Array, second: Array) -> Array:
    if array_namespace(first, second) is np:
        return np.einsum(subscripts, first, second, optimize=True)
    return jnp.einsum(subscripts, first, second, precision="highest")
