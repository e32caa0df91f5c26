"""Hair before skin ends where its colour does, and comes off the skin no faster than it goes from there."""

import dataclasses

import pytest
import torch

from mvp4d_export.hair_edge import MEETS, SLOPE, _met, to_the_edge
from mvp4d_export.photos import Picture

SIDE, CELL, FOCAL, BORDER = 96, 8, 200.0, 43  # pixels; hair is left of BORDER, which no square of CELL pixels ends at
SKIN, HAIR = torch.tensor([0.8, 0.6, 0.5]), torch.tensor([0.2, 0.14, 0.1])
RIG, BEFORE = 1.0, 0.05  # metres


def picture(hair: torch.Tensor) -> Picture:
    rgb = SKIN.expand(SIDE, SIDE, 3).clone()
    rgb[:, :BORDER] = hair
    ones = torch.ones(SIDE, SIDE)
    return Picture(rgb, ones, ones, torch.tensor([[FOCAL, 0, SIDE / 2], [0, FOCAL, SIDE / 2], [0, 0, 1]]))


def guess(end: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Depth and what is off the rig, by squares, left of a column."""
    off = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    off[:, :end] = True
    return torch.where(off, RIG - BEFORE, RIG), off


@pytest.mark.parametrize("end", [40, 48])  # squares that leave hair on the rig, and such that take skin with them
def test_pixels_go_with_what_they_look_like(end):
    depth, off = guess(end)
    rig = torch.full_like(depth, RIG)
    depth, off = to_the_edge(depth, off, rig, torch.ones_like(off), picture(HAIR), SKIN, CELL)
    assert off[:, :BORDER].all() and not off[:, BORDER:].any()
    assert (depth[:, BORDER:] == RIG).all()
    away = BORDER - torch.arange(BORDER)  # pixels from the middle of one to the first of skin
    expected = (MEETS + SLOPE * away * RIG / FOCAL).clamp(max=BEFORE)
    pixel = SLOPE * RIG / FOCAL  # colours are means of three
    torch.testing.assert_close(RIG - depth[SIDE // 2, :BORDER], expected, atol=1.01 * pixel, rtol=0)


def test_hair_stays_where_no_skin_is_left_to_measure_from():
    depth, off = guess(48)
    nowhere = torch.zeros_like(off)
    assert torch.equal(_met(depth, off, torch.full_like(depth, RIG), nowhere, picture(HAIR)), depth)


def test_what_may_not_be_covered_stays_on_the_rig():
    depth, off = guess(40)
    covered = torch.ones_like(off)
    covered[:, 40:] = False  # an eye
    _, now = to_the_edge(depth, off, torch.full_like(depth, RIG), covered, picture(HAIR), SKIN, CELL)
    assert torch.equal(now, off)


def test_skin_beyond_the_outline_of_the_rig_is_unknown():
    depth, off = guess(48)
    rig = torch.full_like(depth, RIG)
    rig[:, :48] = torch.inf
    depth, off = to_the_edge(depth, off, rig, torch.isfinite(rig), picture(HAIR), SKIN, CELL)
    assert off[:, :BORDER].all() and not off[:, BORDER:].any()
    assert torch.isinf(depth[:, BORDER:48]).all() and (depth[:, :BORDER] == RIG - BEFORE).all()


def test_hair_of_the_colour_of_skin_ends_with_the_squares():
    depth, off = guess(48)
    shown = picture(SKIN * 0.9)
    shown = dataclasses.replace(shown, rgb=shown.rgb.clamp(0, 1))
    _, now = to_the_edge(depth, off, torch.full_like(depth, RIG), torch.ones_like(off), shown, SKIN, CELL)
    assert torch.equal(now, off)
