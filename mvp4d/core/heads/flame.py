"""FLAME heads (Li et al. 2017, flame.is.tue.mpg.de): 2020, 2023, and 2023 without jaw, from pickle or npz.

FLAME needs a licence of its own and is never part of this project. Which version a file is cannot be told from its
arrays; it is taken from its name: `no_jaw` or `nojaw` in it means 2023 without jaw, `2023` means 2023, all else 2020.

Version 2023 without jaw follows CAP4D, whose `fit.npz` files are made for it:
- 150 shape and 65 expression coefficients, the 65th a blink shape, read from `blink_blendshape.npy` beside the model
  file; without that file the 65th does nothing;
- joints turn independently, without a hierarchy; the neck rotation turns the neck's base against the head (FLAME's
  joint slot 0), and drives the pose correctives of FLAME's neck;
- CAP4D's pose correctives use R - 2I. That is R - I and a constant offset, which is part of the template here, so
  vertices are CAP4D's, and the expression map is zero at rest;
- one rotation for both eyes is a matter of `fit.npz`: its reader writes it to both.

Additions: `teeth` (120 vertices in GaussianAvatars' and VHAP's order: 5143), `mouth` (CAP4D's static half-sphere, 200
vertices: 5223), `mouth` and `jaw` (its avatar's second half-sphere, turned by expression x `jaw_regressor.npy`: 5423).
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np

from mvp4d.core.errors import UserError
from mvp4d.core.files import read_npy, read_npz
from mvp4d.core.heads.check import check_head, check_span
from mvp4d.core.heads.flame_pickle import read_flame_pickle
from mvp4d.core.heads.model import HeadModel

VERTICES = 5023
_SHAPES, _EXPRESSIONS = 300, 100  # of FLAME's 400 directions
_CAP4D_SHAPES, _CAP4D_EXPRESSIONS = 150, 65
_JOINTS = ("root", "neck", "jaw", "left_eye", "right_eye")
_CAP4D_SLOTS = [1, 0, 2, 3, 4]  # FLAME's joint slots in the order of _JOINTS: slot 0 turns as the neck, slot 1 rests
ADDITIONS = ("teeth", "mouth", "jaw")
# Vertices nearest to the Multi-PIE 68 landmarks on FLAME's topology, as NPHM uses them.
LANDMARKS = (
    2212,
    3060,
    3485,
    3384,
    3386,
    3389,
    3418,
    3395,
    3414,
    3598,
    3637,
    3587,
    3582,
    3580,
    3756,
    2012,
    730,
    1984,
    3157,
    335,
    3705,
    3684,
    3851,
    3863,
    16,
    2138,
    571,
    3553,
    3561,
    3501,
    3526,
    2748,
    2792,
    3556,
    1675,
    1612,
    2437,
    2383,
    2494,
    3632,
    2278,
    2296,
    3833,
    1343,
    1034,
    1175,
    884,
    829,
    2715,
    2813,
    2774,
    3543,
    1657,
    1696,
    1579,
    1795,
    1865,
    3503,
    2948,
    2898,
    2845,
    2785,
    3533,
    1668,
    1730,
    1669,
    3509,
    2786,
)


def load_flame(path: str | os.PathLike, additions: tuple[str, ...] = ()) -> HeadModel:
    """Reads a FLAME model file.

    Args:
      path: FLAME's .pkl, or an npz with the same arrays (and, if wanted, texture coordinates `vt` [U, 2], `ft` [T, 3]).
        Texture coordinates of a pickle are taken from `head_template_mesh.obj` beside it; without one, a cylindrical
        map is made up.
      additions: any of "teeth", "mouth", "jaw".

    Raises:
      UserError: the file is missing, damaged, hostile, or no FLAME model.
    """
    path = Path(path)
    unknown = [item for item in additions if item not in ADDITIONS]
    if unknown:
        raise UserError("head", f"'{unknown[0]}' cannot be added to FLAME", f"use {', '.join(ADDITIONS)}")
    data = read_npz(path) if path.suffix == ".npz" else read_flame_pickle(path)
    arrays = _check_arrays(data, path)
    version = _version(path)
    uv, face_uvs = _texture_coordinates(data, arrays, path)
    head = _cap4d_head(arrays, path) if version == "flame2023-nojaw" else _standard_head(arrays, version)
    head = dataclasses.replace(head, uv=uv, face_uvs=face_uvs)
    if additions:
        from mvp4d.core.heads.flame_mouth import add_lower_jaw, add_mouth, add_teeth

        for item in ADDITIONS:
            if item == "teeth" and item in additions:
                head = add_teeth(head)
            elif item == "mouth" and item in additions:
                head = add_mouth(head)
            elif item == "jaw" and item in additions:
                head = add_lower_jaw(head, _optional_array(path.with_name("jaw_regressor.npy"), (65, 3)))
    check_head(head, path)
    return head


@dataclasses.dataclass(frozen=True)
class _Arrays:
    template: np.ndarray  # [N, 3]
    faces: np.ndarray  # [T, 3]
    directions: np.ndarray  # [400, N, 3]
    pose: np.ndarray  # [36, N, 3]
    regressor: np.ndarray  # [5, N]
    parents: tuple[int, ...]
    weights: np.ndarray  # [N, 5]


def _version(path: Path) -> str:
    name = path.stem.lower().replace("-", "_")
    if "no_jaw" in name or "nojaw" in name:
        return "flame2023-nojaw"
    return "flame2023" if "2023" in name else "flame2020"


def _check_arrays(data: dict[str, Any], where: Path) -> _Arrays:
    shapes = {
        "v_template": (VERTICES, 3),
        "f": (None, 3),
        "shapedirs": (VERTICES, 3, _SHAPES + _EXPRESSIONS),
        "posedirs": (VERTICES, 3, 36),
        "J_regressor": (5, VERTICES),
        "kintree_table": (2, 5),
        "weights": (VERTICES, 5),
    }
    arrays = {}
    for name, shape in shapes.items():
        array = data.get(name)
        if not isinstance(array, np.ndarray):
            raise UserError(where, f"lacks the array '{name}'", "this is no FLAME model file")
        expected = tuple(given if wanted is None else wanted for given, wanted in zip(array.shape, shape))
        if array.ndim != len(shape) or array.shape != expected or array.dtype.kind not in "fiu":
            raise UserError(where, f"'{name}' has shape {array.shape}, FLAME's has {shape}")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise UserError(where, f"'{name}' holds NaN or infinite values", "the file is damaged")
        if array.dtype.kind == "f" and float(np.abs(array).max(initial=0)) > 2**33:  # kintree_table's root is 2^32 - 1
            raise UserError(
                where, f"'{name}' holds {np.abs(array).max():.3g}, which no head does", "the file is damaged"
            )
        arrays[name] = array
    check_span(arrays["v_template"], where)
    if not 0 <= arrays["f"].min(initial=0) <= arrays["f"].max(initial=0) < VERTICES or len(arrays["f"]) == 0:
        raise UserError(where, f"'f' points outside of the {VERTICES} vertices, or has no triangles")
    parents = [-1] + [int(item) for item in arrays["kintree_table"][0][1:].astype(np.int64)]
    return _Arrays(
        template=arrays["v_template"].astype(np.float64),
        faces=arrays["f"].astype(np.int64).astype(np.int32),
        directions=np.moveaxis(arrays["shapedirs"].astype(np.float64), -1, 0),
        pose=np.moveaxis(arrays["posedirs"].astype(np.float64), -1, 0),
        regressor=arrays["J_regressor"].astype(np.float64),
        parents=tuple(parents),
        weights=arrays["weights"].astype(np.float64),
    )


def _standard_head(arrays: _Arrays, version: str) -> HeadModel:
    return _assemble(
        arrays,
        version,
        arrays.template,
        arrays.directions[:_SHAPES],
        arrays.directions[_SHAPES:],
        [f"expression{index:03d}" for index in range(_EXPRESSIONS)],
        list(range(5)),
        arrays.parents,
    )


def _cap4d_head(arrays: _Arrays, path: Path) -> HeadModel:
    expression = arrays.directions[_SHAPES : _SHAPES + _CAP4D_EXPRESSIONS].copy()
    blink = _optional_array(path.with_name("blink_blendshape.npy"), (VERTICES, 3))
    expression[-1] = 0.0 if blink is None else blink
    # R - 2I = (R - I) - I for each of the four joints with correctives: the constant part belongs to the template.
    quirk = -(arrays.pose.reshape(4, 3, 3, VERTICES, 3) * np.eye(3)[None, :, :, None, None]).sum(axis=(0, 1, 2))
    names = [f"expression{index:03d}" for index in range(_CAP4D_EXPRESSIONS - 1)] + ["blink"]
    return _assemble(
        arrays,
        "flame2023-nojaw",
        arrays.template + quirk,
        arrays.directions[:_CAP4D_SHAPES],
        expression,
        names,
        _CAP4D_SLOTS,
        (-1,) * 5,
    )


def _assemble(
    arrays: _Arrays,
    name: str,
    template: np.ndarray,
    shape: np.ndarray,
    expression: np.ndarray,
    expression_names: list[str],
    slots: list[int],
    parents: tuple[int, ...],
) -> HeadModel:
    """`template` holds CAP4D's constant offset; joints are regressed from the plain one."""
    regressor = arrays.regressor[slots]
    landmark_faces, landmark_barycentric = _landmarks(arrays.faces)
    parts, part_names = _parts(arrays.faces, arrays.template)

    def regress(offsets: np.ndarray) -> np.ndarray:
        return np.einsum("jn,...nd->...jd", regressor, offsets, optimize=True).astype(np.float32)

    return HeadModel(
        name=name,
        canonical=template.astype(np.float32),
        template=template.astype(np.float32),
        faces=arrays.faces,
        uv=np.zeros((1, 2), np.float32),
        face_uvs=np.zeros_like(arrays.faces),
        face_parts=parts,
        shape_basis=shape.astype(np.float32),
        expression_basis=expression.astype(np.float32),
        pose_basis=arrays.pose.astype(np.float32),
        joints=regress(arrays.template),
        joint_shape_basis=regress(shape),
        joint_expression_basis=regress(expression),
        skin_weights=arrays.weights[:, slots].astype(np.float32),
        landmark_faces=landmark_faces,
        landmark_barycentric=landmark_barycentric,
        shape_names=tuple(f"shape{index:03d}" for index in range(len(shape))),
        expression_names=tuple(expression_names),
        joint_names=_JOINTS,
        joint_parents=parents,
        part_names=part_names,
    )


