"""Hair at the rim of a photo: how squarely a photo sees it, and the mean colour that it takes."""

import math

import pytest
import torch
from export_world import write_capture

from mvp4d.core.capture import Capture
from mvp4d_export.avatar import Avatar, AvatarConfig
from mvp4d_export.dataset import Dataset
from mvp4d_export.harmonics import colour_of_sh, sh_of_colour
from mvp4d_export.initialise import initialise
from mvp4d_export.photos import Picture
from mvp4d_export.rim import AROUND, BALL, SKIN_DOTS, SKIN_RIM, even_rim, outline_cosine
from mvp4d_export.seeding import project_points
from mvp4d_export.triangles import triangle_frames

SIDE = 160


@pytest.fixture(scope="module")
def scene(tmp_path_factory) -> tuple[Dataset, Avatar]:
    folder = tmp_path_factory.mktemp("rim") / "capture"
    data = Dataset.load(Capture.open(write_capture(folder, views=4, frames=1, size=SIDE)))
    avatar = Avatar(AvatarConfig(24, 0), data.capture.head)
    initialise(avatar, data, 1500, 0)
    return data, avatar


def test_a_disc_of_a_heads_size_is_seen_as_a_ball(scene):
    data, avatar = scene
    pose, viewmat, K = data.pose[:1], data.viewmats[0, 0], data.Ks[0, 0]
    means = avatar.splats(avatar.vertices(pose)).means.detach()
    pixels, depth = project_points(means, viewmat @ pose.head_matrix()[0], K)
    centre, radius = pixels.mean(0), BALL * K[0, 0] / depth.mean()
    rows, columns = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    disc = ((columns + 0.5 - centre[0]) ** 2 + (rows + 0.5 - centre[1]) ** 2).sqrt() < radius
    picture = Picture(torch.zeros(SIDE, SIDE, 3), disc.float(), torch.ones(SIDE, SIDE), K)
    found = outline_cosine(avatar, picture, pose, viewmat)
    beside = (pixels - centre).norm(dim=1)
    share = ((radius - beside) * depth / K[0, 0] / BALL).clamp(0, 1)
    assert (share > 0).sum() > 500
    assert (found.square() - share * (2 - share)).abs().max() < 4 / radius  # distances are between whole pixels
    assert (found[beside > radius + 1.5] == 0).all()


def test_a_photo_without_background_has_no_rim(scene):
    data, avatar = scene
    picture = Picture(torch.zeros(SIDE, SIDE, 3), torch.ones(SIDE, SIDE), torch.ones(SIDE, SIDE), data.Ks[0, 0])
    found = outline_cosine(avatar, picture, data.pose[:1], data.viewmats[0, 0])
    assert torch.equal(found, torch.ones(avatar.gaussian_count))


def test_the_rim_takes_the_mean_around_it_and_the_rest_stays(scene):
    """Three Gaussians in a row, AROUND apart, the last one four times as large on the screen and half as opaque."""
    _, avatar = scene
    names = ("position", "rotation", "log_scale", "logit_opacity", "harmonics")
    own = Avatar(AvatarConfig(24, 0), avatar.head)
    tensors = {name: getattr(avatar, name).detach()[:4].clone() for name in names}
    own.set_gaussians(avatar.binding[:1].repeat(4), tensors)
    scale = triangle_frames(own.gather(own.rig.template), own.mesh_faces)[1][own.binding[0]]
    with torch.no_grad():
        own.position.zero_()
        own.position[:, 0] = torch.tensor([0.0, 1.0, 2.0, 1.0]) * AROUND / scale
        own.log_scale.fill_(float((0.001 / scale).log()))
        own.log_scale[2] += math.log(2)
        own.logit_opacity.zero_()  # one half
        own.logit_opacity[2] = -math.log(3)  # a quarter
        own.harmonics[:, 0] = torch.tensor([[1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0], [5.0, 5, 5]])
    among = torch.tensor([True, True, True, False])  # the fourth is none of them
    even_rim(own, among, torch.tensor([0.1, 0.575, 1.0, 0.0]))  # rim, half way, squarely seen
    one, two = math.exp(-0.5), math.exp(-2)
    first = torch.tensor([1.0, one, 2 * two]) / (1 + one + 2 * two)
    second = torch.tensor([one, 1.0, 2 * one]) / (one + 1 + 2 * one)
    expected = torch.stack((first, (second + torch.tensor([0, 1.0, 0])) / 2, torch.tensor([0, 0, 1.0])))
    torch.testing.assert_close(own.harmonics.detach()[:3, 0], expected, atol=1e-4, rtol=1e-3)
    assert torch.equal(own.harmonics.detach()[3, 0], torch.full((3,), 5.0))


@pytest.mark.parametrize(
    "colours",
    [
        [[0.1, 0.1, 0.1], [0.7, 0.6, 0.5], [0.8, 0.7, 0.6]],
        [[0.21, 0.21, 0.18], [0.04, 0.03, 0.03], [0.05, 0.04, 0.03]],  # less than a dot on skin differs, in dark hair
    ],
)
def test_a_dot_seen_from_beside_takes_the_colour_of_what_is_seen_squarely(colours, scene):
    """Three Gaussians at one place: another thing's and a shade of its own from beside, what counts most."""
    _, avatar = scene
    names = ("position", "rotation", "log_scale", "logit_opacity", "harmonics")
    own = Avatar(AvatarConfig(24, 0), avatar.head)
    own.set_gaussians(avatar.binding[[0] * 3], {name: getattr(avatar, name).detach()[[0] * 3] for name in names})
    colours = torch.tensor(colours)
    with torch.no_grad():
        own.harmonics[:, 0] = sh_of_colour(colours)
    cosine = torch.tensor([SKIN_RIM[0], SKIN_RIM[0], SKIN_RIM[1]])
    even_rim(own, torch.ones(3, dtype=torch.bool), cosine, SKIN_RIM, torch.tensor([0.1, 0.1, 0.8]), SKIN_DOTS)
    mean = 0.1 * colours[0] + 0.1 * colours[1] + 0.8 * colours[2]
    expected = torch.stack((mean, colours[1], colours[2]))
    torch.testing.assert_close(colour_of_sh(own.harmonics.detach()[:, 0]), expected, atol=1e-5, rtol=0)
