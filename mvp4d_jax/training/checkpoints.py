"""Training checkpoints: Orbax, asynchronous, sharded, restorable on another mesh or number of processes."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from mvp4d.core.errors import UserError
from mvp4d.core.places import is_remote, place
from mvp4d_jax.training.state import TrainState, path_name

METRIC = "validation_loss"


@dataclasses.dataclass(frozen=True)
class Written:
    """What a checkpoint cost.

    Attributes:
      step: of the run.
      gigabytes: of the arrays, over all processes.
      stopped: seconds for which training stood still: the arrays are copied off the devices.
      seconds: until it was complete, training going on meanwhile.
    """

    step: int
    gigabytes: float
    stopped: float
    seconds: float


def finished_steps(folder: Any) -> list[int]:
    """Steps whose checkpoints are whole, rising; nothing is opened.

    In a bucket a step's folder has its name from the first byte on, and `commit_success.txt` when it is finished.

    Args:
      folder: `checkpoints` of a workdir, as `places.place` gives it; it may be missing.
    """
    return sorted(
        int(path.name)
        for path in place(folder).glob("*")
        if path.name.isdigit() and ocp.utils.is_checkpoint_finalized(path)
    )


class Checkpoints:
    """The checkpoints of one run. A step's folder appears whole or not at all.

    Args:
      folder: where they lie; made when missing, unless `read_only`.
      keep_last: newest ones kept.
      keep_best: ones with the lowest validation loss kept beside them.
      read_only: never write or delete.
      alone: this process reads without the others of its run.
    """

    def __init__(
        self, folder: Path, *, keep_last: int = 3, keep_best: int = 1, read_only: bool = False, alone: bool = False
    ):
        self.folder = place(folder) if is_remote(folder) else Path(folder).absolute()
        if read_only and not self.folder.is_dir():
            raise UserError(self.folder, "has no checkpoints", "check --workdir; training writes them there")
        keep = policies.AnyPreservationPolicy(
            [
                policies.LatestN(n=keep_last),
                policies.BestN(
                    get_metric_fn=lambda metrics: metrics[METRIC],
                    reverse=True,
                    n=keep_best,
                    keep_checkpoints_without_metrics=False,
                ),
            ]
        )
        mine = {jax.process_index()} if alone and jax.process_count() > 1 else None
        processes = ocp.options.MultiprocessingOptions(primary_host=min(mine or {0}), active_processes=mine)
        options = ocp.CheckpointManagerOptions(
            create=not read_only,
            read_only=read_only,
            preservation_policy=None if read_only else keep,
            best_fn=lambda metrics: metrics[METRIC],
            best_mode="min",
            enable_async_checkpointing=True,
            cleanup_tmp_directories=not read_only,
            multiprocessing_options=processes,
        )
        self._manager = ocp.CheckpointManager(
            self.folder,
            options=options,
            item_handlers={
                "state": ocp.StandardCheckpointHandler(multiprocessing_options=processes),
                "data": ocp.JsonCheckpointHandler(multiprocessing_options=processes),
            },
        )
        self._average = ocp.Checkpointer(
            ocp.PyTreeCheckpointHandler(multiprocessing_options=processes), multiprocessing_options=processes
        )
        self._writing: tuple[Written, float] | None = None

    def latest(self) -> int | None:
        """The newest finished step."""
        return self._manager.latest_step()

    def best(self) -> int | None:
        """The step with the lowest validation loss; the newest where none was measured."""
        best = self._manager.best_step()
        return self.latest() if best is None else best

    @property
    def measured(self) -> bool:
        """Whether a validation loss was measured at any of the steps."""
        return self._manager.best_step() is not None

    def steps(self) -> list[int]:
        """Every finished step."""
        return sorted(self._manager.all_steps())

    def save(
        self, step: int, state: TrainState, position: dict[str, Any], validation_loss: float | None = None
    ) -> None:
        """Begins to write a checkpoint; returns as soon as the arrays are copied off the devices.

        Args:
          position: where the data stands, and what else a resumed run must know; plain JSON values.

        Raises:
          UserError: this write, or the one before, failed: a full disk, a folder that went away. Older checkpoints
            stay as they were.
        """
        if step in self._manager.all_steps():
            return
        metrics = None if validation_loss is None else {METRIC: validation_loss}
        began = time.monotonic()
        with self._explained():
            self._manager.save(
                step,
                metrics=metrics,
                force=True,
                args=ocp.args.Composite(state=ocp.args.StandardSave(_tree(state)), data=ocp.args.JsonSave(position)),
            )
        size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(_tree(state)) if hasattr(leaf, "dtype"))
        self._writing = Written(step, size / 1e9, time.monotonic() - began, 0.0), began

    def written(self) -> Written | None:
        """The checkpoint that was being written, once after it is complete; looked at between steps."""
        if self._writing is None or self._manager.is_saving_in_progress():
            return None
        (written, began), self._writing = self._writing, None
        return dataclasses.replace(written, seconds=time.monotonic() - began)

    def restore(self, like: TrainState, step: int | None = None) -> tuple[TrainState, dict[str, Any]]:
        """A state laid out as `like` says (any mesh, any number of processes), and the position saved with it.

        Args:
          like: shapes, dtypes and shardings.
          step: default the newest.

        Raises:
          UserError: no such checkpoint, or one of another model.
        """
        step = self._existing(step)
        with self._reading(step):
            restored = self._manager.restore(
                step, args=ocp.args.Composite(state=ocp.args.StandardRestore(_tree(like)), data=ocp.args.JsonRestore())
            )
        return TrainState(**restored["state"]), restored["data"]

    def check_fits(self, like: Any) -> dict[str, Any]:
        """Holds the newest checkpoint's parameters to a model's, by what is noted beside them: no array is read.

        Args:
          like: shapes, nested as `TrainState.params`.

        Returns:
          The position saved with it.

        Raises:
          UserError: none is there, or one of another model.
        """
        step = self._existing(None)
        with self._reading(step):
            found = self._average.metadata(self.folder / str(step) / "state").item_metadata.tree
            data = self._manager.restore(step, args=ocp.args.Composite(data=ocp.args.JsonRestore()))["data"]
        theirs, ours = _shapes(found.get("params", {})), _shapes(like)
        differs = next((name for name in sorted({*theirs, *ours}) if theirs.get(name) != ours.get(name)), None)
        if differs is not None:
            there, here = (str(shapes.get(differs, "not")) for shapes in (theirs, ours))
            raise UserError(
                self.folder / str(step),
                f"does not fit the model: {differs} is {there} there and {here} in the model",
                "use the config it was trained with (config.json in the workdir), or another workdir",
            )
        return data

    def restore_average(self, like: Any, step: int | None = None) -> tuple[Any, dict[str, Any]]:
        """The moving average of the weights, in the memory of the host, and the position saved with it.

        Args:
          like: shapes and dtypes, nested as `TrainState.ema`.
          step: default the newest.

        Raises:
          UserError: as `restore`.
        """
        step = self._existing(step)
        in_memory = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), like)
        with self._reading(step):
            found = self._average.restore(
                self.folder / str(step) / "state",
                args=ocp.args.PyTreeRestore(item={"ema": like}, restore_args={"ema": in_memory}, partial_restore=True),
            )["ema"]
            data = self._manager.restore(step, args=ocp.args.Composite(data=ocp.args.JsonRestore()))["data"]
        if jax.tree.map(np.shape, found) != jax.tree.map(np.shape, like):
            raise UserError(
                self.folder / str(step),
                "does not fit the model",
                "use the config it was trained with (config.json in the workdir)",
            )
        return found, data

    def _existing(self, step: int | None) -> int:
        step = self.latest() if step is None else step
        if step is None or step not in self._manager.all_steps():
            has = ", ".join(map(str, self.steps())) or "none"
            raise UserError(
                self.folder, f"has no checkpoint{'' if step is None else f' of step {step}'}", f"there are: {has}"
            )
        return step

    @contextlib.contextmanager
    def _reading(self, step: int) -> Iterator[None]:
        try:
            yield
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                self.folder / str(step),
                f"does not fit the model ({str(error).splitlines()[0][:300]})",
                "use the config it was trained with (config.json in the workdir)",
            ) from error
        except (OSError, FileNotFoundError) as error:
            raise UserError(
                self.folder / str(step),
                f"cannot be read ({str(error).splitlines()[0][:300]})",
                "resume from another step with --step",
            ) from error

    def wait(self) -> None:
        """Until everything is on disk. Raises UserError as `save` does."""
        with self._explained():
            self._manager.wait_until_finished()

    def close(self) -> None:
        self.wait()
        self._manager.close()

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # tensorstore and the file system raise many kinds; all mean that it was not written
            reason = str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
            raise UserError(
                self.folder,
                f"a checkpoint could not be written ({reason})",
                "free disk space and run the same command again; earlier checkpoints are intact",
            ) from error


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every array of a nested dict."""
    leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda leaf: hasattr(leaf, "shape"))
    return {path_name(path): tuple(leaf.shape) for path, leaf in leaves}


def _tree(state: TrainState) -> dict[str, Any]:
    return {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
