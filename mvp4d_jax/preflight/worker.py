"""The process that compiles for `preflight`: one part of a job, one JSON file as the answer."""

from __future__ import annotations

import json
import math
import re
import resource
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mvp4d.core.errors import UserError
from mvp4d_jax import parallel
from mvp4d_jax.data.pipeline import Modality
from mvp4d_jax.diffusion.schedule import NoiseSchedule
from mvp4d_jax.models.attention import choose_backend
from mvp4d_jax.models.autoencoder import VideoAutoencoder
from mvp4d_jax.models.transformer import MultiViewTransformer
from mvp4d_jax.preflight.preflight import GIB, Topology
from mvp4d_jax.training.config import load_config
from mvp4d_jax.training.distill import make_step
from mvp4d_jax.training.hlo import program_cost
from mvp4d_jax.training.metrics import tokens_of
from mvp4d_jax.training.plan import Plan, Stage, batch_shapes, resolve
from mvp4d_jax.training.state import ModelTemplate, abstract_state, make_optimiser


def main(request: dict[str, Any]) -> dict[str, Any]:
    """The report of one part."""
    topology = Topology.parse(request["topology"], request["slices"])
    plan = resolve(load_config(request["config"], request["overrides"]))
    stage, modality = heaviest(plan, request["stage"], request["kind"])
    devices = _devices(topology)
    began = time.monotonic()
    build = {"train": _train, "denoise": _denoise, "decode": _decode}[request["part"]]
    lowered, mesh, facts = build(plan, stage, modality, devices)
    report = {"part": request["part"], "devices": mesh.size, "mesh": str(tuple(mesh.shape.values())), **facts}
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        return {**report, **_out_of_memory(error), **_times(began)}
    memory = compiled.memory_analysis()
    cost = program_cost(compiled.as_text())
    held = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    return {
        **report, "arguments": memory.argument_size_in_bytes, "outputs": memory.output_size_in_bytes,
        "temporaries": memory.temp_size_in_bytes, "total": held + memory.temp_size_in_bytes, "flops": cost.flops,
        "kernel_flops": cost.kernel_flops, "collective_bytes": cost.collective_bytes, "kernels": cost.kernels,
        **_times(began),
    }


def _times(began: float) -> dict[str, float]:
    """Wall-clock and processor time; they part where the machine is busy with other work."""
    return {"seconds": time.monotonic() - began, "processor_seconds": time.process_time()}


def heaviest(plan: Plan, stage: str = "", kind: str = "") -> tuple[Stage, Modality]:
    """The stage and kind of data with the most tokens a sample, among those asked for."""
    choices = [(one, modality) for one in plan.stages for modality in one.modalities
               if stage in ("", one.name) and kind in ("", modality.kind)]
    if not choices:
        raise UserError("--stage/--kind", f"no stage '{stage}' with '{kind}'",
                        f"stages are {', '.join(one.name for one in plan.stages)}")
    return max(choices, key=lambda pair: (tokens_of(plan.transformer, pair[1].views, pair[1].latents,
                                                    plan.latent_size(pair[0])), pair[1].batch))


def _batch(plan: Plan, stage: Stage, modality: Modality, mesh: Mesh) -> dict[str, jax.ShapeDtypeStruct]:
    with parallel.use_mesh(mesh):
        layout = NamedSharding(mesh, parallel.fit_spec((modality.batch,), ("batch",)))
    return batch_shapes(plan, stage, modality, layout)


def _describe(plan: Plan, stage: Stage, modality: Modality, samples: int) -> dict[str, Any]:
    tokens = tokens_of(plan.transformer, modality.views, modality.latents, plan.latent_size(stage))
    frames = plan.autoencoder.frames_of(modality.latents)
    return {"what": f"{samples} x {modality.views} views x {frames} frames x {stage.image_size}^2, "
                    f"{tokens:,} tokens a sample",
            "tokens": tokens, "samples": samples,
            "attention": choose_backend(jnp.dtype(plan.transformer.dtype), plan.transformer.attention_backend)}


def _train(plan: Plan, stage: Stage, modality: Modality, devices: list) -> tuple[Any, Mesh, dict]:
    mesh = parallel.make_mesh(plan.mesh, devices)
    template = ModelTemplate(lambda rngs: MultiViewTransformer(plan.transformer, rngs=rngs), mesh)
    optimiser = make_optimiser(plan.optimiser, template.shapes)
    step = make_step(plan, template, optimiser, abstract=True)
    state = abstract_state(template, optimiser, mesh)  # outside of the mesh: optax makes small arrays on the way
    with parallel.use_mesh(mesh):
        lowered = step.lower(state, _batch(plan, stage, modality, mesh))
        return lowered, mesh, _describe(plan, stage, modality, modality.batch)


