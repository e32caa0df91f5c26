"""Eyes that a photo shows: laid on the head's own, in the photo's colours, whole under the lids.

A fit would share what a photo shows of an eye among the eye and what stands before it, lashes and lids. From beside
these slide over it: an iris that is black from the front is grey or orange there.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, grid_sample, max_pool2d, normalize

from mvp4d.core.heads.model import EYES
from mvp4d_export.avatar import GAUSSIAN_TENSORS, Avatar
from mvp4d_export.hidden import in_light
from mvp4d_export.initialise import nearest
from mvp4d_export.laid import scattered, surface_tensors
from mvp4d_export.photo_fit import LIMITS, PhotoFit
from mvp4d_export.photos import Picture
from mvp4d_export.projection import camera_centre
from mvp4d_export.rig import Pose
from mvp4d_export.seeding import project_points
from mvp4d_export.triangles import normals_of, triangle_frames
from mvp4d_export.unseen_eyes import WHITE
from mvp4d_export.visibility import OTHERS, gaussians_of, parts_named, rig_surface, smoothstep, triangle_parts

IRIS = ("iris", "pupil")
FRONT = 0.05  # cosine to the front from which an eye is laid: the rest is never to be seen
IRIS_SPACING, WHITE_SPACING = 0.00045, 0.0009  # metres between Gaussians of the iris and around it, and of the white
LIDS = 0.0005  # metres beside lids, at least a pixel, where a photo's colours are lashes' and skin's too
GRAZING = (0.15, 0.45)  # cosines between which a photo tells the colours of an eye
LEAST = 0.2  # share of the iris that a photo must show
SEEN, ALONE = 0.5, 0.9  # weight of what counts as seen, and as seen with nothing else
RING = 0.08  # of the iris's radius over which colours of its rings are averaged
BRIGHTEST, DARKER = 0.9, (0.65, 0.9)  # quantile of a white's brightness, and shares of it between which it is lids
FEW, UNSEEN_SHADE = 5.0, 0.95  # points that tell little of a white; light on one that none tells
BEHIND, SUNK, SHADOW = 0.002, 0.001, 0.6  # metres over which a white passes behind lids, how deep, its light there
AROUND = 0.0015  # metres over which the white's colours are averaged where none is seen
EDGE = 1.1  # radii of the iris to beyond its edge
OUTER = 1.35  # radii of the iris within which the white beside it tells where it is
REACH, STEP = 0.002, 0.00025  # metres by which a fitted gaze may be off, and in which steps it is looked for
LEAST_CONTRAST = 0.1  # of brightness, in [0, 1], between white and iris: less tells no gaze
PULL = 0.05  # of its contrast that a gaze loses where it is as far off as it may be


@dataclasses.dataclass(frozen=True)
class Eye:
    """Points on the front of one eye of the head.

    Attributes:
      side: 0 the head's own left one, 1 the right one.
      corners: [M, 3] vertices of their triangles. weights: [M, 3] where in them they lie.
      off: [M] metres from the middle of the iris, of radius `iris`, across the line forward. normal: [M, 3] at rest.
      spacing: [M] metres between them.
    """

    side: int
    corners: Tensor
    weights: Tensor
    off: Tensor
    iris: float
    normal: Tensor
    spacing: Tensor

    def at(self, vertices: Tensor) -> Tensor:
        """[M, 3] the points on the rig's vertices [N, 3]."""
        return (self.weights[..., None] * vertices[self.corners]).sum(1)


@torch.no_grad()
def seed_eyes(fit: PhotoFit, face: Tensor) -> int:
    """Puts laid eyes in the place of the Gaussians of those that a photo shows; moves its gaze to the iris there.

    None of heads whose parts do not tell irises apart.

    Args:
      face: [3] the skin's colour in the photo, which tells the light on a white that it does not show.

    Returns:
      how many Gaussians are laid: the last ones.
    """
    avatar, laid = fit.avatar, []
    keep = torch.ones(avatar.gaussian_count, dtype=torch.bool, device=avatar.device)
    rest = avatar.splats(avatar.gather(avatar.rig.template)).means
    if not parts_named(avatar.rig.part_names, ("iris",)).to(avatar.device)[avatar.rig.face_parts].any():
        return 0
    for side in (0, 1):
        eye = _front(avatar, side)
        if eye is None:
            continue
        areas = [_area(fit, index, eye) for index in range(len(fit.photos.pictures))]
        best = areas.index(max(areas))
        if areas[best] < LEAST * math.pi * eye.iris**2:
            continue
        _centre(fit, best, eye)
        hidden = _hidden(fit, best, eye)
        laid.append(_laid(avatar, eye, _colours(fit, best, eye, face, hidden), hidden))
        keep &= ~(gaussians_of(avatar, EYES) & ((rest[:, 0] >= 0) == (side == 0)))
    tensors = {
        name: torch.cat([getattr(avatar, name).detach()[keep], *(part[name] for _, part in laid)])
        for name in GAUSSIAN_TENSORS
    }
    avatar.set_gaussians(torch.cat([avatar.binding[keep], *(binding for binding, _ in laid)]), tensors)
    return sum(len(binding) for binding, _ in laid)


