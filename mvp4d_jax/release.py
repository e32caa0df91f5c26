"""A release folder: transformer, autoencoder, and `mvp4d.json` with what they were trained for."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

from mvp4d.core.errors import UserError
from mvp4d_jax.diffusion.samplers import SamplerConfig
from mvp4d_jax.geometry.conditioning import ConditioningConfig
from mvp4d_jax.models.autoencoder import VideoAutoencoder
from mvp4d_jax.models.checkpoint import load_autoencoder, load_transformer
from mvp4d_jax.models.transformer import MultiViewTransformer

BUILT_IN = Path(__file__).resolve().parent / "weights"
FACTS = "mvp4d.json"


@dataclasses.dataclass(frozen=True)
class ReleaseSampler:
    """How a release is sampled where nothing else is said (`mvp4d.json`, `sampler`).

    Attributes:
      method: "dpm" or "ddim".
      steps: denoising steps.
      guidance: scale of classifier-free guidance; 1 is off.
      distilled: the weights learned just these steps, with their teacher's guidance folded in: they take no other
        method, no guidance, and no number of steps but one that divides theirs.
    """

    method: str = "dpm"
    steps: int = 24
    guidance: float = 1.5
    distilled: bool = False


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
    """

    head: str
    image_size: int
    views: int
    frames: int
    snr_shift: float
    crop_margin: float
    conditioning: ConditioningConfig
    sampler: ReleaseSampler = ReleaseSampler()

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
    """The folder of weights that come with the project (`tiny`: 64 x 64, `tiny_128`: 128 x 128), or of a path.

    Raises:
      UserError: nothing is there.
    """
    path = BUILT_IN / name if str(name) in built_in() else Path(name)
    if not (path / FACTS).is_file():
        raise UserError(path, f"holds no release ({FACTS} is missing)",
                        f"give {', '.join(built_in())}, or a folder that 'mvp4d train --export' wrote")
    return path


def built_in() -> list[str]:
    """Names of the weights that come with the project."""
    return sorted(path.parent.name for path in BUILT_IN.glob(f"*/{FACTS}"))


def read_facts(folder: str | os.PathLike) -> Facts:
    """Reads `mvp4d.json`. Raises UserError naming the field at fault."""
    path = Path(folder) / FACTS
    try:
        value: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(path, f"cannot be read ({error})") from None
    try:
        conditioning = ConditioningConfig(**value["conditioning"])
        return Facts(str(value["head"]), int(value["image_size"]), int(value["views"]), int(value["frames"]),
                     float(value["snr_shift"]), float(value["crop_margin"]), conditioning, _sampler(path, value))
    except KeyError as error:
        raise UserError(path, f"lacks the field {error}", "export the release again") from None
    except (TypeError, ValueError) as error:
        raise UserError(path, f"has a field of the wrong kind ({error})", "export the release again") from None


def _sampler(path: Path, value: dict[str, Any]) -> ReleaseSampler:
    try:
        sampler = ReleaseSampler(**value.get("sampler", {}))
        sampler = dataclasses.replace(sampler, guidance=float(sampler.guidance))
        SamplerConfig(sampler.method, sampler.steps)  # raises ValueError
        return sampler
    except (TypeError, ValueError) as error:
        raise UserError(path, f"field 'sampler': {str(error).removeprefix('ReleaseSampler.__init__() ')}",
                        "export the release again") from None


def load_release(name: str | os.PathLike) -> Release:
    """Loads a release: 'tiny', 'tiny_128' or a folder.

    Raises:
      UserError: a missing or damaged file, or a transformer whose conditioning channels are not what the facts say.
    """
    path = resolve_weights(name)
    facts = read_facts(path)
    transformer, config = load_transformer(path / "transformer")
    # In the transformer's precision: at 512 x 512 a chunk of float32 activations is more than a small chip holds.
    autoencoder, _ = load_autoencoder(path / "vae", dtype=config.dtype)
    if config.conditioning_channels != facts.conditioning.channels:
        raise UserError(path / FACTS, f"describes {facts.conditioning.channels} conditioning channels, the transformer "
                        f"has {config.conditioning_channels}", "export the release again")
    return Release(path, facts, transformer, autoencoder)
