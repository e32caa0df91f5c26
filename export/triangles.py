"""Triangle frames: where a Gaussian's local position, rotation and size live (the frames of CAP4D's animation PLY)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

Frames = tuple[Tensor, Tensor, Tensor]  # rotation [T, 3, 3], scale [T] and centroid [T, 3] of triangles


def triangle_frames(vertices: Tensor, faces: Tensor) -> Frames:
    """Frames of triangles [T, 3] of vertices [P, 3].

    a0 along the first edge, a1 along its cross product with the second edge, a2 = -a1 x a0; the scale is the mean of
    the first edge's length and the triangle's extent along a2.

    Returns:
      rotation [T, 3, 3] with columns a0 a1 a2, scale [T], centroid [T, 3]: x = scale * rotation @ local + centroid.
    """
    v0, v1, v2 = vertices[faces].unbind(1)
    first, second = v1 - v0, v2 - v0
    a0 = normalize(first, dim=-1, eps=1e-12)
    a1 = normalize(torch.linalg.cross(a0, second), dim=-1, eps=1e-12)
    a2 = -normalize(torch.linalg.cross(a1, a0), dim=-1, eps=1e-12)
    scale = (first.norm(dim=-1) + (a2 * second).sum(-1).abs()) / 2
    return torch.stack((a0, a1, a2), -1), scale, (v0 + v1 + v2) / 3


def normals_of(corners: Tensor) -> Tensor:
    """[..., 3] unit normals of triangles [..., 3, 3], out of the side that sees the corners counter-clockwise."""
    a, b, c = corners.unbind(-2)
    return normalize(torch.linalg.cross(b - a, c - a), dim=-1)


def to_local(points: Tensor, frames: Frames, triangles: Tensor) -> Tensor:
    """Points [M, 3] of head space in the `frames` of their `triangles` [M]: [M, 3], in units of those' scale."""
    rotation, scale, centre = (value[triangles] for value in frames)
    return ((points - centre)[:, :, None] * rotation).sum(1) / scale[:, None]


def turn_to_local(directions: Tensor, frames: Frames, triangles: Tensor) -> Tensor:
    """Directions [M, 3] of head space in the `frames` of their `triangles` [M], as long as they are."""
    return (frames[0][triangles] * directions[:, :, None]).sum(1)


def to_head(local: Tensor, frames: Frames, triangles: Tensor) -> Tensor:
    """The inverse of `to_local`: [M, 3] metres in head space."""
    rotation, scale, centre = (value[triangles] for value in frames)
    return scale[:, None] * (rotation * local[:, None]).sum(-1) + centre


def no_turns(count: int, device: torch.device) -> Tensor:
    """Quaternions [count, 4] wxyz of no rotation."""
    turns = torch.zeros(count, 4, device=device)
    turns[:, 0] = 1
    return turns


def matrix_to_quaternion(matrix: Tensor) -> Tensor:
    """Unit quaternions [..., 4] wxyz of rotation matrices [..., 3, 3]: of four formulas the best conditioned."""
    m00, m01, m02, m10, m11, m12, m20, m21, m22 = matrix.flatten(-2).unbind(-1)
    candidates = torch.stack(
        (
            torch.stack((1 + m00 + m11 + m22, m21 - m12, m02 - m20, m10 - m01), -1),
            torch.stack((m21 - m12, 1 + m00 - m11 - m22, m10 + m01, m02 + m20), -1),
            torch.stack((m02 - m20, m10 + m01, 1 - m00 + m11 - m22, m12 + m21), -1),
            torch.stack((m10 - m01, m02 + m20, m12 + m21, 1 - m00 - m11 + m22), -1),
        ),
        -2,
    )  # [..., 4 candidates, 4]
    a, b, c, d = torch.diagonal(candidates, dim1=-2, dim2=-1).detach().unbind(-1)
    later = torch.maximum(c, d) > torch.maximum(a, b)
    best = torch.where(later, 2 + (d > c).long(), (b > a).long())  # argmax of four takes six times as long
    picked = candidates.gather(-2, best[..., None, None].expand(*best.shape, 1, 4))[..., 0, :]
    return normalize(picked, dim=-1)


def rotation_and_log_scale(covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Quaternions [G, 4] wxyz and logarithms [G, 3] of standard deviations of covariances [G, 3, 3]."""
    size, axes = torch.linalg.eigh(covariance)
    axes[..., 0] *= torch.linalg.det(axes)[:, None]  # a rotation
    return matrix_to_quaternion(axes), size.clamp(min=1e-12).log() / 2


def multiply_quaternions(a: Tensor, b: Tensor) -> Tensor:
    """Hamilton product of wxyz quaternions [..., 4]: the rotation b followed by a."""
    aw, ax, ay, az = a.unbind(-1)
    bw, bx, by, bz = b.unbind(-1)
    return torch.stack(
        (
            aw * bw - ax * bx - ay * by - az * bz,
            aw * bx + ax * bw + ay * bz - az * by,
            aw * by - ax * bz + ay * bw + az * bx,
            aw * bz + ax * by - ay * bx + az * bw,
        ),
        -1,
    )
