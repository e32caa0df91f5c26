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
from mvp4d_export.harmonics import SH_0, colour_of_sh, even_harmonics, shade
from mvp4d_export.hidden import NOT_SKIN
from mvp4d_export.initialise import nearest
from mvp4d_export.laid import FADED, bind, followed
from mvp4d_export.lips import around_lips
from mvp4d_export.mouth_mask import grown
from mvp4d_export.photos import Picture
from mvp4d_export.projection import camera_centre
from mvp4d_export.rig import Pose
from mvp4d_export.seeding import SOLID, project_points
from mvp4d_export.triangles import to_local, triangle_frames
from mvp4d_export.visibility import gaussians_of, light, parts_named, rig_surface, smoothstep, triangle_parts

AROUND = 0.010  # metres from closed lids within which skin tells their tone
BESIDE = 0.0007  # metres from them, and from what shows of the eyes, in which it does not: edges are blurred
THIN = 0.0012  # metres: half of what lashes and creases, which are no skin, are wide
TONES = (0.8, 0.97)  # quantiles of brightness: skin's is at least `DARKER` times the first, and below the second ...
DARKER = 0.25  # ... which leaves out black hair, and what shines
LIT, ROUNDS = 0.8, 10  # weight of skin that is brighter than the tone, of 1; rounds in which that is found
RIDGE = 0.02  # what holds its slopes: few pixels tell none
SHADE = 0.96  # of that tone, of lids
RING, FADE = 0.0015, 0.005  # metres beside them that tell their edges' colours, which pass into the tone over so many
MOST = 0.6  # of a lid's colour that is that tone: what lies beside it tells its light
DENSE = 1500  # pixels a metre, at least, of the picture that is looked at
NEAREST = 0.0007  # metres within which distances count alike
EDGE, LASH_WIDTH, LASH_SHADE = ("lash", "lining"), 0.0012, 0.35  # parts; metres beside them that lashes shade; how far
LASH = ("lash",)  # parts
STRAY, BELOW = 0.004, 0.001  # metres from lashes, and below them, within which a photo's may lie
DARK, LEFT = 0.6, 0.25  # of the skin's brightness, and of the edge's way: darker is lashes, more is left behind
MOST_LAID = 0.012  # metres that a lash may stand before the skin behind it
PEEPS = (0.1, 0.3)  # share of a lid's Gaussian that a photo shows, from hidden to seen: they overlap
OVER, REACH = 0.0004, (1.5, 0.004)  # metres that eyes lie behind lids which they would cover: within so many of their
# standard deviations, and metres
WELL = 0.0012, 7  # metres, and how many of the lids' Gaussians lie within them around what is well before lids
MOST_TUCK, MOST_SKIN = 0.005, 0.001  # metres that eyes are moved at most, and skin, which lies before open eyes
CARRIED, STANDS = 0.003, 0.002  # metres that a blink moves what goes with lids; before them, from which it is no skin
HAIRS = 12  # how many of them may be hair
FEW = 30  # pixels that tell no colour


@torch.no_grad()
def lids_among(avatar: Avatar, hidden: Tensor) -> Tensor:
    """[G] bool: those of the hidden Gaussians, [G] bool, that are lids: eyes, mouths and lips are the head's own too,
    and some of the lips' follow triangles of the skin beside them."""
    return hidden & ~gaussians_of(avatar, (*INTERIOR, *EYES)) & ~around_lips(avatar)


