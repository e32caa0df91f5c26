"""Computes JOD of videos from standard input by FovVideoVDP. A script: it is run by path and imports nothing of this
project (see `export/jod.py`).

For each pair of videos, one after the other until the input ends:
  in   one line of JSON {"shape": [F, H, W, 3], "fps"}, the video and the truth as raw bytes
  out  one line: its JOD
"""

import json
import os
import sys

import numpy as np
import torch


def main() -> None:
    from pyfvvdp import fvvdp

    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    measure = fvvdp(display_name="standard_4k", heatmap=None, device=torch.device("cpu"))
    while line := sys.stdin.buffer.readline():
        facts = json.loads(line)
        shape = tuple(facts["shape"])
        ours, theirs = (
            np.frombuffer(sys.stdin.buffer.read(int(np.prod(shape))), np.uint8).reshape(shape) for _ in range(2)
        )
        if shape[0] == 1:
            value, _ = measure.predict(ours[0].copy(), theirs[0].copy(), dim_order="HWC")
        else:
            value, _ = measure.predict(ours.copy(), theirs.copy(), dim_order="FHWC", frames_per_second=facts["fps"])
        out.write(f"{float(value)}\n")
        out.flush()


if __name__ == "__main__":
    main()
