"""MediaPipe's face mesh in a Python environment of its own.

Its 0.10.21 wheel carries the face-mesh model and runs offline, but asks for numpy < 2 and protobuf < 5, which current
JAX cannot live with. So it gets its own environment, made on first use under the user's cache folder, and is talked to
through pipes.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from mvp4d.core.errors import UserError
from mvp4d.core.files import read_npz
from mvp4d.core.outputs import hold, require_space
from mvp4d.core.owner import discard, sweep, temporary_name
from mvp4d.core.progress import progress
from mvp4d.core.stopping import tied

# Everything that importing its face mesh needs, pinned; `--no-deps` leaves out JAX and the other tasks' packages.
PACKAGES = ("mediapipe==0.10.21", "absl-py==2.1.0", "attrs==24.2.0", "flatbuffers==24.3.25", "numpy==1.26.4",
            "protobuf==4.25.5", "opencv-python-headless==4.10.0.84", "matplotlib==3.9.2", "contourpy==1.3.0",
            "cycler==0.12.1", "fonttools==4.54.1", "kiwisolver==1.4.7", "packaging==24.1", "pillow==10.4.0",
            "pyparsing==3.1.4", "python-dateutil==2.9.0.post0", "six==1.16.0")
_STAMP = "mvp4d-complete"
_WITHOUT = "or give the landmarks in a file: --landmarks FILE"


def environment_folder() -> Path:
    """Where the environment lies: below $XDG_CACHE_HOME or ~/.cache."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return root / "mvp4d" / f"facemesh-0.10.21-py{sys.version_info.major}{sys.version_info.minor}"


def ensure_environment() -> Path:
    """The environment's Python; makes the environment when it is not there (about 400 MB, a minute or two).

    Raises:
      UserError: it cannot be made: no network, no wheel for this platform, no space.
    """
    folder = environment_folder()
    python = folder / "bin" / "python"
    if (folder / _STAMP).is_file() and python.exists():
        return python
    with hold(folder, wait=True):  # another run may be making it
        if (folder / _STAMP).is_file() and python.exists():
            return python
        return _make_environment(folder)


def _make_environment(folder: Path) -> Path:
    sweep(folder.parent)
    require_space(folder, 4e8, "MediaPipe's environment")
    print(f"making an environment for MediaPipe at {folder} (about 400 MB, once)", file=sys.stderr, flush=True)
    fresh = temporary_name(folder)
    try:
        _run([sys.executable, "-m", "venv", str(fresh)])
        with progress(total=len(PACKAGES) + 1, what="installing MediaPipe", unit="package") as bar:
            _run([str(fresh / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "install", "--no-deps",
                  "--only-binary", ":all:", "--retries", "1", "--timeout", "30", *PACKAGES],
                 lambda line: line.startswith("Collecting") and bar.update())
            _run([str(fresh / "bin" / "python"), "-c", "import mediapipe"])
            bar.update(bar.total - bar.n)
        (fresh / _STAMP).write_text("\n".join(PACKAGES) + "\n")
        shutil.rmtree(folder, ignore_errors=True)
        fresh.rename(folder)
    finally:
        discard(fresh)
    return folder / "bin" / "python"


def detect_faces(frames: Iterable[np.ndarray], count: int, *, video: bool, most: int = 6) -> np.ndarray:
    """Finds the face mesh of up to `most` faces in every frame.

    Args:
      frames: `count` pictures, uint8 [H, W, 3], taken one at a time; sizes may differ.
      video: whether they follow each other in time, so that a face is followed rather than looked for again.

    Returns:
      float32 [F, most, 478, 2] pixels, NaN where there is no face.

    Raises:
      UserError: the environment cannot be made, or MediaPipe fails.
    """
    python = ensure_environment()
    facts = {"frames": count, "faces": most, "video": video}
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "faces.npz"
        with open(Path(folder) / "log", "w+") as log:
            process = subprocess.Popen(tied([str(python), str(Path(__file__).with_name("facemesh.py")), str(out)]),
                                       stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
                                       env={**os.environ, "PYTHONPATH": "", "GLOG_minloglevel": "2"})
            try:
                _feed(process, facts, frames)
                failed = process.wait()
            finally:
                process.kill()
                process.wait()
                process.stdout.close()
            log.seek(0)
            if failed or not out.exists():
                raise UserError("MediaPipe", f"failed: {_last_line(log.read())}",
                                f"delete {environment_folder()} and try again, {_WITHOUT}")
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


def _run(command: list[str], hear: Callable[[str], object] = lambda line: None) -> None:
    lines = []
    with subprocess.Popen(tied(command), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          env={**os.environ, "PYTHONPATH": ""}) as process:
        for line in process.stdout:
            lines.append(line)
            hear(line)
    if process.returncode:
        raise UserError("MediaPipe", f"its environment cannot be made: {_last_line(''.join(lines))}",
                        f"check the network and run again, {_WITHOUT}")


def _last_line(text: str) -> str:
    """What went wrong, from a log: the last line that says so, else the last line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line.lower()]
    return ((errors or lines or ["no message"])[-1])[:200]
