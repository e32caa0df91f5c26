"""The body's end at the pictures' frames is cut, in the colours beside it; what lies further inside stays as it is."""

import math

import pytest
import torch

from mvp4d.core.heads import load_head
from mvp4d_export.avatar import GAUSSIAN_TENSORS, Avatar, AvatarConfig
from mvp4d_export.hem import AT_END, CUT, CUT_QUANTILE, EVEN, FADES, Edges, Plane, finish_hem, inside_frames
from mvp4d_export.laid import WIDTH, surface_tensors
from mvp4d_export.photos import Picture
from mvp4d_export.rig import Pose

FOCAL, SIDE = 200.0, 100  # a metre away a pixel spans 5 mm, and the frame ends 0.25 m below its middle
END, SIZE = 0.25, 0.002  # metres; the latter: standard deviation of the Gaussians
INSIDE = torch.tensor([-0.010, 0.004, 0.009, 0.016, 0.021, 0.026, 0.031, 0.060])  # metres to which they reach
RED, WHITE = (0.8, 0.1, 0.1), (0.9, 0.9, 0.9)


@pytest.fixture(scope="module")
def head():
    return load_head("builtin")


@pytest.fixture
def avatar(head) -> Avatar:
    """Gaussians below one another on the axis of the camera's picture, red within 2 cm of its edge, else white."""
    found = Avatar(AvatarConfig(24, 0), head)
    place(found, torch.stack((torch.zeros(len(INSIDE)), INSIDE + SIZE - END, torch.zeros(len(INSIDE))), 1))
    return found


def place(found: Avatar, places: torch.Tensor) -> None:
    """Gives an avatar Gaussians at metres [G, 3] from the body's axis."""
    places = places + found.rig.template.mean(0) * torch.tensor([1.0, 0.0, 1.0])
    red = places[:, 1:2] < 0.02 + SIZE - END
    colours = torch.where(red, torch.tensor(RED), torch.tensor(WHITE))
    binding, flat = torch.zeros(len(places), dtype=torch.long), torch.zeros_like(places)
    tensors = surface_tensors(found, found.rig.template, binding, places, flat, colours, SIZE / WIDTH)
    found.set_gaussians(binding, {name: tensors[name] for name in GAUSSIAN_TENSORS})


def seen(
    avatar: Avatar, known: torch.Tensor | None = None, lower: float = 0.0, behind: bool = False, back: bool = False
) -> Edges:
    """Edges of a photo from a metre before the body's axis at rest, `lower` metres below it: of what lies `behind` the
    camera, or from the `back` of the head."""
    flat = torch.zeros(1, 3)
    pose = Pose(torch.zeros(1, len(avatar.rig.expression_basis)), flat, flat, flat, flat, torch.zeros(1, 2, 3))
    viewmat = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0]))  # OpenCV's axes: y down, z away
    if back:
        viewmat[0, 0], viewmat[2, 2] = -1.0, 1.0
    viewmat[:3, 3] = torch.tensor([0, -lower, -1.0 if behind else 1.0])
    axis = avatar.rig.template.mean(0) * torch.tensor([1.0, 0.0, 1.0])
    viewmat[:3, 3] -= viewmat[:3, :3] @ axis
    K = torch.tensor([[FOCAL, 0, SIDE / 2], [0, FOCAL, SIDE / 2], [0, 0, 1]])
    known = torch.ones(SIDE, SIDE) if known is None else known
    return Edges.of_photo(Picture(torch.zeros(SIDE, SIDE, 3), torch.ones(SIDE, SIDE), known, K), pose, viewmat)


def test_how_far_gaussians_reach_into_the_frame_that_shows_them_best(avatar):
    torch.testing.assert_close(inside_frames(avatar, [seen(avatar)])[0], INSIDE, atol=2e-5, rtol=0)
    both = [seen(avatar), seen(avatar, lower=0.1), seen(avatar, behind=True)]
    torch.testing.assert_close(inside_frames(avatar, both)[0], INSIDE + 0.1, atol=2e-5, rtol=0)


