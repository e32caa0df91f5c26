"""MediaPipe's face mesh in a Python environment of its own.

Its 0.10.21 wheel carries the models of the face mesh and of the selfie segmentation and runs offline, but asks for
numpy < 2 and protobuf < 5, which current JAX cannot live with.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from mvp4d.core.environment import Environment
from mvp4d.core.files import read_npz
from mvp4d.core.progress import progress

# Everything that its face mesh and pymatting need, pinned; JAX and the other tasks' packages are left out.
MEDIAPIPE = Environment(
    "mediapipe-0.10.21-1",
    "MediaPipe",
    700,
    (
        "mediapipe==0.10.21",
        "absl-py==2.1.0",
        "attrs==24.2.0",
        "flatbuffers==24.3.25",
        "numpy==1.26.4",
        "protobuf==4.25.5",
        "opencv-python-headless==4.10.0.84",
        "matplotlib==3.9.2",
        "contourpy==1.3.0",
        "cycler==0.12.1",
        "fonttools==4.54.1",
        "kiwisolver==1.4.7",
        "packaging==24.1",
        "pillow==10.4.0",
        "pyparsing==3.1.4",
        "python-dateutil==2.9.0.post0",
        "six==1.16.0",
        "PyMatting==1.1.16",
        "numba==0.60.0",
        "llvmlite==0.43.0",
        "scipy==1.14.1",
    ),
    ("mediapipe",),
    "or give the landmarks in a file: --landmarks FILE",
    trial=Path(__file__).with_name("selfie.py"),
)


def detect_faces(
    frames: Iterable[np.ndarray], count: int, *, video: bool, turn: bool = False, most: int = 6
) -> np.ndarray:
    """Finds the face mesh of up to `most` faces in every frame.

    Args:
      frames: `count` pictures, uint8 [H, W, 3], taken one at a time; sizes may differ.
      video: whether they follow each other in time, so that a face is followed rather than looked for again.
      turn: whether any may be upside down.

    Returns:
      float32 [F, most, 478, 2] pixels, NaN where there is no face.

    Raises:
      UserError: the environment cannot be made, or MediaPipe fails.
    """
    facts = {"frames": count, "faces": most, "video": video, "turn": turn}
    script = Path(__file__).with_name("facemesh.py")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "faces.npz"
        with open(Path(folder) / "log", "w+", encoding="utf-8", errors="replace") as log:
            process = MEDIAPIPE.start(script, str(out), log=log)
            try:
                _feed(process, facts, frames)
                failed = process.wait()
            finally:
                process.kill()
                process.wait()
                process.stdout.close()
            log.seek(0)
            if failed or not out.exists():
                raise MEDIAPIPE.failure(log.read())
        return read_npz(out)["faces"]


def _feed(process: subprocess.Popen, facts: dict, frames: Iterable[np.ndarray]) -> None:
    """One frame in, one line back: neither pipe can fill up."""
    try:
        process.stdin.write(json.dumps(facts).encode() + b"\n")
        for frame in progress(frames, total=facts["frames"], what="finding faces", unit="frame"):
            process.stdin.write(np.array(frame.shape[:2], "<u4").tobytes() + np.ascontiguousarray(frame).tobytes())
            process.stdin.flush()
            if not process.stdout.readline():
                break
        process.stdin.close()
    except BrokenPipeError:
        return  # it has ended; its exit code and its last words tell why
