"""Synthetic files in FLAME's layout: random numbers of FLAME's shapes and magnitudes, none of FLAME's data."""

import pickle
import sys
import types

import numpy as np
from scipy.sparse import csc_matrix

VERTICES = 5023


def flame_arrays(seed: int = 0) -> dict[str, object]:
    """Strips of random triangles over 5023 vertices, eyeballs of their own, and bases of plausible size."""
    rng = np.random.default_rng(seed)
    template = rng.normal(0, 0.06, (VERTICES, 3))
    template[3931:4477] = [0.03, 0.02, 0.02] + rng.normal(0, 0.01, (546, 3))
    template[4477:] = [-0.03, 0.02, 0.02] + rng.normal(0, 0.01, (546, 3))
    pieces = [np.arange(0, 3931), np.arange(3931, 4477), np.arange(4477, VERTICES)]
    faces = np.concatenate([np.stack([np.roll(piece, -k) for k in range(3)], 1) for piece in pieces])
    regressor = np.zeros((5, VERTICES))
    for row in range(5):
        chosen = rng.choice(VERTICES, 30, replace=False)
        regressor[row, chosen] = rng.dirichlet(np.ones(30))
    weights = rng.dirichlet(np.full(5, 0.3), VERTICES)
    return {
        "v_template": template,
        "f": faces.astype(np.uint32),
        "shapedirs": rng.normal(0, 2e-3, (VERTICES, 3, 400)),
        "posedirs": rng.normal(0, 2e-3, (VERTICES, 3, 36)),
        "J_regressor": csc_matrix(regressor),
        "kintree_table": np.array([[2**32 - 1, 0, 1, 1, 1], [0, 1, 2, 3, 4]], np.uint32),
        "weights": weights,
        "bs_style": "lbs",
        "bs_type": "lrotmin",
    }


def write_2023(path, arrays, protocol=2):
    """Plain arrays, as in the 2023 release."""
    with open(path, "wb") as handle:
        pickle.dump(arrays, handle, protocol=protocol)


def write_2020(path, arrays):
    """Arrays wrapped in chumpy objects, as in the 2020 release; the module exists only while the file is written."""
    chumpy, chumpy_ch = types.ModuleType("chumpy"), types.ModuleType("chumpy.ch")

    class Ch:
        def __init__(self, x):
            self.x = x

    Ch.__module__, Ch.__qualname__ = "chumpy.ch", "Ch"
    chumpy_ch.Ch = Ch
    sys.modules["chumpy"], sys.modules["chumpy.ch"] = chumpy, chumpy_ch
    try:
        wrapped = {
            key: Ch(value) if key in ("v_template", "shapedirs", "posedirs") else value for key, value in arrays.items()
        }
        with open(path, "wb") as handle:
            pickle.dump(wrapped, handle, protocol=2)
    finally:
        del sys.modules["chumpy"], sys.modules["chumpy.ch"]
