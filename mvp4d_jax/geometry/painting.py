"""A photo on the head's mesh: what colour each vertex has in it, or is likely to have."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import map_coordinates
from scipy.spatial import cKDTree

from mvp4d_jax.geometry.cameras import Camera, project
from mvp4d_jax.geometry.rasterize import rasterize
from mvp4d_jax.heads.model import HeadModel
from mvp4d_jax.heads.motion import Motion
from mvp4d_jax.heads.skinning import skin

DEPTH_SLACK = 0.004  # metres: a vertex this far behind the nearest surface still counts as seen
GRAZING = 0.25  # cosine below which a surface is seen too flatly to be trusted


def vertex_colours(reference: np.ndarray, camera: Camera, motion: Motion, head: HeadModel) -> np.ndarray:
    """Colours of vertices: from the photo where seen, from the mirrored vertex where that is, else the nearest known.

    Args:
      reference: [H, W, 3] float in [0, 1]; camera: of it, unbatched.
      motion: the head's pose in it, one frame.
      head: personalised rig.

    Returns:
      [N, 4] float32: red, green, blue, and one where the photo shows the vertex itself.
    """
    size = reference.shape[:2]
    vertices = np.asarray(skin(head, motion))[0]  # [N, 3]
    pixels, depth = (np.asarray(array) for array in project(camera, vertices))
    rows, columns = pixels[:, 1] - 0.5, pixels[:, 0] - 0.5
    sampled = np.stack([map_coordinates(reference[..., c], [rows, columns], order=1, mode="nearest") for c in range(3)],
                       axis=-1)
    seen = _seen(vertices, pixels, depth, camera, head, size)
    mirrored = np.asarray(head.canonical) * [-1, 1, 1]
    partner = cKDTree(np.asarray(head.canonical)).query(mirrored)[1]
    colours, known = sampled.copy(), seen.copy()
    borrowed = ~seen & seen[partner]
    colours[borrowed], known[borrowed] = sampled[partner[borrowed]], True
    if not known.any():
        return np.pad(np.full_like(colours, 0.5, np.float32), ((0, 0), (0, 1)))
    nearest = cKDTree(np.asarray(head.canonical)[known]).query(np.asarray(head.canonical)[~known])[1]
    colours[~known] = colours[known][nearest]
    return np.concatenate([colours, seen[:, None]], axis=1).astype(np.float32)


def _seen(vertices: np.ndarray, pixels: np.ndarray, depth: np.ndarray, camera: Camera, head: HeadModel,
          size: tuple[int, int]) -> np.ndarray:
    """[N] bool: in the picture, not hidden by a nearer surface, not at a grazing angle."""
    surface = np.asarray(rasterize(camera, vertices, head.faces, size).depth)
    row, column = np.floor(pixels[:, 1]).astype(int), np.floor(pixels[:, 0]).astype(int)
    inside = (row >= 0) & (row < size[0]) & (column >= 0) & (column < size[1])
    row, column = np.clip(row, 0, size[0] - 1), np.clip(column, 0, size[1] - 1)
    in_front = depth <= surface[row, column] + DEPTH_SLACK
    corners = vertices[np.asarray(head.faces)]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    vertex_normals = np.zeros_like(vertices)
    np.add.at(vertex_normals, np.asarray(head.faces), normals[:, None])
    vertex_normals /= np.linalg.norm(vertex_normals, axis=1, keepdims=True) + 1e-12
    matrix = np.asarray(camera.world_to_camera)
    to_eye = -matrix[:3, :3].T @ matrix[:3, 3] - vertices
    to_eye /= np.linalg.norm(to_eye, axis=1, keepdims=True)
    return inside & in_front & ((vertex_normals * to_eye).sum(1) > GRAZING)