def _denoise(plan: Plan, stage: Stage, modality: Modality, devices: list) -> tuple[Any, Mesh, dict]:
    """One sample over all devices: a forward pass and the step to the next noise level (guidance runs it twice)."""
    mesh = parallel.make_mesh((1, 1, -1), devices)
    template = ModelTemplate(lambda rngs: MultiViewTransformer(plan.transformer, rngs=rngs), mesh)
    schedule = NoiseSchedule.cogvideox(snr_shift=plan.loss.snr_shift)
    one = Modality(modality.kind, 1.0, modality.views, modality.latents, 1)

    def step(params: Any, batch: dict[str, jax.Array], now: jax.Array, then: jax.Array) -> jax.Array:
        latents = batch["latents"].astype(jnp.float32)
        timesteps = jnp.where(batch["clean"], 0, now)
        v = template.model(params)(latents, timesteps, conditioning=batch["conditioning"],
                                   reference_latents=batch["reference_latents"],
                                   reference_conditioning=batch["reference_conditioning"])
        x0, noise = schedule.x0_from_v(latents, v, timesteps), schedule.epsilon_from_v(latents, v, timesteps)
        stepped = schedule.add_noise(x0, noise, jnp.broadcast_to(then, timesteps.shape))
        return jnp.where(batch["clean"][..., None, None, None], latents, stepped)

    params = jax.tree.map(lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
                          template.shapes, template.shardings)
    scalar = jax.ShapeDtypeStruct((), jnp.int32, sharding=parallel.replicated(mesh))
    with parallel.use_mesh(mesh):
        lowered = jax.jit(step).lower(params, _batch(plan, stage, one, mesh), scalar, scalar)
        return lowered, mesh, _describe(plan, stage, one, 1)


def _decode(plan: Plan, stage: Stage, modality: Modality, devices: list) -> tuple[Any, Mesh, dict]:
    """One view's first two chunks on one device, as sampling streams them (the rest are as the second).

    The other devices decode their views beside it.
    """
    mesh = parallel.make_mesh((1, 1, 1), devices[:1])
    whole = NamedSharding(mesh, PartitionSpec())
    model = nnx.eval_shape(
        lambda: VideoAutoencoder(plan.autoencoder, dtype=plan.transformer.dtype, rngs=nnx.Rngs(0)))
    graph, state = nnx.split(model)
    size, at_once = plan.latent_size(stage), plan.autoencoder.chunk_latents
    length = min(modality.latents, 2 * at_once + modality.latents % at_once)
    latents = jax.ShapeDtypeStruct((1, length, size, size, plan.autoencoder.latent_channels), jnp.float32)
    state, latents = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=whole),
                                  (state, latents))

    def decode(state: Any, latents: jax.Array) -> list[jax.Array]:
        return list(nnx.merge(graph, state).decode_stream(latents))

    with parallel.use_mesh(mesh):
        lowered = jax.jit(decode).lower(state, latents)
    frames = plan.autoencoder.frames_of(modality.latents)
    return lowered, mesh, {"what": f"one view of {frames} frames x {stage.image_size}^2", "tokens": 0, "samples": 1,
                           "attention": ""}


def _devices(topology: Topology) -> list:
    if not topology.is_tpu:
        return jax.devices()
    try:
        several = {"num_slices": topology.slices} if topology.slices > 1 else {}
        return list(topologies.get_topology_desc(topology.text, platform="tpu", **several).devices)
    except Exception as error:  # libtpu raises many kinds; a user needs the reason, not the trace
        raise UserError(f"--topology {topology.text}", str(error).splitlines()[0][:300],
                        "install libtpu (pip install 'mvp4d-jax[tpu]'), or choose a shape that exists") from None


def _out_of_memory(error: Exception) -> dict[str, Any]:
    """The compiler's own verdict: "Used 20.1G of 15.75G hbm"."""
    text = str(error)
    used = re.search(r"Used ([0-9.]+)([KMGT]) of ([0-9.]+)([KMGT]) hbm", text)
    if used is None:
        raise UserError("the compiler", text.splitlines()[0][:400]) from None
    total = float(used.group(1)) * {"K": 2**10, "M": 2**20, "G": GIB, "T": 2**40}[used.group(2)]
    return {"arguments": 0, "outputs": 0, "temporaries": total, "total": total, "flops": 0.0, "kernel_flops": 0.0,
            "collective_bytes": {}, "kernels": 0}


if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(asked["timeout"]),) * 2)
    try:
        result = main(asked)
    except UserError as error:
        result = {"error": ["preflight", str(error), ""]}
    Path(sys.argv[2]).write_text(json.dumps(result))
