"""Square plates as a head, before one camera: what a view shows of them is known in closed form."""

import dataclasses

import numpy as np
from small_world import ball

from mvp4d.core.cameras.camera import Camera
from mvp4d.core.heads.motion import Motion

SIZE, HALF, DISTANCE = 64, 0.1, 1.0  # pixels; metres
FOCAL = 280.0  # a plate of HALF spans 56 of the 64 pixels


def plate(half, depth, centre=(0.0, 0.0), count=9):
    """Vertices [N, 3] and faces [T, 3] of a square that looks along +z."""
    side = np.linspace(-half, half, count)
    x, y = np.meshgrid(side + centre[0], side + centre[1])
    vertices = np.stack([x, y, np.full_like(x, depth)], axis=-1).reshape(-1, 3)
    corner = np.arange(count * count).reshape(count, count)
    a, b, c, d = (part.reshape(-1) for part in (corner[:-1, :-1], corner[:-1, 1:], corner[1:, :-1], corner[1:, 1:]))
    return vertices, np.concatenate([np.stack([a, b, d], -1), np.stack([a, d, c], -1)])


def head_of(*plates, offsets=None, parts=("skin",)):
    """A head of plates, a part each; `offsets` [N, 3] of its one expression."""
    vertices, faces, part, start = [], [], [], 0
    for index, (points, triangles) in enumerate(plates):
        vertices.append(points)
        faces.append(triangles + start)
        part += [index] * len(triangles)
        start += len(points)
    points = np.concatenate(vertices).astype(np.float32)
    count = len(points)
    basis = np.zeros((1, count, 3), np.float32) if offsets is None else np.asarray(offsets, np.float32)[None]
    triangles = np.concatenate(faces).astype(np.int32)
    return dataclasses.replace(
        ball(),
        canonical=points,
        template=points,
        faces=triangles,
        face_uvs=np.zeros_like(triangles),
        face_parts=np.array(part, np.uint8),
        part_names=parts,
        shape_basis=np.zeros((0, count, 3), np.float32),
        expression_basis=basis,
        expression_names=("jawOpen",),
        pose_basis=np.zeros((0, count, 3), np.float32),
        joint_expression_basis=np.zeros((1, 1, 3), np.float32),
        skin_weights=np.ones((count, 1), np.float32),
    )


def camera(shift=0.0):
    matrix = np.diag([1.0, -1.0, -1.0, 1.0])
    matrix[2, 3] = DISTANCE
    return Camera(matrix[None], *(np.array([value]) for value in (FOCAL, FOCAL, SIZE / 2 + shift, SIZE / 2)))


def pose(expression=0.0, turn=0.0):
    still = Motion.still(1, 1)
    return dataclasses.replace(
        still, expression=np.array([[expression]], np.float32), rotation=np.array([[0, turn, 0]], np.float32)
    )
