"""The programs that a launch compiles, lowered for devices that are not there: the very functions that run later."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from mvp4d.core.errors import UserError
from mvp4d_jax import parallel
from mvp4d_jax.data.pipeline import Modality
from mvp4d_jax.diffusion.denoising import Conditions, StepShape, denoise_step
from mvp4d_jax.diffusion.samplers import SamplerState, make_sampler
from mvp4d_jax.diffusion.schedule import NoiseSchedule
from mvp4d_jax.models.attention import choose_backend
from mvp4d_jax.models.autoencoder import VideoAutoencoder, chunk_program
from mvp4d_jax.models.transformer import MultiViewTransformer
from mvp4d_jax.sampling.denoise import DenoiseOptions
from mvp4d_jax.sampling.plan import SamplingPlan, deal_groups, make_plan
from mvp4d_jax.training.distill import make_step
from mvp4d_jax.training.feed import Feed
from mvp4d_jax.training.metrics import tokens_of
from mvp4d_jax.training.plan import Stage, TrainingPlan, batch_shapes, check_batches, resolve, validates
from mvp4d_jax.training.state import ModelTemplate, abstract_state, make_optimiser
from mvp4d_jax.training.validation import make_sample

SAMPLING = {"mesh": (1, 1, -1), "views": None, "group": None, "guidance": 1.5}  # of a job that says nothing else


@dataclasses.dataclass(frozen=True)
class Job:
    """What is compiled for.

    Attributes:
      whole: the plan of training; plan: the same for the stage; stage, modality: the one of its stages and kinds of
        data that is looked at.
      chosen: whether these were asked for by name; else every batch of the config is held to its stage's mesh.
      validated: whether held-out shards are measured.
      sampling: mesh, and what else `mvp4d sample` would be given: views, group, guidance; None as trained.
    """

    whole: TrainingPlan
    plan: TrainingPlan
    stage: Stage
    modality: Modality
    chosen: bool
    validated: bool
    sampling: dict[str, Any]

    def describe(self, samples: int, views: int) -> dict[str, Any]:
        plan, modality = self.plan, self.modality
        tokens = tokens_of(plan.transformer, views, modality.latents, plan.latent_size(self.stage))
        frames = plan.autoencoder.frames_of(modality.latents)
        return {
            "what": f"{samples} x {views} views x {frames} frames x {self.stage.image_size}^2, "
            f"{tokens:,} tokens a sample",
            "tokens": tokens,
            "samples": samples,
            "attention": choose_backend(jnp.dtype(plan.transformer.dtype), plan.transformer.attention_backend),
        }


def make_job(config: Any, stage: str, kind: str, sampling: dict[str, Any]) -> Job:
    """A config's job; `stage`, `kind` and `sampling` as `preflight` has them."""
    plan = resolve(config)
    one, modality = heaviest(plan, stage, kind)
    settings = {**SAMPLING, **sampling, "validation": config.validation.to_dict()}
    return Job(plan, plan.for_stage(one), one, modality, bool(stage or kind), validates(config), settings)


def heaviest(plan: TrainingPlan, stage: str = "", kind: str = "") -> tuple[Stage, Modality]:
    """The stage and kind of data with the most tokens a sample, among those asked for."""
    stages = [one for one in plan.stages if stage in ("", one.name)]
    if not stages:
        raise UserError(
            "`stage`", f"there is no '{stage}'", f"the config has {', '.join(one.name for one in plan.stages)}"
        )
    choices = [(one, modality) for one in stages for modality in one.used if kind in ("", modality.kind)]
    if not choices:
        known = sorted({modality.kind for one in stages for modality in one.used})
        raise UserError("`kind`", f"there is no '{kind}'", f"the stage has {', '.join(known)}")
    return max(
        choices,
        key=lambda pair: (
            tokens_of(plan.transformer, pair[1].views, pair[1].latents, plan.latent_size(pair[0])),
            pair[1].batch,
        ),
    )


