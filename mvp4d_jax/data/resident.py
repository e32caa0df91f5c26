"""Shards held in the devices' memory: batches are gathered there, and nothing but their indices is made on the host.

For runs whose shards are small beside the devices' memory, and whose model is small beside the devices: its steps may
take less time than batches take to be read, unpacked and sent (`data_wait` in the metrics tells).
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from mvp4d.core.errors import UserError
from mvp4d.core.host import cpu_count
from mvp4d.core.progress import progress
from mvp4d_jax import parallel
from mvp4d_jax.data.pipeline import Batches
from mvp4d_jax.data.shards import Shards
from mvp4d_jax.diffusion.guidance import keep_conditions

Batch = dict[str, jax.Array]
Rows = dict[tuple[int, str, int], "_Place"]  # (folder, shard, record)


@dataclasses.dataclass(frozen=True)
class _Place:
    """Where a record lies: its first row among latents and maps, its first one among painted maps; its frames, and how
    many painted photos they are shown."""

    row: int
    painted: int
    frames: int
    photos: int


@dataclasses.dataclass(frozen=True)
class Tables:
    """All latent frames of some shards, [T, h, w, X] float16 each, the same on every device of a mesh.

    Attributes:
      latents, maps: T frames, record after record.
      painted: every painted photo of every frame, photo after photo within a record; None without such.
      rows: where each record lies.
    """

    latents: jax.Array
    maps: jax.Array
    painted: jax.Array | None
    rows: Rows

    @property
    def nbytes(self) -> int:
        """On each device."""
        return sum(table.nbytes for table in (self.latents, self.maps, self.painted) if table is not None)

    @classmethod
    def read(cls, shards: Sequence[Shards], mesh: Mesh) -> Tables:
        """Reads every record once, into its place: the host holds what a device will, and the records at hand.

        Raises:
          UserError: as `check_resident`; a record that cannot be read, or is not of the size that the manifest says.
        """
        check_resident(shards, mesh)
        rows = _lay_out(shards)
        arrays = {name: np.empty(shape, np.float16) for name, shape in _shapes(shards, rows).items()}

        def fill(where: tuple[int, str, int]) -> None:
            (folder, shard, number), place = where, rows[where]
            record = shards[folder].read(shard, number)
            for name, array in arrays.items():
                first, count = place.row, place.frames
                if name == "painted":
                    first, count = place.painted, place.photos * place.frames
                part = array[first : first + count]
                given = record[name].reshape(-1, *record[name].shape[-3:])  # photos and frames, one axis
                if given.shape != part.shape:
                    raise UserError(
                        shards[folder].path / shard,
                        f"record {number} has {name} {given.shape}, expected {part.shape}",
                        "run 'mvp4d prepare' again",
                    )
                part[:] = given

        with concurrent.futures.ThreadPoolExecutor(min(16, cpu_count())) as pool:
            for _ in progress(pool.map(fill, rows), total=len(rows), what="reading shards", unit="record"):
                pass
        placed = {name: jax.device_put(arrays.pop(name), parallel.replicated(mesh)) for name in list(arrays)}
        return cls(placed["latents"], placed["conditioning"], placed.get("painted"), rows)


def _lay_out(shards: Sequence[Shards]) -> Rows:
    """Every record's place, one after the other; a record that serves twice (as image and reference) has one."""
    rows: Rows = {}
    row = painted = 0
    for folder, one in enumerate(shards):
        for scene in one.scenes:
            images = len(scene.image_frames)
            photos = len(scene.painted) if one.manifest["conditioning"].get("painted") else 0
            for table, frames, shown in (
                (scene.window_records, one.manifest["latents"], photos),
                (scene.image_records, images, photos),
                (scene.reference_records, images, photos),
                (scene.photo_records, 1, min(1, photos)),  # a photo shows itself alone
            ):
                for record in np.unique(table).tolist():
                    if (folder, scene.shard, record) not in rows:
                        rows[folder, scene.shard, record] = _Place(row, painted, frames, shown)
                        row, painted = row + frames, painted + frames * shown
    return rows


def _shapes(shards: Sequence[Shards], rows: Rows) -> dict[str, tuple[int, ...]]:
    """[T, h, w, X] of each table, of a record's sizes: all shards of a stage have the same."""
    (folder, shard, number), last = next(iter(rows)), next(reversed(rows.values()))
    record = shards[folder].read(shard, number)
    frames, painted = last.row + last.frames, last.painted + last.photos * last.frames
    counts = {"latents": frames, "conditioning": frames, "painted": painted}
    return {name: (count, *record[name].shape[-3:]) for name, count in counts.items() if count}


