"""Shards -> batches: a weighted mixture of three kinds of data, deterministic, split by process, resumable anywhere.

Step n's batch is a pure function of (seed, stage, n): the kind of data by an even weighted rotation, the samples by a
permutation of each epoch, every random choice by a generator seeded with the sample's number. So the data position is
the step, on any number of processes, and each sample is read once an epoch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Sequence
from typing import Any

import grain
import numpy as np
from absl import flags

from mvp4d.core.errors import UserError
from mvp4d_jax.data.shards import Scene, Shards
from mvp4d_jax.diffusion.guidance import keep_conditions
from mvp4d_jax.geometry.conditioning import ConditioningConfig

KINDS = ("monocular", "static", "multiview")  # V = 1 video; F = 1 views; V views of video


@dataclasses.dataclass(frozen=True)
class Modality:
    """One kind of data in a stage's mixture.

    Attributes:
      kind: "monocular", "static" or "multiview".
      weight: share of the steps, relative to the others'.
      views: V (1 for monocular).
      latents: L (1 for static): a window may be longer in the shards; its first L latent frames are used.
      batch: samples per step over all processes. Kinds with fewer tokens take more samples.
    """

    kind: str
    weight: float
    views: int
    latents: int
    batch: int

    def __post_init__(self):
        if self.kind not in KINDS:
            raise UserError("mixture", f"'{self.kind}' is not one of {', '.join(KINDS)}")
        if self.kind == "monocular" and self.views != 1:
            raise UserError("mixture.monocular.views", f"is {self.views}", "a monocular video has one view")
        if self.kind == "static" and self.latents != 1:
            raise UserError("mixture.static.frames", "must be 1", "static views have one frame")
        if self.weight < 0 or self.batch < 1 or self.views < 1 or self.latents < 1:
            raise UserError(f"mixture.{self.kind}", "weight must be >= 0; views, frames and batch >= 1")


@dataclasses.dataclass(frozen=True)
class SamplingOptions:
    """How a sample is drawn from a scene.

    Attributes:
      reference_angle: radians; a reference image is taken from views at most this far from frontal (or the most frontal
        view when none is).
      condition_dropout: probability that a sample loses its reference image and its maps (CAP4D: 0.1).
      clean_prefix: probability that the first latent frames of all views are given clean.
      clean_views: probability that some views are given clean.
      far_expressions: probability that the reference is, of all that may be taken, the one whose expression differs
        most from the sample's.
    """

    reference_angle: float = 1.05
    condition_dropout: float = 0.1
    clean_prefix: float = 0.1
    clean_views: float = 0.1
    far_expressions: float = 0.0


@dataclasses.dataclass(frozen=True)
class _Item:
    """What a sample number points at: a scene, and a window (or single image) of it; `view` only for monocular."""

    folder: int
    scene: int
    time: int
    view: int = -1


@dataclasses.dataclass(frozen=True)
class Choice:
    """What a sample is made of, chosen before anything is read.

    Attributes:
      folder: number of the shards; shard: file of all its records.
      records: [V] of the views; part: which of their latent frames.
      reference, image: record of the reference, and its place in it.
      photo, reference_photo: which painted photo the records' maps show; -1: none.
      turn: [3, 3] world axes to the reference camera's.
      clean: [V, L] bool, latent frames that are given.
      keep: whether the conditions are kept.
    """

    folder: int
    shard: str
    records: list[int]
    part: slice
    reference: int
    image: int
    photo: int
    reference_photo: int
    turn: np.ndarray
    clean: np.ndarray
    keep: bool


def rotation(weights: Sequence[float], steps: int) -> np.ndarray:
    """[steps] int: which kind each step takes, so that every prefix holds the shares as evenly as integers can."""
    share = np.asarray(weights, np.float64) / np.sum(weights)
    credit, chosen = np.zeros(len(share)), np.zeros(steps, np.int64)
    for step in range(steps):
        credit += share
        chosen[step] = int(np.argmax(credit))
        credit[chosen[step]] -= 1
    return chosen


def check_mixture(shards: Sequence[Shards], modalities: Sequence[Modality], where: str = "mixture") -> None:
    """Raises UserError for a kind of data that no scene has views and frames enough for."""
    for modality in modalities:
        if not any(_serves(folder, scene, modality) for folder in shards for scene in folder.scenes):
            most = max((len(scene.views) for folder in shards for scene in folder.scenes), default=0)
            longest = max((folder.manifest["latents"] for folder in shards), default=0)
            raise UserError(
                f"{where}.{modality.kind}",
                f"no scene in the shards has {modality.views} views and {modality.latents} latent frames "
                f"(the most are {most}, windows have {longest})",
                "ask for fewer, or prepare captures with more",
            )


def _serves(shards: Shards, scene: Scene, modality: Modality) -> bool:
    """Whether a scene has samples of a kind."""
    if modality.kind == "static":
        return len(scene.views) >= modality.views and len(scene.image_frames) > 0
    long_enough = shards.manifest["latents"] >= modality.latents and len(scene.window_starts) > 0
    return len(scene.views) >= modality.views and long_enough


class Batches:
    """Random access to the batches of one stage: `batches[n]` is step n's batch, this process's rows of it.

    Args:
      shards: opened folders.
      modalities: the mixture.
      options: how samples are drawn.
      conditioning: which channels the maps have.
      steps: how many the stage runs.
      seed: of every choice.
      rows: kind -> numbers of the batch's rows to make; default all (see `parallel.held_rows`).

    A batch is a dictionary of arrays: latents [b, V, L, h, w, C], conditioning [b, V, L, h, w, Cc] (reference mask
    set on clean frames; zero but for that mask where dropped), reference_latents [b, h, w, C], reference_conditioning
    [b, h, w, Cc], clean [b, V, L] bool, sample [b] int64 (numbers within the kind).
    """

    def __init__(
        self,
        shards: Sequence[Shards],
        modalities: Sequence[Modality],
        options: SamplingOptions,
        conditioning: ConditioningConfig,
        *,
        steps: int,
        seed: int,
        rows: dict[str, Sequence[int]] | None = None,
    ):
        self.shards, self.modalities, self.options = list(shards), [m for m in modalities if m.weight > 0], options
        self.painted = conditioning.painted > 0
        self.parts, self.steps, self.seed, self.rows = conditioning.parts, steps, seed, rows or {}
        if not self.modalities:
            raise UserError("mixture", "no kind of data has a weight above 0")
        check_mixture(self.shards, self.modalities)
        self.items = [self._items(modality) for modality in self.modalities]
        self._orders: dict[tuple[int, int], np.ndarray] = {}
        self.kinds = rotation([modality.weight for modality in self.modalities], steps)
        before = [np.concatenate([[0], np.cumsum(self.kinds == index)]) for index in range(len(self.modalities))]
        self._turns = np.array([before[kind][step] for step, kind in enumerate(self.kinds)], np.int64)

    def __len__(self) -> int:
        return self.steps

    def modality(self, step: int) -> Modality:
        """The kind of data that step takes."""
        return self.modalities[self.kinds[step]]

    def __getitem__(self, step: int) -> dict[str, np.ndarray]:
        samples = [self._read(choice) for choice in self.choices(step)]
        batch = {name: np.stack([sample[name] for sample in samples]) for name in samples[0]}
        return {**batch, "sample": self.numbers(step)}

    def numbers(self, step: int) -> np.ndarray:
        """[b] which of their kind the samples of a step are."""
        modality = self.modality(step)
        rows = np.asarray(self.rows.get(modality.kind, range(modality.batch)), np.int64)
        return self._turns[step] * modality.batch + rows

    def choices(self, step: int) -> list[Choice]:
        """What the samples of a step are made of, b of them."""
        return [self._choose(int(self.kinds[step]), int(number)) for number in self.numbers(step)]

    def _items(self, modality: Modality) -> np.ndarray:
        """int32 [N, 4]: the fields of every `_Item` there is; millions of them are one array."""
        parts = []
        for folder, shards in enumerate(self.shards):
            for index, scene in enumerate(shards.scenes):
                if not _serves(shards, scene, modality):
                    continue
                times = len(scene.image_frames) if modality.kind == "static" else len(scene.window_starts)
                views = range(len(scene.views)) if modality.kind == "monocular" else (-1,)
                place = np.stack(np.meshgrid(range(times), views, indexing="ij"), axis=-1).reshape(-1, 2)
                parts.append(np.concatenate([np.broadcast_to([folder, index], place.shape), place], axis=1))
        return np.concatenate(parts).astype(np.int32)

    def item(self, kind: int, number: int) -> _Item:
        """The item that sample `number` of a kind reads: epoch by epoch, each once in a fresh order."""
        epoch, place = divmod(number, len(self.items[kind]))
        return _Item(*self.items[kind][self._order(kind, epoch)[place]].tolist())

    def _order(self, kind: int, epoch: int) -> np.ndarray:
        """int32 permutation of a kind's items, drawn once an epoch; the epoch before is kept for batches made late."""
        found = self._orders.get((kind, epoch))  # several threads read
        if found is None:
            random = np.random.default_rng([self.seed, kind, epoch, 0])
            found = random.permutation(len(self.items[kind])).astype(np.int32)
            kept = {key: value for key, value in self._orders.items() if key[0] != kind or key[1] == epoch - 1}
            self._orders = {**kept, (kind, epoch): found}
        return found

    def _choose(self, kind: int, number: int) -> Choice:
        modality, item = self.modalities[kind], self.item(kind, number)
        scene = self.shards[item.folder].scenes[item.scene]
        random = np.random.default_rng([self.seed, kind, number, 1])
        chosen, view, image = self._reference(scene, random, self._apart(scene, modality, item))
        photo = chosen if self.painted else -1
        variants, count = len(scene.image_records), len(scene.views)
        views = [item.view] if item.view >= 0 else random.permutation(count)[: modality.views]
        crops = random.integers(variants, size=modality.views + 1)
        if modality.kind == "static":
            records, part = scene.image_records[crops[:-1], views], slice(item.time, item.time + 1)
        else:
            records, part = scene.window_records[crops[:-1], views, item.time], slice(0, modality.latents)
        if len(scene.photo_records):  # such a record holds no painted photo but its own
            reference, image, turn = scene.photo_records[crops[-1], chosen], 0, scene.photo_rotation[chosen]
            reference_photo = min(photo, 0)
        else:
            reference, turn = scene.reference_records[crops[-1], view], scene.world_rotation[crops[-1], view, image]
            reference_photo = photo
        clean = self._clean((len(records), part.stop - part.start), random)
        keep = random.random() >= self.options.condition_dropout
        return Choice(
            item.folder,
            scene.shard,
            [int(record) for record in records],
            part,
            int(reference),
            int(image),
            photo,
            reference_photo,
            turn,
            clean,
            bool(keep),
        )

    def _read(self, choice: Choice) -> dict[str, np.ndarray]:
        """The sample of a choice: rays in the reference's axes, clean frames marked, conditions dropped or not."""
        shards = self.shards[choice.folder]
        records = [shards.read(choice.shard, record) for record in choice.records]
        reference, image = shards.read(choice.shard, choice.reference), choice.image
        maps = np.stack([_maps(record, choice.part, choice.photo) for record in records])
        reference_maps = _maps(reference, slice(image, image + 1), choice.reference_photo)[0]
        rays, mask = self.parts["rays"], self.parts["reference"]
        for array in (maps, reference_maps):
            array[..., rays] = (array[..., rays].astype(np.float32) @ choice.turn.T).astype(array.dtype)
        reference_maps[..., mask] = 1
        maps[..., mask] = choice.clean[:, :, None, None, None]
        conditions = {
            "conditioning": maps,
            "reference_latents": reference["latents"][image],
            "reference_conditioning": reference_maps,
        }
        return {
            "latents": np.stack([record["latents"][choice.part] for record in records]),
            "clean": choice.clean,
            **keep_conditions(conditions, np.asarray(choice.keep), mask),
        }

    def _apart(self, scene: Scene, modality: Modality, item: _Item) -> np.ndarray:
        """[K] metres by which each single image's expression differs from the sample's; [0] where it is not known."""
        table = scene.apart_images if modality.kind == "static" else scene.apart_windows
        return table[:, item.time] if len(table) else np.zeros(0)

    def _reference(self, scene: Scene, random: np.random.Generator, apart: np.ndarray) -> tuple[int, int, int]:
        """(photo, view, single image) of the reference: near frontal, or the most frontal there is.

        One of the scene's photos where it has any, else any image, and -1.
        """
        every = np.indices(scene.frontal_angle.shape).reshape(2, -1).T  # [V K, 2]
        photos = scene.painted if len(scene.painted) else every
        angle = scene.frontal_angle[tuple(photos.T)]
        near = np.flatnonzero(angle <= max(self.options.reference_angle, float(angle.min())))
        if len(apart) and self.options.far_expressions and random.random() < self.options.far_expressions:
            distance = apart[photos[near, 1]]
            near = near[distance == distance.max()]
        chosen = int(near[random.integers(len(near))])
        return (chosen if len(scene.painted) else -1), *photos[chosen]

    def _clean(self, shape: tuple[int, int], random: np.random.Generator) -> np.ndarray:
        """[V, L] bool: which latent frames are given; never all of them."""
        views, latents = shape
        clean = np.zeros(shape, bool)
        prefix, some_views = random.random(2)
        if latents > 1 and prefix < self.options.clean_prefix:
            clean[:, : random.integers(1, latents)] = True
        if views > 1 and some_views < self.options.clean_views:
            clean[: random.integers(1, views)] = True  # views come in random order already
        return clean


def _maps(record: dict[str, np.ndarray], part: slice, photo: int) -> np.ndarray:
    """Maps [n, h, w, Cc] of some frames of a record, the photo's painted ones at their end; -1: no photo."""
    maps = record["conditioning"][part]
    return maps.copy() if photo < 0 else np.concatenate([maps, record["painted"][photo, part]], axis=-1)


def iterate(batches: Any, start: int, *, threads: int = 2, buffer: int = 4, workers: int = 0) -> Generator[Any]:
    """Batches from step `start` on, made ahead by Grain; `close()` ends what reads ahead.

    Args:
      batches: `Batches`, or anything else with a length and items.
      threads: reading threads in each process that reads.
      buffer: batches held ready.
      workers: reading processes beside this one; 0 reads in threads of this one.
    """
    dataset = grain.MapDataset.source(batches)[start:]
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=buffer)
    stream = dataset.to_iter_dataset(options)
    if workers:
        if not flags.FLAGS.is_parsed():  # Grain's workers read absl flags, which this command line does not use
            flags.FLAGS.mark_as_parsed()
        stream = stream.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=buffer))
    following = iter(stream)
    try:
        yield from following
    finally:
        following.close()