def test_a_photo_ends_where_its_pixels_end(avatar):
    known = torch.ones(SIDE, SIDE)
    known[90:] = 0  # a crop wider than the photo: its end lies 5 cm higher
    torch.testing.assert_close(inside_frames(avatar, [seen(avatar, known)])[0], INSIDE - 0.05, atol=2e-5, rtol=0)
    known[:, 51:] = 0  # and its right edge 5 mm beside the Gaussians
    nearest = torch.minimum(INSIDE - 0.05, torch.tensor(0.005 - SIZE))
    torch.testing.assert_close(inside_frames(avatar, [seen(avatar, known)])[0], nearest, atol=2e-5, rtol=0)


def test_the_hem_fades_in_the_colours_beside_it(avatar):
    before = avatar.logit_opacity.sigmoid().detach(), avatar.harmonics.detach().clone()
    finish_hem(avatar, torch.ones(len(INSIDE), dtype=torch.bool), [seen(avatar)])
    ramp = ((INSIDE - FADES[0]) / (FADES[1] - FADES[0])).clamp(0, 1)
    expected = before[0] * (3 * ramp**2 - 2 * ramp**3)
    torch.testing.assert_close(avatar.logit_opacity.sigmoid(), expected, atol=2e-3, rtol=0)
    share = ((INSIDE - EVEN[0]) / (EVEN[1] - EVEN[0])).clamp(0, 1)
    share = (3 * share**2 - 2 * share**3)[:, None]
    own = torch.where(INSIDE[:, None] < 0.02, torch.tensor(RED), torch.tensor(WHITE))
    colours = avatar.harmonics[:, 0] * (0.5 / math.sqrt(math.pi)) + 0.5
    torch.testing.assert_close(colours, torch.lerp(torch.tensor(WHITE).expand_as(own), own, share), atol=2e-3, rtol=0)
    assert torch.equal(avatar.harmonics[4:], before[1][4:])


def test_what_is_not_among_them_and_what_has_nothing_beside_it_stays(avatar):
    before = {name: getattr(avatar, name).detach().clone() for name in GAUSSIAN_TENSORS}
    finish_hem(avatar, torch.zeros(len(INSIDE), dtype=torch.bool), [seen(avatar)])
    finish_hem(avatar, torch.ones(len(INSIDE), dtype=torch.bool), [seen(avatar, lower=0.1)])
    finish_hem(avatar, INSIDE < 0.01, [seen(avatar)])
    for name, value in before.items():
        assert torch.equal(getattr(avatar, name), value)


def test_what_lies_further_inside_keeps_its_opacity_to_the_bit(avatar):
    """The head's own, more opaque than a float can say, and what is hidden behind it."""
    with torch.no_grad():
        avatar.logit_opacity[-2:] = torch.tensor([20.0, -20.0])
    before = avatar.logit_opacity.detach().clone()
    finish_hem(avatar, torch.ones(len(INSIDE), dtype=torch.bool), [seen(avatar)])
    assert avatar.logit_opacity[0] < before[0] - 5
    assert torch.equal(avatar.logit_opacity[4:], before[4:])


def test_a_camera_behind_the_body_does_not_see_its_front(avatar):
    """Through the body it has the front inside of its frame, which ends lower there."""
    before = torch.tensor([[0.0, -0.20, 0.1], [0.0, -0.20, -0.1], [0.2, -0.20, 0.0]])  # chest, back, shoulder
    place(avatar, before)
    inside, above = inside_frames(avatar, [seen(avatar, back=True)])
    depth = torch.tensor([1.1, 0.9, 1.0])
    height = END * depth - 0.20 - SIZE
    torch.testing.assert_close(inside[:2], height[:2], atol=2e-5, rtol=0)
    torch.testing.assert_close(above[1:], height[1:], atol=2e-5, rtol=0)
    assert above[0] == -torch.inf
    _, both = inside_frames(avatar, [seen(avatar, back=True), seen(avatar)])
    torch.testing.assert_close(both[0], height[1], atol=2e-5, rtol=0)


