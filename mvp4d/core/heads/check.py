"""Checks the arrays of a HeadModel against each other, so that a damaged or foreign rig ends in one clear line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mvp4d.core.errors import UserError

if TYPE_CHECKING:
    from mvp4d.core.heads.model import HeadModel

# Every head speaks of its joints by these names.
JOINT_ROLES = ("root", "neck", "jaw", "left_eye", "right_eye")
HEAD_METRES = (0.03, 3.0)  # what a head may span, from a doll's to one with a bust
_FIX = "read the head from its source again"


def check_head(head: HeadModel, where: object) -> None:
    """Raises UserError naming `where` and the array at fault; returns nothing when the head is sound."""
    template = np.asarray(head.template)
    if template.ndim != 2 or template.shape[-1] != 3 or template.shape[0] == 0:
        raise UserError(where, f"template has shape {template.shape}, expected [N, 3]", _FIX)
    vertices, triangles = template.shape[0], _length(head.faces, where, "faces")
    uvs, joints = _length(head.uv, where, "uv"), len(head.joint_names)
    shapes, expressions = len(head.shape_names), len(head.expression_names)
    marks = _length(head.landmark_faces, where, "landmark_faces")
    pose = np.shape(head.pose_basis)[0] if np.ndim(head.pose_basis) else -1
    if pose not in (0, (joints - 1) * 9):
        raise UserError(where, f"pose_basis has {pose} rows, expected 0 or {(joints - 1) * 9} for its joints", _FIX)
    expected = {
        "canonical": (vertices, 3),
        "template": (vertices, 3),
        "faces": (triangles, 3),
        "uv": (uvs, 2),
        "face_uvs": (triangles, 3),
        "face_parts": (triangles,),
        "shape_basis": (shapes, vertices, 3),
        "expression_basis": (expressions, vertices, 3),
        "pose_basis": (pose, vertices, 3),
        "joints": (joints, 3),
        "joint_shape_basis": (shapes, joints, 3),
        "joint_expression_basis": (expressions, joints, 3),
        "skin_weights": (vertices, joints),
        "landmark_faces": (marks,),
        "landmark_barycentric": (marks, 3),
    }
    for name, shape in expected.items():
        _check_array(np.asarray(getattr(head, name)), shape, where, name)
    for name, limit in (
        ("faces", vertices),
        ("face_uvs", uvs),
        ("face_parts", len(head.part_names)),
        ("landmark_faces", triangles),
    ):
        _check_indices(np.asarray(getattr(head, name)), limit, where, name)
    _check_joints(head, where)
    check_span(template, where)


def check_span(template: np.ndarray, where: object) -> None:
    """Refuses finite vertices [N, 3] that span what no head does: most likely another unit than metres."""
    span = float(np.ptp(np.asarray(template, np.float64), axis=0).max())
    if not HEAD_METRES[0] <= span <= HEAD_METRES[1]:
        raise UserError(
            where,
            f"'template' spans {span:.3g} m",
            "a head spans about 0.3 m: is it in "
            f"{'millimetres' if span > 30 else 'centimetres' if span > 3 else 'another unit'}?",
        )


def _length(array: Any, where: object, name: str) -> int:
    if np.ndim(array) == 0:
        raise UserError(where, f"{name} is a single value, expected an array", _FIX)
    return np.shape(array)[0]


def _check_array(array: np.ndarray, shape: tuple[int, ...], where: object, name: str) -> None:
    if array.shape != shape:
        raise UserError(where, f"{name} has shape {array.shape}, expected {shape}", _FIX)
    if array.dtype.kind not in "fiu":
        raise UserError(where, f"{name} has type {array.dtype}, expected numbers", _FIX)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise UserError(where, f"{name} holds NaN or infinite values", _FIX)


def _check_indices(array: np.ndarray, limit: int, where: object, name: str) -> None:
    if array.dtype.kind not in "iu":
        raise UserError(where, f"{name} has type {array.dtype}, expected integers", _FIX)
    if array.size and (array.min() < 0 or array.max() >= limit):
        raise UserError(where, f"{name} points outside 0..{limit - 1}", _FIX)


def _check_joints(head: HeadModel, where: object) -> None:
    names, parents = head.joint_names, head.joint_parents
    if not names or len(parents) != len(names):
        raise UserError(where, f"{len(names)} joint names and {len(parents)} joint parents", _FIX)
    unknown = [name for name in names if name not in JOINT_ROLES]
    if unknown or len(set(names)) != len(names):
        raise UserError(where, f"joint names {', '.join(names)} are not distinct members of {', '.join(JOINT_ROLES)}")
    if any(parent >= index or parent < -1 for index, parent in enumerate(parents)):
        raise UserError(where, "a joint comes before its parent", _FIX)
    weights = np.asarray(head.skin_weights)
    if weights.min() < -1e-4 or np.abs(weights.sum(axis=1) - 1).max() > 1e-3:
        raise UserError(where, "skin_weights are negative or do not sum to one", _FIX)
