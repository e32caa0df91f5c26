"""The public API: one portrait photo to an animatable 4D head avatar, in a dozen names. See docs/api.md.

Each function imports the half that it needs when it is called: `track`, `film`, `load` and `evaluate` the JAX half,
`distill` and `open_avatar` the PyTorch half. Errors a caller can cause are `UserError`.
"""

from __future__ import annotations

import dataclasses
import inspect
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mvp4d.avatar import Avatar, open_avatar
from mvp4d.core.arguments import Pathlike, checked, checked_fields
from mvp4d.core.cameras.camera import Camera
from mvp4d.core.capture import Capture
from mvp4d.core.capture.portrait import Portrait
from mvp4d.core.errors import UserError
from mvp4d.core.heads.model import HeadModel
from mvp4d.core.heads.motion import Motion
from mvp4d.core.progress import say
from mvp4d.views import Views, on_disk

if TYPE_CHECKING:
    from mvp4d_jax.sampling.job import Job


@checked
def track(
    *photos: Pathlike,
    head: str | HeadModel = "builtin",
    masks: Sequence[Pathlike] | None = None,
    matte: str = "auto",
    landmarks: Sequence[Pathlike] | None = None,
    face: int | None = None,
    focal: float | None = None,
    same_person: bool = False,
    most: int = 6,
) -> Portrait:
    """Fits one head to photos of a person, or to a clip, and cuts the person out of each.

    Args:
      photos: image files, one or several of one person; or one video, of which some frames are kept.
      head: "builtin", "ict:PATH", "flame:PATH" or a HeadModel.
      masks: a picture of each photo's size, white where the person is; given instead of the automatic cut-out.
      matte: "auto" cuts the person out, "none" keeps the background.
      landmarks: an npz for each photo or video, used instead of MediaPipe's.
      face: which face of each, counted from the left from 1; the largest by default.
      focal: focal length in pixels, where it is known.
      same_person: take several photos for one person's, unchecked.
      most: frames to keep of a video, at most.

    Returns:
      A Portrait of all photos; the most frontal one is its reference. `save_person` and `open_person` keep it on disk.

    Raises:
      UserError: names the first file that is no picture, has no face, shows someone else or does not fit the head.
    """
    from mvp4d_jax.tracking.portrait import track_portrait

    return track_portrait(
        photos,
        head,
        masks=masks,
        matte=matte,
        landmarks=landmarks,
        face=face,
        focal=focal,
        same_person=same_person,
        most=most,
    )


@checked
def film(
    identity: int,
    out: Pathlike,
    *,
    cameras: str = "orbit:360x8",
    frames: int = 13,
    size: int = 128,
    fps: float | None = None,
    motion: str = "mixed",
    seed: int = 0,
    own_motion: float = 0.0,
    overwrite: bool = False,
) -> Capture:
    """Films a synthetic person in the studio, with ground-truth cameras, motion, head and masks.

    Args:
      identity: the person's number: 0 to 9,999 for training, 10,000 to 10,999 for validation, 11,000 on for tests.
      out: the capture folder to write.
      cameras: a rig such as "orbit:360x8", or "random:8".
      frames, size: of each view; `size` is the side in pixels.
      fps: frames per second, which a recorded motion is resampled to; None: a recorded motion's own, else 25.
      motion: "mixed", "speech", "expressive", "turning", "still", or a motion file.
      seed: of light and performance.
      own_motion: 0 moves faces as the rig does, 1 as people do: the rig then misses them by a millimetre or two.
      overwrite: replace a capture that is there.
    """
    from mvp4d_jax.studio.produce import Order, make_capture

    order = Order(cameras, frames, size, fps, motion, seed, own_motion)
    return Capture.open(make_capture(out, identity, order, overwrite=overwrite))


@checked
def load(weights: Pathlike, *, mesh: tuple[int, int, int] = (1, 1, 1), dtype: str | None = None) -> Model:
    """Opens a release of multi-view diffusion weights; they are read at the first sample.

    Args:
      weights: the name of weights that come with the project ("tiny_128_turbo", "tiny_128", "tiny"), or a release
        folder.
      mesh: devices along data, fsdp and context; -1 takes what is left.
      dtype: "float32" or "bfloat16", what is computed in; by default what the weights were trained in.

    Raises:
      UserError: no release there, a dtype that is not one, or a mesh that the devices cannot form.
    """
    from mvp4d_jax.parallel import make_mesh
    from mvp4d_jax.release import check_dtype, read_facts, resolve_weights

    folder = resolve_weights(weights)
    made = make_mesh(mesh)
    data, fsdp, context = (made.shape[axis] for axis in made.axis_names)
    return Model(folder, read_facts(folder), (data, fsdp, context), check_dtype(dtype))


