"""Strands of hair where no photo shows it: a generated view is too coarse for more than hair's shape and colour.

They lie on the surface that the avatar's hair has from all sides, fall away from the crown and hold together in tufts.
Their brightness varies as much as that of the hair in the photos; which strand lies where, nothing tells. So they are
the same for a seed, and move with the rig.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor
from torch.nn.functional import normalize

from mvp4d.core.heads.model import HeadModel
from mvp4d.core.heads.motion import Motion
from mvp4d.core.heads.regions import CHIN, has_landmarks, landmarks_of, scalp_and_face
from mvp4d.core.ramps import smoothstep as smooth_ramp
from mvp4d.core.skin_colour import LEAST_HAIR, SkinColour, lightness_and_hue
from mvp4d_export.avatar import Avatar, Splats
from mvp4d_export.harmonics import colour_of_sh, even_harmonics
from mvp4d_export.initialise import hang
from mvp4d_export.joined import joined
from mvp4d_export.rig import Pose
from mvp4d_export.triangles import matrix_to_quaternion, to_local, triangle_frames
from mvp4d_export.visibility import outer_parts, smoothstep, triangle_parts

# The surface.
RINGS = ((0.0, 8), (45.0, 6), (80.0, 1))  # degrees up, and how many views from there
SIDE = 160  # pixels of these views
REACH = 0.05  # metres around the scalp that they show
SOLID = 0.6  # least alpha of a pixel on the surface
CELL = 0.002  # metres: one point each
AROUND = 24  # neighbours that tell a point's normal, colour and area
SPARSE = 0.008  # metres to the last of them beyond which a point lies beside the surface
TURNED = 0.3  # least cosine between a point's normal and the view that saw it
# Where strands grow.
SQUARELY = (0.3, 0.65)  # cosines between which a photo passes from losing hair's strands to showing them
UNSHOWN = (0.15, 0.7)  # share of what is seen that photos leave open
OFF_RIG = (0.008, 0.016)  # metres off the rig from which something is hair, if it has its colour
FAR = (0.10, 0.07)  # metres off the rig: beyond all hair, among it
TIPS = 0.03  # metres over which such hair ends
LONGEST = 0.12  # metres below the chin to which it may fall
WIDER = 0.01  # metres by which it may be wider below the chin than above: what lies further out is a shoulder
BEYOND = 1.0  # metres: all
JOINED = 0.008  # metres between Gaussians of one head of hair
LOWEST = 0.02  # share of these that lie below its end
PALETTE = 2000  # Gaussians that tell hair's colours, at most
NEIGHBOUR = 0.02  # share of them that are nearer in colour than the one whose distance counts
TYPICAL = 0.25  # the same share where hair is told from a collar: it is not like the darkest strands alone
ALIKE = (0.16, 0.08)  # such distances of colours in [0, 1], off the scalp: another thing's, hair's
MOST_SPREAD = (0.09, 0.06, 0.06)  # of skin's lightness and hue: more is light from one side, or a beard
FEW = 50  # Gaussians of skin, and of hair, that photos show: fewer tell nothing
LOCAL = 64  # Gaussians that tell the brightness around one
# How they look.
DENSITY = 9e4  # strands per square metre
LONG, WIDE = 0.006, 0.0006  # metres, standard deviations along and across
CROPPED = (0.007, 0.011)  # metres that half of the hair stands off the rig, from cropped to full
SHORT = 0.3  # of a strand's length, depth and tuft in cropped hair
SPREAD = 0.2  # of the logarithm of their size
DEEP, LIFT = 0.004, 0.0005  # metres over which they lie, and how far before the surface at the mean
OPACITY = 0.55
BESIDE = 0.0012  # metres, standard deviation from a point of the surface
TILT = 0.25  # at most, how much they stand off
WAVE, WAVE_SIZE = 0.3, 0.02  # radians of turn that neighbours share, and metres over which they do
STRAY = 0.12  # radians that each has of its own
TUFT = (0.014, 0.0025)  # metres along and across
PER_TUFT = 6  # strands
OVERLAID = 0.75  # share of their contrast that is left where strands lie over each other
SHARES = (0.7, 0.5, 0.4)  # of a brightness: its tuft's, its own, its height's; as lengths
DARKEST, LIGHTEST = 0.25, 2.2  # beside the hair's colour


@dataclasses.dataclass(frozen=True)
class AvatarSurface:
    """What the avatar shows from all sides, at M points.

    Attributes:
      places, normals, colours: [M, 3] in head axes at rest. unshown: [M] in [0, 1], no photo shows it squarely.
      area: [M] square metres that a point stands for. around: [M, K] its neighbours, itself included.
    """

    places: Tensor
    normals: Tensor
    colours: Tensor
    unshown: Tensor
    area: Tensor
    around: Tensor


@dataclasses.dataclass(frozen=True)
class Hair:
    """What photos tell of hair.

    Attributes:
      skin: what it is told from. colours: a tree of its own, sRGB. end: height in head axes at which it ends.
      wide: metres from the head's axis to which it may fall, below the chin.
      contrast: standard deviation of its brightness over the mean brightness around.
    """

    skin: SkinColour
    colours: cKDTree
    end: float
    wide: float
    contrast: float

    def share(self, colours: Tensor, scalp: Tensor, nearer: float = NEIGHBOUR) -> Tensor:
        """[M] in [0, 1] how far colours [M, 3] are hair's: unlike skin's, and off the `scalp` [M] like its own.

        The distance to its own is that beyond which all but a share `nearer` of these lie.
        """
        points = colours.cpu().numpy()
        distance = self.colours.query(points, [1 + int(nearer * self.colours.n)])[0][:, 0]
        alike = np.maximum(scalp.cpu().numpy(), smooth_ramp(distance, *ALIKE))
        return torch.from_numpy(self.skin.unlike(lightness_and_hue(points)) * alike).to(colours)


class Region:
    """Where on a head something lies."""

    def __init__(self, head: HeadModel):
        self.template = np.asarray(head.template, np.float32)
        self.tree, self.chin = cKDTree(self.template), float(landmarks_of(head)[CHIN, 1])
        self.scalp, self.face = scalp_and_face(head)
        scalp = self.template[self.scalp > 0.5]
        self.axis = (scalp.min(0) + scalp.max(0))[[0, 2]] / 2 if len(scalp) else np.zeros(2, np.float32)

    def off_axis(self, places: Tensor) -> Tensor:
        """[M] metres from the vertical through the scalp's middle."""
        return (places[:, [0, 2]] - torch.from_numpy(self.axis).to(places)).norm(dim=1)

    def at(self, places: Tensor, end: float, wide: float) -> tuple[Tensor, Tensor, Tensor]:
        """[M] in [0, 1] on the scalp, and off the rig where hair may hang that ends at a height and falls, below the
        chin, `wide` metres from the axis at most; [M] bool on the front of the face."""
        off, nearest = self.tree.query(places.cpu().numpy())
        off = torch.from_numpy(off).to(places)
        near = smoothstep(off, *FAR)
        hanging = near * smoothstep(off, *OFF_RIG) * smoothstep(places[:, 1] - end, 0.0, TIPS)
        beside = smoothstep(self.off_axis(places), wide, wide + TIPS) * (places[:, 1] < self.chin)
        hanging = hanging * (1 - beside)
        scalp, face = (torch.from_numpy(values[nearest]).to(places.device) for values in (self.scalp, self.face))
        return near * scalp, hanging, face & (off < OFF_RIG[0])

    def fullness(self, places: Tensor) -> float:
        """How far hair at places [M, 3] is no cropped hair, in [0, 1]: half of it stands off the rig."""
        return float(smooth_ramp(np.median(self.tree.query(places.cpu().numpy())[0]), *CROPPED))

    def crown(self) -> np.ndarray:
        """[3] from where hair falls: the top of the scalp, a third of the way to its back."""
        scalp = self.template[self.scalp > 0.5]
        (right, top, front), (left, _, back) = scalp.max(0), scalp.min(0)
        return np.array([(left + right) / 2, top, (front + 2 * back) / 3], np.float32)


