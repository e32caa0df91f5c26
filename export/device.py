"""Which device, and what to say when its memory runs out."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from mvp4d_export.errors import UserError


def pick_device(wanted: str | None) -> str:
    """Names the device, "cuda" or "cpu". None means CUDA where there is one.

    Raises:
      UserError: CUDA is asked for and there is none.
    """
    available = torch.cuda.is_available()
    if wanted == "cuda" and not available:
        raise UserError(
            "--device", "cuda: torch sees no CUDA device here", "use --device cpu, or install a CUDA build of torch"
        )
    return wanted or ("cuda" if available else "cpu")


@contextlib.contextmanager
def guard_memory(fix: str) -> Iterator[None]:
    """Turns running out of memory into one line that says what to try."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise UserError(
            "memory", f"ran out ({str(error).splitlines()[0][:100] if str(error) else 'host'})", f"try {fix}"
        ) from None
    except RuntimeError as error:
        # torch's CPU allocator raises a plain RuntimeError.
        if "not enough memory" not in str(error) and "DefaultCPUAllocator" not in str(error):
            raise
        raise UserError("memory", "ran out (host)", f"try {fix}") from None
