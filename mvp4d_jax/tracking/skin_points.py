"""The points of a head whose colours are compared between views: the vertices of face, ears, lips and neck."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import sparse
from scipy.spatial import cKDTree

from mvp4d.core.heads.builtin.assembly import INNER_PARTS
from mvp4d.core.heads.mesh import vertex_normals
from mvp4d.core.heads.model import HeadModel
from mvp4d_jax.heads.skinning import landmarks, skin
from mvp4d_jax.tracking.problem import Layout, motion_of

Array = Any
FRONT = 0.0  # the face is what lies further in front than this, from the ears (0) to the tip of the nose (1)
ABOVE, BELOW = 0.8, 0.5  # how far it reaches over the nose's root and under the chin, over the length from one to other
CHEEKS = 0.02  # metres around the nose that are but skin
RIMMED = "lashes", "lid_lining", "sclera", "mouth_inside", "nostrils"
RIMS = 0.002, 0.006  # metres from these parts from which a point counts, and counts in full


@dataclasses.dataclass(frozen=True)
class SkinPoints:
    """N points of a head.

    Attributes:
      rig: the head with these vertices alone.
      triangles, edges: [t, 3] and [e, 2] of the points.
      lips: [N] bool.
      clear: [N] 0 to 1, how far from rims.
      cheeks: [N] bool: nothing but skin, on everybody.
      kernels: [N, N] of each blur in metres.
    """

    rig: HeadModel
    triangles: np.ndarray
    edges: np.ndarray
    lips: np.ndarray
    clear: np.ndarray
    cheeks: np.ndarray
    kernels: dict[float, sparse.csr_matrix]

    @classmethod
    def of(cls, head: HeadModel, blurs: Iterable[float]) -> SkinPoints:
        template, faces = np.asarray(head.template, np.float64), np.asarray(head.faces)
        marks = np.asarray(landmarks(head, np.asarray(head.template)), np.float64)
        keep, lips = _chosen(head, template, marks)
        number = np.full(len(template), -1)
        number[keep] = np.arange(len(keep))
        triangles = number[faces]
        triangles = triangles[(triangles >= 0).all(1)]
        beside = np.concatenate([marks[27:36], (marks[[2, 14]] + 2 * marks[[31, 35]]) / 3])
        normals = vertex_normals(template, faces)[keep]
        return cls(
            rig=head.with_vertices(keep, np.zeros((1, 3), np.int32), np.zeros(68, np.int32)),
            triangles=triangles,
            edges=np.unique(np.sort(triangles[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), axis=1), axis=0),
            lips=lips[keep],
            clear=_clear(template[keep], template[faces[_of_parts(head, *RIMMED)].ravel()]),
            cheeks=cKDTree(beside).query(template[keep])[0] < CHEEKS,
            kernels={blur: _kernel(template[keep], normals, blur) for blur in blurs},
        )

    def places(self, shared: np.ndarray, frame: np.ndarray, layout: Layout) -> np.ndarray:
        """[N, 3] in the world."""
        return np.asarray(_places(np.float32(shared), np.float32(frame), self.rig, layout=layout), np.float64)

    def derivatives(self, shared: np.ndarray, frame: np.ndarray, layout: Layout) -> np.ndarray:
        """[N, 3, S + P] of the points in the world by identity and frame."""
        return np.asarray(_derivatives(np.float32(shared), np.float32(frame), self.rig, layout=layout))

    def blurred(self, blur: float, values: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Values [V, N, C] blurred along the surface, each point as its view weights it [V, N]."""
        kernel, count = self.kernels[blur], values.shape[1]
        flat = (values * weights[..., None]).transpose(1, 0, 2).reshape(count, -1)
        total = kernel @ weights.T + 1e-3  # [N, V]
        return ((kernel @ flat).reshape(count, len(values), -1) / total[..., None]).transpose(1, 0, 2)


def _chosen(head: HeadModel, template: np.ndarray, marks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which vertices are points, and which of all are lips' [n] bool."""
    ears, lips = _vertices(head, _of_parts(head, "ears")), _vertices(head, _of_parts(head, "lips"))
    outside = np.asarray(head.face_parts) == 0
    whole = _vertices(head, outside | _of_parts(head, "lips", "ears"))
    whole &= ~_vertices(head, _of_parts(head, *INNER_PARTS))
    root, chin, tip, side = marks[27, 1], marks[8, 1], marks[30, 2], marks[[1, 15], 2].mean()
    face = (template[:, 2] > side + FRONT * (tip - side)) & (template[:, 1] < root + ABOVE * (root - chin))
    return np.flatnonzero(whole & (ears | face) & (template[:, 1] > chin - BELOW * (root - chin))), lips


def _of_parts(head: HeadModel, *names: str) -> np.ndarray:
    """[T] bool: triangles of these parts."""
    return np.isin(head.face_parts, [index for index, name in enumerate(head.part_names) if name in names])


def _vertices(head: HeadModel, triangles: np.ndarray) -> np.ndarray:
    """[n] bool: the vertices of triangles [T] bool."""
    return np.isin(np.arange(head.vertex_count), np.asarray(head.faces)[triangles])


def _clear(points: np.ndarray, rims: np.ndarray) -> np.ndarray:
    """[N] 0 to 1, how far points [N, 3] are from rims [r, 3]."""
    gap = cKDTree(rims).query(points)[0] if len(rims) else np.full(len(points), np.inf)
    return np.clip((gap - RIMS[0]) / (RIMS[1] - RIMS[0]), 0, 1)


def _kernel(places: np.ndarray, normals: np.ndarray, blur: float) -> sparse.csr_matrix:
    """[N, N] Gaussian over the distances between points that face the same way."""
    pairs = cKDTree(places).query_pairs(2.5 * blur, output_type="ndarray")
    pairs = pairs[(normals[pairs[:, 0]] * normals[pairs[:, 1]]).sum(-1) > 0.2]
    values = np.exp(-((places[pairs[:, 0]] - places[pairs[:, 1]]) ** 2).sum(-1) / 2 / blur**2)
    half = sparse.csr_matrix((values, pairs.T), (len(places),) * 2, dtype=np.float32)
    return (half + half.T + sparse.identity(len(places), dtype=np.float32)).tocsr()


@functools.partial(jax.jit, static_argnames="layout")
def _places(shared: Array, frame: Array, rig: HeadModel, *, layout: Layout) -> Array:
    """The points in the world [N, 3]."""
    return skin(rig, motion_of(layout, frame[None]), shared[:-1])[0]


@functools.partial(jax.jit, static_argnames="layout")
def _derivatives(shared: Array, frame: Array, rig: HeadModel, *, layout: Layout) -> Array:
    """Derivatives of the points in the world by identity and frame [N, 3, S + P]."""

    def places(unknowns: Array) -> Array:
        return skin(rig, motion_of(layout, unknowns[None, layout.shapes :]), unknowns[: layout.shapes])[0]

    return jax.jacfwd(places)(jnp.concatenate([shared[:-1], frame]))