def resident_bytes(shards: Sequence[Shards]) -> int:
    """`Tables.nbytes` of some shards, before they are read."""
    shapes = _shapes(shards, _lay_out(shards)).values()
    return sum(math.prod(shape) for shape in shapes) * np.dtype(np.float16).itemsize


def check_resident(shards: Sequence[Shards], mesh: Mesh) -> None:
    """Raises UserError for several processes, and for shards that do not fit into what a device says it has free."""
    if jax.process_count() > 1:
        raise UserError("config.data.resident", "is for one process", "leave it out where several train together")
    needed, stats = resident_bytes(shards), mesh.devices.flat[0].memory_stats() or {}
    free = stats.get("bytes_limit", needed) - stats.get("bytes_in_use", 0)
    if needed > free:
        raise UserError(
            "config.data.resident",
            f"the shards take {needed / 2**30:.1f} GiB of each device, which has {free / 2**30:.1f} free",
            "leave it out, and they are read from files",
        )


class Resident:
    """`Batches` as indices into `Tables`, and their gathering.

    `resident[n]` holds what step n's batch is made of, small arrays that any thread may make; `place` makes of it what
    `Feed.place` makes of `batches[n]`: the same numbers.
    """

    def __init__(self, batches: Batches, tables: Tables):
        self._batches, self._tables = batches, tables
        self._parts = batches.parts["rays"], batches.parts["reference"]

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, step: int) -> dict[str, np.ndarray]:
        choices, rows = self._batches.choices(step), self._tables.rows
        frames, painted, references, painted_references = [], [], [], []
        for choice in choices:
            places = [rows[choice.folder, choice.shard, record] for record in choice.records]
            taken = np.arange(choice.part.start, choice.part.stop)
            frames.append([place.row + taken for place in places])
            painted.append([place.painted + choice.photo * place.frames + taken for place in places])
            place = rows[choice.folder, choice.shard, choice.reference]
            references.append(place.row + choice.image)
            painted_references.append(place.painted + choice.reference_photo * place.frames + choice.image)
        return {
            "frames": np.asarray(frames, np.int32),  # [B, V, L]
            "painted": np.asarray(painted, np.int32),
            "reference": np.asarray(references, np.int32),  # [B]
            "reference_painted": np.asarray(painted_references, np.int32),
            "turn": np.asarray([choice.turn for choice in choices], np.float32),  # [B, 3, 3]
            "clean": np.asarray([choice.clean for choice in choices]),  # [B, V, L]
            "keep": np.asarray([choice.keep for choice in choices]),  # [B]
        }

    def place(self, index: dict[str, np.ndarray], layout: jax.sharding.Sharding) -> Batch:
        """The batch of an index, laid out over the mesh."""
        tables = self._tables
        gather = _gatherer(layout, *(part.indices(1 << 20) for part in self._parts))
        return gather(
            tables.latents, tables.maps, tables.painted, jax.device_put(index, parallel.replicated(layout.mesh))
        )


@functools.cache
def _gatherer(layout: jax.sharding.Sharding, rays: tuple[int, int, int], mask: tuple[int, int, int]):
    """The jitted (tables, index) -> batch; `data.pipeline.Batches` says what is in it."""
    rays, mask = slice(*rays), slice(*mask)

    def maps_of(maps: jax.Array, painted: jax.Array | None, rows: jax.Array, painted_rows: jax.Array, turn: jax.Array):
        taken = maps[rows]  # [B, ..., h, w, Cc]
        if painted is not None:
            taken = jnp.concatenate([taken, painted[painted_rows]], axis=-1)
        turn = turn.reshape(len(turn), *(1,) * (taken.ndim - 2), 3, 3)
        turned = jnp.sum(taken[..., None, rays].astype(jnp.float32) * turn, axis=-1)
        return taken.at[..., rays].set(turned.astype(taken.dtype))

    def gather(latents: jax.Array, maps: jax.Array, painted: jax.Array | None, index: Batch) -> Batch:
        clean, turn = index["clean"], index["turn"]
        of_views = maps_of(maps, painted, index["frames"], index["painted"], turn)
        of_reference = maps_of(maps, painted, index["reference"], index["reference_painted"], turn)
        conditions = {
            "conditioning": of_views.at[..., mask].set(clean[..., None, None, None].astype(of_views.dtype)),
            "reference_latents": latents[index["reference"]],
            "reference_conditioning": of_reference.at[..., mask].set(1),
        }
        return {
            "latents": latents[index["frames"]],
            "clean": clean,
            **keep_conditions(conditions, index["keep"], mask),
        }

    return jax.jit(gather, out_shardings=layout)
