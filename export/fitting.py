"""A fit from its first step to the avatar folder: progress, checkpoints, TensorBoard, scores, report."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mvp4d.core.capture import Capture
from mvp4d.core.capture.portrait import read_portrait
from mvp4d.core.errors import UserError
from mvp4d.core.files import atomic_folder, write_json
from mvp4d.core.lock import hold
from mvp4d.core.outputs import check_folder, drop_work_folder, mark_finishing, was_finishing, work_folder
from mvp4d.core.owner import sweep
from mvp4d.core.places import absolute, beside
from mvp4d.core.progress import progress, say
from mvp4d.core.room import require_space
from mvp4d.core.stopping import unbroken
from mvp4d_export.dataset import Dataset
from mvp4d_export.device import guard_memory, pick_device
from mvp4d_export.distill import Distiller
from mvp4d_export.fit_checkpoint import fingerprint, load_checkpoint, save_checkpoint
from mvp4d_export.fit_score import score
from mvp4d_export.losses import Lpips
from mvp4d_export.photos import Photos
from mvp4d_export.presets import DistillConfig, adapted, changed, preset, with_photos

if TYPE_CHECKING:
    from tensorboardX import SummaryWriter

WORK = "distill run"
LAID = 14_000  # Gaussians of two ears and two eyes at most, beside the budget


def fit_avatar(
    capture: Capture,
    out: Path,
    *,
    preset_name: str | None = None,
    seed: int = 0,
    device: str | None = None,
    hold_views: int = 0,
    hold_times: int = 0,
    lpips: str | os.PathLike | None = None,
    colour_correction: bool = False,
    photos: bool = True,
    overwrite: bool = False,
    **changes: Any,
) -> dict[str, Any]:
    """Fits an avatar to a capture and writes its folder. Everything cheap is checked first.

    Args:
      preset_name: "cpu", "low", "default" or "high"; None for "default" with CUDA, else "cpu".
      device: "cpu" or "cuda"; None for CUDA where there is one.
      hold_views, hold_times: left out of the fit and scored.
      lpips: safetensors with VGG-16 and LPIPS weights.
      colour_correction: learn a colour transform per view.
      photos: fit the photos that the capture keeps, beside its views.
      changes: to the preset (`presets.changed`).

    Returns:
      The report that is also written to `out`/report.json.
    """
    check_folder(out, "avatar", overwrite or was_finishing(beside(out, ".run"), WORK) is not None)
    device = pick_device(device)
    name = preset_name or ("default" if device == "cuda" else "cpu")
    portrait = read_portrait(capture.path, capture.head) if photos else None
    config = adapted(preset(name), capture.image_size)
    config = changed(config if portrait is None else with_photos(config), **changes)
    require_space(out, _estimate(config), "fitting an avatar")
    weights = Lpips(lpips) if lpips else None
    with guard_memory("a smaller `preset` or `views_per_step`, or `device` cpu"):
        data = Dataset.load(capture, hold_views=hold_views, hold_times=hold_times, device=device)
        pictures = None if portrait is None else Photos.load(portrait, config.photos.side, device)
        if weights is None:
            say(f"perceptual term: {perceptual_term(config, False)}")
        fit = Distiller(data, config, seed=seed, lpips=weights, colour_correction=colour_correction, photos=pictures)
        say(describe(fit, name))
        with hold(out):
            return distill(fit, out, overwrite=overwrite)


def _estimate(config: DistillConfig) -> float:
    """Bytes of the avatar, and of a checkpoint (parameters and two moments) twice, while one replaces the other."""
    values = (config.max_gaussians + config.photos.strands + LAID) * (11 + 3 * config.avatar.harmonic_count)
    return 4 * values * 7 + 2e7


def describe(fit: Distiller, name: str) -> str:
    """One line: what is about to be fitted to what."""
    data, config = fit.data, fit.config
    sides = [] if fit.photos is None else [picture.side for picture in fit.photos.photos.pictures]
    photos = "".join(f" and a photo of {side} x {side}" for side in sides)
    return (
        f"fitting {fit.avatar.gaussian_count} Gaussians ({fit.on_hull} off the rig) to {len(data.train_views)} views x "
        f"{len(data.train_frames)} frames of {data.size[1]} x {data.size[0]}{photos}: {config.steps} steps, "
        f"preset {name}, {fit.device}"
    )


def distill(fit: Distiller, out: Path, *, overwrite: bool = False) -> dict:
    """Runs a fit to its end, scores it and writes the avatar folder; a stopped run goes on where it was.

    While it runs, `OUT.run/` holds the checkpoint and the TensorBoard log, which moves into the avatar at the end.

    Returns:
      the report that is also written to `OUT/report.json`.
    """
    out = absolute(out)
    work = work_folder(beside(out, ".run"), WORK)
    sweep(work)
    overwrite = overwrite or was_finishing(work, WORK) == fingerprint(fit)
    check_folder(out, "avatar", overwrite)
    resumed = load_checkpoint(fit, work)
    if not resumed:
        shutil.rmtree(work / "tensorboard", ignore_errors=True)
    from tensorboardX import SummaryWriter

    writer = SummaryWriter(str(work / "tensorboard"), purge_step=fit.step_done if resumed else None)
    started = time.monotonic()
    between = False
    try:
        _take_steps(fit, work, writer)
        with unbroken():
            if not fit.finished:
                with contextlib.suppress(UserError, OSError):
                    save_checkpoint(fit, work)
            between = True  # a fit that is finished in part cannot go on: what is done would be done to it again
            fit.finish()
            between = False
        scores = score(fit)
        for name, values in scores.items():
            writer.add_scalar(f"{name}/psnr", values["psnr"], fit.step_done)
    except (KeyboardInterrupt, torch.OutOfMemoryError):
        if not between:
            save_checkpoint(fit, work)
        raise
    finally:
        writer.close()
    report = _report(fit, scores, time.monotonic() - started, resumed)
    try:
        _write(fit, out, work, report, overwrite)
    except BaseException:
        with contextlib.suppress(UserError, OSError):  # a full disk, perhaps
            save_checkpoint(fit, work)
        raise
    drop_work_folder(work, WORK)
    return report


def _take_steps(fit: Distiller, work: Path, writer: SummaryWriter) -> None:
    """The steps that are left, logged, with a checkpoint every so often."""
    saved = time.monotonic()
    with progress(total=fit.config.steps, what="distilling", unit="step") as bar:
        bar.update(fit.step_done)
        while fit.step_done < fit.config.steps:
            with unbroken():  # the checkpoint of a stopped run holds whole steps
                numbers = fit.train_step()
            bar.set_postfix(
                loss=f"{numbers['loss']:.4f}",
                psnr=f"{numbers['psnr']:.2f}",
                gaussians=numbers["gaussians"],
                refresh=False,
            )
            bar.update(1)
            if fit.step_done % 10 == 0:
                for name, value in numbers.items():
                    writer.add_scalar(name, value, fit.step_done)
            if time.monotonic() - saved > fit.config.checkpoint_seconds:
                save_checkpoint(fit, work)
                saved = time.monotonic()


def _report(fit: Distiller, scores: dict, seconds: float, resumed: bool) -> dict:
    names = fit.data.capture.names
    return {
        "scores": scores,
        "held_views": [names[view] for view in fit.data.held_views],
        "held_times": fit.data.held_frames,
        "gaussians": fit.avatar.gaussian_count,
        "steps": fit.config.steps,
        "seconds": round(seconds, 1),
        "resumed": resumed,
        "seed": fit.seed,
        "photos": 0 if fit.photos is None else len(fit.photos.photos),
        "perceptual": perceptual_term(fit.config, fit.lpips is not None),
        "device": str(fit.device),
        "config": dataclasses.asdict(fit.config),
    }


def perceptual_term(config: DistillConfig, lpips: bool) -> str:
    """What stands for a person's eye in the loss, and why."""
    if lpips:
        return "lpips-vgg"
    if config.perceptual_fallback:
        return "multi-scale ssim (no VGG weights were given)"
    return "none (no VGG weights were given, and this preset takes nothing in their place)"


def _write(fit: Distiller, out: Path, work: Path, report: dict, overwrite: bool) -> None:
    capture = fit.data.capture
    mark_finishing(work, WORK, fingerprint(fit))
    with atomic_folder(out, overwrite=overwrite, kind="avatar") as folder:
        fit.avatar.write(
            folder,
            {
                "fps": capture.fps,
                "source": capture.info.source,
                "image_size": list(capture.image_size),
                "background": fit.data.background.tolist(),
            },
        )
        write_json(folder / "report.json", report)
        for name in ("motion.npz", "cameras.npz"):
            shutil.copyfile(capture.path / name, folder / name)
        (folder / "tensorboard").mkdir()
        for path in sorted((work / "tensorboard").iterdir()):  # events.out.tfevents.TIME.HOST: not whose machine it was
            shutil.copyfile(path, folder / "tensorboard" / ".".join([*path.name.split(".")[:4], "mvp4d"]))
