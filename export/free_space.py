"""Where several photos look through: what one of them takes for hair cannot lie before what another one shows.

A photo's depth off the rig is a guess by outlines and generated views. Hair that is guessed too far before a forehead
covers the skin that a photo from another side shows there.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor
from torch.nn.functional import grid_sample, interpolate, max_pool2d, pad

from mvp4d_export.avatar import Avatar
from mvp4d_export.initialise import hang
from mvp4d_export.mouth_mask import grown
from mvp4d_export.photo_depth import CELLS, THICK, PhotoDepth
from mvp4d_export.photos import Picture
from mvp4d_export.rig import Pose
from mvp4d_export.seeding import project_points
from mvp4d_export.triangles import to_head, to_local, triangle_frames
from mvp4d_export.visibility import outer_parts, triangle_parts

FAINT, MARGIN = 0.02, 0.012  # alpha, and share of a photo's side around it, in which hair may still be
THROUGH = 0.012  # metres before hair in a photo from which something is in its way
THROUGH_RIG = 0.003  # the same before the rig
BESIDE = 0.008  # share of a photo's side around a point in which all must be looked through
SHARES = (1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125, 0.0)  # of how far before the rig something is, as tried
SHIFTS = (0.0, 0.01, -0.01, 0.02, -0.02, 0.03, -0.03, 0.04, -0.04)  # metres that what has no rig behind moves, as tried
AGREED = 0.5  # share of a cell's neighbourhood that must have found a place


@dataclasses.dataclass(frozen=True)
class PosedPhoto:
    """One photo: its picture, pose (one frame), camera [4, 4] and depth."""

    picture: Picture
    pose: Pose
    viewmat: Tensor
    shown: PhotoDepth

    @property
    def matrix(self) -> Tensor:
        """[4, 4] head space to camera."""
        return self.viewmat @ self.pose.head_matrix()[0]

    def free(self) -> Tensor:
        """[S, S] metres to which it looks through what is before; 0 where it says nothing, 1,000 to its background."""
        depth = self.shown.depth - torch.where(self.shown.off, THROUGH, THROUGH_RIG)
        return torch.where(torch.isfinite(depth), depth, before_background(self.picture))


def before_background(picture: Picture) -> Tensor:
    """[S, S] 1,000 (metres) where a photo shows its background and nothing can be before it, else 0."""
    person = grown(picture.alpha > FAINT, round(MARGIN * picture.side))
    return torch.where((picture.known > 0) & ~person, 1e3, 0.0)


@torch.no_grad()
def agreeing(avatar: Avatar, photos: list[PosedPhoto]) -> list[PhotoDepth]:
    """The photos' depths, once nothing off the rig lies where another photo looks through.

    Along its line of sight it comes nearer to the rig, or, where there is no rig behind, is moved either way; what has
    no place is unknown.
    """
    if len(photos) == 1:
        return [photos[0].shown]
    outside = outer_parts(avatar)[triangle_parts(avatar)]
    return [_settled(avatar, photo, [other for other in photos if other is not photo], outside) for photo in photos]


def _settled(avatar: Avatar, photo: PosedPhoto, others: list[PosedPhoto], outside: Tensor) -> PhotoDepth:
    """The depth of one photo that the others allow."""
    side, shown = photo.picture.side, photo.shown
    size = max(1, side // CELLS)
    middle = (torch.arange(-(-side // size), device=avatar.device) * size + size // 2).clamp(max=side - 1)
    depth, rig, off = (value[middle][:, middle] for value in (shown.depth, shown.surface.depth, shown.off))
    if not off.any():
        return shown
    before = torch.isfinite(rig)[off, None]  # [M, 1]: there is a rig behind
    shares, shifts = depth.new_tensor(SHARES), depth.new_tensor(SHIFTS)
    start, behind = depth[off, None], torch.where(before, rig[off, None], 0.0)
    tried = torch.where(before, behind - (behind - start) * shares, start + shifts)  # [M, P]
    rows, columns = middle[off.nonzero()].unbind(1)
    rays = pad(torch.stack((columns, rows), 1) + 0.5, (0, 1), value=1.0) @ torch.linalg.inv(photo.picture.K).T
    points = (rays[:, None] * tried[..., None] - photo.matrix[:3, 3]) @ photo.matrix[:3, :3]
    fits = ~_in_the_way(avatar, photo.pose, points, others, outside)
    first, some = fits.float().argmax(1), fits.any(1)
    share, shift, known = torch.zeros(3, *depth.shape, device=depth.device)
    share[off], shift[off], known[off] = torch.where(some, shares[first], 0.0), shifts[first], some.float()
    share, shift, known = (_to_pixels(value, off, size, side) for value in (share, shift, known))
    on_rig = torch.isfinite(shown.surface.depth)
    lift = torch.where(on_rig, share * (shown.surface.depth - shown.depth), 0.0)
    moved = torch.where(on_rig, shown.surface.depth - lift, shown.depth + shift)
    moved = torch.where(on_rig | (known >= AGREED), moved, torch.inf)
    still = shown.off & torch.where(on_rig, lift > THICK, torch.isfinite(moved))
    return PhotoDepth(shown.surface, torch.where(shown.off, moved, shown.depth), still, shown.beyond & still)


def _in_the_way(avatar: Avatar, pose: Pose, points: Tensor, others: list[PosedPhoto], outside: Tensor) -> Tensor:
    """[M, P] bool: points [M, P, 3] of M lines of sight, head space of a pose, that another photo looks through."""
    frames = triangle_frames(avatar.vertices(pose), avatar.mesh_faces)
    bound = hang(avatar, points[:, 0], frames[2], outside).repeat_interleave(points.shape[1])
    local = to_local(points.flatten(0, 1), frames, bound)
    found = torch.zeros(points.shape[:2], dtype=torch.bool, device=points.device)
    for other in others:
        there = to_head(local, triangle_frames(avatar.vertices(other.pose), avatar.mesh_faces), bound)
        pixels, depth = project_points(there, other.matrix, other.picture.K)
        reach = max(1, round(BESIDE * other.picture.side))
        free = -max_pool2d(-other.free()[None, None], 2 * reach + 1, 1, reach)
        at = (pixels / (other.picture.side / 2) - 1)[None, None]
        free = grid_sample(free, at, mode="nearest", align_corners=False)[0, 0, 0]
        found |= ((depth > 0) & (depth < free)).view_as(found)
    return found


def _to_pixels(values: Tensor, at: Tensor, size: int, side: int) -> Tensor:
    """Values [C, C] of the cells `at` which they are known, as pixels [S, S]: means of neighbours, smooth between."""
    stacked = torch.stack((torch.where(at, values, 0.0), at.float()))[None]
    around = pad(stacked, (1, 1, 1, 1)).unfold(2, 3, 1).unfold(3, 3, 1).sum((-1, -2))
    smooth, weight = interpolate(around, scale_factor=size, mode="bilinear", align_corners=False)[0, :, :side, :side]
    return smooth / weight.clamp(min=1e-6)
