"""What a run is about to do: the first lines of its log, and all that `mvp4d train --dry-run` prints."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import math
from typing import Any

import jax

from mvp4d_jax import parallel
from mvp4d_jax.data.resident import resident_bytes
from mvp4d_jax.devices import GIB
from mvp4d_jax.models.checkpoint import expected_shapes
from mvp4d_jax.models.checkpoint_config import read_config
from mvp4d_jax.models.transformer_config import TransformerConfig, forward_flops
from mvp4d_jax.training import memory
from mvp4d_jax.training.distill import make_step
from mvp4d_jax.training.feed import Feed
from mvp4d_jax.training.ground import Ground
from mvp4d_jax.training.launch import Launch
from mvp4d_jax.training.metrics import peak_flops, tokens_of
from mvp4d_jax.training.plan import Stage, batch_shapes

UTILISATION = 0.4  # of the devices' peak, for the expected time: what trainings of this size are reported to reach


def announce(launch: Launch, template: Any, state: Any, start: int) -> list[str]:
    """The lines: weights and what of them is not used, parameters, mesh, every stage's batches and tokens per device,
    memory of the state, steps and the time that they may take.

    Args:
      template: the model's; state: its abstract training state (shapes and shardings).
      start: the step that the run begins at.
    """
    plan, mesh, device = launch.plan, launch.mesh, launch.mesh.devices.flat[0]
    shapes = jax.tree.leaves(template.shapes)
    held = sum(_held(leaf) for leaf in jax.tree.leaves(state))
    have = memory.limit(_local(mesh))
    lines = [
        f"weights: {_weights(launch, start)}",
        f"parameters: {sum(leaf.size for leaf in shapes):,}; {_amount(held)} a device with moments and moving average"
        + (f" of {_amount(have)}" if have else "")
        + _parts(template, mesh),
        f"mesh: {parallel.say_mesh(mesh.devices.shape)}; {device.device_kind}, {jax.process_count()} "
        f"process{'es' if jax.process_count() > 1 else ''}",
    ]
    for stage in plan.stages:
        lines.append(
            f"stage '{stage.name}': steps {stage.start:,} to {stage.stop:,}, {stage.image_size} pixels, "
            f"learning rate {stage.learning_rate:g}"
        )
        total = sum(modality.weight for modality in stage.used)
        for modality in stage.used:
            tokens = tokens_of(plan.transformer, modality.views, modality.latents, plan.latent_size(stage))
            frames = plan.autoencoder.frames_of(modality.latents)
            lines.append(
                f"  {100 * modality.weight / total:.0f} % {modality.kind}: {modality.batch} x "
                f"{modality.views} views x {frames} frames = {modality.batch} x {tokens:,} tokens, "
                f"{modality.batch * tokens // mesh.size:,} a device"
            )
    lines.append(f"steps: {plan.steps - start:,} to go from {start:,}; {_time(launch, start)}")
    return lines


def compile_heaviest(launch: Launch) -> str:
    """Compiles the step with the most tokens, and says what it needs. Raises UserError where it does not fit."""
    plan = launch.plan
    choices = [(stage, modality) for stage in plan.stages for modality in stage.used]
    stage, modality = max(
        choices,
        key=lambda pair: (
            pair[1].batch * tokens_of(plan.transformer, pair[1].views, pair[1].latents, plan.latent_size(pair[0]))
        ),
    )
    ground = Ground.of(plan, stage)
    step = make_step(ground.plan, ground.template, ground.optimiser, abstract=True)
    shapes = batch_shapes(plan, stage, modality, Feed.onto(ground.mesh, modality.batch).layout)
    state = ground.abstract_state()
    with parallel.use_mesh(ground.mesh):
        compiled = step.lower(state, shapes).compile()
    what = f"stage '{stage.name}', {modality.kind}"
    resident = resident_bytes(launch.folders[stage.name]) if launch.config.data.resident else 0
    memory.check(compiled, ground.mesh, what, resident)
    return f"memory: {_amount(memory.needed(compiled))} a device in {what}"


def dropped_parameters(source: TransformerConfig, target: TransformerConfig) -> tuple[int, int, int]:
    """(parameters of a checkpoint that a model of `target` does not take, all that it has, new ones of the model)."""
    theirs, ours = expected_shapes(source), expected_shapes(target)
    theirs, ours = ({name: math.prod(shape) for name, shape in shapes.items()} for shapes in (theirs, ours))
    return (
        sum(max(0, size - ours.get(name, 0)) for name, size in theirs.items()),
        sum(theirs.values()),
        sum(max(0, size - theirs.get(name, 0)) for name, size in ours.items()),
    )


def _weights(launch: Launch, start: int) -> str:
    if start:
        return f"the checkpoint of step {start:,}"
    if launch.initial is None:
        return "random"
    (source, _), target = read_config(launch.initial), launch.plan.transformer
    dropped, total, new = dropped_parameters(source, target)
    _, _, layers = dropped_parameters(dataclasses.replace(target, num_layers=source.num_layers), target)
    text = f"{launch.initial}, {total:,} parameters"
    if dropped:
        what = "its text stream" if source.text_dim and not target.text_dim else "what the model lacks"
        text += f"; dropped: {what}, {dropped:,}"
    if layers:
        text += f"; new, copies with closed gates: {target.num_layers - source.num_layers} layers, {layers:,}"
    return text + (f"; new, from zero: conditioning, {new - layers:,}" if new > layers else "")


def _parts(template: Any, mesh: jax.sharding.Mesh) -> str:
    """Into how many parts the parameters are split, with their bytes, float32; the most parts first."""
    if mesh.size == 1:
        return ""
    found = collections.Counter()
    for leaf, layout in zip(jax.tree.leaves(template.shapes), jax.tree.leaves(template.shardings), strict=True):
        found[leaf.size // math.prod(layout.shard_shape(leaf.shape))] += 4 * leaf.size
    said = (
        f"{_amount(size)} {f'in {parts} parts' if parts > 1 else 'whole on every device'}"
        for parts, size in sorted(found.items(), reverse=True)
    )
    return f"; of the parameters {', '.join(said)}"


def _held(leaf: Any) -> int:
    """Bytes of an array's part on one device."""
    return math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize


def _local(mesh: jax.sharding.Mesh) -> jax.Device:
    return next(device for device in mesh.devices.flat if device.process_index == jax.process_index())


def _time(launch: Launch, start: int) -> str:
    mesh = launch.mesh
    if parallel.platform() == "cpu" and mesh.size > 1:
        return "host devices do not tell it; 'mvp4d preflight' says the least that a step takes"
    work = sum(_work(launch, stage) * max(0, stage.stop - max(start, stage.start)) for stage in launch.plan.stages)
    seconds = work / (UTILISATION * mesh.size * peak_flops(mesh.devices.flat[0]))
    return (
        f"{datetime.timedelta(seconds=round(seconds))} at {100 * UTILISATION:.0f} % of the peak of {mesh.size} x "
        f"{mesh.devices.flat[0].device_kind}"
    )


def _work(launch: Launch, stage: Stage) -> float:
    """FLOPs that a step of the stage asks for, on average over its kinds of data."""
    plan, total = launch.plan, sum(modality.weight for modality in stage.used)
    return sum(
        modality.weight
        / total
        * 3
        * modality.batch
        * forward_flops(
            plan.transformer, tokens_of(plan.transformer, modality.views, modality.latents, plan.latent_size(stage))
        )
        for modality in stage.used
    )


def _amount(size: float) -> str:
    return f"{size / GIB:.2f} GiB" if size >= 0.01 * GIB else f"{size / 2**20:.2f} MiB"
