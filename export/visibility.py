"""What a photo shows of an avatar: the rig's triangles by a depth test, Gaussians by their light in the photo."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from mvp4d.core.heads import regions
from mvp4d.core.heads.model import EYES, INTERIOR
from mvp4d_export.avatar import Avatar, Splats
from mvp4d_export.cover import first_triangle
from mvp4d_export.projection import EPS_2D, camera_centre, quaternion_to_matrix
from mvp4d_export.rig import Pose
from mvp4d_export.triangles import normals_of, triangle_frames

TEETH = ("teeth",)
OTHERS = 0.7  # of how squarely photos see a place, what counts of all but the reference: fewer borders, off the nose
FACING_FROM, FACING_TO = 0.1, 0.45  # cosines between which a surface passes from unseen to fully shown


@dataclasses.dataclass(frozen=True)
class RigSurface:
    """What of the rig each pixel of a square picture shows, S pixels a side.

    Attributes:
      face: [S, S] int64 rig triangle, -1 for none. depth: [S, S] metres, infinite where there is none.
      point: [S, S, 3] head space. facing: [S, S] cosine between surface normal and line of sight, absolute.
    """

    face: Tensor
    depth: Tensor
    point: Tensor
    facing: Tensor


@torch.no_grad()
def rig_surface(avatar: Avatar, pose: Pose, viewmat: Tensor, K: Tensor, side: int) -> RigSurface:
    """Draws the rig of one frame: nearest triangles first, so that the first to cover a pixel is what it shows."""
    vertices = avatar.rig(pose)[0][0]
    matrix = viewmat @ pose.head_matrix()[0]
    camera = vertices @ matrix[:3, :3].T + matrix[:3, 3]
    pixels = camera @ K.T
    pixels = pixels[:, :2] / pixels[:, 2:].clamp(min=1e-6)
    faces = avatar.rig.faces
    order = camera[:, 2][faces].mean(1).argsort()
    order = order[camera[:, 2][faces[order]].amin(1) > 0]
    owner, weights = first_triangle(pixels[faces[order]].cpu().double().numpy(), side)
    owner, weights = torch.from_numpy(owner), torch.from_numpy(weights).float()
    device = vertices.device
    hit = (owner >= 0).to(device)
    face = torch.where(hit, order[owner.clamp(min=0).to(device)], -1)
    corners = faces[face.clamp(min=0)]
    point = (vertices[corners] * weights.to(device)[..., None]).sum(1)
    seen = point @ matrix[:3, :3].T + matrix[:3, 3]
    normal = normals_of(vertices[corners])
    eye = camera_centre(matrix)
    facing = (normal * normalize(point - eye, dim=-1)).sum(-1).abs()
    shape = (side, side)
    depth = torch.where(hit, seen[:, 2], torch.inf)
    return RigSurface(face.reshape(shape), depth.reshape(shape), point.reshape(*shape, 3), facing.reshape(shape))


def shows_parts(avatar: Avatar, pose: Pose, viewmat: Tensor, K: Tensor, side: int, words: tuple[str, ...]) -> Tensor:
    """[S, S] bool: where the rig shows parts whose names hold one of the words."""
    face = rig_surface(avatar, pose, viewmat, K, side).face
    chosen = parts_named(avatar.rig.part_names, words).to(avatar.device)
    return (face >= 0) & chosen[avatar.rig.face_parts[face.clamp(min=0)]]


def parts_named(names: tuple[str, ...], words: tuple[str, ...]) -> Tensor:
    """[parts] bool: whose names hold one of the words."""
    return torch.from_numpy(regions.parts_named(names, words))


def outer_parts(avatar: Avatar) -> Tensor:
    """[parts] bool: what hair and clothes may hang on, neither eyes nor the mouth's inside."""
    return ~parts_named(avatar.rig.part_names, (*INTERIOR, *EYES)).to(avatar.device)


def gaussians_of(avatar: Avatar, words: tuple[str, ...]) -> Tensor:
    """[G] bool: Gaussians on triangles of parts whose names hold one of the words."""
    chosen = parts_named(avatar.rig.part_names, words).to(avatar.device)
    return chosen[triangle_parts(avatar)[avatar.binding]]


