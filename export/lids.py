"""Closed lids: before the eyes, coloured as a fit has found the skin around them, with lashes along their edge.

No photo of open eyes shows lids. In one colour they would be patches, and a fit leaves eyes a millimetre before them.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d

from mvp4d.core.heads.model import EYES, INTERIOR
from mvp4d_export.avatar import Avatar, Splats
from mvp4d_export.harmonics import SH_0, shade
from mvp4d_export.hidden import NOT_SKIN
from mvp4d_export.initialise import nearest
from mvp4d_export.laid import FADED
from mvp4d_export.lips import around_lips
from mvp4d_export.mouth_mask import grown
from mvp4d_export.photos import Picture
from mvp4d_export.projection import camera_centre
from mvp4d_export.rig import Pose
from mvp4d_export.seeding import SOLID, project_points
from mvp4d_export.triangles import to_local, triangle_frames
from mvp4d_export.visibility import gaussians_of, light, parts_named, rig_surface

AROUND = 0.008  # metres from closed lids within which skin tells their colours
BESIDE = 0.0007  # metres from them, and from what shows of the eyes, in which it does not: edges are blurred
LASHES = 0.0012  # metres: half of what lashes and creases, which are no skin, are wide
TONES = (0.8, 0.9)  # quantiles of brightness: skin's is at least `DARKER` times the first, and below the second ...
DARKER = 0.5  # ... which leaves out brows, and what shines
DENSE = 1500  # pixels a metre, at least, of the picture that is looked at
NEAREST = 0.002  # metres within which distances count alike
EDGE, LASH_WIDTH, LASH_SHADE = ("lash", "lining"), 0.0012, 0.5  # parts; metres beside them that lashes shade; how far
OVER, REACH = 0.0004, (1.5, 0.004)  # metres that eyes lie behind lids which they would cover: within so many of their
# standard deviations, and metres
WELL = 0.0012, 7  # metres, and how many of the lids' Gaussians lie within them around what is well before lids
MOST_TUCK, MOST_SKIN = 0.005, 0.001  # metres that eyes are moved at most, and skin, which lies before open eyes
CARRIED, STANDS = 0.003, 0.002  # metres that a blink moves what goes with lids; before them, from which it is no skin
HAIRS = 12  # how many of them may be hair
FEW = 30  # pixels that tell no colour


@torch.no_grad()
def lids_among(avatar: Avatar, hidden: Tensor) -> Tensor:
    """[G] bool: those of the hidden Gaussians, [G] bool, that are lids: mouths and lips are hidden too, and some of the
    lips' follow triangles of the skin beside them."""
    return hidden & ~gaussians_of(avatar, INTERIOR) & ~around_lips(avatar)


@torch.no_grad()
def finish_lids(avatar: Avatar, lids: Tensor, picture: Picture, pose: Pose, viewmat: Tensor) -> None:
    """Lays eyes behind the lids' Gaussians, [G] bool, and colours these from the skin around them where they are shut.

    Gaussians are drawn in the order of their depth, so an eye's must lie behind every lid that they overlap. They move
    along the photo's lines of sight, which hardly changes it.

    A lid's colour is the mean over the pixels of that skin, weighted by one over the squared distance: at the lids'
    edges it is that of the skin beside them.

    Args:
      picture, pose, viewmat: the camera [4, 4] and the pose, one frame, from which that skin is looked at.
    """
    rig = avatar.rig
    eyes = parts_named(rig.part_names, EYES).to(avatar.device)[rig.face_parts]
    if not lids.any() or not eyes.any() or not len(rig.expression_basis):
        return
    eye = rig.template[rig.faces[eyes].unique()]
    left = eye[:, 0] > eye[:, 0].mean()
    rest = avatar.splats(avatar.gather(rig.template)).means
    nearer = nearest(rest, eye[left])[0] < nearest(rest, eye[~left])[0]  # to the left one
    for side in (nearer, ~nearer):
        if (lids & side).any():
            shut = _shutting(avatar, lids & side)
            closed = dataclasses.replace(pose, expression=torch.zeros_like(pose.expression))
            closed.expression[:, shut] = 1
            _tuck(avatar, side & ~gaussians_of(avatar, (*INTERIOR, *EDGE)), lids & side, closed, viewmat)
            _shade(avatar, lids & side, shut, picture, closed, viewmat)


