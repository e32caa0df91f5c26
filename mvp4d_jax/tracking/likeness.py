"""How alike two faces are: distances of dlib's face descriptors, in a Python environment of its own.

dlib's network and its weights come from PyPI (`dlib-bin`, `face-recognition-models`). A distance of 0.6 is its own
limit for "the same person"; two photos of one person are 0.3 to 0.5 apart, of two persons 0.7 to 0.9.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from mvp4d.core.environment import Environment
from mvp4d.core.progress import progress

DLIB = Environment(
    "dlib-20.0.1-1",
    "dlib's face descriptors",
    250,
    ("dlib-bin==20.0.1.post1", "numpy==1.26.4", "face-recognition-models==0.3.0"),
    ("dlib",),
    "or do without them",
    ("face-recognition-models",),
)
SAME_PERSON = 0.6
LEAST, MOST = 512, 1200  # pixels of the longer side between which faces are looked for


def describe_faces(pictures: Iterable[np.ndarray], count: int) -> np.ndarray:
    """The descriptor of the largest face in each picture, uint8 [H, W, 3].

    Returns:
      float64 [N, 128], NaN where there is no face.

    Raises:
      UserError: the environment cannot be made, or what runs in it fails.
    """
    rows = []
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log:
        process = DLIB.start(Path(__file__).with_name("descriptors.py"), log=log)
        try:
            for picture in progress(pictures, total=count, what="describing faces", unit="picture"):
                picture = _sized(picture)
                process.stdin.write(np.array(picture.shape[:2], "<u4").tobytes() + picture.tobytes())
                process.stdin.flush()
                answer = np.frombuffer(process.stdout.read(129 * 8), "<f8")
                if len(answer) < 129:
                    raise EOFError
                rows.append(answer[1:] if answer[0] else np.full(128, np.nan))
        except (BrokenPipeError, EOFError, ValueError):
            process.wait()
            log.seek(0)
            raise DLIB.failure(log.read()) from None
        finally:
            process.kill()
            process.wait()
            process.stdin.close()
            process.stdout.close()
    return np.array(rows).reshape(-1, 128)


def distances(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Distances [N, M] of descriptors [N, 128] and [M, 128]."""
    return np.linalg.norm(first[:, None] - second[None], axis=-1)


def cosines(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Cosines [N, M] of descriptors [N, 128] and [M, 128] (CSIM)."""
    unit = [part / np.linalg.norm(part, axis=-1, keepdims=True) for part in (first, second)]
    return unit[0] @ unit[1].T


def _sized(picture: np.ndarray) -> np.ndarray:
    """Enlarged by a whole number to about LEAST pixels, or shrunk to MOST: the detector wants faces of 80 pixels."""
    longest = max(picture.shape[:2])
    scale = max(1, round(LEAST / longest)) if longest < MOST else MOST / longest
    if scale == 1:
        return np.ascontiguousarray(picture)
    height, width = (max(1, round(side * scale)) for side in picture.shape[:2])
    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.LANCZOS))