def rigid_gaussians(avatar: Avatar) -> Tensor:
    """[G] bool: Gaussians of eyes, teeth, gums and tongue, which have a surface of their own to stay on."""
    return gaussians_of(avatar, (*INTERIOR, *EYES))


def triangle_parts(avatar: Avatar) -> Tensor:
    """[T] the head's part of each triangle of the UV remesh."""
    return torch.from_numpy(avatar.mesh.part.astype(np.int64)).to(avatar.device)[avatar.mesh_faces[:, 0]]


@torch.no_grad()
def facing(avatar: Avatar, vertices: Tensor, eye: Tensor) -> Tensor:
    """[T] cosine between each triangle's normal and the direction to `eye` [3] in head space; negative from behind."""
    rotation, _, centre = triangle_frames(vertices, avatar.mesh_faces)
    return (rotation[:, :, 1] * normalize(eye - centre, dim=-1)).sum(-1)


def claims(avatar: Avatar, binding: Tensor, places: Tensor, squarely: Tensor, reference: bool) -> Tensor:
    """[M] what a photo's claim to tell colours of `places` [M, 3] of the head at rest weighs, on triangles `binding`
    [M], that it sees so `squarely` [M]. An eye is one place: two photos' irises never meet."""
    claim = squarely if reference else OTHERS * squarely
    eyes = parts_named(avatar.rig.part_names, EYES).to(avatar.device)[triangle_parts(avatar)[binding]]
    for side in (places[:, 0] < 0, places[:, 0] >= 0):
        eye = eyes & side
        if eye.any():
            claim = torch.where(eye, claim[eye].mean(), claim)
    return claim


def light(avatar: Avatar, splats: Splats, pose: Pose, viewmat: Tensor, K: Tensor, alpha: Tensor) -> Tensor:
    """[G] how much of each Gaussian comes through to a picture: its blending weights times `alpha` [H, W], summed."""
    values = splats.means.new_zeros(len(splats.means), 3, requires_grad=True)
    with torch.enable_grad():
        drawn = avatar.render(splats, pose, viewmat[None], K[None], *alpha.T.shape, colours=values)
        (weights,) = torch.autograd.grad((drawn.rgb[0, ..., 0] * alpha).sum(), values)
    return weights[:, 0]


def smoothed(splats: Splats, variance: Tensor, towards: Tensor, weights: Tensor | None = None) -> Splats:
    """Splats blurred in space by `variance` [G], metres squared, and thinned out as much as their pictures grow.

    Args:
      towards: [V, 3] unit vectors, the directions from which they are seen.
      weights: [V, G] how much each direction counts for each Gaussian; all the same when None.
    """
    scales = (splats.scales.square() + variance[:, None]).sqrt()
    local = torch.einsum("gij,vi->vgj", quaternion_to_matrix(splats.quaternions.detach()), towards.detach())
    growth = (_shadow(scales, local) / _shadow(splats.scales, local).clamp(min=1e-20)).sqrt()
    thinner = growth.reciprocal()
    if weights is None:
        thinner = thinner.mean(0)
    else:
        thinner = (weights * thinner).sum(0) / weights.sum(0)
    return dataclasses.replace(splats, scales=scales, opacities=splats.opacities * thinner)


def _shadow(scales: Tensor, local: Tensor) -> Tensor:
    """[V, G] determinant of the picture's covariance, up to a factor: of axes [G, 3] seen along [V, G, 3] in them."""
    a, b, c = scales.square().unbind(1)
    return (local.square() * torch.stack((b * c, a * c, a * b), 1)).sum(-1)


def excess_variance(pitch: Tensor, shown: float) -> Tensor:
    """[G] variance that Gaussians seen at `pitch` [G] lack where a pixel spans `shown` metres and blurs by EPS_2D."""
    return EPS_2D * (pitch.square() - shown**2).clamp(min=0)


def smoothstep(x: Tensor, low: float, high: float) -> Tensor:
    share = ((x - low) / (high - low)).clamp(0, 1)
    return share * share * (3 - 2 * share)
