"""Depths along lines of sight: noise goes, slopes and steps stay, and pictures of the points do not change."""

import numpy as np
import pytest
import torch

from mvp4d_export.sheet import on_sheet

EYE, AXIS = torch.tensor([0.1, 0.2, 1.0]), torch.tensor([0.0, 0.0, -1.0])


def scene(noise: float, slope: float = 0.0, step: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    """[M, 3] points about 1 m before the eye, a millimetre apart, and their depths without noise [M]."""
    generator = np.random.default_rng(0)
    rows, columns = np.mgrid[-40:40, -40:40] / 1000 + generator.uniform(-3e-4, 3e-4, (2, 80, 80))
    true = 1 + slope * columns + step * (columns > 0)
    depth = true + noise * generator.normal(size=true.shape)
    rays = np.stack([columns, rows, -np.ones_like(rows)], -1)
    return (EYE + torch.from_numpy(rays * depth[..., None]).float()).view(-1, 3), torch.from_numpy(true).view(-1)


def depths(points: torch.Tensor) -> torch.Tensor:
    return (points - EYE) @ AXIS


@pytest.mark.parametrize(("slope", "step"), [(0.0, 0.0), (0.5, 0.0), (0.0, 0.06)])
def test_noise_goes_and_the_shape_stays(slope, step):
    points, true = scene(0.003, slope, step)
    found = on_sheet(points, EYE, AXIS)
    before, after = (depths(value) - true for value in (points, found))
    assert float(after.std()) < 0.4 * float(before.std())
    edge = (true - true.view(80, 80)[:, :39].mean()).abs() < step / 2  # which side of the step
    if step:
        jump = depths(found)[~edge].mean() - depths(found)[edge].mean()
        assert float(jump) == pytest.approx(step, abs=0.001)


def test_points_keep_their_lines_of_sight():
    points, _ = scene(0.003)
    found = on_sheet(points, EYE, AXIS)
    for value in (points, found):
        value -= EYE
    torch.testing.assert_close(found / found[:, 2:], points / points[:, 2:], atol=1e-5, rtol=0)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_few_points(count):
    points = scene(0.0)[0][:count]
    torch.testing.assert_close(on_sheet(points, EYE, AXIS), points, atol=1e-4, rtol=0)


def test_a_ball_stays_a_ball_up_to_its_outline():
    """Ten rounds of it: a mean around would draw the rim towards the eye, where its neighbours are."""
    radius, centre = 0.09, torch.tensor([0.1, 0.2, 0.0])
    generator = np.random.default_rng(1)
    x, y = generator.uniform(-1, 1, (2, 20_000)) * 0.088
    inside = x**2 + y**2 < 0.088**2
    z = np.sqrt(radius**2 - x[inside] ** 2 - y[inside] ** 2)
    points = centre + torch.from_numpy(np.stack([x[inside], y[inside], z], 1)).float()
    found = points
    for _ in range(10):
        found = on_sheet(found, EYE, AXIS)
    off = (depths(found) - depths(points)).abs()
    rim = torch.from_numpy(np.hypot(x, y)[inside]) > 0.07
    assert float(off[~rim].max()) < 0.002 and float(off[rim].quantile(0.95)) < 0.004  # means: 0.005 and 0.013
