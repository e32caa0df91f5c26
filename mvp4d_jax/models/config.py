"""Sizes of the video autoencoder. The transformer's are in `models/transformer_config.py`."""

from __future__ import annotations

import dataclasses

from mvp4d.core.errors import UserError
from mvp4d_jax.latent_frames import frame_count, latent_count


@dataclasses.dataclass(frozen=True)
class AutoencoderConfig:
    """The CogVideoX causal 3D video autoencoder; field names are those of diffusers' `AutoencoderKLCogVideoX`.

    Attributes:
      in_channels, out_channels: image channels in and out.
      block_out_channels: width of each resolution of the encoder, finest first; the decoder runs them backwards.
        Between two resolutions height and width halve, so the spatial compression is 2 ** (len - 1).
      latent_channels: channels of the latent.
      layers_per_block: residual blocks per resolution in the encoder; the decoder has one more.
      norm_num_groups, norm_eps: GroupNorm.
      temporal_compression_ratio: frames per latent frame, a power of two.
      scaling_factor: multiplies an encoded latent to give it about unit variance (the diffusion model's latents);
        1.15258426 for CogVideoX-2B, 0.7 for 5B.
      chunk_frames, chunk_latents: frames encoded, and latent frames decoded, at a time; GroupNorm sees one chunk, so
        they belong to the model. 8 and 2 in CogVideoX, and in diffusers for every model.
    """

    block_out_channels: tuple[int, ...] = (128, 256, 256, 512)
    layers_per_block: int = 3
    norm_num_groups: int = 32
    scaling_factor: float = 1.15258426
    in_channels: int = 3
    out_channels: int = 3
    latent_channels: int = 16
    norm_eps: float = 1e-6
    temporal_compression_ratio: int = 4
    chunk_frames: int = 8
    chunk_latents: int = 2

    def __post_init__(self):
        bad = [width for width in self.block_out_channels if width % self.norm_num_groups]
        if bad:
            raise UserError(
                "autoencoder config",
                f"block_out_channels {bad} do not divide into {self.norm_num_groups} normalisation groups",
                "choose multiples of norm_num_groups",
            )
        if self.temporal_compression_ratio & (self.temporal_compression_ratio - 1):
            raise UserError("autoencoder config", "temporal_compression_ratio must be a power of two")
        if self.chunk_frames % self.temporal_compression_ratio:
            raise UserError(
                "autoencoder config",
                f"chunk_frames {self.chunk_frames} must be a multiple of "
                f"temporal_compression_ratio {self.temporal_compression_ratio}",
            )

    @property
    def spatial_compression_ratio(self) -> int:
        """Pixels per latent pixel along height and along width."""
        return 2 ** (len(self.block_out_channels) - 1)

    def latents_of(self, frames: int, field: str = "frames") -> int:
        """Latent frames of `frames` video frames. Raises UserError (it names `field`) where they do not fill them."""
        return latent_count(frames, self.temporal_compression_ratio, field)

    def frames_of(self, latents: int) -> int:
        """Video frames that `latents` latent frames stand for."""
        return frame_count(latents, self.temporal_compression_ratio)

    @classmethod
    def named(cls, name: str) -> AutoencoderConfig:
        """The config called `name`: "tiny", "tiny_128" (two CPU cores), "small" (one GPU), "2b", "5b" (CogVideoX's).

        Raises:
          UserError: no such size.
        """
        if name not in _NAMED:
            raise UserError("autoencoder size", f"'{name}' is not one of {', '.join(_NAMED)}")
        return _NAMED[name]


_TINY = AutoencoderConfig(
    block_out_channels=(16, 32, 64),
    layers_per_block=1,
    norm_num_groups=2,
    latent_channels=24,
    temporal_compression_ratio=1,
    scaling_factor=1.0,
)
_NAMED = {
    # A fourth of the height and width, not an eighth: at 64 x 64 pixels an eye is three of them wide.
    # And a latent frame for every frame: of two in one, so small an autoencoder blurs the first where a head turns.
    "tiny": _TINY,
    "tiny_128": dataclasses.replace(_TINY, temporal_compression_ratio=2),
    "small": AutoencoderConfig(block_out_channels=(64, 128, 128, 256), layers_per_block=2, scaling_factor=1.0),
    "2b": AutoencoderConfig(),
    "5b": AutoencoderConfig(scaling_factor=0.7),
}
