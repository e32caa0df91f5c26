"""Colours as spherical harmonics: gsplat's conventions, in plain torch."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

Array = Any  # tensor or numpy array

# Real spherical harmonics with the Condon-Shortley signs that 3D Gaussian splatting files use.
SH_0 = 0.5 / math.sqrt(math.pi)
_C1 = math.sqrt(3 / (4 * math.pi))
_C2 = (math.sqrt(15 / (4 * math.pi)), math.sqrt(5 / (16 * math.pi)), math.sqrt(15 / (16 * math.pi)))
_C3 = (
    math.sqrt(35 / (32 * math.pi)),
    math.sqrt(105 / (4 * math.pi)),
    math.sqrt(21 / (32 * math.pi)),
    math.sqrt(7 / (16 * math.pi)),
    math.sqrt(105 / (16 * math.pi)),
)


def sh_of_colour(colour: Array) -> Array:
    """Constant coefficients [..., 3] of colours that are the same from every side."""
    return (colour - 0.5) / SH_0


def colour_of_sh(constant: Array) -> Array:
    """Colours of constant coefficients [..., 3], without what changes from side to side."""
    return constant * SH_0 + 0.5


def even_harmonics(colour: Tensor, count: int) -> Tensor:
    """Harmonics [N, K, 3] of colours [N, 3] that are the same from every side, K = `count`."""
    harmonics = torch.zeros(len(colour), count, 3, device=colour.device)
    harmonics[:, 0] = sh_of_colour(colour)
    return harmonics


def spherical_harmonics(degree: int, directions: Tensor) -> Tensor:
    """Values of the (degree + 1)^2 basis functions, degree <= 3, at directions [..., 3]: [..., K]."""
    x, y, z = torch.nn.functional.normalize(directions, dim=-1).unbind(-1)
    values = [torch.full_like(x, SH_0)]
    if degree >= 1:
        values += [-_C1 * y, _C1 * z, -_C1 * x]
    if degree >= 2:
        xx, yy, zz = x * x, y * y, z * z
        values += [_C2[0] * x * y, -_C2[0] * y * z, _C2[1] * (3 * zz - 1), -_C2[0] * x * z, _C2[2] * (xx - yy)]
    if degree >= 3:
        values += [
            -_C3[0] * y * (3 * xx - yy),
            _C3[1] * x * y * z,
            -_C3[2] * y * (5 * zz - 1),
            _C3[3] * z * (5 * zz - 3),
            -_C3[2] * x * (5 * zz - 1),
            _C3[4] * z * (xx - yy),
            -_C3[0] * x * (xx - 3 * yy),
        ]
    return torch.stack(values, -1)


def shade(coefficients: Tensor, means: Tensor, viewmats: Tensor, degree: int) -> Tensor:
    """Colours [V, N, 3] of Gaussians with harmonics [N, K, 3] seen from cameras [V, 4, 4]; never negative.

    As in gsplat: sum of harmonics + 0.5, clamped below at zero.
    """
    if degree == 0:
        flat = colour_of_sh(coefficients[:, 0]).clamp(min=0)
        return flat[None].expand(viewmats.shape[0], -1, -1)
    centres = -(viewmats[:, :3, :3].transpose(1, 2) @ viewmats[:, :3, 3, None])[..., 0]  # [V, 3]
    basis = spherical_harmonics(degree, means.detach()[None] - centres[:, None])  # [V, N, K]
    return (torch.einsum("vnk,nkc->vnc", basis, coefficients[:, : basis.shape[-1]]) + 0.5).clamp(min=0)
