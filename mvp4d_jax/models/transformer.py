"""The CogVideoX transformer, extended to many views of one head.

One sample is one latent frame of a reference image and V views of L latent frames each; all of their tokens, and text
where there is any, attend to each other. Tokens lie patch-major, see `models.embeddings`. Every latent frame has its
own timestep, which reaches the tokens as AdaLN shifts, scales and gates [B, 1, G, D] that broadcast over the frame's
patches. With one view, no reference and no conditioning this is CogVideoX as diffusers has it (2B, and 5B of version
1.0).
"""

import math
from typing import Any

import jax
import jax.extend
import jax.numpy as jnp
from flax import nnx

from mvp4d_jax import parallel
from mvp4d_jax.models import embeddings
from mvp4d_jax.models.attention_xla import SAVED_NAME
from mvp4d_jax.models.block import AdaLayerNorm, Block
from mvp4d_jax.models.layers import LayerNorm, Linear
from mvp4d_jax.models.short_paths import DetailHead, PatchSkip
from mvp4d_jax.models.transformer_config import TransformerConfig

_CUDNN_FORWARD = "dot_product_attention_fwd"  # how JAX's cuDNN primitives begin: output and normaliser


def _saves_attention(primitive: jax.extend.core.Primitive, *values: Any, **params: Any) -> bool:
    """What the backward pass needs of attention: named by our backends, told by its primitive for cuDNN."""
    named = jax.checkpoint_policies.save_only_these_names(SAVED_NAME)(primitive, *values, **params)
    return named or primitive.name.startswith(_CUDNN_FORWARD)


_POLICIES = {
    "full": jax.checkpoint_policies.nothing_saveable,
    "attention": _saves_attention,
    "matmuls": jax.checkpoint_policies.checkpoint_dots_with_no_batch_dims,
}


class PatchEmbed(nnx.Module):
    """Patches of latents, and text embeddings, to tokens."""

    def __init__(self, config: TransformerConfig, rngs: nnx.Rngs):
        inputs = config.latent_channels * config.patch_size**2
        self.proj = Linear(inputs, config.width, (None, "embed"), config.dtype, rngs)
        if config.text_dim:
            self.text_proj = Linear(config.text_dim, config.width, (None, "embed"), config.dtype, rngs)


class TimeEmbedding(nnx.Module):
    """Timesteps to the embedding that every AdaLN projects from."""

    def __init__(self, config: TransformerConfig, rngs: nnx.Rngs):
        self.width = config.width
        self.linear_1 = Linear(config.width, config.time_embed_dim, ("embed", None), config.dtype, rngs)
        self.linear_2 = Linear(config.time_embed_dim, config.time_embed_dim, (None, None), config.dtype, rngs)

    def __call__(self, timesteps: jax.Array) -> jax.Array:
        """[...] -> [..., T], before AdaLN's activation."""
        return self.linear_2(jax.nn.silu(self.linear_1(embeddings.timestep_features(timesteps, self.width))))


