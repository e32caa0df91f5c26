"""Training shards: ArrayRecord files of latents and maps, a manifest that says what they are, checks on reading.

A shards folder, version 3:
```
manifest.json             what was encoded, by which autoencoder, for which head; the scenes; files with checksums
shard-00000.array_record  records; a record is a dictionary of arrays in safetensors form
```
Two kinds of record, both of one view of one capture under one crop:
- `window`: F frames encoded as a video: `latents` [L, h, w, C], `conditioning` [L, h, w, Cc].
- `images`: K frames encoded as single images: `latents` [K, h, w, C], `conditioning` [K, h, w, Cc].
Where the model is shown painted photos, `conditioning` ends before them and `painted` [R, L or K, h, w, Cp] holds those
of the R photos that the scene names.
Latents carry the latent scale already. The ray channels of the maps are in world axes: turning them into the axes of a
reference camera is linear, so it can wait until a sample has chosen its reference.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from mvp4d.core.errors import UserError
from mvp4d.core.files import checksum, read_json, write_json
from mvp4d.core.progress import progress
from mvp4d_jax.data.manifest import check_manifest, missing_shards

FORMAT, VERSION = "mvp4d-shards", 3
MANIFEST = "manifest.json"
NOTE = "verified.json"  # name -> [SHA-256, time of the last change] of files that were verified
VERIFIERS = 8  # files hashed at a time
_WRITER_OPTIONS = "group_size:1,zstd:3"  # one record per chunk: random access reads nothing it does not need
_READER_OPTIONS = "readahead_buffer_size:0,max_parallelism:0"  # the library's own advice for random access


@dataclasses.dataclass(frozen=True)
class Scene:
    """One capture as the shards hold it.

    V views, W windows, K single images, A crops ("variants": the plain one, then jittered ones).

    Attributes:
      name: of the capture.
      shard: file that holds its records.
      views: camera names.
      world_rotation: [A, V, K, 3, 3] rows are camera axes in the world, of every single image's camera.
      frontal_angle: [V, K] radians between the face's direction and the direction to the camera.
      window_starts: frame each window starts at.
      image_frames: frame of each single image.
      window_records: [A, V, W] record numbers in the shard; image_records: [A, V] single images that serve as targets,
        reference_records: [A, V] the same frames as references (the same records where both are cropped alike).
      painted: [R, 2] (view, single image) of the photos that the records' `painted` maps show, or that stand as
        `photo_records`; R is 0 without such.
      photo_records: [A, R] those photos as references, with the errors of photos and their fits; A is 0 where
        `reference_records` serve, and in shards from before there were such.
      photo_rotation: [R, 3, 3] rows are axes in the world of the cameras fitted to them.
      apart_windows: [K, W] metres by which the face of a single image differs in expression from a window's, on the
        mean; apart_images: [K, K] from another single image's. W or K is 0 in older shards.
    """

    name: str
    shard: str
    views: tuple[str, ...]
    world_rotation: np.ndarray
    frontal_angle: np.ndarray
    window_starts: tuple[int, ...]
    image_frames: tuple[int, ...]
    window_records: np.ndarray
    image_records: np.ndarray
    reference_records: np.ndarray
    painted: np.ndarray
    photo_records: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros((0, 0), np.int64))
    photo_rotation: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros((0, 3, 3), np.float32))
    apart_windows: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros((0, 0), np.float32))
    apart_images: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros((0, 0), np.float32))

    def as_json(self) -> dict:
        value = dataclasses.asdict(self)
        return {key: item.tolist() if isinstance(item, np.ndarray) else item for key, item in value.items()}

    @classmethod
    def from_json(cls, value: dict) -> Scene:
        return cls(
            name=value["name"],
            shard=value["shard"],
            views=tuple(value["views"]),
            world_rotation=np.asarray(value["world_rotation"], np.float32),
            frontal_angle=np.asarray(value["frontal_angle"], np.float32),
            window_starts=tuple(value["window_starts"]),
            image_frames=tuple(value["image_frames"]),
            window_records=np.asarray(value["window_records"], np.int64).reshape(
                len(value["image_records"]), len(value["views"]), len(value["window_starts"])
            ),
            image_records=np.asarray(value["image_records"], np.int64),
            reference_records=np.asarray(value["reference_records"], np.int64),
            painted=np.asarray(value["painted"], np.int64).reshape(-1, 2),
            photo_records=_table(value, "photo_records", np.int64),
            photo_rotation=np.asarray(value.get("photo_rotation", []), np.float32).reshape(-1, 3, 3),
            apart_windows=_table(value, "apart_windows", np.float32),
            apart_images=_table(value, "apart_images", np.float32),
        )


def _table(value: dict, name: str, dtype: type) -> np.ndarray:
    """A table that older shards lack, [0, 0] then."""
    rows = value.get(name, [])
    return np.asarray(rows, dtype).reshape(len(rows), -1 if rows else 0)


def pack(arrays: dict[str, np.ndarray]) -> bytes:
    """A record's bytes."""
    return safetensors.numpy.save({name: np.ascontiguousarray(value) for name, value in arrays.items()})


def unpack(record: bytes) -> dict[str, np.ndarray]:
    """A record's arrays; raises safetensors.SafetensorError on damaged bytes."""
    return safetensors.numpy.load(record)


