"""ICT-FaceKit heads (USC Institute for Creative Technologies, MIT licence), from OBJ files or packed.

Source: github.com/USC-ICT/ICT-FaceKit. Its `FaceXModel` folder holds `generic_neutral_mesh.obj`, one OBJ per identity
mode (`identity000.obj`, ...) and one per expression (`browDown_L.obj`, ...), all of one topology, in centimetres.
The packed form is an npz of the same arrays: vertices, faces, face_uvs, uv, face_material, material_names, identity,
identity_names, expression, expression_names (offsets in centimetres).

What becomes of it:
- centimetres to metres, origin moved to this project's head space;
- quads to triangles; the transparent shells around the eyes (tear film, blend, occlusion, lashes) are left out,
  because an opaque rasteriser would show them instead of the eyes;
- `_L` / `_R` names to ARKit's; pairs that ARKit has as one shape are summed; shapes ARKit lacks (pupil dilation,
  cheek raiser) are left out, and tongueOut, which ICT lacks, does nothing;
- eyeballs turn about eye joints (`Motion.eyes`); the eyeLook expressions move the lids only;
- ICT has no skeleton: the neck joint bends a smooth band of the neck; there is no jaw joint, jawOpen is an expression.
"""

from __future__ import annotations

import dataclasses
import os
import re
from pathlib import Path
from typing import Any

import numpy as np

from mvp4d.core.errors import UserError
from mvp4d.core.files import read_npz
from mvp4d.core.heads.arkit import ARKIT_NAMES
from mvp4d.core.heads.check import check_head
from mvp4d.core.heads.model import HeadModel
from mvp4d.core.heads.obj import read_obj, read_vertices

_METRES = 0.01
# Puts the eyeballs where FLAME's are (docs/architecture.md).
_ORIGIN = np.array([0.0, -0.0141, -0.0622])
_VERTICES = 26719
_PARTS = {
    "M_Face": "face",
    "M_BackHead": "head",
    "M_GumsTongue": "gums_tongue",
    "M_Teeth": "teeth",
    "M_ScleraLeft": "left_sclera",
    "M_IrisLeft": "left_iris",
    "M_ScleraRight": "right_sclera",
    "M_IrisRight": "right_iris",
}
_EYES = (("M_ScleraLeft", "M_IrisLeft"), ("M_ScleraRight", "M_IrisRight"))
_JOINTS = ("root", "neck", "left_eye", "right_eye")
_NECK_JOINT = np.array([0.0, -9.0, -2.0])  # centimetres, in ICT's axes: within the neck, at the height of the throat
_NOT_EXPRESSIONS = ("generic_neutral_mesh",)
_COUNT_OF_FILES = 400
# Vertices of the Multi-PIE 68 landmarks, from vertex_indices.json of ICT-FaceKit.
LANDMARKS = (
    1225,
    1888,
    1052,
    367,
    1719,
    1722,
    2199,
    1447,
    966,
    3661,
    4390,
    3927,
    3924,
    2608,
    3272,
    4088,
    3443,
    268,
    493,
    1914,
    2044,
    1401,
    3615,
    4240,
    4114,
    2734,
    2509,
    978,
    4527,
    4942,
    4857,
    1140,
    2075,
    1147,
    4269,
    3360,
    1507,
    1542,
    1537,
    1528,
    1518,
    1511,
    3742,
    3751,
    3756,
    3721,
    3725,
    3732,
    5708,
    5695,
    2081,
    0,
    4275,
    6200,
    6213,
    6346,
    6461,
    5518,
    5957,
    5841,
    5702,
    5711,
    5533,
    6216,
    6207,
    6470,
    5517,
    5966,
)


@dataclasses.dataclass(frozen=True)
class IctArrays:
    """ICT-FaceKit as it is published: centimetres, quads.

    Attributes:
      vertices: [N, 3]; faces, face_uvs: [Q, 4] int, -1 pads triangles; uv: [U, 2].
      face_material: [Q] into material_names.
      identity: [S, N, 3] and expression: [E, N, 3] offsets.
    """

    vertices: np.ndarray
    faces: np.ndarray
    face_uvs: np.ndarray
    uv: np.ndarray
    face_material: np.ndarray
    material_names: tuple[str, ...]
    identity: np.ndarray
    identity_names: tuple[str, ...]
    expression: np.ndarray
    expression_names: tuple[str, ...]


def load_ict(path: str | os.PathLike) -> HeadModel:
    """Reads ICT-FaceKit from its folder (`FaceXModel`, or the folder above it) or from a packed npz.

    Raises:
      UserError: no such thing there, or it is damaged.
    """
    path = Path(path)
    if path.is_dir():
        folder = path / "FaceXModel" if (path / "FaceXModel").is_dir() else path
        return head_from_arrays(read_folder(folder), path)
    if not path.exists():
        raise UserError(path, "no such file or folder", "give ICT-FaceKit's FaceXModel folder or a packed npz")
    return head_from_arrays(read_packed(path), path)


