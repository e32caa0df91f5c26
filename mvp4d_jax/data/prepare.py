"""Captures -> shards: latents, maps and references of every capture, shared by several processes, restartable.

A shard holds a few captures; each is written whole with a note beside it (`shard-00000.json`: what is in it, and its
checksum). A shard whose note is there is done. Whoever finds all notes there writes the manifest. Where captures that
cannot be prepared are left out, the note of their shard says why, and a table lists those of all shards.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from mvp4d.core.capture import Capture
from mvp4d.core.errors import UserError
from mvp4d.core.files import atomic_file, checksum, read_json, write_json
from mvp4d.core.lock import hold
from mvp4d.core.owner import sweep
from mvp4d.core.progress import progress
from mvp4d.core.room import Full, require_space
from mvp4d.core.shares import begin_plan, raise_failures, write_table
from mvp4d_jax.data.encode import Encoder, scene_name
from mvp4d_jax.data.manifest import check_manifest
from mvp4d_jax.data.options import PrepareOptions
from mvp4d_jax.data.shards import FORMAT, MANIFEST, VERSION, ShardWriter
from mvp4d_jax.geometry.conditioning import ConditioningConfig
from mvp4d_jax.latent_frames import latent_count
from mvp4d_jax.models.autoencoder import VideoAutoencoder
from mvp4d_jax.models.config import AutoencoderConfig

Failure = tuple[str, str]  # a capture's name, and why it cannot be prepared


def prepare(
    captures: Sequence[Path],
    out: Path,
    options: PrepareOptions,
    autoencoder: VideoAutoencoder,
    conditioning: ConditioningConfig,
    *,
    identity: str,
    head: str | None = None,
    seed: int = 0,
    process: tuple[int, int] = (0, 1),
    keep_going: bool = False,
) -> str:
    """Writes this process's share of the shards, and the manifest when all shares are done.

    Args:
      captures: capture folders, the same in every process.
      out: shards folder; one that was begun with the same arguments is gone on with.
      autoencoder: encodes; its latent scale is applied here, once.
      conditioning: of the maps.
      identity: of the autoencoder's weights (`autoencoder_identity`), kept in the manifest.
      head: name of the head that captures must have; None: any, the same for all.
      seed: of the jitter.
      process: (index, count): this process does the shards index, index + count, ...
      keep_going: leave out captures that cannot be prepared. Which captures share a shard does not depend on it.

    Returns:
      One line that says what is there.

    Raises:
      UserError: a capture that cannot be read or is too short, heads that differ, a folder begun otherwise. SomeFailed:
        this process's shards are done, without captures that failed.
    """
    stride = autoencoder.config.temporal_compression_ratio
    opened = _open_all(captures, options, stride, head, keep_going)
    sound = [capture for capture in opened if isinstance(capture, Capture)]
    if not sound:
        raise UserError("captures", f"none of {len(opened)} can be prepared", f"the first: {opened[0][1]}")
    facts = _facts(sound, options, autoencoder, conditioning, identity, seed)
    _claim(out, facts, [str(path) for path in captures])
    groups = _groups(opened, options)
    mine = list(range(process[0], len(groups), process[1]))
    todo = [index for index in mine if not _is_done(out, index, groups[index])]
    sweep(out)
    size = _estimate([groups[index] for index in todo], options, autoencoder.config, conditioning)
    require_space(out, size, "preparing")
    encoder = Encoder(autoencoder, conditioning, options, seed)
    with progress(total=sum(len(groups[index]) for index in todo), what="preparing", unit="capture") as bar:
        for index in todo:
            with hold(out / f"shard-{index:05d}.array_record"):
                _write_shard(out, index, groups[index], encoder, bar, keep_going)
    return _finish(out, groups, facts, mine)


def describe(
    captures: Sequence[Path],
    options: PrepareOptions,
    config: AutoencoderConfig,
    conditioning: ConditioningConfig,
    head: str | None,
    process: tuple[int, int] = (0, 1),
    keep_going: bool = False,
) -> str:
    """What `prepare` would do in this process, in a few lines. Raises UserError as it would."""
    found = _open_all(captures, options, config.temporal_compression_ratio, head, keep_going)
    if not any(isinstance(capture, Capture) for capture in found):
        raise UserError("captures", f"none of {len(found)} can be prepared", f"left out: {found[0][1]}")
    groups = _groups(found, options)
    mine = groups[process[0] :: process[1]]
    opened = [capture for group in mine for capture in group if isinstance(capture, Capture)]
    failed = [f"left out: {item[1]}" for group in mine for item in group if not isinstance(item, Capture)]
    size = _estimate(mine, options, config, conditioning) / 1e9
    windows = sum(_windows(capture, options) for capture in opened) * options.variants * options.colours
    head_name = next(item.head.name for item in found if isinstance(item, Capture))
    share = f" of {len(groups)}, those of share {process[0]}/{process[1]}" if process[1] > 1 else ""
    return "\n".join(
        [
            f"captures: {len(opened)} of head '{head_name}', {sum(one.view_count for one in opened)} views",
            f"windows: {windows:,} of {options.frames} frames at {options.image_size} pixels "
            f"({options.variants} crops, {options.colours} colours)",
            f"shards: {len(mine)}{share}, about {size:.3g} GB",
            *failed,
            "dry run: nothing was written; leave --dry-run out to prepare",
        ]
    )


def _groups(opened: Sequence[Capture | Failure], options: PrepareOptions) -> list[Sequence[Capture | Failure]]:
    """What goes into each shard."""
    size = options.captures_per_shard
    return [opened[start : start + size] for start in range(0, len(opened), size)]


def _windows(capture: Capture, options: PrepareOptions) -> int:
    """Windows of a capture, all views together, in one crop and colour."""
    return capture.view_count * (1 + (capture.frame_count - options.frames) // options.stride)


def _estimate(
    groups: Sequence[Sequence[Capture | Failure]],
    options: PrepareOptions,
    config: AutoencoderConfig,
    conditioning: ConditioningConfig,
) -> float:
    """Bytes of the records of windows, single images and references, at 0.6 of what they take uncompressed: studio
    captures at 128 pixels have 0.55 to 0.62."""
    side = options.image_size // config.spatial_compression_ratio
    painted = (options.photos - 1) * (conditioning.painted + 1) if conditioning.painted else 0  # of every photo
    latent_frame = 2 * side * side * (config.latent_channels + conditioning.channels + painted)
    singles = options.images * (2 if options.crop == "reference" else 1)
    count = 0
    for capture in (item for group in groups for item in group if isinstance(item, Capture)):
        count += _windows(capture, options) * config.latents_of(options.frames) + capture.view_count * singles
    return 0.6 * latent_frame * count * options.variants * options.colours


def autoencoder_identity(folder: Path) -> str:
    """A short hash of an autoencoder's config and weights: the latents of two that differ must not be mixed."""
    digest = hashlib.sha256()
    files = sorted(Path(folder).glob("*.safetensors"))
    for file in [Path(folder) / "config.json", *files]:
        digest.update(checksum(file).encode())
    return digest.hexdigest()[:16]