def train(job: Job, devices: list) -> tuple[Any, Mesh, dict]:
    """One update."""
    mesh, template = _training(job, devices)
    optimiser = make_optimiser(job.plan.optimiser, template.shapes)
    step = make_step(job.plan, template, optimiser, abstract=True)
    state = abstract_state(template, optimiser, mesh)  # outside of the mesh: optax makes small arrays on the way
    feed = Feed.onto(mesh, job.modality.batch, f"{job.modality.kind}.batch")
    shapes = batch_shapes(job.plan, job.stage, job.modality, feed.layout)
    with parallel.use_mesh(mesh):
        lowered = step.lower(state, shapes)
        facts = job.describe(job.modality.batch, job.modality.views)
    return lowered, mesh, {**facts, **_hosts(mesh, job.modality.batch, shapes), "checkpoint_bytes": _bytes(state)}


def validation(job: Job, devices: list) -> tuple[Any, Mesh, dict]:
    """The sample that validation draws."""
    mesh, template = _training(job, devices)
    settings = job.sampling["validation"]
    sample = make_sample(job.plan, template, settings["sample_steps"], settings["guidance"])
    with parallel.use_mesh(mesh):
        lowered = sample.lower(_laid_out(template), _key(mesh), _conditions(job, job.modality.views, mesh))
        return lowered, mesh, job.describe(1, job.modality.views)


def denoise(job: Job, devices: list) -> tuple[Any, Mesh, dict]:
    """A guided denoising step of `mvp4d sample`: all groups of all views, weights as sampling keeps them."""
    mesh, template = _sampling(job, devices)
    plan, options = sampling_plan(job), DenoiseOptions(snr_shift=job.plan.loss.snr_shift)
    sampler = make_sampler(options.sampler(plan), NoiseSchedule.cogvideox(options.snr_shift))
    guidance, mask = options.guidance(plan), job.plan.conditioning.parts["reference"]
    shape = StepShape(plan.views, parallel.batch_rows(mesh), (mask.start, mask.stop), guidance.scale != 1)

    def step(params: Any, state: SamplerState, index: Any, key: Any, conditions: Conditions, groups: Any) -> Any:
        return denoise_step(template.model(params), sampler, guidance, state, index, key, conditions, groups, shape)

    everywhere = parallel.replicated(mesh)
    conditions = _conditions(job, plan.views, mesh)
    index, members = (
        jax.ShapeDtypeStruct(np.shape(value), jnp.int32, sharding=everywhere) for value in (0, deal_groups(plan, 0))
    )
    state = SamplerState(conditions.clean_latents, conditions.clean_latents)
    with parallel.use_mesh(mesh):
        jitted = jax.jit(step, donate_argnums=1, out_shardings=everywhere)
        lowered = jitted.lower(
            _laid_out(template, job.plan.transformer.dtype), state, index, _key(mesh), conditions, members
        )
        facts = job.describe(1, plan.group_size)
    groups = f", {plan.views} views in {plan.groups} groups" if plan.groups > 1 else ""
    what = f"{facts['what']}{groups}, guidance {guidance.scale:g}"
    return lowered, mesh, {**facts, "what": what, "resident": _bytes(nnx.state(_autoencoder(job)))}


def decode(job: Job, devices: list) -> tuple[Any, Mesh, dict]:
    """The largest chunk of a view on one device, as sampling streams them; other devices decode views beside it."""
    plan = job.plan
    _, template = _sampling(job, devices)
    mesh = parallel.make_mesh((1, 1, 1), devices[:1])
    graph, state = nnx.split(_autoencoder(job))
    encoder = _bytes(nnx.state(nnx.merge(graph, state).encoder))
    size, at_once = plan.latent_size(job.stage), plan.autoencoder.chunk_latents
    first = min(job.modality.latents, at_once + job.modality.latents % at_once)
    latents = jax.ShapeDtypeStruct((1, first, size, size, plan.autoencoder.latent_channels), jnp.float32)
    state, latents = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=parallel.replicated(mesh)), (state, latents)
    )
    with parallel.use_mesh(mesh):
        lowered = chunk_program().lower(nnx.merge(graph, state), latents, None)
    frames = plan.autoencoder.frames_of(job.modality.latents)
    return (
        lowered,
        mesh,
        {
            "what": f"{first} latent frames of a view of {frames} frames x {job.stage.image_size}^2",
            "tokens": 0,
            "samples": 1,
            "attention": "",
            "resident": encoder + _share(_laid_out(template, plan.transformer.dtype)),
        },
    )


def _sampling(job: Job, devices: list) -> tuple[Mesh, ModelTemplate]:
    mesh = parallel.make_mesh(tuple(job.sampling["mesh"]), devices)
    return mesh, _template(job.plan, mesh)


