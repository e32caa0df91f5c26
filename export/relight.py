"""Generated views in the photos' light: a gain that varies over the head as slowly as shading does.

Where photos show the surface, the ratio of their colours to the views' is known. It is carried to like colours nearby,
less to like colours anywhere, and is the mean one where there is neither.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mvp4d_export.avatar import Avatar
from mvp4d_export.dataset import Dataset

NEAR = 0.03  # metres over which a gain holds
LIKE = 0.12  # difference of colours over which a gain holds
ANYWHERE = 0.02  # what a like colour far away counts beside one here
FITTING = 0.35  # logarithm of a gain over the mean one beyond which two colours are hardly of the same thing
DARKEST = 0.03  # colour below which ratios mean nothing
MEAN = 3.0  # Gaussians that the mean gain counts for
SEEN = 0.5  # how far photos must show a Gaussian to tell its gain
SAMPLES = 2000  # Gaussians that tell gains, at most
MOST = 2.0  # gain, and least one over it


@torch.no_grad()
def mean_gain(generated: Tensor, photo: Tensor, shown: Tensor) -> Tensor:
    """[3] median gain from generated colours [G, 3] to those of a photo, weighed by how far it shows them [G]."""
    ratio, order = (photo.clamp(min=DARKEST) / generated.clamp(min=DARKEST)).sort(dim=0)
    below = shown[order].cumsum(0)
    half = (below < below[-1:] / 2).sum(0, keepdim=True)
    return ratio.gather(0, half.clamp(max=len(ratio) - 1))[0]


@torch.no_grad()
def local_gains(places: Tensor, generated: Tensor, photo: Tensor, shown: Tensor, mean: Tensor) -> Tensor:
    """What generated colours are multiplied by to be the photos'.

    Args:
      places: [G, 3] metres, at rest. generated, photo: [G, 3] colours. shown: [G] how far photos show them.
      mean: [3] the gain where nothing is known.

    Returns:
      [G, 3]
    """
    known = (shown > SEEN).nonzero()[:, 0]
    if not len(known):
        return mean.expand_as(generated).clone()
    known = known[torch.linspace(0, len(known) - 1, min(SAMPLES, len(known)), device=known.device).long()]
    off = (photo[known].clamp(min=DARKEST) / generated[known].clamp(min=DARKEST) / mean).log()
    trust = shown[known] * torch.exp(-off.square().mean(1) / (2 * FITTING**2))
    found = torch.empty_like(generated)
    for part in torch.arange(len(places), device=places.device).split(4096):
        near = torch.exp(-torch.cdist(places[part], places[known]).square() / (2 * NEAR**2))
        like = torch.exp(-torch.cdist(generated[part], generated[known]).square() / (2 * LIKE**2))
        weight = (near + ANYWHERE) * like * trust
        own = MEAN * generated[part]
        found[part] = (weight @ photo[known] + own * mean) / (weight @ generated[known] + own).clamp(min=1e-6)
    return found.clamp(1 / MOST, MOST)


@torch.no_grad()
def relight(avatar: Avatar, data: Dataset, gains: Tensor) -> None:
    """Multiplies the pictures of `data`, before their background, by the avatar drawn in gains [G, 3].

    Changes `data`: what a fit learns from and is scored by are its pictures in this light.
    """
    _ = data.digest  # told once, of the capture's own pictures: drawing may round otherwise where a run goes on
    height, width = data.size
    views = list(range(len(data.viewmats)))
    for frame in range(data.pictures.shape[1]):
        pose = data.pose[frame : frame + 1]
        splats = avatar.splats(avatar.vertices(pose))
        pictures, masks, viewmats, Ks = data.batch(views, frame)
        drawn = avatar.render(splats, pose, viewmats, Ks, width, height, colours=gains)
        gain = drawn.rgb + (1 - drawn.alpha)[..., None]
        behind = 0.0 if masks is None else (1 - masks)[..., None] * data.background
        lit = (pictures - behind) * gain + behind
        data.pictures[:, frame] = (lit * 255).round().clamp(0, 255).to(torch.uint8)


def tinted(rgb: Tensor, alpha: Tensor, background: Tensor, gain: Tensor) -> Tensor:
    """Pictures [B, H, W, 3] on a background with what is drawn before it multiplied by a gain."""
    behind = (1 - alpha)[..., None] * background
    return (rgb - behind) * gain + behind
