"""Finished lips: as even as a photo can tell, alike where none shows them, dark where they part."""

import copy

import pytest
import torch
from test_hidden import avatar  # noqa: F401

from mvp4d.core.heads.model import INTERIOR
from mvp4d_export.harmonics import SH_0, colour_of_sh, sh_of_colour
from mvp4d_export.initialise import nearest
from mvp4d_export.lips import INNER_SHADE, INWARD, finish_lips, on_lips, seed_lips
from mvp4d_export.visibility import gaussians_of

PINK, GREEN = (0.8, 0.45, 0.45), (0.0, 1.0, 0.0)


@pytest.fixture(scope="module")
def face(avatar):  # noqa: F811
    """The built-in head with lips in one colour, and where they lie at rest, [G, 3]."""
    own = copy.deepcopy(avatar)
    seed_lips(own)
    with torch.no_grad():
        own.harmonics[on_lips(own), 0] = sh_of_colour(torch.tensor(PINK))
        return own, own.splats(own.gather(own.rig.template)).means


def colours(own):
    return colour_of_sh(own.harmonics[:, 0]).detach()


def finish(own, hidden, pitch=0.0005):
    finish_lips(own, hidden, torch.full((own.gaussian_count,), pitch))


def from_the_line(own, places):
    """[G] metres, in sight of a camera before the face, to the edges that lips share with the mouth's inside."""
    rig = own.rig
    named = [any(word in name for word in INTERIOR) for name in rig.part_names]
    inside = set(rig.faces[torch.tensor(named)[rig.face_parts]].flatten().tolist())
    edges = {
        tuple(sorted(pair))
        for a, b, c in rig.faces[rig.face_parts == rig.part_names.index("lips")].tolist()
        for pair in ((a, b), (b, c), (c, a))
        if set(pair) <= inside
    }
    assert len(edges) > 20
    a, b = (rig.template[torch.tensor(end), :2] for end in zip(*edges))
    along = ((places[:, None, :2] - a) * (b - a)).sum(-1) / (b - a).square().sum(-1).clamp(min=1e-12)
    return (places[:, None, :2] - a - along.clamp(0, 1)[..., None] * (b - a)).norm(dim=-1).amin(1)


def test_lips_are_darker_where_they_part_and_nothing_else_outside_changes(face):
    own, places = copy.deepcopy(face[0]), face[1]
    lips, before = on_lips(own), face[0].harmonics
    finish(own, torch.zeros_like(lips))
    others = ~lips & ~gaussians_of(own, ("mouth_inside",))
    torch.testing.assert_close(own.harmonics[others], before[others], rtol=0, atol=0)
    shade, away = colours(own)[lips] / torch.tensor(PINK), from_the_line(own, places)[lips]
    torch.testing.assert_close(shade, shade[:, :1].expand(-1, 3), rtol=0, atol=1e-3)  # the hue stays
    assert float(shade[away > 0.0013].min()) > 0.995
    torch.testing.assert_close(shade[:, 0], 0.72 + 0.28 * (away / 0.001).clamp(max=1) ** 2, rtol=0, atol=0.05)


def test_what_no_photo_shows_looks_like_the_rest(face):
    own, places = copy.deepcopy(face[0]), face[1]
    lips = on_lips(own)
    hidden = lips & (places[:, 0] > 0.005)
    with torch.no_grad():
        own.harmonics[hidden, 0] = sh_of_colour(torch.tensor(GREEN))
    finish(own, hidden)
    off = from_the_line(own, places) > 0.0013
    torch.testing.assert_close(
        colours(own)[lips & off], torch.tensor(PINK).expand(int((lips & off).sum()), 3), rtol=0, atol=0.01
    )


@pytest.mark.parametrize(("pitch", "left"), [(0.0001, 1.0), (0.003, 0.35)])
def test_what_a_photo_cannot_tell_is_even(face, pitch, left):
    """Stripes of 3 mm stay where a pixel is much finer, and go where it is as wide."""
    own, places = copy.deepcopy(face[0]), face[1]
    lips, off = on_lips(own), from_the_line(own, places) > 0.0013
    stripes = 0.1 * (2 * torch.pi * places[:, 0] / 0.006).cos()
    with torch.no_grad():
        own.harmonics[lips, 0] += stripes[lips, None] / SH_0
    finish(own, torch.zeros_like(lips), pitch)
    rest = (colours(own) - torch.tensor(PINK)).mean(1)[lips & off]
    share = float(rest @ stripes[lips & off] / stripes[lips & off].square().sum())
    assert share > 0.9 * left if left == 1 else share < left


def test_the_rim_of_what_a_photo_shows_tells_nothing(face):
    """A few dark ones among those that a wide smile hides; where many are shown, dark ones stay."""
    lips, places = on_lips(face[0]), face[1]
    corner = lips & (places[:, 0].abs() > 0.5 * places[lips, 0].abs().max())
    few = corner & (places[:, 0].abs() > 0.75 * places[lips, 0].abs().max()) & (torch.arange(len(lips)) % 8 == 0)
    assert few.sum() > 10
    found = []
    for hidden in (corner & ~few, lips & False):
        own = copy.deepcopy(face[0])
        with torch.no_grad():
            own.harmonics[few, 0] = sh_of_colour(torch.tensor([0.1, 0.05, 0.05]))
        finish(own, hidden, 0.0001)
        found.append(float(colours(own)[few].mean()))
    assert found[0] > 0.35 and found[1] < 0.2


def test_a_head_without_lips_stays_as_it_is(face):
    own = copy.deepcopy(face[0])
    own.rig.part_names = tuple(name.replace("lips", "skin") for name in own.rig.part_names)
    before = own.harmonics.clone()
    finish(own, torch.zeros(own.gaussian_count, dtype=torch.bool))
    torch.testing.assert_close(own.harmonics, before, rtol=0, atol=0)


def test_the_back_of_lips_passes_from_their_colour_to_the_mouths(face):
    own, places = copy.deepcopy(face[0]), face[1]
    lips, inner = on_lips(own), gaussians_of(own, ("mouth_inside",))
    dark = torch.tensor([0.2, 0.08, 0.08])
    with torch.no_grad():
        own.harmonics[inner, 0] = sh_of_colour(dark)
    finish(own, torch.zeros_like(lips))
    away = nearest(places[inner].detach(), places[lips].detach())[0]
    found, near, far = colours(own)[inner], away < 0.0005, away > INWARD
    assert near.sum() > 5 and far.sum() > 100
    lip = INNER_SHADE * torch.tensor(PINK)
    assert (found[near] < 1.02 * lip).all() and (found[near] > 0.65 * lip).all()  # shaded where lips touch
    torch.testing.assert_close(found[far], dark.expand_as(found[far]), rtol=0, atol=1e-6)
    between = found[(away > 0.002) & (away < 0.004)].mean(0)
    assert (between < found[near].mean(0)).all() and (between > dark).all()
    assert torch.isfinite(own.harmonics).all()
