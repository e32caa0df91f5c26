"""Eyes that no photo shows open: the head's own, as the inside of a mouth that no photo shows.

Views that are generated from a photo of shut eyes know nothing of them: what they draw between open lids is dark skin.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mvp4d.core.heads.model import EYES
from mvp4d_export.avatar import GAUSSIAN_TENSORS, Avatar
from mvp4d_export.hidden import BRIGHT, in_light, skin_beside_eyes
from mvp4d_export.initialise import nearest
from mvp4d_export.laid import FADED, areas_of, scattered, surface_tensors
from mvp4d_export.triangles import normals_of, triangle_frames
from mvp4d_export.visibility import gaussians_of, parts_named, smoothstep

# Straight colours in the light of a face as bright as `hidden.BRIGHT`; the commonest iris is brown.
WHITE, IRIS, PUPIL = (0.80, 0.77, 0.74), (0.26, 0.17, 0.11), (0.05, 0.04, 0.04)
SEEN = 0.5  # how well a photo shows a Gaussian that counts as seen
FEW = 20  # Gaussians of an eye below which they cannot show one
ASIDE, ASIDE_SHADE = 0.35, 0.55  # cosine to the line of sight below which an eye is behind lids, and its light there
PUPIL_SHARE = 0.35  # of an iris's radius: 4.2 of 12 mm
EDGE = 0.0006  # metres over which iris passes into white


@torch.no_grad()
def unseen_eyes(avatar: Avatar, shown: Tensor) -> list[Tensor]:
    """[G] bool for each eye where no photo shows any of an iris; `shown` [G] tells how well one shows each Gaussian.

    None where a part of one iris is seen: views that are made from it know the other, and its colour. None of heads
    whose parts do not tell irises apart, and of eyes of too few Gaussians.
    """
    told = parts_named(avatar.rig.part_names, ("iris",)).to(avatar.device)[avatar.rig.face_parts]
    seen = gaussians_of(avatar, ("iris", "pupil")) & (shown > SEEN)
    if not told.any() or seen.any():
        return []
    eyes, left = gaussians_of(avatar, EYES), avatar.splats(avatar.gather(avatar.rig.template)).means[:, 0] >= 0
    return [eyes & side for side in (left, ~left) if int((eyes & side).sum()) >= FEW]


@torch.no_grad()
def lay_eye(avatar: Avatar, own: Tensor) -> None:
    """Spreads an eye's Gaussians, [G] bool, over the front of the head's own, white, iris and pupil in the light of the
    skin around it."""
    rig, places = avatar.rig, own.nonzero()[:, 0]
    left = bool(avatar.splats(avatar.gather(rig.template)).means[places, 0].mean() >= 0)

    def corners_of(*words: str) -> Tensor:
        corners = rig.template[rig.faces[parts_named(rig.part_names, words).to(avatar.device)[rig.face_parts]]]
        return corners[(corners.mean(1)[:, 0] >= 0) == left]

    corners = corners_of(*EYES)
    normals = normals_of(corners)
    corners, normals = corners[normals[:, 2] > ASIDE], normals[normals[:, 2] > ASIDE]
    spacing = math.sqrt(float(areas_of(corners).sum()) / len(places))
    points, triangle, _ = scattered(corners, spacing, torch.Generator().manual_seed(0))
    count = min(len(points), len(places))
    order = torch.randperm(len(points), generator=torch.Generator().manual_seed(1))[:count].to(points.device)
    points, normal = points[order], normals[triangle[order]]

    iris = corners_of("iris", "pupil").flatten(0, 1)
    middle = (iris.amin(0) + iris.amax(0)) / 2
    radius = float((iris - middle)[:, :2].norm(dim=1).amax())
    colours = _colours(avatar, middle, (points - middle)[:, :2].norm(dim=1), radius)
    light = ASIDE_SHADE + (1 - ASIDE_SHADE) * smoothstep(normal[:, 2], ASIDE, 1.0)

    among = avatar.binding[places].unique()
    frames = triangle_frames(avatar.gather(rig.template), avatar.mesh_faces)
    bound = among[nearest(points, frames[2][among])[1]]
    laid = surface_tensors(avatar, rig.template, bound, points, normal, colours * light[:, None], spacing)
    binding = avatar.binding.clone()
    binding[places[:count]] = bound
    tensors = {name: getattr(avatar, name).detach().clone() for name in GAUSSIAN_TENSORS}
    for name, values in laid.items():
        tensors[name][places[:count]] = values
    tensors["logit_opacity"][places[count:]] = FADED
    avatar.set_gaussians(binding, tensors)


def _colours(avatar: Avatar, middle: Tensor, off: Tensor, iris: float) -> Tensor:
    """[M, 3] colours at metres `off` [M] from the middle [3] of an iris of that radius, in the light of the skin beside
    that eye."""
    nearby = skin_beside_eyes(avatar, avatar.harmonics.new_full((3,), BRIGHT))
    face = nearby[torch.stack([place for place, _ in nearby]).sub(middle).norm(dim=1).argmin()][1]
    white, brown, black = (in_light(colour, face) for colour in (WHITE, IRIS, PUPIL))
    outside, inside = (smoothstep(off, radius - EDGE, radius + EDGE)[:, None] for radius in (iris, PUPIL_SHARE * iris))
    return torch.lerp(torch.lerp(black, brown, inside), white, outside)
