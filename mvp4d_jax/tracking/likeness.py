"""How alike two faces are: distances of dlib's face descriptors, in a Python environment of its own.

dlib's network and its weights come from PyPI (`dlib-bin`, `face-recognition-models`). A distance of 0.6 is its own
limit for "the same person"; two photos of one person are 0.3 to 0.5 apart, of two persons 0.7 to 0.9.
"""

from __future__ import annotations

import collections
import contextlib
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from mvp4d.core.environment import Environment
from mvp4d.core.errors import UserError
from mvp4d.core.host import cpu_count
from mvp4d.core.progress import progress

DLIB = Environment(
    "dlib-20.0.1-1",
    "dlib's face descriptors",
    240,
    ("dlib-bin==20.0.1.post1", "numpy==1.26.4", "face-recognition-models==0.3.0"),
    ("dlib",),
    "or do without them",
    ("face-recognition-models",),
)
SAME_PERSON = 0.6
PROCESSES = 4  # at most; each holds its own copy of the networks, some 200 MB
LEAST, MOST = 512, 1200  # pixels of the longer side between which faces are looked for


def describe_faces(pictures: Iterable[np.ndarray], count: int) -> np.ndarray:
    """The descriptor of the largest face in each picture, uint8 [H, W, 3].

    The pictures go to several processes in turn, as dlib works on one core.

    Returns:
      float64 [N, 128], NaN where there is no face.

    Raises:
      UserError: the environment cannot be made, or what runs in it fails.
    """
    rows = []
    with contextlib.ExitStack() as stack:
        describers = [stack.enter_context(_Describer()) for _ in range(max(1, min(PROCESSES, cpu_count(), count)))]
        waiting: collections.deque[_Describer] = collections.deque()  # for answers, in the pictures' order
        for index, picture in enumerate(progress(pictures, total=count, what="describing faces", unit="picture")):
            if len(waiting) == len(describers):
                rows.append(waiting.popleft().answer())
            waiting.append(describers[index % len(describers)])
            waiting[-1].ask(_sized(picture))
        rows += [describer.answer() for describer in waiting]
    return np.array(rows).reshape(-1, 128)


class _Describer:
    """One process that describes one picture after the other, a context; its errors are UserErrors."""

    def __enter__(self) -> _Describer:
        self._log = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")
        try:
            self._process = DLIB.start(Path(__file__).with_name("descriptors.py"), log=self._log)
        except BaseException:
            self._log.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(BrokenPipeError):  # of what is still to be flushed
                stream.close()
        self._log.close()

    def ask(self, picture: np.ndarray) -> None:
        """Sends a picture, uint8 [H, W, 3]; `answer` is due before the next one."""
        try:
            self._process.stdin.write(np.array(picture.shape[:2], "<u4").tobytes() + picture.tobytes())
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._failure() from None

    def answer(self) -> np.ndarray:
        """The descriptor [128] of the picture that was sent, NaN where it has no face."""
        data = self._process.stdout.read(129 * 8)
        if len(data) < 129 * 8:
            raise self._failure()
        row = np.frombuffer(data, "<f8")
        return row[1:] if row[0] else np.full(128, np.nan)

    def _failure(self) -> UserError:
        self._process.wait()
        self._log.seek(0)
        return DLIB.failure(self._log.read())


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
