"""Captures -> shards: latents, maps and references of every capture, shared by several processes, restartable.

A shard holds a few captures; each is written whole with a note beside it (`shard-00000.json`: what is in it, and its
checksum). A shard whose note is there is done. Whoever finds all notes there writes the manifest.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from mvp4d.core.cameras import crops
from mvp4d.core.cameras.camera import FIELDS, Camera, project
from mvp4d.core.capture import Capture
from mvp4d.core.errors import UserError
from mvp4d.core.files import atomic_file, read_json, write_json
from mvp4d.core.heads.motion import Motion
from mvp4d.core.outputs import hold, require_space
from mvp4d.core.owner import sweep
from mvp4d.core.progress import progress
from mvp4d_jax.data.recolour import Palette, draw_palettes
from mvp4d_jax.data.shards import FORMAT, MANIFEST, VERSION, Scene, ShardWriter, checksum
from mvp4d_jax.geometry.conditioning import ConditioningConfig, draw_conditioning
from mvp4d_jax.geometry.painting import paint_video, painted_maps, vertex_colours
from mvp4d_jax.heads.skinning import rotation_matrix, skin
from mvp4d_jax.models.autoencoder import VideoAutoencoder


@dataclasses.dataclass(frozen=True)
class PrepareOptions:
    """How captures become records.

    Attributes:
      image_size: pixels a side of the square crops.
      frames: F of a window, 1 + s k where a latent frame holds s.
      stride: frames between the starts of neighbouring windows.
      images: single images encoded per view: references, and the frames of static samples.
      crop: "head" (a still square around the head, per view), "none" (the whole image), or "reference": whole images,
        but references cropped around the head, as a photo is when sampling.
      variants: crops per view: the plain one, and variants - 1 jittered ones.
      jitter_scale, jitter_shift: largest change of a jittered crop's size (relative), place (in its sides).
      colours: scenes made of each capture: one in its own colours, and colours - 1 recoloured ones (`data.recolour`).
      photos, photo_angle: where the model is shown painted photos: how many of each scene's images are painted, and how
        far from frontal they may be, in radians (`mvp4d prepare` gives `config.sampling.reference_angle`).
      captures_per_shard: how many captures one file holds.
    """

    image_size: int
    frames: int
    stride: int
    images: int
    crop: str = "head"
    variants: int = 1
    jitter_scale: float = 0.15
    jitter_shift: float = 0.08
    colours: int = 1
    photos: int = 2
    photo_angle: float = 1.05
    captures_per_shard: int = 8

    def __post_init__(self):
        if self.crop not in ("head", "none", "reference"):
            raise UserError("prepare.crop", f"is '{self.crop}'", "choose 'head', 'none' or 'reference'")
        if min(self.image_size, self.stride, self.images, self.variants, self.colours, self.photos,
               self.captures_per_shard) < 1:
            raise UserError("prepare", "image_size, stride, images, variants, colours, photos and captures_per_shard "
                            "must be at least 1")


def prepare(captures: Sequence[Path], out: Path, options: PrepareOptions, autoencoder: VideoAutoencoder,
            conditioning: ConditioningConfig, *, identity: str, head: str | None = None, seed: int = 0,
            process: tuple[int, int] = (0, 1)) -> str:
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
    groups = [opened[start: start + options.captures_per_shard]
              for start in range(0, len(opened), options.captures_per_shard)]
    mine = list(range(process[0], len(groups), process[1]))
    todo = [index for index in mine if not (out / f"shard-{index:05d}.json").is_file()]
    sweep(out)
    require_space(out, _estimate([groups[index] for index in todo], options, autoencoder, conditioning), "preparing")
    encoder = _Encoder(autoencoder, conditioning, options, seed)
    with progress(total=sum(len(groups[index]) for index in todo), what="preparing", unit="capture") as bar:
        for index in todo:
            with hold(out / f"shard-{index:05d}.array_record"):
                _write_shard(out, index, groups[index], encoder, bar)
    return _finish(out, len(groups), facts)


def _estimate(groups: list[list[Capture]], options: PrepareOptions, autoencoder: VideoAutoencoder,
              conditioning: ConditioningConfig) -> float:
    """Bytes of the windows' records, at half of what they take uncompressed."""
    config = autoencoder.config
    side = options.image_size // config.spatial_compression_ratio
    latents = 1 + (options.frames - 1) // config.temporal_compression_ratio
    window = 2 * latents * side * side * (config.latent_channels + conditioning.channels)
    windows = sum(capture.view_count * (1 + (capture.frame_count - options.frames) // options.stride)
                  for group in groups for capture in group)
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
    if (options.frames - 1) % stride:
        raise UserError("config.prepare.frames", f"is {options.frames}",
                        f"choose 1 + {stride}k frames ({1 + stride}, {1 + 2 * stride}, {1 + 3 * stride}, ...)")
    opened = [Capture.open(path) for path in captures]
    for capture in opened:
        if head is not None and capture.head.name != head:
            raise UserError(capture.path, f"head is '{capture.head.name}', config.head is '{head}'",
                            f"track it with that head, or give --config.head={capture.head.name} here and in training")
        if capture.head.name != opened[0].head.name:
            raise UserError(capture.path, f"head is '{capture.head.name}', the first has '{opened[0].head.name}'",
                            "prepare one head model at a time")
        if capture.frame_count < options.frames:
            raise UserError(capture.path, f"has {capture.frame_count} frames, windows need {options.frames}",
                            f"set config.prepare.frames to {1 + stride * ((capture.frame_count - 1) // stride)}, or "
                            "leave it out")
    names = [_scene_name(capture) for capture in opened]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise UserError("captures", f"'{twice}' is given twice", "name each capture once")
    return opened


def _scene_name(capture: Capture) -> str:
    return f"{capture.path.resolve().parent.name}/{capture.path.resolve().name}"


def _facts(opened, options, autoencoder, conditioning, identity, seed) -> dict:
    return {
        "format": FORMAT, "version": VERSION, "head": opened[0].head.name, "image_size": options.image_size,
        "frames": options.frames, "latents": 1 + (options.frames - 1) // autoencoder.config.temporal_compression_ratio,
        "latent_scale": float(autoencoder.config.scaling_factor),
        "latent_channels": int(autoencoder.config.latent_channels), "autoencoder": identity,
        "conditioning": dataclasses.asdict(conditioning), "options": dataclasses.asdict(options), "seed": seed,
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


def _write_shard(out: Path, index: int, group: list[Capture], encoder: _Encoder, bar) -> None:
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
    scenes = [scene for item in read for scene in item["scenes"]]
    write_json(out / MANIFEST, {**facts, "scenes": scenes, "files": [item["file"] for item in read]})
    size = sum(item["file"]["bytes"] for item in read) / 1e6
    return f"{len(scenes)} scenes in {count} shards, {size:.1f} MB: {out}"


@dataclasses.dataclass(frozen=True)
class _Look:
    """One scene of a capture: its colours, and which photos are painted.

    Attributes:
      suffix: of the scene's name.
      palette: colours of all pictures.
      photos: [R, 2] of (view, place in the single images).
      drawn: which of the painted videos that are drawn for all scenes at once are this one's.
    """

    suffix: str
    palette: Palette
    photos: np.ndarray
    drawn: slice


@dataclasses.dataclass(frozen=True)
class _Cut:
    """Some frames of a view, as all scenes of a capture share them.

    Attributes:
      pictures: [F, S, S, 3] uint8.
      maps: [L, h, w, Cc] float16.
      painted: [scenes R, F, S, S, 4] uint8 (`painting.paint_video`); None where the model is shown no photo.
    """

    pictures: np.ndarray
    maps: np.ndarray
    painted: np.ndarray | None


class _Encoder:
    """Turns captures into records; compiles once per shape."""

    def __init__(self, autoencoder: VideoAutoencoder, conditioning: ConditioningConfig, options: PrepareOptions,
                 seed: int):
        self.options, self.conditioning, self.seed = options, conditioning, seed
        graph, state = nnx.split(autoencoder)
        self._encode = jax.jit(lambda state, video: nnx.merge(graph, state).encode_latents(video))
        self._state = state
        self._drawn: dict[tuple, _Cut] = {}  # of the capture at work: its scenes share them
        self._colours: np.ndarray | None = None  # [scenes R, N, 4] of the photos painted onto the head of that capture

    def scenes(self, capture: Capture, shard: str, writer: ShardWriter) -> list[Scene]:
        """Writes a capture's records, in each of its colours; returns what the manifest says of them."""
        self._drawn.clear()
        palettes = draw_palettes(self.options.colours, np.random.default_rng([self.seed, _stable(capture)]))
        images = tuple(int(frame) for frame in np.linspace(
            0, capture.frame_count - 1, min(self.options.images, capture.frame_count)).round())
        angles = _frontal_angles(capture, images)
        photos = self._choose_photos(capture, angles, len(palettes))  # [scenes, R, 2]
        count = photos.shape[1]
        looks = [_Look(f"~{index}" if index else "", palette, chosen, slice(index * count, (index + 1) * count))
                 for index, (palette, chosen) in enumerate(zip(palettes, photos))]
        if self.conditioning.painted:
            self._colours = np.concatenate([_photo_colours(capture, images, look) for look in looks])
        return [self._scene(capture, shard, writer, images, angles, look) for look in looks]

    def _choose_photos(self, capture: Capture, angles: np.ndarray, scenes: int) -> np.ndarray:
        """Which single images each scene paints: [scenes, R, 2] of (view, place), by their `_frontal_angles`."""
        count = self.options.photos if self.conditioning.painted else 0
        near = np.argwhere(angles <= max(self.options.photo_angle, float(angles.min())))
        random = np.random.default_rng([self.seed, _stable(capture), 2**31])
        return np.stack([near[random.choice(len(near), count, replace=len(near) < count)] for _ in range(scenes)])

    def _scene(self, capture: Capture, shard: str, writer: ShardWriter, images: tuple[int, ...],
               angles: np.ndarray, look: _Look) -> Scene:
        options, views = self.options, range(capture.view_count)
        vertices = np.asarray(skin(capture.head, capture.motion))[:, crops.head_vertices(capture.head)]  # [F, N', 3]
        starts = tuple(range(0, capture.frame_count - options.frames + 1, options.stride))
        windows, singles, references, rotations = [], [], [], []
        for variant in range(options.variants):
            random = np.random.default_rng([self.seed, _stable(capture), variant])
            boxes = [self._box(capture, view, vertices, options.crop == "head", variant, random) for view in views]
            singles.append([self._images(capture, view, images, boxes[view], look, writer) for view in views])
            references.append(singles[-1])
            if options.crop == "reference":
                boxes_of_heads = [self._box(capture, view, vertices, True, variant, random) for view in views]
                references[-1] = [self._images(capture, view, images, boxes_of_heads[view], look, writer)
                                  for view in views]
            windows.append([[self._window(capture, view, start, boxes[view], look, writer) for start in starts]
                            for view in views])
            rotations.append([[capture.camera(view, frame).world_to_camera[:3, :3] for frame in images]
                              for view in views])
        return Scene(
            name=_scene_name(capture) + look.suffix, shard=shard, views=capture.names,
            world_rotation=np.asarray(rotations, np.float32),
            frontal_angle=angles, window_starts=starts, image_frames=images,
            window_records=np.asarray(windows, np.int64), image_records=np.asarray(singles, np.int64),
            reference_records=np.asarray(references, np.int64), painted=look.photos)

    def _box(self, capture: Capture, view: int, vertices: np.ndarray, head: bool, variant: int, random) -> np.ndarray:
        """[4] left, top, right, bottom: around the head in all frames (so that the crop does not move), or all."""
        scale = float(np.exp(random.uniform(-1, 1) * np.log1p(self.options.jitter_scale)))
        shift = random.uniform(-1, 1, 2) * self.options.jitter_shift
        if head:
            camera = Camera(**{name: getattr(capture.cameras, name)[view] for name in FIELDS})  # [F']
            if camera.fx.shape[0] == 1:
                camera, points = _first(camera), vertices.reshape(-1, 3)
            else:
                points = vertices
            box = crops.head_box(np.asarray(project(camera, points)[0]))
        else:
            height, width = capture.image_size
            half = max(height, width) / 2
            box = np.array([width / 2 - half, height / 2 - half, width / 2 + half, height / 2 + half])
        if not variant:
            return box
        centre, side = (box[:2] + box[2:]) / 2, box[2] - box[0]
        centre = centre + shift * side
        return np.concatenate([centre - scale * side / 2, centre + scale * side / 2])

    def _window(self, capture: Capture, view: int, start: int, box: np.ndarray, look: _Look,
                writer: ShardWriter) -> int:
        cut = self._cut(capture, view, range(start, start + self.options.frames), box)
        return writer.add(self._record([cut], look))

    def _images(self, capture: Capture, view: int, frames: tuple[int, ...], box: np.ndarray, look: _Look,
                writer: ShardWriter) -> int:
        cuts = [self._cut(capture, view, range(frame, frame + 1), box) for frame in frames]
        return writer.add(self._record(cuts, look))

    def _record(self, cuts: list[_Cut], look: _Look) -> dict[str, np.ndarray]:
        """One window, or K images, in a scene's colours: latents, maps, and what the model is told of its photos."""
        video = look.palette.apply(np.stack([cut.pictures for cut in cuts])) / np.float32(127.5) - 1  # [K, F, S, S, 3]
        record = {"latents": np.concatenate(self._latents(video)),
                  "conditioning": np.concatenate([cut.maps for cut in cuts])}
        if self.conditioning.painted:
            painted = np.stack([cut.painted[look.drawn] for cut in cuts], axis=1)  # [R, K, F, S, S, 4]
            maps = painted_maps(painted.reshape(-1, *painted.shape[2:]) / np.float32(255), self._latents,
                                self.conditioning)  # [R K, L, h, w, Cp]
            record["painted"] = maps.reshape(len(painted), -1, *maps.shape[2:]).astype(np.float16)
        return record

    def _latents(self, video: np.ndarray) -> np.ndarray:
        """[B, F, S, S, 3] in [-1, 1] -> [B, L, h, w, C] float16."""
        return np.asarray(self._encode(self._state, jnp.asarray(video, jnp.float32)), np.float16)

    def _cut(self, capture: Capture, view: int, frames: range, box: np.ndarray) -> _Cut:
        """Some frames of a view, cropped, with their maps and the photos of all scenes painted."""
        place = (view, frames, tuple(box))
        if place not in self._drawn:
            size = self.options.image_size
            cut = [crops.crop_image(picture, box, size) for picture in
                   capture.frames(view, slice(frames.start, frames.stop))]
            pictures = np.stack([picture for picture, _ in cut]).round().clip(0, 255).astype(np.uint8)
            made = _Cut(pictures, *self._draw(capture, view, frames, box, cut[0][1]))
            if self.options.colours == 1:  # nothing asks twice, and a large capture would fill the memory
                return made
            self._drawn[place] = made
        return self._drawn[place]

    def _draw(self, capture: Capture, view: int, frames: range, box: np.ndarray,
              outside: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """`_Cut.maps` and `_Cut.painted`."""
        part = slice(frames.start, frames.stop) if capture.cameras.fx.shape[1] > 1 else slice(0, 1)
        cameras = Camera(**{name: getattr(capture.cameras, name)[view: view + 1, part] for name in FIELDS})
        cameras, size = crops.crop_camera(cameras, box, self.options.image_size), (self.options.image_size,) * 2
        motion = capture.motion[frames.start: frames.stop]
        maps = draw_conditioning(capture.head, motion, cameras, size, self.conditioning, _world_axes(),
                                 outside=outside[None, None])
        painted = None
        if self._colours is not None:
            painted = paint_video(capture.head, motion, cameras, size, self._colours)[:, 0]
            painted = (painted * 255).round().astype(np.uint8)
        return np.asarray(maps, np.float16)[0], painted


@functools.cache
def _world_axes() -> Camera:
    """A reference camera without rotation: ray maps then stay in world axes (see `shards`)."""
    return Camera(np.eye(4), np.float64(1), np.float64(1), np.float64(0), np.float64(0))


def _first(camera: Camera) -> Camera:
    """The one camera of [1]."""
    return Camera(**{name: getattr(camera, name)[0] for name in FIELDS})


def _photo_colours(capture: Capture, images: tuple[int, ...], look: _Look) -> np.ndarray:
    """[R, N, 4] `vertex_colours` of a scene's photos."""
    colours = []
    for view, place in look.photos:
        frame = images[place]
        picture = look.palette.apply(capture.frame(int(view), frame)[None, None])[0, 0] / 255
        colours.append(vertex_colours(np.asarray(picture, np.float32), capture.camera(int(view), frame),
                                      capture.motion[slice(frame, frame + 1)], capture.head))
    return np.stack(colours)


def _stable(capture: Capture) -> int:
    return int.from_bytes(hashlib.sha256(_scene_name(capture).encode()).digest()[:4], "little")


def _frontal_angles(capture: Capture, frames: Sequence[int]) -> np.ndarray:
    """[V, K] radians between where the face looks (its +z, turned by head and neck) and the direction to the camera."""
    angles = np.zeros((capture.view_count, len(frames)), np.float32)
    motion: Motion = capture.motion
    chosen = list(frames)
    turn = np.asarray(rotation_matrix(np.asarray(motion.rotation)[chosen])
                      @ rotation_matrix(np.asarray(motion.neck)[chosen]))  # [K, 3, 3]
    for place, frame in enumerate(frames):
        forward, centre = turn[place, :, 2], np.asarray(motion.translation)[frame]
        for view in range(capture.view_count):
            matrix = np.asarray(capture.camera(view, frame).world_to_camera)
            towards = -matrix[:3, :3].T @ matrix[:3, 3] - centre
            cosine = forward @ towards / np.linalg.norm(towards)
            angles[view, place] = np.arccos(np.clip(cosine, -1, 1))
    return angles
