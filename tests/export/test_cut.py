"""Gaussians cut by a plane, against truncated normal distributions and samples."""

import numpy as np
import pytest
import torch
from scipy.stats import truncnorm

from mvp4d.core.heads import load_head
from mvp4d_export.avatar import GAUSSIAN_TENSORS, Avatar, AvatarConfig
from mvp4d_export.cut import CLEAR, GONE, cut_off
from mvp4d_export.laid import surface_tensors
from mvp4d_export.projection import quaternion_to_matrix

UP = torch.tensor([0.2, 1.0, -0.1])
HEIGHTS = torch.tensor([-0.030, -0.006, -0.003, 0.0, 0.002, 0.005, 0.030])  # above the plane that goes through 0


@pytest.fixture
def avatar() -> Avatar:
    """Gaussians of 2, 4 and 1 mm, turned, on triangles here and there; their places from the plane are `HEIGHTS`."""
    found = Avatar(AvatarConfig(24, 0), load_head("builtin"))
    binding = torch.arange(len(HEIGHTS)) * 40
    places = HEIGHTS[:, None] * UP / UP.square().sum() + torch.tensor([0.1, 0.0, 0.2])
    places = places - (places @ UP - HEIGHTS)[:, None] * UP / UP.square().sum()
    tensors = surface_tensors(found, found.rig.template, binding, places, UP.expand_as(places), places + 0.4, 1.0)
    found.set_gaussians(binding, {name: tensors[name] for name in GAUSSIAN_TENSORS})
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        found.rotation.copy_(torch.randn(len(HEIGHTS), 4, generator=generator))
        own = found.splats(found.gather(found.rig.template)).scales
        found.log_scale += (torch.tensor([0.002, 0.004, 0.001]) / own).log()
    return found


def shapes(avatar: Avatar) -> tuple[np.ndarray, np.ndarray]:
    """Means [G, 3] and covariances [G, 3, 3] in metres."""
    splats = avatar.splats(avatar.gather(avatar.rig.template))
    axes = quaternion_to_matrix(splats.quaternions) * splats.scales[:, None]
    return splats.means.detach().double().numpy(), (axes @ axes.mT).detach().double().numpy()


def cut(avatar: Avatar, among: torch.Tensor) -> None:
    cut_off(avatar, avatar.gather(avatar.rig.template), among, HEIGHTS, UP)


def test_what_is_left_has_the_moments_of_the_part_above(avatar):
    means, covariances = shapes(avatar)
    opacity = avatar.logit_opacity.sigmoid().detach()
    cut(avatar, HEIGHTS > -1)
    new, left = shapes(avatar)
    up, rng = UP.double().numpy(), np.random.default_rng(0)
    for index, height in enumerate(HEIGHTS.tolist()):
        deviation = np.sqrt(up @ covariances[index] @ up)
        if height < 2 * GONE[0] * deviation:
            continue
        mean, variance = truncnorm.stats(-height / deviation, np.inf, moments="mv")
        assert new[index] @ up == pytest.approx(height + deviation * mean, abs=2e-6)
        assert up @ left[index] @ up == pytest.approx(deviation**2 * variance, rel=5e-3)
        samples = rng.multivariate_normal(means[index], covariances[index], 200_000)
        samples = samples[samples @ up > 0]
        np.testing.assert_allclose(new[index], samples.mean(0), atol=0.03 * deviation)
        np.testing.assert_allclose(left[index], np.cov(samples.T), atol=0.03 * covariances[index].max())
    share = avatar.logit_opacity.sigmoid() / opacity
    assert float(share[0]) < 1e-3 and float(share[-1]) == 1


def test_what_is_far_below_vanishes_and_does_not_grow(avatar):
    """Moments of a normal distribution's far tail, in float32: 15 to 7,000 standard deviations below the plane."""
    with torch.no_grad():
        avatar.log_scale += torch.tensor([1e-3, 1e-2, 0.1, 1, 1, 1, 1]).log()[:, None]
    before = shapes(avatar)[1]
    cut_off(avatar, avatar.gather(avatar.rig.template), HEIGHTS > -1, HEIGHTS - 0.04, UP)
    after = shapes(avatar)[1]
    sizes = [np.linalg.eigvalsh(shape)[:, -1] for shape in (before, after)]
    assert np.isfinite(after).all() and (sizes[1] < 1.01 * sizes[0]).all() and (sizes[1] > 0.1 * sizes[0]).all()
    assert (avatar.logit_opacity.sigmoid()[:6] < 1e-3).all()


def test_what_is_clear_of_the_plane_or_not_among_them_stays_to_the_bit(avatar):
    before = {name: getattr(avatar, name).detach().clone() for name in GAUSSIAN_TENSORS}
    cut(avatar, HEIGHTS < -1)
    assert all(torch.equal(getattr(avatar, name), value) for name, value in before.items())
    cut(avatar, HEIGHTS > -1)
    assert CLEAR * 0.004 * float(UP.norm()) < float(HEIGHTS[-1])
    assert all(torch.equal(getattr(avatar, name)[-1], value[-1]) for name, value in before.items())
