"""Lips where photos are fitted: laid densely on the rig's own, on triangles that carry them as the rig moves.

A photo's pixels near the line between the lips are a few millimetres off the fitted head's, and the UV remesh is coarse
there: Gaussians that start from pixels would tear where the lips part.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mvp4d.core.heads.model import INTERIOR
from mvp4d_export.avatar import GAUSSIAN_TENSORS, Avatar
from mvp4d_export.harmonics import SH_0, colour_of_sh
from mvp4d_export.initialise import nearest
from mvp4d_export.laid import areas_of, followed, scattered, surface_tensors
from mvp4d_export.triangles import normals_of
from mvp4d_export.visibility import gaussians_of, outer_parts, parts_named, triangle_parts

LIPS = ("lips",)
SPACING = 0.0009  # metres between Gaussians of the lips where these motions stretch them most
MOST_STRETCH = 3.0  # by which they count as stretched
MOTIONS = 4  # expressions that move lips most, which their triangles must follow
MISS = 0.0015  # metres by which they may miss that
LIP_REACH = 0.006  # metres from lips that are beside them
ALONE = 0.3  # share of those around a Gaussian that photos must show for its colour to be the lips': at the rim of what
# they show it is the mouth's dark
ALIKE, MIRRORED = 0.0015, 0.3  # metres over which lips that no photo shows have the colours of others; and how much
# less those of the other side count
AT_LARGE = 0.003  # metres over which lips have one brightness, beside ...
PARTING, PARTING_SHADE = 0.001, 0.72  # ... the line where they touch: metres that shade reaches, its light
INNER = ("inside",)  # parts: the back of lips and cheeks
INWARD, INNER_SHADE = 0.006, 0.8  # metres behind their edge over which the back of lips passes from their colour, so
# much darker, to the mouth's
FROM_BEFORE = (1.0, 1.0, 0.0)  # of a point: where it lies in sight of a camera before the face


@torch.no_grad()
def seed_lips(avatar: Avatar) -> int:
    """Puts dense Gaussians, without colours yet, in the place of those of the lips; returns how many: the last ones."""
    rig = avatar.rig
    lips = parts_named(rig.part_names, LIPS).to(avatar.device)
    chosen = lips[rig.face_parts].nonzero()[:, 0]
    if not len(chosen) or not len(rig.expression_basis):
        return 0
    corners = rig.template[rig.faces[chosen]]
    vertices = rig.faces[chosen].unique()
    reach = torch.stack([basis[vertices].norm(dim=1).mean() for basis in rig.expression_basis])
    heads = [rig.template + rig.expression_basis[i] for i in reach.topk(min(MOTIONS, len(reach))).indices.tolist()]
    stretched = torch.stack([areas_of(head[rig.faces[chosen]]) for head in (rig.template, *heads)]).amax(0)
    spacing = SPACING * (areas_of(corners) / stretched.clamp(min=1e-12)).sqrt().clamp(min=1 / MOST_STRETCH)
    points, triangle, inside = scattered(corners, spacing, torch.Generator().manual_seed(0))
    there = [(inside[..., None] * head[rig.faces[chosen[triangle]]]).sum(1) for head in heads]
    outside = outer_parts(avatar)[triangle_parts(avatar)]
    binding, off = followed(avatar, [rig.template, *heads], [points, *there], outside.nonzero()[:, 0])
    normal = normals_of(corners)[triangle]
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


@torch.no_grad()
def on_lips(avatar: Avatar) -> Tensor:
    """[G] bool: Gaussians to which a triangle of the rig's lips is the nearest of its skin."""
    rig, near = avatar.rig, around_lips(avatar)
    if not near.any():
        return near
    outside = outer_parts(avatar)[rig.face_parts]
    middles = rig.template[rig.faces[outside]].mean(1)
    lips = parts_named(rig.part_names, LIPS).to(avatar.device)[rig.face_parts[outside]]
    found = near.clone()
    found[near] = lips[nearest(avatar.splats(avatar.gather(rig.template)).means[near], middles)[1]]
    return found