@torch.no_grad()
def strands(
    avatar: Avatar, head: HeadModel, squarely: Tensor, own: Tensor, most: int, generator: torch.Generator
) -> tuple[Tensor, dict[str, Tensor]] | None:
    """Strands for an avatar's hair.

    Args:
      head: the avatar's, with landmarks.
      squarely: [G] cosines at which photos see its Gaussians, 0 where none does.
      own: [G] bool: the head's own, which no picture told.
      most: strands at most.

    Returns:
      the triangles [S] that they are bound to and the Gaussians' tensors; None where photos show no hair, or leave
      none of it open, and for a head without landmarks or without a scalp.
    """
    if most < 1 or not has_landmarks(head):
        return None
    region = Region(head)
    if not (region.scalp > 0.5).any():
        return None
    frames = triangle_frames(avatar.gather(avatar.rig.template), avatar.mesh_faces)
    splats = avatar.splats(avatar.gather(avatar.rig.template))
    hair = _hair(avatar, splats, region, (squarely > 0) & ~own)
    if hair is None:
        return None
    surface = _surface(avatar, splats, region, hair.end, torch.where(own, 0, 1 - smoothstep(squarely, *SQUARELY)))
    if surface is None:
        return None
    scalp, hanging, _ = region.at(surface.places, hair.end, hair.wide)
    where = torch.maximum(scalp, hanging) * hair.share(surface.colours, scalp) * smoothstep(surface.unshown, *UNSHOWN)
    where = where[surface.around].mean(1)
    where = where * joined(surface.places, scalp > 0.5, 2 * CELL)  # not on what floats beside the head
    index = _drawn(DENSITY * surface.area * where, most, generator)
    if not len(index):
        return None
    length = SHORT + (1 - SHORT) * region.fullness(surface.places[where > where.amax() / 2])
    crown = torch.from_numpy(region.crown()).to(splats.means)
    places, turns, brightness = _lie(surface, index, crown, length, generator)
    colours = surface.colours[index] * (1 + hair.contrast / OVERLAID * brightness).clamp(DARKEST, LIGHTEST)[:, None]
    binding = hang(avatar, places, frames[2], outer_parts(avatar)[triangle_parts(avatar)])
    size = torch.tensor([length * LONG, WIDE, WIDE], device=avatar.device) * torch.exp(
        SPREAD * torch.randn(len(index), 1, generator=generator).to(places)
    )
    return binding, {
        "position": to_local(places, frames, binding),
        "rotation": matrix_to_quaternion(frames[0][binding].mT @ turns),
        "log_scale": (size / frames[1][binding, None]).log(),
        "logit_opacity": torch.logit((OPACITY * where[index].sqrt()).clamp(1e-3, OPACITY)),
        "harmonics": even_harmonics(colours.clamp(0.01, 0.99), avatar.config.harmonic_count),
    }


