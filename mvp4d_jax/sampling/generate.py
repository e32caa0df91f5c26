"""From one picture to a capture: windows denoised one after another, decoded, kept as they come, written as a whole."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import os
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from PIL import Image

from mvp4d.core.cameras.camera import Camera
from mvp4d.core.capture import Capture, CaptureWriter
from mvp4d.core.capture.portrait import Portrait
from mvp4d.core.errors import UserError
from mvp4d.core.files import atomic_file, read_npz, write_json
from mvp4d.core.heads.model import HeadModel
from mvp4d.core.heads.motion import Motion
from mvp4d.core.lock import hold
from mvp4d.core.outputs import check_file, check_folder, drop_work_folder, mark_finishing, was_finishing, work_folder
from mvp4d.core.owner import sweep
from mvp4d.core.places import beside
from mvp4d.core.progress import progress, say
from mvp4d.core.room import require_space
from mvp4d.core.words import counted
from mvp4d_jax.processes import begin_together, from_first, is_first
from mvp4d_jax.release import Release
from mvp4d_jax.sampling.ahead import one_ahead
from mvp4d_jax.sampling.clean_views import CleanViews, PhotoViews
from mvp4d_jax.sampling.decode import Coder, decode_to_files
from mvp4d_jax.sampling.denoise import DenoiseOptions, compile_denoising, denoise
from mvp4d_jax.sampling.finish import Finisher, Finishing
from mvp4d_jax.sampling.plan import SamplingPlan
from mvp4d_jax.sampling.predictor import Conditions, Predictor
from mvp4d_jax.sampling.preview import write_preview
from mvp4d_jax.sampling.shot import (
    Reference,
    camera_window,
    crop_portrait,
    draw_window,
    make_reference,
    pad_motion,
)

WORK = "sampling run"


def check_targets(out: str | os.PathLike, overwrite: bool) -> None:
    """Refuses a capture to sample into whose name, preview or reference picture is in the way.

    A run that was stopped while it put them in place may do so again; `Generator.run` sees to it that it is the same.
    """
    overwrite = overwrite or was_finishing(beside(out, ".work"), WORK) is not None
    check_folder(out, "capture", overwrite)
    for path in (beside(out, ".mp4"), beside(out, "_reference.png")):
        check_file(path, overwrite)


@dataclasses.dataclass(frozen=True)
class SamplingInputs:
    """All a run is given beside the weights.

    Attributes:
      reference: the picture.
      head: personalised rig.
      motion: F frames.
      cameras: [V, F'] of the views to make; names: theirs.
      clean_views: existing views, or None.
      portrait: the person's photos, which the capture keeps; or None.
      finishing: what is done to the views as they are written.
    """

    reference: Reference
    head: HeadModel
    motion: Motion
    cameras: Camera
    names: tuple[str, ...]
    clean_views: CleanViews | PhotoViews | None = None
    portrait: Portrait | None = None
    finishing: Finishing = dataclasses.field(default_factory=Finishing)


class Generator:
    """Loaded weights on a mesh, ready for any number of runs; what is compiled for one serves the next.

    Args:
      release: weights and facts.
      mesh: devices.
    """

    def __init__(self, release: Release, mesh: Mesh):
        self.release = release
        self.coder = Coder(release.autoencoder, mesh)
        self.predictor = Predictor(release.transformer, mesh, release.facts.conditioning)

    def reference(self, portrait: Portrait) -> Reference:
        """The portrait's reference photo, cropped to the model's size, encoded, with its maps."""
        facts, index = self.release.facts, portrait.reference
        motion = portrait.motion[slice(index, index + 1)]
        crop, camera, inside = crop_portrait(portrait, index, facts.image_size, facts.crop_margin)
        return make_reference(
            crop[..., :3],
            camera,
            motion,
            portrait.head,
            self.coder.encode,
            facts.conditioning,
            inside,
            crop[..., 3],
            fitted=portrait.landmarks is not None,
        )

    def compilations(self, plan: SamplingPlan, options: DenoiseOptions) -> list[Callable[[], None]]:
        """Tasks that compile what `run` will need beyond its reference, in the order in which it needs that."""
        facts, channels = self.release.facts, self.coder.autoencoder.config.latent_channels
        size, maps = (facts.image_size, facts.image_size), facts.conditioning
        tasks = []
        for frames, latents in sorted({(window.frames, window.latents) for window in plan.windows}, reverse=True):
            lead = (plan.views + plan.clean_views, latents)

            def array(*shape: int, dtype: Any = np.float32) -> jax.ShapeDtypeStruct:
                return jax.ShapeDtypeStruct(shape, dtype)

            conditions = Conditions(
                array(*lead, *plan.latent_size, maps.channels),
                array(*lead, dtype=bool),
                array(*lead, *plan.latent_size, channels),
                array(*plan.latent_size, channels),
                array(*plan.latent_size, maps.channels),
            )
            if maps.painted:
                tasks.append(functools.partial(self.coder.compile_encoding, frames, size))
            tasks.append(functools.partial(compile_denoising, self.predictor, conditions, plan, options))
            tasks.append(functools.partial(self.coder.compile_decoding, latents, plan.latent_size))
        return tasks

    def run(
        self,
        plan: SamplingPlan,
        inputs: SamplingInputs,
        options: DenoiseOptions,
        out: Path,
        fingerprint: str,
        extra: dict[str, Any] | None = None,
        *,
        overwrite: bool = False,
    ) -> Capture | None:
        """Denoises and decodes every window that is not there yet, then writes the capture and its preview video.

        Finished windows are kept in `<out>.work` until the capture stands, and are not done again. Of several processes
        the first reads and writes all files of the run, and no other needs to see its folder.

        Args:
          plan: what to denoise together; inputs: what is given; options: of the denoising.
          out: the capture to write; the preview is `<out>.mp4`, the reference as the model sees it
            `<out>_reference.png`.
          fingerprint: of everything the pictures depend on; kept windows of another one are dropped.
          extra: facts to keep in the capture.

        Returns:
          The capture; None in a process that is not the first.

        Raises:
          UserError: something is in the way.
        """
        return _Run(self, plan, inputs, options, out).finish(fingerprint, extra or {}, overwrite)


class _Run:
    """One capture in the making."""

    def __init__(
        self, generator: Generator, plan: SamplingPlan, inputs: SamplingInputs, options: DenoiseOptions, out: Path
    ):
        self.coder, self.predictor, self.facts = generator.coder, generator.predictor, generator.release.facts
        self.plan, self.inputs, self.options, self.out = plan, inputs, options, out
        self.size = (self.facts.image_size, self.facts.image_size)
        self.work, self.overwrite = beside(out, ".work"), False

    def finish(self, fingerprint: str, extra: dict[str, Any], overwrite: bool) -> Capture | None:
        """Goes through all stages; see `Generator.run`."""
        with contextlib.ExitStack() as held:
            begin_together(lambda: self._begin(fingerprint, overwrite, held))
            views = self._windows()
            if is_first():
                return self._put_in_place(fingerprint, extra, views)
            _exhaust(views)
            return None

    def _begin(self, fingerprint: str, overwrite: bool, held: contextlib.ExitStack) -> None:
        held.enter_context(hold(self.out))
        self.overwrite = overwrite or was_finishing(self.work, WORK) == fingerprint
        check_targets(self.out, self.overwrite)
        pixels = self.plan.views * self.plan.frames * self.size[0] * self.size[1]
        shares = 3 + 3 * self.inputs.finishing.enlarge**2  # frames kept whole, and the capture's pictures
        require_space(self.out, shares * pixels, "sampling")
        self._claim(fingerprint)

    def _windows(self) -> Iterator[int]:
        """Denoises what is not there yet and decodes it, the last window as the views are taken.

        Returns:
          The views, one by one when all their frames are there.
        """
        count, last_view = len(self.plan.windows), len(self.inputs.names) - 1
        denoised = from_first(lambda: [self._latents_path(index).is_file() for index in range(count)], (count,), bool)
        decoded = from_first(
            lambda: [self._frames_path(index, last_view).is_file() for index in range(count)], (count,), bool
        )
        if is_first() and denoised.any():
            say(f"going on: {denoised.sum()} of {counted(count, 'window')} denoised")
        with progress(total=int((~denoised).sum()) * self.plan.steps, what="denoising", unit="step") as bar:
            views: Iterator[int] = iter(range(self.plan.views))
            maps = one_ahead(self._maps, np.flatnonzero(~denoised).tolist())
            for index in range(count):
                _exhaust(views)
                latents = self._kept(index) if denoised[index] else self._denoise(index, next(maps), bar)
                path_of = functools.partial(self._frames_path, index)
                views = (
                    iter(range(self.plan.views)) if decoded[index] else decode_to_files(self.coder, latents, path_of)
                )
        return views

    def _put_in_place(self, fingerprint: str, extra: dict[str, Any], views: Iterator[int]) -> Capture:
        mark_finishing(self.work, WORK, fingerprint)
        capture = self._assemble(extra, views)
        write_preview(beside(self.out, ".mp4"), capture)
        with atomic_file(beside(self.out, "_reference.png")) as temporary:
            Image.fromarray((self.inputs.reference.image * 255 + 0.5).clip(0, 255).astype(np.uint8)).save(temporary)
        drop_work_folder(self.work, WORK)
        return capture

    def _claim(self, fingerprint: str) -> None:
        """Opens the work folder; one that belongs to other inputs is emptied."""
        note = self.work / "run.json"
        if note.is_file() and fingerprint.encode() not in note.read_bytes():
            say("note: the run that was stopped here had other settings or inputs: this one begins anew")
            drop_work_folder(self.work, WORK)
        work_folder(self.work, WORK)
        sweep(self.work)
        write_json(note, {"fingerprint": fingerprint})

    def _denoise(self, index: int, maps: np.ndarray, bar: Any) -> np.ndarray:
        """Latents [V, L, h, w, C] of a window with these maps, which are also kept."""
        key = jax.random.key(self.plan.seed)
        latents = denoise(self.predictor, self._conditions(index, maps), self.plan, index, self.options, key, bar)
        latents = np.asarray(latents, np.float32)
        if is_first():
            with atomic_file(self._latents_path(index)) as temporary:
                np.savez(temporary, latents=latents)
        return latents

    def _kept(self, index: int) -> np.ndarray:
        """The latents of a window that an earlier run denoised."""
        channels = self.inputs.reference.latents.shape[-1]
        shape = (self.plan.views, self.plan.windows[index].latents, *self.plan.latent_size, channels)
        return from_first(lambda: _read_kept(self._latents_path(index), "latents", shape), shape, np.float32)

    def _maps(self, index: int) -> np.ndarray:
        """Maps [V', L, h, w, Cc] of one window; noisy views first, then the clean views."""
        inputs, window, config = self.inputs, self.plan.windows[index], self.facts.conditioning
        motion = pad_motion(inputs.motion, window.stop)[slice(window.start, window.stop)]
        sets = [(motion, camera_window(inputs.cameras, window.start, window.stop))]
        if inputs.clean_views:
            whole = pad_motion(inputs.motion, window.stop)
            sets += [
                (shown[slice(window.start, window.stop)], camera_window(cameras, window.start, window.stop))
                for shown, cameras in inputs.clean_views.shown(whole)
            ]
        return np.concatenate(
            [
                draw_window(inputs.head, shown, cameras, self.size, config, inputs.reference, self.coder.encode)
                for shown, cameras in sets
            ]
        )

    def _conditions(self, index: int, maps: np.ndarray) -> Conditions:
        """Maps, clean frames and reference of one window; noisy views first, then the clean views."""
        plan, inputs, window = self.plan, self.inputs, self.plan.windows[index]
        clean = np.zeros(maps.shape[:2], bool)
        latents = np.zeros((*maps.shape[:-1], inputs.reference.latents.shape[-1]), np.float32)
        if window.clean_latents:
            clean[: plan.views, : window.clean_latents] = True
            latents[: plan.views, : window.clean_latents] = self.coder.encode(self._prefix(index))
        if inputs.clean_views:
            clean[plan.views :] = True
            latents[plan.views :] = self.coder.encode(inputs.clean_views.frames(window))
        maps[..., self.facts.conditioning.parts["reference"]] = clean[:, :, None, None, None]
        return Conditions(maps, clean, latents, np.asarray(inputs.reference.latents), inputs.reference.conditioning)

    def _prefix(self, index: int) -> np.ndarray:
        """The last frames of the window before, as they were written, for L clean latent frames, s video frames apart:
        [V, 1 + s (L - 1), H, W, 3] in [-1, 1]."""
        count, views = self.plan.windows[index].clean_frames, self.plan.views

        def read() -> np.ndarray:
            return np.stack([self._frames(index - 1, view)[-count:] for view in range(views)])

        return from_first(read, (views, count, *self.size, 3), np.uint8) / 127.5 - 1

    def _latents_path(self, index: int) -> Path:
        return self.work / f"latents_{index:03d}.npz"

    def _frames_path(self, index: int, view: int) -> Path:
        return self.work / f"frames_{index:03d}_{view:04d}.npz"

    def _frames(self, index: int, view: int) -> np.ndarray:
        shape = (self.plan.windows[index].frames, *self.size, 3)
        return _read_kept(self._frames_path(index, view), "frames", shape)

    def _assemble(self, extra: dict[str, Any], views: Iterator[int]) -> Capture:
        """Writes the capture: frames without the windows' clean prefixes, finished; cameras, motion, rig.

        Args:
          views: all of them, each when its frames are there.
        """
        plan, inputs = self.plan, self.inputs
        views = itertools.chain([next(views)], views)  # the next ones are decoded while the finisher reads the photo
        motion = pad_motion(inputs.motion, plan.frames)
        cameras = camera_window(inputs.cameras, 0, plan.frames)
        finisher = Finisher(
            inputs.finishing,
            inputs.head,
            motion,
            cameras,
            self.facts.image_size,
            inputs.portrait,
            self.facts.crop_margin,
            [window.start + window.clean_frames for window in plan.windows[1:]],
        )
        writer = CaptureWriter(
            self.out,
            head=inputs.head,
            motion=motion,
            cameras=finisher.cameras,
            names=inputs.names,
            image_size=(finisher.side, finisher.side),
            masks=True,
            source="mvp4d sample",
            extra={**extra, "reference_axis": inputs.reference.axis_in_head().tolist()},
            portrait=inputs.portrait,
            overwrite=self.overwrite,
        )
        with writer, progress(total=plan.views * plan.frames, what="writing", unit="frame") as bar:
            for view in views:
                frames = np.concatenate(
                    [self._frames(index, view)[window.clean_frames :] for index, window in enumerate(plan.windows)]
                )[: plan.frames]
                for frame, (picture, alpha) in enumerate(finisher.view(view, frames)):
                    writer.add(view, frame, picture, alpha)
                    bar.update()
        return Capture.open(self.out)


def _exhaust(items: Iterator[Any]) -> None:
    """Takes what is left."""
    deque(items, maxlen=0)


def _read_kept(path: Path, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """What an earlier run kept. Raises UserError where it is damaged."""
    array = read_npz(path).get(name)
    if array is None or array.shape != shape or array.dtype.kind not in "uf" or not np.isfinite(array).all():
        raise UserError(path, f"holds no finite '{name}' of shape {shape}", "delete it and run the same command again")
    return array
