"""Eyes that no photo shows open are the head's own: dark pupil, iris, white; the rest stays as it was."""

import copy

import pytest
import torch
from test_hidden import avatar, drawn, of_parts, pose_of  # noqa: F401

from mvp4d.core.heads.model import EYES
from mvp4d_export.avatar import GAUSSIAN_TENSORS
from mvp4d_export.harmonics import sh_of_colour
from mvp4d_export.unseen_eyes import lay_eye, unseen_eyes
from mvp4d_export.visibility import gaussians_of

SKIN = (0.7, 0.5, 0.4)
SHUT = (0.3, 0.2, 0.15)


@pytest.fixture(scope="module")
def blind(avatar):  # noqa: F811
    """A face in skin's colour whose eyes are dark skin, as views that are made from shut eyes have them."""
    own = copy.deepcopy(avatar)
    eyes = gaussians_of(own, EYES)
    with torch.no_grad():
        own.harmonics.zero_()
        own.harmonics[:, 0] = sh_of_colour(torch.where(eyes[:, None], torch.tensor(SHUT), torch.tensor(SKIN)))
    return own


def test_only_eyes_that_no_photo_shows_are_unseen(blind):
    """None where a photo shows one of them, both where all is hidden; white alone tells no iris."""
    eyes, iris = gaussians_of(blind, EYES), gaussians_of(blind, ("iris", "pupil"))
    left = blind.splats(blind.gather(blind.rig.template)).means[:, 0] >= 0
    seen = torch.ones(blind.gaussian_count)
    assert unseen_eyes(blind, seen) == []
    assert unseen_eyes(blind, torch.where(left, 1.0, 0.0)) == []
    glimpse = torch.zeros_like(seen)
    glimpse[iris.nonzero()[0]] = 1  # a narrowed eye: its colour is known
    assert unseen_eyes(blind, glimpse) == []
    for shown in (torch.zeros_like(seen), torch.where(iris, 0.0, 1.0)):
        found = unseen_eyes(blind, shown)
        assert [int((eye & ~side).sum()) for eye, side in zip(found, (left, ~left), strict=True)] == [0, 0]
        assert torch.equal(found[0] | found[1], eyes)


@pytest.mark.parametrize("tells_pupil", [True, False])
def test_an_unseen_eye_gets_pupil_iris_and_white(blind, tells_pupil):
    """By the part that the rig shows in each pixel from before it; white is greyer than skin. Nothing else moves. Heads
    need not tell pupils from irises (ICT)."""
    own = copy.deepcopy(blind)
    names = own.rig.part_names
    if not tells_pupil:
        own.rig.part_names = tuple(name.replace("pupil", "iris") for name in names)
    for eye in unseen_eyes(own, torch.zeros(own.gaussian_count)):
        lay_eye(own, eye)
    own.rig.part_names = names
    others = ~gaussians_of(blind, EYES)
    assert torch.equal(own.binding[others], blind.binding[others])
    for name in GAUSSIAN_TENSORS:
        assert torch.equal(getattr(own, name)[others], getattr(blind, name)[others])

    picture, part = drawn(own, pose_of(own), ("pupil",))

    def colour(word):
        pixels = picture[of_parts(own, part, (word,))]
        assert len(pixels) > 20
        return pixels.median(0).values

    pupil, iris, white = colour("pupil"), colour("iris"), colour("sclera")
    assert float(pupil.mean()) < float(iris.mean()) < 0.6 * float(white.mean())
    assert float(white.mean()) > 0.45
    skin = torch.tensor(SKIN)
    saturation = (white.amax() - white.amin()) / white.amax()
    assert float(saturation) < 0.6 * float((skin.amax() - skin.amin()) / skin.amax())
