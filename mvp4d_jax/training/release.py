"""A checkpoint's moving average as a release: `transformer/`, `vae/`, and `mvp4d.json`: what they were trained for."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import jax
import ml_collections

from mvp4d.core.cameras.crops import MARGIN
from mvp4d.core.errors import UserError
from mvp4d.core.files import atomic_folder, read_json, write_json
from mvp4d.core.outputs import check_folder, mark_folder
from mvp4d_jax import parallel
from mvp4d_jax.models.checkpoint import save_transformer
from mvp4d_jax.models.transformer import MultiViewTransformer
from mvp4d_jax.training.checkpoints import Checkpoints
from mvp4d_jax.training.config import save_config
from mvp4d_jax.training.plan import autoencoder_folder, resolve
from mvp4d_jax.training.state import ModelTemplate

FACTS = "mvp4d.json"


def export_release(
    config: ml_collections.ConfigDict,
    workdir: Path,
    out: Path,
    step: int | str = "latest",
    dtype: str = "float16",
    overwrite: bool = False,
) -> str:
    """Writes a release folder from the moving average, which goes through the memory of the host alone.

    A folder that holds nothing but the `vae` that the config names is filled up.

    Args:
      config: what the checkpoint was trained with.
      workdir: of the run.
      out: the folder to write.
      step: "latest", "best" (lowest validation loss) or a number.
      dtype: of the transformer's file.
      overwrite: replace a release that is there, as a whole.

    Returns:
      One line that says what is there.

    Raises:
      UserError: no such checkpoint, one of another model, no autoencoder, a folder in the way.
    """
    plan, mesh = resolve(config), parallel.make_mesh((1, 1, 1), jax.local_devices()[:1])
    vae = autoencoder_folder(config)
    if vae is None:
        raise UserError("config.autoencoder", "names no folder", "a release holds its autoencoder, too")
    if out.is_dir() and [path.name for path in out.iterdir()] == ["vae"] and (out / "vae").samefile(vae):
        mark_folder(out, "release")
        overwrite = True
    check_folder(out, "release", overwrite)
    checkpoints = Checkpoints(workdir / "checkpoints", read_only=True, alone=True)
    number = {"latest": checkpoints.latest, "best": checkpoints.best}[step]() if isinstance(step, str) else step
    template = ModelTemplate(lambda rngs: MultiViewTransformer(plan.transformer, rngs=rngs), mesh)
    average, position = checkpoints.restore_average(template.shapes, number)
    last = plan.stages[-1]
    widest = max(last.used, key=lambda modality: modality.views * modality.latents)
    facts = {
        "head": config.head,
        "image_size": last.image_size,
        "views": widest.views,
        "frames": plan.autoencoder.frames_of(widest.latents),
        "snr_shift": plan.for_stage(last).loss.snr_shift,
        "crop_margin": MARGIN,
        "latent_scale": read_json(vae / "config.json")["scaling_factor"],
        "conditioning": plan.conditioning.record,
        "dtype": plan.transformer.dtype,
        "training": {
            "step": position["step"],
            "hours": round(position["seconds"] / 3600, 2),
            "weights": "EMA",
            "config": _without_folders(save_config(config)),
        },
    }
    sampler: dict[str, Any] = {}
    if plan.distill.steps:
        sampler |= {"method": "ddim", "steps": plan.distill.steps, "guidance": 1.0, "distilled": True}
    if plan.conditioning.painted:  # a model that has to be shown the photo's details does not draw them whole, or alike
        sampler |= {"photo_detail": True, "temporal_filter": True, "hair_colour": True}
        sampler["anchors"] = 0  # such a model does not gain by them, and 8 views in groups of 4 cost a third less
    if sampler:
        facts["sampler"] = sampler
    with atomic_folder(out, overwrite=overwrite, kind="release") as temporary:
        shutil.copytree(vae, temporary / "vae")
        save_transformer(temporary / "transformer", template.model(average), plan.transformer, dtype=dtype)
        write_json(temporary / FACTS, facts)
        size = sum(file.stat().st_size for file in temporary.rglob("*") if file.is_file()) / 1e6
    why = ", the newest: no validation loss was measured" if step == "best" and not checkpoints.measured else ""
    return f"step {position['step']}{why} ({facts['training']['hours']} h), {size:.1f} MB: {out}"


def _without_folders(value: Any) -> Any:
    """A config's values with absolute paths cut to their names: a release does not tell where things lay here."""
    if isinstance(value, dict):
        return {key: _without_folders(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_folders(item) for item in value]
    return Path(value).name if isinstance(value, str) and value.startswith(("/", "~")) else value