def _tuck(avatar: Avatar, others: Tensor, lids: Tensor, closed: Pose, viewmat: Tensor) -> None:
    """Moves an eye's Gaussians, and of `others` [G] bool those well before its lids, [G] bool, behind these in the pose
    that shuts it; what stands off the lids goes."""
    vertices, matrix = avatar.vertices(closed), viewmat @ closed.head_matrix()[0]
    splats = avatar.splats(vertices)
    sight = splats.means - camera_centre(matrix)  # [G, 3] in head axes
    depth, flat = sight @ matrix[2, :3], splats.means @ matrix[:2, :3].T
    eye = gaussians_of(avatar, EYES)
    low, high = flat[lids].amin(0) - REACH[1], flat[lids].amax(0) + REACH[1]
    over = others & ~lids & ((flat > low) & (flat < high)).all(1)
    moved = (over & (depth > depth[lids].amin() - MOST_TUCK)).nonzero()[:, 0]
    across = torch.cdist(flat[moved], flat[lids])  # [moved, lids] metres
    reach = (REACH[0] * splats.scales[moved].amax(1)).clamp(max=REACH[1])
    behind = torch.where(across < reach[:, None], depth[lids], -torch.inf).amax(1) + OVER
    push = (behind - depth[moved]).clamp(0, MOST_TUCK)
    skin = torch.where((across < WELL[0]).sum(1) > WELL[1], push.clamp(max=MOST_SKIN), 0)
    push = torch.where(eye[moved], push, skin)
    means = splats.means[moved] + sight[moved] * (push / depth[moved])[:, None]
    avatar.position[moved] = to_local(means, triangle_frames(vertices, avatar.mesh_faces), avatar.binding[moved])
    carried = (splats.means - avatar.splats(avatar.gather(avatar.rig.template)).means).norm(dim=1) > CARRIED
    _fade_before(avatar, (over & ~eye & carried).nonzero()[:, 0], lids, flat, depth)


def _fade_before(avatar: Avatar, carried: Tensor, lids: Tensor, flat: Tensor, depth: Tensor) -> None:
    """Fades what is carried along by lids, [M] of G, and stands well before these, [G] bool, once they are shut.

    Hair before an open eye, which a fit has bound to the lid, would be a spot there. More than a few are no hair, the
    rim of glasses perhaps. `flat` [G, 2], `depth` [G]: across and along the camera's axis, metres.
    """
    near = torch.cdist(flat[carried], flat[lids]) < WELL[0]
    stands = torch.where(near, depth[lids], torch.inf).amin(1) - depth[carried]
    stray = carried[(near.sum(1) > WELL[1]) & (stands > STANDS)]
    if len(stray) <= HAIRS:
        avatar.logit_opacity[stray] = FADED


def _shade(avatar: Avatar, own: Tensor, shut: int, picture: Picture, pose: Pose, viewmat: Tensor) -> None:
    """Colours the Gaussians of one eye's lids, [G] bool, which the expression `shut` shuts in this pose."""
    rig = avatar.rig
    splats, matrix = avatar.splats(avatar.vertices(pose)), viewmat @ pose.head_matrix()[0]
    depth = float(project_points(splats.means[own], matrix, picture.K)[1].mean())
    scale = max(1.0, DENSE * depth / float(picture.K[0, 0]))
    K, side = torch.cat((scale * picture.K[:2], picture.K[2:])), round(scale * picture.side)
    metre = float(K[0, 0]) / depth  # in pixels
    rgb, around = _skin_around(avatar, own, splats, pose, (viewmat, K, side), metre)
    rgb = _without_lashes(rgb, around, max(1, round(LASHES * metre)))
    places = _skin_toned(rgb.mean(-1), around).nonzero()
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
    other = parts_named(avatar.rig.part_names, NOT_SKIN).to(avatar.device)
    skin = (surface.face >= 0) & ~other[avatar.rig.face_parts[surface.face.clamp(min=0)]] & (shown.alpha[0] > SOLID)
    near = grown(share > 0.5, round(AROUND * metre)) & ~grown(share + white > 0.2, max(1, round(BESIDE * metre)))
    return shown.rgb[0], near & skin


def _without_lashes(rgb: Tensor, around: Tensor, reach: int) -> Tensor:
    """A picture [S, S, 3] closed by `reach` pixels among those `around`: what is thin and dark goes."""
    inside = around[None].to(rgb)
    widest = max_pool2d(rgb.permute(2, 0, 1) * inside, 2 * reach + 1, 1, reach)
    return -max_pool2d(torch.where(around, -widest, -1.0), 2 * reach + 1, 1, reach).permute(1, 2, 0)


def _skin_toned(brightness: Tensor, around: Tensor) -> Tensor:
    """[S, S] bool: the pixels among those `around` that are as bright, [S, S], as skin is, in shadow too."""
    if not around.any():
        return around
    bright, most = brightness[around].quantile(brightness.new_tensor(TONES))
    return around & (brightness >= DARKER * bright) & (brightness <= most)


def _shutting(avatar: Avatar, lids: Tensor) -> int:
    """The expression that moves the triangles of some Gaussians, [G] bool, most."""
    rig, triangles = avatar.rig, avatar.mesh_faces[avatar.binding[lids].unique()]
    rest = avatar.gather(rig.template)
    moved = [
        (avatar.gather(rig.template + basis) - rest)[triangles].norm(dim=-1).mean() for basis in rig.expression_basis
    ]
    return int(torch.stack(moved).argmax())
