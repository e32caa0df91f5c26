"""`cap4d-animation`: CAP4D's animation PLY."""

from __future__ import annotations

from mvp4d_export.formats import Job
from mvp4d_export.ply import write_animation
from mvp4d_export.rig import Pose


def write(job: Job) -> str:
    write_animation(job.avatar, Pose.of(job.motion, job.avatar.device), job.out)
    return f"{job.out}: {job.avatar.gaussian_count} Gaussians, {job.motion.frame_count} frames"
