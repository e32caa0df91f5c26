"""What a sampling run is given, read and checked before the first expensive step."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.spatial.transform import Rotation

from mvp4d.core.cameras.camera import FIELDS, Camera, resize
from mvp4d.core.cameras.rigs import attach_to_head, camera_rig, rig_names
from mvp4d.core.capture import Capture
from mvp4d.core.capture.fit import Fit
from mvp4d.core.capture.portrait import Portrait, read_portrait
from mvp4d.core.driving import load_motion
from mvp4d.core.errors import UserError
from mvp4d.core.heads import load_head
from mvp4d.core.heads.model import HeadModel
from mvp4d.core.heads.motion import Motion
from mvp4d.core.images import read_photo
from mvp4d_jax.geometry.rasterize import rasterize
from mvp4d_jax.heads.skinning import skin
from mvp4d_jax.release import Facts
from mvp4d_jax.sampling.generate import CleanViews
from mvp4d_jax.sampling.segment import segment_person
from mvp4d_jax.sampling.shot import crop_box, crop_reference

MATTES = ("none", "auto")
MATTE_SIDE = 512  # pixels a side of the crop that a person is cut out of

Pathlike = str | os.PathLike


def open_portrait(reference: Portrait | Capture | Pathlike, *, fit: Fit | Pathlike | None = None,
                  head: str | HeadModel = "builtin", mask: Pathlike | None = None, matte: str = "none") -> Portrait:
    """The person of a run.

    Args:
      reference: a Portrait; a capture, whose reference frame is taken; or a photo, which needs its `fit`.
      fit: of the photo: a Fit or a fit.npz.
      head: the head model that the fit belongs to.
      mask: a picture, white where the person is.
      matte: "auto" cuts the person out of a photo without a mask.

    Raises:
      UserError: anything that is missing or damaged.
    """
    if matte not in MATTES:
        raise UserError("`matte`", f"'{matte}' is none of {', '.join(MATTES)}")
    if isinstance(reference, Portrait):
        return reference
    if isinstance(reference, Capture) or Path(reference).is_dir():
        return portrait_of_capture(reference if isinstance(reference, Capture) else Capture.open(reference))
    return _portrait_of_photo(Path(reference), fit, head, mask, matte)


def portrait_of_capture(capture: Capture) -> Portrait:
    """The Portrait that a capture keeps, or else the reference frame that it names. Raises UserError."""
    kept = read_portrait(capture.path, capture.head)
    if kept is not None:
        return kept
    if capture.reference is None:
        raise UserError(capture.path / "capture.json", "field 'reference' is null",
                        'set it to {"camera": NAME, "frame": N}, or give a photo and its fit')
    name, frame = capture.reference
    picture = capture.frame(name, frame)
    photo = np.concatenate([picture, np.full_like(picture[..., :1], 255)], -1)
    camera = Camera(**{field: np.asarray(getattr(capture.camera(name, frame), field))[None] for field in FIELDS})
    return Portrait((photo,), camera, capture.motion[slice(frame, frame + 1)], capture.head, 0, (capture.path.name,))


def _portrait_of_photo(path: Path, fit: Fit | Pathlike | None, head: str | HeadModel, mask: Pathlike | None,
                       matte: str) -> Portrait:
    colour, alpha = read_photo(path, mask)
    if fit is None:
        name = head.name if isinstance(head, HeadModel) else head
        raise UserError("`fit`", "a photo needs the fit of its head",
                        f"make one: mvp4d track {path} --head {name} --out fit.npz")
    where = "`fit`" if isinstance(fit, Fit) else fit
    fit = fit if isinstance(fit, Fit) else Fit.load(fit)
    rig, motion = fit.rig(head if isinstance(head, HeadModel) else load_head(head), where)
    camera = Camera(**{name: np.asarray(getattr(fit.cameras, name))[0, 0] for name in FIELDS})
    fitted_size, size = tuple(int(side) for side in fit.resolutions[0]), colour.shape[:2]
    if abs(fitted_size[0] / fitted_size[1] - size[0] / size[1]) > 0.02:
        raise UserError(where, f"was made from a {fitted_size[1]}x{fitted_size[0]} picture, {path.name} is "
                        f"{size[1]}x{size[0]}", "give the fit of this photo")
    camera, motion = resize(camera, fitted_size, size), motion[slice(0, 1)]
    if matte == "auto" and mask is None:
        alpha = alpha * _cut_out(colour, camera, motion, rig)
    photo = np.concatenate([colour, alpha[..., None]], -1)
    batched = Camera(**{name: np.asarray(getattr(camera, name))[None] for name in FIELDS})
    return Portrait((np.uint8(np.rint(photo * 255)),), batched, motion, rig, 0, (path.name,))


def _cut_out(colour: np.ndarray, camera: Camera, motion: Motion, head: HeadModel) -> np.ndarray:
    """[H, W] alpha of the person in a photo [H, W, 3]; nothing outside of the head's crop."""
    crop, crop_camera, _ = crop_reference(colour, camera, motion, head, MATTE_SIDE)
    silhouette = rasterize(crop_camera, np.asarray(skin(head, motion))[0], head.faces, crop.shape[:2]).face >= 0
    alpha = Image.fromarray(np.uint8(255 * segment_person(crop, np.asarray(silhouette))))
    left, top, right, bottom = crop_box(colour.shape[:2], camera, motion, head)
    across, down = MATTE_SIDE / (right - left), MATTE_SIDE / (bottom - top)
    height, width = colour.shape[:2]
    back = alpha.transform((width, height), Image.Transform.AFFINE,
                           (across, 0, -left * across, 0, down, -top * down), Image.Resampling.BILINEAR)
    return np.asarray(back, np.float32) / 255


