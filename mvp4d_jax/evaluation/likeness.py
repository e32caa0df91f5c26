"""CSIM: how much the faces of pictures look like a person, by dlib's descriptors (`tracking.likeness`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mvp4d.core.capture.portrait import Portrait
from mvp4d_jax.tracking.likeness import cosines, describe_faces, distances

FRAMES = 3  # of every view that are described


def score_likeness(portrait: Portrait, views: Sequence[tuple[float, np.ndarray]]) -> dict[str, Any]:
    """Compares views of a person with the person's photos.

    Args:
      views: (degrees, pictures [F, H, W, 3] uint8) each.

    Returns:
      A JSON-able dict. "photos": a row for each photo, its distance and CSIM to the reference photo; "views": a row
      for each view, its angle, frames, frames with a face, median distance and CSIM to the reference photo and to the
      nearest photo; "all": the same over all views. None where no face was found.

    Raises:
      UserError: the descriptors cannot be had.
    """
    photos = [np.uint8(np.rint(255 * portrait.on_background(index))) for index in range(len(portrait.photos))]
    pictures = photos + [picture for _, frames in views for picture in frames]
    found = describe_faces(pictures, len(pictures))
    known, rest = found[: len(photos)], found[len(photos) :]
    groups = np.split(rest, np.cumsum([len(frames) for _, frames in views])[:-1])
    names = portrait.sources or [f"photo {index}" for index in range(len(photos))]
    reference = known[portrait.reference : portrait.reference + 1]
    return {
        "reference": names[portrait.reference],
        "photos": [
            {"name": name, **_row(known[index : index + 1], reference, known)}
            for index, name in enumerate(names)
            if index != portrait.reference
        ],
        "views": [{"angle": float(angle), **_row(group, reference, known)} for (angle, _), group in zip(views, groups)],
        "all": _row(rest, reference, known),
    }


def _row(group: np.ndarray, reference: np.ndarray, photos: np.ndarray) -> dict[str, Any]:
    """Medians over the descriptors [N, 128] of a group that are finite."""
    seen = group[np.isfinite(group).all(1)]
    row: dict[str, Any] = {"frames": len(group), "faces": len(seen), "distance": None, "csim": None, "nearest": None}
    if len(seen) and np.isfinite(reference).all():
        photos = photos[np.isfinite(photos).all(1)]
        row |= {
            "distance": float(np.median(distances(seen, reference))),
            "csim": float(np.median(cosines(seen, reference))),
            "nearest": float(np.median(distances(seen, photos).min(1))),
        }
    return row


def csim_of_views(ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray]) -> list[float]:
    """Mean CSIM of views with the truth's frames, [F, H, W, 3] uint8 each; NaN where no pair of frames has faces."""
    chosen = [sorted(set(np.linspace(0, len(frames) - 1, FRAMES).round().astype(int).tolist())) for frames in ours]
    pictures = [frames[index] for group in (ours, theirs) for frames, picked in zip(group, chosen) for index in picked]
    found = describe_faces(pictures, len(pictures)).reshape(2, -1, 128)
    pairs = np.array([cosines(first[None], second[None])[0, 0] for first, second in zip(*found)])
    groups = np.split(pairs, np.cumsum([len(picked) for picked in chosen])[:-1])
    return [float(np.nanmean(group)) if np.isfinite(group).any() else float("nan") for group in groups]
