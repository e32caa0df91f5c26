"""Contact sheets: many people from several sides, and one person with many expressions."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from PIL import Image

from mvp4d.core.cameras.camera import FIELDS, Camera
from mvp4d.core.cameras.rigs import camera_rig
from mvp4d.core.files import atomic_file
from mvp4d.core.heads.motion import Motion
from mvp4d.core.outputs import check_file
from mvp4d.core.progress import progress
from mvp4d_jax.studio.motions import EXPRESSIONS, pose_vector
from mvp4d_jax.studio.studio import Studio

PEOPLE = (6, 13, 2, 3, 4, 7, 1, 11, 5, 8, 17, 22)
VIEWS = (0, 1, 3, 6)  # of twelve around the head
ACTOR = 6
FACES = (
    "neutral",
    "smile",
    "grin",
    "laugh",
    "surprise",
    "frown",
    "anger",
    "sadness",
    "disgust",
    "pucker",
    "cheeks",
    "skeptic",
    "wide open",
    "blink",
)


def write_sheets(
    folder: str | os.PathLike, *, people: tuple[int, ...] = PEOPLE, size: int = 144, overwrite: bool = False
) -> list[Path]:
    """Writes studio_identities.jpg and studio_expressions.jpg; returns their paths."""
    folder = Path(folder)
    paths = [folder / "studio_identities.jpg", folder / "studio_expressions.jpg"]
    for path in paths:
        check_file(path, overwrite)
    for path, picture in ((paths[0], identity_sheet(people, size)), (paths[1], expression_sheet(ACTOR, size + 24))):
        with atomic_file(path) as temporary:
            Image.fromarray(picture).save(temporary, quality=88)
    return paths


def identity_sheet(people: tuple[int, ...], size: int) -> np.ndarray:
    """[.., .., 3] uint8: two people a row, four views each."""
    rig = camera_rig("orbit:360x12", (size, size))
    cameras = Camera(*(getattr(rig, name)[list(VIEWS)] for name in FIELDS))
    strips = []
    for identity in progress(people, what="people", unit="person"):
        studio = Studio(identity)
        rgb, _ = studio.render(studio.motion(1, "still"), cameras, size)
        strips.append(np.concatenate(list(rgb[:, 0]), 1))
    return _rows(strips, 2)


def expression_sheet(identity: int, size: int) -> np.ndarray:
    """[.., .., 3] uint8: the named expressions, seven a row."""
    studio = Studio(identity)
    names = studio.head.expression_names
    poses = dict(EXPRESSIONS) | {"neutral": {}, "blink": {"eyeBlink*": 1.0}}
    still = Motion.still(len(FACES), len(names))
    motion = Motion(
        np.stack([pose_vector(names, poses[face]) for face in FACES]),
        still.rotation,
        still.translation,
        still.neck,
        still.jaw,
        still.eyes,
        still.fps,
    )
    rgb, _ = studio.render(motion, camera_rig("arc:30x1,fov=13", (size, size)), size)
    return _rows(list(rgb[0]), 7)


def _rows(pictures: list[np.ndarray], columns: int) -> np.ndarray:
    blank = np.full_like(pictures[0], 255)
    pictures = pictures + [blank] * (-len(pictures) % columns)
    return np.concatenate([np.concatenate(pictures[k : k + columns], 1) for k in range(0, len(pictures), columns)])
