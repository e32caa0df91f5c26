"""A run small enough to start many times: random shards, a transformer of one narrow layer."""

import os
import subprocess
import sys
from pathlib import Path

from tests.data.synthetic import write_shards

__all__ = ["overrides", "run", "start", "write_shards"]


def overrides(shards: Path, *, steps: int = 12, mesh=(1, 1, 1), **more) -> list[str]:
    """Arguments that make `tiny` minute; `more` are further ones, dots as double underscores."""
    settings = {
        "autoencoder": "", "data.shards": shards, "mesh": ",".join(map(str, mesh)), "transformer.num_layers": 1,
        "transformer.num_heads": 2, "transformer.head_dim": 16, "transformer.time_embed_dim": 16,
        "stages.all.image_size": 32, "stages.all.steps": steps, "stages.all.warmup": 2,
        "stages.all.learning_rate": 1e-3,
        "stages.all.mixture.monocular.weight": 0.0, "stages.all.mixture.static.weight": 0.0,
        "stages.all.mixture.multiview.batch": 8, "stages.all.mixture.multiview.views": 2, "checkpoint.every": 4,
        "metrics.every": 1, "validation.every": 1000000,
    }
    settings.update({name.replace("__", "."): value for name, value in more.items()})
    return [f"--config.{name}={value}" for name, value in settings.items()]


def start(workdir: Path, arguments: list[str], *, devices: int = 1, extra: list[str] = (),
          limits: str = "") -> subprocess.Popen:
    """`mvp4d train --config tiny` in a process of its own, on so many host devices."""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu",
                   "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
    command = [sys.executable, "-m", "mvp4d_jax.cli", "train", "--config", "tiny", "--workdir", str(workdir), *extra,
               *arguments]
    if limits:
        command = ["bash", "-c", f"{limits}; exec \"$@\"", "bash", *command]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def run(workdir: Path, arguments: list[str], **options) -> str:
    """Runs to the end; returns what was printed; fails the test when the run does."""
    process = start(workdir, arguments, **options)
    output, _ = process.communicate(timeout=400)
    assert process.returncode == 0, output[-3000:]
    return output
