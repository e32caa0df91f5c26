"""What photos show of Gaussians: shares of their light, what lines of sight tell of places, nothing changed by it."""

import dataclasses

import numpy as np
import pytest
import torch
from photo_world import photo_fit, portrait_of

from mvp4d_export.avatar import GAUSSIAN_TENSORS
from mvp4d_export.photo_visibility import across_sight, light_share, off_surface, with_own_known
from mvp4d_export.projection import camera_centre
from mvp4d_export.triangles import triangle_frames


@pytest.fixture(scope="module")
def fit(egg, sharp):
    return photo_fit(egg, portrait_of(sharp, [0, 2]))


def test_all_light_of_a_lone_gaussian_comes_through_and_half_where_half_of_it_counts(fit):
    """Gaussians in a plane before the camera, so far apart that none hides another: the sum over their pixels is the
    footprint's integral, and half of it on either side of their middles."""
    photos, avatar = fit.photos, fit.avatar
    picture, _ = photos.picture(0, 0)
    pose, viewmat = photos.view(0)
    side, f = picture.side, float(picture.K[0, 0])
    matrix = (viewmat @ pose.head_matrix()[0]).detach()
    centre = torch.tensor([side / 2, side / 2, 1.0])
    depth = matrix[2, 3]
    away = torch.linalg.inv(picture.K) @ (centre + torch.tensor([[0.0, -24, 0], [0, 0, 0], [0, 24, 0]])).T * depth
    means = (away.T - matrix[:3, 3]) @ matrix[:3, :3]
    with torch.no_grad():
        splats = avatar.splats(avatar.vertices(pose))
    lone = dataclasses.replace(
        splats,
        means=means,
        quaternions=splats.quaternions[:3].detach(),
        scales=torch.full((3, 3), 2.5 * float(depth) / f),  # 2.5 pixels
        opacities=torch.tensor([0.9, 0.5, 0.7]),
        harmonics=splats.harmonics[:3],
    )
    solid = dataclasses.replace(picture, alpha=torch.ones(side, side))
    whole, left = torch.ones(side, side), torch.zeros(side, side)
    left[:, : side // 2] = 1
    sums = [light_share(avatar, lone, solid, says, pose, viewmat.detach()) for says in (whole, left)]
    torch.testing.assert_close(sums[0], torch.ones(3), atol=0.02, rtol=0)
    torch.testing.assert_close(sums[1], torch.full((3,), 0.5), atol=0.02, rtol=0)


def test_a_line_of_sight_tells_places_across_it(fit):
    """I - r r^T in every triangle's axes, by numpy; on the rig its normal as well."""
    avatar, (pose, viewmat) = fit.avatar, fit.photos.view(0)
    with torch.no_grad():
        vertices = avatar.vertices(pose)
        splats, eye = avatar.splats(vertices), camera_centre(viewmat @ pose.head_matrix()[0])
        off = off_surface(avatar, splats, vertices)
        found = across_sight(avatar, splats, vertices, eye, off).double().numpy()
    axes = triangle_frames(vertices, avatar.mesh_faces)[0][avatar.binding].double().numpy()  # in columns
    rays = splats.means.double().numpy() - eye.double().numpy()
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)
    rays = np.einsum("gji,gj->gi", axes, rays)
    expected = np.eye(3) - rays[:, :, None] * rays[:, None, :]
    expected[:, 1, 1] += ~off.numpy()
    assert 0.05 < off.float().mean() < 0.95
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_looking_changes_visibility_alone_and_finds_the_same_again(fit):
    photos = fit.photos
    before = {name: getattr(fit.avatar, name).detach().clone() for name in GAUSSIAN_TENSORS}
    old, fixed = photos.visibility, photos.fixed.clone()
    kept = {field.name: getattr(old, field.name).clone() for field in dataclasses.fields(old)}
    photos.look()
    assert photos.visibility is not old and torch.equal(photos.fixed, fixed)
    for name, value in kept.items():
        assert torch.equal(getattr(old, name), value), name
        assert torch.equal(getattr(photos.visibility, name), value), name
    for name, value in before.items():
        assert torch.equal(getattr(fit.avatar, name), value), name


def test_the_heads_own_is_known_exactly_and_the_rest_as_before(fit):
    photos, avatar = fit.photos, fit.avatar
    fixed = torch.zeros(avatar.gaussian_count, dtype=torch.bool)
    fixed[::7] = True
    found = with_own_known(photos.visibility, avatar, fixed, fit.data.pixel_pitch)
    finest = avatar.config.pitch
    assert torch.equal(found.pitch[fixed], torch.full((int(fixed.sum()),), finest))
    torch.testing.assert_close(found.across[fixed], (torch.eye(3) / finest**2).expand(int(fixed.sum()), 3, 3))
    for name in ("pitch", "across"):
        assert torch.equal(getattr(found, name)[~fixed], getattr(photos.visibility, name)[~fixed])
    assert found.shown is photos.visibility.shown and found.claims is photos.visibility.claims
