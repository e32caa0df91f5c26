"""The splash attention kernel on TPU."""

import math

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernel
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

from mvp4d_jax.models.attention_xla import SAVED_NAME

LANES = 128  # the kernel works on multiples of this many tokens
# Largest tile that is tried, in tokens; a tile must divide the padded length.
MAX_QUERY_TILE, MAX_KEY_TILE, MAX_KEY_COMPUTE_TILE = 1024, 2048, 1024
FUSED_BYTES = 4 << 30  # memory that the fused backward pass may take


def _tile(length: int, largest: int) -> int:
    """The largest multiple of 128 that divides `length` (itself a multiple of 128) and is at most `largest`."""
    return next(tile for tile in range(min(largest, length), 0, -LANES) if length % tile == 0)


def padded_length(length: int) -> int:
    """`length` rounded up to the next multiple of 128 that tiles of at least 512 divide (or to 128, 256 or 384)."""
    padded = -(-length // LANES) * LANES
    while _tile(padded, MAX_QUERY_TILE) < min(512, padded):
        padded += LANES
    return padded


def block_sizes(queries: int, keys: int, partial_bytes: int = 0) -> kernel.BlockSizes:
    """Tiles for lengths that are multiples of 128: the largest that fit the on-chip memory.

    Args:
      partial_bytes: what the gradient of all queries takes. The fused backward pass computes logits once instead of
        twice (five products, not seven), and keeps one such gradient for each key tile until they are summed: it is
        chosen where they all fit into FUSED_BYTES.
    """
    query_tile, key_tile = _tile(queries, MAX_QUERY_TILE), _tile(keys, MAX_KEY_TILE)
    compute = _tile(key_tile, MAX_KEY_COMPUTE_TILE)
    fused = keys // key_tile * partial_bytes <= FUSED_BYTES
    return kernel.BlockSizes(
        block_q=query_tile,
        block_kv=key_tile,
        block_kv_compute=compute,
        block_q_dkv=query_tile,
        block_kv_dkv=key_tile,
        block_kv_dkv_compute=compute,
        block_q_dq=None if fused else query_tile,
        block_kv_dq=None if fused else key_tile,
        use_fused_bwd_kernel=fused,
    )


def splash_attention(q: jax.Array, k: jax.Array, v: jax.Array, key_length: int) -> jax.Array:
    """`models.attention.attention` on one TPU: q [B, N, H, d], k v [B, M, H, d], the first `key_length` keys real."""
    queries, keys, heads = q.shape[1], k.shape[1], q.shape[2]
    padded_queries, padded_keys = padded_length(queries), padded_length(keys)

    def lay(x: jax.Array, length: int) -> jax.Array:  # [B, n, H, d] -> [B, H, length, d]
        return jnp.pad(x, ((0, 0), (0, length - x.shape[1]), (0, 0), (0, 0))).transpose(0, 2, 1, 3)

    segments = None
    if key_length < padded_keys:  # padded keys are a segment of their own, which no query belongs to
        segments = kernel.SegmentIds(
            jnp.zeros(padded_queries, jnp.int32), (jnp.arange(padded_keys) >= key_length).astype(jnp.int32)
        )
    mask = masks.MultiHeadMask([masks.FullMask((padded_queries, padded_keys))] * heads)
    partial_bytes = q.size // queries * padded_queries * q.dtype.itemsize
    run = kernel.make_splash_mha(
        mask,
        block_sizes=block_sizes(padded_queries, padded_keys, partial_bytes),
        head_shards=1,
        q_seq_shards=1,
        residual_checkpoint_name=SAVED_NAME,
    )
    scale = jnp.asarray(1.0 / math.sqrt(q.shape[-1]), q.dtype)
    out = jax.vmap(run, in_axes=(0, 0, 0, None))(
        lay(q * scale, padded_queries), lay(k, padded_keys), lay(v, padded_keys), segments
    )
    return out[:, :, :queries].transpose(0, 2, 1, 3).astype(q.dtype)
