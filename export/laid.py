"""Gaussians laid on surfaces of the rig, finer than the UV remesh, on triangles of it that carry them."""

from __future__ import annotations

import torch
from scipy.spatial import cKDTree
from torch import Tensor
from torch.nn.functional import normalize

from mvp4d_export.avatar import GAUSSIAN_TENSORS, Avatar
from mvp4d_export.harmonics import even_harmonics
from mvp4d_export.triangles import (
    matrix_to_quaternion,
    multiply_quaternions,
    no_turns,
    to_head,
    to_local,
    triangle_frames,
)

CANDIDATES = 16  # triangles around a place, of which it follows one
FLAT = 0.3  # thickness of a Gaussian over its width
WIDTH = 0.7  # standard deviation of a Gaussian over the spacing
OPAQUE, FADED = 4.0, -8.0  # logits of what is laid, and of what is not to show


def surface_tensors(
    avatar: Avatar,
    head: Tensor,
    binding: Tensor,
    points: Tensor,
    normal: Tensor,
    colours: Tensor,
    spacing: float | Tensor,
) -> dict[str, Tensor]:
    """Opaque flat Gaussians at points [M, 3] of a head [N, 3], `spacing` metres apart (of each: [M]), on triangles
    `binding` [M]."""
    frames = triangle_frames(avatar.gather(head), avatar.mesh_faces)
    rotation, scale, _ = frames
    local = to_local(points, frames, binding)
    count, device = len(points), avatar.device
    size = WIDTH * points.new_tensor(1.0).mul(spacing).expand(count)[:, None].repeat(1, 3)
    across = (rotation[binding][:, :, 1] * normal).sum(1).abs() > 0.8  # the triangle lies as the surface does there
    size[across, 1] *= FLAT
    return {
        "position": local,
        "rotation": no_turns(count, device),
        "log_scale": (size / scale[binding, None]).log(),
        "logit_opacity": torch.full((count,), OPAQUE, device=device),
        "harmonics": even_harmonics(colours.clamp(0.01, 0.99), avatar.config.harmonic_count),
    }


def areas_of(corners: Tensor) -> Tensor:
    """[T] areas of triangles [T, 3, 3]."""
    return torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]).norm(dim=1) / 2


def scattered(corners: Tensor, spacing: float | Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Points [M, 3] on triangles [T, 3, 3], about `spacing` metres apart (of each triangle: [T]), the triangle [M] of
    each, and where in it: barycentric [M, 3]."""
    expected = areas_of(corners) / spacing**2
    count = (expected + torch.rand(len(expected), generator=generator).to(expected)).floor().long()
    triangle = torch.arange(len(corners), device=corners.device).repeat_interleave(count)
    corner = corners[triangle]
    u = torch.rand(len(corner), 2, generator=generator).to(corner)
    u = torch.where(u.sum(1, keepdim=True) > 1, 1 - u, u)
    weights = torch.cat((1 - u.sum(1, keepdim=True), u), 1)
    return (weights[..., None] * corner).sum(1), triangle, weights


def followed(avatar: Avatar, heads: list[Tensor], points: list[Tensor], among: Tensor) -> tuple[Tensor, Tensor]:
    """The triangles [M], of `among`, that carry points [M, 3] on the first of some heads [N, 3] best to where they are
    on the others, and the metres [M] by which they miss that at most."""
    frames = triangle_frames(avatar.gather(heads[0]), avatar.mesh_faces)
    count = min(CANDIDATES, len(among))
    _, index = cKDTree(frames[2][among].cpu().numpy()).query(points[0].cpu().numpy(), k=list(range(1, count + 1)))
    candidates = among[torch.from_numpy(index).to(among.device)]  # [M, count]
    at = candidates.flatten()
    local = to_local(points[0].repeat_interleave(count, 0), frames, at)
    off = torch.zeros_like(candidates, dtype=local.dtype)
    for head, there in zip(heads[1:], points[1:]):
        carried = to_head(local, triangle_frames(avatar.gather(head), avatar.mesh_faces), at)
        off = torch.maximum(off, (carried.view(*off.shape, 3) - there[:, None]).norm(dim=-1))
    off, best = off.min(1)
    return candidates.gather(1, best[:, None])[:, 0], off


@torch.no_grad()
def bind(avatar: Avatar, which: Tensor, binding: Tensor, vertices: Tensor) -> None:
    """Binds some Gaussians, indices [M], to other triangles [M]; on UV vertices [P, 3] they stay where and as they
    are."""
    frames = triangle_frames(vertices, avatar.mesh_faces)
    rotation, scale, _ = frames
    splats, old = avatar.splats(vertices), avatar.binding[which]
    turn = matrix_to_quaternion(rotation[binding].mT @ rotation[old])
    tensors = {name: getattr(avatar, name).detach().clone() for name in GAUSSIAN_TENSORS}
    tensors["position"][which] = to_local(splats.means[which], frames, binding)
    tensors["rotation"][which] = multiply_quaternions(turn, normalize(avatar.rotation[which], dim=-1))
    tensors["log_scale"][which] += (scale[old] / scale[binding]).log()[:, None]
    bindings = avatar.binding.clone()
    bindings[which] = binding
    avatar.set_gaussians(bindings, tensors)
