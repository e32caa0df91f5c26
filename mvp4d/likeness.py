"""An avatar or generated views measured against the photos of the person.

An avatar at the photos' own views and by angle while it speaks; views each for itself.
"""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import numpy as np
from PIL import Image

from mvp4d.avatar import Avatar
from mvp4d.core.arguments import Pathlike
from mvp4d.core.capture import Capture
from mvp4d.core.capture.portrait import Portrait, is_person, open_person, read_portrait
from mvp4d.core.errors import UserError
from mvp4d.core.heads.motion import Motion

ANGLES = (-60, -40, -20, 0, 20, 40, 60)  # degrees to the side that faces are looked for at
FRAMES = 5  # of the motion, at each angle or in each view
WIDEST = 75.0  # degrees from the reference up to which views are described: the detector wants a face
SIZE = 512  # pixels of the pictures that are described
SHOWN = 1.2  # of the fitted head's box: where pairs end below; fits see photos down to 1.3 of it (export/photos.py)


@dataclasses.dataclass(frozen=True)
class Likeness:
    """What was measured.

    Attributes:
      scores: JSON-able: "likeness" (`evaluation.likeness.score_likeness`); "photos", a row for each photo: PSNR and
        SSIM of the avatar at its camera, pose and expression; "left_out": what was not measured, and why.
      pairs: for each photo, the photo on white and the avatar as it shows it, both [H, W, 3] uint8; without what lies
        below the head and collar, which is measured all the same.
    """

    scores: dict[str, Any]
    pairs: list[tuple[np.ndarray, np.ndarray]]


def find_portrait(against: Portrait | Capture | Pathlike) -> Portrait:
    """A Portrait, or that of a person's folder or of a capture. Raises UserError where there is none."""
    if isinstance(against, Portrait):
        return against
    if not isinstance(against, Capture) and is_person(against):
        return open_person(against)
    capture = against if isinstance(against, Capture) else Capture.open(against)
    portrait = read_portrait(capture.path, capture.head)
    if portrait is None:
        raise UserError(capture.path, "keeps no photos of the person", "give the folder that mvp4d track wrote")
    return portrait


def measure_avatar(
    avatar: Avatar, against: Portrait | Capture | Pathlike, *, motion: Motion | str | os.PathLike[str] | None = None
) -> Likeness:
    """Renders an avatar and compares it with the photos of its person.

    Args:
      motion: what it does while faces are compared at several angles; the avatar's own by default.

    Raises:
      UserError: no portrait, or one of another head.
    """
    from mvp4d_jax.evaluation.likeness import score_likeness
    from mvp4d_jax.evaluation.metrics import psnr, ssim
    from mvp4d_jax.geometry.framing import crop_box

    portrait = find_portrait(against)
    if portrait.head.name != avatar.head.name:
        raise UserError(
            "`against`",
            f"is of head '{portrait.head.name}', the avatar of '{avatar.head.name}'",
            "give the photos that the avatar was made from",
        )
    chosen = avatar.motion(motion)
    frames = np.unique(np.linspace(0, chosen.frame_count - 1, FRAMES).round().astype(int))
    span = ANGLES[-1] - ANGLES[0]
    views = avatar.render(chosen[frames], cameras=f"arc:{span}x{len(ANGLES)}", size=SIZE).each_view()
    scores: dict[str, Any] = {"left_out": {}}
    try:
        scores["likeness"] = score_likeness(portrait, [(angle, view.frames()) for angle, view in zip(ANGLES, views)])
    except UserError as error:  # no network: the rest can be measured
        scores["left_out"]["CSIM"] = str(error)
    pairs, rows = [], []
    for index, photo in enumerate(portrait.photos):
        one = slice(index, index + 1)
        rendering = avatar.render(portrait.motion[one], cameras=portrait.camera[one], size=photo.shape[:2])
        ours, theirs = rendering.frames()[0], np.rint(255 * portrait.on_background(index)).astype(np.uint8)
        rows.append(
            {
                "name": portrait.sources[index] if portrait.sources else f"photo {index}",
                "psnr": float(psnr(ours[None] / 255, theirs[None] / 255)[0]),
                "ssim": float(ssim(ours[None] / np.float32(255), theirs[None] / np.float32(255))[0]),
            }
        )
        box = crop_box(photo.shape[:2], portrait.camera[index], portrait.motion[one], portrait.head, SHOWN)
        below = max(round(float(box[3])), 1)
        pairs.append((theirs[:below], ours[:below]))
    return Likeness({**scores, "photos": rows}, pairs)


def measure_views(capture: Capture, against: Portrait | Capture | Pathlike) -> Likeness:
    """Compares the views of a capture, as far as they may show a face, with the photos of the person.

    Returns:
      Likeness whose "photos" is empty and whose pairs are, for each view in the order of "views", the reference photo
      (shrunk to the view's height) and the view's first frame.

    Raises:
      UserError: no portrait; no view within 75 degrees of the reference; or the descriptors cannot be had.
    """
    from mvp4d_jax.evaluation.evaluate import reference_angles
    from mvp4d_jax.evaluation.likeness import score_likeness

    portrait = find_portrait(against)
    angles = reference_angles(capture, capture)
    names = sorted((name for name in angles if angles[name] <= WIDEST), key=lambda name: angles[name])
    if not names:
        raise UserError(
            capture.path, f"has no view within {WIDEST:g} degrees of its reference", "sample some from the front"
        )
    frames = np.unique(np.linspace(0, capture.frame_count - 1, FRAMES).round().astype(int))
    views = [np.stack([capture.frame(capture.names.index(name), int(frame)) for frame in frames]) for name in names]
    scores = {"likeness": score_likeness(portrait, [(angles[name], view) for name, view in zip(names, views)])}
    photo = Image.fromarray(np.uint8(np.rint(255 * portrait.on_background(portrait.reference))))
    height = views[0].shape[1]
    photo = np.asarray(photo.resize((round(photo.width * height / photo.height), height), Image.Resampling.LANCZOS))
    return Likeness({**scores, "photos": [], "left_out": {}}, [(photo, view[0]) for view in views])
