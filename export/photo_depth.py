"""How far off the pixels of a photo are: at the rig, or at hair and clothes off it, where generated views look alike.

The hull of the masks is far larger than hair is: it fills the eyes' sockets and lies before the cheeks and every
outline. So points along a line of sight are compared with what generated views show there.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, grid_sample, interpolate, pad

from mvp4d.core.skin_colour import SkinColour, lightness_and_hue
from mvp4d_export.avatar import Avatar
from mvp4d_export.dataset import Dataset
from mvp4d_export.hair_edge import of_nearest, to_the_edge
from mvp4d_export.initialise import STILL, TOLERANCE, hang, moved_vertices
from mvp4d_export.mouth_mask import grown
from mvp4d_export.photos import Picture
from mvp4d_export.rig import Pose
from mvp4d_export.thickness import Thickness, centres, like_skin
from mvp4d_export.triangles import to_head, to_local, triangle_frames
from mvp4d_export.visibility import RigSurface, outer_parts, rig_surface, triangle_parts

FRAMES = 3  # of the generated views that are looked at
CELLS = 64  # lines of sight along a picture's side
STEP = 0.006  # metres between points of a line of sight
BEFORE_RIG = 0.06  # metres before the rig in which hair may be
AROUND = 0.14  # metres before and behind the head's middle in which anything beside the rig may be
UNLIKE = 0.3  # difference of colours, of 1, from which they are as unlike as can be
UNSEEN = 0.2  # how unlike a point is that no view sees
RIG_AHEAD = 0.06  # how much more unlike than a point before it the rig may be and still be what is shown
AS_GOOD = 0.04  # how much more unlike than the best a nearer point may be and still be what is shown
BEHIND = 0.01  # metres behind the rig's surface from which a view does not see a point
SOLID = 0.5  # alpha from which a line of sight meets the person
THICK = 0.003  # metres on the rig from which hair and clothes lie before it
ASKANCE = 0.5  # cosine at which the rig is taken to be seen where it is seen at a smaller one
WIDER = 10  # cells by which hair and clothes of a photo may be wider than those of the generated views
MISFIT = 4  # cells by which the rig's outline may be off
SQUARE, FEW = 0.5, 30  # cosine from which cells of the face tell the colour of skin; fewer cells tell nothing
UNLIKE_FACE = 0.5  # how far a colour is not skin's from which it is none
NEARER = 4  # power of the distance with which cells count less for what lies beside them
COMPANY = 6  # of nine neighbours off the rig, without which one is an error


@dataclasses.dataclass(frozen=True)
class PhotoDepth:
    """What a picture of S pixels a side shows.

    Attributes:
      surface: the rig in it.
      depth: [S, S] metres, infinite where there is nothing or nothing is known. off: [S, S] bool: it is not the rig.
      beyond: [S, S] bool: nor is it in the hull of the generated views.
    """

    surface: RigSurface
    depth: Tensor
    off: Tensor
    beyond: Tensor


@dataclasses.dataclass(frozen=True)
class GeneratedView:
    """A generated view of one video frame.

    Attributes:
      picture: [3, h, w] in the photo's light. mask: [h, w]. rig: [h, w] metres, the rig's depth, 1,000 where it is not.
      face: [h, w] its triangles, -1 where there is none.
      matrix: [4, 4] head space to camera. K: [3, 3] intrinsics.
    """

    picture: Tensor
    mask: Tensor
    rig: Tensor
    face: Tensor
    matrix: Tensor
    K: Tensor

    def look(self, points: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of points [M, 3] in head space: colours [M, 3]; [M] bool: in the picture, on the mask, not behind the rig."""
        camera = points @ self.matrix[:3, :3].T + self.matrix[:3, 3]
        pixels = camera @ self.K.T
        height, width = self.mask.shape
        at = pixels[:, :2] / pixels[:, 2:].clamp(min=1e-6) / pixels.new_tensor([width / 2, height / 2]) - 1
        inside = (at.abs() < 1).all(1) & (camera[:, 2] > 0.01)
        stacked = torch.cat((self.picture, self.mask[None]))[None]
        smooth = grid_sample(stacked, at[None, None], align_corners=False)[0, :, 0].T
        rig = grid_sample(self.rig[None, None], at[None, None], mode="nearest", align_corners=False)[0, 0, 0]
        return smooth[:, :3], inside, inside & (smooth[:, 3] > 0.5), camera[:, 2] < rig + BEHIND


