"""Whole folders of weights: from diffusers' layout to ours and back, and checked.

See `checkpoint` for the layouts.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np

from mvp4d.core.errors import UserError
from mvp4d.core.files import atomic_folder, read_json
from mvp4d_jax.models.checkpoint import SHARD_BYTES, adapt
from mvp4d_jax.models.checkpoint_config import Config, read_config, to_json
from mvp4d_jax.models.checkpoint_files import DTYPES, open_weights, write_weights
from mvp4d_jax.models.transformer_config import TransformerConfig


def components(folder: Path) -> dict[str, Path]:
    """{"vae": path, "transformer": path} of a release or pipeline folder; {"": folder} of a model's own folder.

    Raises:
      UserError: neither.
    """
    if not folder.is_dir():
        raise UserError(folder, "no such folder", "give a diffusers folder (config.json, or vae/ and transformer/)")
    if (folder / "config.json").is_file():
        return {"": folder}
    found = {name: folder / name for name in ("vae", "transformer") if (folder / name / "config.json").is_file()}
    if not found:
        raise UserError(folder, "holds no model (config.json, or vae/ and transformer/)", "give a diffusers folder")
    return found


def convert(
    source: Path | str,
    destination: Path | str,
    *,
    conditioning_channels: int | None = None,
    prompt: np.ndarray | None = None,
    dtype: str | None = None,
    shard_bytes: int = SHARD_BYTES,
    overwrite: bool = False,
) -> str:
    """Diffusers checkpoint to ours, or ours to diffusers: checks every tensor and writes it anew, one at a time.

    The layout on disk is the same, so tensors keep their bytes (unless `dtype` asks otherwise); what is converted is
    the set of tensors. A plain CogVideoX transformer gains the zero-initialised conditioning projection, a multi-view
    one loses it. Other parts of a pipeline folder (text encoder, tokenizer, scheduler) are not ours and not copied.

    Args:
      source: a model folder, or one that holds `vae/` and `transformer/`.
      destination: a new folder.
      conditioning_channels: of the transformer that is written; 0: plain CogVideoX. Default: 56 for a plain source, 0
        for a multi-view one.
      prompt: [T, text_dim] embeddings of the empty prompt, which the transformer is to hold (not for diffusers).
      dtype: "float32", "float16", "bfloat16"; None keeps each tensor's own.

    Returns:
      What was written, in one line.

    Raises:
      UserError: anything that `load_*` would refuse; `destination` exists.
    """
    source, destination = Path(source), Path(destination)
    names = {str(kind): code for code, kind in DTYPES.items()}
    if dtype is not None and dtype not in names:
        raise UserError("dtype", f"'{dtype}' is not one of {', '.join(names)}")
    jobs = []
    for name, folder in components(source).items():
        own, value = read_config(folder)
        target = own
        if isinstance(own, TransformerConfig):
            target = _converted(own, conditioning_channels, prompt)
        jobs.append((name, to_json(target, value), adapt(open_weights(folder), own, target, prompt)))
    said = []
    with atomic_folder(destination, overwrite=overwrite, kind="folder of weights") as temporary:
        for name, value, tensors in jobs:
            folder = temporary / name
            folder.mkdir(exist_ok=True)
            (folder / "config.json").write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
            codes = {key: names[dtype] if dtype else code for key, (code, _) in tensors.facts.items()}

            def read(key: str, tensors=tensors, codes=codes) -> np.ndarray:
                return tensors.read(key).astype(DTYPES[codes[key]], copy=False)

            write_weights(
                folder,
                [(key, codes[key], shape) for key, (_, shape) in tensors.facts.items()],
                read,
                shard_bytes=shard_bytes,
            )
            said.append(f"{value['_class_name']} of {len(codes)} tensors")
    return f"{destination}: {' and '.join(said)}"


def _converted(own: TransformerConfig, channels: int | None, prompt: np.ndarray | None) -> TransformerConfig:
    """The config that `convert` writes for one that it reads."""
    if channels is None:
        channels = 0 if own.conditioning_channels else TransformerConfig().conditioning_channels
    if prompt is not None:
        if not channels or not own.text_dim:
            raise UserError("`prompt`", "is for a multi-view model with a text stream", "leave it out")
        if prompt.ndim != 2 or prompt.shape[1] != own.text_dim:
            raise UserError("`prompt`", f"holds an array {prompt.shape}", f"the text stream takes [T, {own.text_dim}]")
    if not channels and (own.skip_width or own.detail_width):
        raise UserError(
            "`conditioning_channels`",
            "is 0, but this model has paths past its layers (skip_width, detail_width), which plain CogVideoX lacks",
            "keep its conditioning, or convert a model without them",
        )
    tokens = own.prompt_tokens if prompt is None else len(prompt)
    return dataclasses.replace(own, conditioning_channels=channels, prompt_tokens=tokens if channels else 0)


def validate_weights(folder: Path | str) -> str:
    """Reads every tensor of a model folder, or of a release with `vae/` and `transformer/`; one line says what it is.

    Raises:
      UserError: a file is missing or damaged, tensors that do not fit, NaN, a release of parts that do not fit.
    """
    folder = Path(folder)
    said, configs = [], {}
    for name, path in components(folder).items():
        config, value = read_config(path)
        tensors = adapt(open_weights(path), config, config)
        count = sum(tensors.read(key).size for key in tensors.facts)
        said.append(f"{value['_class_name']}, {len(tensors.facts)} tensors, {count:,} parameters")
        configs[name] = config
    _check_release(folder, configs)
    return f"{folder}: {'; '.join(said)}"


def _check_release(folder: Path, configs: dict[str, Config]) -> None:
    if {"vae", "transformer"} <= configs.keys() and configs["vae"].latent_channels != configs[
        "transformer"
    ].latent_channels:
        raise UserError(
            folder,
            f"its autoencoder has {configs['vae'].latent_channels} latent channels, its "
            f"transformer {configs['transformer'].latent_channels}",
            "take both from one release",
        )
    facts = folder / "mvp4d.json"
    if not facts.is_file():
        return
    value = read_json(facts)
    scale = value.get("latent_scale") if isinstance(value, dict) else None
    own = getattr(configs.get("vae"), "scaling_factor", scale)
    if scale is not None and scale != own:
        raise UserError(facts, f"says latent_scale {scale}, vae/config.json {own}", "export the release again")
