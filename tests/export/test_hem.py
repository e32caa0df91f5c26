"""The body's end at the pictures' frames fades in the colours beside it; what lies further inside stays as it is."""

import math

import pytest
import torch

from mvp4d.core.heads import load_head
from mvp4d_export.avatar import GAUSSIAN_TENSORS, Avatar, AvatarConfig
from mvp4d_export.hem import EVEN, FADES, Edges, finish_hem, inside_frames
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
    places = torch.stack((torch.zeros(len(INSIDE)), INSIDE + SIZE - END, torch.zeros(len(INSIDE))), 1)
    colours = torch.where(INSIDE[:, None] < 0.02, torch.tensor(RED), torch.tensor(WHITE))
    binding, flat = torch.zeros(len(INSIDE), dtype=torch.long), torch.zeros_like(places)
    tensors = surface_tensors(found, found.rig.template, binding, places, flat, colours, SIZE / WIDTH)
    found.set_gaussians(binding, {name: tensors[name] for name in GAUSSIAN_TENSORS})
    return found


def seen(avatar: Avatar, known: torch.Tensor | None = None, lower: float = 0.0, behind: bool = False) -> Edges:
    """Edges of a photo from a metre before the head at rest, `lower` metres below it, or from `behind` the camera."""
    flat = torch.zeros(1, 3)
    pose = Pose(torch.zeros(1, len(avatar.rig.expression_basis)), flat, flat, flat, flat, torch.zeros(1, 2, 3))
    viewmat = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0]))  # OpenCV's axes: y down, z away
    viewmat[1, 3], viewmat[2, 3] = -lower, -1.0 if behind else 1.0
    K = torch.tensor([[FOCAL, 0, SIDE / 2], [0, FOCAL, SIDE / 2], [0, 0, 1]])
    known = torch.ones(SIDE, SIDE) if known is None else known
    return Edges.of_photo(Picture(torch.zeros(SIDE, SIDE, 3), torch.ones(SIDE, SIDE), known, K), pose, viewmat)


def test_how_far_gaussians_reach_into_the_frame_that_shows_them_best(avatar):
    torch.testing.assert_close(inside_frames(avatar, [seen(avatar)]), INSIDE, atol=2e-5, rtol=0)
    both = [seen(avatar), seen(avatar, lower=0.1), seen(avatar, behind=True)]
    torch.testing.assert_close(inside_frames(avatar, both), INSIDE + 0.1, atol=2e-5, rtol=0)


def test_a_photo_ends_where_its_pixels_end(avatar):
    known = torch.ones(SIDE, SIDE)
    known[90:] = 0  # a crop wider than the photo: its end lies 5 cm higher
    torch.testing.assert_close(inside_frames(avatar, [seen(avatar, known)]), INSIDE - 0.05, atol=2e-5, rtol=0)
    known[:, 51:] = 0  # and its right edge 5 mm beside the Gaussians
    nearest = torch.minimum(INSIDE - 0.05, torch.tensor(0.005 - SIZE))
    torch.testing.assert_close(inside_frames(avatar, [seen(avatar, known)]), nearest, atol=2e-5, rtol=0)


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
