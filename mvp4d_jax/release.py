"""A release folder: transformer, autoencoder, and `mvp4d.json` with what they were trained for."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from mvp4d.core.errors import UserError
from mvp4d.core.files import kind_of, read_json
from mvp4d_jax import parallel
from mvp4d_jax.diffusion.samplers import SamplerConfig
from mvp4d_jax.geometry.conditioning import ConditioningConfig
from mvp4d_jax.models.autoencoder import VideoAutoencoder
from mvp4d_jax.models.checkpoint import load_autoencoder, load_transformer, transformer_shardings
from mvp4d_jax.models.checkpoint_config import read_config
from mvp4d_jax.models.config import AutoencoderConfig
from mvp4d_jax.models.convert import validate_weights
from mvp4d_jax.models.transformer import MultiViewTransformer
from mvp4d_jax.models.transformer_config import DTYPES, TransformerConfig

BUILT_IN = Path(__file__).resolve().parent / "weights"
FACTS = "mvp4d.json"
_AGAIN = "export the release again"


@dataclasses.dataclass(frozen=True)
class ReleaseSampler:
    """How a release is sampled where nothing else is said (`mvp4d.json`, `sampler`).

    Attributes:
      method: "dpm" or "ddim".
      steps: denoising steps.
      guidance: scale of classifier-free guidance; 1 is off.
      distilled: the weights learned just these steps, with their teacher's guidance folded in: they take no other
        method, no guidance, and no number of steps but one that divides theirs.
      anchors: views that sit in every group of views, where there are several (`sampling.plan`).
      photo_detail: views take the photo's detail where it shows the same skin (`sampling.photo_detail`): for weights
        too small to draw it.
      temporal_filter: views are filtered in time (`sampling.temporal_filter`), likewise.
      hair_colour: their hair has the hue of the photo's (`sampling.hair_colour`), likewise.
    """

    method: str = "dpm"
    steps: int = 24
    guidance: float = 1.5
    distilled: bool = False
    anchors: int = 1
    photo_detail: bool = False
    temporal_filter: bool = False
    hair_colour: bool = False


@dataclasses.dataclass(frozen=True)
class Facts:
    """What the weights were trained for (`mvp4d.json`).

    Attributes:
      head: name of the head model that the maps were drawn from.
      image_size: pixels a side.
      views, frames: noisy views and frames per sample in training.
      snr_shift: of the noise schedule.
      crop_margin: half side of a reference crop over the larger half extent of the head.
      conditioning: layout of the maps.
      sampler: what samples these weights best.
      dtype: what they were trained to compute in: "float32" or "bfloat16".
    """

    head: str
    image_size: int
    views: int
    frames: int
    snr_shift: float
    crop_margin: float
    conditioning: ConditioningConfig
    sampler: ReleaseSampler = ReleaseSampler()
    dtype: str = "float32"

    @property
    def latent_size(self) -> tuple[int, int]:
        """(h, w) of the latents."""
        return (self.image_size // self.conditioning.image_to_latent,) * 2


@dataclasses.dataclass(frozen=True)
class Release:
    """Loaded weights and their facts."""

    path: Path
    facts: Facts
    transformer: MultiViewTransformer
    autoencoder: VideoAutoencoder


def resolve_weights(name: str | os.PathLike) -> Path:
    """The folder of weights that come with the project (`tiny_128_turbo`, `tiny_128`: 128 x 128; `tiny`: 64 x 64), or
    of a path.

    Raises:
      UserError: nothing is there.
    """
    path = BUILT_IN / name if str(name) in built_in() else Path(name)
    if not (path / FACTS).is_file():
        found = kind_of(path)
        raise UserError(
            path,
            f"is {found}, not a release" if found else f"holds no release ({FACTS} is missing)",
            f"give {', '.join(built_in())}, or a folder that 'mvp4d train --export' wrote",
        )
    return path


def built_in() -> list[str]:
    """Names of the weights that come with the project."""
    return sorted(path.parent.name for path in BUILT_IN.glob(f"*/{FACTS}"))


def read_facts(folder: str | os.PathLike) -> Facts:
    """Reads `mvp4d.json`. Raises UserError naming the field at fault."""
    path = Path(folder) / FACTS
    value = read_json(path)
    if not isinstance(value, dict):
        raise UserError(path, "is not an object", _AGAIN)
    if not isinstance(value.get("head"), str) or not value["head"]:
        raise UserError(path, f"field 'head' is {str(value.get('head'))[:40]}", "it is the name of a head model")
    whole = {
        name: _number(path, value, name, *limits, whole=True)
        for name, limits in (("image_size", (8, 16384)), ("views", (1, 1000)), ("frames", (1, 10_000)))
    }
    facts = Facts(
        value["head"],
        **whole,
        snr_shift=_number(path, value, "snr_shift", 1e-6, 1e6),
        crop_margin=_number(path, value, "crop_margin", 0.1, 10.0),
        conditioning=_conditioning(path, value),
        sampler=_sampler(path, value),
        dtype=_dtype(path, value),
    )
    if facts.image_size % facts.conditioning.image_to_latent:
        raise UserError(
            path,
            f"field 'image_size' is {facts.image_size}",
            f"it is a multiple of 'image_to_latent', {facts.conditioning.image_to_latent}",
        )
    return facts


def validate_release(folder: str | os.PathLike) -> str:
    """Checks a release whole, every tensor read, and says what it is in one line. Raises UserError."""
    folder = Path(folder)
    facts = read_facts(folder)
    transformer, autoencoder = read_config(folder / "transformer")[0], read_config(folder / "vae")[0]
    for part, config, kind in (
        ("transformer", transformer, TransformerConfig),
        ("vae", autoencoder, AutoencoderConfig),
    ):
        if not isinstance(config, kind):
            raise UserError(folder / part / "config.json", f"is of no {part}", _AGAIN)
    _check_parts(folder, facts, transformer, autoencoder)
    size, sampler = facts.image_size, facts.sampler
    trained = f"head '{facts.head}', {facts.views} views x {facts.frames} frames, {size} x {size} pixels"
    return f"{validate_weights(folder)}; {trained}; {sampler.method}, {sampler.steps} steps"


def _check_parts(folder: Path, facts: Facts, transformer: TransformerConfig, autoencoder: AutoencoderConfig) -> None:
    conditioning = facts.conditioning
    check_maps(folder, facts, transformer)
    for what, said, found in (
        ("frames per latent frame", conditioning.temporal_stride, autoencoder.temporal_compression_ratio),
        ("pixels per latent pixel", conditioning.image_to_latent, autoencoder.spatial_compression_ratio),
    ):
        _agree(folder, what, said, found)


def check_maps(folder: Path, facts: Facts, transformer: TransformerConfig) -> None:
    """Raises UserError where a release's transformer takes another number of maps than its facts describe."""
    _agree(folder, "conditioning channels", facts.conditioning.channels, transformer.conditioning_channels)


