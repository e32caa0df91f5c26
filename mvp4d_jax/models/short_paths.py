"""Two short paths from inputs to the prediction, past the layers, for models whose tokens are narrow for their patches.

CogVideoX-2B has 1,920 channels for a patch of 64 values; `tiny` has 256 for 192 values and 1,680 of maps, and should
not lose an eye among them.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from mvp4d_jax.models.layers import Linear
from mvp4d_jax.models.transformer_config import TransformerConfig


class PatchSkip(nnx.Module):
    """A linear path from a patch of noisy latents to its prediction, scaled by the timestep: out(gain(t) * in(x)).

    v is mostly noise wherever latents have little variance, and all of it must come out as it went in. A model whose
    width is near the number of values in a patch spends its width on carrying it (with `tiny`, 256 against 192, samples
    stayed grainy); this path carries it instead. Zero at first.
    """

    def __init__(self, config: TransformerConfig, rngs: nnx.Rngs):
        values, axes = config.latent_channels * config.patch_size**2, (None, "embed")
        self.proj_in = Linear(values, config.skip_width, axes, config.dtype, rngs)
        self.gain = Linear(config.time_embed_dim, config.skip_width, axes, config.dtype, rngs, zero=True)
        self.proj_out = Linear(config.skip_width, values, axes[::-1], config.dtype, rngs)

    def scaled(self, patches: jax.Array, time: jax.Array) -> jax.Array:
        """patches [B, P, G, C p p], activated timestep embeddings [B, 1, G, E] -> [B, P, G, skip_width]."""
        return self.proj_in(patches) * self.gain(time)


class DetailHead(nnx.Module):
    """A small network for every latent pixel: its own noisy latent and maps, and its share of the token's features.

    What the maps say of one latent pixel (where on the head it lies, what the painted photo shows there) need not pass
    through tokens to be drawn. Two layers under the timestep's modulation make a correction of v, zero at first.
    """

    def __init__(self, config: TransformerConfig, rngs: nnx.Rngs):
        width, axes, dtype = config.detail_width, (None, "embed"), config.dtype
        self.places = config.patch_size**2
        inputs = config.latent_channels + config.conditioning_channels
        self.of_pixel = Linear(inputs, width, axes, dtype, rngs)
        self.of_token = Linear(config.width, width * self.places, axes[::-1], dtype, rngs)
        self.modulation = Linear(config.time_embed_dim, 2 * width, axes, dtype, rngs, zero=True)
        self.hidden = Linear(width, width, axes, dtype, rngs)
        self.out = Linear(width, config.latent_channels, axes[::-1], dtype, rngs, zero=True)

    def __call__(self, noisy: jax.Array, maps: jax.Array, tokens: jax.Array, time: jax.Array) -> jax.Array:
        """What is added to v.

        Args:
          noisy: [B, P, G, C p p] patches of latents. maps: [B, P, G, Cc p p].
          tokens: [B, P, G, D] after the layers. time: activated timestep embeddings [B, 1, G or 1, E].

        Returns:
          [B, P, G, p p, C].
        """
        pixels = jnp.concatenate([self._pixels(noisy), self._pixels(maps)], axis=-1)  # [B, P, G, p p, C + Cc]
        features = self.of_pixel(pixels)  # [B, P, G, p p, K]
        features += self.of_token(tokens).reshape(features.shape)
        shift, scale = jnp.split(self.modulation(time)[:, :, :, None], 2, axis=-1)  # [B, 1, G, 1, K]
        return self.out(jax.nn.gelu(self.hidden(jax.nn.gelu(features * (1 + scale) + shift))))

    def _pixels(self, patches: jax.Array) -> jax.Array:
        """[B, P, G, C p p] -> [B, P, G, p p, C]."""
        return patches.reshape(*patches.shape[:3], -1, self.places).swapaxes(-1, -2)
