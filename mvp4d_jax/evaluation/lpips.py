"""LPIPS with VGG-16 features (Zhang et al. 2018), from weights that the user brings; none are shipped.

The file is a safetensors file with torchvision's `features.N.weight/bias` of VGG-16 and the lpips package's
`lin{0..4}.model.1.weight`.
"""

from __future__ import annotations

import os

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from mvp4d.core.errors import UserError
from mvp4d.core.files import check_regular

# torchvision's vgg16.features: convolutions of each stage; a max-pool between stages, a ReLU after each convolution
STAGES = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))
SHIFT = np.array([-0.030, -0.088, -0.188], np.float32)  # the lpips package's scaling layer, for pictures in [-1, 1]
SCALE = np.array([0.458, 0.448, 0.450], np.float32)


def load_weights(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Reads and checks the weights; convolution kernels come out as [kh, kw, in, out].

    Raises:
      UserError: not a safetensors file, or a tensor is missing.
    """
    check_regular(path, 1 << 32)
    try:
        source = load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(path, f"not a readable safetensors file ({error})") from None
    wanted = [f"features.{index}.{part}" for stage in STAGES for index in stage for part in ("weight", "bias")]
    wanted += [f"lin{stage}.model.1.weight" for stage in range(len(STAGES))]
    missing = [name for name in wanted if name not in source]
    if missing:
        raise UserError(
            path,
            f"lacks {len(missing)} tensors, {missing[0]} among them",
            "join torchvision's VGG-16 features and the lpips package's lin layers",
        )
    weights = {}
    for name in wanted:
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
    for stage, indices in enumerate(STAGES):
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
