"""LPIPS with VGG-16 features (Zhang et al. 2018), from weights that the user brings (`core.lpips_file`)."""

from __future__ import annotations

import os

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from mvp4d.core import lpips_file
from mvp4d.core.errors import UserError
from mvp4d.core.files import check_regular

SHIFT, SCALE = np.array(lpips_file.SHIFT, np.float32), np.array(lpips_file.SCALE, np.float32)


def load_weights(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Reads and checks the weights; convolution kernels come out as [kh, kw, in, out].

    Raises:
      UserError: not a safetensors file, or a tensor is missing.
    """
    check_regular(path, lpips_file.MOST_BYTES)
    try:
        source = load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(path, f"not a readable safetensors file ({error})") from None
    weights = {}
    for name in lpips_file.tensor_names(source, path):
        value = source[name].astype(np.float32)
        if name.startswith("lin"):
            weights[name] = value.reshape(-1)
        else:
            weights[name] = value.transpose(2, 3, 1, 0) if value.ndim == 4 else value
    return weights


@jax.jit
def lpips(weights: dict[str, jax.Array], image: jax.Array, truth: jax.Array) -> jax.Array:
    """Perceptual distance [B] of two batches [B, H, W, 3] in [0, 1], H and W >= 16."""
    x, y = ((2 * jnp.asarray(batch, jnp.float32) - 1 - SHIFT) / SCALE for batch in (image, truth))
    total = 0.0
    for stage, indices in enumerate(lpips_file.STAGES):
        if stage:
            x, y = _pool(x), _pool(y)
        for index in indices:
            kernel, bias = weights[f"features.{index}.weight"], weights[f"features.{index}.bias"]
            x, y = _convolve(x, kernel, bias), _convolve(y, kernel, bias)
        difference = jnp.square(_normalise(x) - _normalise(y))  # [B, h, w, C]
        total += (difference @ weights[f"lin{stage}.model.1.weight"]).mean(axis=(1, 2))
    return total


def _convolve(x: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
    out = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return jax.nn.relu(out + bias)


def _pool(x: jax.Array) -> jax.Array:
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")


def _normalise(x: jax.Array) -> jax.Array:
    return x / (jnp.linalg.norm(x, axis=-1, keepdims=True) + 1e-10)
