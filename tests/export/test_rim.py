"""Hair at the rim of a photo: how squarely a photo sees it, and the mean colour that it takes."""

import pytest
import torch
from export_world import write_capture

from mvp4d.core.capture import Capture
from mvp4d_export.avatar import Avatar, AvatarConfig
from mvp4d_export.dataset import Dataset
from mvp4d_export.initialise import initialise
from mvp4d_export.photos import Picture
from mvp4d_export.rim import AROUND, BALL, NEIGHBOURS, even_rim, outline_cosine
from mvp4d_export.seeding import project_points

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


def test_the_rim_takes_the_mean_around_it_and_the_rest_stays(scene):
    _, avatar = scene
    before = torch.rand(avatar.harmonics.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        avatar.harmonics.copy_(before)
    splats = avatar.splats(avatar.gather(avatar.rig.template))
    among = torch.zeros(avatar.gaussian_count, dtype=torch.bool)
    among[: NEIGHBOURS - 4] = True  # few enough that the mean is of all of them
    cosine = torch.ones(avatar.gaussian_count)
    cosine[:10], cosine[10] = 0.1, 0.575  # rim; half way
    even_rim(avatar, among, cosine)
    size = splats.scales.sort(1).values[:, 1:].prod(1) * splats.opacities
    for index in range(11):
        distance = (splats.means[among] - splats.means[index]).norm(dim=1)
        weights = size[among] * torch.exp(-((distance / AROUND) ** 2) / 2)
        mean = (weights[:, None, None] * before[among]).sum(0) / weights.sum()
        expected = mean if index < 10 else (mean + before[index]) / 2
        torch.testing.assert_close(avatar.harmonics[index], expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(avatar.harmonics[11:], before[11:])
