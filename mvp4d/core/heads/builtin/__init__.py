"""A human head made entirely in code: `build_builtin_head()`.

Origin: midway between the ears, at the height of the pupils; the ear canals lie near z = 0.01, the pupils at
(+-0.032, 0, 0.092). Height of the head 0.232 m, width 0.155 m, depth with the nose 0.219 m.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
from pathlib import Path

import numpy as np
import scipy

from mvp4d.core import ramps
from mvp4d.core.cache import user_cache
from mvp4d.core.errors import UserError
from mvp4d.core.heads.arkit import ARKIT_NAMES
from mvp4d.core.heads.builtin.assembly import PART_NAMES, assemble
from mvp4d.core.heads.builtin.expressions import expression_basis
from mvp4d.core.heads.builtin.measures import JAW_OPEN_ANGLE
from mvp4d.core.heads.builtin.rig import (
    JOINT_NAMES,
    JOINT_PARENTS,
    as_barycentric,
    landmark_vertices,
    rest_joints,
    skin_weights,
)
from mvp4d.core.heads.builtin.shape_modes import MODES, shape_basis
from mvp4d.core.heads.model import HeadModel

KEPT = 4  # heads in the user's cache, of 4 MB: of other versions


@functools.lru_cache(maxsize=1)
def build_builtin_head() -> HeadModel:
    """The head, once per process: as an earlier one left it in the user's cache, else built and left there.

    The file is named by all that the head is made of; one that is damaged, or cannot be written, is done without.
    """
    try:
        path = user_cache() / "heads" / f"builtin-{_recipe()}.npz"
    except RuntimeError:  # no home
        return _build()
    with contextlib.suppress(UserError, OSError):
        return HeadModel.load(path)
    head = _build()
    with contextlib.suppress(UserError, OSError):
        head.save(path)
        for other in sorted(path.parent.glob("builtin-*.npz"), key=os.path.getmtime)[:-KEPT]:
            other.unlink()
    return head


def _recipe() -> str:
    """A hash of the code that makes the head, and of the libraries that it computes with."""
    here = Path(__file__).parent
    digest = hashlib.sha256(f"numpy {np.__version__} scipy {scipy.__version__}".encode())
    for path in (*sorted(here.glob("*.py")), here.parent / "arkit.py", here.parent / "model.py", Path(ramps.__file__)):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _build() -> HeadModel:
    """Builds the head: deterministic, about two seconds."""
    head = assemble()
    shapes, joint_shapes = shape_basis(head)
    expressions = expression_basis(head)
    landmark_faces, landmark_barycentric = as_barycentric(head.faces, landmark_vertices(head))
    template = head.vertices.astype(np.float32)
    return HeadModel(
        name="builtin",
        canonical=template,
        template=template,
        faces=head.faces,
        uv=head.uv.astype(np.float32),
        face_uvs=head.face_uvs,
        face_parts=head.face_parts,
        shape_basis=shapes.astype(np.float32),
        expression_basis=expressions.astype(np.float32),
        pose_basis=np.zeros((0, len(template), 3), np.float32),
        joints=rest_joints().astype(np.float32),
        joint_shape_basis=joint_shapes.astype(np.float32),
        joint_expression_basis=np.zeros((len(ARKIT_NAMES), len(JOINT_NAMES), 3), np.float32),
        skin_weights=skin_weights(head).astype(np.float32),
        landmark_faces=landmark_faces,
        landmark_barycentric=landmark_barycentric,
        shape_names=tuple(MODES),
        expression_names=ARKIT_NAMES,
        joint_names=JOINT_NAMES,
        joint_parents=JOINT_PARENTS,
        part_names=PART_NAMES,
    )


__all__ = ["JAW_OPEN_ANGLE", "build_builtin_head"]
