"""Tensors of a safetensors file, in memory of their own."""

from __future__ import annotations

import os
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import load
from torch import Tensor


def read_tensors(path: str | os.PathLike) -> dict[str, Tensor]:
    """Every tensor of a file, read once: `safetensors.torch.load_file` maps it, and the system ends a process (SIGBUS)
    whose mapped file is cut short or written anew while it works.

    Raises:
      OSError, SafetensorError: missing, or not such a file.
    """
    with open(path, "rb"):  # which safetensors calls missing where it may not be read
        pass
    with safe_open(path, "pt"):  # its header against its length, before anything as long as the file is read
        pass
    return load(Path(path).read_bytes())