def read_packed(path: Path) -> IctArrays:
    """Reads the npz form."""
    data = read_npz(path)
    names = [field.name for field in dataclasses.fields(IctArrays)]
    missing = [name for name in names if name not in data]
    if missing:
        raise UserError(path, f"lacks the array '{missing[0]}'", "give an ICT-FaceKit npz or its FaceXModel folder")
    values: dict[str, Any] = {name: data[name] for name in names}
    for name in ("material_names", "identity_names", "expression_names"):
        values[name] = tuple(str(item) for item in np.atleast_1d(values[name]))
    return IctArrays(**values)


def read_folder(folder: Path) -> IctArrays:
    """Reads the OBJ files of a FaceXModel folder."""
    neutral_path = folder / "generic_neutral_mesh.obj"
    if not neutral_path.is_file():
        raise UserError(folder, "holds no generic_neutral_mesh.obj", "give ICT-FaceKit's FaceXModel folder")
    mesh = read_obj(neutral_path)
    vertices = mesh.vertices
    shapes = sorted(item for item in folder.glob("*.obj") if item.stem not in _NOT_EXPRESSIONS)
    if not shapes or len(shapes) > _COUNT_OF_FILES:
        raise UserError(folder, f"holds {len(shapes)} shape OBJ files", "give ICT-FaceKit's FaceXModel folder")
    offsets = {}
    for shape in shapes:
        moved = read_vertices(shape)
        if moved.shape != vertices.shape:
            raise UserError(shape, f"has {len(moved)} vertices, the neutral mesh {len(vertices)}")
        offsets[shape.stem] = moved - vertices
    identity = [name for name in offsets if re.fullmatch(r"identity\d+", name)]
    expression = [name for name in offsets if name not in identity]
    zero = np.zeros((0, *vertices.shape), np.float32)
    return IctArrays(
        vertices,
        mesh.faces,
        mesh.face_uvs,
        mesh.uv,
        mesh.face_material,
        mesh.material_names,
        np.stack([offsets[name] for name in identity]) if identity else zero,
        tuple(identity),
        np.stack([offsets[name] for name in expression]) if expression else zero,
        tuple(expression),
    )


def head_from_arrays(data: IctArrays, where: object) -> HeadModel:
    """Builds the HeadModel; see the module's docstring for what changes on the way."""
    _check_arrays(data, where)
    names = list(data.material_names)
    kept = np.isin(data.face_material, [names.index(name) for name in _PARTS if name in names])
    quads, quad_uvs = data.faces[kept].astype(np.int64), data.face_uvs[kept].astype(np.int64)
    part = np.array(
        [list(_PARTS).index(names[item]) if names[item] in _PARTS else 0 for item in range(len(names))], np.uint8
    )[data.face_material[kept]]
    second = quads[:, 3] >= 0
    faces = np.concatenate([quads[:, :3], quads[second][:, [0, 2, 3]]]).astype(np.int32)
    face_uvs = np.concatenate([quad_uvs[:, :3], quad_uvs[second][:, [0, 2, 3]]]).astype(np.int32)
    face_parts = np.concatenate([part, part[second]])
    count = int(faces.max()) + 1  # the shells are the last vertices of the mesh

    vertices = data.vertices[:count].astype(np.float32)
    identity = data.identity[:, :count].astype(np.float32) * _METRES
    eyes = [_vertices_of(data, materials) for materials in _EYES]
    expression = _arkit_offsets(data, count, np.concatenate(eyes)) * _METRES
    centres = [_sphere_centre(vertices[eye]) for eye in eyes]
    joints = np.stack([_NECK_JOINT, _NECK_JOINT, *centres]) * _METRES + _ORIGIN
    joint_shapes = np.zeros((len(identity), len(_JOINTS), 3), np.float32)
    for index, eye in enumerate(eyes):
        joint_shapes[:, 2 + index] = identity[:, eye].mean(axis=1)
    landmark_faces, landmark_barycentric = vertices_as_landmarks(faces, LANDMARKS)
    template = (vertices * _METRES + _ORIGIN).astype(np.float32)
    head = HeadModel(
        name="ict",
        canonical=template,
        template=template,
        faces=faces,
        uv=data.uv.astype(np.float32),
        face_uvs=face_uvs,
        face_parts=face_parts,
        shape_basis=identity,
        expression_basis=expression,
        pose_basis=np.zeros((0, count, 3), np.float32),
        joints=joints.astype(np.float32),
        joint_shape_basis=joint_shapes,
        joint_expression_basis=np.zeros((len(expression), len(_JOINTS), 3), np.float32),
        skin_weights=_skin_weights(vertices, eyes),
        landmark_faces=landmark_faces,
        landmark_barycentric=landmark_barycentric,
        shape_names=data.identity_names,
        expression_names=ARKIT_NAMES,
        joint_names=_JOINTS,
        joint_parents=(-1, 0, 1, 1),
        part_names=tuple(_PARTS.values()),
    )
    check_head(head, where)
    return head


