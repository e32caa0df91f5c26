"""One layer of the transformer: attention and feed-forward, modulated by the timestep."""

import jax
import jax.numpy as jnp
from flax import nnx

from mvp4d_jax import parallel
from mvp4d_jax.models import embeddings
from mvp4d_jax.models.attention import attention
from mvp4d_jax.models.layers import LayerNorm, Linear
from mvp4d_jax.models.transformer_config import TransformerConfig


class AdaLayerNorm(nnx.Module):
    """LayerNorm whose output is modulated by the timestep; the text's modulation is projected beside the video's."""

    def __init__(self, config: TransformerConfig, chunks: int, rngs: nnx.Rngs):
        axes = (None, "embed")
        self.linear = Linear(config.time_embed_dim, chunks * config.width, axes, config.dtype, rngs)
        self.norm = LayerNorm(config.width, config.norm_eps)

    def modulation(self, time: jax.Array) -> list[jax.Array]:
        """Activated timestep embedding [..., T] -> chunks [..., D], float32."""
        out = self.linear(time).astype(jnp.float32)
        return jnp.split(out, out.shape[-1] // self.norm.scale.shape[-1], axis=-1)

    def __call__(self, x: jax.Array, shift: jax.Array, scale: jax.Array, dtype: jnp.dtype) -> jax.Array:
        return (self.norm(x) * (1.0 + scale) + shift).astype(dtype)


class Attention(nnx.Module):
    """Joint self-attention of text and video tokens, with a LayerNorm on every head's queries and keys."""

    def __init__(self, config: TransformerConfig, rngs: nnx.Rngs):
        self.config = config
        width = config.width
        self.to_q, self.to_k, self.to_v = (
            Linear(width, width, ("embed", "heads"), config.dtype, rngs) for _ in range(3)
        )
        self.to_out = Linear(width, width, ("heads", "embed"), config.dtype, rngs)
        self.norm_q = LayerNorm(config.head_dim, config.qk_norm_eps)
        self.norm_k = LayerNorm(config.head_dim, config.qk_norm_eps)

    def __call__(
        self, video: jax.Array, text: jax.Array | None, rotary: tuple[jax.Array, jax.Array] | None, real: int
    ) -> tuple[jax.Array, jax.Array | None]:
        """video [B, P, G, D], text [B, T, D], rotary tables [P G, d] twice; `real` video tokens are no padding."""
        batch, patches, groups, width = video.shape
        x = video.reshape(batch, patches * groups, width)  # [B, N, D]
        q, k, v = self._project(x, rotary)
        if text is None:
            out = self._attend(q, k, v, real)  # [B, N, D]
            return self.to_out(out).reshape(video.shape), None
        # Text comes first, so that the video's padding stays the end of the sequence.
        length = text.shape[1]
        q, k, v = (jnp.concatenate(both, axis=1) for both in zip(self._project(text, None), (q, k, v)))
        pad = -q.shape[1] % parallel.axis_size("tokens")
        q, k, v = (jnp.pad(a, ((0, 0), (0, pad), (0, 0), (0, 0))) for a in (q, k, v))
        out = self.to_out(self._attend(q, k, v, length + real))
        return out[:, length : length + x.shape[1]].reshape(video.shape), out[:, :length]

    def _project(self, x: jax.Array, rotary: tuple[jax.Array, jax.Array] | None) -> tuple[jax.Array, ...]:
        """[B, N, D] -> queries, keys, values [B, N, H, d]."""
        heads = (*x.shape[:2], self.config.num_heads, self.config.head_dim)
        q, k, v = (layer(x).reshape(heads) for layer in (self.to_q, self.to_k, self.to_v))
        q, k = self.norm_q(q).astype(x.dtype), self.norm_k(k).astype(x.dtype)
        if rotary is not None:
            q, k = embeddings.rotate(q, *rotary), embeddings.rotate(k, *rotary)
        return q, k, v

    def _attend(self, q: jax.Array, k: jax.Array, v: jax.Array, key_length: int) -> jax.Array:
        out = attention(q, k, v, key_length=key_length, backend=self.config.attention_backend)
        return out.reshape(*q.shape[:2], -1)  # [B, N, D]


class FeedForward(nnx.Module):
    """Two linear layers with the tanh form of GELU between them."""

    def __init__(self, config: TransformerConfig, rngs: nnx.Rngs):
        hidden = config.mlp_ratio * config.width
        self.up = Linear(config.width, hidden, ("embed", "mlp"), config.dtype, rngs)
        self.down = Linear(hidden, config.width, ("mlp", "embed"), config.dtype, rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.down(jax.nn.gelu(self.up(x), approximate=True))


class Block(nnx.Module):
    """One layer: attention and feed-forward, each between a modulated norm and a gate."""

    def __init__(self, config: TransformerConfig, rngs: nnx.Rngs):
        chunks = 6 if config.text_dim else 3  # shift, scale, gate of the video, then of the text
        self.norm1 = AdaLayerNorm(config, chunks, rngs)
        self.attn = Attention(config, rngs)
        self.norm2 = AdaLayerNorm(config, chunks, rngs)
        self.ff = FeedForward(config, rngs)

    def __call__(
        self,
        video: jax.Array,
        text: jax.Array | None,
        time: tuple[jax.Array, jax.Array],
        rotary: tuple[jax.Array, jax.Array] | None,
        real: int,
    ) -> tuple[jax.Array, jax.Array | None]:
        """One layer.

        Args:
          video: [B, P, G, D]. text: [B, T, D] or None.
          time: activated timestep embeddings of video [B, 1, G, E] ([B, 1, 1, E]: all frames alike), text [B, 1, E].
          rotary: cosines and sines [P G, d], or None. real: how many of the P G video tokens are no padding.
        """
        dtype = video.dtype
        shift, scale, gate = self.norm1.modulation(time[0])[:3]
        normed_text = None
        if text is not None:
            text_shift, text_scale, text_gate = self.norm1.modulation(time[1])[3:]
            normed_text = self.norm1(text, text_shift, text_scale, dtype)
        mixed, mixed_text = self.attn(self.norm1(video, shift, scale, dtype), normed_text, rotary, real)
        video = (video + gate * mixed).astype(dtype)
        if text is not None:
            text = (text + text_gate * mixed_text).astype(dtype)

        shift, scale, gate = self.norm2.modulation(time[0])[:3]
        video = (video + gate * self.ff(self.norm2(video, shift, scale, dtype))).astype(dtype)
        if text is not None:
            text_shift, text_scale, text_gate = self.norm2.modulation(time[1])[3:]
            text = (text + text_gate * self.ff(self.norm2(text, text_shift, text_scale, dtype))).astype(dtype)
        return video, text