@torch.no_grad()
def finish_lips(avatar: Avatar, hidden: Tensor, pitch: Tensor) -> None:
    """Evens the lips' colours as far as photos cannot tell them, and darkens the line where they part.

    Args:
      hidden: [G] bool, those that no photo shows; they take the colours of the others, of both sides.
      pitch: [G] metres of the finest pixel that saw the others: colours are means over as much.
    """
    lips = on_lips(avatar)
    places = avatar.splats(avatar.gather(avatar.rig.template)).means
    large = nearness(places[lips], places[lips], AT_LARGE)
    large = large / large.sum(1, keepdim=True)
    shown = ~hidden[lips]
    told = torch.zeros_like(lips)
    told[lips] = shown & (large @ shown.float() > ALONE)
    hidden = lips & ~told
    if not told.any():
        return
    blurred = nearness(places[told], places[told], pitch[told, None])
    mirrored = places[told] * places.new_tensor([-1.0, 1.0, 1.0])
    weight = _beside(places[hidden], places[told]) + MIRRORED * _beside(places[hidden], mirrored)
    avatar.harmonics[told] = _mean(blurred, avatar.harmonics[told])
    avatar.harmonics[hidden] = _mean(weight, avatar.harmonics[told])
    avatar.harmonics[hidden] = _mean(nearness(places[hidden], places[lips], ALIKE), avatar.harmonics[lips])  # no seam
    _part(avatar, lips, places, large)
    _turn_in(avatar, lips, places)


def _turn_in(avatar: Avatar, lips: Tensor, places: Tensor) -> None:
    """Gives the back of lips [G] bool their colour, which fades inwards: it shows as they part, no dark fringe."""
    inner = gaussians_of(avatar, INNER)
    inner[inner.clone()] = nearest(places[inner], places[lips])[0] < INWARD
    if not inner.any():
        return
    share = (1 - nearest(places[inner], places[lips])[0] / INWARD)[:, None]
    beside = _mean(nearness(places[inner], places[lips], AT_LARGE), avatar.harmonics[lips])
    own = colour_of_sh(avatar.harmonics[inner, 0])
    avatar.harmonics[inner, 0] += share * (INNER_SHADE * colour_of_sh(beside[:, 0]) - own) / SH_0


def _mean(weight: Tensor, values: Tensor) -> Tensor:
    """[M, K, 3] means of values [N, K, 3] by weights [M, N]."""
    return torch.einsum("mn,nkc->mkc", weight / weight.sum(1, keepdim=True), values)


def nearness(these: Tensor, those: Tensor, deviation: Tensor | float) -> Tensor:
    """[M, N] a Gaussian of the distance of places."""
    return (-torch.cdist(these, those).square() / (2 * deviation**2)).exp()


def _beside(these: Tensor, those: Tensor) -> Tensor:
    """[M, N] what falls with the fourth power of the distance of places."""
    return 1 / (torch.cdist(these, those).square() / ALIKE**2 + 1).square()


def _part(avatar: Avatar, lips: Tensor, places: Tensor, large: Tensor) -> None:
    """Darkens lips [G] bool, L of them, where they touch as the face is seen from before, as far as they are brighter
    there than a shadow is beside the mean [L, L] of those around."""
    line = parting(avatar)
    if not len(line):
        return
    near = 1 - (nearest(places[lips] * line.new_tensor(FROM_BEFORE), line)[0] / PARTING).clamp(max=1).square()
    brightness = colour_of_sh(avatar.harmonics[lips, 0]).mean(1)
    shade = (PARTING_SHADE * (large @ brightness) / brightness.clamp(min=1e-3)).clamp(max=1)
    gain = torch.lerp(torch.ones_like(shade), shade, near)[:, None]
    avatar.harmonics[lips, 0] = gain * avatar.harmonics[lips, 0] + (gain - 1) * 0.5 / SH_0
    avatar.harmonics[lips, 1:] *= gain[:, None]


def parting(avatar: Avatar) -> Tensor:
    """[M, 3] points of the edges where the rig's lips end at the mouth's inside, z 0."""
    rig = avatar.rig
    inside = parts_named(rig.part_names, INTERIOR).to(avatar.device)[rig.face_parts]
    lip = parts_named(rig.part_names, LIPS).to(avatar.device)[rig.face_parts]
    faces = rig.faces[lip]
    edges = torch.stack((faces, faces.roll(1, 1)), -1).flatten(0, 1)
    edges = edges[torch.isin(edges, rig.faces[inside].unique()).all(1)]
    first, second = rig.template[edges].unbind(1)
    points = [torch.lerp(first, second, share) for share in (0.0, 0.25, 0.5, 0.75)]
    return torch.cat(points) * first.new_tensor(FROM_BEFORE)