@dataclasses.dataclass
class Model:
    """A release on a device mesh.

    Attributes:
      folder: of the release.
      facts: what it was trained for: head, image_size, views, frames, ...
      mesh: devices along data, fsdp, context.
      dtype: what is computed in; None for what the weights were trained in.
    """

    folder: Path
    facts: Any
    mesh: tuple[int, int, int] = (1, 1, 1)
    dtype: str | None = None
    _generator: Any = dataclasses.field(default=None, repr=False)

    def __repr__(self) -> str:
        side, dtype = self.facts.image_size, self.dtype or self.facts.dtype
        return f"Model('{self.folder}': {side} x {side} pixels, head '{self.facts.head}', {dtype}, mesh {self.mesh})"

    @checked
    def plan(
        self,
        reference: Portrait | Capture | Pathlike,
        *,
        motion: Motion | Capture | Pathlike,
        cameras: Camera | Capture | Pathlike,
        clean_views: Capture | Pathlike | None = None,
        fit: Any = None,
        head: str | HeadModel = "builtin",
        mask: Pathlike | None = None,
        matte: str = "auto",
        **settings: Any,
    ) -> Job:
        """Checks what `sample` would be given and says what it would do: `plan(...).describe()`. Loads no weights."""
        from mvp4d_jax.sampling.inputs import open_portrait
        from mvp4d_jax.sampling.job import Settings, plan_job

        beside = {
            name
            for method in (self.plan, self.sample)
            for name, entry in inspect.signature(method).parameters.items()
            if entry.kind is entry.KEYWORD_ONLY
        }
        chosen = checked_fields(Settings, settings, sorted(beside - settings.keys()))
        portrait = open_portrait(reference, fit=fit, head=head, mask=mask, matte=matte)
        return plan_job(
            self.folder,
            self.facts,
            portrait,
            motion=motion,
            cameras=cameras,
            views=clean_views,
            settings=chosen,
            dtype=self.dtype,
            mesh=self.mesh,
        )

    @checked
    def sample(
        self,
        reference: Portrait | Capture | Pathlike,
        *,
        motion: Motion | Capture | Pathlike,
        cameras: Camera | Capture | Pathlike,
        out: Pathlike | None = None,
        overwrite: bool = False,
        **options: Any,
    ) -> Capture | Views:
        """Generates synchronised multi-view video of a person.

        Args:
          reference: a Portrait (`track`), a capture whose reference frame is taken, or a photo with its `fit`.
          motion: driving motion: a Motion of the portrait's head, or a motion file, whose expressions are matched by
            name.
          cameras: the views to make: a rig such as "orbit:360x8", Camera [V, F'], or a capture's.
          out: the capture folder to write. A run that was stopped goes on where it was when it is given again.
          overwrite: replace a capture that is there.
          options: `clean_views`, `fit`, `head`, `mask`, `matte`, and the fields of `sampling.job.Settings`: `frames`,
            `window`, `overlap`, `group`, `anchors`, `routing`, `sampler`, `steps`, `guidance`, `guidance_interval`,
            `guidance_rescale`, `eta`, `seed`, `photo_detail`,
            `temporal_filter`, `hair_colour`, `enlarge`.

        Returns:
          The Capture that was written; Views, in memory, where `out` is None.

        Raises:
          UserError: an input that is missing, damaged or does not fit, before any weights are loaded.
        """
        if out is not None:
            from mvp4d_jax.sampling.generate import check_targets

            check_targets(out, overwrite)
        job = self.plan(reference, motion=motion, cameras=cameras, **options)
        if job.notice:
            say(f"note: {job.notice}")
        if out is not None:
            return _written(self.run(job, out, overwrite=overwrite))
        with tempfile.TemporaryDirectory(prefix="mvp4d-") as folder:
            return Views.read(_written(self.run(job, Path(folder) / "views")))

    def run(
        self, job: Job, out: Pathlike, *, overwrite: bool = False, extra: dict[str, Any] | None = None
    ) -> Capture | None:
        """Samples a plan into a capture folder; `extra` is kept in its capture.json. Of several processes the first
        writes, and the others get None."""
        from mvp4d_jax.parallel import make_mesh
        from mvp4d_jax.release import load_release
        from mvp4d_jax.sampling.generate import Generator

        if self._generator is None:
            mesh = make_mesh(self.mesh)
            self._generator = Generator(load_release(self.folder, mesh=mesh, dtype=self.dtype), mesh)
        notes = {
            "weights": self.folder.name,
            "steps": job.plan.steps,
            "guidance": job.plan.guidance_scale,
            "sampler": job.options.method,
            "seed": job.plan.seed,
            "routing": job.plan.routing,
            **dataclasses.asdict(job.finishing),
            **(extra or {}),
        }
        return job.run(self._generator, Path(out), notes, overwrite=overwrite)


