"""Ears that a photo shows bare: the head's own, in the tone of the skin before them.

A photo from before sees an ear's edge; generated views of few pixels draw a blot there, or hair. Folds come from the
rig: light reaches them as far as they lie open.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor
from torch.nn.functional import normalize

from mvp4d.core.skin_colour import SkinColour, lightness_and_hue
from mvp4d_export.avatar import GAUSSIAN_TENSORS, Avatar
from mvp4d_export.densify import Change
from mvp4d_export.harmonics import colour_of_sh
from mvp4d_export.initialise import nearest
from mvp4d_export.laid import scattered, surface_tensors
from mvp4d_export.photo_fit import PhotoFit, direction_to
from mvp4d_export.photos import Picture
from mvp4d_export.projection import camera_centre
from mvp4d_export.rig import Pose
from mvp4d_export.seeding import project_points
from mvp4d_export.triangles import normals_of, triangle_frames
from mvp4d_export.visibility import OTHERS, gaussians_of, parts_named, smoothstep, triangle_parts

# Whether an ear is bare.
FRONTAL = 0.35  # sine of the turn up to which a photo shows both ears at the head's outline
ROWS, LOWER = 24, (0.1, 0.6)  # heights at which the outline is read, as shares of the ear's: hair falls over the top
INWARDS, OUTWARDS = 0.010, 0.025  # metres from the rig's ear within which the outline is searched
STEP = 0.0005  # metres between places there
EDGE = (1, 8)  # of them, inwards from the outline whose colours tell what it is of: 0.5 to 3.5 mm
TOLD = 0.25  # mean cosine over an ear at which another photo sees it, from which it is the person's own
BARE = 0.5  # share of heights where it is skin from which the ear is bare
# The skin before it.
FACE = 0.045  # metres before the ear's middle from which Gaussians tell what skin is like
WIDEST = (0.09, 0.06, 0.06)  # spreads of its lightness and hue: more is a beard's
BLUSH = 1.5  # times as far an ear's colour may be off: light comes through it
BEFORE, ASIDE = 0.02, 0.07  # metres before the ear's middle, and around it, where Gaussians tell its tone
LIT = 0.7  # quantile of their brightness that does
FEW = 20  # Gaussians: fewer tell nothing
# How it looks.
NEAREST, FARTHEST = -0.004, 0.014  # metres that it stands off the rig's own
TURN = 0.6  # share of the ear's length, from its front, over which it comes to stand off so far
SPACING = 0.0012  # metres between Gaussians
EVEN = 1.3  # as large they are as if they were this farther apart: scattered at random they must leave no dots
SMOOTH = 16  # of them whose mean normal and light one has
AROUND, SKIN_SPACING = 0.06, 0.0015  # metres around the ear from where light may be kept, and between what keeps it
DIMMEST, OPEN, DEPTH = 0.3, 0.85, 2.0  # of light where none comes in, and quantile of openness where all does
RIM = (-0.1, 0.4)  # cosines to the side between which it is the ear's edge, which light from behind reaches
FROM_ABOVE = 0.08  # of light that a surface gains and loses by looking up and down
FROM = (0.020, 0.008)  # metres behind the ear's front from where to where the skin before it begins ...
TOP = (0.35, 0.6)  # ... and shares of its height between which that ends: above are sideburns
FADES = (0.002, 0.014)  # metres from it over which that fades
FAINT, SOLID = 0.02, 0.98  # least and most opacity
BLOOD = (1.03, 0.97, 0.95)  # of light in the folds, which comes through skin
COARSE = 0.002  # metres of a pixel at most of which the photo tells colours: its folds are not the rig's
FACING = (0.2, 0.5)  # cosines between which the photo tells the colour of what faces it
# What goes for it.
OUTLINE, BEHIND = 0.003, 0.008  # metres around and behind it from which hair, and the blot, goes


@dataclasses.dataclass(frozen=True)
class Ear:
    """A bare ear.

    Attributes:
      corners: [T, 3, 3] metres, the rig's triangles at rest. side: 1 for the left one, -1.
      off: metres that it stands off the head farther than these. tone: [3] of skin before it; skin: what is like it.
    """

    corners: Tensor
    side: int
    off: float
    tone: Tensor
    skin: SkinColour


@torch.no_grad()
def own_ears(fit: PhotoFit, generator: torch.Generator) -> Change | None:
    """The head's own ears for what lies where the reference shows bare ones; None where it shows none from before.

    An ear that another photo sees stays the person's.
    """
    avatar, reference = fit.avatar, fit.photos.reference
    pose, viewmat = fit.view(reference)
    if abs(float(direction_to(viewmat, pose)[0])) > FRONTAL:
        return None
    skin = fit.on_skin() & (fit.claims[reference] > 0)
    picture, matrix = fit.photos.pictures[reference], viewmat @ pose.head_matrix()[0] @ _ears_turn(avatar, pose)
    others = [claim / OTHERS for index, claim in enumerate(fit.claims) if index != reference]
    squarely = torch.stack([torch.zeros_like(fit.claims[reference]), *others]).amax(0)
    left = avatar.splats(avatar.gather(avatar.rig.template)).means[:, 0] > 0

    on_ears = gaussians_of(avatar, ("ears",)) & fit.on_surface()  # hair may follow them

    def is_told(ear: Ear) -> bool:
        own = on_ears & (left == (ear.side > 0))
        return bool(own.any()) and float(squarely[own].mean()) > TOLD

    ears = [ear for ear in bare_ears(avatar, skin, picture, matrix) if not is_told(ear)]
    if not ears:
        return None
    laid = [lay_ear(avatar, ear, picture, matrix, generator) for ear in ears]
    gone = torch.stack([covered(avatar, ear, points, on_ears) for ear, (points, _, _) in zip(ears, laid)]).any(0)
    gone &= ~fit.fixed
    tensors = {name: torch.cat([values[name] for _, _, values in laid]) for name in GAUSSIAN_TENSORS}
    return Change(~gone, torch.cat([binding for _, binding, _ in laid]), tensors)


def _ears_turn(avatar: Avatar, pose: Pose) -> Tensor:
    """[4, 4] that takes the ears at rest to where a pose's joints have them, in head axes; no expression moves them."""
    rig = avatar.rig
    chosen = rig.faces[parts_named(rig.part_names, ("ears",)).to(avatar.device)[rig.face_parts]].flatten()
    turn = torch.eye(4, device=avatar.device)
    if len(chosen):
        rotations, offsets = rig.joint_transforms(rig.joints[None], rig.joint_rotations(pose))
        transforms = torch.cat((rotations, offsets[..., None]), -1)[0]  # [J, 3, 4]
        turn[:3] = (rig.skin_weights[chosen].mean(0)[:, None, None] * transforms).sum(0)
    return turn


