"""The training loop: one job, all stages, from wherever the workdir stands."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np
import orbax.checkpoint as ocp

from mvp4d.core.errors import UserError
from mvp4d.core.progress import progress
from mvp4d_jax import parallel
from mvp4d_jax.data.pipeline import Batches, iterate
from mvp4d_jax.data.resident import Resident, Tables
from mvp4d_jax.data.shards import Shards
from mvp4d_jax.devices import GIB
from mvp4d_jax.models.checkpoint import load_transformer
from mvp4d_jax.models.transformer_config import forward_flops
from mvp4d_jax.training import dump, memory
from mvp4d_jax.training.announce import announce, compile_heaviest
from mvp4d_jax.training.checkpoints import Checkpoints
from mvp4d_jax.training.config import record_config, saved_configs
from mvp4d_jax.training.distill import make_step
from mvp4d_jax.training.feed import Feed
from mvp4d_jax.training.ground import Ground
from mvp4d_jax.training.hlo import compiled_cost
from mvp4d_jax.training.launch import Launch, check_launch, initial_maps, newest_step
from mvp4d_jax.training.metrics import MetricsLog, peak_flops, tokens_of
from mvp4d_jax.training.plan import Stage, batch_shapes
from mvp4d_jax.training.profile import Profiler
from mvp4d_jax.training.state import TrainState, initial_state, with_params
from mvp4d_jax.training.stop import Interrupted, StopSignal
from mvp4d_jax.training.validation import Validation
from mvp4d_jax.training.window import MetricsWindow, Work

log = logging.getLogger(__name__)
COMPILE_TIMEOUT = 1800  # seconds


def train(config: ml_collections.ConfigDict, workdir: Path, *, check_memory: bool = True, dry_run: bool = False) -> str:
    """Trains until the last stage is done, or until told to stop; goes on where the workdir's newest checkpoint stands.

    Args:
      config: as `training.config.load_config` gives it.
      workdir: of the run; made when missing.
      check_memory: refuse to start a stage whose step needs more memory than a device has free.
      dry_run: check everything, say what would be done, and stop.

    Returns:
      One line that says where to look; after a dry run, the plan.

    Raises:
      UserError: a config, shards or checkpoints that cannot be used; a loss that is not finite (after a dump).
      Interrupted: SIGTERM came; the state is saved.
    """
    launch = check_launch(config, workdir)
    plan, start, saved = launch.plan, newest_step(workdir), saved_configs(workdir)
    ground = Ground.of(plan, plan.stage_at(start), launch.mesh)
    if start:
        _check_resumed(launch, ground, workdir)
    if dry_run:
        return _describe(launch, ground, start, check_memory)
    for line in announce(launch, ground.template, ground.abstract_state(), start):
        log.info(line)

    # ---- State: the workdir's checkpoint, else pretrained weights, else random ones.
    workdir.mkdir(parents=True, exist_ok=True)
    checkpoints = Checkpoints(
        workdir / "checkpoints", keep_last=config.checkpoint.keep_last, keep_best=config.checkpoint.keep_best
    )
    state, seconds = _start(launch, ground, checkpoints)
    step = int(state.step)
    if step >= plan.steps:
        return f"already trained {step} steps: {workdir}"
    if jax.process_index() == 0:
        record_config(config, workdir, saved)

    # ---- Run.
    run = _Run(launch, ground, checkpoints, workdir, seconds, check_memory)
    try:
        run.all_stages(state)
    except BaseException:  # a checkpoint that is being written gets done; what went wrong first is what is told
        with contextlib.suppress(UserError):
            checkpoints.wait()
        raise
    finally:
        run.close()
    checkpoints.close()
    return f"trained to step {plan.steps}: {workdir} (metrics.jsonl, tensorboard, checkpoints)"


def _describe(launch: Launch, ground: Ground, start: int, compiles: bool) -> str:
    """What `train` would do; the memory of a step by compiling it."""
    lines = announce(launch, ground.template, ground.abstract_state(), start)
    if compiles:
        lines.insert(-1, compile_heaviest(launch))
    return "\n".join([*lines, "dry run: nothing was trained; leave --dry-run out to train"])


def _check_resumed(launch: Launch, ground: Ground, workdir: Path) -> None:
    """Raises UserError where the workdir's newest checkpoint is of another model or seed."""
    checkpoints = Checkpoints(workdir / "checkpoints", read_only=True, alone=True)
    position = checkpoints.check_fits(ground.template.shapes)
    if position["seed"] != launch.config.seed:
        raise UserError(
            "config.seed",
            f"is {launch.config.seed}, the checkpoint was trained with {position['seed']}",
            "resume with the same seed, or choose another workdir",
        )


