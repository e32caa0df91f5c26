"""Does the whole training pipeline work: `tiny` learns one capture by heart, and gives it back.

    python benchmarks/overfit.py --out OUT

Films one person of the studio (4 views over 360 degrees, 9 frames of 64 x 64), fits the built-in autoencoder to it (as
it ships its own error is over a third of what the mark below allows), prepares shards, trains `tiny` on its one window
of all views, exports a release, samples the trained views and compares them with the capture. Marks: the loss falls
tenfold; 25 dB PSNR. What is done already is skipped, so that a stopped run goes on. About 20 minutes on one core.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

import mvp4d_jax
from mvp4d import cli
from mvp4d.core.capture import Capture
from mvp4d.core.files import read_json
from mvp4d.core.progress import progress
from mvp4d_jax import parallel
from mvp4d_jax.evaluation.metrics import psnr
from mvp4d_jax.models.autoencoder import VideoAutoencoder
from mvp4d_jax.models.checkpoint import load_autoencoder, save_autoencoder
from mvp4d_jax.training import autoencoder
from mvp4d_jax.training.config import load_config
from mvp4d_jax.training.metrics import read_metrics
from mvp4d_jax.training.state import ModelTemplate, initial_state, with_params

BUILT_IN = Path(mvp4d_jax.__file__).parent / "weights" / "tiny" / "vae"


def fit_autoencoder(capture: Capture, start: Path, out: Path, steps: int, parts: tuple[str, ...]) -> None:
    """An autoencoder's `parts` (encoder, decoder), trained on this capture's clips alone, and the latent scale."""
    config = load_config(
        "tiny_autoencoder",
        [
            f"--config.steps={steps}",
            "--config.warmup=10",
            "--config.clip_every=1",
            "--config.learning_rate=1e-3",
            "--config.ema=0.9",
            "--config.clip_batch=2",
            "--config.recoloured=0.0",
        ],
    )
    model, sizes = load_autoencoder(start)
    mesh = parallel.make_mesh((1, 1, 1))
    template = ModelTemplate(lambda rngs: VideoAutoencoder(sizes, rngs=rngs), mesh)
    optimiser = optax.partition(
        {True: autoencoder._optimiser(config), False: optax.set_to_zero()},
        {part: part in parts for part in template.shapes},
    )
    state = with_params(initial_state(template, optimiser, mesh, 0), template.params_of(model))
    step = jax.jit(autoencoder.make_step(template, optimiser, config), donate_argnums=0)
    clips = np.stack([capture.frames(view) for view in capture.names])  # [V, F, H, W, 3] uint8
    batches = autoencoder.ClipBatches(clips, config)
    for index in progress(range(steps), what=f"fitting {' and '.join(parts)}", unit="step"):
        state, _ = step(state, batches[index])
    fitted = template.model(state.ema)
    latents = jnp.split(fitted.encode(jnp.asarray(clips / 127.5 - 1, jnp.float32)), 2, axis=-1)[0]
    sizes = dataclasses.replace(sizes, scaling_factor=round(float(1 / latents.std()), 5))
    save_autoencoder(out, fitted, sizes)


def reconstruction(capture: Capture, folder: Path) -> float:
    """Mean PSNR in dB of the capture's clips through an autoencoder: no sample can be better."""
    model, _ = load_autoencoder(folder)
    clips = np.stack([capture.frames(view) for view in capture.names])
    video = model.decode_latents(model.encode_latents(jnp.asarray(clips / 127.5 - 1, jnp.float32)))
    return float(psnr((np.clip(np.asarray(video), -1, 1) + 1) / 2, clips / 255.0).mean())


def command(*arguments: object) -> None:
    code = cli.main([str(argument) for argument in arguments])
    if code:
        sys.exit(code)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--identity", type=int, default=3)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--autoencoder-steps", type=int, default=200, help="of encoder and decoder together (200)")
    parser.add_argument("--decoder-steps", type=int, default=300, help="of the decoder alone, after that (300)")
    args = parser.parse_args()
    truth, vae, shards, run = (args.out / name for name in ("truth", "vae", "shards", "run"))
    if not truth.exists():
        command(
            "studio",
            "--identity",
            args.identity,
            "--cameras",
            "orbit:360x4",
            "--frames",
            9,
            "--size",
            64,
            "--out",
            truth,
        )
    capture = Capture.open(truth)
    if not vae.exists():
        both = args.out / "vae-both"
        if not both.exists():
            fit_autoencoder(capture, BUILT_IN, both, args.autoencoder_steps, ("encoder", "decoder"))
        fit_autoencoder(capture, both, vae, args.decoder_steps, ("decoder",))
    config = ["--config", "tiny", f"--config.autoencoder={vae}", "--config.prepare.colours=1"]
    if not (shards / "manifest.json").exists():
        command("prepare", truth, *config, "--out", shards)
    training = [
        f"--config.{name}={value}"
        for name, value in {
            "curriculum": "all",
            "data.shards": shards,
            "stages.all.steps": args.steps,
            "stages.all.decay": "cosine",
            "metrics.every": 10,
            "stages.all.mixture.monocular.weight": 0.0,
            "stages.all.mixture.static.weight": 0.0,
            "stages.all.mixture.multiview.batch": 4,
            "sampling.condition_dropout": 0.0,
            "sampling.clean_prefix": 0.0,
            "sampling.clean_views": 0.0,
            "checkpoint.every": 100,
        }.items()
    ]
    command("train", *config, *training, "--workdir", run)
    command("train", *config, *training, "--workdir", run, "--export", args.out / "release")
    command(
        "sample",
        "--weights",
        args.out / "release",
        "--reference",
        truth,
        "--motion",
        truth,
        "--cameras",
        truth,
        "--guidance",
        1,
        "--out",
        args.out / "sample",
        "--overwrite",
    )
    command("evaluate", args.out / "sample", "--against", truth)

    losses, waits, seconds = (
        np.array([line[name] for line in read_metrics(run)]) for name in ("loss", "data_wait", "seconds_per_step")
    )
    first, last = losses[0], losses[-5:].mean()
    score = read_json(args.out / "sample" / "evaluation.json")["mean"]["psnr"]
    print(
        f"autoencoder on the capture: {reconstruction(capture, BUILT_IN):.2f} dB as it ships, "
        f"{reconstruction(capture, vae):.2f} dB fitted"
    )
    print(f"loss {first:.3f} in the first ten steps, {last:.4f} in the last fifty: {first / last:.1f} times less")
    print(f"{np.median(seconds):.2f} s a step, data wait {100 * waits[1:].mean():.2f} %")
    print(f"sample at the trained views: {score:.2f} dB PSNR")


if __name__ == "__main__":
    main()
