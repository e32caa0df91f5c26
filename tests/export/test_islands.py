"""Dots that are seen apart from the person fade; what touches it, what is large and what lies on the rig stays."""

import pytest
import torch
from export_world import without_hull

from mvp4d_export.densify import local_scale
from mvp4d_export.islands import FLAP, PEA, RIM, fade_islands, islands
from mvp4d_export.photos import Picture

SIDE = 96


def test_islands_are_the_small_pieces_and_their_rims():
    alpha = torch.zeros(80, 80)
    alpha[20:60, 20:60] = 1  # the person
    alpha[8:12, 30:34] = 0.9  # 16 pixels
    alpha[65:75, 30:40] = 0.9  # 100
    alpha[60:62, 22:24] = 0.9  # touches
    alpha[30:34, 68:72] = 0.5  # faint
    expected = torch.zeros(80, 80, dtype=torch.bool)
    rows, columns = torch.meshgrid(torch.arange(80), torch.arange(80), indexing="ij")
    off = [(low - at).clamp(min=0) + (at - high).clamp(min=0) for at, low, high in ((rows, 8, 11), (columns, 30, 33))]
    expected |= off[0] + off[1] <= RIM
    assert torch.equal(islands(alpha, 20), expected)
    assert islands(alpha, 1000).sum() > expected.sum()
    assert not islands(torch.zeros(8, 8), 10).any()


@pytest.mark.parametrize(
    ("away", "radius", "most", "fades"),
    [(0.012, 0.002, PEA, True), (0.001, 0.002, PEA, False), (0.03, 0.01, PEA, False), (0.03, 0.01, FLAP, True)],
)
def test_a_dot_beside_the_head_fades_where_a_view_shows_the_gap(away, radius, most, fades, tmp_path):
    data, avatar = without_hull(tmp_path / "capture", SIDE)
    with torch.no_grad():
        avatar.logit_opacity.fill_(5.0)
        splats = avatar.splats(avatar.gather(avatar.rig.template))
        dot = splats.means[:, 1].argmax()
        scale = 1 / local_scale(avatar, splats)[dot]
        avatar.position[dot, 1] += away * scale  # off the surface, by metres
        avatar.log_scale[dot] = torch.log(radius / 2 * scale)
    pictures, masks, viewmats, Ks = data.batch([0], 0)
    photo = Picture(pictures[0], masks[0], torch.ones(SIDE, SIDE), Ks[0])
    before = avatar.logit_opacity.detach().clone()
    fade_islands(avatar, torch.zeros(len(before), dtype=torch.bool), photo, data.pose[:1], viewmats[0], most)
    torch.testing.assert_close(avatar.logit_opacity, before, rtol=0, atol=0)  # on the rig
    fade_islands(avatar, torch.ones(len(before), dtype=torch.bool), photo, data.pose[:1], viewmats[0], most)
    faded = avatar.logit_opacity < before - 1
    assert bool(faded[dot]) == fades and int(faded.sum()) == int(fades)
