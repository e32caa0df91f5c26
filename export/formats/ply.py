"""`ply` and `ply-sequence`: the PLY of 3D Gaussian splatting.

SuperSplat, splat-transform and most viewers turn every PLY by 180 degrees about z on load, because those of
photogrammetry have y down; Brush takes -y as up. Files are written turned, so that the head stands upright there.
"""

from __future__ import annotations

import torch

from mvp4d.core.files import atomic_folder
from mvp4d.core.progress import progress
from mvp4d.core.words import counted
from mvp4d_export.avatar import Splats
from mvp4d_export.formats import FRAMES, Job
from mvp4d_export.formats.frames import degree_of, frame_splats, frames
from mvp4d_export.ply import world_splats, write_splats


def write_frame(job: Job) -> str:
    splats = frame_splats(job)
    write_splats(placed(splats, job.raw_axes), job.out, comments(job))
    return f"{job.out}: {len(splats.means)} Gaussians of frame {job.frame}"


def write_sequence(job: Job) -> str:
    count, sizes = job.motion.frame_count, set()
    with atomic_folder(job.out, overwrite=job.overwrite, kind=FRAMES) as folder:
        for index, splats in enumerate(progress(frames(job), total=count, what="writing", unit="frame")):
            write_splats(placed(splats, job.raw_axes), folder / f"{index:05d}.ply", comments(job))
            sizes.add(len(splats.means))
    many = f"{min(sizes)}" if len(sizes) == 1 else f"{min(sizes)} to {max(sizes)}"
    return f"{job.out}: {counted(count, 'file')} of {many} Gaussians"


def placed(splats: Splats, raw_axes: bool) -> Splats:
    """Turned by 180 degrees about z, positions, rotations and harmonics, unless the world's axes are wanted."""
    if raw_axes:
        return splats
    half_turn = torch.diag(splats.means.new_tensor([-1.0, -1.0, 1.0, 1.0]))
    return world_splats(splats, half_turn, degree_of(splats))


def comments(job: Job) -> list[str]:
    """Header comments that Brush (both) and splat-transform (the second) read."""
    lines = [f"Vertical axis: 0 {'1' if job.raw_axes else '-1'} 0"]
    return [*lines, "SplatRenderMode: mip"] if job.avatar.config.antialiased else lines
