"""The UV remesh: one vertex per covered pixel of the UV square, as a constant gather from the head's vertices."""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy.spatial import cKDTree

from mvp4d.core.errors import UserError
from mvp4d.core.heads.model import EYES, INTERIOR, HeadModel
from mvp4d.core.heads.regions import parts_named

MAX_STRETCH = 2.5  # a grid edge that an expression lengthens by more, and
MIN_STRETCH = 0.004  # by more than this many metres, spans a gap (the lips, the lids) and is not built
MAX_EDGE = 4.0  # in units of the median edge: longer ones span a seam of the UV chart
ACTIVE_OFFSET = 0.001  # metres an expression must move a point for it to be fully deformable
JAW_OPEN = 0.35  # radians by which a jaw is turned to tell what moves with it
MOUTH = ("teeth", "tongue", "gum")  # parts that move as one, and so does each eye
BESIDE_EYES = ("lid", "lash", "brow")  # which are none, whatever else their names hold
LEAD_REACH = 0.008  # metres around such a part within which the skin leads it
LEAD_FROM = 0.5  # of how far the net may act: less leads nothing


@dataclasses.dataclass(frozen=True)
class UVMesh:
    """P vertices and T triangles of the remesh on a square of R x R pixels.

    Attributes:
      resolution: R.
      corners: [P, 3] head vertices, of the type of the head's faces, and weights [P, 3] float32: a remesh vertex is
        their weighted sum.
      pixels: [P] int64 row * R + column; row 0 is v = 0.
      faces: [T, 3] int64 into P, counter-clockwise seen from outside.
      deformable: [P] float32 in [0, 1], how far the deformation net may act there.
      part: [P] the head's part, of the type of its `face_parts`.
      follows: [P] int64 the rigid group that a vertex belongs to, from 1 on; 0: none. A group moves by the mean of what
        the net moves the vertices around it, so that lids stay on eyes and lips on teeth.
      leads: [P] int64 the group that a vertex around it leads; 0: none.
    """

    resolution: int
    corners: np.ndarray
    weights: np.ndarray
    pixels: np.ndarray
    faces: np.ndarray
    deformable: np.ndarray
    part: np.ndarray
    follows: np.ndarray
    leads: np.ndarray


def remesh(head: HeadModel, resolution: int) -> UVMesh:
    """Rasterises the head's UV chart at pixel centres and joins neighbouring pixels into triangles.

    Raises:
      UserError: the head's UV chart covers hardly any pixel.
    """
    from mvp4d_export.cover import first_triangle  # numba, which avatars that are drawn on a GPU do without

    owner, weights = first_triangle(head.uv[head.face_uvs] * resolution, resolution)  # [R R], [R R, 3]
    pixels = np.flatnonzero(owner >= 0)
    if len(pixels) < 32:
        raise UserError("head rig", f"its UV chart covers {len(pixels)} of {resolution}^2 pixels", "check its uv")
    corners, weights = head.faces[owner[pixels]], weights[pixels].astype(np.float32)
    part = head.face_parts[owner[pixels]]

    def gather(vertices: np.ndarray) -> np.ndarray:
        return (vertices[..., corners, :] * weights[:, :, None]).sum(-2)

    neutral = gather(head.template)
    faces = _grid_triangles(pixels, resolution)
    faces = faces[(part[faces] == part[faces][:, :1]).all(1)]
    faces = faces[_compact(neutral, faces)]
    poses = [gather(head.template + offset) for offset in head.expression_basis]
    if "jaw" in head.joint_names:
        poses.append(_open_jaw(head, gather, neutral))
    faces = faces[_unstretched(neutral, poses, faces)]
    faces = _outward(neutral, faces, _mesh_normals(head)[owner[pixels]])
    follows = _groups(head, neutral, part)
    deformable = np.where(follows > 0, 0, _activity(neutral, poses)).astype(np.float32)
    leads = _leads(neutral, follows, (deformable > LEAD_FROM) & ~parts_named(head.part_names, INTERIOR)[part])
    return UVMesh(resolution, corners, weights, pixels, faces, deformable, part, follows, leads)


