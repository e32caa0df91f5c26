"""What a run says while it runs: JSON lines, TensorBoard, and model FLOP utilisation."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from mvp4d.core.files import atomic_file
from mvp4d.core.places import is_remote, on_fuse, place
from mvp4d_jax.devices import kind_of
from mvp4d_jax.models.transformer_config import TransformerConfig

if TYPE_CHECKING:
    from tensorboardX import SummaryWriter

UPLOAD_EVERY, ROTATE_EVERY = 30, 600  # seconds


def _summary_writer() -> type[SummaryWriter]:
    """tensorboardX's SummaryWriter, without torch: where that is installed it imports it, for annotations alone, which
    takes two seconds and its memory on every host."""
    hidden = not {"tensorboardX", "torch"} & sys.modules.keys()
    if hidden:
        sys.modules["torch"] = None  # pyright: ignore[reportArgumentType]  an import of it raises ImportError
    try:
        from tensorboardX import SummaryWriter
    finally:
        if hidden:
            del sys.modules["torch"]
    return SummaryWriter


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

    Both can be read while the run goes on. A line of metrics is in the file when `write` returns, in a bucket (`gs://`)
    at most half a minute later. TensorBoard's events follow within seconds; in a bucket, mounted or not, a file is seen
    when it is closed, so a new one is begun every ten minutes.

    Args:
      folder: the run's; local or in a bucket.
      step: where the run stands: lines of later steps (written before a kill) are dropped.
    """

    def __init__(self, folder: Any, step: int):
        self._active = jax.process_index() == 0
        if not self._active:
            return
        self._path, self._remote = folder / "metrics.jsonl", is_remote(folder)
        self._lines = _keep_until(self._path, step)
        self._uploaded = time.monotonic()
        self._board = _Board(folder / "tensorboard", step)

    def write(self, step: int, values: dict[str, Any]) -> None:
        """One line; numbers go to TensorBoard, too."""
        if not self._active:
            return
        shown = {name: float(f"{value:.6g}") if isinstance(value, float) else value for name, value in values.items()}
        line = json.dumps({"step": step, **shown}) + "\n"
        if self._remote:
            self._lines.append(line)
            if time.monotonic() - self._uploaded > UPLOAD_EVERY:
                self._upload()
        else:
            with open(self._path, "a", encoding="utf-8") as file:  # closed every time: a mounted bucket shows it then
                file.write(line)
        for name, value in values.items():
            if isinstance(value, int | float) and math.isfinite(value):
                self._board.now().add_scalar(name, value, step)

    def picture(self, step: int, name: str, image: Any) -> None:
        """[H, W, 3] uint8 to TensorBoard."""
        if self._active:
            self._board.now().add_image(name, image, step, dataformats="HWC")

    def close(self) -> None:
        if self._active:
            if self._remote:
                self._upload()
            self._board.close()

    def _upload(self) -> None:
        self._path.write_text("".join(self._lines), encoding="utf-8")
        self._uploaded = time.monotonic()


class _Board:
    """A TensorBoard writer; in a bucket one file after the other."""

    def __init__(self, folder: Any, step: int):
        self._folder, self._purge = folder, step + 1  # what a killed run wrote of later steps is hidden
        self._rotates = is_remote(folder) or on_fuse(folder.parent)
        self._writer: SummaryWriter | None = None
        self._count = 0  # of the files; the writer names them by the second

    def now(self) -> SummaryWriter:
        if self._writer is not None and self._rotates and time.monotonic() - self._began > ROTATE_EVERY:
            self.close()
        if self._writer is None:
            self._local = tempfile.mkdtemp(prefix="mvp4d-tensorboard-") if is_remote(self._folder) else self._folder
            self._writer = _summary_writer()(
                str(self._local), purge_step=self._purge, filename_suffix=f".{self._count}"
            )
            self._began, self._count = time.monotonic(), self._count + 1
        return self._writer

    def close(self) -> None:
        if self._writer is None:
            return
        self._writer.close()
        self._writer, self._purge = None, None
        if is_remote(self._folder):
            for file in Path(self._local).iterdir():
                with atomic_file(self._folder / file.name) as temporary:
                    shutil.copyfile(file, temporary)
            shutil.rmtree(self._local)


def read_metrics(folder: str | os.PathLike) -> list[dict[str, Any]]:
    """Every line of a run's metrics."""
    return [json.loads(line) for line in (place(folder) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def _keep_until(path: Any, step: int) -> list[str]:
    """Drops lines of later steps from a file, and one that a kill cut; returns those that stay."""
    if not path.is_file():
        return []
    kept = []
    for line in path.read_bytes().decode(errors="replace").splitlines():
        with contextlib.suppress(ValueError, KeyError, TypeError):
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
    with atomic_file(path) as temporary:
        temporary.write_text("".join(kept), encoding="utf-8")
    return kept