def _landmarks(faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    corner_of = np.full(VERTICES, -1)
    corner_of[faces.reshape(-1)[::-1]] = np.arange(faces.size)[::-1]
    corners = corner_of[list(LANDMARKS)]
    if (corners < 0).any():
        raise UserError("f", "leaves out landmark vertices", "FLAME's full mesh is needed")
    return (corners // 3).astype(np.int32), np.eye(3, dtype=np.float32)[corners % 3]


def _parts(faces: np.ndarray, template: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """Skin, and the eyeballs, which are FLAME's only other connected pieces of mesh."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]]])
    graph = coo_matrix((np.ones(len(edges)), edges.T), shape=(VERTICES, VERTICES))
    _, label = connected_components(graph, directed=False)
    label = label[faces[:, 0]]
    skin = np.bincount(label).argmax()
    to_left = template[faces].mean(axis=1)[:, 0] > 0  # the head's own left is at positive x
    return np.where(label == skin, 0, np.where(to_left, 1, 2)).astype(np.uint8), ("face", "left_eye", "right_eye")


def _optional_array(path: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    """A small npy file beside the model, or none."""
    if not path.is_file():
        return None
    array = read_npy(path)
    if array.shape != shape or array.dtype.kind != "f":
        raise UserError(path, f"has shape {array.shape}, expected {shape}")
    return array


def _texture_coordinates(data: dict[str, Any], arrays: _Arrays, path: Path) -> tuple[np.ndarray, np.ndarray]:
    uv, face_uvs = data.get("vt"), data.get("ft")
    template_mesh = path.with_name("head_template_mesh.obj")
    if uv is None and template_mesh.is_file():
        from mvp4d.core.heads.obj import read_obj

        mesh = read_obj(template_mesh)
        faces = mesh.faces[:, :3]
        if faces.shape != arrays.faces.shape or (faces != arrays.faces).any():
            raise UserError(template_mesh, "has other faces than the FLAME model beside it")
        uv, face_uvs = mesh.uv, mesh.face_uvs[:, :3]
    if uv is not None and face_uvs is not None:
        for name, array in (("vt", uv), ("ft", face_uvs)):
            if np.ndim(array) != 2 or np.asarray(array).dtype.kind not in "fiu":
                raise UserError(path, f"'{name}' is no table of numbers", "leave out 'vt' and 'ft', or repair them")
        return np.asarray(uv, np.float32), np.asarray(face_uvs, np.int64).astype(np.int32)
    # Around the vertical axis through the head, seam at the back; corners of seam triangles are moved past one.
    centred = arrays.template - arrays.template.mean(axis=0)
    angle = np.arctan2(centred[:, 0], centred[:, 2]) / (2 * np.pi)  # -0.5 .. 0.5, zero in front
    height = (centred[:, 1] - centred[:, 1].min()) / max(np.ptp(centred[:, 1]), 1e-9)
    corner = angle[arrays.faces]
    corner = np.where(corner - corner.max(axis=1, keepdims=True) < -0.5, corner + 1, corner)
    uv = np.stack([0.05 + 0.6 * (corner + 0.5), 0.05 + 0.9 * height[arrays.faces]], axis=-1)
    return uv.reshape(-1, 2).astype(np.float32), np.arange(arrays.faces.size, dtype=np.int32).reshape(-1, 3)