def _front(avatar: Avatar, side: int) -> Eye | None:
    """Scatters points over what may be seen of an eye; None: the head has none with an iris there."""
    rig = avatar.rig

    def triangles(*words: str) -> Tensor:
        chosen = rig.faces[parts_named(rig.part_names, words).to(avatar.device)[rig.face_parts]]
        return chosen[(rig.template[chosen].mean(1)[:, 0] >= 0) == (side == 0)]

    iris = rig.template[triangles(*IRIS)].flatten(0, 1)
    if not len(iris):
        return None
    middle = (iris.amin(0) + iris.amax(0)) / 2
    radius = float((iris - middle)[:, :2].norm(dim=1).amax())
    faces = triangles(*EYES)
    normal = normals_of(rig.template[faces])
    faces, normal = faces[normal[:, 2] > FRONT], normal[normal[:, 2] > FRONT]
    corners = rig.template[faces]
    inner = (corners.mean(1) - middle)[:, :2].norm(dim=1) < OUTER * radius
    spacing = torch.where(inner, IRIS_SPACING, WHITE_SPACING)
    points, triangle, weights = scattered(corners, spacing, torch.Generator().manual_seed(side))
    off = (points - middle)[:, :2].norm(dim=1)
    return Eye(side, faces[triangle], weights, off, radius, normal[triangle], spacing[triangle])


def _area(fit: PhotoFit, index: int, eye: Eye) -> float:
    """Square metres of an iris that a photo shows, less for others than the reference."""
    picture, (pose, viewmat) = fit.photos.pictures[index], fit.view(index)
    pixels = _seen_at(fit, eye, pose, viewmat, picture)[0]
    inside = _sample(_between_lids(fit, index, eye)[None].float(), pixels, picture.side)[0] > SEEN
    iris = eye.off < eye.iris
    share = float((inside & iris).sum() / iris.sum())
    return share * math.pi * eye.iris**2 * (1 if index == fit.photos.reference else OTHERS)


def _between_lids(fit: PhotoFit, index: int, eye: Eye) -> Tensor:
    """[S, S] bool: where a photo shows an eye, nothing before it."""
    avatar, picture, (pose, viewmat) = fit.avatar, fit.photos.pictures[index], fit.view(index)
    face = rig_surface(avatar, pose, viewmat, picture.K, picture.side).face
    own = parts_named(avatar.rig.part_names, EYES).to(avatar.device)[avatar.rig.face_parts]
    own &= (avatar.rig.template[avatar.rig.faces].mean(1)[:, 0] >= 0) == (eye.side == 0)
    solid = (picture.alpha > SEEN) & (picture.known > 0)
    return (face >= 0) & own[face.clamp(min=0)] & solid & ~fit.depths[index].off


def _seen_at(fit: PhotoFit, eye: Eye, pose: Pose, viewmat: Tensor, picture: Picture) -> tuple[Tensor, Tensor, Tensor]:
    """Pixels [M, 2] of the points, metres [M] to them, and cosines [M] at which they are seen."""
    vertices, matrix = fit.avatar.rig(pose)[0][0], viewmat @ pose.head_matrix()[0]
    points = eye.at(vertices)
    cosine = -(normals_of(vertices[eye.corners]) * normalize(points - camera_centre(matrix), dim=1)).sum(1)
    return *project_points(points, matrix, picture.K), cosine


def _sample(values: Tensor, pixels: Tensor, side: int) -> Tensor:
    """[C, M] values [C, S, S] at pixels [M, 2]."""
    return grid_sample(values[None], (pixels / (side / 2) - 1)[None, None], align_corners=False)[0, :, 0]


def _centre(fit: PhotoFit, index: int, eye: Eye) -> None:
    """Turns a photo's eye to where its iris is: darkest beside the white around it."""
    picture, (pose, viewmat) = fit.photos.pictures[index], fit.view(index)
    pixels, depth, _ = _seen_at(fit, eye, pose, viewmat, picture)
    pitch = float(depth.mean() / picture.K[0, 0])
    values = torch.stack((picture.rgb.mean(-1), _between_lids(fit, index, eye).float()))
    iris, ring = eye.off < eye.iris, (eye.off > eye.iris) & (eye.off < OUTER * eye.iris)
    best, shift = LEAST_CONTRAST, pixels.new_zeros(2)
    count = round(REACH / STEP)
    for row in range(-count, count + 1):
        for column in range(-count, count + 1):
            moved = pixels.new_tensor([column, row]) * (STEP / pitch)
            away = math.hypot(row, column) / count
            if away > 1:
                continue
            bright, seen = _sample(values, pixels + moved, picture.side)
            seen = (seen > ALONE).float()  # else the lids' colours are mixed in
            inside, outside = ((seen * part).sum() for part in (iris, ring))
            if min(inside, outside) < FEW:
                continue
            contrast = (bright * seen * ring).sum() / outside - (bright * seen * iris).sum() / inside
            score = float(contrast) * (1 - PULL * away**2)
            if score > best:
                best, shift = score, moved
    _turn(fit, index, eye, shift)


