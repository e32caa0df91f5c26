"""Weights of a smaller model as the start of a larger one that computes the same at first.

Deeper: the layers between are copies of the layer before them whose gates are closed (Net2DeeperNet, arXiv 1511.05641,
with AdaLN's gates in place of identity weights), so that they add nothing until they are trained. Other maps: channels
that the smaller model has not seen start at zero, those that the larger one does not draw are left out.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from mvp4d.core.errors import UserError
from mvp4d_jax.models.checkpoint_files import Weights
from mvp4d_jax.models.checkpoint_names import CONDITIONING
from mvp4d_jax.models.transformer_config import TransformerConfig

_BLOCK, _GATED = "transformer_blocks.", (".norm1.linear.", ".norm2.linear.")
_OF_PIXEL = "detail.of_pixel.weight"  # [width, latent channels and channels of maps]


@dataclasses.dataclass(frozen=True)
class GrownWeights(Weights):
    """The tensors of a smaller model's folder under the names and shapes of a larger one's.

    Attributes:
      held: the folder's own.
      sources: name -> its name there, and whether its gates are closed.
      maps: [Cc] which of the folder's channels of maps each of the larger model's is; -1: none of them.
      latents: channels of the latents, which stand before the maps in `_OF_PIXEL`.
      streams: 2 with a text stream, whose shift, scale and gate follow the video's; else 1.
    """

    held: Weights
    sources: dict[str, tuple[str, bool]]
    maps: np.ndarray
    latents: int
    streams: int

    def read(self, name: str) -> np.ndarray:
        source, closed = self.sources[name]
        array = self.held.read(source)
        if closed:
            array = array.copy()
            array.reshape(self.streams, 3, -1)[:, 2] = 0  # shift, scale, gate
        columns = _map_columns(name, self.maps, self.latents)
        if columns is None:
            return array
        taken = np.take(array, np.maximum(columns, 0), axis=1)
        taken[:, columns < 0] = 0
        return taken


def grow(
    weights: Weights, source: TransformerConfig, target: TransformerConfig, maps: np.ndarray
) -> tuple[GrownWeights, TransformerConfig]:
    """The weights of a model of `source` as those of one with the layers and maps of `target`, and its config.

    Args:
      maps: [Cc of the target] as `geometry.conditioning.map_channels` gives them.

    Raises:
      UserError: the target has fewer layers.
    """
    if target.num_layers < source.num_layers:
        raise UserError(
            weights.folder,
            f"has num_layers {source.num_layers}, the model {target.num_layers}",
            "choose as many or more: layers can be added, not left out",
        )
    origin = [layer * source.num_layers // target.num_layers for layer in range(target.num_layers)]
    sources = {name: (name, False) for name in weights.entries if not name.startswith(_BLOCK)}
    for layer, there in enumerate(origin):
        copied, prefix = layer > 0 and origin[layer - 1] == there, f"{_BLOCK}{there}."
        for name in weights.entries:
            if name.startswith(prefix):
                ours = f"{_BLOCK}{layer}.{name.removeprefix(prefix)}"
                sources[ours] = name, copied and any(part in name for part in _GATED)
    entries = {}
    for name, (there, _) in sources.items():
        entry, columns = weights.entries[there], _map_columns(name, maps, source.latent_channels)
        shape = entry.shape if columns is None else (entry.shape[0], len(columns), *entry.shape[2:])
        entries[name] = dataclasses.replace(entry, shape=shape)
    grown = dataclasses.replace(source, num_layers=target.num_layers, conditioning_channels=len(maps))
    streams = 2 if source.text_dim else 1
    return GrownWeights(weights.folder, entries, weights, sources, maps, source.latent_channels, streams), grown


def _map_columns(name: str, maps: np.ndarray, latents: int) -> np.ndarray | None:
    """Which columns (axis 1) of a tensor that takes maps the larger model's are, -1: zeros; None: it takes none."""
    if name == f"{CONDITIONING}.weight":
        return maps
    if name == _OF_PIXEL:
        return np.concatenate([np.arange(latents), np.where(maps < 0, -1, latents + maps)])
    return None
