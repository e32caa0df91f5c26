"""Memory that a sampling run takes on each device, by arithmetic: what `--plan` tells before any weights are loaded.

`mvp4d preflight --job sample` compiles instead, and tells the compiler's own number.
"""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp

from mvp4d_jax import parallel
from mvp4d_jax.devices import GIB, kind_of
from mvp4d_jax.models.checkpoint import transformer_bytes
from mvp4d_jax.models.config import AutoencoderConfig
from mvp4d_jax.models.transformer_config import TransformerConfig
from mvp4d_jax.sampling.plan import SamplingPlan

# Arrays of a token's width that are alive at once in a layer, beside the two of `mlp_ratio` widths in its MLP: the
# tokens, their normalised copy, queries, keys, values and what attention gives.
ALIVE = 6
TPU_LANES = 128  # an array's last dimension is filled up to as many
# Arrays of the decoder's widest layer at full resolution that are alive at once: two in float32 (normalisation, 4), the
# padded input of a convolution, its result, the shortcut, and the next layer's.
ALIVE_DECODING = 9


@dataclasses.dataclass(frozen=True)
class Needs:
    """Bytes on each device.

    Attributes:
      transformer, autoencoder: their weights in all, wherever they lie.
      weights: of both on one device; they stay for the whole run.
      views: latents and maps of all views of a window, while it is denoised.
      sequence: activations of one group's sequence on its way through the transformer.
      chunk: activations of the largest chunk of a view on its way through the decoder, of every view decoded at a time.
    """

    transformer: float
    autoencoder: float
    weights: float
    views: float
    sequence: float
    chunk: float

    @property
    def denoising(self) -> float:
        return self.weights + self.views + self.sequence

    @property
    def decoding(self) -> float:
        return self.weights + self.chunk


def needs(
    plan: SamplingPlan,
    transformer: TransformerConfig,
    autoencoder: AutoencoderConfig,
    coder_bytes: int,
    mesh: tuple[int, int, int],
    dtype: str,
    lanes: int = 1,
    decoded: int = 1,
) -> Needs:
    """What a plan needs.

    Args:
      coder_bytes: the autoencoder's weights, which lie on every device.
      mesh: devices along data, fsdp and context.
      dtype: what is computed in, and what the transformer's kernels are kept in.
      lanes: what the devices fill an array's last dimension up to.
      decoded: views that a device decodes at a time.
    """
    context = mesh[2]
    weights, part = transformer_bytes(transformer, dtype, parallel.planned_mesh(mesh))
    width = jnp.dtype(dtype).itemsize
    whole = plan.tokens(transformer.patch_size) * transformer.width * width
    share = ALIVE + 2 * transformer.mlp_ratio
    gathered = 2 if context > 1 else 0  # keys and values of the whole sequence
    return Needs(
        transformer=weights,
        autoencoder=coder_bytes,
        weights=part + coder_bytes,
        views=_view_bytes(plan, transformer, lanes),
        sequence=whole * (share / context + gathered),
        chunk=decoded * _chunk_bytes(plan, autoencoder, width),
    )


def _view_bytes(plan: SamplingPlan, transformer: TransformerConfig, lanes: int) -> float:
    """Latents and maps of one window, float32, on every device: the sampler's two sets of latents, the clean ones,
    those predicted with conditions and without, and the maps."""
    pixels = math.prod(plan.latent_size) * max(window.latents for window in plan.windows)
    every = plan.views + plan.clean_views
    kinds = 1 if plan.guidance_scale == 1 else 2
    channels, maps = (
        -(-count // lanes) * lanes for count in (transformer.latent_channels, transformer.conditioning_channels)
    )
    return 4.0 * pixels * (((2 + kinds) * plan.views + every) * channels + every * maps)


def _chunk_bytes(plan: SamplingPlan, autoencoder: AutoencoderConfig, width: int) -> float:
    """The first chunk of a view is the largest; its last level has full resolution and begins at the width before."""
    latents = max(window.latents for window in plan.windows)
    first = min(latents, autoencoder.chunk_latents + latents % autoencoder.chunk_latents)
    pixels = math.prod(plan.latent_size) * autoencoder.spatial_compression_ratio**2
    channels = max(autoencoder.block_out_channels[:2])
    return float(ALIVE_DECODING * width * pixels * autoencoder.frames_of(first) * channels)


def say_needs(found: Needs) -> str:
    """A table for a person, all of it in one unit, and a line more where this process's first device is known and too
    small."""
    unit, name = (GIB, "GiB") if max(found.denoising, found.decoding) >= GIB else (1 << 20, "MiB")
    part = found.weights - found.autoencoder
    split = part < found.transformer
    parts = f"transformer {found.transformer / unit:,.2f}"
    parts += f", {part / unit:,.2f} of it on each device" if split else ""
    parts += f", autoencoder {found.autoencoder / unit:,.2f}" + (" on every one" if split else "")
    rows = (
        (found.weights, f"weights: {(found.transformer + found.autoencoder) / unit:,.2f} in all ({parts})"),
        (found.views, "latents and maps of all views"),
        (found.sequence, "activations of one sequence"),
        (found.chunk, "activations of the chunks decoded at a time"),
        (found.denoising, "in all while denoising: weights, latents and maps, a sequence"),
        (found.decoding, "in all while decoding: weights, chunks"),
    )
    lines = [f"memory    on each device, about, in {name}", *(f"{size / unit:>18,.2f}  {what}" for size, what in rows)]
    known = kind_of(jax.devices()[0].device_kind)
    if known is not None and max(found.denoising, found.decoding) > known[1].gib * GIB:
        lines.append(
            f"          more than a {known[0]} has ({known[1].gib:g} GiB): more devices along context (--mesh 1,1,N) "
            "or a smaller --group; 'mvp4d preflight --job sample' tells the compiler's own number"
        )
    return "\n".join(lines)
