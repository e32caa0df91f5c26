"""What a run says while it runs: JSON lines, TensorBoard, and model FLOP utilisation."""

from __future__ import annotations

import json
import math
import os
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from tensorboardX import SummaryWriter

from mvp4d.core.files import atomic_file
from mvp4d_jax.devices import kind_of
from mvp4d_jax.models.transformer_config import TransformerConfig


def peak_flops(device: jax.Device) -> float:
    """Peak FLOP/s of one device: the data sheet's, or (CPU, unknown devices) a matrix product's measured now."""
    known = kind_of(device.device_kind)
    return known[1].flops if known else _measured_flops()


def _measured_flops(size: int = 1024, repeats: int = 4) -> float:
    product = jax.jit(lambda a: a @ a)
    with jax.default_device(jax.local_devices()[0]):
        a = jnp.ones((size, size), jnp.float32)
        product(a).block_until_ready()
        began = time.perf_counter()
        for _ in range(repeats):
            product(a).block_until_ready()
    # Host devices share the machine: each has its part of the product's speed.
    return 2 * size**3 * repeats / (time.perf_counter() - began) / jax.local_device_count()


def tokens_of(config: TransformerConfig, views: int, latents: int, latent_size: int) -> int:
    """Video and reference tokens of one sample (no text, no padding)."""
    return (views * latents + 1) * (latent_size // config.patch_size) ** 2


class MetricsLog:
    """`metrics.jsonl` and TensorBoard events of a run; silent on all processes but the first.

    Args:
      folder: the run's.
      step: where the run stands: lines of later steps (written before a kill) are dropped.
    """

    def __init__(self, folder: Path, step: int):
        self._file = self._board = None
        if jax.process_index() != 0:
            return
        path = folder / "metrics.jsonl"
        _drop_after(path, step)
        self._file = open(path, "a", buffering=1)  # noqa: SIM115 (open for the length of the run; `close`)
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def write(self, step: int, values: dict[str, Any]) -> None:
        """One line; numbers go to TensorBoard, too."""
        if self._file is None:
            return
        shown = {name: float(f"{value:.6g}") if isinstance(value, float) else value for name, value in values.items()}
        self._file.write(json.dumps({"step": step, **shown}) + "\n")
        for name, value in values.items():
            if isinstance(value, int | float) and math.isfinite(value):
                self._board.add_scalar(name, value, step)

    def picture(self, step: int, name: str, image: Any) -> None:
        """[H, W, 3] uint8 to TensorBoard."""
        if self._board is not None:
            self._board.add_image(name, image, step, dataformats="HWC")

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._board.close()


def read_metrics(folder: str | os.PathLike) -> list[dict[str, Any]]:
    """Every line of a run's metrics."""
    return [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]


def _drop_after(path: Path, step: int) -> None:
    if not path.is_file():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            value = json.loads(line)
        except ValueError:  # a line cut by a kill
            continue
        if value["step"] <= step:
            kept.append(line)
    with atomic_file(path) as temporary:
        temporary.write_text("".join(line + "\n" for line in kept))