def _open_all(
    captures: Sequence[Path], options: PrepareOptions, stride: int, head: str | None, keep_going: bool = False
) -> list[Capture | Failure]:
    """The captures; with `keep_going` a Failure in the place of each that cannot be prepared."""
    if not captures:
        raise UserError("captures", "none given", "name at least one capture folder")
    latent_count(options.frames, stride, "config.prepare.frames")
    opened: list[Capture | Failure] = []
    first: Capture | None = None
    for path in captures:
        try:
            capture = Capture.open(path)
            _check(capture, first, options, stride, head)
        except UserError as error:
            if not keep_going:
                raise
            opened.append((Path(path).name, str(error)))
            continue
        first = first or capture
        opened.append(capture)
    names = [scene_name(capture) for capture in opened if isinstance(capture, Capture)]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise UserError("captures", f"'{twice}' is given twice", "name each capture once")
    return opened


def _check(capture: Capture, first: Capture | None, options: PrepareOptions, stride: int, head: str | None) -> None:
    if head is not None and capture.head.name != head:
        raise UserError(
            capture.path,
            f"head is '{capture.head.name}', config.head is '{head}'",
            f"track it with that head, or give --config.head={capture.head.name} here and in training",
        )
    if first is not None and capture.head.name != first.head.name:
        raise UserError(
            capture.path,
            f"head is '{capture.head.name}', the first has '{first.head.name}'",
            "prepare one head model at a time",
        )
    if capture.frame_count < options.frames:
        raise UserError(
            capture.path,
            f"has {capture.frame_count} frames, windows need {options.frames}",
            "leave it out (--keep-going leaves all such captures out), or prepare for a config of shorter windows",
        )


def _facts(opened, options, autoencoder, conditioning, identity, seed) -> dict:
    return {
        "format": FORMAT,
        "version": VERSION,
        "head": opened[0].head.name,
        "image_size": options.image_size,
        "frames": options.frames,
        "latents": autoencoder.config.latents_of(options.frames),
        "latent_scale": float(autoencoder.config.scaling_factor),
        "latent_channels": int(autoencoder.config.latent_channels),
        "autoencoder": identity,
        "conditioning": conditioning.record,
        "options": dataclasses.asdict(options),
        "seed": seed,
    }


