"""Captures -> shards: latents, maps and references of every capture, shared by several processes, restartable.

A shard holds a few captures; each is written whole with a note beside it (`shard-00000.json`: what is in it, and its
checksum). A shard whose note is there is done. Whoever finds all notes there writes the manifest.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from mvp4d.core.capture import Capture
from mvp4d.core.errors import UserError
from mvp4d.core.files import atomic_file, read_json, write_json
from mvp4d.core.outputs import hold, require_space
from mvp4d.core.owner import sweep
from mvp4d.core.progress import progress
from mvp4d_jax.data.encode import Encoder, PrepareOptions, scene_name
from mvp4d_jax.data.manifest import check_manifest
from mvp4d_jax.data.shards import FORMAT, MANIFEST, VERSION, ShardWriter, checksum
from mvp4d_jax.geometry.conditioning import ConditioningConfig
from mvp4d_jax.latent_frames import fill, latent_count
from mvp4d_jax.models.autoencoder import VideoAutoencoder
from mvp4d_jax.models.config import AutoencoderConfig


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

    Returns:
      One line that says what is there.

    Raises:
      UserError: a capture that cannot be read or is too short, heads that differ, a folder begun otherwise.
    """
    stride = autoencoder.config.temporal_compression_ratio
    opened = _open_all(captures, options, stride, head)
    facts = _facts(opened, options, autoencoder, conditioning, identity, seed)
    _claim(out, facts, [str(path) for path in captures])
    groups = [
        opened[start : start + options.captures_per_shard]
        for start in range(0, len(opened), options.captures_per_shard)
    ]
    mine = list(range(process[0], len(groups), process[1]))
    todo = [index for index in mine if not (out / f"shard-{index:05d}.json").is_file()]
    sweep(out)
    size = _estimate([groups[index] for index in todo], options, autoencoder.config, conditioning)
    require_space(out, size, "preparing")
    encoder = Encoder(autoencoder, conditioning, options, seed)
    with progress(total=sum(len(groups[index]) for index in todo), what="preparing", unit="capture") as bar:
        for index in todo:
            with hold(out / f"shard-{index:05d}.array_record"):
                _write_shard(out, index, groups[index], encoder, bar)
    return _finish(out, len(groups), facts)


def describe(
    captures: Sequence[Path],
    options: PrepareOptions,
    config: AutoencoderConfig,
    conditioning: ConditioningConfig,
    head: str | None,
) -> str:
    """What `prepare` would do, in a few lines. Raises UserError as it would."""
    opened = _open_all(captures, options, config.temporal_compression_ratio, head)
    size = _estimate([opened], options, config, conditioning) / 1e9
    windows = sum(_windows(capture, options) for capture in opened) * options.variants * options.colours
    return "\n".join(
        [
            f"captures: {len(opened)} of head '{opened[0].head.name}', {sum(one.view_count for one in opened)} views",
            f"windows: {windows:,} of {options.frames} frames at {options.image_size} pixels "
            f"({options.variants} crops, {options.colours} colours)",
            f"shards: {-(-len(opened) // options.captures_per_shard)}, about {size:.3g} GB",
            "dry run: nothing was written; leave --dry-run out to prepare",
        ]
    )


def _windows(capture: Capture, options: PrepareOptions) -> int:
    """Windows of a capture, all views together, in one crop and colour."""
    return capture.view_count * (1 + (capture.frame_count - options.frames) // options.stride)


def _estimate(
    groups: list[list[Capture]], options: PrepareOptions, config: AutoencoderConfig, conditioning: ConditioningConfig
) -> float:
    """Bytes of the windows' records, at half of what they take uncompressed."""
    side = options.image_size // config.spatial_compression_ratio
    latents = config.latents_of(options.frames)
    window = 2 * latents * side * side * (config.latent_channels + conditioning.channels)
    windows = sum(_windows(capture, options) for group in groups for capture in group)
    return 0.5 * window * windows * options.variants * options.colours


def autoencoder_identity(folder: Path) -> str:
    """A short hash of an autoencoder's config and weights: the latents of two that differ must not be mixed."""
    digest = hashlib.sha256()
    files = sorted(Path(folder).glob("*.safetensors"))
    for file in [Path(folder) / "config.json", *files]:
        digest.update(checksum(file).encode())
    return digest.hexdigest()[:16]


def _open_all(captures: Sequence[Path], options: PrepareOptions, stride: int, head: str | None) -> list[Capture]:
    if not captures:
        raise UserError("captures", "none given", "name at least one capture folder")
    latent_count(options.frames, stride, "config.prepare.frames")
    opened = [Capture.open(path) for path in captures]
    for capture in opened:
        if head is not None and capture.head.name != head:
            raise UserError(
                capture.path,
                f"head is '{capture.head.name}', config.head is '{head}'",
                f"track it with that head, or give --config.head={capture.head.name} here and in training",
            )
        if capture.head.name != opened[0].head.name:
            raise UserError(
                capture.path,
                f"head is '{capture.head.name}', the first has '{opened[0].head.name}'",
                "prepare one head model at a time",
            )
        if capture.frame_count < options.frames:
            raise UserError(
                capture.path,
                f"has {capture.frame_count} frames, windows need {options.frames}",
                f"set config.prepare.frames to {fill(capture.frame_count - stride + 1, stride)}, or leave it out",
            )
    names = [scene_name(capture) for capture in opened]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise UserError("captures", f"'{twice}' is given twice", "name each capture once")
    return opened


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
    if file.is_file():
        begun = read_json(file)
        if not isinstance(begun, dict):
            raise UserError(file, "is not an object", "choose another `out`")
        for key in plan:
            if begun.get(key) != plan[key]:
                what = "captures differ" if key == "captures" else f"{key} was {begun.get(key)}, now is {plan[key]}"
                raise UserError(out, f"was begun with other settings: {what}", "choose another --out")
    elif out.exists() and any(".mvp4d-" not in path.name for path in out.iterdir()):
        raise UserError(out, "is not empty and holds no shards", "choose another --out")
    else:
        write_json(file, plan)


def _write_shard(out: Path, index: int, group: list[Capture], encoder: Encoder, bar) -> None:
    name = f"shard-{index:05d}.array_record"
    with atomic_file(out / name) as temporary:
        writer = ShardWriter(temporary)
        scenes = []
        for capture in group:
            scenes += encoder.scenes(capture, name, writer)
            bar.update()
        writer.close()
    note = {"name": name, "bytes": (out / name).stat().st_size, "records": writer.count, "sha256": checksum(out / name)}
    write_json(out / f"shard-{index:05d}.json", {"file": note, "scenes": [scene.as_json() for scene in scenes]})


def _finish(out: Path, count: int, facts: dict) -> str:
    notes = [out / f"shard-{index:05d}.json" for index in range(count)]
    missing = sum(not note.is_file() for note in notes)
    if missing:
        return f"this process's shards are done; {missing} of {count} are with the other processes ({out})"
    read = [read_json(note, limit=1 << 30) for note in notes]
    for note, item in zip(notes, read):
        if not isinstance(item, dict) or not isinstance(item.get("scenes"), list) or "file" not in item:
            raise UserError(note, "is damaged", "delete it and run the same command again")
    scenes = [scene for item in read for scene in item["scenes"]]
    manifest = {**facts, "scenes": scenes, "files": [item["file"] for item in read]}
    check_manifest(manifest, out / MANIFEST)
    write_json(out / MANIFEST, manifest)
    size = sum(item["file"]["bytes"] for item in read) / 1e6
    return f"{len(scenes)} scenes in {count} shards, {size:.1f} MB: {out}"
