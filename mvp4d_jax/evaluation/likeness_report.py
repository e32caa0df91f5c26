"""Likeness as a page: photos beside the avatar, distances by angle."""

from __future__ import annotations

import html
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mvp4d.core.files import atomic_file
from mvp4d.core.images import write_png
from mvp4d.core.words import signed
from mvp4d_jax.evaluation.report import figure, number, picture, table, write_page

Pairs = Sequence[tuple[np.ndarray, np.ndarray]]


def pair_names(count: int) -> list[str]:
    """The files that `save_pairs` writes for so many photos: `photo_NN.png`."""
    return [f"photo_{index:02d}.png" for index in range(count)]


def save_pairs(folder: Path, pairs: Pairs) -> None:
    """Writes `pair_names`: each photo on white, and the avatar beside it. What lies there is replaced."""
    for name, pair in zip(pair_names(len(pairs)), pairs):
        with atomic_file(folder / name) as temporary:
            write_png(temporary, np.concatenate(pair, axis=1))


def write_likeness(path: str | os.PathLike, scores: dict[str, Any], pairs: Pairs) -> None:
    """Writes the page for what `mvp4d.likeness` found."""
    both = [np.concatenate(pair, axis=1) for pair in pairs]
    if scores["photos"]:
        body = [
            "<h2>Photos, and the avatar at their cameras</h2>",
            pictures_beside(scores["photos"], both),
            "<h2>Likeness by angle</h2>",
            likeness_table(scores),
        ]
    else:
        rows = zip(scores["likeness"]["views"], both)
        body = [
            "<h2>The reference photo beside each view</h2>",
            *(figure(pair, f"{row['angle']:.0f}°", 2 * pair.shape[1]) for row, pair in rows),
            "<h2>Likeness by angle to the reference</h2>",
            likeness_table(scores, "view"),
        ]
    with atomic_file(path) as temporary:
        write_page(temporary, "Likeness", "".join(body))


def pictures_beside(rows: Sequence[dict[str, Any]], pictures: Sequence[np.ndarray]) -> str:
    """Each photo with the avatar beside it, [H, 2 W, 3] uint8, full size, under it what was measured."""
    return "".join(
        f"<figure>{picture(both, min(1060, both.shape[1]), row['name'] + ', and the avatar')}"
        "<figcaption style='max-width:none'>"
        f"{html.escape(row['name'])}: photo, avatar; PSNR {number(row['psnr'], 1)} dB, SSIM {number(row['ssim'])}"
        "</figcaption></figure>"
        for row, both in zip(rows, pictures)
    )


def likeness_table(scores: dict[str, Any], what: str = "avatar") -> str:
    """Distances and CSIM of `what` by angle, beside those of the person's own photos; or why there are none."""
    if "CSIM" in scores["left_out"]:
        return f"<p>Left out: CSIM ({html.escape(scores['left_out']['CSIM'])}).</p>"
    scores = scores["likeness"]
    rows = [
        *((f"{what}, {signed(row['angle'])}°", row) for row in scores["views"]),
        (f"{what}, all", scores["all"]),
        *((f"photo {row['name']}", row) for row in scores["photos"]),
    ]
    described = [{"view": name, **_columns(row)} for name, row in rows if row["distance"] is not None]
    missed = [name for name, row in rows if row["distance"] is None and row is not scores["all"]]
    return (
        (table(described, ["view", "distance", "CSIM", "faces found"]) if described else "")
        + (f"<p>No face was found in {html.escape('; '.join(missed))}.</p>" if missed else "")
        + "<p class='note'>Medians of the distance and the cosine (CSIM) of dlib's face descriptors to "
        f"{html.escape(scores['reference'])}; 0.6 is dlib's own limit for the same person, two photos of one "
        "person are 0.3 to 0.5 apart, of two persons 0.7 to 0.9. Degrees to the side, while it speaks; the "
        "detector wants a face rather from the front.</p>"
    )


def _columns(row: dict[str, Any]) -> dict[str, Any]:
    return {"distance": row["distance"], "CSIM": row["csim"], "faces found": f"{row['faces']} of {row['frames']}"}
