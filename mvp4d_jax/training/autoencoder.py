"""Trains a video autoencoder on captures: single images and short clips by turns, no discriminator.

The paper keeps CogVideoX's pretrained autoencoder frozen; this job is for sizes that have no pretrained weights. Loss:
L1, L1 of image gradients and of differences between frames at three scales (against blur in space and in time), squared
error (rare colours and small features, which a median leaves out, are learned early), and a small KL that keeps the
latent near unit variance.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from mvp4d.core.capture import Capture
from mvp4d.core.errors import UserError
from mvp4d.core.outputs import check_folder
from mvp4d.core.progress import progress
from mvp4d_jax import parallel
from mvp4d_jax.data.pipeline import iterate
from mvp4d_jax.evaluation.metrics import psnr
from mvp4d_jax.latent_frames import latent_count
from mvp4d_jax.models.autoencoder import VideoAutoencoder
from mvp4d_jax.models.checkpoint import KIND, load_autoencoder, save_autoencoder
from mvp4d_jax.models.config import AutoencoderConfig
from mvp4d_jax.small.recolour import draw_palettes
from mvp4d_jax.training.checkpoints import Checkpoints
from mvp4d_jax.training.config import record_config, saved_configs
from mvp4d_jax.training.metrics import MetricsLog
from mvp4d_jax.training.state import ModelTemplate, TrainState, abstract_state, initial_state, with_params
from mvp4d_jax.training.stop import Interrupted, StopSignal

Array = Any
SCALES = 3  # of the loss: full, half and quarter size; what is left is halved once more


def train_autoencoder(config: ConfigDict, workdir: Path) -> str:
    """Trains from wherever the workdir stands; returns the closing line.

    Raises:
      UserError: steps that are all warm-up, no captures or such as do not fit (`open_captures`), initial weights that
        cannot be read or are of another size, or a loss that is not finite.
      Interrupted: SIGTERM came; the state is saved.
    """
    optimiser, saved = _optimiser(config), saved_configs(workdir)
    clips, held_out = load_clips(config)
    workdir.mkdir(parents=True, exist_ok=True)
    if jax.process_index() == 0:
        record_config(config, workdir, saved)
    mesh = parallel.make_mesh((-1, 1, 1))
    template = _template(config, mesh)
    checkpoints = Checkpoints(workdir / "checkpoints", keep_last=2)
    if checkpoints.latest() is None:
        state = initial_state(template, optimiser, mesh, config.seed)
        if config.initial:
            state = with_params(state, template.params_of(load_autoencoder(config.initial)[0]))
    else:
        state, _ = checkpoints.restore(abstract_state(template, optimiser, mesh))
    step = jax.jit(make_step(template, optimiser, config), donate_argnums=0)
    reconstruct = jax.jit(
        lambda params, video: template.model(params).decode(
            jnp.split(template.model(params).encode(video), 2, axis=-1)[0]
        )
    )
    first = int(state.step)
    metrics, stop = MetricsLog(workdir, first), StopSignal(first)
    stream = iterate(ClipBatches(clips, config), first, threads=config.data.threads, buffer=config.data.buffer)
    with (
        contextlib.closing(stream),
        contextlib.closing(metrics),
        contextlib.closing(stop),
        parallel.use_mesh(mesh),
        progress(total=config.steps - first, what="training", unit="step") as bar,
    ):
        for done, video in enumerate(stream, first + 1):
            state, values = step(state, video)
            if done % config.every.metrics == 0:
                values = {name: float(value) for name, value in values.items()}
                if not np.isfinite(values["loss"]):
                    raise UserError(workdir, f"the loss is not finite at step {done}", "lower config.learning_rate")
                bar.set_postfix_str(f"loss {values['loss']:.4f}")
                metrics.write(done, values)
            if done % config.every.validation == 0 or done == config.steps:
                metrics.write(done, validate(reconstruct, state.ema, held_out, config))
            asked = stop.asked(done)
            if asked or done % config.every.checkpoint == 0 or done == config.steps:
                checkpoints.save(done, state, {})
            bar.update()
            if asked and done < config.steps:
                checkpoints.close()
                raise Interrupted(f"stopped at step {done} and saved; run the same command again: {workdir}")
    checkpoints.close()
    return f"{config.steps} steps: {workdir}; next: add --export vae to this command"


def export_autoencoder(
    config: ConfigDict, workdir: Path, out: Path, step: int | str = "latest", *, overwrite: bool = False
) -> str:
    """Writes a checkpoint's moving average as a diffusers folder, its latents scaled to unit variance.

    Args:
      step: "latest" or a number; of "best" nothing is known, because a checkpoint keeps no measure of its own.

    Returns:
      The closing line, with what was measured on held-out captures, which alone are read.

    Raises:
      UserError: no such checkpoint, captures as in training, something in the way of `out`.
    """
    if step == "best":
        raise UserError(
            "`step`",
            "'best' is not known of an autoencoder, whose checkpoints are not measured",
            "give latest, or a step whose PSNR in metrics.jsonl you like",
        )
    check_folder(out, KIND, overwrite)
    mesh = parallel.make_mesh((-1, 1, 1), jax.local_devices())
    template, optimiser = _template(config, mesh), _optimiser(config)
    state, _ = Checkpoints(workdir / "checkpoints", read_only=True, alone=True).restore(
        abstract_state(template, optimiser, mesh), None if isinstance(step, str) else step
    )
    captures = open_captures(config)
    held_out = _read(captures[: config.data.held_out], min(capture.frame_count for capture in captures))
    model = template.model(state.ema)
    latents = np.asarray(jnp.split(model.encode(jnp.asarray(_to_float(held_out[:, :9]))), 2, axis=-1)[0])
    scale = float(1 / latents.std())
    sizes = dataclasses.replace(AutoencoderConfig.named(config.size), scaling_factor=round(scale, 5))
    reconstruct = jax.jit(
        lambda params, video: template.model(params).decode(
            jnp.split(template.model(params).encode(video), 2, axis=-1)[0]
        )
    )
    scores = validate(reconstruct, state.ema, held_out, config)
    save_autoencoder(out, model, sizes, dtype="float16", overwrite=overwrite)
    return (
        f"step {int(state.step)}: {out}; held-out PSNR {scores['validation_psnr_image']:.2f} dB (images), "
        f"{scores['validation_psnr_clip']:.2f} dB (clips), latent scale {sizes.scaling_factor}"
    )


def load_clips(config: ConfigDict) -> tuple[np.ndarray, np.ndarray]:
    """Every view of every capture of the folder: uint8 [N, F, H, W, 3] to train on, and the same held out."""
    captures = open_captures(config)
    # The first ones, so that they stay the same where captures are added between two runs.
    held_out, frames = config.data.held_out, min(capture.frame_count for capture in captures)
    return _read(captures[held_out:], frames), _read(captures[:held_out], frames)


def open_captures(config: ConfigDict) -> list[Capture]:
    """The captures of the folder, in order, held to the job's sizes; no picture is read.

    Raises:
      UserError: no folder or too few captures, one of fewer frames than a clip, or of pictures that are of another size
        than the others' or cannot be halved as often as model and loss do.
    """
    if not config.data.captures:
        raise UserError("config.data.captures", "names no folder", "give --config.data.captures=FOLDER")
    folder = Path(config.data.captures)
    paths = sorted(path.parent for path in folder.glob("*/capture.json"))
    if len(paths) <= config.data.held_out:
        raise UserError(
            "config.data.captures",
            f"'{folder}' holds {len(paths)} captures",
            f"make more than {config.data.held_out} with `mvp4d studio --identities`",
        )
    model = AutoencoderConfig.named(config.size)
    latent_count(config.clip_frames, model.temporal_compression_ratio, "config.clip_frames")
    captures = [Capture.open(path) for path in paths]
    multiple = math.lcm(2**SCALES, model.spatial_compression_ratio)
    for capture in captures:
        if capture.image_size != captures[0].image_size:
            raise UserError(capture.path, f"pictures are {capture.image_size}, others {captures[0].image_size}")
        if any(side % multiple for side in capture.image_size):
            height, width = capture.image_size
            raise UserError(
                capture.path,
                f"pictures are {width} x {height}",
                f"take captures whose sides are multiples of {multiple} (`mvp4d studio --size`)",
            )
        if capture.frame_count < config.clip_frames:
            raise UserError(
                capture.path,
                f"has {capture.frame_count} frames, config.clip_frames is {config.clip_frames}",
                "leave it out of the folder, or give a smaller --config.clip_frames",
            )
    return captures


def _read(captures: list[Capture], frames: int) -> np.ndarray:
    """uint8 [N, F, H, W, 3]: the first frames of every view."""
    clips = [
        capture.frames(view, slice(frames))
        for capture in progress(captures, what="reading captures", unit="capture")
        for view in range(capture.view_count)
    ]
    return np.stack(clips)


@dataclasses.dataclass(frozen=True)
class ClipBatches:
    """Random access to batches: `batches[n]` is step n's, a function of (seed, n): images, at every `clip_every`-th
    clips, [B, F, H, W, 3] in [-1, 1].

    Attributes:
      clips: uint8 [N, F', H, W, 3] to cut them from.
      config: of the job.
    """

    clips: np.ndarray
    config: ConfigDict

    def __len__(self) -> int:
        return self.config.steps

    def __getitem__(self, index: int) -> np.ndarray:
        clips, config = self.clips, self.config
        random = np.random.default_rng([config.seed, index])
        frames, size = 1, config.image_batch
        if (index + 1) % config.clip_every == 0:
            frames, size = config.clip_frames, config.clip_batch
        video = np.empty((size, frames, *clips.shape[2:]), np.float32)
        for place in range(size):
            start = random.integers(clips.shape[1] - frames + 1)
            pictures = clips[random.integers(len(clips)), start : start + frames]
            if random.random() < config.recoloured:
                pictures = _recoloured(pictures, random)
            video[place] = _to_float(pictures)
        flipped = random.random(size) < 0.5
        video[flipped] = video[flipped, :, :, ::-1]
        return video


def _recoloured(pictures: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """[F, H, W, 3]: half of them as `prepare` recolours them for the transformer, half with their channels exchanged:
    skin and hair lie on one line from orange to blue, so that without this green is not learned.
    """
    if random.random() < 0.5:
        return draw_palettes(2, random)[1].apply(pictures)
    return pictures[..., random.permutation(3)]


def reconstruction_loss(video: Array, target: Array, gradient: float, motion: float, square: float) -> Array:
    """Weighted errors of video against target [B, F, H, W, 3].

    Mean absolute error, plus `square` x mean squared error, plus at full, half and quarter size the mean absolute error
    of differences: `gradient` x horizontal and vertical ones, `motion` x those from frame to frame.
    """
    loss = jnp.mean(jnp.abs(video - target)) + square * jnp.mean(jnp.square(video - target))
    weights = {2: gradient, 3: gradient} | ({1: motion} if video.shape[1] > 1 else {})
    for _ in range(SCALES):
        for axis, weight in weights.items():
            loss += weight / SCALES * jnp.mean(jnp.abs(jnp.diff(video, axis=axis) - jnp.diff(target, axis=axis)))
        video, target = _halve(video), _halve(target)
    return loss


def make_step(template: ModelTemplate, optimiser: optax.GradientTransformation, config: ConfigDict) -> Any:
    """The function to jit: (state, video [B, F, H, W, 3]) -> (state, metrics)."""

    def loss_of(params: Any, video: Array, key: Array) -> tuple[Array, Array]:
        model = template.model(params)
        mean, log_variance = jnp.split(model.encode(video), 2, axis=-1)
        log_variance = jnp.clip(log_variance, -30.0, 20.0)
        latents = mean + jnp.exp(0.5 * log_variance) * jax.random.normal(key, mean.shape)
        error = reconstruction_loss(
            model.decode(latents), video, config.loss.gradient, config.loss.motion, config.loss.square
        )
        kl = 0.5 * jnp.mean(jnp.square(mean) + jnp.exp(log_variance) - 1 - log_variance)
        return error + config.loss.kl * kl, jnp.std(mean)

    def step(state: TrainState, video: Array) -> tuple[TrainState, dict[str, Array]]:
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
        (loss, spread), gradient = jax.value_and_grad(loss_of, has_aux=True)(state.params, video, key)
        updates, moments = optimiser.update(gradient, state.moments, state.params)
        params = optax.apply_updates(state.params, updates)
        taken = state.step.astype(jnp.float32)
        decay = jnp.minimum(config.ema, (1 + taken) / (10 + taken))
        ema = jax.tree.map(lambda e, p: e + (1 - decay) * (p - e), state.ema, params)
        kind = jnp.float32(video.shape[1] > 1)
        values = {"loss": loss, "gradient_norm": optax.global_norm(gradient), "latent_std": spread, "clip": kind}
        return TrainState(state.step + 1, state.key, params, ema, moments), values

    return step


def validate(reconstruct: Any, params: Any, held_out: np.ndarray, config: ConfigDict) -> dict[str, float]:
    """Mean PSNR in dB of held-out single images and clips (reconstructed from the posterior's mean)."""
    scores = {}
    for name, frames in (("image", 1), ("clip", config.clip_frames)):
        count = min(len(held_out), 24 if frames == 1 else 8)
        video = held_out[np.linspace(0, len(held_out) - 1, count).astype(int), :frames]
        output = np.clip(np.asarray(reconstruct(params, jnp.asarray(_to_float(video)))), -1, 1)
        scores[f"validation_psnr_{name}"] = float(psnr((output + 1) / 2, video / 255.0).mean())
    return scores


def _template(config: ConfigDict, mesh: jax.sharding.Mesh) -> ModelTemplate:
    return ModelTemplate(lambda rngs: VideoAutoencoder(AutoencoderConfig.named(config.size), rngs=rngs), mesh)


def _optimiser(config: ConfigDict) -> optax.GradientTransformation:
    if config.steps <= config.warmup:
        raise UserError(
            "config.steps",
            f"is {config.steps}, the warm-up takes {config.warmup}",
            "choose more steps, or a shorter config.warmup",
        )
    rate = optax.warmup_cosine_decay_schedule(
        0.0, config.learning_rate, config.warmup, config.steps, config.learning_rate / 20
    )
    return optax.chain(optax.clip_by_global_norm(config.clip), optax.adam(rate, b1=0.9, b2=0.99))


def _halve(video: Array) -> Array:
    batch, frames, height, width, channels = video.shape
    return video.reshape(batch, frames, height // 2, 2, width // 2, 2, channels).mean((3, 5))


def _to_float(video: np.ndarray) -> np.ndarray:
    return video.astype(np.float32) / 127.5 - 1
