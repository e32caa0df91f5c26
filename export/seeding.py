"""Gaussians that start from photos: pixels are laid on what they show of the rig, or of hair and clothes off it."""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from mvp4d.core.heads.model import EYES, INTERIOR
from mvp4d_export.avatar import GAUSSIAN_TENSORS, Avatar
from mvp4d_export.harmonics import even_harmonics
from mvp4d_export.initialise import OPACITY, hang, nearest
from mvp4d_export.photo_depth import PhotoDepth
from mvp4d_export.photos import Photos, Picture
from mvp4d_export.rig import Pose
from mvp4d_export.triangles import no_turns, to_head, to_local, triangle_frames
from mvp4d_export.visibility import claims, outer_parts, parts_named, triangle_parts

CELL = 6  # pixels a side of the squares that a photo is cut into: one Gaussian each where it is plain, four where not
SMOOTH = 0.012  # of a picture's side over which depth off the rig is averaged to tell its slope
SAME_PLACE = 0.004  # metres between seeds of two photos that show the same
SOLID = 0.9  # alpha of a pixel that gets a Gaussian
GRAZING = 0.3  # cosine below which a surface gets none: seen from elsewhere, its Gaussians would part
FLAT = 0.3  # thickness of a Gaussian over its width
WIDTH = 0.55  # standard deviation of a Gaussian over the spacing


@dataclasses.dataclass(frozen=True)
class Seeds:
    """M points of one photo.

    Attributes:
      points: [M, 3] head space, posed as in the photo. colours: [M, 3]. size: [M] metres, standard deviation.
      part: [M] the rig's part, -1 off the rig. quality: [M] how squarely the photo sees them.
    """

    points: Tensor
    colours: Tensor
    size: Tensor
    part: Tensor
    quality: Tensor


def _append(avatar: Avatar, binding: Tensor, tensors: dict[str, Tensor]) -> None:
    avatar.set_gaussians(
        torch.cat((avatar.binding, binding)),
        {name: torch.cat((getattr(avatar, name).detach(), tensors[name])) for name in GAUSSIAN_TENSORS},
    )


@torch.no_grad()
def seed_from_photos(
    avatar: Avatar,
    photos: Photos,
    depths: list[PhotoDepth],
    mouths: list[Tensor],
    budget: int,
    seed: int,
    avoid: Tensor,
) -> int:
    """Adds up to `budget` Gaussians where photos show the person, but for their `mouths` [S, S] and triangles to
    `avoid` [T].

    Where several photos show a place, the one whose claim weighs most gives its Gaussians.

    Returns:
      how many were added.
    """
    found = []
    for index, picture in enumerate(photos.pictures):
        pose = photos.pose[index : index + 1]
        generator = torch.Generator().manual_seed(seed * 1000 + index)
        seeds = _seeds(avatar, pose, photos.viewmats[index], picture, depths[index], mouths[index], budget, generator)
        found.append((pose, seeds))
    bound = [_bound(avatar, pose, seeds) for pose, seeds in found]
    stay = _best_view(avatar, bound, [seeds.quality for _, seeds in found], photos.reference)
    stay = [kept & ~avoid[part["binding"]] for part, kept in zip(bound, stay)]
    binding = torch.cat([part["binding"][kept] for part, kept in zip(bound, stay)])
    new = {name: torch.cat([part[name][kept] for part, kept in zip(bound, stay)]) for name in GAUSSIAN_TENSORS}
    if len(binding) > budget:
        chosen = torch.randperm(len(binding), generator=torch.Generator().manual_seed(seed))[:budget].to(binding.device)
        binding, new = binding[chosen], {name: value[chosen] for name, value in new.items()}
    _append(avatar, binding, new)
    return len(binding)


def _seeds(
    avatar: Avatar,
    pose: Pose,
    viewmat: Tensor,
    picture: Picture,
    shown: PhotoDepth,
    mouth: Tensor,
    budget: int,
    generator: torch.Generator,
) -> Seeds:
    """One point per cell of a photo, four where it shows detail, as the budget allows."""
    surface, depth = shown.surface, shown.depth
    facing = torch.where(shown.off, _slope(torch.where(shown.off, depth, torch.inf), picture), surface.facing)
    part = torch.where(surface.face >= 0, avatar.rig.face_parts[surface.face.clamp(min=0)], -1)
    part[shown.off] = -1
    hidden = parts_named(avatar.rig.part_names, INTERIOR).to(viewmat.device)
    interior = (part >= 0) & hidden[part.clamp(min=0)]
    usable = (picture.alpha > SOLID) & (picture.known > 0) & torch.isfinite(depth) & ~interior & ~mouth.bool()
    usable &= facing > GRAZING
    rows, columns, spacing = _choose(picture, usable, budget, generator)
    z = depth[rows, columns]
    ray = torch.stack(
        (
            (columns + 0.5 - picture.K[0, 2]) / picture.K[0, 0],
            (rows + 0.5 - picture.K[1, 2]) / picture.K[1, 1],
            torch.ones_like(z),
        ),
        1,
    )
    matrix = viewmat @ pose.head_matrix()[0]
    points = (ray * z[:, None] - matrix[:3, 3]) @ matrix[:3, :3]  # inverse of a rigid transform
    quality = facing[rows, columns]
    size = WIDTH * spacing * z / picture.K[0, 0] / quality
    smooth = avg_pool2d((picture.rgb * picture.alpha[..., None]).permute(2, 0, 1), 3, 1, 1)
    smooth = smooth / avg_pool2d(picture.alpha[None], 3, 1, 1).clamp(min=1e-3)
    return Seeds(points, smooth[:, rows, columns].T, size, part[rows, columns], quality)


