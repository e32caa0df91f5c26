"""A run small enough to start many times: random shards, a transformer of one narrow layer, compiled without haste."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
from flax import nnx

from mvp4d_jax import parallel
from mvp4d_jax.models.autoencoder import VideoAutoencoder
from mvp4d_jax.models.checkpoint import save_autoencoder
from mvp4d_jax.models.config import AutoencoderConfig
from mvp4d_jax.models.transformer import MultiViewTransformer
from mvp4d_jax.training.checkpoints import Checkpoints
from mvp4d_jax.training.config import load_config
from mvp4d_jax.training.plan import resolve
from mvp4d_jax.training.state import ModelTemplate, TrainState, abstract_state, make_optimiser
from tests.data.synthetic import write_shards
from tests.small_world import quick_compilation

__all__ = [
    "RECORDED",
    "STEPS",
    "TIMEOUT",
    "final_state",
    "overrides",
    "run",
    "start",
    "write_autoencoder",
    "write_shards",
]

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT = 500
STEPS = 100  # of every run
RECORDED = "tests.training.recorded_train"  # `start(module=RECORDED)` notes the samples of every step


def overrides(shards: Path, *, steps: int = STEPS, mesh=(1, 1, 1), **more) -> list[str]:
    """Arguments that make `tiny` minute; `more` are further ones, dots as double underscores."""
    settings = {
        "curriculum": "all",
        "autoencoder": "none",
        "data.shards": shards,
        "mesh": ",".join(map(str, mesh)),
        "transformer.num_layers": 1,
        "transformer.num_heads": 2,
        "transformer.head_dim": 16,
        "transformer.time_embed_dim": 16,
        "stages.all.image_size": 32,
        "stages.all.steps": steps,
        "stages.all.warmup": 2,
        "stages.all.learning_rate": 1e-3,
        "stages.all.mixture.monocular.weight": 0.0,
        "stages.all.mixture.static.weight": 0.0,
        "stages.all.mixture.multiview.batch": 4,
        "stages.all.mixture.multiview.views": 2,
        "stages.all.mixture.multiview.frames": 3,  # as `write_shards` has them
        "checkpoint.every": 10,
        "metrics.every": 1,
        "validation.every": 1000000,
    }
    settings.update({name.replace("__", "."): value for name, value in more.items()})
    return [f"--config.{name}={value}" for name, value in settings.items()]


def start(
    workdir: Path,
    arguments: list[str],
    *,
    config: str = "tiny",
    devices: int = 1,
    extra: list[str] = (),
    limits: str = "",
    module: str = "mvp4d.cli",
) -> subprocess.Popen:
    """`mvp4d train` in a process of its own, on so many host devices."""
    # LLVM's optimisation is most of a compilation, and these programs run for a second.
    flags = f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0"
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    command = [sys.executable, "-m", module, "train", "--config", config, "--workdir", str(workdir), *extra, *arguments]
    if limits:
        command = ["bash", "-c", f'{limits}; exec "$@"', "bash", *command]
    return subprocess.Popen(
        command, env=environment, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def run(workdir: Path, arguments: list[str], **options) -> str:
    """Runs to the end; returns what was printed; fails the test when the run does."""
    process = start(workdir, arguments, **options)
    output, _ = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 0, output[-3000:]
    return output


def final_state(workdir: Path, arguments: list[str], step: int | None = None) -> tuple[TrainState, dict]:
    """A run's checkpoint (default the newest) as numpy, read on one device, and the position saved with it."""
    plan, mesh = resolve(load_config("tiny", arguments)), parallel.make_mesh((1, 1, 1))
    template = ModelTemplate(lambda rngs: MultiViewTransformer(plan.transformer, rngs=rngs), mesh)
    like = abstract_state(template, make_optimiser(plan.optimiser, template.shapes), mesh)
    state, position = Checkpoints(workdir / "checkpoints", read_only=True).restore(like, step)
    return jax.tree.map(np.asarray, state), position


def write_autoencoder(folder: Path, size: str = "tiny") -> None:
    """A narrow autoencoder of random weights with latent scale 1, which `write_shards` says of its latents."""
    sizes = AutoencoderConfig.named(size)
    widths = (4, *[8] * (len(sizes.block_out_channels) - 1))
    sizes = dataclasses.replace(sizes, block_out_channels=widths, layers_per_block=1, norm_num_groups=4)
    with quick_compilation():
        save_autoencoder(folder, VideoAutoencoder(sizes, rngs=nnx.Rngs(1)), sizes, overwrite=True)
