"""The Gaussians of a frame as files take them: in the world, finite, visible."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import torch
from torch import Tensor

from mvp4d.core.errors import UserError
from mvp4d.core.progress import say
from mvp4d_export.avatar import Splats
from mvp4d_export.formats import Job
from mvp4d_export.ply import sequence
from mvp4d_export.rig import Pose

# Renderers skip contributions below this (3D Gaussian splatting's cut).
FAINTEST = 1 / 255


def frame_splats(job: Job) -> Splats:
    """World-space Gaussians of the job's frame."""
    splats = next(frames(job, slice(job.frame, job.frame + 1)))
    tell_left_out(job.avatar.gaussian_count - len(splats.means))
    return splats


def tell_left_out(count: int) -> None:
    if count:
        say(f"{count} Gaussians that nothing would draw are left out")


def frames(job: Job, window: slice = slice(None)) -> Iterator[Splats]:
    """World-space Gaussians of a window of the job's motion, with the harmonics that the job asks for."""
    pose = Pose.of(job.motion, job.avatar.device)[window]
    for splats in sequence(job.avatar, pose):
        yield sound(with_degree(splats, job.sh))


def sound(splats: Splats) -> Splats:
    """The Gaussians that `drawn` finds."""
    return pick(splats, drawn(splats))


def pick(splats: Splats, kept: Tensor) -> Splats:
    return Splats(*(getattr(splats, field.name)[kept] for field in dataclasses.fields(Splats)))


def drawn(splats: Splats) -> Tensor:
    """Mask [G] of what renderers draw: not fainter than 1/255, nor flattened to nothing by the triangle.

    Raises:
      UserError: a value is not finite, or nothing is left.
    """
    for field in dataclasses.fields(Splats):
        wrong = ~getattr(splats, field.name).isfinite().reshape(len(splats.means), -1).all(1)
        if wrong.any():
            raise UserError(
                "avatar",
                f"{int(wrong.sum())} of {len(wrong)} Gaussians have {field.name} that are not finite at this pose",
                "choose another frame or motion; an avatar that does so at rest has to be distilled again",
            )
    kept = (splats.opacities >= FAINTEST) & (splats.scales > 0).all(1) & (splats.quaternions.norm(dim=1) > 0)
    if not kept.any():
        raise UserError("avatar", "no Gaussian is visible at this pose", "distil the avatar again")
    return kept


def with_degree(splats: Splats, degree: int | None) -> Splats:
    """Harmonics [G, K, 3] cut or filled with zeros to a degree; None keeps them."""
    if degree is None:
        return splats
    count, have = (degree + 1) ** 2, splats.harmonics.shape[1]
    harmonics = splats.harmonics[:, :count]
    if have < count:
        harmonics = torch.cat((harmonics, harmonics.new_zeros(len(harmonics), count - have, 3)), 1)
    return dataclasses.replace(splats, harmonics=harmonics)


def degree_of(splats: Splats) -> int:
    return round(splats.harmonics.shape[1] ** 0.5) - 1


def host(value: Tensor):
    """float32 numpy array."""
    return value.detach().float().cpu().numpy()
