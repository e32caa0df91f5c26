"""Closed lids have the colours of the skin around them, whatever photos show of open eyes, lashes and brows."""

import copy

import pytest
import torch
from test_hidden import SIDE, avatar, camera, drawn, of_parts, pose_of  # noqa: F401

from mvp4d.core.heads.model import EYES, INTERIOR
from mvp4d_export.hidden import lid_triangles
from mvp4d_export.initialise import SH_0
from mvp4d_export.lids import shade_lids
from mvp4d_export.photos import Picture
from mvp4d_export.visibility import gaussians_of, parts_named, triangle_parts

LEFT, RIGHT, BROW, GREEN = (0.7, 0.5, 0.4), (0.4, 0.3, 0.25), (0.05, 0.04, 0.04), (0.0, 1.0, 0.0)
EYE = ("sclera",)


@pytest.fixture(scope="module")
def face(avatar):  # noqa: F811
    """A face in two colours, one to each side, dark 8 mm above the eyes, with green lids; and which those are, [G]."""
    own = copy.deepcopy(avatar)
    kept = ~lid_triangles(own) & ~parts_named(own.rig.part_names, INTERIOR)[triangle_parts(own)]
    skin = ~gaussians_of(own, (*INTERIOR, *EYES))
    lids = skin & (torch.arange(own.gaussian_count) >= int(kept.sum()))
    with torch.no_grad():
        means = own.splats(own.gather(own.rig.template)).means
        colours = torch.where(means[:, :1] > 0, torch.tensor(LEFT), torch.tensor(RIGHT))
        above = means[:, 1] - means[gaussians_of(own, EYE), 1].max()
        colours[(above > 0.008) & (above < 0.02)] = torch.tensor(BROW)
        colours[lids] = torch.tensor(GREEN)
        own.harmonics[skin, 0] = ((colours - 0.5) / SH_0)[skin]
    return own, lids


def test_lids_take_the_colour_of_the_skin_beside_each_eye(face):
    """Of either side, none of the brow; a quarter of them, along their edge, are in the lashes' shade."""
    own, lids = copy.deepcopy(face[0]), face[1]
    assert int(lids.sum()) > 500
    viewmat, K = camera(own, EYE)
    picture = Picture(torch.zeros(SIDE, SIDE, 3), torch.ones(SIDE, SIDE), torch.ones(SIDE, SIDE), K)
    others = own.harmonics[~lids].clone()
    shade_lids(own, lids, picture, pose_of(own), viewmat)
    torch.testing.assert_close(own.harmonics[~lids], others, rtol=0, atol=0)
    means = own.splats(own.gather(own.rig.template)).means
    for side, colour in ((means[:, 0] > 0, LEFT), (means[:, 0] <= 0, RIGHT)):
        rgb = own.harmonics[lids & side, 0] * SH_0 + 0.5
        shade = (rgb / torch.tensor(colour)).mean(1, keepdim=True)
        torch.testing.assert_close(rgb, shade * torch.tensor(colour), rtol=0, atol=0.02)  # the hue is the skin's
        plain = (shade > 0.97).float().mean()
        assert float(shade.max()) < 1.02 and float(shade.min()) > 0.45
        assert 0.4 < float(plain) < 0.95


def test_a_shut_eye_looks_like_skin(face):
    """From before the eyes: green before, then skin but for a line of lashes."""
    own, lids = copy.deepcopy(face[0]), face[1]
    shut = pose_of(own, eyeBlinkLeft=1.0, eyeBlinkRight=1.0)
    before, _ = drawn(own, shut, EYE)
    assert int((before[..., 1] > 0.9).sum()) > 200
    viewmat, K = camera(own, EYE)
    picture = Picture(torch.zeros(SIDE, SIDE, 3), torch.ones(SIDE, SIDE), torch.ones(SIDE, SIDE), K)
    shade_lids(own, lids, picture, pose_of(own), viewmat)
    after, _ = drawn(own, shut, EYE)
    patch = before[..., 1] > 0.9
    off = torch.stack([(after - torch.tensor(colour)).abs().amax(-1) for colour in (LEFT, RIGHT)]).amin(0)
    assert float((off[patch] < 0.03).float().mean()) > 0.5


def test_a_head_without_lids_stays_as_it_is(avatar):  # noqa: F811
    own = copy.deepcopy(avatar)
    before = own.harmonics.clone()
    viewmat, K = camera(own, EYE)
    picture = Picture(torch.zeros(SIDE, SIDE, 3), torch.ones(SIDE, SIDE), torch.ones(SIDE, SIDE), K)
    shade_lids(own, torch.zeros(own.gaussian_count, dtype=torch.bool), picture, pose_of(own), viewmat)
    torch.testing.assert_close(own.harmonics, before, rtol=0, atol=0)
