"""Eyes that a photo shows: its colours, whole under the lids, turned to where its irises are."""

import copy
import dataclasses
from types import SimpleNamespace

import pytest
import torch
from test_hidden import SIDE, avatar, camera, drawn, of_parts, pose_of  # noqa: F401

from mvp4d.core.heads.model import EYES
from mvp4d_export.avatar import GAUSSIAN_TENSORS
from mvp4d_export.mouth_mask import grown
from mvp4d_export.photo_eyes import SHADOW, seed_eyes
from mvp4d_export.photo_fit import LIMITS
from mvp4d_export.photos import Picture
from mvp4d_export.visibility import gaussians_of, rig_surface

COLOURS = {
    "pupil": (0.05, 0.04, 0.04),
    "iris": (0.1, 0.35, 0.6),
    "sclera": (0.8, 0.77, 0.74),
    "lash": (0.1, 0.08, 0.07),
}
SKIN = (0.78, 0.6, 0.5)


class Fit:
    """What `seed_eyes` wants of a fit: one photo, drawn with the rig's parts in their colours in a pose of its own."""

    def __init__(self, avatar, pose, gaze=(0.0, 0.0), before=None):  # noqa: F811
        self.avatar, self.pose = copy.deepcopy(avatar), pose
        self.viewmat, K = camera(avatar, EYES)
        turned = dataclasses.replace(pose, eyes=pose.eyes + torch.tensor([*gaze, 0.0]))
        face = rig_surface(avatar, turned, self.viewmat, K, SIDE).face
        part = torch.where(face >= 0, avatar.rig.face_parts[face.clamp(min=0)], -1)
        rgb = torch.tensor(SKIN).repeat(SIDE, SIDE, 1)
        for word, colour in COLOURS.items():
            rgb[of_parts(avatar, part, (word,))] = torch.tensor(colour)
        full = torch.ones(SIDE, SIDE)
        off = torch.zeros(SIDE, SIDE, dtype=torch.bool) if before is None else before
        self.photos = SimpleNamespace(pictures=[Picture(rgb, full, full, K)], reference=0)
        self.depths = [SimpleNamespace(off=off)]
        self.free = {"eyes": torch.nn.Parameter(torch.zeros(1, 2, 3))}

    def view(self, index):
        moved = LIMITS["eyes"] * torch.tanh(self.free["eyes"].detach()[index])
        return dataclasses.replace(self.pose, eyes=self.pose.eyes + moved), self.viewmat


def shares(fit, pose):
    """Of the pixels that show some parts, a pixel or two off their edges: how many have about their colour."""
    picture, part = drawn(fit.avatar, pose, EYES)
    found = {}
    for word in ("pupil", "iris", "sclera"):
        own = of_parts(fit.avatar, part, (word,))
        own = own & ~grown(~own, 1 if word == "pupil" else 2)
        assert int(own.sum()) > 15
        pixels, colour = picture[own], torch.tensor(COLOURS[word])
        if word == "sclera":  # in the lids' shadow or not
            pixels = pixels / (pixels.mean(1, keepdim=True) / colour.mean()).clamp(SHADOW - 0.05, 1)
        found[word] = float(((pixels - colour).abs().amax(1) < 0.12).float().mean())
    return found


def test_eyes_have_the_photos_colours_and_are_whole_under_the_lids(avatar):  # noqa: F811
    """Narrowed in the photo, open and wide; the pupil's upper edge and a third of the irises are hidden there."""
    narrow = pose_of(avatar, eyeBlinkLeft=0.45, eyeBlinkRight=0.45)
    fit = Fit(avatar, narrow)
    blue = gaussians_of(fit.avatar, EYES)
    others = [getattr(fit.avatar, name)[~blue].clone() for name in GAUSSIAN_TENSORS]
    count = seed_eyes(fit, torch.tensor(SKIN))
    own = gaussians_of(fit.avatar, EYES)
    assert count == int(own.sum()) > 2000 and own[-count:].all()
    for before, name in zip(others, GAUSSIAN_TENSORS, strict=True):
        assert torch.equal(getattr(fit.avatar, name)[:-count], before)  # nothing else moves
    for pose in (pose_of(avatar), pose_of(avatar, eyeWideLeft=1.0, eyeWideRight=1.0)):
        found = shares(fit, pose)
        assert found["iris"] > 0.9 and found["sclera"] > 0.9 and found["pupil"] > 0.6, found