def _agree(folder: Path, what: str, said: int, found: int) -> None:
    if said != found:
        raise UserError(folder / FACTS, f"describes {said} {what}, the weights have {found}", _AGAIN)


def _dtype(path: Path, value: dict[str, Any]) -> str:
    found = value.get("dtype", "float32")
    if found not in DTYPES:
        raise UserError(path, f"field 'dtype' is {str(found)[:40]}", f"it is one of {', '.join(DTYPES)}")
    return found


def _number(path: Path, value: dict[str, Any], name: str, low: float, high: float, *, whole: bool = False) -> Any:
    found = value.get(name)
    kinds = (int,) if whole else (int, float)
    if isinstance(found, bool) or not isinstance(found, kinds) or not low <= found <= high:
        raise UserError(
            path, f"field '{name}' is {str(found)[:40]}", f"it is a {'whole ' if whole else ''}number {low:g}..{high:g}"
        )
    return found if whole else float(found)


def _conditioning(path: Path, value: dict[str, Any]) -> ConditioningConfig:
    found = value.get("conditioning")
    known = {name: type(item) for name, item in ConditioningConfig().record.items()}
    if not isinstance(found, dict) or set(found) - set(known):
        raise UserError(path, f"field 'conditioning' is {str(found)[:60]}", f"it holds {', '.join(known)}")
    for name, item in found.items():
        allowed = (int, float) if known[name] is float else (known[name],)
        if isinstance(item, bool) or not isinstance(item, allowed) or (not isinstance(item, str) and abs(item) > 1e4):
            raise UserError(
                path,
                f"field 'conditioning.{name}' is {str(item)[:40]}",
                f"it is {'a word' if known[name] is str else 'a number'}",
            )
    try:
        if found.get("motion", "displacement") != "displacement":
            raise UserError("conditioning.motion", f"is '{found['motion']}'", "it is 'displacement'")
        return ConditioningConfig(**{name: item for name, item in found.items() if name != "motion"})
    except UserError as error:
        raise UserError(path, str(error), _AGAIN) from None


