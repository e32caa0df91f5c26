"""HeadModel: one struct of arrays for every head (builtin, ICT, FLAME), as read by one skinning function.

Axes of head space and of the world: x to the right of a picture of a frontal face, y up, z towards the viewer of a
frontal face (the face looks along +z). Metres.
"""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import numpy as np

from mvp4d.core.errors import UserError
from mvp4d.core.files import atomic_file, read_npz
from mvp4d.core.heads.check import check_head
from mvp4d.core.words import sides

Array = Any  # numpy or jax array

# Words in the names of parts: of the mouth that lips cover and uncover, and of the eyes.
INTERIOR = ("inside", "gum", "teeth", "tongue")
EYES = ("eye", "sclera", "iris", "pupil", "cornea")
STATIC_FIELDS = ("name", "shape_names", "expression_names", "joint_names", "joint_parents", "part_names")

# What poses a personalised head: an avatar keeps these.
RIG_FIELDS = (
    "name",
    "template",
    "faces",
    "uv",
    "face_uvs",
    "face_parts",
    "expression_basis",
    "pose_basis",
    "joints",
    "joint_expression_basis",
    "skin_weights",
    "expression_names",
    "joint_names",
    "joint_parents",
    "part_names",
)


@dataclasses.dataclass(frozen=True)
class HeadModel:
    """Linear blendshapes, joints and linear blend skinning.

    N vertices, T triangles, U uv points, S shape modes, E expression modes, J joints, K landmarks.

    Attributes:
      name: "builtin", "ict", "flame2020", "flame2023", "flame2023-nojaw" (+ suffix for added teeth and mouth).
      canonical: [N, 3] template before any identity: what the pose map draws, the same for every identity of a head.
      template: [N, 3] neutral vertices; equal to `canonical` for a fresh model, with identity folded in after
        `personalise`.
      faces: [T, 3] int32, counter-clockwise seen from outside.
      uv: [U, 2] in [0, 1], v up.
      face_uvs: [T, 3] int32 into uv.
      face_parts: [T] uint8 into part_names.
      shape_basis: [S, N, 3].
      expression_basis: [E, N, 3].
      pose_basis: [(J - 1) * 9, N, 3] pose correctives on flattened (R - I) of joints 1..J-1, or [0, N, 3].
      joints: [J, 3] rest positions at zero coefficients.
      joint_shape_basis: [S, J, 3]; joint_expression_basis: [E, J, 3]: how rest joints move with the coefficients.
      skin_weights: [N, J], rows sum to one.
      landmark_faces: [K] int32; landmark_barycentric: [K, 3]: the 68 Multi-PIE landmarks in their usual order.
      shape_names, expression_names, joint_names, part_names: tuples of str. joint_names come from
        `heads.check.JOINT_ROLES`; a head may lack some of them (FLAME 2023 without jaw moves no jaw).
      joint_parents: tuple of int, -1 for the root.
    """

    name: str
    canonical: Array
    template: Array
    faces: Array
    uv: Array
    face_uvs: Array
    face_parts: Array
    shape_basis: Array
    expression_basis: Array
    pose_basis: Array
    joints: Array
    joint_shape_basis: Array
    joint_expression_basis: Array
    skin_weights: Array
    landmark_faces: Array
    landmark_barycentric: Array
    shape_names: tuple[str, ...]
    expression_names: tuple[str, ...]
    joint_names: tuple[str, ...]
    joint_parents: tuple[int, ...]
    part_names: tuple[str, ...]

    def __repr__(self) -> str:
        vertices, expressions = sides(self.template, less=1), sides(self.expression_basis, less=2)
        return f"HeadModel('{self.name}': {vertices} vertices, {expressions} expressions)"

    @property
    def vertex_count(self) -> int:
        return self.template.shape[0]

    @property
    def shape_count(self) -> int:
        return self.shape_basis.shape[0]

    @property
    def expression_count(self) -> int:
        return self.expression_basis.shape[0]

    def personalise(self, shape: Array) -> HeadModel:
        """Folds identity coefficients [S' <= S] into template and joints; the result has no shape modes left."""
        shape = np.asarray(shape, np.float32)
        if shape.ndim != 1 or shape.shape[0] > self.shape_count:
            raise UserError("shape", f"{shape.shape} coefficients, head '{self.name}' has {self.shape_count}")
        count = shape.shape[0]
        basis, joint_basis = np.asarray(self.shape_basis)[:count], np.asarray(self.joint_shape_basis)[:count]
        return dataclasses.replace(
            self,
            template=np.asarray(self.template) + np.tensordot(shape, basis, 1),
            joints=np.asarray(self.joints) + np.tensordot(shape, joint_basis, 1),
            shape_basis=np.zeros((0, self.vertex_count, 3), np.float32),
            joint_shape_basis=np.zeros((0, len(self.joint_names), 3), np.float32),
            shape_names=(),
        )

    def with_vertices(self, keep: Array, faces: Array, landmark_faces: Array) -> HeadModel:
        """The head with the vertices `keep` [n] alone.

        Args:
          faces: [t, 3] of these vertices; they have neither part nor UVs.
          landmark_faces: [K] of these faces.
        """
        return dataclasses.replace(
            self,
            canonical=np.asarray(self.canonical)[keep],
            template=np.asarray(self.template)[keep],
            faces=faces,
            shape_basis=np.asarray(self.shape_basis)[:, keep],
            expression_basis=np.asarray(self.expression_basis)[:, keep],
            pose_basis=np.asarray(self.pose_basis)[:, keep],
            skin_weights=np.asarray(self.skin_weights)[keep],
            landmark_faces=landmark_faces,
            face_parts=np.zeros(len(faces), np.uint8),
            face_uvs=np.zeros((len(faces), 3), np.int32),
        )

    @classmethod
    def from_rig(cls, values: dict[str, Any], where: object) -> HeadModel:
        """A personalised head from the arrays that move it: no shape modes, no landmarks, `canonical` its template.

        Args:
          values: the fields of `RIG_FIELDS`, of any numeric dtype; names as lists or tuples.
          where: the file they come from.

        Raises:
          UserError: names the field at fault.
        """
        missing = [name for name in RIG_FIELDS if name not in values]
        if missing:
            raise UserError(where, f"head rig lacks '{missing[0]}'", "write it again from its source")
        rig: dict[str, Any] = {name: values[name] for name in RIG_FIELDS}
        for name in ("expression_names", "joint_names", "part_names"):
            rig[name] = tuple(str(item) for item in np.atleast_1d(rig[name]))
        try:
            rig["joint_parents"] = tuple(int(item) for item in np.atleast_1d(rig["joint_parents"]))
            arrays: dict[str, Any] = {name: np.asarray(rig[name]) for name in RIG_FIELDS if name not in STATIC_FIELDS}
            count, joints = len(arrays["template"]), len(rig["joint_names"])
        except (TypeError, ValueError) as error:
            raise UserError(where, f"head rig is damaged ({error})") from None
        head = cls(
            **(rig | arrays),
            canonical=arrays["template"],
            shape_basis=np.zeros((0, count, 3), np.float32),
            joint_shape_basis=np.zeros((0, joints, 3), np.float32),
            landmark_faces=np.zeros(0, np.int32),
            landmark_barycentric=np.zeros((0, 3), np.float32),
            shape_names=(),
        )
        check_head(head, where)
        return head

    def save(self, path: str | os.PathLike) -> None:
        """Writes every array and name to one compressed npz, atomically."""
        arrays = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            arrays[field.name] = np.asarray(value, dtype=np.str_) if _is_text(value) else np.asarray(value)
        with atomic_file(path) as temporary:
            np.savez_compressed(temporary, **arrays)

    @classmethod
    def load(cls, path: str | os.PathLike) -> HeadModel:
        """Reads what `save` wrote; the arrays are checked against each other by `heads.check`."""
        arrays = read_npz(path)
        missing = [field.name for field in dataclasses.fields(cls) if field.name not in arrays]
        if missing:
            raise UserError(path, f"head rig lacks the array '{missing[0]}'", "write the capture again")
        values: dict[str, Any] = {field.name: arrays[field.name] for field in dataclasses.fields(cls)}
        for key in (*STATIC_FIELDS[1:], "name"):
            kind, rank = "iu" if key == "joint_parents" else "U", 0 if key == "name" else 1
            if values[key].ndim != rank or values[key].dtype.kind not in kind:
                raise UserError(path, f"'{key}' is {values[key].dtype} {list(values[key].shape)}")
        values["name"] = str(values["name"])
        for key in ("shape_names", "expression_names", "joint_names", "part_names"):
            values[key] = tuple(str(item) for item in values[key])
        values["joint_parents"] = tuple(int(item) for item in values["joint_parents"])
        head = cls(**values)
        check_head(head, path)
        return head


def _is_text(value: object) -> bool:
    return isinstance(value, str) or (isinstance(value, tuple) and all(isinstance(item, str) for item in value))