@pytest.mark.parametrize("gaze", [(0.0, 0.1), (-0.06, -0.08)])
def test_a_photos_gaze_is_turned_to_its_irises(avatar, gaze):  # noqa: F811
    """The fitted head looks ahead: 1 to 2 pixels of half a millimetre beside the photo's."""
    fit = Fit(avatar, pose_of(avatar), gaze)
    seed_eyes(fit, torch.tensor(SKIN))
    found = LIMITS["eyes"] * torch.tanh(fit.free["eyes"].detach()[0])
    assert (found[:, :2] - torch.tensor(gaze)).abs().max() < 0.03  # radians, 0.3 mm; a pixel is 0.5
    assert shares(fit, pose_of(avatar))["iris"] > 0.9


def test_lashes_over_the_white_are_none_of_it(avatar):  # noqa: F811
    fit = Fit(avatar, pose_of(avatar))
    part = drawn(avatar, pose_of(avatar), EYES)[1]
    white = of_parts(avatar, part, ("sclera",))
    edge = white & grown(part == -1, 0) | (white & grown(of_parts(avatar, part, ("skin", "lash", "lining")), 2))
    fit.photos.pictures[0].rgb[edge] = torch.tensor(COLOURS["lash"])
    seed_eyes(fit, torch.tensor(SKIN))
    assert shares(fit, pose_of(avatar))["sclera"] > 0.9


def test_none_is_laid_of_eyes_that_no_photo_shows(avatar):  # noqa: F811
    """Shut, behind hair, or of a head that does not tell irises from whites. One alone where one is seen."""
    count = avatar.gaussian_count
    shut = Fit(avatar, pose_of(avatar, eyeBlinkLeft=1.0, eyeBlinkRight=1.0))
    hidden = Fit(avatar, pose_of(avatar), before=torch.ones(SIDE, SIDE, dtype=torch.bool))
    plain = Fit(avatar, pose_of(avatar))
    plain.avatar.rig.part_names = tuple(
        name.replace("iris", "sclera").replace("pupil", "sclera") for name in avatar.rig.part_names
    )
    for fit in (shut, hidden, plain):
        assert seed_eyes(fit, torch.tensor(SKIN)) == 0 and fit.avatar.gaussian_count == count
    half = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    half[:, SIDE // 2 :] = True  # of the picture's right, its left eye
    fit = Fit(avatar, pose_of(avatar), before=half)
    laid = seed_eyes(fit, torch.tensor(SKIN))
    places = fit.avatar.splats(fit.avatar.gather(fit.avatar.rig.template)).means
    assert laid > 1000 and (places[-laid:, 0] < 0).all()


def test_a_gaze_that_no_white_tells_stays(avatar):  # noqa: F811
    """Of eyes that are so narrow, or so shaded, that the photo has nothing but irises there."""
    part = drawn(avatar, pose_of(avatar), EYES)[1]
    fit = Fit(avatar, pose_of(avatar), before=~of_parts(avatar, part, ("iris",)))
    assert seed_eyes(fit, torch.tensor(SKIN)) > 2000
    assert not fit.free["eyes"].any()


def test_an_eye_that_does_not_turn_and_a_head_with_one_eye_are_laid_too(avatar):  # noqa: F811
    fit = Fit(avatar, pose_of(avatar), (0.0, 0.1))
    rig = fit.avatar.rig
    eyes = [rig.joint_names.index(name) for name in ("left_eye", "right_eye")]
    rig.skin_weights[:, 0] += rig.skin_weights[:, eyes].sum(1)
    rig.skin_weights[:, eyes] = 0
    assert seed_eyes(fit, torch.tensor(SKIN)) > 2000
    assert not fit.free["eyes"].any()

    fit = Fit(avatar, pose_of(avatar))
    rig = fit.avatar.rig
    right = rig.template[rig.faces].mean(1)[:, 0] < 0
    eye = torch.tensor([any(word in name for word in EYES) for name in rig.part_names])[rig.face_parts]
    rig.face_parts[eye & right] = rig.part_names.index("skin")
    laid = seed_eyes(fit, torch.tensor(SKIN))
    places = fit.avatar.splats(fit.avatar.gather(rig.template)).means
    assert laid > 1000 and (places[-laid:, 0] > 0).all()