@torch.no_grad()
def bare_ears(avatar: Avatar, skin: Tensor, picture: Picture, matrix: Tensor) -> list[Ear]:
    """The ears of which a photo from before shows bare skin at the person's outline.

    Args:
      skin: [G] bool: Gaussians of the head's skin that it shows. matrix: [4, 4] from head space to its camera.
    """
    rig = avatar.rig
    chosen = parts_named(rig.part_names, ("ears",)).to(avatar.device)[rig.face_parts]
    corners, others = rig.template[rig.faces[chosen]], rig.faces[~chosen].flatten().unique()
    means = avatar.splats(avatar.gather(rig.template)).means
    colours = colour_of_sh(avatar.harmonics[:, 0]).clamp(0, 1)
    hues = lightness_and_hue(colours.cpu().numpy())
    found = []
    for side in (1, -1):
        own = corners[corners.mean(1)[:, 0] * side > 0]
        if not len(own):
            continue
        middle = own.mean((0, 1))
        face = skin & (means[:, 2] > middle[2] + FACE) & (means[:, 0] * side > 0)
        if int(face.sum()) < FEW:
            continue
        told = SkinColour.of(hues[face.cpu().numpy()])
        told = dataclasses.replace(told, spread=BLUSH * np.minimum(told.spread, WIDEST))
        before = skin & (means[:, 2] > middle[2] + BEFORE) & ((means - middle).norm(dim=1) < ASIDE)
        before &= torch.from_numpy(told.unlike(hues) < 0.5).to(before.device)
        off = _stands_off(own, rig.template[others], side, told, picture, matrix)
        if off is not None and int(before.sum()) >= FEW:
            light = colours[before].mean(1)
            near = (light - light.quantile(LIT)).abs().argsort()[:FEW]
            off = float(np.clip(off, NEAREST, FARTHEST))
            found.append(Ear(own, side, off, colours[before][near].mean(0), told))
    return found