def _turn(fit: PhotoFit, index: int, eye: Eye, shift: Tensor) -> None:
    """Turns a photo's eye until its iris lies `shift` [2] pixels beside where it was, as far as corrections may."""
    picture, free = fit.photos.pictures[index], fit.free["eyes"].data[index, eye.side]

    def middle() -> Tensor:
        return _seen_at(fit, eye, *fit.view(index), picture)[0][eye.off < eye.iris].mean(0)

    before, start, columns = middle(), free.clone(), []
    for axis in (0, 1):
        free[axis] += STEP
        columns.append((middle() - before) / STEP)
        free.copy_(start)
    change = torch.linalg.pinv(torch.stack(columns, 1)) @ shift * LIMITS["eyes"]  # 0 for eyes without joints
    limit = 0.95 * LIMITS["eyes"]
    free[:2] = start[:2] + torch.atanh(change.clamp(-limit, limit) / LIMITS["eyes"])


def _colours(fit: PhotoFit, index: int, eye: Eye, face: Tensor, hidden: Tensor) -> Tensor:
    """[M, 3] colours of the points: a photo's where it sees them, else those of their ring of the iris, or of the white
    nearby, in shadow where lids hide it, [M]."""
    picture, (pose, viewmat) = fit.photos.pictures[index], fit.view(index)
    pixels, depth, cosine = _seen_at(fit, eye, pose, viewmat, picture)
    reach = max(1, round(LIDS * float(picture.K[0, 0] / depth.mean())))
    beside = max_pool2d(1 - _between_lids(fit, index, eye).float()[None], 2 * reach + 1, 1, reach)
    found = _sample(torch.cat((picture.rgb.permute(2, 0, 1), 1 - beside)), pixels, picture.side)
    colour, seen = found[:3].T, found[3] * smoothstep(cosine, *GRAZING)
    iris, places = eye.off < eye.iris, eye.at(fit.avatar.rig.template)
    rings = (-(eye.off[:, None] - eye.off[iris]).square() / (2 * (RING * eye.iris) ** 2)).exp() * seen[iris]
    seen = torch.where(iris, seen, seen * _whiteness(colour, seen * ~iris))
    told, count = seen * ~iris, (seen * ~iris).sum()
    white = in_light(WHITE, face)
    white = (told @ colour + FEW * UNSEEN_SHADE * white) / (count + FEW)
    whites = (torch.cdist(places, places[~iris]).square() + AROUND**2).reciprocal().square() * told[~iris]
    whites = torch.cat((whites, whites.new_full((len(whites), 1), FEW / REACH**4)), 1)
    own = torch.where(iris[:, None], _mean(rings, colour[iris]), _mean(whites, torch.cat((colour[~iris], white[None]))))
    return torch.lerp(own * (1 - (1 - SHADOW) * hidden[:, None]), colour, seen[:, None])


def _whiteness(colours: Tensor, seen: Tensor) -> Tensor:
    """[M] how far colours [M, 3] are an eye's white, given how well those of its white are seen [M]: lashes, and lids
    that are not where the fitted head has them, are darker."""
    bright, known = colours.mean(1), seen > SEEN
    if not known.any():
        return torch.zeros_like(bright)
    return smoothstep(bright / bright[known].quantile(BRIGHTEST), *DARKER)


def _mean(weights: Tensor, values: Tensor) -> Tensor:
    """[M, 3] means of values [K, 3] by weights [M, K]."""
    return weights @ values / weights.sum(1, keepdim=True).clamp(min=1e-12)


def _hidden(fit: PhotoFit, index: int, eye: Eye) -> Tensor:
    """[M] how far lids hide the white in a photo; 0 of the iris."""
    picture, (pose, viewmat) = fit.photos.pictures[index], fit.view(index)
    pixels, depth, _ = _seen_at(fit, eye, pose, viewmat, picture)
    reach = max(1, round(BEHIND * float(picture.K[0, 0] / depth.mean())))
    seen = avg_pool2d(_between_lids(fit, index, eye)[None].float(), 2 * reach + 1, 1, reach)
    return (1 - _sample(seen, pixels, picture.side)[0]) * smoothstep(eye.off / eye.iris, 1.0, EDGE)


def _laid(avatar: Avatar, eye: Eye, colours: Tensor, hidden: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Binding and tensors of an eye's Gaussians, deeper where they are `hidden` [M]: the lids' skin has no thickness,
    and a white would peep through at their corners."""
    points = eye.at(avatar.rig.template) - SUNK * hidden[:, None] * eye.normal
    centre = triangle_frames(avatar.gather(avatar.rig.template), avatar.mesh_faces)[2]
    own = parts_named(avatar.rig.part_names, EYES).to(avatar.device)[triangle_parts(avatar)]
    among = (own & ((centre[:, 0] >= 0) == (eye.side == 0))).nonzero()[:, 0]
    binding = among[nearest(points, centre[among])[1]]
    return binding, surface_tensors(avatar, avatar.rig.template, binding, points, eye.normal, colours, eye.spacing)