def _slope(depth: Tensor, picture: Picture) -> Tensor:
    """[S, S] cosine between the line of sight and the normal of a smoothed depth [S, S]; 0 where it ends."""
    finite = torch.isfinite(depth)
    reach = max(1, round(SMOOTH * picture.side))
    stacked = torch.stack((torch.where(finite, depth, 0), finite.float()))[:, None]
    mean, share = avg_pool2d(stacked, 2 * reach + 1, 1, reach)[:, 0]
    smooth = mean / share.clamp(min=1e-6)
    step = smooth / picture.K[0, 0]  # metres between neighbouring pixels
    down, across = torch.gradient(smooth)
    cosine = (1 + (down / step).square() + (across / step).square()).rsqrt()
    return torch.where(finite, cosine, torch.zeros_like(cosine))


def _choose(picture: Picture, usable: Tensor, budget: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Rows, columns [M] of chosen pixels, and pixels [M] between them."""
    side, device = picture.side, usable.device
    grey = picture.rgb.mean(-1)
    mean, square = (avg_pool2d(value[None, None], CELL, CELL, ceil_mode=True)[0, 0] for value in (grey, grey.square()))
    detail = (square - mean.square()).clamp(min=0).sqrt()
    inside = avg_pool2d(usable.float()[None, None], CELL, CELL, ceil_mode=True)[0, 0] > 0
    fine_cells = max(0, (budget - int(inside.sum())) // 3)
    threshold = torch.where(inside, detail, torch.zeros_like(detail)).flatten().sort(descending=True).values
    fine = inside & (detail > threshold[min(fine_cells, len(threshold) - 1)])
    chosen = []
    for subset, step in ((inside & ~fine, CELL), (fine, CELL // 2)):
        grid = subset.repeat_interleave(CELL // step, 0).repeat_interleave(CELL // step, 1).nonzero()
        jitter = torch.randint(0, step, grid.shape, generator=generator).to(device)
        pixels = grid * step + jitter
        pixels = pixels[(pixels < side).all(1)]
        pixels = pixels[usable[pixels[:, 0], pixels[:, 1]]]
        chosen.append(torch.cat((pixels, torch.full_like(pixels[:, :1], step)), 1))
    rows, columns, spacing = torch.cat(chosen).unbind(1)
    return rows, columns, spacing.float()


def project_points(points: Tensor, matrix: Tensor, K: Tensor) -> tuple[Tensor, Tensor]:
    """Pixels [M, 2] and depth [M] of points [M, 3] under a rigid matrix [4, 4] to the camera."""
    camera = points @ matrix[:3, :3].T + matrix[:3, 3]
    pixels = camera @ K.T
    return pixels[:, :2] / pixels[:, 2:].clamp(min=1e-6), camera[:, 2]


def _bound(avatar: Avatar, pose: Pose, seeds: Seeds) -> dict[str, Tensor]:
    """Seeds on their nearest triangle of the same part: `binding` and the Gaussians' tensors.

    Those off the rig `hang` where they hang.
    """
    frames = triangle_frames(avatar.vertices(pose), avatar.mesh_faces)
    _, scale, centre = frames
    part = triangle_parts(avatar)
    names, device = avatar.rig.part_names, avatar.device
    eyes = parts_named(names, EYES).to(device)
    outside = outer_parts(avatar)[part]
    binding = torch.zeros(len(seeds.points), dtype=torch.int64, device=avatar.device)
    for wanted in seeds.part.unique().tolist():
        chosen = seeds.part == wanted
        if wanted < 0:
            binding[chosen] = hang(avatar, seeds.points[chosen], centre, outside)
            continue
        own = part == wanted
        if not own.any() and eyes[wanted]:
            own = eyes[part]
        own = (own if own.any() else outside).nonzero()[:, 0]
        binding[chosen] = own[nearest(seeds.points[chosen], centre[own])[1]]
    local = to_local(seeds.points, frames, binding)
    size = seeds.size[:, None].repeat(1, 3)
    size[:, 1] *= torch.where(seeds.part < 0, 1.0, FLAT)  # thin along the triangle's normal
    count = len(binding)
    opacity = torch.full((count,), math.log(OPACITY / (1 - OPACITY)), device=device)
    return {
        "binding": binding,
        "position": local,
        "rotation": no_turns(count, device),
        "log_scale": (size / scale[binding, None]).log(),
        "logit_opacity": opacity,
        "harmonics": even_harmonics(seeds.colours.clamp(0.01, 0.99), avatar.config.harmonic_count),
    }


def _best_view(avatar: Avatar, bound: list[dict[str, Tensor]], qualities: list[Tensor], reference: int) -> list[Tensor]:
    """Which seeds [M] of each photo stay: those with no seed of a photo beside them whose claim weighs more.

    Places are compared in the rest pose, where all photos agree.
    """
    frames = triangle_frames(avatar.gather(avatar.rig.template), avatar.mesh_faces)
    rest = [to_head(part["position"], frames, part["binding"]) for part in bound]
    qualities = [
        claims(avatar, part["binding"], places, quality, index == reference)
        for index, (part, places, quality) in enumerate(zip(bound, rest, qualities))
    ]
    stay = [torch.ones_like(quality, dtype=torch.bool) for quality in qualities]
    for this in range(len(bound)):
        for other in range(len(bound)):
            if other != this and len(rest[this]) and len(rest[other]):
                distance, index = nearest(rest[this], rest[other])
                ahead = qualities[other][index] + (1e-6 if other < this else 0) > qualities[this]
                stay[this] &= ~((distance < SAME_PLACE) & ahead)
    return stay
