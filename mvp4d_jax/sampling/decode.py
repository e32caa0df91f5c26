"""Latents to frames on disk: views spread over devices, frames streamed, so that memory does not grow with V x F."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding

from mvp4d.core.files import atomic_file
from mvp4d_jax import parallel, processes
from mvp4d_jax.models.autoencoder import VideoAutoencoder, chunk_program, compiler_options, split_chunks
from mvp4d_jax.sampling.ahead import placed


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
        at_once = self.mesh.size
        out = []
        with parallel.use_mesh(self.mesh):
            for start in range(0, len(video), at_once):
                part = _fill(np.asarray(video[start : start + at_once], np.float32), at_once)
                out.append(np.asarray(self._encode(self._state, part))[: len(video) - start])
        return np.concatenate(out)

    def decode(self, latents: np.ndarray) -> Iterator[tuple[int, int, np.ndarray]]:
        """[V, L, h, w, C] -> (view, first frame, frames [T, H, W, 3] uint8), a few frames of a few views at a time."""
        at_once = self.mesh.size
        scaled = np.asarray(latents, np.float32) / self.autoencoder.config.scaling_factor
        with parallel.use_mesh(self.mesh):
            for start in range(0, len(scaled), at_once):
                count = min(at_once, len(scaled) - start)
                part = _fill(scaled[start : start + at_once], at_once)
                first = 0
                for chunk in self.autoencoder.decode_stream(part, self._place):
                    pixels = np.asarray(self._pixels(chunk))
                    for offset in range(count):
                        yield start + offset, first, pixels[offset]
                    first += pixels.shape[1]

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


def _pixels(video: jax.Array) -> jax.Array:
    """[-1, 1] -> uint8."""
    return ((jnp.clip(video, -1, 1) + 1) * 127.5 + 0.5).astype(jnp.uint8)


def decode_to_files(coder: Coder, latents: np.ndarray, path_of: Callable[[int], Path]) -> None:
    """Streams the frames of latents [V, L, h, w, C] to disk: `path_of(view)` holds `frames` [F, H, W, 3] uint8.

    A view's file appears when it is whole; memory is that of the views being decoded at once. Of several processes all
    decode and the first writes.
    """
    pieces: dict[int, list[np.ndarray]] = {}
    frames = coder.autoencoder.config.frames_of(latents.shape[1])
    for view, first, chunk in coder.decode(latents):
        if not processes.is_first():
            continue
        pieces.setdefault(view, []).append(chunk)
        if first + len(chunk) == frames:
            with atomic_file(path_of(view)) as temporary:
                np.savez_compressed(temporary, frames=np.concatenate(pieces.pop(view)))


def _fill(array: np.ndarray, count: int) -> np.ndarray:
    """Repeats the last view until there are `count`, so that one compilation serves every batch."""
    return np.concatenate([array, np.repeat(array[-1:], count - len(array), axis=0)]) if len(array) < count else array