def _groups(head: HeadModel, neutral: np.ndarray, part: np.ndarray) -> np.ndarray:
    """[P] the rigid group of each vertex: 1 and 2 the eyes, 3 what is hard or fleshy in the mouth, 0 none."""
    eye, side = (
        (parts_named(head.part_names, EYES) & ~parts_named(head.part_names, BESIDE_EYES))[part],
        neutral[:, 0] > 0,
    )
    return np.select([eye & ~side, eye & side, parts_named(head.part_names, MOUTH)[part]], [1, 2, 3], 0)


def _leads(neutral: np.ndarray, follows: np.ndarray, able: np.ndarray) -> np.ndarray:
    """[P] the nearest group within reach of those that are able to lead."""
    led = np.flatnonzero(follows)
    leads = np.zeros(len(neutral), np.int64)
    if len(led) and able.any():
        away, nearest = cKDTree(neutral[led]).query(neutral[able])
        leads[able] = np.where(away < LEAD_REACH, follows[led][nearest], 0)
    return leads


def _grid_triangles(pixels: np.ndarray, resolution: int) -> np.ndarray:
    """Two triangles per square of four covered pixels, one where three are covered."""
    index = np.full((resolution, resolution), -1)
    index.reshape(-1)[pixels] = np.arange(len(pixels))
    a, b, c, d = index[:-1, :-1], index[:-1, 1:], index[1:, 1:], index[1:, :-1]
    squares = np.stack([a, b, c, d], -1).reshape(-1, 4)
    covered = (squares >= 0).sum(1)
    full = squares[covered == 4]
    three = squares[covered == 3]
    corner = three[three >= 0].reshape(-1, 3)
    return np.concatenate([full[:, [0, 1, 2]], full[:, [0, 2, 3]], corner])


def _edges(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """[T, 3] edge lengths."""
    corners = vertices[faces]
    return np.linalg.norm(corners - np.roll(corners, 1, 1), axis=-1)


def _compact(neutral: np.ndarray, faces: np.ndarray) -> np.ndarray:
    longest = _edges(neutral, faces).max(1)
    return (longest < MAX_EDGE * np.median(longest)) & (_edges(neutral, faces).min(1) > 1e-6)


def _unstretched(neutral: np.ndarray, poses: list[np.ndarray], faces: np.ndarray) -> np.ndarray:
    rest = _edges(neutral, faces)
    keep = np.ones(len(faces), bool)
    for pose in poses:
        posed = _edges(pose, faces)
        keep &= ~((posed > MAX_STRETCH * rest) & (posed - rest > MIN_STRETCH)).any(1)
    return keep


def _open_jaw(head: HeadModel, gather, neutral: np.ndarray) -> np.ndarray:
    """Remesh vertices with the jaw turned about the x axis (either way tells the lips apart)."""
    jaw = head.joint_names.index("jaw")
    weight = gather(head.skin_weights)[:, jaw, None]
    turn = np.array([[1, 0, 0], [0, np.cos(JAW_OPEN), -np.sin(JAW_OPEN)], [0, np.sin(JAW_OPEN), np.cos(JAW_OPEN)]])
    turned = (neutral - head.joints[jaw]) @ turn.T + head.joints[jaw]
    return neutral + weight * (turned - neutral)


def _activity(neutral: np.ndarray, poses: list[np.ndarray]) -> np.ndarray:
    moved = np.zeros(len(neutral))
    for pose in poses:
        moved = np.maximum(moved, np.linalg.norm(pose - neutral, axis=1))
    return np.clip(moved / ACTIVE_OFFSET, 0, 1)


def _mesh_normals(head: HeadModel) -> np.ndarray:
    a, b, c = (head.template[head.faces[:, k]] for k in range(3))
    return np.cross(b - a, c - a)


def _outward(neutral: np.ndarray, faces: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """Turns triangles whose winding disagrees with the head's own (charts may be mirrored)."""
    a, b, c = (neutral[faces[:, k]] for k in range(3))
    wrong = (np.cross(b - a, c - a) * normals[faces].sum(1)).sum(1) < 0
    faces = faces.copy()
    faces[wrong] = faces[wrong][:, [0, 2, 1]]
    return faces
