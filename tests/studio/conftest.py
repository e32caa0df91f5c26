"""Two people, built once: short black hair and glasses (6), long dark brown hair (3)."""

import numpy as np
import pytest

from mvp4d.core.cameras.rigs import camera_rig
from mvp4d_jax.studio.studio import Studio

SIZE = 48


@pytest.fixture(scope="session")
def short_haired():
    return Studio(6)


@pytest.fixture(scope="session")
def long_haired():
    return Studio(3)


@pytest.fixture(scope="session")
def rig():
    return camera_rig("orbit:360x4", (SIZE, SIZE))


@pytest.fixture(scope="session")
def pictures(short_haired, rig) -> tuple[np.ndarray, np.ndarray]:
    """Three frames of four views of the first person."""
    return short_haired.render(short_haired.motion(3), rig, SIZE)
