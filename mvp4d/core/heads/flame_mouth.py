"""Teeth and mouth cavities for FLAME, which has neither.

Vertex counts, order and placement are those of the systems that users come from, so that their data fit: teeth as in
GaussianAvatars and VHAP (5143 vertices), mouth as in CAP4D (5223) and its avatar (5423).
"""

from __future__ import annotations

import dataclasses

import numpy as np

from mvp4d.core.errors import UserError
from mvp4d.core.heads.model import HeadModel

# Rings of FLAME vertices around the lips, from the right corner to the left one (GaussianAvatars' lip_outside_ring).
_UPPER_LIP = [1713, 1715, 1716, 1735, 1696, 1694, 1657, 3543, 2774, 2811, 2813, 2850, 2833, 2832, 2830]
_LOWER_LIP = [1576, 1577, 1773, 1774, 1795, 1802, 1865, 3503, 2948, 2905, 2898, 2881, 2880, 2713, 2712]
_TEETH = len(_UPPER_LIP)
# Rows of 15 vertices in GaussianAvatars' order, each (jaw, at the root, at the back).
_ROWS = (
    ("upper", True, False),
    ("lower", True, False),
    ("upper", False, False),
    ("lower", False, False),
    ("upper", True, True),
    ("upper", False, True),
    ("lower", True, True),
    ("lower", False, True),
)
_ROW_V = (3, 2, 0, 1, 3, 4, 6, 5)  # of seven lines near the top of FLAME's texture, where nothing else lies
_STEPS = 20  # of CAP4D's mouth sphere, around and along
_LIP_VERTEX = 3533  # between the lips
# Centres of free spots of FLAME's texture, clear of the teeth; a disc of radius 0.035 fits each.
_DISC_UV = {"mouth_inside": (0.821, 0.959), "jaw_inside": (0.177, 0.959)}
_LIP_GAP = 0.005  # metres from the lip to the half-sphere's rim


def add_teeth(head: HeadModel) -> HeadModel:
    """Adds two rows of teeth, 120 vertices: the upper ones move with the neck joint, the lower ones with the jaw."""
    template = np.asarray(head.canonical, np.float64)
    upper, lower = template[_UPPER_LIP], template[_LOWER_LIP]
    gap = np.linalg.norm(upper - lower, axis=1).mean()
    middle = (upper + lower) / 2
    middle[:, 1] = middle[:, 1].mean()
    middle[:, 2] -= 1.5 * gap
    rows = []
    for jaw, root, back in _ROWS:
        sign = 1 if jaw == "upper" else -1
        rise = sign * (2.1 if root else 0.1)
        depth = (0.0 if jaw == "upper" else 0.4) + (1.0 if back else 0.0)
        rows.append(middle + gap * np.array([0.0, rise, -depth]))
    lip_shape = (np.asarray(head.shape_basis)[:, _UPPER_LIP] + np.asarray(head.shape_basis)[:, _LOWER_LIP]) / 2
    weights = np.zeros((8, _TEETH, len(head.joint_names)), np.float32)
    skull = head.joint_names.index("root" if head.joint_parents[1] < 0 else "neck")
    for row, (jaw, _, _) in enumerate(_ROWS):
        weights[row, :, skull if jaw == "upper" else head.joint_names.index("jaw")] = 1.0
    u = np.linspace(0.62, 0.38, _TEETH)
    v = np.linspace(1 - 0.0083, 1 - 0.0425, 7)[list(_ROW_V)]
    uv = np.stack([np.tile(u, 8), np.repeat(v, _TEETH)], axis=1)
    # Front, edge and back of each jaw as strips between two rows, seen from outside.
    strips = [(0, 2), (4, 5), (5, 2), (3, 1), (6, 7), (7, 3)]
    faces = np.concatenate([_strip(first * _TEETH, second * _TEETH) for first, second in strips])
    return _append(
        head,
        np.concatenate(rows),
        faces,
        uv,
        weights.reshape(-1, weights.shape[-1]),
        "teeth",
        np.tile(lip_shape, (1, 8, 1)),
        "+teeth",
    )


