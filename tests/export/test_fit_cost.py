"""What a fit's steps leave out changes nothing: against the plain computation of everything."""

import copy
import dataclasses

import torch
from export_world import FRAME, small_config, write_capture
from photo_world import SIDE, photo_fit, portrait_of
from torch.nn.functional import normalize

from mvp4d.core.capture import Capture
from mvp4d.core.capture.motion_file import read_motion
from mvp4d_export.avatar import GAUSSIAN_TENSORS, Avatar
from mvp4d_export.dataset import Dataset
from mvp4d_export.deformation import EXPRESSION_UNIT, DeformationNet, NetConfig
from mvp4d_export.distill import Distiller
from mvp4d_export.rig import Pose
from mvp4d_export.triangles import matrix_to_quaternion, multiply_quaternions, triangle_frames


def on_every_triangle(avatar: Avatar, vertices: torch.Tensor) -> list[torch.Tensor]:
    """Means, quaternions and scales of the Gaussians, by the frames of all triangles."""
    rotation, scale, centre = (part[avatar.binding] for part in triangle_frames(vertices, avatar.mesh_faces))
    means = scale[:, None] * torch.einsum("gij,gj->gi", rotation, avatar.position) + centre
    quaternions = multiply_quaternions(matrix_to_quaternion(rotation), normalize(avatar.rotation, dim=-1))
    return [means, quaternions, avatar.log_scale.exp() * scale[:, None]]


def test_frames_of_the_triangles_that_carry_gaussians_are_enough(fitted, tmp_path):
    """Values and gradients of a loaded avatar, of one that got other Gaussians, of its copy and once it is reloaded."""
    loaded = Avatar.load(fitted[0])
    changed = Avatar.load(fitted[0])
    few = torch.arange(len(loaded.binding) - 1, 0, -7)
    changed.set_gaussians(loaded.binding[few], {name: getattr(loaded, name)[few] for name in GAUSSIAN_TENSORS})
    changed.save(tmp_path / "changed")
    avatars = loaded, changed, copy.deepcopy(changed), Avatar.load(tmp_path / "changed")
    generator = torch.Generator().manual_seed(0)
    for avatar in avatars:
        assert 10 < len(avatar.bound_faces) < len(avatar.mesh_faces)
        rest = avatar.gather(avatar.rig.template)
        vertices = (rest + 1e-3 * torch.randn(rest.shape, generator=generator)).requires_grad_()
        inputs = [vertices, avatar.position, avatar.rotation, avatar.log_scale]
        splats = avatar.splats(vertices)
        ours, plain = [splats.means, splats.quaternions, splats.scales], on_every_triangle(avatar, vertices)
        weights = [torch.randn(value.shape, generator=generator) for value in ours]
        for found, expected in zip(ours, plain):
            torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)
        for found, expected in zip(*(torch.autograd.grad(values, inputs, weights) for values in (ours, plain))):
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))
    assert Avatar(loaded.config, loaded.head).splats(vertices).means.shape == (0, 3)


def test_marks_are_what_a_rendering_of_their_own_shows(fitted, cameras):
    """Over black, in the same bits; the picture, its gradients and their number are those without marks."""
    avatar = Avatar.load(fitted[0])
    pose = Pose.of(read_motion(fitted[0] / "motion.npz").motion)[FRAME : FRAME + 1]
    marks = torch.rand(avatar.gaussian_count, generator=torch.Generator().manual_seed(0)).requires_grad_()
    inputs = [getattr(avatar, name) for name in GAUSSIAN_TENSORS]
    behind = torch.tensor([0.2, 0.7, 0.4])

    def render(**options):
        drawn = avatar.render(avatar.splats(avatar.vertices(pose)), pose, *cameras, 48, 48, behind, **options)
        loss = (drawn.rgb.square().sum(-1) + drawn.alpha).sum()
        return drawn, torch.autograd.grad(loss, inputs)

    marked, gradients = render(marks=marks)
    plain, expected = render()
    assert plain.marked is None and not marked.marked.requires_grad
    assert torch.equal(marked.rgb, plain.rgb) and torch.equal(marked.alpha, plain.alpha)
    for ours, theirs in zip(gradients, expected):
        assert torch.equal(ours, theirs)
    splats = avatar.splats(avatar.vertices(pose))
    alone = avatar.render(splats, pose, *cameras, 48, 48, colours=marks[:, None].expand(-1, 3)).rgb
    assert torch.equal(marked.marked, alone[..., 0])
    assert 0.1 < float(marked.marked.amax()) < 1