def vertices_as_landmarks(faces: np.ndarray, vertices: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Landmark vertices as ([K] faces, [K, 3] barycentric): for each, the first face that has it as a corner."""
    found_faces, barycentric = [], np.zeros((len(vertices), 3), np.float32)
    flat = faces.reshape(-1)
    first = np.full(int(flat.max()) + 1, -1)
    first[flat[::-1]] = np.arange(len(flat))[::-1]
    for row, vertex in enumerate(vertices):
        corner = int(first[vertex])
        found_faces.append(corner // 3)
        barycentric[row, corner % 3] = 1.0
    return np.array(found_faces, np.int32), barycentric


def _check_arrays(data: IctArrays, where: object) -> None:
    count = len(data.vertices) if data.vertices.ndim == 2 else 0
    if data.vertices.shape != (_VERTICES, 3):
        raise UserError(where, f"vertices have shape {data.vertices.shape}, ICT-FaceKit has ({_VERTICES}, 3)")
    quads = len(data.faces)
    expected = {
        "faces": (quads, 4),
        "face_uvs": (quads, 4),
        "face_material": (quads,),
        "uv": (len(data.uv), 2),
        "identity": (len(data.identity_names), count, 3),
        "expression": (len(data.expression_names), count, 3),
    }
    for name, shape in expected.items():
        array = getattr(data, name)
        if array.shape != shape or array.dtype.kind not in "fiu":
            raise UserError(where, f"{name} has shape {array.shape} and type {array.dtype}, expected numbers {shape}")
    missing = [name for name in _PARTS if name not in data.material_names]
    if missing:
        raise UserError(where, f"has no material '{missing[0]}'", "the mesh must keep ICT-FaceKit's materials")
    for name, limit in (("faces", count), ("face_uvs", len(data.uv))):
        array = getattr(data, name)
        if array.min() < -1 or array.max() >= limit or array[:, :3].min() < 0:
            raise UserError(where, f"{name} points outside 0..{limit - 1}")
    if data.face_material.max() >= len(data.material_names):
        raise UserError(where, "face_material points outside material_names")


def _vertices_of(data: IctArrays, materials: tuple[str, ...]) -> np.ndarray:
    chosen = np.isin(data.face_material, [data.material_names.index(name) for name in materials])
    vertices = np.unique(data.faces[chosen])
    return vertices[vertices >= 0]


def _arkit_offsets(data: IctArrays, count: int, eyes: np.ndarray) -> np.ndarray:
    """[52, count, 3] in centimetres, in the order of ARKIT_NAMES; zero where ICT has no such shape."""
    offsets = np.zeros((len(ARKIT_NAMES), count, 3), np.float32)
    for name, offset in zip(data.expression_names, data.expression):
        base, _, side = name.partition("_")
        target = base + {"L": "Left", "R": "Right"}.get(side, "")
        target = target if target in ARKIT_NAMES else base
        if target in ARKIT_NAMES:
            offsets[ARKIT_NAMES.index(target)] += offset[:count].astype(np.float32)
    for index, name in enumerate(ARKIT_NAMES):
        if name.startswith("eyeLook"):
            offsets[index, eyes] = 0.0
    return offsets


def _sphere_centre(points: np.ndarray) -> np.ndarray:
    """Centre of the sphere that fits points [N, 3] best: |x|^2 = 2 c.x + (r^2 - |c|^2), linear in c."""
    points = points.astype(np.float64)
    system = np.concatenate([2 * points, np.ones((len(points), 1))], axis=1)
    return np.linalg.lstsq(system, (points**2).sum(axis=1), rcond=None)[0][:3]


def _skin_weights(vertices: np.ndarray, eyes: list[np.ndarray]) -> np.ndarray:
    """[N, 4]: shoulders follow the root, the skull the neck joint, with a smooth band along a plane that rises to the
    front, from the nape to below the chin."""
    height = vertices[:, 1] + 0.4 * vertices[:, 2]  # centimetres
    along = np.clip((height + 14.0) / 8.0, 0.0, 1.0)
    skull = along * along * (3 - 2 * along)
    weights = np.zeros((len(vertices), len(_JOINTS)), np.float32)
    weights[:, 0], weights[:, 1] = 1 - skull, skull
    for index, eye in enumerate(eyes):
        weights[eye] = 0.0
        weights[eye, 2 + index] = 1.0
    return weights
