"""Fixtures of the PyTorch half: one small capture, one small avatar."""

import os
import sys
from pathlib import Path

import pytest

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as mvp4d_export does, before torch is loaded

import torch

sys.path.insert(0, str(Path(__file__).parent))
torch.set_num_threads(1)  # small tensors: a second thread costs more than it brings

from export_world import small_config, write_capture  # noqa: E402

from mvp4d.core.capture import Capture  # noqa: E402
from mvp4d_export.dataset import Dataset  # noqa: E402
from mvp4d_export.distill import Distiller  # noqa: E402
from mvp4d_export.fitting import distill  # noqa: E402


@pytest.fixture(scope="session")
def egg(tmp_path_factory) -> Path:
    """A capture of 6 views x 6 frames of 48 x 48."""
    return write_capture(tmp_path_factory.mktemp("egg") / "capture")


@pytest.fixture(scope="session")
def fitted(egg, tmp_path_factory) -> tuple[Path, dict]:
    """An avatar distilled from `egg` with one view and one frame held out, and its report."""
    out = tmp_path_factory.mktemp("avatar") / "avatar"
    fit = Distiller(Dataset.load(Capture.open(egg), hold_views=1, hold_times=1), small_config())
    return out, distill(fit, out)