class MultiViewTransformer(nnx.Module):
    """CogVideoX's transformer over a reference image and V views x L latent frames.

    Parameters are float32 and named as in diffusers, layers stacked along a leading axis (`blocks.*`). Create it inside
    `jax.jit` under `parallel.use_mesh(mesh)` for parameters that are sharded from the start; without a mesh it lives on
    one device.

    Args:
      config: sizes and options; `self.config` may be replaced for the same weights where only options differ.
      rngs: Flax random streams; uses `params`.
    """

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        self.config = config
        outputs = config.latent_channels * config.patch_size**2
        with nnx.use_eager_sharding(False):  # without a mesh, too, parameters can be made
            self.patch_embed = PatchEmbed(config, rngs)
            if config.prompt_tokens:
                self.prompt = nnx.Param(jnp.zeros((config.prompt_tokens, config.text_dim)), out_sharding=(None, None))
            if config.conditioning_channels:
                # Zero at first, so that adding maps to a pretrained model changes nothing until they are trained.
                inputs = config.conditioning_channels * config.patch_size**2
                self.conditioning_embed = Linear(inputs, config.width, (None, "embed"), config.dtype, rngs, zero=True)
            self.time_embedding = TimeEmbedding(config, rngs)
            self.blocks = _stack(config, rngs)
            self.norm_final = LayerNorm(config.width, config.norm_eps)
            self.norm_out = AdaLayerNorm(config, 2, rngs)
            self.proj_out = Linear(config.width, outputs, ("embed", None), config.dtype, rngs)
            if config.skip_width:
                self.skip = PatchSkip(config, rngs)
            if config.detail_width:
                self.detail = DetailHead(config, rngs)
        nnx.update(self, jax.tree.map(_shard, nnx.state(self), is_leaf=lambda leaf: isinstance(leaf, nnx.Variable)))

    def __call__(
        self,
        latents: jax.Array,
        timesteps: jax.Array,
        *,
        conditioning: jax.Array | None = None,
        reference_latents: jax.Array | None = None,
        reference_conditioning: jax.Array | None = None,
        text: jax.Array | None = None,
    ) -> jax.Array:
        """Predict v.

        Args:
          latents: [B, V, L, h, w, C], noisy or clean; h and w multiples of the patch size.
          timesteps: [B, V, L], or [B] shared by all views and frames; 0 for clean frames. Any real dtype.
          conditioning: [B, V, L, h, w, Cc] maps; None is the same as zeros.
          reference_latents: [B, h, w, C] of the reference image, clean; at timestep 0 and temporal position 0.
          reference_conditioning: [B, h, w, Cc] maps of the reference image.
          text: [B, T, text_dim] text embeddings, padding included (CogVideoX does not mask it). Where none is given,
            the model's own prompt is read, if it has one.

        Returns:
          [B, V, L, h, w, C] float32: the v prediction of the views, none for the reference.

        Raises:
          ValueError: shapes that do not belong together, or an input the config has no parameters for.
        """
        self._check(latents, timesteps, conditioning, reference_latents, reference_conditioning, text)
        batch, views, frames, height, width, _ = latents.shape
        grid = (height // self.config.patch_size, width // self.config.patch_size)
        has_reference = reference_latents is not None

        noisy = self._lay(_with_reference(latents, reference_latents))  # [B, P, G, C p p]
        video = self.patch_embed.proj(noisy)  # [B, P, G, D]
        maps = self._maps(latents, conditioning, reference_conditioning, has_reference)
        if maps is not None:
            video += self.conditioning_embed(maps)
        positions, rotary = self._positions(frames, views, grid, video.shape[1], has_reference)
        if positions is not None:
            video = (video + positions[0] + positions[1]).astype(video.dtype)
        text = self._text_tokens(text, batch)

        grouped, of_text = _group_timesteps(timesteps, views, frames, has_reference)
        time = jax.nn.silu(self.time_embedding(grouped))[:, None]  # [B, 1, G, E]
        text_time = jax.nn.silu(self.time_embedding(of_text))[:, None]  # [B, 1, E]
        video = self._run_blocks(video, text, (time, text_time), rotary, math.prod(grid) * video.shape[2])
        return self._read(video, noisy, maps, time, has_reference, (height, width)).reshape(latents.shape)

    def _lay(self, x: jax.Array) -> jax.Array:
        """[B, G, h, w, C] -> [B, P, G, C p p], P padded."""
        x = embeddings.patchify(x.astype(self.config.dtype), self.config.patch_size)
        padding = -x.shape[1] % math.lcm(self.config.pad_patches_to, parallel.axis_size("tokens"))
        return parallel.constrain(jnp.pad(x, ((0, 0), (0, padding), (0, 0), (0, 0))), "batch", "tokens", None, None)

    def _maps(
        self,
        latents: jax.Array,
        conditioning: jax.Array | None,
        reference_conditioning: jax.Array | None,
        has_reference: bool,
    ) -> jax.Array | None:
        """Maps [B, P, G, Cc p p], zeros for those that are not given; None where nothing reads them."""
        if conditioning is None and reference_conditioning is None and not self.config.detail_width:
            return None
        if conditioning is None:
            conditioning = jnp.zeros((*latents.shape[:-1], self.config.conditioning_channels), latents.dtype)
        if has_reference and reference_conditioning is None:
            reference_conditioning = jnp.zeros_like(conditioning[:, 0, 0])
        return self._lay(_with_reference(conditioning, reference_conditioning))

    def _text_tokens(self, text: jax.Array | None, batch: int) -> jax.Array | None:
        """[B, T, text_dim], or the model's own prompt -> [B, T, D]."""
        if text is None and self.config.prompt_tokens:
            text = jnp.broadcast_to(self.prompt.get_value(), (batch, *self.prompt.shape))
        return None if text is None else self.patch_embed.text_proj(text.astype(self.config.dtype))

    def _read(
        self,
        video: jax.Array,
        noisy: jax.Array,
        maps: jax.Array | None,
        time: jax.Array,
        has_reference: bool,
        size: tuple[int, int],
    ) -> jax.Array:
        """The layers' tokens [B, P, G, D], and what passes them by, -> v [B, V L, h, w, C] float32."""
        config, patch = self.config, self.config.patch_size
        patches, views = math.prod(size) // patch**2, slice(int(has_reference), None)
        shift, scale = self.norm_out.modulation(time)
        video = self.norm_out(self.norm_final(video), shift, scale, jnp.dtype(config.dtype))

        def unpatch(tokens: jax.Array, layer: Linear) -> jax.Array:  # [B, P, G, X] -> [B, V L, h, w, C]
            return embeddings.to_latents(tokens[:, :patches, views], *layer.weights(), patch, *size).astype(jnp.float32)

        out = unpatch(video, self.proj_out)
        if config.skip_width:
            out += unpatch(self.skip.scaled(noisy, time), self.skip.proj_out)
        if config.detail_width:
            details = self.detail(
                noisy[:, :, views],
                maps[:, :, views],
                video[:, :, views],
                time if time.shape[2] == 1 else time[:, :, views],
            )[:, :patches]
            out += embeddings.unpatchify(details, patch, *size).astype(jnp.float32)
        return out

    def _run_blocks(
        self,
        video: jax.Array,
        text: jax.Array | None,
        time: tuple[jax.Array, jax.Array],
        rotary: tuple[jax.Array, jax.Array] | None,
        real: int,
    ) -> jax.Array:
        """All layers, scanned; what the backward pass keeps is the config's `remat`."""
        graph, state = nnx.split(self.blocks)

        def layer(carry, layer_state):
            video, text = nnx.merge(graph, layer_state)(*carry, time, rotary, real)
            return (parallel.constrain(video, "batch", "tokens", None, None), text), None

        if self.config.remat != "none":
            layer = jax.checkpoint(layer, policy=_POLICIES[self.config.remat], prevent_cse=False)
        return jax.lax.scan(layer, (video, text), state)[0][0]

    def _positions(
        self, frames: int, views: int, grid: tuple[int, int], padded: int, has_reference: bool
    ) -> tuple[tuple[jax.Array, jax.Array] | None, tuple[jax.Array, jax.Array] | None]:
        """CogVideoX's positions, the same for every view, the reference at frame 0.

        Either what is added to the tokens, [P, 1, D] and [G, D], or the rotary tables, [P G, d] twice.
        """
        config = self.config

        def by_group(table: jax.Array, axis: int) -> jax.Array:  # L -> G along `axis`
            first = jax.lax.slice_in_dim(table, 0, 1, axis=axis)
            return jnp.concatenate([first] * has_reference + [table] * views, axis=axis)

        def pad(table: jax.Array) -> jax.Array:  # P -> padded P
            return jnp.pad(table, [(0, padded - table.shape[0])] + [(0, 0)] * (table.ndim - 1))

        if config.position == "sincos":
            scales = (config.spatial_scale, config.temporal_scale)
            space, time = embeddings.sincos_positions(frames, *grid, config.width, *scales)
            return (pad(space)[:, None], by_group(time, 0)), None
        base = (config.sample_height // config.patch_size, config.sample_width // config.patch_size)
        tables = embeddings.rotary_positions(frames, *grid, config.head_dim, *base)
        return None, tuple(pad(by_group(table, 1)).reshape(-1, config.head_dim) for table in tables)

    def _check(self, latents, timesteps, conditioning, reference_latents, reference_conditioning, text) -> None:
        """Refuse shapes that do not belong together, before anything is computed."""
        config, channels = self.config, self.config.latent_channels
        if latents.ndim != 6 or latents.shape[-1] != channels:
            raise ValueError(f"latents are {latents.shape}, not [B, V, L, h, w, {channels}]")
        batch, views, frames, height, width, _ = latents.shape
        if height % config.patch_size or width % config.patch_size:
            raise ValueError(f"latents of {height} x {width} are no multiple of the patch size {config.patch_size}")
        wanted = {
            "timesteps": (timesteps, ((batch,), (batch, views, frames))),
            "conditioning": (conditioning, ((*latents.shape[:-1], config.conditioning_channels),)),
            "reference_latents": (reference_latents, ((batch, height, width, channels),)),
            "reference_conditioning": (reference_conditioning, ((batch, height, width, config.conditioning_channels),)),
        }
        for name, (value, shapes) in wanted.items():
            if value is not None and value.shape not in shapes:
                raise ValueError(f"{name} is {value.shape}, not {' or '.join(map(str, shapes))}")
        if not config.conditioning_channels and (conditioning is not None or reference_conditioning is not None):
            raise ValueError("conditioning was given to a model that has none (conditioning_channels is 0)")
        if reference_conditioning is not None and reference_latents is None:
            raise ValueError("reference_conditioning was given without reference_latents")
        if text is not None and (not config.text_dim or text.ndim != 3 or text.shape[::2] != (batch, config.text_dim)):
            raise ValueError(f"text is {text.shape}, not [{batch}, T, {config.text_dim}] (0: a model without text)")


def _stack(config: TransformerConfig, rngs: nnx.Rngs) -> Block:
    """`num_layers` blocks in one, every parameter with a leading axis of layers."""

    @nnx.split_rngs(splits=config.num_layers)
    @nnx.vmap(in_axes=0, out_axes=0, transform_metadata={nnx.PARTITION_NAME: "layers"})
    def create(rngs: nnx.Rngs) -> Block:
        return Block(config, rngs)

    return create(rngs)


def _shard(variable: nnx.Variable) -> nnx.Variable:
    """The parameter laid out over the current mesh by its logical axes."""
    return variable.replace(parallel.constrain(variable.get_value(), *variable.get_metadata("out_sharding")))


def _with_reference(views: jax.Array, reference: jax.Array | None) -> jax.Array:
    """[B, V, L, h, w, X] and [B, h, w, X] -> [B, G, h, w, X], the reference first."""
    frames = views.reshape(views.shape[0], -1, *views.shape[3:])
    return frames if reference is None else jnp.concatenate([reference[:, None].astype(frames.dtype), frames], axis=1)


def _group_timesteps(timesteps: jax.Array, views: int, frames: int, has_reference: bool) -> tuple[jax.Array, jax.Array]:
    """[B] or [B, V, L] -> one timestep per latent frame [B, G] (or [B, 1], shared) and the text's [B].

    The reference is clean: timestep 0. Text belongs to no frame; it takes the noisiest frame's.
    """
    if timesteps.ndim == 1 and not has_reference:
        return timesteps[:, None], timesteps
    if timesteps.ndim == 1:
        timesteps = jnp.broadcast_to(timesteps[:, None, None], (timesteps.shape[0], views, frames))
    grouped = timesteps.reshape(timesteps.shape[0], -1)
    of_text = grouped.max(axis=1)
    return (jnp.pad(grouped, ((0, 0), (1, 0))) if has_reference else grouped), of_text