def _stands_off(
    corners: Tensor, others: Tensor, side: int, skin: SkinColour, picture: Picture, matrix: Tensor
) -> float | None:
    """Metres by which the person's outline is beyond the rig's ear, triangles [T, 3, 3], where it is of skin's colour;
    None: it is something else's, or that of the rig's other vertices [N, 3], which hide the ear."""
    points = corners.flatten(0, 1)
    low, high = points[:, 1].amin(), points[:, 1].amax()
    heights = low + (high - low) * torch.linspace(*LOWER, ROWS, device=points.device)
    near = (points[None, :, 1] - heights[:, None]).abs() < (high - low) / ROWS
    rim, index = torch.where(near, points[None, :, 0] * side, -torch.inf).max(1)  # [ROWS]
    found = rim.isfinite()
    rim = rim.nan_to_num(neginf=0.0)
    steps = torch.arange(-INWARDS, OUTWARDS, STEP, device=points.device)
    across = rim[:, None] + steps  # [ROWS, steps]
    places = torch.stack(
        [across * side, *(value[:, None].expand_as(across) for value in (heights, points[index, 2]))], -1
    )
    pixels = project_points(places.flatten(0, 1), matrix, picture.K)[0].floor().long().view(*across.shape, 2)
    outwards = (pixels[:, -1, 0] - pixels[:, 0, 0]).sign()[:, None]
    hiding = outwards * project_points(others, matrix, picture.K)[0][None, :, 0]
    hiding = torch.where((others[None, :, 1] - heights[:, None]).abs() < (high - low) / ROWS, hiding, -torch.inf)
    at_rim = round(INWARDS / STEP)  # the step at the ear
    found &= hiding.amax(1) < (outwards * pixels[:, at_rim, :1])[:, 0] + 1
    inside = ((pixels >= 0) & (pixels < picture.side)).all(-1)
    column, row = pixels.clamp(0, picture.side - 1).unbind(-1)
    known = inside & (picture.known[row, column] > 0)
    person = known & (picture.alpha[row, column] > 0.5)
    reached = person.cumprod(1).sum(1)  # steps of the person from within
    last = reached.clamp(max=len(steps) - 1)[:, None]
    ends = found & known.gather(1, last)[:, 0] & (reached > EDGE[1]) & (reached < len(steps))
    index = (reached[:, None] - 1 - torch.arange(*EDGE, device=points.device)).clamp(min=0)  # [ROWS, edge]
    rgb = picture.rgb[row, column].gather(1, index[..., None].expand(*index.shape, 3))
    unlike = torch.from_numpy(skin.unlike(lightness_and_hue(rgb.cpu().numpy()))).to(points)
    bare = ends & (unlike.median(1).values < 0.5)
    if bare.float().mean() < BARE:
        return None
    return float(steps[reached[bare] - 1].median())


