"""How one kind of batch goes onto the mesh: which rows a process makes, and where they lie."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from mvp4d_jax import parallel
from mvp4d_jax.training.step import MODEL_INPUTS


@dataclasses.dataclass(frozen=True)
class Feed:
    """The way of batches of one size.

    Attributes:
      batch: samples over all processes.
      layout: of the global arrays [B, ...].
      rows: numbers of the samples that this process makes.
    """

    batch: int
    layout: NamedSharding
    rows: np.ndarray

    @classmethod
    def onto(cls, mesh: Mesh, batch: int, where: str = "batch") -> Feed:
        """Raises UserError, naming `where`, for a batch that the mesh does not divide."""
        parallel.check_batch(mesh, batch, where)
        layout = parallel.batch_sharding(mesh)
        return cls(batch, layout, parallel.held_rows(layout, batch))

    def place(self, local: dict[str, np.ndarray]) -> dict[str, jax.Array]:
        """This process's rows of the model's inputs, as parts of the global batch."""
        return {name: parallel.place_rows(local[name], self.rows, self.layout, self.batch) for name in MODEL_INPUTS}
