"""The studio: pictures and captures of synthetic people, with everything known about them."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np

from mvp4d.core.cameras.camera import FIELDS, Camera
from mvp4d.core.errors import UserError
from mvp4d.core.heads import load_head
from mvp4d.core.heads.model import HeadModel
from mvp4d.core.heads.motion import ARRAYS, Motion
from mvp4d_jax.studio.figure import build_figure
from mvp4d_jax.studio.lighting import Lights, draw_lights
from mvp4d_jax.studio.motions import make_motion
from mvp4d_jax.studio.own_motion import own_motion as make_own_motion
from mvp4d_jax.studio.rendering import Figure, Posed, draw, pose
from mvp4d_jax.studio.traits import Identity, draw_identity, random_for

_CHUNK = 8  # frames posed at once
_THREADS = max(2, (os.cpu_count() or 2) // 2)
MAXIMUM_SIZE = 2048


@functools.lru_cache(maxsize=1)
def builtin_head() -> HeadModel:
    """The built-in head, loaded once."""
    return load_head("builtin")


class Studio:
    """One person in one light.

    Args:
      identity: the person's number; the same number is the same person, everywhere.
      seed: chooses the light, not the person.
      own_motion: how far the filmed face moves in its own way (`own_motion`): 0 as `head` does, 1 as people do.

    Attributes:
      traits: what the person looks like. head: the rig, personalised; hair and glasses are only in pictures.
      own: the person's own way to move, only in pictures too, or None.
    """

    def __init__(self, identity: int, seed: int = 0, own_motion: float = 0.0):
        head = builtin_head()
        self.identity, self.seed = identity, seed
        self.traits: Identity = draw_identity(identity, head.shape_count)
        self.head: HeadModel = head.personalise(self.traits.shape)
        self.own = make_own_motion(self.head, identity, own_motion) if own_motion else None

    @functools.cached_property
    def lights(self) -> Lights:
        """On the device, which a motion does without."""
        return jax.device_put(draw_lights(random_for(self.identity, "light", self.seed)))

    @functools.cached_property
    def _figure(self) -> Figure:
        """What is drawn: takes seconds to build, and a motion does without."""
        return jax.device_put(build_figure(self.traits, self.head if self.own is None else self.own.rig))

    def motion(self, frames: int, kind: str = "mixed", fps: float = 25.0) -> Motion:
        """A performance of this person (`motions.make_motion`), from identity and seed."""
        return make_motion(
            self.head.expression_names, frames, kind=kind, fps=fps, seed=random_for(self.identity, "motion", self.seed)
        )

    def stream(self, motion: Motion, cameras: Camera, size: int | tuple[int, int]) -> Iterator[tuple]:
        """Yields (view, frame, rgb [H, W, 3] uint8, alpha [H, W] uint8), all views of frame 0, then of frame 1, ...

        Args:
          motion: F frames for this studio's head.
          cameras: [V] still, or [V, F'] with F' = 1 or F.
          size: side of a square picture, or (height, width).

        Raises:
          UserError: a size outside 8 to 2048, or cameras and motion of different lengths.
        """
        size = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
        if not all(8 <= side <= MAXIMUM_SIZE for side in size):
            raise UserError("`size`", f"{size[0]} x {size[1]} pixels", f"8 to {MAXIMUM_SIZE}")
        grid = {name: np.asarray(getattr(cameras, name), np.float64) for name in FIELDS}
        if grid["fx"].ndim == 1:
            grid = {name: value[:, None] for name, value in grid.items()}
        views, times = grid["fx"].shape
        if times not in (1, motion.frame_count):
            raise UserError(
                "cameras",
                f"{times} moments for {motion.frame_count} frames of motion",
                "still cameras, or as many moments as frames",
            )
        if self.own is not None:
            motion = dataclasses.replace(motion, expression=self.own.coefficients(motion.expression))
        room = [_room(size)]

        def picture(job: tuple[int, int, Posed]) -> tuple:
            view, frame, moment = job
            time = 0 if times == 1 else frame
            camera = Camera(**{name: np.float32(value[view, time]) for name, value in grid.items()})
            while True:
                blocks = room[0]
                rgb, alpha, wanted = draw(self._figure, moment, camera, self.lights, size=size, blocks=blocks)
                if int(wanted) <= blocks:
                    return view, frame, np.asarray(rgb), np.asarray(alpha)
                room[0] = max(room[0], _more(blocks, int(wanted)))

        # Two pictures at a time on two cores: a single one does not keep them busy.
        with ThreadPoolExecutor(_THREADS) as pool:
            for start in range(0, motion.frame_count, _CHUNK):
                frames = np.minimum(np.arange(start, start + _CHUNK), motion.frame_count - 1)
                arrays = {name: jnp.asarray(np.asarray(getattr(motion, name), np.float32)[frames]) for name in ARRAYS}
                posed = pose(self._figure, arrays, self.lights)
                moments = [
                    jax.tree.map(lambda value, place=place: value[place], posed)
                    for place in range(min(_CHUNK, motion.frame_count - start))
                ]
                jobs = [(view, start + place, moment) for place, moment in enumerate(moments) for view in range(views)]
                yield from pool.map(picture, jobs)

    def render(self, motion: Motion, cameras: Camera, size: int | tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """rgb uint8 [V, F, H, W, 3] on white and alpha uint8 [V, F, H, W]; arguments as `stream`."""
        height, width = (size, size) if isinstance(size, int) else size
        views = np.shape(cameras.fx)[0]
        rgb = np.empty((views, motion.frame_count, height, width, 3), np.uint8)
        alpha = np.empty((views, motion.frame_count, height, width), np.uint8)
        for view, frame, picture, mask in self.stream(motion, cameras, size):
            rgb[view, frame], alpha[view, frame] = picture, mask
        return rgb, alpha


def _room(size: tuple[int, int]) -> int:
    """How many 4 x 4 blocks a head that fills the picture needs, by measurement; more are made when it overflows."""
    samples = 4 * size[0] * size[1]
    return int(30_000 + 1.2 * samples)


def _more(blocks: int, wanted: int) -> int:
    while blocks < wanted:
        blocks *= 2
    return blocks


def with_lights(studio: Studio, lights: Lights) -> Studio:
    """The same person in another light."""
    other = object.__new__(Studio)
    other.__dict__.update(studio.__dict__)
    other.lights = jax.device_put(lights)
    return other


__all__ = ["Studio", "builtin_head", "with_lights"]