def _start(launch: Launch, ground: Ground, checkpoints: Checkpoints) -> tuple[TrainState, float]:
    """The state to go on from, and the seconds trained so far."""
    config = launch.config
    if checkpoints.latest() is not None:
        state, position = checkpoints.restore(ground.abstract_state())
        return state, float(position["seconds"])
    state = initial_state(ground.template, ground.optimiser, ground.mesh, config.seed)
    if launch.initial is not None:
        state = with_params(
            state,
            ground.template.params_of(
                load_transformer(
                    launch.initial,
                    launch.plan.transformer,
                    shardings=ground.template.shardings,
                    maps=initial_maps(launch.initial, launch.plan),
                )[0]
            ),
        )
    return state, 0.0


class _Run:
    """What the stages share."""

    def __init__(
        self,
        launch: Launch,
        ground: Ground,
        checkpoints: Checkpoints,
        workdir: Path,
        seconds: float,
        check_memory: bool,
    ):
        self.launch, self.config, self.plan = launch, launch.config, launch.plan
        self.checkpoints, self.workdir, self.ground = checkpoints, workdir, ground
        self.check_memory = check_memory
        self.validation: Validation | None = None
        self.metrics = MetricsLog(workdir, checkpoints.latest() or 0)
        self.peak = peak_flops(launch.mesh.devices.flat[0])
        self.profiler = Profiler(self.config.profile, workdir / "profile")
        self.began = time.monotonic() - seconds
        self._tables: tuple[Any, Tables] | None = None  # which shards on which mesh, and them
        self.stop: StopSignal | None = None  # before the first step there is nothing to save

    def close(self) -> None:
        if self.stop is not None:
            self.stop.close()
        self.profiler.close()
        self.metrics.close()

    def all_stages(self, state: TrainState) -> None:
        step = int(state.step)
        if jax.process_count() > 1:
            self.stop = StopSignal(step)  # before anything is compiled: that may take minutes
        with progress(total=self.plan.steps, what="training", unit="step") as bar:
            bar.update(step)
            for stage in self.plan.stages:
                if step >= stage.stop:
                    continue
                state = self._move(state, step, stage)
                with parallel.use_mesh(self.ground.mesh):
                    state, step = self._stage(stage, state, step, self.launch.folders[stage.name], bar)
        self._save(state, step)

    def _move(self, state: TrainState, step: int, stage: Stage) -> TrainState:
        """The state laid out for a stage, through a checkpoint where its mesh is another; and what validates there."""
        before, self.ground = self.ground, Ground.of(self.plan, stage)
        if self.ground.mesh != before.mesh:
            self._save(state, step)
            self.checkpoints.wait()
            state, _ = self.checkpoints.restore(self.ground.abstract_state(), step)
        if self.validation is None or self.ground.mesh != before.mesh:
            last = self.plan.for_stage(self.plan.stages[-1])
            self.validation = Validation(
                self.config, last, self.ground.template, self.launch.held_out, self.ground.mesh, self.workdir
            )
            with parallel.use_mesh(self.ground.mesh):
                self.validation.compile(state, self._check_memory)
        return state

    def _stage(self, stage: Stage, state: TrainState, step: int, shards: list[Shards], bar) -> tuple[TrainState, int]:
        """Runs one stage from `step` to its end."""
        feeds = {modality.kind: Feed.onto(self.ground.mesh, modality.batch) for modality in stage.used}
        batches = Batches(
            shards,
            stage.modalities,
            self.plan.sampling,
            self.plan.conditioning,
            steps=stage.steps,
            seed=self.config.seed + stage.start,
            rows={kind: feed.rows for kind, feed in feeds.items()},
        )
        data = self.config.data
        resident = Resident(batches, self._tables_of(stage, shards)) if data.resident else None
        workers = 0 if resident else data.workers  # indices are made faster than they are sent between processes

        def place(kind: str, local: dict[str, np.ndarray]) -> dict[str, jax.Array]:
            return resident.place(local, feeds[kind].layout) if resident else feeds[kind].place(local)

        with contextlib.closing(
            iterate(resident or batches, step - stage.start, threads=data.threads, buffer=data.buffer, workers=workers)
        ) as stream:  # reading processes end, and give back the memory of what nobody asked for
            return self._steps(stage, state, step, batches, feeds, place, stream, bar)

    def _tables_of(self, stage: Stage, shards: list[Shards]) -> Tables:
        """A stage's shards on its mesh; read anew where either is not the last stage's."""
        key = [one.path for one in shards], self.ground.mesh
        if self._tables is None or self._tables[0] != key:
            self._tables = None  # given back before the next ones are read
            self._tables = key, Tables.read(shards, self.ground.mesh)
        return self._tables[1]

    def _steps(
        self,
        stage: Stage,
        state: TrainState,
        step: int,
        batches: Batches,
        feeds: dict[str, Feed],
        place: Callable[[str, dict[str, np.ndarray]], dict[str, jax.Array]],
        stream: Generator[Any],
        bar,
    ) -> tuple[TrainState, int]:
        """Runs a stage's steps from `step` on, with the batches of `stream`, which `place` puts onto the mesh."""
        mesh = self.ground.mesh
        log.info("stage '%s': steps %d to %d at %d pixels", stage.name, step, stage.stop, stage.image_size)
        steps, work = self._compile(state, stage, feeds)
        self._wait_for_all(stage)
        self.stop = self.stop or StopSignal(step)
        window = MetricsWindow(work, self.peak * mesh.size)
        local = window.wait(stream, None)
        while step < stage.stop:
            modality = batches.modality(step - stage.start)
            placed = place(modality.kind, local)
            self.profiler.before_step()
            state, result = steps[modality.kind](state, placed)
            self.profiler.after_step(result)
            step += 1
            window.add(modality.kind, result)
            local = window.wait(stream, result["loss"]) if step < stage.stop else None  # made while the devices work
            bar.update()
            stop = self.stop.asked(step)
            validates = step % self.config.validation.every == 0 and self.validation.active
            saves = validates or step % self.config.checkpoint.every == 0 or stop
            if saves or step % self.config.metrics.every == 0 or step == stage.stop:
                broken = window.fetch()
                if broken is not None:
                    self._give_up(state, batches, stage, *broken)
            self._report(step, stage, window, bar)
            if validates:
                loss = self.validation.run(state, step, self.metrics)
                self._save(state, step, loss)
                window.restart()
            elif saves:
                self._save(state, step)
            if stop:
                self.checkpoints.close()
                raise Interrupted(f"stopped at step {step} and saved; run the same command again: {self.workdir}")
        return state, step

    def _give_up(self, state: TrainState, batches: Batches, stage: Stage, back: int, result: dict[str, float]) -> None:
        """Raises UserError, after a dump, for a step whose loss or gradient was not finite.

        Args:
          state: the one before that step, its number negative (`make_train_step`).
          back: how many steps were sent after it; result: its metrics.
        """
        before = -1 - int(state.step)
        state = dataclasses.replace(state, step=jax.device_put(np.int32(before), state.step.sharding))
        where = dump.write(self.workdir, before + 1, state, batches[before - stage.start], result)
        raise UserError(
            where,
            f"step {before + 1}: loss {result['loss']}, gradient norm {result['gradient_norm']} "
            f"are not finite; the batch and the state before it are there ({back} later steps were not "
            "taken)",
            "look at the batch, or lower the learning rate and run the same command again",
        )

    def _compile(self, state: TrainState, stage: Stage, feeds: dict[str, Feed]) -> tuple[dict, dict[str, Work]]:
        """The step for every kind of data in the stage, compiled and held to the memory there is, and what it does."""
        steps, work, plan = {}, {}, self.ground.plan
        update = make_step(plan, self.ground.template, self.ground.optimiser)
        for modality in stage.used:
            began = time.monotonic()
            shapes = batch_shapes(self.plan, stage, modality, feeds[modality.kind].layout)
            compiled = steps[modality.kind] = update.lower(state, shapes).compile()
            seconds = time.monotonic() - began
            self._check_memory(compiled, f"stage '{stage.name}', {modality.kind}")
            flops = compiled_cost(compiled).flops
            tokens = tokens_of(self.plan.transformer, modality.views, modality.latents, self.plan.latent_size(stage))
            work[modality.kind] = Work(
                modality.batch,
                modality.batch * tokens,
                3 * modality.batch * forward_flops(self.plan.transformer, tokens),
                flops * self.ground.mesh.size,
            )
            log.info(
                "stage '%s', %s: compiled in %.1f s; a step of %d x %s tokens: %.3g TFLOP and %.2f GiB a device",
                stage.name,
                modality.kind,
                seconds,
                modality.batch,
                f"{tokens:,}",
                flops / 1e12,
                memory.needed(compiled) / GIB,
            )
            self.metrics.write(int(state.step), {"stage": stage.name, f"compile_seconds_{modality.kind}": seconds})
        return steps, work

    def _check_memory(self, program: Any, what: str) -> None:
        if self.check_memory:
            memory.check(program, self.ground.mesh, what, self._tables[1].nbytes if self._tables else 0)

    def _wait_for_all(self, stage: Stage) -> None:
        """No process steps before all have compiled: collectives give up on a peer that comes half a minute later."""
        try:
            ocp.multihost.sync_global_processes(
                f"compiled {stage.name}", timeout=COMPILE_TIMEOUT, processes=set(range(jax.process_count()))
            )
        except jax.errors.JaxRuntimeError as error:
            reason = str(error).splitlines()[0][:200]
            raise UserError(
                "processes",
                f"not all compiled stage '{stage.name}' in {COMPILE_TIMEOUT} s ({reason})",
                "look at the logs of the others",
            ) from error

    def _report(self, step: int, stage: Stage, window: MetricsWindow, bar) -> None:
        self._report_checkpoint(step)
        if step % self.config.metrics.every and step != stage.stop:
            return
        values = window.finish()
        self.metrics.write(step, {"stage": stage.name, **values})
        bar.set_postfix_str(
            f"loss {values['loss']:.4f}, {values['tokens_per_second']:.0f} tok/s, "
            f"wait {100 * values['data_wait']:.1f} %"
        )

    def _report_checkpoint(self, step: int) -> None:
        written = self.checkpoints.written()
        if written is not None:
            log.info(
                "checkpoint of step %d: %.3g GB written in %.1f s, for %.1f s of which training stood still",
                written.step,
                written.gigabytes,
                written.seconds,
                written.stopped,
            )
            self.metrics.write(
                step,
                {
                    "checkpoint_gigabytes": written.gigabytes,
                    "checkpoint_seconds": written.seconds,
                    "checkpoint_stopped_seconds": written.stopped,
                },
            )

    def _save(self, state: TrainState, step: int, validation_loss: float | None = None) -> None:
        position = {
            "step": step,
            "stage": self.plan.stage_at(step).name,
            "seed": self.config.seed,
            "seconds": time.monotonic() - self.began,
            "processes": jax.process_count(),
        }
        self.checkpoints.save(step, state, position, validation_loss)