@torch.no_grad()
def finish_lids(avatar: Avatar, lids: Tensor, picture: Picture, pose: Pose, viewmat: Tensor) -> None:
    """Lays eyes behind the lids' Gaussians, [G] bool, and colours these from the skin around them where they are shut.

    Gaussians are drawn in the order of their depth, so an eye's must lie behind every lid that they overlap. They move
    along the photo's lines of sight, which hardly changes it.

    A lid's colour is that of what lies right beside it, creases too, and further in the tone of the skin around it.
    Along its edge are lashes. A photo's own lashes go along.

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
            _lay_bright_lashes(avatar, side, pose, viewmat)
            _tuck(avatar, side & ~gaussians_of(avatar, (*INTERIOR, *EDGE)), lids & side, closed, viewmat)
            _carry_lashes(avatar, side & ~lids & ~gaussians_of(avatar, EYES), shut, pose)
            _shade(avatar, lids & side, picture, closed, viewmat)
    _darken(avatar, lids, picture, pose, viewmat)


def _lay_bright_lashes(avatar: Avatar, side: Tensor, pose: Pose, viewmat: Tensor) -> None:
    """Lays Gaussians on an eye's lashes, of the side [G] bool, that are as bright as skin on the skin behind them.

    They move along the photo's lines of sight. Some millimetres before the lid they would slide over the eye from
    beside.
    """
    rig, vertices, matrix = avatar.rig, avatar.vertices(pose), viewmat @ pose.head_matrix()[0]
    eye, means = camera_centre(matrix), avatar.splats(vertices).means
    lash, skin = gaussians_of(avatar, LASH), ~parts_named(rig.part_names, NOT_SKIN).to(avatar.device)
    if not (side & lash).any():
        return
    near = nearest(means, means[side & lash])[0] < AROUND
    around = near & skin[triangle_parts(avatar)[avatar.binding]]
    bright = colour_of_sh(avatar.harmonics[:, 0]).mean(1)
    frames = triangle_frames(vertices, avatar.mesh_faces)
    rotation, _, centre = frames
    normal, sight = rotation[:, :, 1], centre - eye
    own = (skin[triangle_parts(avatar)] & ((normal * sight).sum(1) < 0)).nonzero()[:, 0]
    if not around.any() or not len(own):
        return
    moved = (side & lash & (bright > DARK * bright[around].quantile(TONES[0]))).nonzero()[:, 0]
    rays = means[moved] - eye
    ahead, there = (value / (value @ matrix[2, :3])[:, None] for value in (rays, sight[own]))
    binding = own[nearest(ahead, there)[1]]
    reach = (normal[binding] * sight[binding]).sum(1) / (normal[binding] * rays).sum(1)  # of the ray, to the plane
    laid, push = eye + reach[:, None] * rays, (reach - 1) * rays.norm(dim=1)
    kept = ((laid - centre[binding]).norm(dim=1) < STRAY) & (push > 0) & (push < MOST_LAID)
    bind(avatar, moved[kept], binding[kept], vertices)
    avatar.position[moved[kept]] = to_local(laid[kept], frames, binding[kept])


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


def _carry_lashes(avatar: Avatar, others: Tensor, shut: int, pose: Pose) -> None:
    """Binds those of `others`, [G] bool, that are a photo's lashes to what goes with the lid's edge as `shut` shuts it.

    They lie some millimetres from the rig's, on skin that a blink leaves behind or carries half the way: dark lines on
    the lid. In this pose nothing changes.
    """
    rig = avatar.rig
    offset = rig.expression_basis[shut]
    lashes = rig.faces[parts_named(rig.part_names, LASH).to(avatar.device)[rig.face_parts]].unique()
    lashes = lashes[offset[lashes].norm(dim=1) > CARRIED]
    if not len(lashes):
        return
    means, shut_means = (avatar.splats(avatar.gather(head)).means for head in (rig.template, rig.template + offset))
    away, which = nearest(means, rig.template[lashes])
    way, height = offset[lashes[which]], rig.template[lashes[which], 1]  # of the edge, [G, 3] and [G]
    near = others & (away < STRAY) & (means[:, 1] > height - BELOW)
    if not near.any():
        return
    bright = colour_of_sh(avatar.harmonics[:, 0]).mean(1)
    dark = bright < DARK * bright[others & (away < AROUND)].quantile(TONES[0])
    missed = (shut_means - means - way).norm(dim=1)
    moved = (near & dark & (missed > LEFT * way.norm(dim=1))).nonzero()[:, 0]
    skin = (~parts_named(rig.part_names, NOT_SKIN).to(avatar.device)[triangle_parts(avatar)]).nonzero()[:, 0]
    if not len(moved) or not len(skin):
        return
    places = [means[moved], (means + way)[moved]]
    binding, misses = followed(avatar, [rig.template, rig.template + offset], places, skin)
    better = misses < missed[moved]
    bind(avatar, moved[better], binding[better], avatar.vertices(pose))


def _shade(avatar: Avatar, own: Tensor, picture: Picture, pose: Pose, viewmat: Tensor) -> None:
    """Colours the Gaussians of one eye's lids, [G] bool, which are shut in this pose."""
    vertices = avatar.vertices(pose)
    splats, matrix = avatar.splats(vertices), viewmat @ pose.head_matrix()[0]
    depth = float(project_points(splats.means[own], matrix, picture.K)[1].mean())
    scale = max(1.0, DENSE * depth / float(picture.K[0, 0]))
    K, side = torch.cat((scale * picture.K[:2], picture.K[2:])), round(scale * picture.side)
    metre = float(K[0, 0]) / depth  # in pixels
    rgb, around, beside = _skin_around(avatar, own, splats, pose, (viewmat, K, side), metre)
    skin = _skin_toned(_without_lashes(rgb, around, max(1, round(THIN * metre))).mean(-1), around)
    if int(skin.sum()) < FEW:
        return
    pixels, lashes = (project_points(points, matrix, K)[0] for points in (splats.means[own], _edge(avatar, vertices)))
    tone = SHADE * _plane(rgb, skin, pixels)
    colour = _from_edges(rgb, beside, pixels, tone, metre) if beside.any() else tone
    if len(lashes):
        away = torch.cdist(pixels, lashes).amin(1, keepdim=True) / metre
        colour = torch.lerp(colour, LASH_SHADE * tone, (-(away / LASH_WIDTH).square()).exp())
    seen = light(avatar, splats, pose, viewmat, K, around.float())
    change = (seen[:, None, None] * avatar.harmonics[:, 1:]).sum(0) / seen.sum()  # from side to side, as around them
    harmonics = torch.cat((change.new_zeros(1, 3), change)).expand(len(colour), -1, -1).clone()
    aside = shade(harmonics, splats.means[own], matrix[None], avatar.config.sh_degree)[0] - 0.5
    harmonics[:, 0] = (colour.clamp(0.01, 0.99) - 0.5 - aside) / SH_0
    avatar.harmonics[own] = harmonics