def lay_ear(
    avatar: Avatar, ear: Ear, picture: Picture, matrix: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Gaussians on an ear and on the skin before it, which fades into what is there.

    Args:
      matrix: [4, 4] from head space to the camera of the photo, which tells the colours of what it faces.

    Returns:
      places [M, 3] of those on the ear, metres at rest; the triangles [N] of the UV remesh of all, and their tensors.
    """
    rig, device = avatar.rig, avatar.device
    own = _standing_off(ear)
    skin = rig.template[rig.faces[parts_named(rig.part_names, ("skin",)).to(device)[rig.face_parts]]]
    walls = torch.cat([own, skin[(skin.mean(1) - own.mean((0, 1))).norm(dim=1) < AROUND]])
    points, triangle, _ = scattered(walls, SPACING, generator)
    share = _share(points, triangle < len(own), own)
    seen = share > FAINT
    points, triangle, share = points[seen], triangle[seen], share[seen]
    beside = torch.from_numpy(cKDTree(points.cpu().numpy()).query(points.cpu().numpy(), SMOOTH)[1]).to(device)
    normal = normalize(normals_of(walls)[triangle][beside].mean(1), dim=-1)
    keeping, which, _ = scattered(walls, SKIN_SPACING, generator)
    lit = exposure(points, normal, keeping, normals_of(walls)[which], SKIN_SPACING**2)[beside].mean(1)
    colours = torch.lerp(_tones(ear, lit, normal), *_shown(ear.skin, points, normal, picture, matrix))

    among = parts_named(rig.part_names, ("skin", "ears")).to(device)[triangle_parts(avatar)].nonzero()[:, 0]
    middles = triangle_frames(avatar.gather(rig.template), avatar.mesh_faces)[2][among]
    binding = among[nearest(points, middles)[1]]
    tensors = surface_tensors(avatar, rig.template, binding, points, normal, colours, EVEN * SPACING)
    tensors["logit_opacity"] = torch.logit(share.clamp(FAINT, SOLID))
    return points[triangle < len(own)], binding, tensors


def _standing_off(ear: Ear) -> Tensor:
    """[T, 3, 3] its triangles, turned about its front to where its back is as far off as the photo shows."""
    depth = ear.corners[..., 2]
    turned = smoothstep((depth.amax() - depth) / (depth.amax() - depth.amin()), 0.0, TURN)
    found = ear.corners.clone()
    found[..., 0] += ear.side * ear.off * turned
    return found


def _share(points: Tensor, on_ear: Tensor, own: Tensor) -> Tensor:
    """[M] opacity of points [M, 3]: full on the ear, triangles [T, 3, 3]; less on the skin before it, farther off."""
    front, low, high = own[..., 2].amax(), own[..., 1].amin(), own[..., 1].amax()
    away = nearest(points, points[on_ear])[0]
    before = smoothstep(points[:, 2], float(front) - FROM[0], float(front) - FROM[1])
    under = 1 - smoothstep((points[:, 1] - low) / (high - low), *TOP)
    return torch.where(on_ear, 1.0, (1 - smoothstep(away, *FADES)) * before * under)


def _tones(ear: Ear, exposed: Tensor, normal: Tensor) -> Tensor:
    """[M, 3] the skin's tone in the light that reaches what is so `exposed` [M] and has normals [M, 3]."""
    lit = (exposed / exposed.quantile(OPEN).clamp(min=1e-3)).clamp(max=1) ** DEPTH
    lit = torch.lerp(torch.ones_like(lit), lit, smoothstep(ear.side * normal[:, 0], *RIM))
    light = (DIMMEST + (1 - DIMMEST) * lit) * (1 + FROM_ABOVE * normal[:, 1])
    return ear.tone * light[:, None] * ear.tone.new_tensor(BLOOD) ** (1 - lit)[:, None]


def _shown(skin: SkinColour, points: Tensor, normal: Tensor, picture: Picture, matrix: Tensor) -> tuple[Tensor, Tensor]:
    """[M, 3] colours of a photo at points [M, 3] of normals [M, 3], and [M, 1] how far it tells those of skin there."""
    pitch = float(matrix[2, 3] / picture.K[0, 0])
    picture = picture.at(max(0, min(math.floor(math.log2(COARSE / pitch)), picture.side.bit_length() - 6)))
    pixels = project_points(points, matrix, picture.K)[0].floor().long()
    inside = ((pixels >= 0) & (pixels < picture.side)).all(1)
    column, row = pixels.clamp(0, picture.side - 1).unbind(1)
    rgb = picture.rgb[row, column]
    like = 1 - torch.from_numpy(skin.unlike(lightness_and_hue(rgb.cpu().numpy()))).to(points)
    squarely = (normal * normalize(camera_centre(matrix) - points, dim=-1)).sum(1)
    told = inside & (picture.known[row, column] > 0) & (picture.alpha[row, column] > 0.9)
    return rgb, (told * like * smoothstep(squarely, *FACING))[:, None]


def exposure(points: Tensor, normals: Tensor, walls: Tensor, facing: Tensor, area: float) -> Tensor:
    """[M] share of a sky's light that reaches points [M, 3] with unit normals [M, 3] past small patches around them.

    One less the patches' form factors, cos cos' A / (pi r^2 + A) each (Bunnell, Dynamic ambient occlusion and indirect
    lighting, GPU Gems 2, 2005); right where no patch hides another.

    Args:
      walls, facing: [K, 3] patches and their unit normals; one that faces away keeps no light. area: square metres of
        each.
    """
    found = []
    for place, normal in zip(points.split(512), normals.split(512)):
        towards = walls - place[:, None]  # [m, K, 3]
        square = towards.square().sum(-1)
        towards = towards / square.sqrt().clamp(min=1e-9)[..., None]
        leaving = (towards * normal[:, None]).sum(-1).clamp(min=0)
        arriving = -(towards * facing).sum(-1).clamp(max=0)
        found.append((leaving * arriving * area / (math.pi * square + area)).sum(1))
    return (1 - torch.cat(found)).clamp(0, 1)


def covered(avatar: Avatar, ear: Ear, points: Tensor, on_ears: Tensor) -> Tensor:
    """[G] bool: Gaussians that are the ear's so far, or lie before it, or right behind it, as its side is seen.

    Args:
      points: [M, 3] of the ear. on_ears: [G] bool, those of both ears so far.
    """
    means = avatar.splats(avatar.gather(avatar.rig.template)).means
    away, index = nearest(means[:, 1:], points[:, 1:])
    behind = (points[index, 0] - means[:, 0]) * ear.side
    before = (away < OUTLINE) & (behind < BEHIND) & (means[:, 0] * ear.side > 0)
    return before | (on_ears & (means[:, 0] * ear.side > 0))
