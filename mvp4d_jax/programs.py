"""Compiled programs that outlive the process."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import jax

SHORTEST = "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"


def keep_programs(folder: Any) -> None:
    """Keeps them in `folder`: a second start of the same shapes on the same devices compiles nothing.

    A folder that JAX was told of already (JAX_COMPILATION_CACHE_DIR) stays the one. In a bucket, where a file takes as
    long as a short compilation, programs that took less than a second are not kept.
    """
    if jax.config.jax_compilation_cache_dir:  # pyright: ignore[reportAttributeAccessIssue]  made at run time
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    if isinstance(folder, Path) and SHORTEST not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
