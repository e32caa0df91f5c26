"""What a sampling run is given, read and checked before the first expensive step."""

from __future__ import annotations

import contextlib
import os
import shlex
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from mvp4d.core.cameras.camera import FIELDS, Camera, resize
from mvp4d.core.cameras.rigs import attach_to_head, camera_rig, rig_names
from mvp4d.core.capture import Capture
from mvp4d.core.capture.fit import Fit
from mvp4d.core.capture.portrait import Portrait, is_person, open_person, read_portrait
from mvp4d.core.driving import check_motion, load_motion
from mvp4d.core.errors import UserError
from mvp4d.core.heads import load_head
from mvp4d.core.heads.model import HeadModel
from mvp4d.core.heads.motion import Motion
from mvp4d.core.images import read_photo
from mvp4d_jax.heads.skinning import skin
from mvp4d_jax.release import Facts
from mvp4d_jax.sampling.clean_views import CleanViews, PhotoViews
from mvp4d_jax.tracking.portrait import FittedPhoto, assemble, check_matte
from mvp4d_jax.tracking.upright import head_roll

MOST_ROLL = 60.0  # degrees of a photo's head, about the line of sight, that the model may be asked to draw
PHOTOS = "photos"  # as clean views: the portrait's own

Pathlike = str | os.PathLike


def open_portrait(
    reference: Portrait | Capture | Pathlike,
    *,
    fit: Fit | Pathlike | None = None,
    head: str | HeadModel = "builtin",
    mask: Pathlike | None = None,
    matte: str = "auto",
) -> Portrait:
    """The person of a run.

    Args:
      reference: a Portrait; a folder of one (`mvp4d track --out PERSON`); a capture, whose Portrait or reference frame
        is taken; or a photo, which needs its `fit`.
      fit: of the photo: a Fit or a fit.npz.
      head: the head model that the fit belongs to.
      mask: a picture, white where the person is.
      matte: "auto" cuts the person out of a photo without a mask, "none" keeps the background.

    Raises:
      UserError: anything that is missing or damaged.
    """
    check_matte(matte)
    if isinstance(reference, Portrait | Capture) or Path(reference).is_dir():
        other = None if isinstance(head, str) and head == "builtin" else head
        kept = None if matte == "auto" else matte
        for name, value in (("fit", fit), ("mask", mask), ("head", other), ("matte", kept)):
            if value is not None:
                raise UserError(
                    f"`{name}`", "is for a photo; what is given as `reference` brings its own", "leave it out"
                )
    if isinstance(reference, Portrait):
        return reference
    if not isinstance(reference, Capture) and is_person(reference):
        return open_person(reference)
    if not isinstance(reference, Capture) and (inside := _person_inside(Path(reference))) is not None:
        raise UserError(reference, "is neither a person's folder nor a capture", f"there is a person at {inside}")
    if isinstance(reference, Capture) or Path(reference).is_dir():
        return portrait_of_capture(reference if isinstance(reference, Capture) else Capture.open(reference))
    return _portrait_of_photo(Path(reference), fit, head, mask, matte)


def _person_inside(path: Path) -> Path | None:
    """The first person's folder in a folder that is no capture itself (a demo's holds person and generated views)."""
    if not path.is_dir() or (path / "capture.json").exists():
        return None
    with contextlib.suppress(OSError):  # what may not be looked into is none of the mistake
        inside = (child for child in sorted(path.iterdir()) if os.access(child, os.X_OK))
        return next((child for child in inside if is_person(child)), None)
    return None


def portrait_of_capture(capture: Capture) -> Portrait:
    """The Portrait that a capture keeps, or else the reference frame that it names. Raises UserError."""
    kept = read_portrait(capture.path, capture.head)
    if kept is not None:
        return kept
    if capture.reference is None:
        raise UserError(
            capture.path / "capture.json",
            "field 'reference' is null",
            'set it to {"camera": NAME, "frame": N}, or give a photo and its fit',
        )
    name, frame = capture.reference
    photo = _with_alpha(capture, name, frame)
    camera = Camera(**{field: np.asarray(getattr(capture.camera(name, frame), field))[None] for field in FIELDS})
    return Portrait((photo,), camera, capture.motion[slice(frame, frame + 1)], capture.head, 0, (capture.path.name,))


def _with_alpha(capture: Capture, name: str, frame: int) -> np.ndarray:
    """A frame as uint8 [H, W, 4]: its colours without the background, where the capture has masks."""
    picture = capture.frame(name, frame)
    if not capture.has_masks:
        return np.dstack([picture, np.full(picture.shape[:2], 255, np.uint8)])
    mask = capture.mask(name, frame)
    alpha, background = mask[..., None] / np.float32(255), np.float32(capture.info.background)
    colour = (picture - background * (1 - alpha)) / np.maximum(alpha, 1 / 255)
    return np.dstack([np.uint8(np.rint(np.where(alpha > 0, colour, 255).clip(0, 255))), mask])


