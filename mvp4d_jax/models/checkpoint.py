"""Model weights on disk: safetensors and config.json, in the diffusers layout.

Our folders are diffusers folders: the same names, shapes and dtypes, so that PyTorch users can load them. A multi-view
transformer has two tensors more, `conditioning_embed.{weight,bias}`, and `conditioning_channels` in its config; without
a text stream it lacks `patch_embed.text_proj` and the text half of every `norm*.linear`. A release folder holds `vae/`,
`transformer/` and `mvp4d.json` (what it was trained for).

Loading goes leaf by leaf: one leaf (all layers of one parameter) is in host memory at a time beside the model itself.
Every tensor must have its leaf and every leaf its tensor, of the right shape; else one error lists all that differ.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import AbstractMesh, Mesh
from jax.typing import DTypeLike

from mvp4d.core.errors import UserError
from mvp4d.core.files import atomic_folder
from mvp4d_jax import parallel
from mvp4d_jax.models.autoencoder import VideoAutoencoder
from mvp4d_jax.models.checkpoint_config import Config, read_config, to_json
from mvp4d_jax.models.checkpoint_files import DTYPES, Weights, open_weights, shorten, write_weights
from mvp4d_jax.models.checkpoint_names import PROMPT, Table, autoencoder_table, transformer_table
from mvp4d_jax.models.config import AutoencoderConfig
from mvp4d_jax.models.growth import grow
from mvp4d_jax.models.transformer import MultiViewTransformer
from mvp4d_jax.models.transformer_config import TransformerConfig

SHARD_BYTES = 5 * 10**9  # diffusers' default
# Fields of TransformerConfig that only say how the same weights are used.
_OPTIONS = {
    "dtype",
    "remat",
    "attention_backend",
    "pad_patches_to",
    "spatial_scale",
    "temporal_scale",
    "sample_height",
    "sample_width",
}
_ADAPTABLE = {"text_dim", "prompt_tokens", "conditioning_channels"}


@dataclasses.dataclass(frozen=True)
class Tensors:
    """A checkpoint as a model of another config needs it: {name: (dtype, shape)}, and how to read one."""

    facts: dict[str, tuple[str, tuple[int, ...]]]
    read: Callable[[str], np.ndarray]


def abstract_model(config: Config) -> nnx.Module:
    """The model of a config, its arrays replaced by their shapes; nothing is allocated."""
    if isinstance(config, AutoencoderConfig):
        return nnx.eval_shape(lambda: VideoAutoencoder(config, rngs=_OneKey(jax.random.key(0))))
    return nnx.eval_shape(lambda: MultiViewTransformer(config, rngs=nnx.Rngs(0)))


@dataclasses.dataclass(frozen=True)
class _OneKey:
    """Stands in for `nnx.Rngs` where nothing is drawn: a new key for every parameter takes as long as all the rest."""

    key: jax.Array

    def params(self) -> jax.Array:
        return self.key


@functools.cache  # tracing a constructor takes seconds, and one load asks three times
def _abstract_parts(config: Config) -> tuple[nnx.GraphDef, nnx.State]:
    return nnx.split(abstract_model(config))


def table_of(config: Config) -> Table:
    """Names of the checkpoint's tensors and where they go."""
    return autoencoder_table(config) if isinstance(config, AutoencoderConfig) else transformer_table(config)


def expected_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """{name: shape} of every tensor of the checkpoint of a model of this config; nothing is allocated."""
    leaves = {path: variable.shape for path, variable in nnx.to_flat_state(_abstract_parts(config)[1])}
    table = table_of(config)
    unfilled = set(leaves) - {target.path for target in table.values()}
    if unfilled:
        raise AssertionError(f"no tensor of the checkpoint fills {unfilled}")
    return {name: target.shape(leaves[target.path]) for name, target in table.items()}


# ----- reading


