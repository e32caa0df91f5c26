"""What a training run is told and finds, checked whole before anything is built: config, mesh, shards, weights."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np

from mvp4d.core.errors import UserError
from mvp4d_jax import parallel
from mvp4d_jax.data.pipeline import check_mixture
from mvp4d_jax.data.prepare import autoencoder_identity
from mvp4d_jax.data.resident import check_resident
from mvp4d_jax.data.shards import Shards, check_same
from mvp4d_jax.geometry.conditioning import map_channels
from mvp4d_jax.models.checkpoint import check_transformer
from mvp4d_jax.models.checkpoint_config import read_config
from mvp4d_jax.models.transformer_config import TransformerConfig
from mvp4d_jax.release import FACTS, check_maps, read_facts
from mvp4d_jax.training.checkpoints import finished_steps
from mvp4d_jax.training.distill import check_teacher, teacher_folder
from mvp4d_jax.training.plan import TrainingPlan, autoencoder_folder, check_batches, resolve, validates

RANDOM = "random"  # what config.initial says where training begins without weights


@dataclasses.dataclass(frozen=True)
class Launch:
    """A run that may start.

    Attributes:
      config: as given; plan: resolved; mesh: of the stage that the run begins in.
      folders: stage name -> opened shards; held_out: opened validation shards.
      initial: folder of the transformer to start from; None: random weights, or a checkpoint that is there already.
    """

    config: ml_collections.ConfigDict
    plan: TrainingPlan
    mesh: jax.sharding.Mesh
    folders: dict[str, list[Shards]]
    held_out: list[Shards]
    initial: Path | None


def check_launch(config: ml_collections.ConfigDict, workdir: Path) -> Launch:
    """Everything that can be wrong with a launch, found in seconds.

    Raises:
      UserError: a mesh that the devices cannot form, a batch that it does not divide, an autoencoder or initial weights
        that are not named, not there or of another model, shards that are damaged, of another head, size, autoencoder,
        without enough views and frames for a stage, or too large to be held by the devices where that is asked for.
    """
    plan = resolve(config)
    check_teacher(plan)
    check_batches(plan, validated=validates(config))
    mesh = parallel.make_mesh(plan.for_stage(plan.stage_at(newest_step(workdir))).mesh)
    initial = initial_weights(config, plan, workdir)
    folders = open_shards(config, plan)
    held_out = [_open(config, path) for path in config.data.validation_shards]
    check_same(held_out, {**expected_facts(config, plan), "image_size": plan.stages[-1].image_size})
    for stage in plan.stages:
        if config.data.resident:
            check_resident(folders[stage.name], mesh)
        check_mixture(folders[stage.name], stage.used, f"config.stages.{stage.name}.mixture")
    if held_out:
        check_mixture(held_out, plan.stages[-1].used, "config.data.validation_shards")
    return Launch(config, plan, mesh, folders, held_out, initial)


def newest_step(workdir: Path) -> int:
    """The step of the newest finished checkpoint in a workdir; 0 where there is none. Nothing is opened."""
    return max(finished_steps(workdir / "checkpoints"), default=0)


def initial_weights(config: ml_collections.ConfigDict, plan: TrainingPlan, workdir: Path) -> Path | None:
    """The folder to start from, its config and tensors held to the model's; None for random weights or a resumed run.

    Raises:
      UserError: nothing is named, or what is named is not there or of another model.
    """
    if finished_steps(workdir / "checkpoints"):  # one that was being written when its host went is begun again
        return None
    if config.initial == RANDOM:
        return None
    if config.initial:
        folder = Path(config.initial)
    elif plan.distill.steps:
        folder = teacher_folder(plan) / "transformer"  # a student starts from its teacher
    else:
        raise UserError(
            "config.initial",
            "names no weights to start from",
            f"give --config.initial=FOLDER (a converted CogVideoX transformer), or '{RANDOM}'",
        )
    check_transformer(folder, plan.transformer, initial_maps(folder, plan))
    return folder


def initial_maps(folder: Path, plan: TrainingPlan) -> np.ndarray | None:
    """Which of the channels of maps that the weights to start from were trained with are the plan's; None where they
    are no release's, which alone says.

    Raises:
      UserError: maps that cannot be told from one another, or of which the weights have another number.
    """
    if not (folder.parent / FACTS).is_file():
        return None
    facts, (source, _) = read_facts(folder.parent), read_config(folder)
    if isinstance(source, TransformerConfig):
        check_maps(folder.parent, facts, source)
    return map_channels(facts.conditioning, plan.conditioning)


def expected_facts(config: ml_collections.ConfigDict, plan: TrainingPlan) -> dict[str, Any]:
    """What shards must say of themselves for this config (image size apart, which belongs to the stage)."""
    facts: dict[str, Any] = {
        "head": config.head,
        "latent_scale": float(plan.autoencoder.scaling_factor),
        "latent_channels": plan.autoencoder.latent_channels,
        "conditioning": plan.conditioning.record,
    }
    folder = autoencoder_folder(config)
    if folder is not None:
        facts["autoencoder"] = autoencoder_identity(folder)
        facts["latent_scale"] = float(read_config(folder)[0].scaling_factor)
    return facts


def open_shards(config: ml_collections.ConfigDict, plan: TrainingPlan) -> dict[str, list[Shards]]:
    """Stage name -> its shards, opened and held to the config. Raises UserError."""
    opened: dict[str, Shards] = {}
    facts, by_stage = expected_facts(config, plan), {}
    for stage in plan.stages:
        paths = stage.shards or tuple(config.data.shards)
        if not paths:
            raise UserError("config.data.shards", "names no folder", "give --config.data.shards=FOLDER")
        for path in paths:
            if path not in opened:
                opened[path] = _open(config, path)
        by_stage[stage.name] = [opened[path] for path in paths]
        try:
            check_same(by_stage[stage.name], {**facts, "image_size": stage.image_size})
        except UserError as error:
            if "image_size" not in str(error):
                raise
            raise UserError(
                f"stage '{stage.name}'",
                str(error),
                f"its own shards go into --config.stages.{stage.name}.shards=FOLDER",
            ) from None
    return by_stage


def _open(config: ml_collections.ConfigDict, path: str) -> Shards:
    """Opened shards; their bytes are looked at once, by one process, and a note beside them says so."""
    return Shards.open(path, verify=config.data.verify and jax.process_index() == 0, trust_note=True)