def _claim(out: Path, facts: dict, captures: list[str]) -> None:
    """The folder is this preparation's: new, or begun with the very same arguments."""
    plan = json.loads(json.dumps({**facts, "captures": captures}))
    file = out / "plan.json"
    refusal = UserError(out, "is not empty and holds no shards", "choose another --out")
    begun = begin_plan(file, plan, lambda name: ".mvp4d-" in name, refusal)
    if not isinstance(begun, dict):
        raise UserError(file, "is not an object", "choose another `out`")
    for key in plan:
        if begun.get(key) != plan[key]:
            what = "captures differ" if key == "captures" else f"{key} was {begun.get(key)}, now is {plan[key]}"
            raise UserError(out, f"was begun with other settings: {what}", "choose another --out")


def _is_done(out: Path, index: int, group: Sequence[Capture | Failure]) -> bool:
    """Whether a shard's note is there, made of these captures as they are now, and beside it as many bytes as it says:
    captures are made anew, and disks tidied up."""
    note = out / f"shard-{index:05d}.json"
    if not note.is_file():
        return False
    item = _read_note(note)
    if item.get("captures", now := _digests(group)) != now:
        return False
    try:
        return (out / f"shard-{index:05d}.array_record").stat().st_size == item["file"]["bytes"]
    except FileNotFoundError:
        return False


def _digests(group: Sequence[Capture | Failure]) -> list[str]:
    """What tells each capture of a shard from another one in its place, without reading its pictures."""
    return [
        "".join(checksum(item.path / name)[:16] for name in ("capture.json", "cameras.npz", "motion.npz"))
        if isinstance(item, Capture)
        else ""
        for item in group
    ]


def _read_note(note: Path) -> dict:
    """What a shard's note holds: `file`, `scenes`, and `failed` where something did. Raises UserError."""
    item = read_json(note, limit=1 << 30)
    rows = item.get("failed", []) if isinstance(item, dict) else None
    sound = (
        isinstance(item, dict)
        and isinstance(item.get("scenes"), list)
        and isinstance(item.get("file"), dict)
        and isinstance(item["file"].get("bytes"), int)
        and isinstance(rows, list)
        and all(isinstance(row, list) and len(row) == 2 for row in rows)
    )
    if not sound:
        raise UserError(note, "is damaged", "delete it and run the same command again")
    return item


def _write_shard(
    out: Path, index: int, group: Sequence[Capture | Failure], encoder: Encoder, bar, keep_going: bool
) -> None:
    """Writes a shard and its note. A capture that fails on the way is left out of a second try."""
    name, digests = f"shard-{index:05d}.array_record", _digests(group)
    failed = {number: list(item) for number, item in enumerate(group) if not isinstance(item, Capture)}
    told = 0  # captures that the bar knows of
    while True:
        scenes = []
        with atomic_file(out / name) as temporary:
            writer = ShardWriter(temporary)
            broken = None
            for number, capture in enumerate(group):
                if isinstance(capture, Capture) and number not in failed:
                    try:
                        scenes += encoder.scenes(capture, name, writer)
                    except UserError as error:
                        if not keep_going or isinstance(error, Full):
                            raise
                        broken = number, [capture.path.name, str(error)]
                        break
                if number >= told:
                    bar.update()
                    told = number + 1
            writer.close()
        if broken is None:
            break
        failed[broken[0]] = broken[1]
    note = {"name": name, "bytes": (out / name).stat().st_size, "records": writer.count, "sha256": checksum(out / name)}
    found = {"file": note, "captures": digests, "scenes": [scene.as_json() for scene in scenes]}
    write_json(out / f"shard-{index:05d}.json", {**found, "failed": list(failed.values())} if failed else found)


def _finish(out: Path, groups: Sequence[Sequence[Capture | Failure]], facts: dict, mine: Sequence[int]) -> str:
    notes = [out / f"shard-{index:05d}.json" for index in range(len(groups))]
    read = {index: _read_note(note) for index, note in enumerate(notes) if note.is_file()}
    failed = {index: [tuple(row) for row in item.get("failed", ())] for index, item in read.items()}
    write_table(out, "capture", [row for index in sorted(failed) for row in failed[index]])
    missing, count = len(notes) - len(read), len(notes)
    scenes = [scene for item in read.values() for scene in item["scenes"]]
    if not missing and scenes:
        files = [item["file"] for item in read.values() if item["scenes"]]
        manifest = {**facts, "scenes": scenes, "files": files}
        check_manifest(manifest, out / MANIFEST)
        write_json(out / MANIFEST, manifest)
    ours = [row for index in mine for row in failed.get(index, ())]
    raise_failures(out, "capture", sum(len(groups[index]) for index in mine), ours)
    if missing:
        return f"this process's shards are done; {missing} of {count} are with the other processes ({out})"
    size = sum(item["file"]["bytes"] for item in read.values()) / 1e6
    return f"{len(scenes)} scenes in {count} shards, {size:.1f} MB: {out}"