def adapt(weights: Weights, source: Config, target: Config, prompt: np.ndarray | None = None) -> Tensors:
    """The tensors of `weights` (a checkpoint of `source`) as a model of `target` takes them.

    Three differences are bridged: conditioning that the checkpoint lacks starts at zero; conditioning, a text stream or
    a prompt that the model lacks is left out.

    Args:
      prompt: [T, text_dim], for a model whose prompt the checkpoint lacks.

    Raises:
      UserError: the configs differ otherwise; tensors are missing, left over or misshapen.
    """
    _check_same_architecture(weights.folder, source, target, prompt)
    facts = {name: (entry.dtype, entry.shape) for name, entry in weights.entries.items()}
    check_tensors(weights.folder, {name: shape for name, (_, shape) in facts.items()}, expected_shapes(source))
    wanted = expected_shapes(target)
    common = next(iter(facts.values()))[0]
    facts = {name: (facts[name][0] if name in facts else common, shape) for name, shape in wanted.items()}

    def read(name: str) -> np.ndarray:
        dtype, shape = facts[name]
        if name == PROMPT and prompt is not None:
            return prompt.astype(DTYPES[dtype])
        if name not in weights.entries:
            return np.zeros(shape, DTYPES[dtype])
        # Where the text stream is left out, the first half of a modulation is the video's.
        return weights.read(name)[: shape[0]]

    return Tensors(facts, read)


def _check_same_architecture(folder: Path, source: Config, target: Config, prompt: np.ndarray | None) -> None:
    if type(source) is not type(target):
        raise UserError(folder, f"holds a model of {type(source).__name__}, not of {type(target).__name__}")
    free = _OPTIONS | _ADAPTABLE if isinstance(source, TransformerConfig) else {"scaling_factor"}
    for field in dataclasses.fields(source):
        theirs, ours = getattr(source, field.name), getattr(target, field.name)
        if field.name not in free and theirs != ours:
            raise UserError(
                folder, f"has {field.name} {theirs}, the model {ours}", "choose the size it was trained with"
            )
    if isinstance(source, TransformerConfig):
        if target.text_dim not in (0, source.text_dim):
            raise UserError(
                folder,
                f"has text of width {source.text_dim}, the model {target.text_dim}",
                "a text stream can be left out, not added",
            )
        held = source.prompt_tokens if prompt is None else len(prompt)
        if target.prompt_tokens not in (0, held):
            raise UserError(
                folder,
                f"holds {held or 'no'} prompt tokens, the model {target.prompt_tokens}",
                "write them into it with 'mvp4d convert --empty-prompt', or set prompt_tokens otherwise",
            )
        if source.conditioning_channels and target.conditioning_channels not in (0, source.conditioning_channels):
            raise UserError(
                folder,
                f"has {source.conditioning_channels} conditioning channels, the model {target.conditioning_channels}",
                "use the conditioning it was trained with",
            )


def check_tensors(where: Path, found: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]]) -> None:
    """Raises one UserError that lists tensors that are missing, left over or misshapen, if any are."""
    parts = []
    for label, names in (
        ("missing", [name for name in wanted if name not in found]),
        ("left over", [name for name in found if name not in wanted]),
    ):
        if names:
            parts.append(f"{len(names)} {label}: {shorten(names)}")
    misshapen = [
        f"{name} {shape} instead of {wanted[name]}"
        for name, shape in found.items()
        if name in wanted and shape != wanted[name]
    ]
    if misshapen:
        parts.append(f"{len(misshapen)} misshapen: {shorten(misshapen)}")
    if parts:
        raise UserError(
            where, f"tensors do not fit config.json ({'; '.join(parts)})", "take the config of these weights"
        )


