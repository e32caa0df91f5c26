"""What lies at the rim of a photo, hair, clothes and skin: from beside it is as even as what is around it.

Along its lines of sight a photo says nothing, and its own pixels need dark and light Gaussians there, one behind the
other: it shows strands, views from beside a field of dots. A generated view is too coarse to tell dots from their mean.
On skin that turns away from a photo, pixels of what lies behind it or beside it are dots likewise.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage
from scipy.spatial import cKDTree
from torch import Tensor

from mvp4d_export.avatar import Avatar
from mvp4d_export.harmonics import SH_0, colour_of_sh
from mvp4d_export.photos import Picture
from mvp4d_export.rig import Pose
from mvp4d_export.seeding import project_points
from mvp4d_export.visibility import smoothstep

BALL = 0.09  # metres: radius of a head with its hair
HAIR_RIM = (0.35, 0.8)  # cosines at which it faces the photo: colours are the mean around, their own
SKIN_RIM = (0.2, 0.5)  # the same of skin, which has a surface to ask
EAR_RIM = (0.4, 0.7)  # the same of ears, whose folds a photo shows in part and from all angles: flecks from beside
SKIN_DOTS = (0.2, 0.4)  # differences in colour from skin around, between which skin becomes a dot
DARK = 0.3  # brightness around below which such differences shrink with it: light dots stand out in dark hair
AROUND = 0.006  # metres: standard deviation of that mean
NEIGHBOURS = 64  # Gaussians that it is of
AT_ONCE = 8192  # such means: their harmonics take 100 MB, those of all Gaussians gigabytes


@torch.no_grad()
def outline_cosine(avatar: Avatar, picture: Picture, pose: Pose, viewmat: Tensor) -> Tensor:
    """[G] cosine at which a ball of a head's size faces a photo's camera [4, 4] where Gaussians lie, by how far their
    pixels are from the person's outline: hair has no surface of its own to ask."""
    inside = ((picture.alpha > 0.5) | (picture.known == 0)).cpu().numpy()
    if inside.all():  # no outline, which all that it shows is off
        return torch.ones(avatar.gaussian_count, device=avatar.device)
    away = ndimage.distance_transform_edt(np.pad(inside, 1, constant_values=True))[1:-1, 1:-1]
    means = avatar.splats(avatar.vertices(pose)).means
    pixels, depth = project_points(means, viewmat @ pose.head_matrix()[0], picture.K)
    column, row = pixels.floor().long().clamp(0, picture.side - 1).unbind(1)
    metres = torch.from_numpy(away).to(pixels)[row, column] * depth / picture.K[0, 0]
    share = (metres / BALL).clamp(0, 1)
    return (share * (2 - share)).sqrt()


@torch.no_grad()
def even_rim(
    avatar: Avatar,
    among: Tensor,
    cosine: Tensor,
    passage: tuple[float, float] = HAIR_RIM,
    counts: Tensor | None = None,
    dots: tuple[float, float] | None = None,
) -> None:
    """Gives Gaussians the mean colour around them as far as photos see them from beside.

    Args:
      among: [G] bool, those that the mean is of and that may change. cosine: [G] how squarely photos see them.
      passage: cosines at which colours are the mean around, their own.
      counts: [G] what each weighs in the mean, beside its size and opacity.
      dots: distances from that mean, of the channel that differs most, at which a colour stays and is a dot; less in
        the dark. All that photos see from beside change where none are given.
    """
    chosen = among.nonzero()[:, 0]
    share = smoothstep(cosine[chosen], *passage)
    beside = (share < 1).nonzero()[:, 0]  # [B] of them; the others keep their colours
    if len(chosen) < 2 or not len(beside):
        return
    splats = avatar.splats(avatar.gather(avatar.rig.template))
    places = splats.means[chosen].cpu().numpy()
    size = splats.scales.sort(1).values[:, 1:].prod(1) * splats.opacities
    size = size if counts is None else size * counts
    distance, index = cKDTree(places).query(places[beside.cpu().numpy()], min(NEIGHBOURS, len(places)))  # [B, K]
    near = torch.from_numpy(np.exp(-((distance / AROUND) ** 2) / 2)).to(size)
    index = torch.from_numpy(index).to(chosen)
    weights = near * size[chosen][index]
    own = avatar.harmonics[chosen]
    sums = [
        (weight[..., None] * own.flatten(1)[around]).sum(1)
        for weight, around in zip(weights.split(AT_ONCE), index.split(AT_ONCE))
    ]
    mean = torch.cat(sums) / weights.sum(1, keepdim=True).clamp(min=1e-20)
    own, share = own[beside], share[beside]
    mean = mean.view_as(own)
    if dots is not None:
        differs = SH_0 * (own - mean)[:, 0].abs().amax(1)
        around = colour_of_sh(mean[:, 0]).mean(1).clamp(1e-3, DARK)
        share = 1 - (1 - share) * smoothstep(differs * DARK / around, *dots)
    avatar.harmonics[chosen[beside]] = torch.lerp(mean, own, share[:, None, None])
