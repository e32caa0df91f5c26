"""`config.json` of a model folder, in diffusers' field names, to and from our config dataclasses.

What our models add is written as further fields (`conditioning_channels`), which diffusers ignores with a warning. What
the original can be configured to do and our models do not is refused by name rather than passed over.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from mvp4d.core.errors import UserError
from mvp4d.core.files import read_json
from mvp4d_jax.models.config import AutoencoderConfig
from mvp4d_jax.models.transformer_config import TransformerConfig

AUTOENCODER_CLASS = "AutoencoderKLCogVideoX"
TRANSFORMER_CLASS = "CogVideoXTransformer3DModel"
TEXTLESS_CLASS = "MultiViewTransformer"  # without a text stream it is no model of diffusers

Config = AutoencoderConfig | TransformerConfig

# their field -> (our field, their default)
_AUTOENCODER = {
    "in_channels": ("in_channels", 3),
    "out_channels": ("out_channels", 3),
    "block_out_channels": ("block_out_channels", (128, 256, 256, 512)),
    "latent_channels": ("latent_channels", 16),
    "layers_per_block": ("layers_per_block", 3),
    "norm_eps": ("norm_eps", 1e-6),
    "norm_num_groups": ("norm_num_groups", 32),
    "temporal_compression_ratio": ("temporal_compression_ratio", 4),
    "scaling_factor": ("scaling_factor", 1.15258426),
}
_TRANSFORMER = {
    "num_layers": ("num_layers", 30),
    "num_attention_heads": ("num_heads", 30),
    "attention_head_dim": ("head_dim", 64),
    "in_channels": ("latent_channels", 16),
    "patch_size": ("patch_size", 2),
    "time_embed_dim": ("time_embed_dim", 512),
    "text_embed_dim": ("text_dim", 4096),
    "prompt_tokens": ("prompt_tokens", 0),
    "spatial_interpolation_scale": ("spatial_scale", 1.875),
    "temporal_interpolation_scale": ("temporal_scale", 1.0),
    "sample_height": ("sample_height", 60),
    "sample_width": ("sample_width", 90),
    "norm_eps": ("norm_eps", 1e-5),
    "conditioning_channels": ("conditioning_channels", 0),
    "skip_width": ("skip_width", 0),
    "detail_width": ("detail_width", 0),
}
_MAY_BE_NONE = {"text_embed_dim", "prompt_tokens", "conditioning_channels", "skip_width", "detail_width"}  # 0: without
# Fields that must have the value our models are built for (their default), where a config states them.
_FIXED = {
    AUTOENCODER_CLASS: {
        "act_fn": "silu",
        "use_quant_conv": False,
        "use_post_quant_conv": False,
        "shift_factor": None,
        "latents_mean": None,
        "latents_std": None,
        "invert_scale_latents": False,
    },
    TRANSFORMER_CLASS: {
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "ofs_embed_dim": None,
        "attention_bias": True,
        "patch_size_t": None,
        "activation_fn": "gelu-approximate",
        "timestep_activation_fn": "silu",
        "norm_elementwise_affine": True,
        "use_learned_positional_embeddings": False,
        "patch_bias": True,
        "temporal_compression_ratio": 4,
    },
}


def read_autoencoder_config(folder: Path) -> AutoencoderConfig:
    """The config of an autoencoder's folder.

    Raises:
      UserError: as `read_config`; a transformer's folder.
    """
    config, value = read_config(folder)
    if not isinstance(config, AutoencoderConfig):
        raise UserError(
            folder / "config.json",
            f"is of the architecture {value['_class_name']!r}",
            f"give a folder of {AUTOENCODER_CLASS}",
        )
    return config


def read_config(folder: Path) -> tuple[Config, dict[str, Any]]:
    """The config of a model folder, and the JSON object as it stands.

    Raises:
      UserError: no or no readable `config.json`, another architecture, or a field our models do not support.
    """
    path = folder / "config.json"
    if not folder.is_dir():
        raise UserError(folder, "no such folder", "give a diffusers model folder (config.json and *.safetensors)")
    if not path.exists():
        raise UserError(path, "is missing", "give a diffusers model folder (config.json and *.safetensors)")
    value = read_json(path)
    name = value.get("_class_name") if isinstance(value, dict) else None
    if name not in (AUTOENCODER_CLASS, TRANSFORMER_CLASS, TEXTLESS_CLASS):
        raise UserError(
            path,
            f"is of the architecture {name!r}",
            f"known are {AUTOENCODER_CLASS}, {TRANSFORMER_CLASS} and {TEXTLESS_CLASS}",
        )
    kind = AUTOENCODER_CLASS if name == AUTOENCODER_CLASS else TRANSFORMER_CLASS
    for field, fixed in _FIXED[kind].items():
        if value.get(field, fixed) != fixed:
            raise UserError(
                path,
                f"{field} is {value[field]!r}; only {fixed!r} is supported",
                "use a CogVideoX-2B or 5B text-to-video checkpoint of version 1.0",
            )
    try:
        return (_autoencoder(value) if kind == AUTOENCODER_CLASS else _transformer(value)), value
    except (ValueError, TypeError) as error:
        raise UserError(path, f"describes no model that can be built ({error})") from None


def _fields(table: dict[str, tuple[str, Any]], value: dict[str, Any]) -> dict[str, Any]:
    fields = {}
    for theirs, (ours, default) in table.items():
        given = value.get(theirs, default)
        if isinstance(default, tuple):
            fields[ours] = tuple(_number(theirs, item, default[0]) for item in given)
        else:
            fields[ours] = _number(theirs, given, default)
    return fields


def _number(field: str, given: Any, default: float) -> float:
    """A value of a field whose `default` tells its type."""
    if isinstance(given, bool) or not isinstance(given, int | float):
        raise TypeError(f"{field} is {given!r}, not a number")
    if not math.isfinite(given) or given < 0 or (given == 0 and field not in _MAY_BE_NONE):
        raise ValueError(f"{field} is {given!r}, which no model has")
    return type(default)(given)


def _autoencoder(value: dict[str, Any]) -> AutoencoderConfig:
    fields = _fields(_AUTOENCODER, value)
    for field in ("down_block_types", "up_block_types"):
        kinds = value.get(field)
        if kinds is not None and (len(kinds) != len(fields["block_out_channels"]) or len(set(kinds)) != 1):
            raise ValueError(f"{field} is {kinds}")
    return AutoencoderConfig(**fields)


def _transformer(value: dict[str, Any]) -> TransformerConfig:
    fields = _fields(_TRANSFORMER, value)
    out_channels = value.get("out_channels", fields["latent_channels"])
    if out_channels != fields["latent_channels"]:
        raise ValueError(f"{fields['latent_channels']} channels go in and {out_channels} come out: image to video")
    position = "rotary" if value.get("use_rotary_positional_embeddings", False) else "sincos"
    return TransformerConfig(**fields, position=position)


def to_json(config: Config, base: dict[str, Any] | None = None) -> dict[str, Any]:
    """The JSON object of a config. `base`: one that it was read from, whose other fields are kept."""
    if isinstance(config, AutoencoderConfig):
        levels = len(config.block_out_channels)
        value = dict(
            base
            or {
                "_class_name": AUTOENCODER_CLASS,
                **_FIXED[AUTOENCODER_CLASS],
                "down_block_types": ["CogVideoXDownBlock3D"] * levels,
                "up_block_types": ["CogVideoXUpBlock3D"] * levels,
                "sample_height": 480,
                "sample_width": 720,
            }
        )
        table = _AUTOENCODER
    else:
        value = dict(base or {"_class_name": TRANSFORMER_CLASS, **_FIXED[TRANSFORMER_CLASS]})
        value["_class_name"] = TRANSFORMER_CLASS if config.text_dim else TEXTLESS_CLASS
        value["out_channels"] = config.latent_channels
        value["use_rotary_positional_embeddings"] = config.position == "rotary"
        if not config.text_dim and base is None:
            del value["temporal_compression_ratio"]  # the autoencoder's, whose own config says it
        table = _TRANSFORMER
    for theirs, (ours, _) in table.items():
        field = getattr(config, ours)
        value[theirs] = list(field) if isinstance(field, tuple) else field
    # diffusers would warn of fields that it does not know
    for ours in ("conditioning_channels", "skip_width", "detail_width", "prompt_tokens"):
        if not value.get(ours, 1):
            del value[ours]
    return value