def _load(
    folder: Path,
    target: Config | None,
    kind: type,
    shardings: Any,
    kernels: DTypeLike = np.float32,
    maps: np.ndarray | None = None,
) -> tuple[nnx.Module, Config]:
    source, _ = read_config(folder)
    if not isinstance(source, kind):
        raise UserError(folder, f"holds a model of {type(source).__name__}, not of {kind.__name__}")
    config = target or source
    tensors = adapt(*_grown(open_weights(folder), source, config, maps), config)
    by_leaf: dict[tuple, list[tuple[str, Any]]] = {}
    for name, where in table_of(config).items():
        by_leaf.setdefault(where.path, []).append((name, where))
    graph, state = _abstract_parts(config)
    filled = {}
    for path, variable in nnx.to_flat_state(state):
        leaf = np.empty(variable.shape, np.float32)
        for name, where in by_leaf[path]:
            leaf[() if where.layer is None else where.layer] = where.to_ours(tensors.read(name))
        leaf = leaf.astype(kernels, copy=False) if path[-1] == "kernel" else leaf
        filled[path] = variable.replace(_placed(leaf, _at(shardings, path)))
    return nnx.merge(graph, nnx.from_flat_state(filled)), config


def _grown(weights: Weights, source: Config, target: Config, maps: np.ndarray | None) -> tuple[Weights, Config]:
    """`models.growth.grow`, of weights that fit their own config; as they are where no maps are given."""
    if maps is None:
        return weights, source
    check_tensors(
        weights.folder, {name: entry.shape for name, entry in weights.entries.items()}, expected_shapes(source)
    )
    return grow(weights, source, target, maps)


def _at(tree: Any, path: Sequence[str | int]) -> Any:
    for key in path if isinstance(tree, Mapping) else ():
        tree = tree[key]
    return tree


def _placed(leaf: np.ndarray, sharding: jax.sharding.Sharding | None) -> jax.Array:
    if sharding is None:
        return jnp.asarray(leaf)
    return jax.make_array_from_callback(leaf.shape, sharding, lambda index: leaf[index])


def load_autoencoder(
    folder: Path | str, *, dtype: DTypeLike = jnp.float32, sharding: jax.sharding.Sharding | None = None
) -> tuple[VideoAutoencoder, AutoencoderConfig]:
    """Loads a video autoencoder (diffusers' or ours); parameters become float32.

    Args:
      folder: holds config.json and safetensors.
      dtype: what the model computes in.
      sharding: of every parameter; None: one device.

    Raises:
      UserError: a file is missing or damaged, another architecture, tensors that do not fit, NaN.
    """
    model, config = _load(Path(folder), None, AutoencoderConfig, sharding)
    model.dtype = jnp.dtype(dtype)
    return model, config


def load_transformer(
    folder: Path | str,
    config: TransformerConfig | None = None,
    *,
    shardings: Any = None,
    kernels: DTypeLike = np.float32,
    maps: np.ndarray | None = None,
) -> tuple[MultiViewTransformer, TransformerConfig]:
    """Loads a transformer (diffusers' CogVideoX or ours); parameters become float32.

    Args:
      folder: holds config.json and safetensors.
      config: the model to load into, default the folder's own. It may have conditioning that the folder lacks (it
        starts at zero, so that the model still computes what the checkpoint does), lack its text stream, and differ in
        how it computes (dtype, remat, attention, positions' scale).
      shardings: nested dictionaries of `jax.sharding.Sharding`, as `nnx.to_pure_dict` of the state is nested; every
        device then holds its part only. None: one device.
      kernels: dtype of the kernels. The model casts them to what it computes in where it uses them, so that kept in
        that they give the same numbers in half the memory; training keeps them in float32.
      maps: the folder's channel of maps for each of the model's (`conditioning.map_channels`): the model may then have
        other maps and more layers, which begin as nothing (`models.growth`). None: it has those of the folder.

    Raises:
      UserError: a file is missing or damaged, another architecture, tensors that do not fit, NaN.
    """
    return _load(Path(folder), config, TransformerConfig, shardings, kernels, maps)


def transformer_shardings(config: TransformerConfig, mesh: Mesh | AbstractMesh) -> dict[str, Any]:
    """How a transformer's parameters lie on a mesh: what `load_transformer` takes as `shardings`."""
    return nnx.to_pure_dict(parallel.parameter_shardings(_abstract_parts(config)[1], mesh))