def test_photos_and_turned_views_are_pooled_once_per_level(egg, tmp_path):
    """Each level is the full one's mean over squares, whatever was asked for before; a look draws turned views anew."""
    sharp = Capture.open(write_capture(tmp_path / "sharp", views=6, frames=1, size=SIDE))
    fit = photo_fit(egg, portrait_of(sharp, [0, 1])).photos
    for index in range(2):
        full, turned = fit.photos.pictures[index], fit.turned(index, 1, 0)[0]
        for level in (1, 0, 2, 1):
            picture, says = fit.picture(index, level)
            side = SIDE >> level
            alpha = full.alpha.reshape(side, 1 << level, side, 1 << level).mean((1, 3))
            shut = (1 - fit.mouths[index]).reshape(side, 1 << level, side, 1 << level).amin((1, 3))
            torch.testing.assert_close(picture.alpha, alpha)
            torch.testing.assert_close(says, picture.known * shut)
            assert fit.picture(index, level)[0] is picture
            smaller, _, camera = fit.turned(index, 1, level)
            weight = turned.alpha.reshape(side, 1 << level, side, 1 << level).mean((1, 3))
            torch.testing.assert_close(smaller.alpha, weight)
            torch.testing.assert_close(camera, fit.turned(index, 1, 0)[2])
    _, pose, camera = fit.turned(0, 1, 1)
    with torch.no_grad():
        fit.free["shift"].fill_(0.5)
        fit.free["expression"].fill_(0.5)
    _, same, still = fit.turned(0, 1, 1)
    assert torch.equal(still, camera) and torch.equal(same.expression, pose.expression)
    fit.look()
    _, other, moved = fit.turned(0, 1, 1)
    assert (moved - camera).abs().max() > 1e-3 and (other.expression - pose.expression).abs().max() > 0.05


def test_a_frames_expression_is_told_once(egg):
    """It is the rig's offsets from rest without the neck, after steps as before; what is kept changes no sample."""
    data = Dataset.load(Capture.open(egg))
    fit = Distiller(data, small_config(steps=4))
    for _ in range(4):
        fit.train_step()
    for frame in data.train_frames:
        kept = fit._expression_image(frame)
        still = dataclasses.replace(data.pose[frame : frame + 1], neck=torch.zeros(1, 3))
        off = fit.avatar.gather(fit.avatar.rig(still)[0][0] - fit.avatar.rig.template) / EXPRESSION_UNIT
        torch.testing.assert_close(kept.flatten(1)[:, fit.avatar.mesh_pixels].T, off, atol=0, rtol=0)
        assert fit._expression_image(frame) is kept
    chosen = *fit.choose(0), fit.backdrop(0), 0.5, True
    kept = fit.sample(*chosen)
    fit._images.clear()
    anew = fit.sample(*chosen)
    assert kept.loss == anew.loss
    for ours, theirs in zip(kept.gradients, anew.gradients):
        assert torch.equal(ours, theirs)


def test_the_nets_memory_format_changes_rounding_alone():
    """Offsets and gradients against float64 convolutions of PyTorch's own, which know no such format."""
    torch.manual_seed(0)
    net = DeformationNet(NetConfig((8, 12, 16), 1, 2))
    torch.nn.init.normal_(net.head.weight)
    features, weights = torch.randn(2, 27, 50, 50), torch.randn(2, 3, 50, 50)
    found = net(features)
    gradients = torch.autograd.grad(found, list(net.parameters()), weights)
    exact = copy.deepcopy(net).double()
    with torch.backends.mkldnn.flags(enabled=False):
        expected = exact(features.double())
        references = torch.autograd.grad(expected, list(exact.parameters()), weights.double())
    for ours, theirs in zip((found, *gradients), (expected, *references)):
        assert float((ours.detach() - theirs.detach()).norm() / theirs.detach().norm()) < 1e-5
