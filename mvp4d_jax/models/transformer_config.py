"""Sizes and options of the multi-view transformer."""

import dataclasses
from typing import Any

POSITIONS = ("sincos", "rotary")
REMAT_POLICIES = ("none", "full", "attention", "matmuls")
ATTENTION_BACKENDS = ("xla", "cudnn", "splash")
DTYPES = ("float32", "bfloat16")


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
    """The shape of a `MultiViewTransformer`, and how it is computed.

    The first group decides the parameters; the second only how they are used, and may be replaced freely
    (`dataclasses.replace`) for the same weights.

    Attributes:
      num_layers, num_heads, head_dim: blocks; heads of attention; channels of a head. Width D = num_heads * head_dim.
      latent_channels: channels of the autoencoder's latent, in and out.
      patch_size: side of the square of latents that makes a token.
      mlp_ratio: hidden width of the feed-forward layer over D.
      time_embed_dim: width of the timestep embedding that every AdaLN projects from.
      text_dim: width of text embeddings; 0: a model without a text stream.
      prompt_tokens: tokens of text that the model holds as parameters and reads where it is given none: CogVideoX's
        encoding of the empty prompt (226), which every layer was trained to attend to; 0: none.
      conditioning_channels: channels of the conditioning maps; 0: none (plain CogVideoX).
      skip_width: width of the linear path from a patch of noisy latents to its prediction, past the layers
        (`PatchSkip`); 0: none (CogVideoX). For models not much wider than a patch has values.
      detail_width: hidden width of the network for every latent pixel that corrects the prediction (`DetailHead`);
        0: none (CogVideoX). For models whose tokens cannot resolve what they cover.
      position: "sincos", added to the tokens (2B), or "rotary", turning queries and keys (5B).
      spatial_scale, temporal_scale: what sin-cos positions are divided by.
      sample_height, sample_width: latent size that rotary positions were trained at; other sizes are fitted into it.
      norm_eps, qk_norm_eps: of the LayerNorms over D, and over a head of queries and keys.
      dtype: "float32" or "bfloat16", what is computed in; parameters, norms and softmax stay float32.
      remat: what the backward pass recomputes. "none": nothing; "full": every layer; "attention": every layer but its
        attention; "matmuls": all but the products with weights.
      attention_backend: "xla", "cudnn", "splash"; None chooses by device.
      pad_patches_to: patches of a latent frame are padded to a multiple of this (and of the mesh's `context` axis).
    """

    num_layers: int = 30
    num_heads: int = 30
    head_dim: int = 64
    latent_channels: int = 16
    patch_size: int = 2
    mlp_ratio: int = 4
    time_embed_dim: int = 512
    text_dim: int = 4096
    prompt_tokens: int = 0
    conditioning_channels: int = 56
    skip_width: int = 0
    detail_width: int = 0
    position: str = "sincos"
    spatial_scale: float = 1.875
    temporal_scale: float = 1.0
    sample_height: int = 60
    sample_width: int = 90
    norm_eps: float = 1e-5
    qk_norm_eps: float = 1e-6

    dtype: str = "float32"
    remat: str = "none"
    attention_backend: str | None = None
    pad_patches_to: int = 1

    def __post_init__(self):
        for field, allowed in (
            ("position", POSITIONS),
            ("remat", REMAT_POLICIES),
            ("dtype", DTYPES),
            ("attention_backend", (None, *ATTENTION_BACKENDS)),
        ):
            if getattr(self, field) not in allowed:
                raise ValueError(f"{field} is {getattr(self, field)!r}; allowed are {', '.join(map(repr, allowed))}")
        for field in (
            "num_layers",
            "num_heads",
            "head_dim",
            "latent_channels",
            "sample_height",
            "sample_width",
            "patch_size",
            "mlp_ratio",
            "time_embed_dim",
            "pad_patches_to",
        ):
            if getattr(self, field) < 1:
                raise ValueError(f"{field} is {getattr(self, field)}; it must be positive")
        for field in ("text_dim", "conditioning_channels", "skip_width", "detail_width"):
            if getattr(self, field) < 0:
                raise ValueError(f"{field} is {getattr(self, field)}; it must be positive, or 0 for none")
        if self.prompt_tokens < 0 or (self.prompt_tokens and not self.text_dim):
            raise ValueError(
                f"prompt_tokens is {self.prompt_tokens} with text_dim {self.text_dim}; tokens of a prompt "
                "need a text stream"
            )
        if self.detail_width and not self.conditioning_channels:
            raise ValueError("detail_width is set without conditioning_channels, whose maps it draws from")
        if self.head_dim % 16:  # a quarter goes to time, three eighths each to height and width, in sine-cosine pairs
            raise ValueError(f"head_dim is {self.head_dim}; it must be a multiple of 16")

    @property
    def width(self) -> int:
        """D, the width of the tokens."""
        return self.num_heads * self.head_dim

    @classmethod
    def named(cls, name: str, **changes: Any) -> "TransformerConfig":
        """A size by name, with `changes` applied.

        tiny: 9 M parameters, trains on two CPU cores at 16 x 16 latents. small: 130 M, one GPU. 2b, 5b: CogVideoX's.
        """
        if name not in _NAMED:
            raise ValueError(f"no transformer is called {name!r}; there are {', '.join(_NAMED)}")
        return cls(**{**_NAMED[name], **changes})


def forward_flops(config: TransformerConfig, tokens: int) -> float:
    """Multiply-adds x 2 of one sample's forward pass: the blocks' products with weights, and attention over all tokens.

    Per token and layer: queries, keys, values and output 4 D^2, feed-forward 2 mlp_ratio D^2; attention 2 N D.
    Embeddings, AdaLN and norms (below 2 % at CogVideoX's widths) and short paths (with the embeddings, a third as much
    again for `tiny`) are left out, so that utilisation is not flattered.

    Args:
      tokens: N of one sample: the reference's, text's and every view's.
    """
    width = config.width
    weights = config.num_layers * (4 + 2 * config.mlp_ratio) * width**2
    attention = config.num_layers * 2 * tokens * width
    return 2.0 * tokens * (weights + attention)


_NAMED: dict[str, dict[str, Any]] = {
    # Its autoencoder halves the picture twice, not three times: a token covers 16 x 16 pixels all the same.
    "tiny": {
        "num_layers": 8,
        "num_heads": 4,
        "latent_channels": 24,
        "patch_size": 4,
        "skip_width": 384,
        "detail_width": 128,
        "time_embed_dim": 128,
        "text_dim": 0,
    },
    "small": {"num_layers": 16, "num_heads": 12, "time_embed_dim": 256, "text_dim": 0},
    "2b": {},
    "5b": {"num_layers": 42, "num_heads": 48, "position": "rotary"},
}