class GeneratedViews:
    """Generated views of some frames, and how the points of another pose come there."""

    @torch.no_grad()
    def __init__(self, avatar: Avatar, data: Dataset, gain: Tensor):
        """`gain` [3] is the views' colours over the photos'."""
        self.avatar = avatar
        outer = outer_parts(avatar)
        self.outside = outer[triangle_parts(avatar)]
        self.covered = outer[avatar.rig.face_parts]  # which of the rig's triangles hair and clothes may cover
        self.face = self.covered & (moved_vertices(avatar.rig)[avatar.rig.faces].amin(1) > STILL)  # and of the face
        last = len(data.train_frames) - 1
        frames = sorted({data.train_frames[int(i)] for i in torch.linspace(0, last, FRAMES)})
        self.by_frame = [(data.pose[frame : frame + 1], self._sights(data, frame, gain)) for frame in frames]

    def _sights(self, data: Dataset, frame: int, gain: Tensor) -> list[GeneratedView]:
        pose, found = data.pose[frame : frame + 1], []
        height, width = data.size
        for view in data.train_views:
            if not data.usable[view, frame]:
                continue
            pictures, masks, viewmats, Ks = data.batch([view], frame)
            surface = rig_surface(self.avatar, pose, viewmats[0], Ks[0], max(height, width))
            rig, face = (value[:height, :width] for value in (surface.depth, surface.face))
            smooth = avg_pool2d(pictures.permute(0, 3, 1, 2), 3, 1, 1, count_include_pad=False)[0]
            mask = torch.ones_like(rig) if masks is None else masks[0]
            matrix = viewmats[0] @ pose.head_matrix()[0]
            found.append(GeneratedView(smooth / gain[:, None, None], mask, rig.clamp(max=1e3), face, matrix, Ks[0]))
        return found

    def outlines(self, skin: Tensor) -> list[Thickness]:
        """What the views' outlines say of hair and clothes on the rig, where skin has the colour `skin` [3]."""
        return [
            Thickness.of_outline(
                self.avatar, sight.face, sight.rig, sight.mask, sight.picture.permute(1, 2, 0), sight.K[0, 0], skin
            )
            for _, sights in self.by_frame
            for sight in sights
        ]

    def unlike(self, pose: Pose, points: Tensor, colours: Tensor) -> tuple[Tensor, Tensor]:
        """[M] bool: whether points [M, 3] in a pose lie in the masks' hull; [M] how unlike the views there are to
        `colours` [M, 3]."""
        seen, within, total, weight = points.new_zeros(4, len(points))
        for shown, inside, masked, before in self._looks(pose, points):
            counts = masked & before
            seen += inside
            within += masked
            weight += counts
            total += counts * (shown - colours).abs().mean(1).clamp(max=UNLIKE)
        hull = (seen >= 2) & (within >= (1 - 2 * TOLERANCE) * seen)
        return hull, torch.where(weight > 0, total / weight.clamp(min=1), UNSEEN)

    def _looks(self, pose: Pose, points: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """What every view shows (`GeneratedView.look`) of points [M, 3] in a pose."""
        avatar = self.avatar
        frames = triangle_frames(avatar.vertices(pose), avatar.mesh_faces)
        bound = hang(avatar, points, frames[2], self.outside)
        local = to_local(points, frames, bound)
        for posed, sights in self.by_frame:
            there = to_head(local, triangle_frames(avatar.vertices(posed), avatar.mesh_faces), bound)
            for sight in sights:
                yield sight.look(there)


@torch.no_grad()
def photo_depth(
    sights: GeneratedViews, pose: Pose, viewmat: Tensor, picture: Picture, surface: RigSurface, skin: Tensor
) -> PhotoDepth:
    """Depth of the pixels of a photo, in which the rig's `surface` is known and skin has the colour `skin` [3].

    What looks like skin is on the rig: any point before a cheek shows the views skin. What does not, and has no better
    place before the rig, lies as far before it as outlines tell of hair and clothes there. What lies beside the
    generated views' hull is as far off as what lies within it next to it, as hair is wider in the photo; so is what
    looks like skin away from the rig.
    """
    size = max(1, picture.side // CELLS)
    colour, alpha = _cells(picture, size)
    middle = (torch.arange(len(alpha), device=alpha.device) * size + size // 2).clamp(max=picture.side - 1)
    rig = surface.depth[middle][:, middle]
    matrix = viewmat @ pose.head_matrix()[0]
    before = torch.arange(0, BEFORE_RIG, STEP, device=rig.device)  # the rig first
    around = torch.arange(-AROUND, AROUND, STEP, device=rig.device)
    depth, off = torch.full_like(rig, math.inf), torch.zeros_like(rig, dtype=torch.bool)
    within = torch.zeros_like(off)
    faces, facing = (values[middle][:, middle] for values in (surface.face, surface.facing))
    fleshy = _fleshy(sights, colour, faces, facing, skin)
    for on_rig in (True, False):
        at = (alpha > SOLID) & (torch.isfinite(rig) == on_rig) & ~(fleshy & on_rig)
        if not at.any():
            continue
        start, steps = (rig[at], before) if on_rig else (matrix[2, 3].expand(int(at.sum())), around)
        depths = start[:, None] - steps  # [M, P], far to near
        rows, columns = at.nonzero().unbind(1)
        pixels = torch.stack((columns, rows), 1) * size + size / 2
        rays = pad(pixels, (0, 1), value=1.0) @ torch.linalg.inv(picture.K).T
        points = ((rays[:, None] * depths[..., None]).reshape(-1, 3) - matrix[:3, 3]) @ matrix[:3, :3]
        hull, cost = sights.unlike(pose, points, colour[at].repeat_interleave(len(steps), 0))
        hull, cost = hull.reshape(depths.shape), cost.reshape(depths.shape)
        if on_rig:
            hull[:, 0] = True
            cost[:, 0] -= RIG_AHEAD
        cost = torch.where(hull, cost, torch.inf)
        least, index = cost.min(1)
        nearest = len(steps) - 1 - (cost <= least[:, None] + AS_GOOD).flip(1).float().argmax(1)
        index = torch.where((index == 0) & on_rig, index, nearest)
        within[at] = hull.any(1)
        known = torch.isfinite(least) & ~fleshy[at]
        depth[at] = torch.where(known, depths.gather(1, index[:, None])[:, 0], math.inf)
        off[at] = known & ((index > 0) | (not on_rig))
    at = (alpha > SOLID) & torch.isfinite(rig) & ~off & ~fleshy & sights.covered[faces.clamp(min=0)]
    thick = _thickness(sights, picture, surface, skin).at(centres(sights.avatar)[faces[at]])
    depth[at] = rig[at] - thick / facing[at].clamp(min=ASKANCE)
    off[at] = thick > THICK
    beyond = _beyond((alpha > SOLID) & ~torch.isfinite(depth), off, torch.isfinite(rig), fleshy)
    depth[beyond] = _beside(beyond, off, depth)
    depth, off = _to_pixels(depth, off | beyond, surface, size)
    beyond = beyond & ~within
    beyond = interpolate(beyond[None, None].float(), scale_factor=size, mode="nearest")[0, 0, : len(off), : len(off)]
    covered = (surface.face >= 0) & sights.covered[surface.face.clamp(min=0)]
    depth, off = to_the_edge(depth, off, surface.depth, covered, picture, skin, size)
    beyond = off & (beyond > 0)
    rim = (picture.alpha * picture.known > SOLID) & ~torch.isfinite(depth) & grown(beyond, size)
    if rim.any():
        depth = torch.where(rim, of_nearest(depth, beyond), depth)
    return PhotoDepth(surface, depth, off | rim, beyond | rim)


def _fleshy(sights: GeneratedViews, colours: Tensor, faces: Tensor, facing: Tensor, skin: Tensor) -> Tensor:
    """[C, C] bool: which cells look like skin.

    Of the face that is what has about the hue of `skin` [3]: it has lips, shadows and a beard. Elsewhere it must be
    as light as the face as well: brown hair and a warm grey scarf have its hue.

    Args:
      colours: [C, C, 3]. faces: [C, C] the rig's triangles, -1 where there is none. facing: [C, C] their cosines.
    """
    alike, face = like_skin(colours, skin), (faces >= 0) & sights.face[faces.clamp(min=0)]
    known = alike & face & (facing > SQUARE)
    if int(known.sum()) < FEW:
        return alike
    told = lightness_and_hue(colours.cpu().numpy())
    unlike = SkinColour.of(told[known.cpu().numpy()]).unlike(told)
    return alike & (face | (torch.from_numpy(unlike).to(colours) < UNLIKE_FACE))


def _beyond(unknown: Tensor, off: Tensor, rig: Tensor, fleshy: Tensor) -> Tensor:
    """[C, C] bool: cells of the person that are `unknown` and have some `off` the rig within reach; not where the `rig`
    is, nor skin beside it, which is the rig's own outline elsewhere."""
    return unknown & ~rig & grown(off, WIDER) & ~(fleshy & grown(rig, MISFIT))


def _beside(places: Tensor, off: Tensor, depth: Tensor) -> Tensor:
    """[M] depth of cells `places` [C, C] bool, by those `off` the rig weighed by inverse distance (Shepard 1968).

    Seen from beside, the nearest one's alone would be steps.
    """
    away = torch.cdist(places.nonzero().float(), off.nonzero().float())
    weight = away.clamp(min=1).pow(-NEARER)
    return weight @ depth[off] / weight.sum(1)


def _thickness(sights: GeneratedViews, picture: Picture, surface: RigSurface, skin: Tensor) -> Thickness:
    """What the outlines of all generated views and of the photo say."""
    own = Thickness.of_outline(
        sights.avatar,
        surface.face,
        surface.depth,
        picture.alpha,
        picture.rgb,
        picture.K[0, 0],
        skin,
        picture.known,
    )
    return Thickness.of_all([*sights.outlines(skin), own])


def _cells(picture: Picture, size: int) -> tuple[Tensor, Tensor]:
    """Mean colours [C, C, 3] and alpha [C, C] of squares of `size` pixels a side."""
    solid = (picture.alpha * picture.known)[..., None]
    pooled = avg_pool2d(torch.cat((picture.rgb * solid, solid), -1).permute(2, 0, 1)[None], size, ceil_mode=True)
    pooled = pooled[0].permute(1, 2, 0)
    return pooled[..., :3] / pooled[..., 3:].clamp(min=1e-3), pooled[..., 3]


def _to_pixels(depth: Tensor, off: Tensor, surface: RigSurface, size: int) -> tuple[Tensor, Tensor]:
    """Depth and `off` [C, C] of squares of `size` pixels as pixels: medians of neighbours, and smooth between them."""
    side = len(surface.depth)
    values = pad(torch.where(off, depth, torch.nan)[None, None], (1, 1, 1, 1), value=math.nan)[0, 0]
    around = values.unfold(0, 3, 1).unfold(1, 3, 1).flatten(2)
    off = off & ((~around.isnan()).sum(-1) >= COMPANY)
    stacked = torch.stack((torch.where(off, around.nanmedian(-1).values, 0), off.float()))[None]
    smooth, share = interpolate(stacked, scale_factor=size, mode="bilinear", align_corners=False)[0, :, :side, :side]
    found = smooth / share.clamp(min=1e-6)
    shown = interpolate(off[None, None].float(), scale_factor=size, mode="nearest")[0, 0, :side, :side] > 0
    shown &= found < surface.depth  # also where the rig is not
    return torch.where(shown, found, surface.depth), shown