def _portrait_of_photo(
    path: Path, fit: Fit | Pathlike | None, head: str | HeadModel, mask: Pathlike | None, matte: str
) -> Portrait:
    if fit is None:
        name = head.name if isinstance(head, HeadModel) else head
        raise UserError(
            "`fit`",
            "a photo needs the fit of its head",
            f"give it, or a person as `reference`: mvp4d track {shlex.quote(str(path))} --head {name} --out PERSON",
        )
    where = "`fit`" if isinstance(fit, Fit) else fit
    fit = fit if isinstance(fit, Fit) else Fit.load(fit)
    rig, motion = fit.rig(head if isinstance(head, HeadModel) else load_head(head), where)
    rgb, alpha = read_photo(path, mask)
    fitted_size, size = tuple(int(side) for side in fit.resolutions[0]), rgb.shape[:2]
    if abs(fitted_size[0] / fitted_size[1] - size[0] / size[1]) > 0.02:
        raise UserError(
            where,
            f"was made from a {fitted_size[1]}x{fitted_size[0]} picture, {path.name} is {size[1]}x{size[0]}",
            "give the fit of this photo",
        )
    camera = Camera(**{name: np.asarray(getattr(fit.cameras, name))[0, 0] for name in FIELDS})
    if head_roll(camera, motion) > MOST_ROLL:
        raise UserError(
            path, "the head lies on its side in it, or is upside down", "turn the photo, and track it again"
        )
    camera = resize(camera, fitted_size, size)
    return assemble(
        [FittedPhoto(path.name, rgb, alpha, camera, motion[slice(0, 1)])], rig, cut=matte == "auto" and mask is None
    )


def check_portrait(portrait: Portrait, facts: Facts) -> None:
    """Refuses a person whose head is not the one that the weights know. Raises UserError."""
    if portrait.head.name != facts.head:
        raise UserError(
            "`head`",
            f"'{portrait.head.name}' is not the head the weights were trained on ('{facts.head}')",
            "track the photo with that head",
        )


def pick_motion(motion: Motion | Capture | Pathlike, head: HeadModel, frames: int | None) -> tuple[Motion, str]:
    """The driving motion, cut to `frames`, and a line on what could not be carried over.

    A Motion is taken as one of `head`; a file or capture is matched by expression names.

    Raises:
      UserError: unreadable, of another head, or fewer frames than asked for.
    """
    if isinstance(motion, Motion):
        check_motion(motion, head)
        found, notice = motion, ""
    else:
        found, notice = load_motion(motion.path if isinstance(motion, Capture) else motion, head)
    if frames is not None and not 1 <= frames <= found.frame_count:
        raise UserError(
            "`frames`", f"{frames} asked for, the motion has {found.frame_count}", f"give 1 to {found.frame_count}"
        )
    return (found[slice(frames)] if frames else found), notice


def pick_cameras(
    cameras: Camera | Capture | Pathlike, head: HeadModel, motion: Motion, size: tuple[int, int]
) -> tuple[Camera, list[str], np.ndarray]:
    """The views to make: cameras [V, F'] for pictures of (H, W) `size`, those of a capture, or a rig's spec.

    Returns:
      cameras [V, F'], their names, and the head's vertices [F, N, 3].
    """
    vertices = np.asarray(skin(head, motion))
    if isinstance(cameras, Camera):
        if len(cameras.batch_shape) != 2 or cameras.batch_shape[1] not in (1, motion.frame_count):
            raise UserError(
                "`cameras`", f"are {list(cameras.batch_shape)}, expected [views, 1 or {motion.frame_count}]"
            )
        return cameras, rig_names(cameras.batch_shape[0]), vertices
    if isinstance(cameras, Capture) or Path(cameras).is_dir():
        capture = cameras if isinstance(cameras, Capture) else Capture.open(cameras)
        return resize(capture.cameras, capture.image_size, size), list(capture.names), vertices
    spec = os.fspath(cameras)
    rig = camera_rig(spec, size, motion.frame_count)
    if not spec.startswith("file:"):
        rotation = Rotation.from_rotvec(np.asarray(motion.rotation, np.float64)).mean().as_matrix()
        rig = attach_to_head(rig, rotation, np.asarray(motion.translation, np.float64).mean(0))
    if np.ndim(rig.fx) == 1:
        rig = Camera(**{name: np.asarray(getattr(rig, name))[:, None] for name in FIELDS})
    return rig, rig_names(np.asarray(rig.fx).shape[0]), vertices


def photo_views(portrait: Portrait, facts: Facts) -> PhotoViews | None:
    """The portrait's other photos as clean views; None where it has but one."""
    return PhotoViews(portrait, facts.image_size, facts.crop_margin) if len(portrait.photos) > 1 else None


def clean_views(views: Capture | str | os.PathLike | None, size: tuple[int, int], head: HeadModel) -> CleanViews | None:
    """Existing views to condition on: a capture, or "CAPTURE[:NAME,...]", with pictures of the model's size."""
    if views is None:
        return None
    path, chosen = (views.path, "") if isinstance(views, Capture) else os.fspath(views).partition(":")[::2]
    capture = views if isinstance(views, Capture) else Capture.open(path)
    if tuple(capture.image_size) != tuple(size):
        raise UserError(
            path,
            f"pictures are {capture.image_size[1]}x{capture.image_size[0]}, the model makes {size[1]}x{size[0]}",
            "give views of the model's size",
        )
    if capture.head.name != head.name:
        raise UserError(path, f"head is '{capture.head.name}', the reference has '{head.name}'")
    names = chosen.split(",") if chosen else list(capture.names)
    return CleanViews(capture, tuple(capture.view(name) for name in names))