def check_portrait(portrait: Portrait, facts: Facts) -> None:
    """Refuses a person whose head is not the one that the weights know. Raises UserError."""
    if portrait.head.name != facts.head:
        raise UserError("`head`", f"'{portrait.head.name}' is not the head the weights were trained on "
                        f"('{facts.head}')", "track the photo with that head")


def pick_motion(motion: Motion | Capture | Pathlike, head: HeadModel, frames: int | None) -> tuple[Motion, str]:
    """The driving motion, cut to `frames`, and a line on what could not be carried over.

    A Motion is taken as one of `head`; a file or capture is matched by expression names.

    Raises:
      UserError: unreadable, or fewer frames than asked for.
    """
    if isinstance(motion, Motion):
        found, notice = motion, ""
        if np.shape(motion.expression)[1] != head.expression_count:
            raise UserError("`motion`", f"has {np.shape(motion.expression)[1]} expressions, head '{head.name}' "
                            f"{head.expression_count}", "give a motion of this head, or a file, which names its own")
    else:
        found, notice = load_motion(motion.path if isinstance(motion, Capture) else motion, head)
    if frames is not None and not 1 <= frames <= found.frame_count:
        raise UserError("`frames`", f"{frames} asked for, the motion has {found.frame_count}",
                        f"give 1 to {found.frame_count}")
    return (found[slice(frames)] if frames else found), notice


def pick_cameras(cameras: Camera | Capture | Pathlike, head: HeadModel, motion: Motion,
                 size: tuple[int, int]) -> tuple[Camera, list[str], np.ndarray]:
    """The views to make: cameras [V, F'] for pictures of (H, W) `size`, those of a capture, or a rig's spec.

    Returns:
      cameras [V, F'], their names, and the head's vertices [F, N, 3].
    """
    vertices = np.asarray(skin(head, motion))
    if isinstance(cameras, Camera):
        if len(cameras.batch_shape) != 2 or cameras.batch_shape[1] not in (1, motion.frame_count):
            raise UserError("`cameras`", f"are {list(cameras.batch_shape)}, expected [views, 1 or "
                            f"{motion.frame_count}]")
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


def clean_views(views: Capture | str | None, size: tuple[int, int], head: HeadModel) -> CleanViews | None:
    """Existing views to condition on: a capture, or "CAPTURE[:NAME,...]", with pictures of the model's size."""
    if views is None:
        return None
    path, chosen = (views.path, "") if isinstance(views, Capture) else views.partition(":")[::2]
    capture = views if isinstance(views, Capture) else Capture.open(path)
    if tuple(capture.image_size) != tuple(size):
        raise UserError(path, f"pictures are {capture.image_size[1]}x{capture.image_size[0]}, the model makes "
                        f"{size[1]}x{size[0]}", "give views of the model's size")
    if capture.head.name != head.name:
        raise UserError(path, f"head is '{capture.head.name}', the reference has '{head.name}'")
    names = chosen.split(",") if chosen else list(capture.names)
    return CleanViews(capture, tuple(capture.view(name) for name in names))
