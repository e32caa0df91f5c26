"""Corners of lips beside an open mouth: the middle's hue, in the light there; dots beside them go."""

import copy

import pytest
import torch
from test_hidden import avatar  # noqa: F401

from mvp4d_export.harmonics import colour_of_sh, sh_of_colour
from mvp4d_export.initialise import nearest
from mvp4d_export.lip_corners import CORNERS, OWN, finish_corners, mixture, shows_inside
from mvp4d_export.lips import around_lips, on_lips, seed_lips

SKIN, LIP, MUD, TOOTH = (0.8, 0.62, 0.5), (0.75, 0.45, 0.42), (0.4, 0.38, 0.37), (0.98, 0.96, 0.9)


@pytest.fixture(scope="module")
def smiling(avatar):  # noqa: F811
    """A head with skin and lips of one colour each but for muddy corners, and teeth beside one; where these are."""
    own = copy.deepcopy(avatar)
    seed_lips(own)
    with torch.no_grad():
        lips, places = on_lips(own), own.splats(own.gather(own.rig.template)).means
        half = places[lips, 0].abs().max()
        corner = lips & (places[:, 0].abs() > 0.8 * half)
        tooth = around_lips(own) & ~lips & (places[:, 0] > 0.9 * half)
        own.harmonics[:, 0] = sh_of_colour(torch.tensor(SKIN))
        own.harmonics[:, 1:] = 0
        own.harmonics[lips, 0] = sh_of_colour(torch.tensor(LIP))
        own.harmonics[corner, 0] = sh_of_colour(torch.tensor(MUD))
        own.harmonics[tooth, 0] = sh_of_colour(torch.tensor(TOOTH))
    assert corner.sum() > 20 and tooth.sum() > 3
    return own, corner, tooth


def colours(own):
    return colour_of_sh(own.harmonics[:, 0]).detach()


def test_corners_take_the_hue_of_the_middle_and_dots_the_colour_of_the_skin(smiling):
    own, corner, tooth = copy.deepcopy(smiling[0]), *smiling[1:]
    finish_corners(own, torch.ones(len(corner)))
    lip, mud, skin = torch.tensor(LIP), torch.tensor(MUD), torch.tensor(SKIN)
    # Under one light the middle's brightness and the corner's own, half each, in the middle's hue.
    expected = lip / lip.mean() * (OWN * mud.mean() + (1 - OWN) * lip.mean())
    found = colours(own)[corner]
    torch.testing.assert_close(found, expected.expand_as(found), rtol=0, atol=0.03)
    found = colours(own)[tooth]
    torch.testing.assert_close(found, skin.expand_as(found), rtol=0, atol=0.03)


def test_the_middle_and_all_that_an_open_mouth_does_not_tell_stay(smiling):
    before, corner, _ = smiling
    own = copy.deepcopy(before)
    finish_corners(own, torch.ones(len(corner)))
    places = own.splats(own.gather(own.rig.template)).means.detach()
    lips = on_lips(own)
    middle = lips & (places[:, 0].abs() < CORNERS[0] * 0.98 * places[lips, 0].abs().max())
    away = nearest(places, places[lips])[0] > 0.01
    stays = middle | away
    assert middle.sum() > 100
    torch.testing.assert_close(own.harmonics[stays], before.harmonics[stays], rtol=0, atol=0)

    own = copy.deepcopy(before)
    finish_corners(own, torch.zeros(len(corner)))
    torch.testing.assert_close(own.harmonics, before.harmonics, rtol=0, atol=0)
    left = places[:, 0] < 0
    finish_corners(own, left.float())
    torch.testing.assert_close(own.harmonics[~left], before.harmonics[~left], rtol=0, atol=0)
    assert (colours(own)[corner & left] - colours(before)[corner & left]).abs().max() > 0.05


@pytest.mark.parametrize(("rows", "shows"), [(0, False), (2, False), (8, True)])
def test_a_mouth_is_open_from_three_millimetres_on(rows, shows):
    mouth = torch.zeros(64, 64)
    mouth[30 : 30 + rows, 20:44] = 1
    assert shows_inside(mouth, 0.001) == shows
    assert not shows_inside(mouth, 0.0001)


def test_fine_photos_mix_less():
    opened, pitch = torch.tensor([True, True, True, False]), torch.tensor([0.0005, 0.001, 0.003, 0.003])
    torch.testing.assert_close(mixture(opened, pitch), torch.tensor([0.5, 1.0, 1.0, 0.0]))


def test_a_head_without_lips_stays_as_it_is(smiling):
    own = copy.deepcopy(smiling[0])
    own.rig.part_names = tuple(name.replace("lips", "skin") for name in own.rig.part_names)
    finish_corners(own, torch.ones(own.gaussian_count))
    torch.testing.assert_close(own.harmonics, smiling[0].harmonics, rtol=0, atol=0)
