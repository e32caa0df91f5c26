"""Which pictures make a Portrait: frames of a clip, and whether photos are of one person and alike enough."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

from mvp4d.core.errors import UserError
from mvp4d.core.heads.motion import Motion
from mvp4d.core.progress import say
from mvp4d_jax.tracking.landmarks import Landmarks
from mvp4d_jax.tracking.likeness import SAME_PERSON, describe_faces, distances

CLIP_PHOTOS = 6  # frames that are kept of a clip, at most
SHARP_SIDE = 192  # pixels of a face that sharpness is measured at
TURN, MIMIC = 0.2, 0.6  # radians of rotation, and length of a change of expression, that count as far apart
LIGHT = 1.6  # ratio of two photos' brightness, in linear light, from which on it is said
SMALL_FACE = 100  # pixels of a face's box from which on up it is worth having
SHARP_FACE = 180  # pixels of a face's box; the kept photo is then 512 wide, as an avatar's videos are


def face_crop(picture: np.ndarray, points: np.ndarray, margin: float = 0.6) -> np.ndarray:
    """The surroundings of a face's landmarks [68, 2] in a picture [H, W, 3], as far as it shows them."""
    low, high = points.min(0), points.max(0)
    reach = margin * (high - low).max()
    left, top = np.maximum(np.floor(low - reach), 0).astype(int)
    right, bottom = np.ceil(high + reach).astype(int)
    return picture[top:bottom, left:right]


def sharpness(picture: np.ndarray, points: np.ndarray) -> float:
    """Root mean square of the Laplacian of a face, in grey values at one size, whatever the picture's."""
    face = (
        Image.fromarray(face_crop(picture, points, 0.0))
        .convert("L")
        .resize((SHARP_SIDE, SHARP_SIDE), Image.Resampling.BOX)
    )
    return float(np.sqrt(np.mean(ndimage.laplace(np.asarray(face, np.float32)) ** 2)))


def choose_frames(
    frames: Iterable[np.ndarray], seen: Landmarks, motion: Motion, error: np.ndarray, most: int = CLIP_PHOTOS
) -> list[int]:
    """Sharp frames of a clip that are spread over pose and expression.

    The first is the sharpest frame near the middle pose; each further one is the furthest from those taken, its
    distance weighted by its sharpness. Frames without a face, with a face that leaves the picture or a bad fit are
    left out, and so is what adds nothing new.

    Args:
      frames: F pictures [H, W, 3].
      error: [F] of the fit, NaN without a face.
    """
    height, width = seen.image_size
    points = seen.points
    with np.errstate(invalid="ignore"):
        inside = ((points >= 0) & (points <= [width, height])).all((1, 2))
    good = seen.found & inside & (error < 1.5 * np.nanmedian(error))
    if not good.any():
        raise UserError("`photos`", "the clip has no frame whose face lies whole in the picture", "give another clip")
    sharp = np.array([sharpness(frame, points[index]) if good[index] else 0.0 for index, frame in enumerate(frames)])
    sharp = np.minimum(sharp / np.quantile(sharp[good], 0.9), 1.0)
    place = np.concatenate([np.asarray(motion.rotation, float) / TURN, np.asarray(motion.expression, float) / MIMIC], 1)
    middle = np.linalg.norm(place - np.median(place[good], axis=0), axis=-1)
    chosen = [int(np.argmax(np.where(good, sharp**2 / (1 + middle), -1)))]
    while len(chosen) < most:
        away = np.linalg.norm(place[:, None] - place[chosen], axis=-1).min(1) * sharp**2 * good
        if away.max() < 0.5:
            break
        chosen.append(int(np.argmax(away)))
    return sorted(chosen)


def check_one_person(names: Sequence[Path], pictures: Sequence[np.ndarray], seen: Sequence[Landmarks]) -> None:
    """Refuses photos of which one shows another person than most, by the distance of face descriptors.

    Where the descriptors cannot be had, or a face is not found by their detector, that is said and nothing refused.

    Raises:
      UserError: names the photo.
    """
    faces = [face_crop(picture, found.points[0]) for picture, found in zip(pictures, seen)]
    try:
        descriptors = describe_faces(faces, len(faces))
    except UserError as error:
        say(f"note: whether the photos show one person was not checked: {error}")
        return
    known = np.flatnonzero(np.isfinite(descriptors).all(1))
    if len(known) < len(faces):
        names_left = ", ".join(Path(names[index]).name for index in range(len(faces)) if index not in known)
        say(f"note: whether {names_left} shows the same person was not checked: no frontal face")
    if len(known) < 2:
        return
    apart = distances(descriptors[known], descriptors[known])
    middle = int(np.argmin(apart.sum(1)))
    worst = int(np.argmax(apart[middle]))
    if apart[middle, worst] > SAME_PERSON:
        raise UserError(
            names[known[worst]],
            f"seems to show another person than {Path(names[known[middle]]).name} "
            f"(distance of the faces {apart[middle, worst]:.2f}, of one person below {SAME_PERSON})",
            "leave it out, or give `same_person`",
        )


def note_differences(names: Sequence[Path], pictures: Sequence[np.ndarray], seen: Sequence[Landmarks]) -> None:
    """Says which photos are lit very differently from the first, and whose faces are small."""
    light = []
    for name, picture, found in zip(names, pictures, seen):
        face = face_crop(picture, found.points[0], 0.0)
        light.append(float(np.mean((face.astype(np.float32) / 255) ** 2.2)))
        if found.box_size < SMALL_FACE:
            say(f"note: {Path(name).name}: its face is {found.box_size:.0f} pixels wide; it adds little detail")
    for name, value in zip(names[1:], light[1:]):
        ratio = max(value, 1e-4) / max(light[0], 1e-4)
        if not 1 / LIGHT < ratio < LIGHT:
            say(
                f"note: {Path(name).name}: its face is {ratio:.1f} times as bright as in {Path(names[0]).name}; photos "
                "in one light make a better avatar"
            )


def note_small_face(names: Sequence[Path], seen: Sequence[Landmarks]) -> None:
    """Says where even the largest of the faces is too small for a sharp avatar."""
    sizes = [found.box_size for found in seen]
    largest = int(np.argmax(sizes))
    if sizes[largest] < SHARP_FACE:
        say(
            f"note: {Path(names[largest]).name}: the face is {sizes[largest]:.0f} pixels wide; below {SHARP_FACE} the "
            "avatar will be blurred: give a picture in which it is larger"
        )