def transformer_bytes(config: TransformerConfig, kernels: DTypeLike, mesh: Mesh | AbstractMesh) -> tuple[int, int]:
    """Memory of the weights of `load_transformer(kernels=...)`: in all, and of their parts on each device of a mesh."""
    leaves, width = nnx.to_pure_dict(_abstract_parts(config)[1]), np.dtype(jnp.dtype(kernels)).itemsize

    def size(path: Any, shape: tuple[int, ...]) -> int:
        return math.prod(shape) * (width if path[-1].key == "kernel" else 4)

    paths = jax.tree_util.tree_flatten_with_path(leaves)[0]
    layouts = jax.tree.leaves(transformer_shardings(config, mesh))
    return (
        sum(size(path, leaf.shape) for path, leaf in paths),
        sum(size(path, layout.shard_shape(leaf.shape)) for (path, leaf), layout in zip(paths, layouts, strict=True)),
    )


def check_transformer(
    folder: Path | str, config: TransformerConfig, maps: np.ndarray | None = None
) -> TransformerConfig:
    """Whether `load_transformer(folder, config, maps=maps)` would find its tensors; reads headers only. Raises as it.

    Returns:
      The config that the folder has of itself.
    """
    own, _ = read_config(Path(folder))
    if not isinstance(own, TransformerConfig):
        raise UserError(folder, "holds an autoencoder, not a transformer")
    adapt(*_grown(open_weights(Path(folder)), own, config, maps), config)
    return own


def autoencoder_bytes(folder: Path | str) -> int:
    """Memory of the weights of `load_autoencoder(folder)`, read off the files' headers."""
    return sum(4 * math.prod(entry.shape) for entry in open_weights(Path(folder)).entries.values())


# ----- writing

KIND = "folder of weights"  # as the marker of its folder says


def _save(folder: Path, model: nnx.Module, config: Config, dtype: str, shard_bytes: int, overwrite: bool) -> None:
    names = {str(kind): code for code, kind in DTYPES.items()}
    if dtype not in names:
        raise UserError("dtype", f"'{dtype}' is not one of {', '.join(names)}")
    code = names[dtype]
    leaves = {path: variable.get_value() for path, variable in nnx.to_flat_state(nnx.state(model, nnx.Param))}
    table = table_of(config)

    def read(name: str) -> np.ndarray:
        where = table[name]
        leaf = leaves[where.path]
        return where.to_theirs(np.asarray(leaf if where.layer is None else leaf[where.layer])).astype(DTYPES[code])

    tensors = [(name, code, shape) for name, shape in expected_shapes(config).items()]
    with _new_folder(folder, overwrite) as temporary:
        (temporary / "config.json").write_text(json.dumps(to_json(config), indent=2) + "\n", encoding="utf-8")
        write_weights(temporary, tensors, read, shard_bytes=shard_bytes)


def _new_folder(folder: Path, overwrite: bool):
    return atomic_folder(folder, overwrite=overwrite, kind=KIND)


def save_autoencoder(
    folder: Path | str,
    model: VideoAutoencoder,
    config: AutoencoderConfig,
    *,
    dtype: str = "float32",
    shard_bytes: int = SHARD_BYTES,
    overwrite: bool = False,
) -> None:
    """Writes an autoencoder that diffusers' `AutoencoderKLCogVideoX.from_pretrained` and we load; atomic.

    Args:
      dtype: "float32", "float16" or "bfloat16".
      shard_bytes: largest file; more is written as shards and an index.

    Raises:
      UserError: the folder exists and `overwrite` is False.
    """
    _save(Path(folder), model, config, dtype, shard_bytes, overwrite)


def save_transformer(
    folder: Path | str,
    model: MultiViewTransformer,
    config: TransformerConfig,
    *,
    dtype: str = "float32",
    shard_bytes: int = SHARD_BYTES,
    overwrite: bool = False,
) -> None:
    """Writes a transformer in the diffusers layout with our conditioning projection; see `save_autoencoder`."""
    _save(Path(folder), model, config, dtype, shard_bytes, overwrite)
