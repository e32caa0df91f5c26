"""CAP4D's folder layout, in and out.

`fit.npz`, `reference_images.json`, `images/<camera>/*.png` (or `images/<camera>.mp4`), `bg/<camera>/%04d.png` with the
foreground's alpha, and `orbit.npz` where a camera moves.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

import numpy as np

from mvp4d.core import images
from mvp4d.core.cameras.path import CameraPath
from mvp4d.core.capture import convert, schema
from mvp4d.core.capture.fit import Fit, read_references
from mvp4d.core.capture.format import Capture
from mvp4d.core.errors import UserError
from mvp4d.core.files import atomic_folder, write_json
from mvp4d.core.heads.model import HeadModel
from mvp4d.core.outputs import check_folder

KIND = "CAP4D folder"


def import_cap4d(
    source: str | os.PathLike,
    out: str | os.PathLike,
    *,
    head: HeadModel,
    drop_incomplete: bool = False,
    overwrite: bool = False,
) -> Capture:
    """Reads a CAP4D folder into a capture. Masks are those of `bg/`, or else the pictures' transparency.

    Args:
      head: the head that `fit.npz` was made with.
      drop_incomplete: leave out the frames that a camera lacks, instead of refusing.

    Raises:
      UserError: a file is missing, damaged or does not fit the others.
    """
    source = convert.check_folder(source)
    fit = Fit.load(source / "fit.npz")
    rig, motion = fit.rig(head, source / "fit.npz")
    sizes = {tuple(size) for size in fit.resolutions.tolist()}
    if len(sizes) != 1:
        raise UserError(source / "fit.npz", f"its cameras have {len(sizes)} picture sizes", "a capture has one")
    references = source / "reference_images.json"
    reference = read_references(references)[0] if references.is_file() else None
    if reference and (reference[0] not in fit.names or reference[1] >= fit.frame_count):
        raise UserError(references, f"names camera '{reference[0]}' frame {reference[1]}, which fit.npz lacks")
    pictures = [convert.picture_source(source / "images", name, source) for name in fit.names]
    mattes = None
    if (source / "bg").is_dir():
        mattes = [convert.picture_source(source / "bg", name, source) for name in fit.names]

    both = pictures if mattes is None else [*pictures, *mattes]
    chosen, kept = convert.line_up(both, motion.fps, fit.frame_count, drop_incomplete=drop_incomplete)
    names = schema.clean_names(fit.names, source / "fit.npz")
    if reference:  # by its new name and place
        left = np.flatnonzero(kept == reference[1])
        reference = (names[fit.names.index(reference[0])], int(left[0])) if len(left) else None

    def frames_of(view: int) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
        if mattes is None:
            yield from convert.read_pictures(pictures[view], chosen[view])
            return
        pairs = zip_longest(
            convert.read_pictures(pictures[view], chosen[view]),
            convert.read_masks(mattes[view], chosen[len(pictures) + view]),
        )
        for frame, (picture, alpha) in enumerate(pairs):
            if picture is None or alpha is None:
                raise UserError(mattes[view], f"and {pictures[view]} part ways at frame {frame}")
            yield picture[0], alpha

    return convert.write_views(
        Path(out),
        frames_of,
        head=rig,
        motion=motion[kept],
        cameras=fit.cameras,
        names=names,
        image_size=sizes.pop(),
        masks=mattes is not None or convert.bring_alpha(pictures),
        reference=reference,
        source=f"CAP4D folder {source.name}",
        extra=convert.identity_extra(fit.shape),
        overwrite=overwrite,
    )


def export_cap4d(capture: Capture, out: str | os.PathLike, *, overwrite: bool = False) -> str:
    """Writes a capture as a CAP4D folder. Returns one line on what that layout cannot hold, or an empty string.

    A camera that moves goes to `orbit_<camera>.npz`; `fit.npz` then holds its first frame.
    """
    check_folder(out, KIND, overwrite)
    notes = []
    if not capture.head.name.startswith("flame"):
        notes.append(f"coefficients are those of head '{capture.head.name}', which CAP4D's own programs cannot pose")
    shape = capture.info.extra.get("shape")
    if not isinstance(shape, list):
        shape = None
        notes.append("fit.npz has no 'shape': the capture holds the personalised rig, not its coefficients")
    moving = capture.cameras.fx.shape[1] > 1
    if moving:
        notes.append("moving cameras are in orbit_<camera>.npz, fit.npz holds their first frame")
    size = np.tile(np.asarray(capture.image_size), (capture.view_count, 1))
    fit = Fit(
        capture.motion,
        capture.cameras[:, :1],
        size,
        capture.names,
        None if shape is None else np.asarray(shape, np.float32),
        capture.head.name,
    )
    with atomic_folder(out, overwrite=overwrite, kind=KIND) as folder:
        fit.save(folder / "fit.npz")
        write_json(folder / "reference_images.json", [list(capture.reference or (capture.names[0], 0))])
        for view, name in enumerate(capture.names):
            if moving:
                CameraPath(capture.cameras[view], capture.image_size, capture.fps).save(folder / f"orbit_{name}.npz")
            for kind in ("images", "bg") if capture.has_masks else ("images",):
                (folder / kind / name).mkdir(parents=True)
            for frame in range(capture.frame_count):
                images.write_png(folder / "images" / name / f"{frame:05d}.png", capture.frame(view, frame))
                if capture.has_masks:
                    images.write_png(folder / "bg" / name / f"{frame:04d}.png", capture.mask(view, frame))
    return "; ".join(notes)
