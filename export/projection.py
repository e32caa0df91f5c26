"""Perspective projection of Gaussians: gsplat's conventions, in plain torch."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

EPS_2D = 0.3  # pixels squared, added to every projected covariance (gsplat `eps2d`)
ALPHA_THRESHOLD = 1.0 / 255  # fainter contributions are skipped (gsplat ALPHA_THRESHOLD)
NEAR = 0.01  # metres
MAX_EXTENT = 3.33  # standard deviations: at opacity 1 alpha falls under the threshold there


@dataclasses.dataclass
class Projected:
    """Gaussians as the views see them. V views, N Gaussians.

    Attributes:
      means2d: [V, N, 2] pixels, centre of the first pixel at 0.5.
      conics: [V, N, 3] inverse 2D covariance (xx, xy, yy).
      opacities: [V, N], times the antialiasing compensation where asked for.
      depths: [V, N] metres along the optical axis.
      extents: [V, N, 2] pixels: half sides of the box outside of which alpha is under the threshold; 0 where culled.
    """

    means2d: Tensor
    conics: Tensor
    opacities: Tensor
    depths: Tensor
    extents: Tensor


def quaternion_to_matrix(quaternions: Tensor) -> Tensor:
    """[..., 4] wxyz, any length but zero, to rotation matrices [..., 3, 3]."""
    return torch.stack(_matrix_entries(quaternions.movedim(-1, 0)), -1).reshape(quaternions.shape[:-1] + (3, 3))


def _matrix_entries(quaternions: Tensor) -> tuple[Tensor, ...]:
    """[4, ...] to the nine entries of the rotation matrices, row by row."""
    w, x, y, z = torch.nn.functional.normalize(quaternions, dim=0).unbind(0)
    return (
        1 - 2 * (y * y + z * z),
        2 * (x * y - w * z),
        2 * (x * z + w * y),
        2 * (x * y + w * z),
        1 - 2 * (x * x + z * z),
        2 * (y * z - w * x),
        2 * (x * z - w * y),
        2 * (y * z + w * x),
        1 - 2 * (x * x + y * y),
    )


def camera_centre(matrix: Tensor) -> Tensor:
    """[3] where a camera [4, 4] stands in the space that it takes points from."""
    return -matrix[:3, :3].T @ matrix[:3, 3]


def project(
    means: Tensor,
    quaternions: Tensor,
    scales: Tensor,
    opacities: Tensor,
    viewmats: Tensor,
    Ks: Tensor,
    width: int,
    height: int,
    *,
    antialiased: bool = False,
    eps2d: float = EPS_2D,
) -> Projected:
    """Projects Gaussians into views (first-order EWA splatting, as gsplat 1.5.3).

    Args:
      means: [N, 3] world, metres. quaternions: [N, 4] wxyz. scales: [N, 3] standard deviations, metres.
      opacities: [N] in [0, 1].
      viewmats: [V, 4, 4] world to camera, OpenCV axes. Ks: [V, 3, 3] pixels.
      antialiased: multiplies opacity by sqrt(det before blur / det after blur), Mip-Splatting's compensation.
    """
    # Gaussians run along the last axis: contiguous rows are what the CPU is fast at.
    views, count = len(viewmats), len(means)
    rotation, translation = viewmats[:, :3, :3], viewmats[:, :3, 3:]
    x, y, z = (rotation @ means.T + translation).unbind(1)  # [V, N] each
    in_front = z > NEAR
    z = torch.where(in_front, z, torch.ones_like(z))
    fx, fy, cx, cy = (Ks[:, i, j, None] for i, j in ((0, 0), (1, 1), (0, 2), (1, 2)))

    # The Jacobian is taken no further than 15 % of the image outside its border, as gsplat does.
    margin_x, margin_y = 0.15 * width / fx, 0.15 * height / fy
    slope_x = (x / z).clamp(min=-(cx / fx + margin_x), max=(width - cx) / fx + margin_x)
    slope_y = (y / z).clamp(min=-(cy / fy + margin_y), max=(height - cy) / fy + margin_y)
    along_x = fx / z, -fx * slope_x / z  # d u / d (x, z)
    along_y = fy / z, -fy * slope_y / z  # d v / d (y, z)
    spread = torch.stack(_matrix_entries(quaternions.T)).reshape(3, 3, count) * scales.T  # axes in columns
    spread = (rotation @ spread.reshape(3, 3 * count)).reshape(views, 3, 3, count)  # [V, 3 coordinates, 3 axes, N]
    row_u = along_x[0][:, None] * spread[:, 0] + along_x[1][:, None] * spread[:, 2]
    row_v = along_y[0][:, None] * spread[:, 1] + along_y[1][:, None] * spread[:, 2]
    xx, xy, yy = (row_u * row_u).sum(1), (row_u * row_v).sum(1), (row_v * row_v).sum(1)
    determinant_sharp = xx * yy - xy * xy
    xx, yy = xx + eps2d, yy + eps2d
    determinant = (xx * yy - xy * xy).clamp(min=1e-10)
    conics = torch.stack((yy, -xy, xx), -1) / determinant[..., None]
    means2d = torch.stack((fx * x / z + cx, fy * y / z + cy), -1)
    opacities = opacities[None].expand_as(z)
    if antialiased:
        # The floor keeps the square root's slope finite for Gaussians far thinner than a pixel.
        opacities = opacities * (determinant_sharp / determinant).clamp(min=1e-10).sqrt()
    with torch.no_grad():
        reach = (2 * (opacities / ALPHA_THRESHOLD).clamp(min=1.0).log()).sqrt().clamp(max=MAX_EXTENT)
        extents = reach[..., None] * torch.stack((xx, yy), -1).sqrt()
        inside = ((means2d + extents > 0) & (means2d - extents < means2d.new_tensor([width, height]))).all(-1)
        seen = in_front & inside & (opacities >= ALPHA_THRESHOLD) & torch.isfinite(conics).all(-1)
        extents = torch.where(seen[..., None], extents, torch.zeros_like(extents))
    return Projected(means2d, conics, opacities, z, extents)
