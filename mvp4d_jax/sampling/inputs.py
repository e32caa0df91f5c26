"""What a user names on the command line, read and checked before the first expensive step."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from mvp4d.core.cameras.camera import FIELDS, Camera, resize
from mvp4d.core.cameras.rigs import attach_to_head, camera_rig, rig_names
from mvp4d.core.capture import Capture
from mvp4d.core.capture.fit import Fit
from mvp4d.core.driving import load_motion
from mvp4d.core.errors import UserError
from mvp4d.core.heads import load_head
from mvp4d.core.heads.model import HeadModel
from mvp4d.core.heads.motion import Motion
from mvp4d_jax.geometry.rasterize import rasterize
from mvp4d_jax.heads.skinning import skin
from mvp4d_jax.sampling.generate import CleanViews
from mvp4d_jax.sampling.reference import load_photo
from mvp4d_jax.sampling.release import Facts
from mvp4d_jax.sampling.segment import segment_person
from mvp4d_jax.sampling.shot import crop_reference


@dataclasses.dataclass(frozen=True)
class ReferenceSource:
    """The reference picture at the model's size, not yet encoded.

    Attributes:
      image: [H, W, 3] float32 in [0, 1].
      camera: of the image, unbatched.
      motion: one frame.
      head: personalised rig.
      inside: [H, W] share of each pixel inside the uncropped picture.
    """

    image: np.ndarray
    camera: Camera
    motion: Motion
    head: HeadModel
    inside: np.ndarray


def open_reference(args: argparse.Namespace, facts: Facts) -> ReferenceSource:
    """Reads `--reference` with `--fit`, `--head`, `--mask`, `--matte`.

    Raises:
      UserError: anything that is missing, damaged or does not fit the weights.
    """
    path = Path(args.reference)
    source = capture_reference(path, facts) if path.is_dir() else _from_photo(path, args, facts)
    if source.head.name != facts.head:
        raise UserError("--head", f"'{source.head.name}' is not the head the weights were trained on ('{facts.head}')",
                        "track the photo with that head")
    return source


def capture_reference(path: Path, facts: Facts) -> ReferenceSource:
    """The reference image that a capture names, cropped around the head as in training. Raises UserError."""
    capture = Capture.open(path)
    if capture.reference is None:
        raise UserError(path / "capture.json", "field 'reference' is null",
                        'set it to {"camera": NAME, "frame": N}, or give a photo and its fit')
    name, frame = capture.reference
    image = capture.frame(name, frame).astype(np.float32) / 255
    camera, motion = capture.camera(name, frame), capture.motion[slice(frame, frame + 1)]
    crop, camera, inside = crop_reference(image, camera, motion, capture.head, facts.image_size, facts.crop_margin)
    return ReferenceSource(crop, camera, motion, capture.head, inside)


def _from_photo(path: Path, args: argparse.Namespace, facts: Facts) -> ReferenceSource:
    image, _ = load_photo(path, args.mask)
    if args.fit is None:
        raise UserError("--fit", "a photo needs the fit of its head",
                        f"make one: mvp4d track {path} --head {args.head} --out fit.npz")
    fit = Fit.load(args.fit)
    head, motion = fit.rig(load_head(args.head), args.fit)
    camera = Camera(**{name: np.asarray(getattr(fit.cameras, name))[0, 0] for name in FIELDS})
    fitted_size, size = tuple(int(side) for side in fit.resolutions[0]), image.shape[:2]
    if abs(fitted_size[0] / fitted_size[1] - size[0] / size[1]) > 0.02:
        raise UserError(args.fit, f"was made from a {fitted_size[1]}x{fitted_size[0]} picture, {path.name} is "
                        f"{size[1]}x{size[0]}", "give the fit of this photo")
    camera = resize(camera, fitted_size, size)
    motion = motion[slice(0, 1)]
    crop, camera, inside = crop_reference(image, camera, motion, head, facts.image_size * 4, facts.crop_margin)
    if args.matte == "auto" and args.mask is None:
        vertices = np.asarray(skin(head, motion))[0]
        silhouette = rasterize(camera, vertices, head.faces, crop.shape[:2]).face >= 0
        alpha = segment_person(crop, np.asarray(silhouette))[..., None]
        crop = crop * alpha + 1 - alpha
    small = crop.reshape(facts.image_size, 4, facts.image_size, 4, 3).mean((1, 3))
    inside = inside.reshape(facts.image_size, 4, facts.image_size, 4).mean((1, 3))
    camera = resize(camera, crop.shape[:2], small.shape[:2])
    return ReferenceSource(small.astype(np.float32), camera, motion, head, inside)


def pick_motion(path: str, head: HeadModel, frames: int | None) -> tuple[Motion, str]:
    """Reads `--motion`, cut to `--frames`. Raises UserError when it has fewer."""
    motion, notice = load_motion(path, head)
    if frames is not None and not 1 <= frames <= motion.frame_count:
        raise UserError("--frames", f"{frames} asked for, {path} has {motion.frame_count}",
                        f"give 1 to {motion.frame_count}")
    return (motion[slice(frames)] if frames else motion), notice


def pick_cameras(spec: str, head: HeadModel, motion: Motion,
                 size: tuple[int, int]) -> tuple[Camera, list[str], np.ndarray]:
    """Reads `--cameras`: a capture's cameras, or a rig around the head's mean pose.

    Returns:
      cameras [V, F'], their names, and the head's vertices [F, N, 3].
    """
    vertices = np.asarray(skin(head, motion))
    if Path(spec).is_dir():
        capture = Capture.open(spec)
        return resize(capture.cameras, capture.image_size, size), list(capture.names), vertices
    cameras = camera_rig(spec, size, motion.frame_count)
    if not spec.startswith("file:"):
        rotation = Rotation.from_rotvec(np.asarray(motion.rotation, np.float64)).mean().as_matrix()
        cameras = attach_to_head(cameras, rotation, np.asarray(motion.translation, np.float64).mean(0))
    if np.ndim(cameras.fx) == 1:
        cameras = Camera(**{name: np.asarray(getattr(cameras, name))[:, None] for name in FIELDS})
    return cameras, rig_names(np.asarray(cameras.fx).shape[0]), vertices


def clean_views(spec: str | None, size: tuple[int, int], head: HeadModel) -> CleanViews | None:
    """Reads `--clean-views CAPTURE[:NAME,...]`; its cameras must already take pictures of the model's size."""
    if spec is None:
        return None
    path, _, chosen = spec.partition(":")
    capture = Capture.open(path)
    if capture.image_size != size:
        raise UserError(path, f"pictures are {capture.image_size[1]}x{capture.image_size[0]}, the model makes "
                        f"{size[1]}x{size[0]}", "give views of the model's size")
    if capture.head.name != head.name:
        raise UserError(path, f"head is '{capture.head.name}', the reference has '{head.name}'")
    names = chosen.split(",") if chosen else list(capture.names)
    return CleanViews(capture, tuple(capture.view(name) for name in names))
