"""Two short paths from inputs to the prediction, past the layers, for models whose tokens are narrow for their patches.

CogVideoX-2B has 1,920 channels for a patch of 64 values; `tiny` has 256 for 192 values and 896 of maps, and should not
lose the place of an eye among them.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from mvp4d_jax import parallel
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
    """A small network for every latent pixel: what is there, which point of the head, how that looks in the reference.

    A pixel's features are a sum of its own noisy latent and maps, its share of the token's features, and what the
    reference shows at the same point of the head. That point is looked up by the maps alone: pixels are compared by
    one linear projection of their maps, whose pose channels are sines and cosines of the canonical position at several
    octaves, so that their product is a sum of cosines of distances, largest where both show one point. At random
    weights this is a correspondence already; training only sharpens it. Two layers with the timestep's modulation make
    a correction of v of the features, zero at first.
    """

    def __init__(self, config: TransformerConfig, rngs: nnx.Rngs):
        width, axes, dtype = config.detail_width, (None, None), config.dtype
        self.config = config
        values = config.latent_channels + config.conditioning_channels
        self.to_point = Linear(config.conditioning_channels, width, axes, dtype, rngs)
        self.of_pixel = Linear(values, width, axes, dtype, rngs)
        self.of_reference = Linear(values, width, axes, dtype, rngs)
        self.of_token = Linear(config.width, width * config.patch_size**2, ("embed", None), dtype, rngs)
        self.modulation = Linear(config.time_embed_dim, 2 * width, axes, dtype, rngs, zero=True)
        self.hidden = Linear(width, width, axes, dtype, rngs)
        self.out = Linear(width, config.latent_channels, axes, dtype, rngs, zero=True)

    def __call__(
        self, noisy: jax.Array, maps: jax.Array, tokens: jax.Array, time: jax.Array, patches: int, has_reference: bool
    ) -> jax.Array:
        """What is added to v.

        Args:
          noisy: [B, P, G, C p p] patches of latents, the reference's in group 0 where there is one.
          maps: [B, P, G, Cc p p].
          tokens: [B, P, G, D] after the layers. time: activated timestep embeddings [B, 1, G or 1, E].
          patches: how many of the P are no padding.

        Returns:
          [B, P, G', p p, C]: groups of the views only.
        """
        places = self.config.patch_size**2
        maps = _pixels(maps, places)  # [B, P, G, s, Cc]
        pixels = jnp.concatenate([_pixels(noisy, places), maps], axis=-1)
        views = slice(int(has_reference), None)
        features = self.of_pixel(pixels[:, :, views])  # [B, P, G', s, K]
        features += self.of_token(tokens[:, :, views]).reshape(features.shape)
        if has_reference:
            features += self._look_up(maps[:, :, 1:], maps[:, :, 0], pixels[:, :, 0], patches)
        modulation = self.modulation(time if time.shape[2] == 1 else time[:, :, views])[:, :, :, None]
        shift, scale = jnp.split(modulation, 2, axis=-1)  # [B, 1, G', 1, K]
        return self.out(jax.nn.gelu(self.hidden(jax.nn.gelu(features * (1 + scale) + shift))))

    def _look_up(self, maps: jax.Array, reference_maps: jax.Array, reference: jax.Array, patches: int) -> jax.Array:
        """Maps [B, P, G', s, Cc], the reference's [B, P, s, Cc], its pixels [B, P, s, C + Cc] -> [B, P, G', s, K]."""
        batch, padded, places = reference.shape[:3]
        gather = lambda x: parallel.constrain(x.reshape(batch, padded * places, -1), "batch", None, None)  # noqa: E731
        points = gather(self.to_point(reference_maps))  # [B, P s, K]
        scores = jnp.einsum("bpgsk,bnk->bpgsn", self.to_point(maps), points, preferred_element_type=jnp.float32)
        real = jnp.arange(padded * places) < patches * places
        weights = jax.nn.softmax(jnp.where(real, scores, -jnp.inf), axis=-1).astype(maps.dtype)
        return jnp.einsum("bpgsn,bnk->bpgsk", weights, gather(self.of_reference(reference)))


def _pixels(patches: jax.Array, places: int) -> jax.Array:
    """[B, P, G, C s] -> [B, P, G, s, C]."""
    return patches.reshape(*patches.shape[:3], -1, places).swapaxes(-1, -2)
