"""Drawing many frames alike: on a CPU one at a time, by a program of one frame; elsewhere all by one program.

One frame's program is compiled once, whatever the number of views and frames, and the cores share the frames: within
one frame the rasteriser's loop keeps a single core busy.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from mvp4d.core.host import cpu_count
from mvp4d_jax import parallel

Array = Any


def apart(*trees: Any) -> bool:
    """Whether frames of these arrays are drawn one at a time: on a CPU, and not inside a transformation of JAX."""
    return parallel.platform() == "cpu" and not any(
        isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(trees)
    )


def draw_apart(draw: Callable[[Any], Any], items: Any) -> Any:
    """`draw` of every item (at least one), from as many threads as there are cores.

    Returns:
      The trees of arrays that `draw` returns, as numpy, stacked along a new leading axis.
    """
    items, out = list(items), None
    with ThreadPoolExecutor(min(len(items), cpu_count())) as pool:
        for place, drawn in enumerate(pool.map(lambda item: jax.tree.map(np.asarray, draw(item)), items)):
            if out is None:
                out = jax.tree.map(lambda leaf: np.empty((len(items), *leaf.shape), leaf.dtype), drawn)
            for into, leaf in zip(jax.tree.leaves(out), jax.tree.leaves(drawn), strict=True):
                into[place] = leaf
    return out


def side_by_side(work: Callable[[Any], Any], items: Iterable[Any], count: int) -> Iterator[Any]:
    """`work` of every item, in order, `count` of them at a time; one alone in the thread of whoever reads.

    No more than `count` results wait to be read.
    """
    if count == 1:
        yield from map(work, items)
        return
    waiting = deque()
    with ThreadPoolExecutor(count) as pool:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > count:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
