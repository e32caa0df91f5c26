"""JOD, just-objectionable differences, by FovVideoVDP (Mantiuk et al. 2021): 10 is no visible difference.

`pyfvvdp` (PyPI, CC BY-NC 4.0: not for commercial use) is fetched when JOD is first asked for and runs in a process of
its own, on the PyTorch of this installation.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mvp4d.core.environment import Environment
from mvp4d.core.progress import progress

FVVDP = Environment(
    "fvvdp-1.2.2-1",
    "FovVideoVDP (CC BY-NC 4.0, for non-commercial use)",
    20,
    ("pyfvvdp==1.2.2", "ffmpeg-python==0.2.0", "future==1.0.0"),
    ("ffmpeg",),
    "or leave JOD out",
    ("pyfvvdp",),
)


def jod_of_views(ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray], fps: float) -> list[float]:
    """JOD of each video [F, H, W, 3] uint8 against the truth's, as seen on FovVideoVDP's 30 inch 4K display.

    Raises:
      UserError: FovVideoVDP cannot be had.
    """
    packages = next((FVVDP.python().parent.parent / "lib").glob("python*/site-packages"))
    values = []
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log:
        process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("fvvdp.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env={**os.environ, "PYTHONPATH": str(packages), "CUDA_VISIBLE_DEVICES": ""},
        )
        try:
            for first, second in progress(zip(ours, theirs), total=len(ours), what="JOD", unit="view"):
                facts = {"shape": first.shape, "fps": fps}
                process.stdin.write(json.dumps(facts).encode() + b"\n" + first.tobytes() + second.tobytes())
                process.stdin.flush()
                values.append(float(process.stdout.readline()))
        except (BrokenPipeError, ValueError):
            process.wait()
            log.seek(0)
            raise FVVDP.failure(log.read()) from None
        finally:
            process.kill()
            process.wait()
            process.stdin.close()
            process.stdout.close()
    return values
