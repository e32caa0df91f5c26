"""A plain folder of synchronised videos and one `fit.npz`, in.

folder/fit.npz            cameras by name, head motion (see capture/fit.py)
folder/<camera>.mp4 ...   one video per camera, or a folder of pictures per camera
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mvp4d.core.cameras.camera import Camera, resize
from mvp4d.core.capture import convert, schema
from mvp4d.core.capture.fit import Fit
from mvp4d.core.capture.format import Capture
from mvp4d.core.errors import UserError
from mvp4d.core.heads.model import HeadModel


def import_videos(
    source: str | os.PathLike,
    out: str | os.PathLike,
    *,
    head: HeadModel,
    fit: str | os.PathLike | None = None,
    scale: int = 1,
    drop_incomplete: bool = False,
    overwrite: bool = False,
) -> Capture:
    """Reads a folder of synchronised videos into a capture; masks where pictures bring transparency.

    Args:
      head: the head that the fit was made with.
      fit: the fit; `fit.npz` in the folder by default. Its `camera_order` names the videos.
      scale: pictures are averaged down by this factor.
      drop_incomplete: leave out the frames that a camera lacks, instead of refusing.

    Raises:
      UserError: a video is missing, damaged, or of another length or size than the fit says.
    """
    source = convert.check_folder(source)
    where = source / "fit.npz" if fit is None else Path(fit)
    fitted = Fit.load(where)
    rig, motion = fitted.rig(head, where)
    pictures = [convert.picture_source(source, name, source) for name in fitted.names]
    for path, declared in zip(pictures, fitted.resolutions.tolist()):
        size = convert.picture_size(path)
        if list(size) != declared:
            raise UserError(
                path, f"is {size[0]} x {size[1]} (height x width), the fit says {declared[0]} x {declared[1]}"
            )
    sizes = {tuple(size) for size in fitted.resolutions.tolist()}
    if len(sizes) != 1:
        raise UserError(where, f"its cameras have {len(sizes)} picture sizes", "a capture has one")
    cameras, size = scaled(fitted.cameras, sizes.pop(), scale)
    chosen, kept = convert.line_up(pictures, motion.fps, fitted.frame_count, drop_incomplete=drop_incomplete)

    def frames_of(view: int) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
        return convert.read_pictures(pictures[view], chosen[view])

    return convert.write_views(
        Path(out),
        frames_of,
        scale=scale,
        head=rig,
        motion=motion[kept],
        cameras=cameras,
        names=schema.clean_names(fitted.names, where),
        image_size=size,
        masks=convert.bring_alpha(pictures),
        source=f"videos of {source.name}",
        extra=convert.identity_extra(fitted.shape),
        overwrite=overwrite,
    )


def scaled(cameras: Camera, size: tuple[int, int], scale: int) -> tuple[Camera, tuple[int, int]]:
    """Cameras and (H, W) of pictures averaged down by `scale`; a remainder at the right and bottom is cut off."""
    if scale < 1 or min(size) < scale:
        raise UserError("scale", f"{scale} for pictures of {size[0]} x {size[1]}", "it is a whole number from 1 on")
    new = (size[0] // scale, size[1] // scale)
    return resize(cameras, (new[0] * scale, new[1] * scale), new), new