def _drawn(expected: Tensor, most: int, generator: torch.Generator) -> Tensor:
    """[S] points of which strands grow, as many at each as `expected` [M] in the mean, and `most` in all."""
    expected = expected * min(1.0, most / max(float(expected.sum()), 1e-6))
    count = (expected + torch.rand(len(expected), generator=generator).to(expected)).floor().long()
    index = torch.arange(len(count), device=count.device).repeat_interleave(count)
    if len(index) > most:  # by chance: the last ones are those of one side
        index = index[torch.randperm(len(index), generator=generator)[:most].sort().values.to(index.device)]
    return index


def _hair(avatar: Avatar, splats: Splats, region: Region, shown: Tensor) -> Hair | None:
    """What the Gaussians `shown` [G] bool by photos tell of hair and skin; None: too little."""
    chosen = shown.nonzero()[:, 0]
    scalp, hanging, face = region.at(splats.means[chosen], region.chin - LONGEST, BEYOND)
    if face.sum() < FEW:
        return None
    colours = colour_of_sh(avatar.harmonics[chosen, 0]).clamp(0, 1)  # as pictures show them
    hues = lightness_and_hue(colours.cpu().numpy())
    skin = SkinColour.of(hues[face.cpu().numpy()])
    skin = dataclasses.replace(skin, spread=np.minimum(skin.spread, MOST_SPREAD))
    unlike = torch.from_numpy(skin.unlike(hues)).to(colours)
    size = splats.scales[chosen].sort(1).values[:, 1:].prod(1) * splats.opacities[chosen]
    places = splats.means[chosen]
    top = torch.maximum(scalp, hanging * (places[:, 1] > region.chin)) * unlike > 0.5
    if top.sum() < FEW or (size * scalp * unlike).sum() < LEAST_HAIR * (size * scalp).sum():
        return None
    tree = cKDTree(colours[top][:: -(-int(top.sum()) // PALETTE)].cpu().numpy())
    wide = WIDER + float(region.off_axis(places[top]).quantile(1 - LOWEST))
    found = Hair(skin, tree, region.chin, wide, 0.0)
    hanging = region.at(places, region.chin - LONGEST, wide)[1]
    hair = top | (hanging * found.share(colours, scalp, TYPICAL) > 0.5)
    hair[hair.clone()] = joined(places[hair], top[hair], JOINED)
    end = float(places[hair, 1].quantile(LOWEST))
    return dataclasses.replace(
        found, end=min(end, region.chin), contrast=_contrast(places[hair], colours[hair].mean(1), size[hair])
    )


def _contrast(places: Tensor, light: Tensor, size: Tensor) -> float:
    """The standard deviation of brightness [M] at places [M, 3] over the mean around each, counted by `size` [M]."""
    points = places.cpu().numpy()
    around = torch.from_numpy(cKDTree(points).query(points, min(LOCAL, len(points)))[1]).to(places.device)
    mean = (size[around] * light[around]).sum(1) / size[around].sum(1).clamp(min=1e-12)
    spread = ((size * (light - mean).square()).sum() / size.sum()).sqrt()
    return float(spread / ((size * mean).sum() / size.sum()).clamp(min=1e-3))


def _surface(avatar: Avatar, splats: Splats, region: Region, end: float, unshown: Tensor) -> AvatarSurface | None:
    """The avatar at rest, down to a height, as views from all sides show it; `unshown` [G]. None: hardly anything of it
    is solid."""
    device = avatar.device
    scalp = region.template[region.scalp > 0.5]
    centre = torch.from_numpy((scalp.max(0) + scalp.min(0)) / 2).to(device)
    radius = float(np.linalg.norm(scalp - centre.cpu().numpy(), axis=1).max()) + REACH
    radius = max(radius, float(centre[1]) - end)
    distance = 5 * radius
    K = torch.tensor([[distance / radius, 0, 1], [0, distance / radius, 1], [0, 0, 2 / SIDE]], device=device) * SIDE / 2
    still = Motion.still(1, len(avatar.rig.expression_basis))
    pose = Pose.of(still, device)
    found = []
    for up, count in RINGS:
        for turn in range(count):
            viewmat, towards = _camera(centre, distance, math.radians(up), 2 * math.pi * turn / count)
            view = (splats, pose, viewmat[None], K[None], SIDE, SIDE, torch.zeros(3, device=device))
            where = avatar.render(*view, colours=splats.means - centre + radius, marks=unshown)
            solid = where.alpha[0] > SOLID
            alpha = where.alpha[0][solid][:, None]
            places = where.rgb[0][solid] / alpha + centre - radius
            colours = avatar.render(*view).rgb[0][solid] / alpha
            found.append(
                torch.cat((places, colours, where.marked[0][solid][:, None] / alpha, towards.expand_as(places)), 1)
            )
    found = torch.cat(found)
    cells = (found[:, :3] / CELL).round().long().cpu().numpy()
    found = found[torch.from_numpy(np.unique(cells, axis=0, return_index=True)[1]).to(device)]
    if len(found) < AROUND:
        return None
    distance, around = _around(found[:, :3])
    square = (_normals(found[:, :3], around) * found[:, 7:]).sum(1).abs() > TURNED
    found = found[square & (distance[:, -1] < SPARSE)]  # others lie between what is near and what is behind
    if len(found) < AROUND:
        return None
    places, colours, unshown, towards = found.split([3, 3, 1, 3], 1)
    distance, around = _around(places)
    normals = _normals(places, around)
    normals = torch.where((normals * towards).sum(1, keepdim=True) < 0, -normals, normals)
    normals = normalize(normals[around].mean(1), dim=1)
    area = math.pi * distance[:, -1].square() / distance.shape[1]
    return AvatarSurface(places, normals, colours[around].mean(1).clamp(0, 1), unshown[:, 0], area, around)


def _camera(centre: Tensor, distance: float, up: float, turn: float) -> tuple[Tensor, Tensor]:
    """A camera [4, 4] that looks at `centre` [3] from angles in radians, and the direction [3] in which it stands."""
    towards = centre.new_tensor([math.sin(turn) * math.cos(up), math.sin(up), math.cos(turn) * math.cos(up)])
    right = centre.new_tensor([math.cos(turn), 0, -math.sin(turn)])
    rotation = torch.stack((right, torch.linalg.cross(right, towards), -towards))
    viewmat = torch.eye(4, device=centre.device)
    viewmat[:3, :3], viewmat[:3, 3] = rotation, -rotation @ (centre + distance * towards)
    return viewmat, towards


def _around(places: Tensor) -> tuple[Tensor, Tensor]:
    """Distances to the nearest neighbours of places [M, 3], ascending, and their indices, [M, K]; itself is first."""
    points = places.cpu().numpy()
    distance, index = cKDTree(points).query(points, AROUND)
    return torch.from_numpy(distance).to(places), torch.from_numpy(index).to(places.device)


def _normals(places: Tensor, around: Tensor) -> Tensor:
    """[M, 3] unit normals, of either sign, of the planes through each place's neighbours."""
    offsets = places[around] - places[around].mean(1, keepdim=True)
    return torch.linalg.eigh(offsets.mT @ offsets)[1][..., 0]


def _lie(
    surface: AvatarSurface, index: Tensor, crown: Tensor, length: float, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Strands on points `index` [S] of a surface, `length` over full: their places [S, 3], rotations [S, 3, 3], whose
    first columns run along them, and brightness [S] of mean 0 and standard deviation 1."""

    def random(*shape: int, normal: bool = True) -> Tensor:
        return (torch.randn if normal else torch.rand)(*shape, generator=generator).to(crown)

    count, normal = len(index), surface.normals[index]
    fall = surface.places[index] - crown
    fall = normalize(fall - (fall * normal).sum(1, keepdim=True) * normal, dim=1)
    side = torch.linalg.cross(fall, normal)
    places = surface.places[index] + BESIDE * (random(count, 1) * fall + random(count, 1) * side)

    low, high = places.amin(0), places.amax(0)
    spots = max(1, int(((high - low) / WAVE_SIZE).clamp(min=1).prod())) * 4
    turn = _smooth(places, low + (high - low) * random(spots, 3, normal=False), random(spots), WAVE_SIZE)
    turn = WAVE * turn + STRAY * random(count)
    along = turn.cos()[:, None] * fall + turn.sin()[:, None] * side
    along = normalize(along + TILT * random(count, 1, normal=False) * normal, dim=1)
    normal = normalize(normal - (normal * along).sum(1, keepdim=True) * along, dim=1)
    turns = torch.stack((along, torch.linalg.cross(normal, along), normal), -1)

    size = torch.tensor([max(length * TUFT[0], TUFT[1]), TUFT[1]]).to(crown)
    middle = torch.randperm(count, generator=generator)[: max(1, count // PER_TUFT)].to(index.device)
    tuft = _smooth(places, places[middle], random(len(middle)), size, turns)
    height = random(count, normal=False) - 0.5
    parts = torch.stack((tuft, random(count), height * 12**0.5))
    shares = torch.tensor(SHARES).to(crown)
    lifted = places + (length * DEEP * height + LIFT)[:, None] * surface.normals[index]
    return lifted, turns, shares / shares.norm() @ parts


def _smooth(places: Tensor, spots: Tensor, values: Tensor, size: float | Tensor, turns: Tensor | None = None) -> Tensor:
    """[S] a smooth field of standard deviation 1 at places [S, 3]: `values` [Q] at `spots` [Q, 3], spread as Gaussians.

    Args:
      size: metres; two of them, along and across: the first columns of `turns` [S, 3, 3], and the second.
    """
    index = cKDTree(spots.cpu().numpy()).query(places.cpu().numpy(), range(1, min(AROUND, len(spots)) + 1))[1]
    index = torch.from_numpy(index).to(places.device)
    away = spots[index] - places[:, None]
    if turns is not None:
        away = away @ turns[..., :2]
    weight = torch.exp(-(away / size).square().sum(-1) / 2)
    return (weight * values[index]).sum(1) / weight.square().sum(1).sqrt().clamp(min=1e-6)
