"""Tables from diffusers' parameter names to the leaves of our modules, with the change of layout between the two.

One entry per checkpoint tensor, written out for a config, so that what is missing and what is left over is a difference
of two sets. Layouts:

    same     unchanged
    linear   theirs [O, I]                 ours [I, O]
    point3d  theirs [O, I, 1, 1, 1]        ours [I, O]
    patch    theirs [O, C, p, p]           ours [C p p, O]
    conv2d   theirs [O, I, kh, kw]         ours [kh, kw, I, O]
    conv3d   theirs [O, I, kt, kh, kw]     ours [kt, kh, kw, I, O]
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np

from mvp4d_jax.models.config import AutoencoderConfig
from mvp4d_jax.models.transformer_config import TransformerConfig

_TO_OURS = {"conv2d": (2, 3, 1, 0), "conv3d": (2, 3, 4, 1, 0)}


@dataclasses.dataclass(frozen=True)
class Target:
    """Where a checkpoint's tensor goes.

    Attributes:
      path: of the leaf in our module's state; list indices are integers, as in `nnx.to_flat_state`.
      layout: how the two differ, see above.
      layer: index along the first axis of a leaf that stacks all layers; None for a leaf of its own.
      patch: side p of the `patch` layout.
    """

    path: tuple[str | int, ...]
    layout: str
    layer: int | None = None
    patch: int = 0

    def shape(self, leaf: Sequence[int]) -> tuple[int, ...]:
        """The tensor's shape in the checkpoint, from the leaf's shape in our module."""
        own = tuple(leaf if self.layer is None else leaf[1:])
        if self.layout == "linear":
            return own[::-1]
        if self.layout == "point3d":
            return (*own[::-1], 1, 1, 1)
        if self.layout == "patch":
            return own[1], own[0] // self.patch**2, self.patch, self.patch
        if self.layout in _TO_OURS:
            return (own[-1], own[-2], *own[:-2])
        return own

    def to_ours(self, array: np.ndarray) -> np.ndarray:
        """A checkpoint's tensor in our layout (a view)."""
        if self.layout in ("linear", "point3d", "patch"):
            return array.reshape(array.shape[0], -1).T
        return array.transpose(_TO_OURS[self.layout]) if self.layout in _TO_OURS else array

    def to_theirs(self, array: np.ndarray) -> np.ndarray:
        """Our leaf (one layer of it) in the checkpoint's layout, contiguous."""
        if self.layout in ("linear", "point3d", "patch"):
            leaf = array.shape if self.layer is None else (1, *array.shape)
            return np.ascontiguousarray(array.T).reshape(self.shape(leaf))
        if self.layout in _TO_OURS:
            array = array.transpose(np.argsort(_TO_OURS[self.layout]))
        return np.ascontiguousarray(array)


Table = dict[str, Target]


def _add(table: Table, name: str, path: tuple[str | int, ...], layout: str, *, scale: bool = False, **options) -> None:
    """A weight and the bias beside it."""
    table[f"{name}.weight"] = Target((*path, "scale" if scale else "kernel"), layout, **options)
    table[f"{name}.bias"] = Target((*path, "bias"), "same", layer=options.get("layer"))