class ShardWriter:
    """Writes records to one file; `add` returns the record's number."""

    def __init__(self, path: str | os.PathLike):
        self._writer = ArrayRecordWriter(str(path), _WRITER_OPTIONS)
        self.count = 0

    def add(self, arrays: dict[str, np.ndarray]) -> int:
        self._writer.write(pack(arrays))
        self.count += 1
        return self.count - 1

    def close(self) -> None:
        self._writer.close()


class Shards:
    """A shards folder, opened and checked; reading is thread-safe and picklable (files open on first use)."""

    def __init__(self, path: Path, manifest: dict[str, Any]):
        self.path, self.manifest = path, manifest
        self.scenes = [Scene.from_json(item) for item in manifest["scenes"]]
        self._local = threading.local()

    def __getstate__(self) -> dict:
        return {"path": self.path, "manifest": self.manifest, "scenes": self.scenes}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state, _local=threading.local())

    @classmethod
    def open(cls, path: str | os.PathLike, *, verify: bool = True, trust_note: bool = False) -> Shards:
        """Reads the manifest and checks every file against it.

        Args:
          path: a folder that `mvp4d prepare` wrote.
          verify: compare every file's SHA-256 too (reads all bytes); sizes are compared always.
          trust_note: leave out files that a note beside them says were verified, and have not been written since;
            leave such a note.

        Raises:
          UserError: no manifest, another format or version, a missing, cut or changed file.
        """
        path = Path(path)
        manifest = read_manifest(path)
        missing_shards(manifest["files"], path)
        if verify:
            _verify(path, manifest["files"], trust_note)
        return cls(path, manifest)

    def read(self, shard: str, record: int) -> dict[str, np.ndarray]:
        """One record's arrays. Raises UserError where it cannot be read."""
        readers = self._local.__dict__.setdefault("readers", {})
        try:
            if shard not in readers:
                readers[shard] = ArrayRecordReader(str(self.path / shard), _READER_OPTIONS)
            return unpack(readers[shard].read([int(record)])[0])
        except (RuntimeError, ValueError, IndexError, safetensors.SafetensorError) as error:
            raise UserError(
                self.path / shard,
                f"record {record} cannot be read ({error})",
                "run 'mvp4d validate' on the folder, then 'mvp4d prepare' again",
            ) from None


def _verify(path: Path, files: list[dict[str, Any]], trust_note: bool) -> None:
    """Compares checksums, several files at a time. Raises UserError for the first that differs."""
    note = path / NOTE
    known = read_json(note) if trust_note and note.is_file() else {}
    known = known if isinstance(known, dict) else {}
    now = {item["name"]: [item["sha256"], (path / item["name"]).stat().st_mtime_ns] for item in files}
    todo = [item for item in files if known.get(item["name"]) != now[item["name"]]]
    if not todo:
        return
    with concurrent.futures.ThreadPoolExecutor(VERIFIERS) as pool:
        found = pool.map(lambda item: checksum(path / item["name"]), todo)
        for item, digest in zip(todo, progress(found, total=len(todo), what="verifying shards", unit="file")):
            if digest != item["sha256"]:
                pool.shutdown(cancel_futures=True)
                raise UserError(
                    path / item["name"],
                    "checksum differs from the manifest's",
                    "delete it and run 'mvp4d prepare' again",
                )
    if trust_note:
        with contextlib.suppress(OSError):  # a folder that may only be read is verified every time
            write_json(note, now)


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a shards folder. Raises UserError when there is none, of another version, or damaged."""
    file = path / MANIFEST
    if not file.is_file():
        started = any(path.glob("shard-*.json")) if path.is_dir() else False
        raise UserError(
            path,
            "preparation is not finished" if started else "not a shards folder (no manifest.json)",
            "run the same 'mvp4d prepare' again to finish" if started else "make one with 'mvp4d prepare'",
        )
    manifest = read_json(file, limit=1 << 30)
    if not isinstance(manifest, dict):
        raise UserError(file, "is not an object", "run 'mvp4d prepare' again")
    if manifest.get("format") != FORMAT or manifest.get("version") != VERSION:
        raise UserError(
            file,
            f"is {manifest.get('format')} version {manifest.get('version')}, not {FORMAT} {VERSION}",
            "run 'mvp4d prepare' of this version",
        )
    check_manifest(manifest, file)
    return manifest


def check_same(shards: list[Shards], expected: dict[str, Any]) -> None:
    """Holds every folder to what the config expects.

    Args:
      shards: opened folders.
      expected: any of head, image_size, latent_scale, latent_channels, conditioning, autoencoder (identity).

    Raises:
      UserError: naming the folder, the field, both values and the fix.
    """
    fixes = {
        "head": "prepare captures of that head, or set config.head",
        "latent_scale": "prepare again with the config's autoencoder; latents must be scaled exactly once",
        "autoencoder": "prepare again with the config's autoencoder, or point config.autoencoder at the one used",
    }
    for shard in shards:
        for field, wanted in expected.items():
            found = shard.manifest.get(field)
            same = np.isclose(found, wanted, rtol=1e-6) if isinstance(wanted, float) else found == wanted
            if not same:
                raise UserError(
                    shard.path / MANIFEST,
                    f"{field} is {found}, the config has {wanted}",
                    fixes.get(field, "prepare again with this config"),
                )
