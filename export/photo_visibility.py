"""What photos show of an avatar's Gaussians: how squarely, how finely, and whose colours count."""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor
from torch.nn.functional import normalize

from mvp4d.core.heads.model import EYES, INTERIOR
from mvp4d_export.avatar import Avatar, Splats
from mvp4d_export.photos import Photos, Picture
from mvp4d_export.projection import camera_centre, project
from mvp4d_export.rig import Pose
from mvp4d_export.triangles import triangle_frames, turn_to_local
from mvp4d_export.visibility import FACING_FROM, FACING_TO, claims, facing, gaussians_of, light, smoothstep

OFF_SURFACE = 0.008  # metres from its triangle beyond which a Gaussian has no use for the triangle's normal
SEEN_FROM, SEEN_TO = 0.08, 0.35  # share of a Gaussian's light between which it passes from hidden to visible


@dataclasses.dataclass(frozen=True)
class PhotoVisibility:
    """What N photos show of G Gaussians, as these and the photos' cameras and poses were when it was measured.

    Attributes:
      shown: [G] 0 where no photo sees a Gaussian, 1 where one sees it squarely. 0 inside of the mouth.
      pitch: [G] metres: the finest pixel that saw it, of a photo or a generated view.
      across: [G, 3, 3] 1 / metres^2, the information matrix of its place in the frame of its triangle: the sum over the
        photos that see it of (I - r r^T) / pitch^2, r the unit line of sight. On the rig the triangle's normal
        (axis 1) is known as well.
      claims: [N, G] what each photo's claim to tell their colours weighs: how squarely it sees them, 0 where hidden.
      corrections: [N, P] the photos' free corrections when all this was measured.
    """

    shown: Tensor
    pitch: Tensor
    across: Tensor
    claims: Tensor
    corrections: Tensor

    @classmethod
    def none(cls, corrections: Tensor) -> PhotoVisibility:
        """Of no Gaussians."""
        zeros = corrections.new_zeros
        return cls(zeros(0), zeros(0), zeros(0, 3, 3), zeros(len(corrections), 0), corrections)


@torch.no_grad()
def photo_visibility(
    avatar: Avatar,
    photos: Photos,
    pictures: list[tuple[Picture, Tensor]],
    views: list[tuple[Pose, Tensor]],
    fixed: Tensor,
    coarsest: float,
    corrections: Tensor,
) -> PhotoVisibility:
    """Measures what photos show of an avatar; changes nothing.

    Args:
      pictures: of each photo, at the size to look at it, and [S, S] where it says something.
      views: pose and camera [4, 4] of each photo.
      fixed: [G] bool, the head's own Gaussians.
      coarsest: metres a pixel of generated views spans.
      corrections: [N, P], kept with the result.
    """
    count, interior = avatar.gaussian_count, gaussians_of(avatar, INTERIOR)
    places = avatar.splats(avatar.gather(avatar.rig.template)).means
    shown, across = torch.zeros(count, device=avatar.device), torch.zeros(count, 3, 3, device=avatar.device)
    pitch = torch.full((count,), coarsest, device=avatar.device)
    claimed = []
    for index, ((picture, says), (pose, viewmat)) in enumerate(zip(pictures, views)):
        vertices = avatar.vertices(pose)
        splats = avatar.splats(vertices)
        off = off_surface(avatar, splats, vertices)
        share = light_share(avatar, splats, picture, says, pose, viewmat)
        eye = camera_centre(viewmat @ pose.head_matrix()[0])
        cosine = facing(avatar, vertices, eye)[avatar.binding]
        cosine = torch.where(off, cosine.clamp(min=0.5), cosine)
        visible = smoothstep(share, SEEN_FROM, SEEN_TO)
        reference = index == photos.reference
        claimed.append(claims(avatar, avatar.binding, places, visible * cosine.clamp(min=0), reference))
        squarely = visible * smoothstep(cosine, FACING_FROM, FACING_TO)
        shown = torch.maximum(shown, torch.where(interior, torch.zeros_like(squarely), squarely))
        seen = (share > SEEN_FROM) & ~fixed & (cosine > 0)
        pitch = torch.where(seen, pitch.clamp(max=photos.pitch[index]), pitch)
        known = across_sight(avatar, splats, vertices, eye, off)
        across = across + seen[:, None, None] * known / photos.pitch[index] ** 2
    found = PhotoVisibility(shown, pitch, across, torch.stack(claimed), corrections)
    return with_own_known(found, avatar, fixed, coarsest)


@torch.no_grad()
def with_own_known(found: PhotoVisibility, avatar: Avatar, fixed: Tensor, coarsest: float) -> PhotoVisibility:
    """The same with the finest pitch for the head's own Gaussians, `fixed` [G] bool, and its information for these and
    eyes that photos show: they are where the head has them."""
    finest = avatar.config.pitch
    known = fixed | (gaussians_of(avatar, EYES) & (found.pitch < coarsest))
    exact = torch.eye(3, device=avatar.device) / finest**2
    return dataclasses.replace(
        found,
        pitch=torch.where(fixed, finest, found.pitch),
        across=torch.where(known[:, None, None], exact, found.across),
    )


def light_share(avatar: Avatar, splats: Splats, picture: Picture, says: Tensor, pose: Pose, viewmat: Tensor) -> Tensor:
    """[G] share of each Gaussian's footprint that comes through to a photo where it says something, [S, S].

    The footprint is the integral of the projected Gaussian, opacity x 2 pi sqrt(det covariance), in pixels.
    """
    side = picture.side
    projected = project(
        splats.means,
        splats.quaternions,
        splats.scales,
        splats.opacities,
        (viewmat @ pose.head_matrix()[0])[None],
        picture.K[None],
        side,
        side,
        antialiased=avatar.config.antialiased,
    )
    conic = projected.conics[0]  # the covariance's inverse: xx, xy, yy
    root = (conic[:, 0] * conic[:, 2] - conic[:, 1].square()).clamp(min=1e-12).rsqrt()
    footprint = 2 * math.pi * root * projected.opacities[0]
    return light(avatar, splats, pose, viewmat, picture.K, picture.alpha * says) / footprint.clamp(min=1e-6)


def across_sight(avatar: Avatar, splats: Splats, vertices: Tensor, eye: Tensor, off: Tensor) -> Tensor:
    """[G, 3, 3] I - r r^T in the frames of their triangles, r the unit direction from `eye` [3]: what a picture from
    there tells of Gaussians' places; plus n n^T along the normal of those that are not `off` the rig, [G] bool."""
    ray = normalize(splats.means - eye, dim=1)
    ray = turn_to_local(ray, triangle_frames(vertices, avatar.mesh_faces), avatar.binding)
    across = torch.eye(3, device=avatar.device) - ray[:, :, None] * ray[:, None, :]
    across[~off, 1, 1] += 1  # the rig tells how far off its surface they lie
    return across


def off_surface(avatar: Avatar, splats: Splats, vertices: Tensor) -> Tensor:
    """[G] bool: Gaussians that lie off the rig, whose UV remesh has `vertices` [M, 3]."""
    centre = vertices[avatar.mesh_faces].mean(1)[avatar.binding]
    return (splats.means - centre).norm(dim=1) > OFF_SURFACE
