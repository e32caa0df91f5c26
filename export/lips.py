"""Lips where photos are fitted: laid densely on the rig's own, on triangles that carry them as the rig moves.

A photo's pixels near the line between the lips are a few millimetres off the fitted head's, and the UV remesh is coarse
there: Gaussians that start from pixels would tear where the lips part.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from mvp4d.core.heads.model import EYES, INTERIOR
from mvp4d_export.avatar import GAUSSIAN_TENSORS, Avatar
from mvp4d_export.hidden import areas_of, followed, scattered, surface_tensors
from mvp4d_export.initialise import nearest
from mvp4d_export.visibility import gaussians_of, parts_named, triangle_parts

LIPS = ("lips",)
SPACING = 0.0009  # metres between Gaussians of the lips where these motions stretch them most
MOST_STRETCH = 3.0  # by which they count as stretched
MOTIONS = 4  # expressions that move lips most, which their triangles must follow
MISS = 0.0015  # metres by which they may miss that
LIP_REACH = 0.006  # metres from lips that are beside them


@torch.no_grad()
def seed_lips(avatar: Avatar) -> int:
    """Puts dense Gaussians, without colours yet, in the place of those of the lips; returns how many: the last ones."""
    rig = avatar.rig
    lips = parts_named(rig.part_names, LIPS).to(avatar.device)
    chosen = lips[rig.face_parts].nonzero()[:, 0]
    if not len(chosen):
        return 0
    corners = rig.template[rig.faces[chosen]]
    vertices = rig.faces[chosen].unique()
    reach = torch.stack([basis[vertices].norm(dim=1).mean() for basis in rig.expression_basis])
    heads = [rig.template + rig.expression_basis[i] for i in reach.topk(min(MOTIONS, len(reach))).indices.tolist()]
    stretched = torch.stack([areas_of(head[rig.faces[chosen]]) for head in (rig.template, *heads)]).amax(0)
    spacing = SPACING * (areas_of(corners) / stretched.clamp(min=1e-12)).sqrt().clamp(min=1 / MOST_STRETCH)
    points, triangle, inside = scattered(corners, spacing, torch.Generator().manual_seed(0))
    there = [(inside[..., None] * head[rig.faces[chosen[triangle]]]).sum(1) for head in heads]
    outside = ~parts_named(rig.part_names, (*INTERIOR, *EYES)).to(avatar.device)[triangle_parts(avatar)]
    binding, off = followed(avatar, [rig.template, *heads], [points, *there], outside.nonzero()[:, 0])
    a, b, c = corners.unbind(1)
    normal = normalize(torch.linalg.cross(b - a, c - a), dim=1)[triangle]
    tensors = surface_tensors(avatar, rig.template, binding, points, normal, torch.full_like(points, 0.5), SPACING)
    near = off < MISS
    keep = ~gaussians_of(avatar, LIPS)
    avatar.set_gaussians(
        torch.cat((avatar.binding[keep], binding[near])),
        {name: torch.cat((getattr(avatar, name).detach()[keep], tensors[name][near])) for name in GAUSSIAN_TENSORS},
    )
    return int(near.sum())


@torch.no_grad()
def around_lips(avatar: Avatar) -> Tensor:
    """[G] bool: Gaussians on the lips and beside them."""
    rig = avatar.rig
    chosen = parts_named(rig.part_names, LIPS).to(avatar.device)[rig.face_parts]
    if not chosen.any():
        return torch.zeros(avatar.gaussian_count, dtype=torch.bool, device=avatar.device)
    means = avatar.splats(avatar.gather(rig.template)).means
    near = nearest(means.detach(), rig.template[rig.faces[chosen].unique()])[0] < LIP_REACH
    return near & ~gaussians_of(avatar, INTERIOR)