def _written(capture: Capture | None) -> Capture:
    if capture is None:
        raise UserError(
            "`sample`", "has no views to return here: the first process of this run has them", "use `plan` and `run`"
        )
    return capture


@checked
def open_capture(path: Pathlike) -> Capture:
    """Opens a capture folder. Raises UserError naming the file and field at fault."""
    return Capture.open(path)


@checked
def evaluate(
    capture: Capture | Views | Pathlike,
    against: Capture | Views | Pathlike,
    *,
    baselines: bool = False,
    lpips: Pathlike | None = None,
    likeness: bool = False,
    jod: bool = False,
) -> dict[str, Any]:
    """Measures a capture against the ground truth of the same cameras: PSNR, SSIM, by angle, consistency, flicker.

    Args:
      baselines: also score the truth's reference image repeated, and painted onto the truth's rig.
      lpips: safetensors with VGG-16 features and LPIPS layers, for LPIPS.
      likeness: CSIM of dlib's face descriptors, fetched on first use (about 240 MB).
      jod: FovVideoVDP's JOD, fetched on first use; needs PyTorch.

    Returns:
      "mean", "views", "by_angle", "consistency", "left_out" (measures that were not taken, and why), "baselines".
    """
    from mvp4d_jax.evaluation.evaluate import evaluate as measure

    measure_jod = None
    if jod:
        from mvp4d_export.jod import jod_of_views as measure_jod
    with on_disk(capture) as ours, on_disk(against) as truth:
        return measure(ours, truth, lpips_weights=lpips, baselines=baselines, likeness=likeness, jod=measure_jod)


@checked
def distill(
    views: Capture | Views | Pathlike,
    out: Pathlike,
    *,
    preset: str | None = None,
    seed: int = 0,
    device: str | None = None,
    hold_views: int = 0,
    hold_times: int = 0,
    steps: int | None = None,
    views_per_step: int | None = None,
    densify: str | None = None,
    deformation: bool = True,
    antialiased: bool = False,
    colour_correction: bool = False,
    photos: bool = True,
    lpips: Pathlike | None = None,
    overwrite: bool = False,
) -> Avatar:
    """Fits a 4D Gaussian avatar to multi-view video.

    Args:
      views: a capture, or Views.
      out: the avatar folder to write; a fit that was stopped goes on where it was.
      preset: "cpu", "low", "default" or "high"; "default" with CUDA, else "cpu".
      device: "cpu" or "cuda"; CUDA where there is one.
      hold_views, hold_times: views and frames left out of the fit and scored.
      steps, views_per_step, densify, deformation, antialiased: changes to the preset
        (`mvp4d_export.presets.changed`).
      colour_correction: learn a colour transform per view.
      photos: False leaves out the photos that the capture keeps.
      lpips: safetensors with VGG-16 and LPIPS weights.
      overwrite: replace an avatar that is there.
    """
    from mvp4d_export.fitting import fit_avatar

    with on_disk(views) as capture:
        report = fit_avatar(
            capture,
            Path(out),
            preset_name=preset,
            seed=seed,
            device=device,
            hold_views=hold_views,
            hold_times=hold_times,
            steps=steps,
            views_per_step=views_per_step,
            densify=densify,
            deformation=deformation,
            antialiased=antialiased,
            colour_correction=colour_correction,
            photos=photos,
            lpips=lpips,
            overwrite=overwrite,
        )
    avatar = open_avatar(out, device=device)
    return dataclasses.replace(avatar, report=report)


@checked
def validate(path: Pathlike) -> str:
    """Checks a capture, fit, shards, weights or avatar whole and says in one line what it is. Raises UserError."""
    from mvp4d.validation import validate as check

    return check(Path(path))
