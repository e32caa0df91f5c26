"""Latents to frames on disk: views spread over devices, frames streamed, so that memory does not grow with V x F."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding

from mvp4d.core.files import atomic_file
from mvp4d_jax import parallel, processes
from mvp4d_jax.geometry.frame_by_frame import side_by_side
from mvp4d_jax.models.autoencoder import VideoAutoencoder, chunk_program, compiler_options, split_chunks
from mvp4d_jax.models.config import AutoencoderConfig
from mvp4d_jax.sampling.ahead import placed

SMALL = 1 << 20  # values of a picture in the first layer up to which a convolution keeps but one core busy


class Coder:
    """The autoencoder over a batch of views, spread over the mesh.

    Args:
      autoencoder: its latent scale is applied here.
      mesh: as many views are worked on at once as it has devices.
    """

    def __init__(self, autoencoder: VideoAutoencoder, mesh: Mesh):
        graph, state = nnx.split(autoencoder)
        self._state = jax.device_put(state, parallel.replicated(mesh))
        self.autoencoder, self.mesh = nnx.merge(graph, self._state), mesh

        def encode_views(state: nnx.State, video: jax.Array) -> jax.Array:  # every device its views
            spread = parallel.constrain(video, "views", None, None, None, None)
            return nnx.merge(graph, state).encode_latents(spread)

        with parallel.use_mesh(mesh):
            options = compiler_options()
        self._encode = jax.jit(encode_views, out_shardings=parallel.replicated(mesh), compiler_options=options)
        self._pixels = jax.jit(_pixels, out_shardings=parallel.replicated(mesh))

    def encode(self, video: np.ndarray) -> np.ndarray:
        """[V, F, H, W, 3] in [-1, 1] -> latents [V, L, h, w, C]; F = 1 + s k."""
        parts = self._batches(
            lambda part: np.asarray(self._encode(self._state, part)), video, math.prod(video.shape[2:4])
        )
        return np.concatenate(list(parts))[: len(video)]

    def decode(self, latents: np.ndarray) -> Iterator[np.ndarray]:
        """[V, L, h, w, C] -> the frames [F, H, W, 3] uint8 of each view, a few views at a time."""

        def frames_of(part: np.ndarray) -> np.ndarray:
            chunks = self.autoencoder.decode_stream(part / self.autoencoder.config.scaling_factor, self._place)
            return np.concatenate([np.asarray(self._pixels(chunk)) for chunk in chunks], axis=1)

        left = len(latents)
        pixels = math.prod(latents.shape[2:4]) * self.autoencoder.config.spatial_compression_ratio**2
        for part in self._batches(frames_of, latents, pixels):
            yield from part[:left]
            left -= len(part)

    def _batches(
        self, work: Callable[[np.ndarray], np.ndarray], views: np.ndarray, pixels: int
    ) -> Iterator[np.ndarray]:
        """`work` of float32 batches of as many views as the mesh has devices, in order; the last one is filled up.

        `pixels` are those of a picture.
        """
        size = self.mesh.size

        def one(start: int) -> Any:
            with parallel.use_mesh(self.mesh):
                return work(_fill(np.asarray(views[start : start + size], np.float32), size))

        count = batches_at_once(self.autoencoder.config, pixels, size, self.mesh.devices.flat[0].platform)
        return side_by_side(one, range(0, len(views), size), count)

    def compile_encoding(self, frames: int, size: tuple[int, int]) -> None:
        """Compiles what `encode` runs for videos of so many frames of (H, W) `size`."""
        with parallel.use_mesh(self.mesh):
            video = jax.ShapeDtypeStruct((self.mesh.size, frames, *size, 3), np.float32)
            self._encode.lower(self._state, video).compile()

    def compile_decoding(self, latents: int, size: tuple[int, int]) -> None:
        """Compiles what `decode` runs for so many latent frames of (h, w) `size`."""
        config, program = self.autoencoder.config, chunk_program()
        shape = (self.mesh.size, latents, *size, config.latent_channels)
        with parallel.use_mesh(self.mesh):
            first, rest = split_chunks(np.broadcast_to(np.float32(0), shape), config.chunk_latents)
            cache = None
            for piece in (first, *rest[:1]):
                lowered = program.lower(self.autoencoder, placed(piece.shape, np.float32, self._layout(piece)), cache)
                layouts = lowered.compile().output_shardings
                _, cache = jax.tree.map(
                    lambda info, layout: placed(info.shape, info.dtype, layout), lowered.out_info, layouts
                )

    def _layout(self, latents: np.ndarray) -> NamedSharding:
        return NamedSharding(self.mesh, parallel.fit_spec(latents.shape, ("views", None, None, None, None)))

    def _place(self, latents: np.ndarray) -> jax.Array:
        return processes.place(latents, self._layout(latents))


def batches_at_once(config: AutoencoderConfig, pixels: int, devices: int, platform: str) -> int:
    """How many batches of views are coded side by side: two where one would leave a CPU's cores idle.

    Args:
      pixels: of a picture. devices: of the mesh.
    """
    return 2 if devices == 1 and platform == "cpu" and config.block_out_channels[0] * pixels <= SMALL else 1


def _pixels(video: jax.Array) -> jax.Array:
    """[-1, 1] -> uint8."""
    return ((jnp.clip(video, -1, 1) + 1) * 127.5 + 0.5).astype(jnp.uint8)


def decode_to_files(coder: Coder, latents: np.ndarray, path_of: Callable[[int], Path]) -> Iterator[int]:
    """Streams the frames of latents [V, L, h, w, C] to disk: `path_of(view)` holds `frames` [F, H, W, 3] uint8.

    Yields every view when it is there, so that it can be worked on while the next ones are decoded.
    A view's file appears when it is whole; memory is that of the views being decoded at once. Of several processes all
    decode and the first writes.
    """
    for view, frames in enumerate(coder.decode(latents)):
        if processes.is_first():
            with atomic_file(path_of(view)) as temporary:
                np.savez_compressed(temporary, frames=frames)
        yield view


def _fill(array: np.ndarray, count: int) -> np.ndarray:
    """Repeats the last view until there are `count`, so that one compilation serves every batch."""
    return np.concatenate([array, np.repeat(array[-1:], count - len(array), axis=0)]) if len(array) < count else array
