"""How a fit with photos ends: every Gaussian is blurred by what nothing has told of it, then each part is finished."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from mvp4d.core.progress import say
from mvp4d_export.avatar import logit_of
from mvp4d_export.densify import local_scale
from mvp4d_export.despeckle import fade_specks
from mvp4d_export.hem import Edges, finish_hem
from mvp4d_export.islands import FLAP, fade_islands
from mvp4d_export.lids import finish_lids, lids_among
from mvp4d_export.lip_corners import finish_corners, mixture, shows_inside
from mvp4d_export.lips import finish_lips
from mvp4d_export.overreach import cut_overreach
from mvp4d_export.photo_fit import PhotoFit, direction_to
from mvp4d_export.projection import EPS_2D, quaternion_to_matrix
from mvp4d_export.rim import EAR_RIM, SKIN_DOTS, SKIN_RIM, even_rim, outline_cosine
from mvp4d_export.triangles import rotation_and_log_scale
from mvp4d_export.unseen_eyes import lay_eye, unseen_eyes
from mvp4d_export.visibility import OTHERS, excess_variance, gaussians_of, light, smoothed

HIDDEN = 1e-3  # pixels that a Gaussian counts for in a view that it is hidden from
LEAST_CLAIM = 0.05  # to tell the colour around skin that photos see from beside


@torch.no_grad()
def finish_photos(fit: PhotoFit) -> None:
    """Makes the avatar what its finest pitch alone describes, and finishes rims, lips, lids, specks and the hem."""
    avatar, photos = fit.avatar, fit.photos
    _lay_unseen_eyes(fit)
    _blur(fit)
    off = ~fit.on_surface() & ~fit.fixed
    known = [(photo, *fit.view(which)) for which, photo in enumerate(photos.pictures) if photo.known.any()]
    for seen in known:
        cut_overreach(avatar, off, *seen)
    even_rims(fit)
    reference = photos.pictures[photos.reference], *fit.view(photos.reference)
    finish_corners(avatar, _beside_open_mouths(fit))
    finish_lips(avatar, fit.fixed, fit.pitch)
    finish_lids(avatar, lids_among(avatar, fit.fixed), *reference)
    fade_specks(avatar, *reference)
    fade_islands(avatar, off & fit.beyond_views(), *reference, FLAP)
    fade_islands(avatar, off, *reference)
    finish_hem(avatar, ~fit.fixed, [*Edges.of_capture(fit.data), *itertools.starmap(Edges.of_photo, known)])


def _beside_open_mouths(fit: PhotoFit) -> Tensor:
    """[G] how far lips are mixed (`lip_corners.mixture`) by the photo that tells most of them."""
    pitches = fit.photos.pitch.tolist()
    opened = torch.tensor([shows_inside(mouth, pitch) for mouth, pitch in zip(fit.mouths, pitches)])
    best, which = fit.claims.max(0)
    return mixture((best > 0) & opened.to(which.device)[which] & ~fit.fixed, fit.pitch)


def _lay_unseen_eyes(fit: PhotoFit) -> None:
    """Puts the head's own eyes where no photo shows any."""
    avatar = fit.avatar
    eyes = unseen_eyes(avatar, fit.shown)
    if eyes:
        say("no photo shows the eyes open: they are the head's own, with brown irises")
    for eye in eyes:
        lay_eye(avatar, eye)
        fit.know(eye)


def _blur(fit: PhotoFit) -> None:
    """Blurs every Gaussian by what it lacks at the finest pitch.

    Generated views tell its place to their pitch in all directions, a photo to its own across the line of sight.
    Gaussians that no photo sees are thinned out as they grow, as the generated views that see them have it.
    """
    avatar, data = fit.avatar, fit.data
    pose, viewmats, Ks = data.pose[:1], data.viewmats[:, 0], data.Ks[:, 0]
    splats = avatar.splats(avatar.vertices(pose))
    everywhere = torch.ones(data.size, device=avatar.device)
    weights = torch.stack([light(avatar, splats, pose, viewmat, K, everywhere) for viewmat, K in zip(viewmats, Ks)])
    towards = torch.stack([direction_to(viewmat, pose) for viewmat in viewmats])
    finest = avatar.config.pitch
    thinned = smoothed(splats, excess_variance(fit.pitch, finest), towards, weights + HIDDEN).opacities
    avatar.logit_opacity.copy_(logit_of(thinned))

    one = torch.eye(3, device=avatar.device)
    known = fit.across / EPS_2D + one / (EPS_2D * data.pixel_pitch**2)
    size, axes = torch.linalg.eigh(torch.linalg.inv(known))
    lacking = (size - EPS_2D * finest**2).clamp(min=0)
    lacking = (axes * lacking[:, None]) @ axes.mT / local_scale(avatar, splats)[:, None, None].square()
    own = quaternion_to_matrix(avatar.rotation) * avatar.log_scale.exp()[:, None]
    rotation, log_scale = rotation_and_log_scale(own @ own.mT + lacking)
    avatar.rotation.copy_(rotation)
    avatar.log_scale.copy_(log_scale)


@torch.no_grad()
def even_rims(fit: PhotoFit) -> None:
    """Evens colours beside the rig, of dots on its skin and of ears, as far as photos see none of it squarely."""
    avatar, surface, claimed = fit.avatar, fit.on_surface(), fit.claims.amax(0)
    told = claimed > 0  # of the others generated views alone tell the colours
    even_rim(avatar, ~surface & ~fit.fixed, torch.where(told, seen_squarely(fit), 1.0))
    skin = fit.on_skin()
    even_rim(avatar, skin, torch.where(told, claimed, 1.0), SKIN_RIM, LEAST_CLAIM + claimed, SKIN_DOTS)
    ears = ~fit.fixed & gaussians_of(avatar, ("ears",))
    weight = torch.full_like(fit.claims[:, :1], OTHERS)
    weight[fit.photos.reference] = 1
    even_rim(avatar, ears, (fit.claims / weight).amax(0), EAR_RIM, LEAST_CLAIM + claimed)


@torch.no_grad()
def seen_squarely(fit: PhotoFit) -> Tensor:
    """[G] cosine at which photos see hair at best where Gaussians lie (`rim.outline_cosine`); 0: none sees them."""
    best = torch.zeros(fit.avatar.gaussian_count, device=fit.avatar.device)
    for index, picture in enumerate(fit.photos.pictures):
        cosine = outline_cosine(fit.avatar, picture, *fit.view(index))
        best = torch.maximum(best, torch.where(fit.claims[index] > 0, cosine, 0.0))
    return best