def test_the_body_is_cut_where_most_of_it_is_seen(avatar):
    """Frames that end lower, from behind, leave a back that goes on: it is cut where the front ends."""
    heights = torch.linspace(-0.240, -0.150, 91)
    chest = torch.stack((torch.zeros(91), heights, torch.full((91,), 0.1)), 1)
    behind = chest * torch.tensor([1.0, 1.0, -1.0])
    columns = torch.tensor([[0.01 * column, 0.0, 0.0] for column in range(5)])
    place(avatar, torch.cat(((chest[:, None] + columns).flatten(0, 1), behind)))
    opacity = avatar.logit_opacity.sigmoid().detach().clone()
    _, above = inside_frames(avatar, [seen(avatar), seen(avatar, lower=0.05, back=True)])
    finish_hem(avatar, torch.ones(546, dtype=torch.bool), [seen(avatar), seen(avatar, lower=0.05, back=True)])
    ends = (above > AT_END[0]) & (above < AT_END[1])
    rest = torch.cat((heights[:, None].expand(-1, 5).reshape(-1), heights))
    cut = rest[ends].sort().values[round(CUT_QUANTILE * (int(ends.sum()) - 1))]
    share = avatar.logit_opacity.sigmoid().detach() / opacity
    assert float(share[rest < cut + CUT - 2 * SIZE - 0.001].max()) < 1e-3  # front and back alike
    whole = (rest > cut + CUT + SIZE + 0.001) & (rest > -0.9 * END + SIZE + FADES[1] + 0.001)
    torch.testing.assert_close(share[whole], torch.ones(int(whole.sum())), atol=1e-4, rtol=0)
    assert -0.225 < float(cut) < -0.225 + 0.05  # where frames from before end, 0.9 metres away


def test_what_the_cut_leaves_apart_goes(avatar):
    """A shoulder's rest beside the body, above the cut; a sparse back of broad Gaussians hangs together and stays."""
    heights = torch.linspace(-0.240, -0.150, 91)
    chest = torch.stack((torch.zeros(91), heights, torch.full((91,), 0.1)), 1)
    columns = torch.tensor([[0.005 * column, 0.0, 0.0] for column in range(5)])
    rest = torch.stack((torch.full((8,), 0.2), torch.linspace(-0.210, -0.203, 8), torch.zeros(8)), 1)
    sparse = torch.stack((torch.zeros(9), torch.linspace(-0.205, -0.109, 9), torch.full((9,), -0.1)), 1)
    place(avatar, torch.cat(((chest[:, None] + columns).flatten(0, 1), rest, sparse)))
    with torch.no_grad():
        avatar.log_scale[-9:] += math.log(3.0)  # 12 mm apart, of 6 mm
    opacity = avatar.logit_opacity.sigmoid().detach().clone()
    finish_hem(avatar, torch.ones(len(opacity), dtype=torch.bool), [seen(avatar), seen(avatar, back=True)])
    share = avatar.logit_opacity.sigmoid().detach() / opacity
    assert float(share[455:463].max()) < 1 / 255  # which is not drawn
    assert float(share[-8:].min()) > 0.99


def test_what_no_camera_faces_keeps_its_colours(avatar):
    """Frontal views: the back of the head lies far inside of their frames."""
    heights = torch.linspace(-0.240, -0.150, 91)
    chest = torch.stack((torch.zeros(91), heights, torch.full((91,), 0.1)), 1)
    back = torch.stack((torch.linspace(-0.02, 0.02, 9), torch.zeros(9), torch.full((9,), -0.09)), 1)
    place(avatar, torch.cat((chest, back)))
    before = avatar.harmonics.detach().clone(), avatar.logit_opacity.detach().clone()
    finish_hem(avatar, torch.ones(100, dtype=torch.bool), [seen(avatar)])
    assert not torch.equal(avatar.harmonics[:91], before[0][:91]) or not torch.equal(avatar.logit_opacity, before[1])
    assert torch.equal(avatar.harmonics[91:], before[0][91:])
    assert torch.equal(avatar.logit_opacity[91:], before[1][91:])


def test_the_cut_leans_as_the_frames_do():
    """Three of four ends lie on or below a leaning plane: the quantile's own."""
    generator = torch.Generator().manual_seed(0)
    flat = torch.rand(400, 2, generator=generator) * torch.tensor([0.4, 0.2]) - torch.tensor([0.2, 0.1])
    plane = -0.2 + 0.1 * flat[:, 0] - 0.05 * flat[:, 1]
    off = torch.tensor([-0.004, 0.0, 0.0, 0.004]).repeat(100)
    ends = torch.stack((flat[:, 0], plane + off, flat[:, 1]), 1)
    found = Plane.over(ends)
    assert found.slopes.tolist() == pytest.approx([0.1, -0.05], abs=0.02)
    below = float((found.above(ends) <= 1e-5).float().mean())
    assert 0.7 < below < 0.8
