"""The colours of closed lids: those of the skin around them, as a fit has found it, and lashes along their edge.

No photo of open eyes shows lids. In one colour they would be patches.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from mvp4d.core.heads.model import EYES, INTERIOR
from mvp4d_export.avatar import Avatar, Splats
from mvp4d_export.hidden import NO_SKIN
from mvp4d_export.initialise import SH_0, nearest
from mvp4d_export.lips import around_lips
from mvp4d_export.mouth_mask import grown
from mvp4d_export.photos import Picture
from mvp4d_export.projection import shade
from mvp4d_export.rig import Pose
from mvp4d_export.seeding import SOLID, project_points
from mvp4d_export.visibility import gaussians_of, light, parts_named, rig_surface

AROUND = 0.008  # metres from closed lids within which skin tells their colours
BESIDE = 0.0007  # metres from them, and from what shows of the eyes, in which it does not: edges are blurred
LOCAL = 0.002  # metres around a pixel within which lashes and creases, darker than the mean, are told from skin
TONES = (0.8, 0.9)  # quantiles of brightness: skin's is at least `DARKER` times the first, and below the second ...
DARKER = 0.7  # ... which leaves out lashes and brows, and what shines
DENSE = 1500  # pixels a metre, at least, of the picture that is looked at
NEAREST = 0.001  # metres within which distances count alike
EDGE, LASH_WIDTH, LASH_SHADE = ("lash", "lining"), 0.0012, 0.5  # parts; metres beside them that lashes shade; how far
FEW = 30  # pixels that tell no colour


@torch.no_grad()
def lids_among(avatar: Avatar, hidden: Tensor) -> Tensor:
    """[G] bool: those of the hidden Gaussians, [G] bool, that are lids: mouths and lips are hidden too, and some of the
    lips' follow triangles of the skin beside them."""
    return hidden & ~gaussians_of(avatar, INTERIOR) & ~around_lips(avatar)


@torch.no_grad()
def shade_lids(avatar: Avatar, lids: Tensor, picture: Picture, pose: Pose, viewmat: Tensor) -> None:
    """Colours the lids' Gaussians, [G] bool, from the skin around them where the eyes are shut.

    A colour is the mean over the pixels of that skin, weighted by one over the squared distance: at the lids' edges it
    is that of the skin beside them.

    Args:
      picture, pose, viewmat: the camera [4, 4] and the pose, one frame, from which that skin is looked at.
    """
    rig = avatar.rig
    eyes = parts_named(rig.part_names, EYES).to(avatar.device)[rig.face_parts]
    if not lids.any() or not eyes.any() or not len(rig.expression_basis):
        return
    eye = rig.template[rig.faces[eyes].unique()]
    left = eye[:, 0] > eye[:, 0].mean()
    near_left = nearest(avatar.splats(avatar.gather(rig.template)).means, eye[left])[0]
    near_right = nearest(avatar.splats(avatar.gather(rig.template)).means, eye[~left])[0]
    for own in (lids & (near_left < near_right), lids & (near_left >= near_right)):
        if own.any():
            _shade(avatar, own, picture, pose, viewmat)


