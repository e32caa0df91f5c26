"""Compiled programs that outlive the process."""

from __future__ import annotations

from typing import Any

import jax


def keep_programs(folder: Any) -> None:
    """Keeps them in `folder`: a second start of the same shapes on the same devices compiles nothing.

    A folder that JAX was told of already (JAX_COMPILATION_CACHE_DIR) stays the one.
    """
    if not jax.config.jax_compilation_cache_dir:  # pyright: ignore[reportAttributeAccessIssue]  made at run time
        jax.config.update("jax_compilation_cache_dir", str(folder))