def _darken(avatar: Avatar, lids: Tensor, picture: Picture, pose: Pose, viewmat: Tensor) -> None:
    """Makes what an open eye leaves to see of its lids, [G] bool, no brighter than the photo: lashes, shadow."""
    splats, matrix = avatar.splats(avatar.vertices(pose)), viewmat @ pose.head_matrix()[0]
    seen = light(avatar, splats, pose, viewmat, picture.K, picture.alpha * picture.known)[lids]
    pixels, depth = project_points(splats.means[lids], matrix, picture.K)
    pixel = float(depth.mean()) / float(picture.K[0, 0])  # metres
    share = seen * pixel**2 / (2 * torch.pi * splats.scales[lids].sort(1).values[:, 1:].prod(1))
    column, row = (pixels - 0.5).round().long().clamp(0, picture.side - 1).unbind(1)
    photo = picture.rgb[row, column]
    colour = shade(avatar.harmonics[lids], splats.means[lids], matrix[None], avatar.config.sh_degree)[0]
    excess = (colour - photo).clamp(min=0) * smoothstep(share, *PEEPS)[:, None]
    avatar.harmonics[lids, 0] -= excess / SH_0


def _from_edges(rgb: Tensor, beside: Tensor, pixels: Tensor, tone: Tensor, metre: float) -> Tensor:
    """[M, 3] colours at `pixels` [M, 2]: they pass from those right beside, [S, S] bool of a picture [S, S, 3], to
    `tone` [M, 3]."""
    places = beside.nonzero()
    across = torch.cdist(pixels, places.flip(1) + 0.5) / metre
    weight = 1 / (across.square() + NEAREST**2).square()
    edge = weight @ rgb[places[:, 0], places[:, 1]] / weight.sum(1, keepdim=True)
    return torch.lerp(edge, tone, MOST * smoothstep(across.amin(1), 0.0, FADE)[:, None])