def _shade(avatar: Avatar, own: Tensor, picture: Picture, pose: Pose, viewmat: Tensor) -> None:
    """Colours the Gaussians of one eye's lids, [G] bool."""
    rig, shut = avatar.rig, _shutting(avatar, own)
    pose = dataclasses.replace(pose, expression=torch.zeros_like(pose.expression))
    pose.expression[:, shut] = 1
    splats, matrix = avatar.splats(avatar.vertices(pose)), viewmat @ pose.head_matrix()[0]
    depth = float(project_points(splats.means[own], matrix, picture.K)[1].mean())
    scale = max(1.0, DENSE * depth / float(picture.K[0, 0]))
    K, side = torch.cat((scale * picture.K[:2], picture.K[2:])), round(scale * picture.side)
    metre = float(K[0, 0]) / depth  # in pixels
    rgb, around = _skin_around(avatar, own, splats, pose, (viewmat, K, side), metre)
    places = _skin_toned(rgb.mean(-1), around, metre).nonzero()
    if len(places) < FEW:
        return
    pixels = project_points(splats.means[own], matrix, K)[0]
    weight = 1 / ((torch.cdist(pixels, places.flip(1) + 0.5) / metre).square() + NEAREST**2).square()
    colour = weight @ rgb[places[:, 0], places[:, 1]] / weight.sum(1, keepdim=True)
    edge = parts_named(rig.part_names, EDGE).to(avatar.device)[rig.face_parts]
    if edge.any():
        corners = (rig.template + rig.expression_basis[shut])[rig.faces[edge]]
        sides = [torch.lerp(corners, corners.roll(1, 1), share).flatten(0, 1) for share in (0.0, 0.25, 0.5, 0.75)]
        away = torch.cdist(pixels, project_points(torch.cat(sides), matrix, K)[0]).amin(1) / metre
        colour = colour * (LASH_SHADE + (1 - LASH_SHADE) * (away / LASH_WIDTH).clamp(max=1).square())[:, None]
    seen = light(avatar, splats, pose, viewmat, K, around.float())
    change = (seen[:, None, None] * avatar.harmonics[:, 1:]).sum(0) / seen.sum()  # from side to side, as around them
    harmonics = torch.cat((change.new_zeros(1, 3), change)).expand(len(colour), -1, -1).clone()
    aside = shade(harmonics, splats.means[own], matrix[None], avatar.config.sh_degree)[0] - 0.5
    harmonics[:, 0] = (colour.clamp(0.01, 0.99) - 0.5 - aside) / SH_0
    avatar.harmonics[own] = harmonics


def _skin_around(
    avatar: Avatar, own: Tensor, splats: Splats, pose: Pose, camera: tuple[Tensor, Tensor, int], metre: float
) -> tuple[Tensor, Tensor]:
    """A picture [S, S, 3] from a camera (viewmat, K, S), and [S, S] bool the skin around the Gaussians `own` in it."""
    viewmat, K, side = camera
    dark, views = torch.zeros(3, device=avatar.device), (viewmat[None], K[None], side, side)
    shown = avatar.render(splats, pose, *views, dark)
    marks = torch.stack((own, gaussians_of(avatar, EYES), own & False), 1).float()
    share, white, _ = avatar.render(splats, pose, *views, dark, colours=marks).rgb[0].unbind(-1)
    surface = rig_surface(avatar, pose, viewmat, K, side)
    other = parts_named(avatar.rig.part_names, (*INTERIOR, *EYES, *NO_SKIN)).to(avatar.device)
    skin = (surface.face >= 0) & ~other[avatar.rig.face_parts[surface.face.clamp(min=0)]] & (shown.alpha[0] > SOLID)
    near = grown(share > 0.5, round(AROUND * metre)) & ~grown(share + white > 0.2, max(1, round(BESIDE * metre)))
    return shown.rgb[0], near & skin


def _skin_toned(brightness: Tensor, around: Tensor, metre: float) -> Tensor:
    """[S, S] bool: the pixels among those `around` that are as bright, [S, S], as skin is."""
    if not around.any():
        return around
    reach = max(1, round(LOCAL * metre))
    sums = avg_pool2d(torch.stack((brightness * around, around.float()))[:, None], 2 * reach + 1, 1, reach)[:, 0]
    bright, most = brightness[around].quantile(brightness.new_tensor(TONES))
    local = brightness >= sums[0] / sums[1].clamp(min=1e-6)
    return around & local & (brightness >= DARKER * bright) & (brightness <= most)


def _shutting(avatar: Avatar, lids: Tensor) -> int:
    """The expression that moves the triangles of some Gaussians, [G] bool, most."""
    rig, triangles = avatar.rig, avatar.mesh_faces[avatar.binding[lids].unique()]
    rest = avatar.gather(rig.template)
    moved = [
        (avatar.gather(rig.template + basis) - rest)[triangles].norm(dim=-1).mean() for basis in rig.expression_basis
    ]
    return int(torch.stack(moved).argmax())
