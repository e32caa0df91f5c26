"""Which checkpoints are kept, which one is best, what is said of those that are not there or do not fit."""

import jax.numpy as jnp
import numpy as np
import pytest

from mvp4d.core.errors import UserError
from mvp4d_jax.training.checkpoints import Checkpoints
from mvp4d_jax.training.state import TrainState


def state_of(step: int, width: int = 4) -> TrainState:
    """A state whose parameters say which step they are of."""
    params = {"kernel": jnp.full((width,), float(step))}
    return TrainState(jnp.int32(step), jnp.zeros(2, jnp.uint32), params, params, {"mu": params})


def save_all(folder, losses: dict[int, float | None], **keep) -> Checkpoints:
    checkpoints = Checkpoints(folder, **keep)
    for step, loss in losses.items():
        checkpoints.save(step, state_of(step), {"step": step}, loss)
    checkpoints.close()
    return Checkpoints(folder, read_only=True)


def test_the_last_and_the_best_are_kept(tmp_path):
    """Losses fall to step 3 and rise again; the best two of all that were measured outlive the last two."""
    losses = {1: 0.9, 2: 0.5, 3: 0.2, 4: None, 5: 0.4, 6: 0.8, 7: None, 8: 0.7}
    kept = save_all(tmp_path, losses, keep_last=2, keep_best=2)
    assert kept.steps() == [3, 5, 7, 8]
    assert kept.latest() == 8 and kept.best() == 3
    state, position = kept.restore(state_of(0), kept.best())
    assert float(state.params["kernel"][0]) == 3.0 and position == {"step": 3}


def test_best_outlives_a_restart(tmp_path):
    """The losses of an earlier process count, too."""
    save_all(tmp_path, {1: 0.1, 2: 0.9}, keep_last=1, keep_best=1)
    assert save_all(tmp_path, {3: 0.8, 4: 0.7, 5: None}, keep_last=1, keep_best=1).steps() == [1, 5]


def test_without_a_measurement_the_newest_is_best(tmp_path):
    kept = save_all(tmp_path, {1: None, 2: None, 3: None}, keep_last=2, keep_best=1)
    assert kept.steps() == [2, 3] and kept.best() == 3


def test_a_step_is_saved_once(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, state_of(1), {"step": 1})
    checkpoints.save(1, state_of(7), {"step": 7})
    checkpoints.close()
    state, _ = Checkpoints(tmp_path, read_only=True).restore(state_of(0))
    np.testing.assert_array_equal(state.params["kernel"], np.full(4, 1.0))


def test_what_is_not_there_or_does_not_fit(tmp_path):
    with pytest.raises(UserError, match="has no checkpoints"):
        Checkpoints(tmp_path / "none", read_only=True)
    kept = save_all(tmp_path / "run", {4: None, 8: None})
    with pytest.raises(UserError, match=r"no checkpoint of step 6; there are: 4, 8"):
        kept.restore(state_of(0), 6)
    with pytest.raises(UserError, match=r"8: does not fit the model"):
        kept.restore(state_of(0, width=5))
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(UserError, match="has no checkpoint; there are: none"):
        Checkpoints(empty, read_only=True).restore(state_of(0))