def add_mouth(head: HeadModel) -> HeadModel:
    """Adds CAP4D's static half-sphere between lips and jaw joint, 200 vertices."""
    weights = np.zeros((_STEPS * _STEPS // 2, len(head.joint_names)), np.float32)
    weights[:, head.joint_names.index("root" if head.joint_parents[1] < 0 else "neck")] = 1.0
    return _add_half_sphere(head, weights, "mouth_inside", "+mouth")


def add_lower_jaw(head: HeadModel, regressor: np.ndarray | None) -> HeadModel:
    """Adds the avatar's second half-sphere, 200 vertices, turning with the lower jaw.

    Args:
      head: FLAME without jaw: its mouth opens by expression, so that the jaw's angle has to be read from that.
      regressor: [E, 3] axis-angle of the jaw per expression coefficient (CAP4D's `jaw_regressor.npy`).
    """
    if regressor is None:
        raise UserError(
            "jaw_regressor.npy", "is needed for the lower jaw and not there", "put CAP4D's file beside the FLAME model"
        )
    if len(regressor) != head.expression_count:
        raise UserError(
            "jaw_regressor.npy",
            f"has {len(regressor)} rows for {head.expression_count} coefficients",
            "the lower jaw goes with FLAME 2023 without jaw",
        )
    weights = np.zeros((_STEPS * _STEPS // 2, len(head.joint_names)), np.float32)
    weights[:, head.joint_names.index("root" if head.joint_parents[1] < 0 else "neck")] = 1.0
    before = head.vertex_count
    head = _add_half_sphere(head, weights, "jaw_inside", "+jaw")
    # Expressions carry the rotation about the jaw joint to first order in the coefficients.
    jaw = np.asarray(head.joints)[head.joint_names.index("jaw")]
    arm = np.asarray(head.canonical)[before:] - jaw
    basis = np.asarray(head.expression_basis).copy()
    basis[:, before:] = np.cross(regressor[:, None].astype(np.float64), arm[None])
    return dataclasses.replace(head, expression_basis=basis.astype(np.float32))


def _strip(first: int, second: int) -> np.ndarray:
    """[28, 3] triangles between two rows of vertices that start at these indices."""
    a, c = np.arange(_TEETH - 1) + first, np.arange(_TEETH - 1) + second
    # The diagonal turns at the middle, so that the mesh is symmetric.
    left = np.stack([np.stack([a, a + 1, c + 1], 1), np.stack([a, c + 1, c], 1)], 1)
    right = np.stack([np.stack([a, a + 1, c], 1), np.stack([a + 1, c + 1, c], 1)], 1)
    half = (_TEETH - 1) // 2
    return np.concatenate([left[:half], right[half:]]).reshape(-1, 3)[:, ::-1]


def _half_sphere() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unit half-sphere in CAP4D's vertex order: vertices [200, 3], faces [340, 3], uv [200, 2] in a unit disc."""
    latitude = np.linspace(-np.pi / 2, np.pi / 2, _STEPS)[: _STEPS // 2]
    longitude = np.linspace(0, 2 * np.pi, _STEPS)
    latitude, longitude = (item.reshape(-1) for item in np.meshgrid(latitude, longitude, indexing="ij"))
    vertices = np.stack(
        [np.cos(latitude) * np.cos(longitude), -np.cos(latitude) * np.sin(longitude), -np.sin(latitude)], axis=1
    )
    faces = []
    for row in range(_STEPS // 2 - 1):
        for column in range(_STEPS):
            following = (column + 1) % _STEPS
            a, b = row * _STEPS + column, row * _STEPS + following
            c, d = a + _STEPS, b + _STEPS
            faces.append([a, d, c])
            if row > 0:
                faces.append([a, b, d])
    radius = 1 + latitude / (np.pi / 2)
    uv = np.stack([radius * np.cos(longitude), radius * np.sin(longitude)], axis=1)
    return vertices, np.array(faces), uv


def _add_half_sphere(head: HeadModel, weights: np.ndarray, part: str, suffix: str) -> HeadModel:
    vertices, faces, disc = _half_sphere()
    jaw_index = head.joint_names.index("jaw")
    # The placement follows the identity, whose effect on it is linearised: each shape mode moves lip and joint.
    lip, jaw = np.asarray(head.canonical, np.float64)[_LIP_VERTEX], np.asarray(head.joints, np.float64)[jaw_index]
    placed = _place_sphere(vertices, lip, jaw)
    step = 1e-3
    shapes = np.zeros((head.shape_count, *vertices.shape))
    for mode in range(head.shape_count):
        moved_lip = lip + step * np.asarray(head.shape_basis[mode][_LIP_VERTEX], np.float64)
        moved_jaw = jaw + step * np.asarray(head.joint_shape_basis[mode][jaw_index], np.float64)
        shapes[mode] = (_place_sphere(vertices, moved_lip, moved_jaw) - placed) / step
    uv = np.array(_DISC_UV[part]) + 0.035 * disc
    return _append(head, placed, faces, uv, weights, part, shapes.astype(np.float32), suffix)


def _place_sphere(vertices: np.ndarray, lip: np.ndarray, jaw: np.ndarray) -> np.ndarray:
    """Scales and turns the half-sphere: its opening behind the lips, a quarter of the way to the jaw joint deep."""
    offset = lip - jaw
    distance = np.linalg.norm(offset)
    forward = offset / distance
    side = np.cross([0.0, 1.0, 0.0], forward)
    side /= np.linalg.norm(side)
    frame = np.stack([side, np.cross(forward, side), forward], axis=1)
    return vertices @ frame.T * (0.25 * distance) + jaw + 0.75 * offset - _LIP_GAP * forward


def _append(
    head: HeadModel,
    vertices: np.ndarray,
    faces: np.ndarray,
    uv: np.ndarray,
    weights: np.ndarray,
    part: str,
    shape_basis: np.ndarray,
    suffix: str,
) -> HeadModel:
    """The head with one more piece of mesh that follows identity, joints and nothing else."""
    count, uv_count, added = head.vertex_count, len(head.uv), len(vertices)

    def grow(basis: np.ndarray, more: np.ndarray | None = None) -> np.ndarray:
        more = np.zeros((len(basis), added, 3), np.float32) if more is None else more
        return np.concatenate([basis, more], axis=1).astype(np.float32)

    points = vertices.astype(np.float32)
    return dataclasses.replace(
        head,
        name=head.name + suffix,
        canonical=np.concatenate([head.canonical, points]),
        template=np.concatenate([head.template, points]),
        faces=np.concatenate([head.faces, faces + count]).astype(np.int32),
        uv=np.concatenate([head.uv, uv]).astype(np.float32),
        face_uvs=np.concatenate([head.face_uvs, faces + uv_count]).astype(np.int32),
        face_parts=np.concatenate([head.face_parts, np.full(len(faces), len(head.part_names), np.uint8)]),
        shape_basis=grow(head.shape_basis, shape_basis),
        expression_basis=grow(head.expression_basis),
        pose_basis=grow(head.pose_basis),
        skin_weights=np.concatenate([head.skin_weights, weights]).astype(np.float32),
        part_names=(*head.part_names, part),
    )