def autoencoder_table(config: AutoencoderConfig) -> Table:
    """Every tensor of diffusers' `AutoencoderKLCogVideoX` of this config, in the order of its layers."""
    table: Table = {}
    widths, depth = config.block_out_channels, config.layers_per_block

    def norm(name: str, path: tuple, spatial: bool) -> None:
        if spatial:
            _add(table, f"{name}.norm_layer", (*path, "norm"), "same", scale=True)
            _add(table, f"{name}.conv_y.conv", (*path, "scale"), "point3d")
            _add(table, f"{name}.conv_b.conv", (*path, "shift"), "point3d")
        else:
            _add(table, name, path, "same", scale=True)

    def resnets(name: str, path: tuple, stage: Sequence[int], spatial: bool) -> None:
        for index, (before, after) in enumerate(itertools.pairwise(stage)):
            here, there = f"{name}.resnets.{index}", (*path, "resnets", index)
            for half in (1, 2):
                norm(f"{here}.norm{half}", (*there, f"norm{half}"), spatial)
                _add(table, f"{here}.conv{half}.conv", (*there, f"conv{half}"), "conv3d")
            if before != after:
                _add(table, f"{here}.conv_shortcut", (*there, "conv_shortcut"), "point3d")

    for coder, blocks, sampler in (("encoder", "down_blocks", "downsamplers"), ("decoder", "up_blocks", "upsamplers")):
        spatial = coder == "decoder"
        ordered = widths[::-1] if spatial else widths
        _add(table, f"{coder}.conv_in.conv", (coder, "conv_in"), "conv3d")
        resnets(f"{coder}.mid_block", (coder, "middle"), (widths[-1],) * 3, spatial)
        for level, width in enumerate(ordered):
            name, path = f"{coder}.{blocks}.{level}", (coder, "blocks", level)
            resnets(name, path, (ordered[max(level - 1, 0)], *[width] * (depth + spatial)), spatial)
            if level < len(ordered) - 1:
                _add(table, f"{name}.{sampler}.0.conv", (*path, "resample"), "conv2d")
        norm(f"{coder}.norm_out", (coder, "norm_out"), spatial)
        _add(table, f"{coder}.conv_out.conv", (coder, "conv_out"), "conv3d")
    return table


# Names of one layer: diffusers' name, path in our block, whether the weight is a norm's scale.
_BLOCK = (
    ("norm1.linear", ("norm1", "linear"), False),
    ("norm1.norm", ("norm1", "norm"), True),
    ("attn1.to_q", ("attn", "to_q"), False),
    ("attn1.to_k", ("attn", "to_k"), False),
    ("attn1.to_v", ("attn", "to_v"), False),
    ("attn1.to_out.0", ("attn", "to_out"), False),
    ("attn1.norm_q", ("attn", "norm_q"), True),
    ("attn1.norm_k", ("attn", "norm_k"), True),
    ("norm2.linear", ("norm2", "linear"), False),
    ("norm2.norm", ("norm2", "norm"), True),
    ("ff.net.0.proj", ("ff", "up"), False),
    ("ff.net.2", ("ff", "down"), False),
)
_DETAIL = ("of_pixel", "of_token", "modulation", "hidden", "out")
CONDITIONING = "conditioning_embed"  # what a multi-view model has, and CogVideoX has not
TEXT = "patch_embed.text_proj"
PROMPT = "prompt_embeds"  # likewise ours: diffusers hands it in


def transformer_table(config: TransformerConfig) -> Table:
    """Every tensor of diffusers' `CogVideoXTransformer3DModel` of this config, and of our own modules."""
    table: Table = {}
    _add(table, "patch_embed.proj", ("patch_embed", "proj"), "patch", patch=config.patch_size)
    if config.text_dim:
        _add(table, TEXT, ("patch_embed", "text_proj"), "linear")
    if config.prompt_tokens:
        table[PROMPT] = Target(("prompt",), "same")
    if config.conditioning_channels:
        _add(table, CONDITIONING, ("conditioning_embed",), "patch", patch=config.patch_size)
    for half in ("linear_1", "linear_2"):
        _add(table, f"time_embedding.{half}", ("time_embedding", half), "linear")
    for layer in range(config.num_layers):
        for name, path, is_norm in _BLOCK:
            _add(
                table,
                f"transformer_blocks.{layer}.{name}",
                ("blocks", *path),
                "same" if is_norm else "linear",
                scale=is_norm,
                layer=layer,
            )
    _add(table, "norm_final", ("norm_final",), "same", scale=True)
    _add(table, "norm_out.linear", ("norm_out", "linear"), "linear")
    _add(table, "norm_out.norm", ("norm_out", "norm"), "same", scale=True)
    _add(table, "proj_out", ("proj_out",), "linear")
    for layer in ("proj_in", "gain", "proj_out") if config.skip_width else ():
        _add(table, f"skip.{layer}", ("skip", layer), "linear")
    for layer in _DETAIL if config.detail_width else ():
        _add(table, f"detail.{layer}", ("detail", layer), "linear")
    return table