def _sampler(path: Path, value: dict[str, Any]) -> ReleaseSampler:
    found = value.get("sampler", {})
    if not isinstance(found, dict) or any(isinstance(item, (list, dict)) for item in found.values()):
        raise UserError(path, f"field 'sampler' is {str(found)[:60]}", "it is an object of words and numbers")
    try:
        sampler = ReleaseSampler(**found)
        sampler = dataclasses.replace(sampler, guidance=float(sampler.guidance))
        SamplerConfig(sampler.method, sampler.steps)  # raises ValueError
        if isinstance(sampler.anchors, bool) or not isinstance(sampler.anchors, int) or sampler.anchors < 0:
            raise ValueError(f"anchors is {str(sampler.anchors)[:20]}, no whole number from 0 on")
        for name in ("photo_detail", "temporal_filter", "hair_colour"):
            if not isinstance(getattr(sampler, name), bool):
                raise ValueError(f"{name} is {str(getattr(sampler, name))[:20]}, neither true nor false")
        return sampler
    except (TypeError, ValueError) as error:
        raise UserError(
            path,
            f"field 'sampler': {str(error).removeprefix('ReleaseSampler.__init__() ')}",
            "export the release again",
        ) from None


def load_release(name: str | os.PathLike, *, mesh: Mesh | None = None, dtype: str | None = None) -> Release:
    """Loads a release: 'tiny_128_turbo', 'tiny_128', 'tiny' or a folder.

    Args:
      mesh: where the weights go, every device its part of the transformer's; None: one device.
      dtype: "float32" or "bfloat16", what is computed in; None: what the weights were trained in. The transformer's
        kernels are kept in it, norms and biases in float32.

    Raises:
      UserError: a missing or damaged file, a transformer whose conditioning channels are not what the facts say, or a
        dtype that is not one.
    """
    path = resolve_weights(name)
    facts = read_facts(path)
    dtype = check_dtype(dtype) or facts.dtype
    config, _ = read_config(path / "transformer")
    if not isinstance(config, TransformerConfig):
        raise UserError(path / "transformer" / "config.json", "is of no transformer", _AGAIN)
    config = dataclasses.replace(config, dtype=dtype)
    transformer, _ = load_transformer(
        path / "transformer",
        config,
        kernels=dtype,
        shardings=None if mesh is None else transformer_shardings(config, mesh),
    )
    # In the transformer's precision: at 512 x 512 a chunk of float32 activations is more than a small chip holds.
    everywhere = None if mesh is None else parallel.replicated(mesh)
    autoencoder, coding = load_autoencoder(path / "vae", dtype=dtype, sharding=everywhere)
    _check_parts(path, facts, config, coding)
    return Release(path, facts, transformer, autoencoder)


def check_dtype(dtype: str | None) -> str | None:
    """Raises UserError for what is no dtype to compute in."""
    if dtype not in (None, *DTYPES):
        raise UserError("`dtype`", f"'{dtype}' is not one of {', '.join(DTYPES)}", "leave it out for the release's own")
    return dtype