def _edge(avatar: Avatar, vertices: Tensor) -> Tensor:
    """[E, 3] points along the lids' edges of UV vertices [P, 3]; none of heads without such parts."""
    own = parts_named(avatar.rig.part_names, EDGE).to(avatar.device)[triangle_parts(avatar)]
    corners = vertices[avatar.mesh_faces[own]]
    return torch.cat([torch.lerp(corners, corners.roll(1, 1), share).flatten(0, 1) for share in (0.0, 0.25, 0.5, 0.75)])


def _plane(rgb: Tensor, where: Tensor, pixels: Tensor) -> Tensor:
    """[M, 3] colours at `pixels` [M, 2] of a plane through those of a picture [S, S, 3] where [S, S] bool is.

    Asymmetric least squares (Newey & Powell 1987) in brightness: what lies in shadow counts for little.
    """
    places = where.nonzero()
    colours, middle = rgb[places[:, 0], places[:, 1]], places.float().mean(0)
    spread = (places - middle).std()

    def rows(at: Tensor) -> Tensor:
        return torch.cat((torch.ones_like(at[:, :1]), (at - middle) / spread), 1)

    known, slopes = rows(places.float()), torch.diag(rgb.new_tensor([0.0, RIDGE, RIDGE]))
    weight = torch.ones_like(known[:, :1])
    for _ in range(ROUNDS):
        weighted = known.mT @ (weight * known) + weight.sum() * slopes
        plane = torch.linalg.solve(weighted, known.mT @ (weight * colours))
        weight = torch.where((colours - known @ plane).mean(1, keepdim=True) > 0, LIT, 1 - LIT)
    return (rows(pixels.flip(1) - 0.5) @ plane).clamp(colours.amin(0), colours.amax(0))


def _skin_around(
    avatar: Avatar, own: Tensor, splats: Splats, pose: Pose, camera: tuple[Tensor, Tensor, int], metre: float
) -> tuple[Tensor, Tensor, Tensor]:
    """A picture [S, S, 3] from a camera (viewmat, K, S), and [S, S] bool in it the skin around the Gaussians `own`, and
    what lies right beside them; these have no part in its colours there."""
    viewmat, K, side = camera
    dark, views = torch.zeros(3, device=avatar.device), (viewmat[None], K[None], side, side)
    harmonics = splats.harmonics.clone()
    harmonics[own] = even_harmonics(dark.expand(int(own.sum()), 3), avatar.config.harmonic_count)
    shown = avatar.render(dataclasses.replace(splats, harmonics=harmonics), pose, *views, dark)
    marks = torch.stack((own, gaussians_of(avatar, EYES), own & False), 1).float()
    share, white, _ = avatar.render(splats, pose, *views, dark, colours=marks).rgb[0].unbind(-1)
    surface = rig_surface(avatar, pose, viewmat, K, side)
    other = parts_named(avatar.rig.part_names, NOT_SKIN).to(avatar.device)
    solid, lid = shown.alpha[0] > SOLID, share > 0.5
    skin = (surface.face >= 0) & ~other[avatar.rig.face_parts[surface.face.clamp(min=0)]] & solid
    near = grown(lid, round(AROUND * metre)) & ~grown(share + white > 0.2, max(1, round(BESIDE * metre)))
    beside = grown(lid, max(1, round(RING * metre))) & ~lid & (white < 0.2) & solid
    return shown.rgb[0] / (1 - share).clamp(min=0.5)[..., None], near & skin, beside


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