def _autoencoder(job: Job) -> VideoAutoencoder:
    dtype = job.plan.transformer.dtype
    return nnx.eval_shape(lambda: VideoAutoencoder(job.plan.autoencoder, dtype=dtype, rngs=nnx.Rngs(0)))


def _training(job: Job, devices: list) -> tuple[Mesh, ModelTemplate]:
    if not job.chosen:
        check_batches(job.whole, devices, validated=job.validated)
    mesh = parallel.make_mesh(job.plan.mesh, devices, job.stage.mesh_field)
    return mesh, _template(job.plan, mesh)


def _template(plan: TrainingPlan, mesh: Mesh) -> ModelTemplate:
    return ModelTemplate(lambda rngs: MultiViewTransformer(plan.transformer, rngs=rngs), mesh)


def _laid_out(template: ModelTemplate, kernels: str = "float32") -> Any:
    """The parameters as shapes; kernels in the dtype that `load_release` keeps them in."""

    def one(path: Any, leaf: Any, sharding: Any) -> jax.ShapeDtypeStruct:
        dtype = kernels if path[-1].key == "kernel" else leaf.dtype
        return jax.ShapeDtypeStruct(leaf.shape, dtype, sharding=sharding)

    return jax.tree_util.tree_map_with_path(one, template.shapes, template.shardings)


def check(job: Job, part: str, devices: int) -> None:
    """What can be wrong with a part of a job, found before anything is lowered. Raises UserError."""
    sampled = part in ("denoise", "decode")
    shape = tuple(job.sampling["mesh"]) if sampled else job.plan.mesh
    where = "`mesh`" if sampled else job.stage.mesh_field
    given = math.prod(size for size in shape if size != -1)
    if given > devices:
        raise UserError(where, f"{shape} needs {given} devices, there are {devices}")
    parallel.mesh_sizes(shape, devices, where)
    if sampled:
        sampling_plan(job)


def sampling_plan(job: Job) -> SamplingPlan:
    views = job.modality.views if job.sampling["views"] is None else job.sampling["views"]
    if views < 1:
        raise UserError("`views`", f"is {views}", "it is a whole number from 1 on")
    size = job.plan.latent_size(job.stage)
    return make_plan(
        views=views,
        frames=job.plan.autoencoder.frames_of(job.modality.latents),
        latent_size=(size, size),
        trained_views=job.modality.views,
        group_size=job.sampling["group"],
        window_frames=job.plan.autoencoder.frames_of(job.modality.latents),
        guidance_scale=job.sampling["guidance"],
        stride=job.plan.autoencoder.temporal_compression_ratio,
    )


def _conditions(job: Job, views: int, mesh: Mesh) -> Conditions:
    size, latents = job.plan.latent_size(job.stage), job.modality.latents
    channels, maps = job.plan.autoencoder.latent_channels, job.plan.transformer.conditioning_channels

    def array(*shape: int, dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=parallel.replicated(mesh))

    return Conditions(
        array(views, latents, size, size, maps),
        array(views, latents, dtype=jnp.bool_),
        array(views, latents, size, size, channels),
        array(size, size, channels),
        array(size, size, maps),
    )


def _key(mesh: Mesh) -> jax.ShapeDtypeStruct:
    dtype = jax.eval_shape(jax.random.key, 0).dtype  # nothing runs on devices that are not there
    return jax.ShapeDtypeStruct((), dtype, sharding=parallel.replicated(mesh))


def _bytes(tree: Any) -> float:
    return float(sum(math.prod(leaf.shape) * jnp.dtype(leaf.dtype).itemsize for leaf in jax.tree.leaves(tree)))


def _share(tree: Any) -> float:
    """Bytes of laid-out shapes that lie on each device."""
    return float(
        sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
    )


def _hosts(mesh: Mesh, batch: int, shapes: dict[str, Any]) -> dict[str, Any]:
    """How many hosts there are, and the most rows of a batch, and bytes of it, that one of them reads a step."""
    hosts = {device.process_index for device in mesh.devices.flat}
    layout = parallel.batch_sharding(mesh)
    rows = max(len(parallel.held_rows(layout, batch, host)) for host in hosts)
    return {"hosts": len(hosts), "host_rows": rows, "host_bytes": _bytes(shapes) * rows / batch}


PARTS = {"train": train, "validation": validation, "denoise": denoise, "decode": decode}
