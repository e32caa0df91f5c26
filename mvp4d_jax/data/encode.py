"""One capture into records: crops, latents, maps, painted photos, and references as photos and trackers bring them."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from mvp4d.core.cameras import crops
from mvp4d.core.cameras.camera import FIELDS, Camera, angle_off, project
from mvp4d.core.capture import Capture
from mvp4d.core.heads.model import HeadModel
from mvp4d.core.heads.motion import Motion
from mvp4d_jax.data.options import PrepareOptions
from mvp4d_jax.data.photos import apart, degrade, disturb_head, disturb_pose
from mvp4d_jax.data.shards import Scene, ShardWriter
from mvp4d_jax.data.workers import Later, Record, Workers
from mvp4d_jax.geometry.conditioning import ConditioningConfig, draw_conditioning
from mvp4d_jax.heads.skinning import rotation_matrix, skin
from mvp4d_jax.models.autoencoder import VideoAutoencoder, compiler_options
from mvp4d_jax.small.painting import paint_video, painted_maps, vertex_colours
from mvp4d_jax.small.recolour import Palette, draw_palettes


@dataclasses.dataclass(frozen=True)
class ShownPhoto:
    """A picture [H, W, 3] in [0, 1] with the camera and the one frame of motion that were fitted to it."""

    picture: np.ndarray
    camera: Camera
    motion: Motion


@dataclasses.dataclass(frozen=True)
class _Look:
    """One scene of a capture: its colours, and which photos are painted.

    Attributes:
      suffix: of the scene's name.
      palette: colours of all pictures.
      photos: [R, 2] of (view, place in the single images).
      shown: R of what the model is shown of them.
      drawn: which of the painted videos that are drawn for all scenes at once are this one's.
    """

    suffix: str
    palette: Palette
    photos: np.ndarray
    shown: tuple[ShownPhoto, ...]
    drawn: slice


@dataclasses.dataclass(frozen=True)
class _Cut:
    """Some frames of a view, as all scenes of a capture share them.

    Attributes:
      pictures: [F, S, S, 3] uint8.
      maps: [L, h, w, Cc] float16.
      painted: [scenes R, F, S, S, 4] uint8 (`small.painting.paint_video`); None where the model is shown no photo.
    """

    pictures: np.ndarray
    maps: np.ndarray
    painted: np.ndarray | None


class Encoder:
    """Turns captures into records, on all devices of this host; compiles once per shape and device."""

    def __init__(
        self, autoencoder: VideoAutoencoder, conditioning: ConditioningConfig, options: PrepareOptions, seed: int
    ):
        self.options, self.conditioning, self.seed = options, conditioning, seed
        graph, state = nnx.split(autoencoder)
        self._encode = jax.jit(
            lambda state, video: nnx.merge(graph, state).encode_latents(video), compiler_options=compiler_options()
        )
        self._workers = Workers(state)
        self._drawn: dict[tuple, _Cut] = {}  # of the capture at work: its scenes share them
        self._head: HeadModel | None = None  # as fitted to the capture at work
        self._colours: np.ndarray | None = None  # [scenes R, N, 4] of the photos painted onto the head of that capture

    def scenes(self, capture: Capture, shard: str, writer: ShardWriter) -> list[Scene]:
        """Writes a capture's records, in each of its colours; returns what the manifest says of them."""
        self._drawn.clear()
        self._head = self._fitted(capture)
        palettes = draw_palettes(self.options.colours, np.random.default_rng([self.seed, stable_number(capture)]))
        images = tuple(
            int(frame)
            for frame in np.linspace(0, capture.frame_count - 1, min(self.options.images, capture.frame_count)).round()
        )
        angles = _frontal_angles(capture, images)
        photos = self._choose_photos(capture, angles, len(palettes))  # [scenes, R, 2]
        count = photos.shape[1]
        looks = [
            _Look(
                f"~{index}" if index else "",
                palette,
                chosen,
                self._shown(capture, images, palette, chosen, index),
                slice(index * count, (index + 1) * count),
            )
            for index, (palette, chosen) in enumerate(zip(palettes, photos))
        ]
        if self.conditioning.painted:
            self._colours = np.stack(
                [
                    vertex_colours(
                        photo.picture, photo.camera, photo.motion, self._head, fitted=self.options.fit_error > 0
                    )
                    for look in looks
                    for photo in look.shown
                ]
            )
        return [self._scene(capture, shard, writer, images, angles, look) for look in looks]

    def _choose_photos(self, capture: Capture, angles: np.ndarray, scenes: int) -> np.ndarray:
        """Which single images each scene paints: [scenes, R, 2] of (view, place), by their `_frontal_angles`."""
        count = self.options.photos if self.conditioning.painted or self.options.disturbs else 0
        near = np.argwhere(angles <= max(self.options.photo_angle, float(angles.min())))
        random = np.random.default_rng([self.seed, stable_number(capture), 2**31])
        return np.stack([near[random.choice(len(near), count, replace=len(near) < count)] for _ in range(scenes)])

    def _scene(
        self,
        capture: Capture,
        shard: str,
        writer: ShardWriter,
        images: tuple[int, ...],
        angles: np.ndarray,
        look: _Look,
    ) -> Scene:
        options, views = self.options, range(capture.view_count)
        vertices = np.asarray(skin(capture.head, capture.motion))[:, crops.head_vertices(capture.head)]  # [F, N', 3]
        starts = tuple(range(0, capture.frame_count - options.frames + 1, options.stride))
        distance = apart(capture.head, capture.motion)  # [F, F]
        later = Later(writer, self._workers)

        def add(make: Callable[..., Record], *arguments: Any) -> int:
            return later.add(functools.partial(make, *arguments))

        windows, singles, references, rotations, photos = [], [], [], [], []
        for variant in range(options.variants):
            random = np.random.default_rng([self.seed, stable_number(capture), variant])
            boxes = [self._box(capture, view, vertices, options.crop == "head", variant, random) for view in views]
            singles.append([add(self._images, capture, view, images, boxes[view], look) for view in views])
            references.append(singles[-1])
            if options.crop == "reference":
                boxes_of_heads = [self._box(capture, view, vertices, True, variant, random) for view in views]
                references[-1] = [
                    add(self._images, capture, view, images, boxes_of_heads[view], look) for view in views
                ]
            if options.disturbs:
                photos.append([add(self._photo, place, photo, look) for place, photo in enumerate(look.shown)])
            windows.append(
                [[add(self._window, capture, view, start, boxes[view], look) for start in starts] for view in views]
            )
            rotations.append(
                [[capture.camera(view, frame).world_to_camera[:3, :3] for frame in images] for view in views]
            )
        later.write()
        return Scene(
            name=scene_name(capture) + look.suffix,
            shard=shard,
            views=capture.names,
            world_rotation=np.asarray(rotations, np.float32),
            frontal_angle=angles,
            window_starts=starts,
            image_frames=images,
            window_records=np.asarray(windows, np.int64),
            image_records=np.asarray(singles, np.int64),
            reference_records=np.asarray(references, np.int64),
            painted=look.photos,
            photo_records=np.asarray(photos, np.int64).reshape(len(photos), len(look.shown)),
            photo_rotation=np.asarray(
                [photo.camera.world_to_camera[:3, :3] for photo in look.shown] if options.disturbs else [], np.float32
            ).reshape(-1, 3, 3),
            apart_windows=np.float32(
                [[distance[image, start : start + options.frames].mean() for start in starts] for image in images]
            ),
            apart_images=np.float32(distance[np.ix_(images, images)]),
        )

    def _fitted(self, capture: Capture) -> HeadModel:
        """The rig as the model is told of it."""
        if not self.options.fit_error:
            return capture.head
        return disturb_head(
            capture.head, self.options.fit_error, np.random.default_rng([self.seed, stable_number(capture), 2**31 + 1])
        )

    def _shown(
        self, capture: Capture, images: tuple[int, ...], palette: Palette, photos: np.ndarray, scene: int
    ) -> tuple[ShownPhoto, ...]:
        """A scene's photos [R, 2] as the model is shown them: in the scene's colours, with their errors."""
        random = np.random.default_rng([self.seed, stable_number(capture), 2**31 + 2, scene])
        shown = []
        for view, place in photos:
            view, frame = int(view), images[place]
            picture = palette.apply(capture.frame(view, frame)[None, None])[0, 0].astype(np.float32) / 255
            motion, camera = capture.motion[frame : frame + 1], capture.camera(view, frame)
            if self.options.fit_error:
                motion, camera = disturb_pose(capture.head, motion, camera, self.options.fit_error, random)
            if self.options.photo_error:
                alpha = capture.mask(view, frame) / np.float32(255) if capture.has_masks else np.ones(picture.shape[:2])
                picture = degrade(picture, alpha, self.options.photo_error, random)
            shown.append(ShownPhoto(picture, camera, motion))
        return tuple(shown)

    def _photo(self, place: int, photo: ShownPhoto, look: _Look) -> Record:
        """A photo as reference: cropped around the head that was fitted to it, with that fit's maps."""
        picture, size, camera, outside = photo.picture, self.options.image_size, photo.camera, None
        if self.options.crop != "none":
            vertices = np.asarray(skin(self._head, photo.motion))[0][crops.head_vertices(self._head)]
            box = crops.head_box(np.asarray(project(camera, vertices)[0]))
            picture, outside = crops.crop_image(picture, box, size, background=1.0)
            camera, outside = crops.crop_camera(camera, box, size), outside[None, None]
        cameras = Camera(*(np.asarray(getattr(camera, name))[None, None] for name in FIELDS))
        maps = draw_conditioning(
            self._head, photo.motion, cameras, (size, size), self.conditioning, _world_axes(), outside=outside
        )
        record = {
            "latents": self._latents(picture[None, None] * 2 - 1)[0],
            "conditioning": np.asarray(maps, np.float16)[0],
        }
        if self.conditioning.painted:
            painted = paint_video(
                self._head, photo.motion, cameras, (size, size), self._colours[look.drawn][place : place + 1]
            )[0]  # [1, 1, S, S, 4]
            record["painted"] = painted_maps(painted, self._latents, self.conditioning).astype(np.float16)
        return record

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

    def _window(self, capture: Capture, view: int, start: int, box: np.ndarray, look: _Look) -> Record:
        return self._record([self._cut(capture, view, range(start, start + self.options.frames), box)], look)

    def _images(self, capture: Capture, view: int, frames: tuple[int, ...], box: np.ndarray, look: _Look) -> Record:
        return self._record([self._cut(capture, view, range(frame, frame + 1), box) for frame in frames], look)

    def _record(self, cuts: list[_Cut], look: _Look) -> Record:
        """One window, or K images, in a scene's colours: latents, maps, and what the model is told of its photos."""
        video = look.palette.apply(np.stack([cut.pictures for cut in cuts])) / np.float32(127.5) - 1  # [K, F, S, S, 3]
        record = {
            "latents": np.concatenate(self._latents(video)),
            "conditioning": np.concatenate([cut.maps for cut in cuts]),
        }
        if self.conditioning.painted:
            painted = np.stack([cut.painted[look.drawn] for cut in cuts], axis=1)  # [R, K, F, S, S, 4]
            maps = painted_maps(
                painted.reshape(-1, *painted.shape[2:]) / np.float32(255), self._latents, self.conditioning
            )  # [R K, L, h, w, Cp]
            record["painted"] = maps.reshape(len(painted), -1, *maps.shape[2:]).astype(np.float16)
        return record

    def _latents(self, video: np.ndarray) -> np.ndarray:
        """[B, F, S, S, 3] in [-1, 1] -> [B, L, h, w, C] float16."""
        return np.asarray(self._encode(self._workers.state, jnp.asarray(video, jnp.float32)), np.float16)

    def _cut(self, capture: Capture, view: int, frames: range, box: np.ndarray) -> _Cut:
        """Some frames of a view, cropped, with their maps and the photos of all scenes painted."""
        place = (view, frames, tuple(box))
        if place not in self._drawn:
            size = self.options.image_size
            cut = [
                crops.crop_image(picture, box, size)
                for picture in capture.frames(view, slice(frames.start, frames.stop))
            ]
            pictures = np.stack([picture for picture, _ in cut]).round().clip(0, 255).astype(np.uint8)
            made = _Cut(pictures, *self._draw(capture, view, frames, box, cut[0][1]))
            if self.options.colours == 1:  # nothing asks twice, and a large capture would fill the memory
                return made
            self._drawn[place] = made
        return self._drawn[place]

    def _draw(
        self, capture: Capture, view: int, frames: range, box: np.ndarray, outside: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """`_Cut.maps` and `_Cut.painted`."""
        part = slice(frames.start, frames.stop) if capture.cameras.fx.shape[1] > 1 else slice(0, 1)
        cameras = Camera(**{name: getattr(capture.cameras, name)[view : view + 1, part] for name in FIELDS})
        cameras, size = crops.crop_camera(cameras, box, self.options.image_size), (self.options.image_size,) * 2
        motion = capture.motion[frames.start : frames.stop]
        maps = draw_conditioning(
            self._head, motion, cameras, size, self.conditioning, _world_axes(), outside=outside[None, None]
        )
        painted = None
        if self._colours is not None:
            painted = paint_video(self._head, motion, cameras, size, self._colours)[:, 0]
            painted = (painted * 255).round().astype(np.uint8)
        return np.asarray(maps, np.float16)[0], painted


@functools.cache
def _world_axes() -> Camera:
    """A reference camera without rotation: ray maps then stay in world axes (see `shards`)."""
    return Camera(np.eye(4), np.float64(1), np.float64(1), np.float64(0), np.float64(0))


def _first(camera: Camera) -> Camera:
    """The one camera of [1]."""
    return Camera(**{name: getattr(camera, name)[0] for name in FIELDS})


def stable_number(capture: Capture) -> int:
    return int.from_bytes(hashlib.sha256(scene_name(capture).encode()).digest()[:4], "little")


def _frontal_angles(capture: Capture, frames: Sequence[int]) -> np.ndarray:
    """[V, K] radians between where the face looks (its +z, turned by head and neck) and the direction to the camera."""
    angles = np.zeros((capture.view_count, len(frames)), np.float32)
    motion: Motion = capture.motion
    chosen = list(frames)
    turn = np.asarray(
        rotation_matrix(np.asarray(motion.rotation)[chosen]) @ rotation_matrix(np.asarray(motion.neck)[chosen])
    )  # [K, 3, 3]
    for place, frame in enumerate(frames):
        forward, centre = turn[place, :, 2], np.asarray(motion.translation)[frame]
        for view in range(capture.view_count):
            angles[view, place] = angle_off(capture.camera(view, frame), centre, forward)
    return angles


def scene_name(capture: Capture) -> str:
    return f"{capture.path.resolve().parent.name}/{capture.path.resolve().name}"
