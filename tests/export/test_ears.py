"""Ears of the built-in head in made-up photos: bare, standing off, under hair; and the light in their folds."""

import copy
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import ndimage
from test_hidden import SKIN, avatar, pose_of  # noqa: F401

from mvp4d_export import ears
from mvp4d_export.ears import EVEN, FARTHEST, SPACING, exposure, own_ears
from mvp4d_export.harmonics import colour_of_sh
from mvp4d_export.hidden import NOT_SKIN
from mvp4d_export.initialise import nearest
from mvp4d_export.laid import scattered
from mvp4d_export.photos import Picture
from mvp4d_export.rig import Pose
from mvp4d_export.triangles import to_head, triangle_frames
from mvp4d_export.visibility import gaussians_of, parts_named, rig_surface

SIDE = 480
HAIR = (0.12, 0.08, 0.06)
K = torch.tensor([[2 * SIDE, 0, SIDE / 2], [0, 2 * SIDE, SIDE / 2], [0, 0, 1.0]])  # 0.625 mm a pixel at the head


@pytest.fixture(scope="module")
def camera() -> torch.Tensor:
    viewmat = torch.diag(torch.tensor([1.0, -1, -1, 1]))
    viewmat[2, 3] = 0.6
    return viewmat


@pytest.fixture(scope="module")
def bare(avatar, camera) -> np.ndarray:  # noqa: F811
    """[S, S] bool, where the rig is."""
    return (rig_surface(avatar, pose_of(avatar), camera, K, SIDE).face >= 0).numpy()


def photo(rig: np.ndarray, wider: int, colour=SKIN) -> Picture:
    """The rig in skin's colour, and as many pixels around its outline in a colour."""
    person = ndimage.binary_dilation(rig, iterations=wider) if wider else rig
    rgb = torch.tensor(colour).expand(SIDE, SIDE, 3).clone()
    rgb[torch.from_numpy(rig)] = torch.tensor(SKIN)
    return Picture(rgb, torch.from_numpy(person).float(), torch.ones(SIDE, SIDE), K)


def fit_of(own, picture: Picture, viewmat: torch.Tensor, pose: Pose) -> SimpleNamespace:
    everyone = torch.ones(own.gaussian_count, dtype=torch.bool)
    return SimpleNamespace(
        avatar=own,
        photos=SimpleNamespace(reference=0, pictures=[picture]),
        view=lambda index: (pose, viewmat),
        on_surface=lambda: everyone,
        on_skin=lambda: ~gaussians_of(own, (*NOT_SKIN, "lip")),
        fixed=gaussians_of(own, ("sclera", "iris", "pupil", "teeth")),
        claims=torch.ones(1, own.gaussian_count),
    )


def laid_on(own, picture: Picture, viewmat: torch.Tensor, pose: Pose | None = None):
    fit = fit_of(own, picture, viewmat, pose_of(own) if pose is None else pose)
    return own_ears(fit, torch.Generator().manual_seed(0))


def places_of(own, change) -> torch.Tensor:
    frames = triangle_frames(own.gather(own.rig.template), own.mesh_faces)
    return to_head(change.tensors["position"], frames, change.binding)


def rig_ears(own) -> torch.Tensor:
    """[T, 3, 3]"""
    return own.rig.template[own.rig.faces[parts_named(own.rig.part_names, ("ears",))[own.rig.face_parts]]]


def test_bare_ears_are_the_rigs_own(avatar, camera, bare):  # noqa: F811
    change, again = (laid_on(avatar, photo(bare, 0), camera) for _ in range(2))
    assert all(torch.equal(value, again.tensors[name]) for name, value in change.tensors.items())  # of one seed
    places = places_of(avatar, change)
    sheet, _, _ = scattered(rig_ears(avatar), 0.0006, torch.Generator().manual_seed(1))
    assert float(nearest(sheet, places)[0].quantile(0.99)) < 2.5 * SPACING, "all of both is covered"
    opaque = change.tensors["logit_opacity"].sigmoid() > 0.97
    assert float(nearest(places[opaque], sheet)[0].quantile(0.95)) < 0.002
    gone = ~change.keep
    assert gone[gaussians_of(avatar, ("ears",))].all()
    assert not gone[gaussians_of(avatar, ("sclera", "teeth", "lips"))].any()
    means = avatar.splats(avatar.gather(avatar.rig.template)).means.detach()
    assert float(nearest(means[gone], sheet)[0].max()) < 0.015
    size = avatar.rig.template.new_tensor(EVEN * SPACING)
    scale = triangle_frames(avatar.gather(avatar.rig.template), avatar.mesh_faces)[1][change.binding]
    assert float((change.tensors["log_scale"].exp().amax(1) * scale).max()) < float(size)


@pytest.mark.parametrize("wider", [6, 12, 32])  # pixels of 0.625 mm
def test_they_stand_off_as_far_as_the_photo_shows(avatar, camera, bare, wider):  # noqa: F811
    """Backs reach the outline, fronts stay; to a limit."""
    change = laid_on(avatar, photo(bare, wider), camera)
    places, rig = places_of(avatar, change), rig_ears(avatar).flatten(0, 1)
    opaque = change.tensors["logit_opacity"].sigmoid() > 0.97
    moved = float(places[opaque, 0].abs().amax() - rig[:, 0].abs().amax())
    assert moved == pytest.approx(min(wider * 0.000625, FARTHEST), abs=0.0015)
    front = rig[:, 2].amax() - 0.002
    left = opaque & (places[:, 0] > 0) & (places[:, 2] > front)
    assert float(places[left, 0].amax() - rig[rig[:, 2] > front][:, 0].amax()) < 0.001


def test_ears_under_hair_or_of_a_turned_head_are_left_alone(avatar, camera, bare):  # noqa: F811
    assert laid_on(avatar, photo(bare, 12, HAIR), camera) is None
    whole = photo(np.ones_like(bare), 0)
    assert laid_on(avatar, whole, camera) is None, "no outline"
    still = pose_of(avatar)
    turned = Pose(still.expression, torch.tensor([[0.0, math.radians(30), 0.0]]), *(torch.zeros(1, 3),) * 3, still.eyes)
    assert laid_on(avatar, photo(bare, 0), camera, turned) is None
    half = photo(bare, 0)
    half.alpha[:, SIDE // 2 :] = 0  # nobody on the left ear's side
    change = laid_on(avatar, half, camera)
    assert (places_of(avatar, change)[:, 0] < 0).all()


def test_a_tilted_neck_does_not_move_an_ear_off_the_outline(avatar, camera):  # noqa: F811
    """The photo's neck is bent aside by 8 degrees; at rest the ears are where they are with a straight one."""
    still = pose_of(avatar)
    bent = Pose(still.expression, *(torch.zeros(1, 3),) * 2, torch.tensor([[0.0, 0.0, 0.14]]), still.jaw, still.eyes)
    shown = (rig_surface(avatar, bent, camera, K, SIDE).face >= 0).numpy()
    change = laid_on(avatar, photo(shown, 6), camera, bent)
    places, rig = places_of(avatar, change), rig_ears(avatar).flatten(0, 1)
    opaque = change.tensors["logit_opacity"].sigmoid() > 0.97
    for side in (1, -1):
        moved = (side * places[opaque, 0]).amax() - (side * rig[:, 0]).amax()
        assert float(moved) == pytest.approx(6 * 0.000625, abs=0.0015)


def test_what_follows_an_ear_and_is_not_on_it_stays(avatar, camera, bare):  # noqa: F811
    """Hair behind an ear, bound to it."""
    own = copy.deepcopy(avatar)
    at = int((gaussians_of(own, ("ears",)) & (own.splats(own.gather(own.rig.template)).means[:, 0] > 0)).nonzero()[0])
    fit = fit_of(own, photo(bare, 0), camera, pose_of(own))
    with torch.no_grad():
        scale = triangle_frames(own.gather(own.rig.template), own.mesh_faces)[1][own.binding[at]]
        own.position[at] += 0.05 / scale  # metres aside along each of the triangle's axes
    means = own.splats(own.gather(own.rig.template)).means
    beside = nearest(means[at : at + 1, 1:].detach(), rig_ears(own)[..., 1:].flatten(0, 1))[0]
    assert float(beside) > 0.02
    surface = torch.ones(own.gaussian_count, dtype=torch.bool)
    surface[at] = False
    fit.on_surface = lambda: surface
    change = own_ears(fit, torch.Generator().manual_seed(0))
    assert bool(change.keep[at])


def test_an_ear_that_another_photo_sees_stays(avatar, camera, bare):  # noqa: F811
    """A second photo, from the left, tells the left ear; the other one is laid."""
    fit = fit_of(avatar, photo(bare, 0), camera, pose_of(avatar))
    left = avatar.splats(avatar.gather(avatar.rig.template)).means[:, 0] > 0
    fit.claims = torch.stack([fit.claims[0], torch.where(left, 0.6, 0.0)])
    change = own_ears(fit, torch.Generator().manual_seed(0))
    assert (places_of(avatar, change)[:, 0] < 0).all() and change.keep[left].all()


def test_a_head_whose_parts_tell_no_ears_has_none(avatar, camera, bare):  # noqa: F811
    own = copy.deepcopy(avatar)
    own.rig.part_names = tuple(name.replace("ears", "skin") for name in own.rig.part_names)
    assert laid_on(own, photo(bare, 0), camera) is None


def test_folds_are_darker_than_the_rim(avatar, camera, bare, monkeypatch):  # noqa: F811
    """Of what is seen from the side, what lies deep below all around it is darker, in the skin's hue."""
    monkeypatch.setattr(ears, "_shown", lambda skin, points, *_: (points, torch.zeros(len(points), 1)))  # no photo
    change = laid_on(avatar, photo(bare, 0), camera)
    places, opaque = places_of(avatar, change), change.tensors["logit_opacity"].sigmoid() > 0.97
    own = opaque & (places[:, 0] > 0)
    x, colours = places[own, 0], colour_of_sh(change.tensors["harmonics"][own, 0])
    apart = torch.cdist(places[own, 1:], places[own, 1:])

    def outermost(within: float) -> torch.Tensor:
        return torch.where(apart < within, x[None], -1.0).amax(1) - x

    seen, deep, light = outermost(0.002) < 0.002, outermost(0.008), colours.mean(1)
    fold, rim = light[seen & (deep > 0.006)], light[seen & (deep < 0.001)]
    assert len(fold) > 50 and len(rim) > 50
    assert float(fold.median()) < 0.75 * float(rim.median())
    hue = colours.amax(1) / colours.amin(1)
    assert float(hue.median()) == pytest.approx(SKIN[0] / SKIN[2], rel=0.1)


def test_photo_tells_the_colours_of_what_it_sees(avatar, camera, bare):  # noqa: F811
    """A photo of brighter ears, still skin's: their front is that bright; their side and back, which it does not see,
    are the skin's before them."""
    picture = photo(bare, 0)
    picture.rgb[:] = torch.tensor(SKIN) * 1.1
    change = laid_on(avatar, picture, camera)
    assert float(colour_of_sh(change.tensors["harmonics"][:, 0])[:, 0].amax()) == pytest.approx(1.1 * SKIN[0], abs=0.01)
    dark = photo(bare, 0)
    dark.rgb[:, : SIDE // 2 - 70] = dark.rgb[:, SIDE // 2 + 70 :] = 0.0  # black: none of skin's
    black = laid_on(avatar, dark, camera)
    assert black is None or float(colour_of_sh(black.tensors["harmonics"][:, 0]).amin()) > 0.05


def test_exposure_below_a_disc():
    """Below the middle of a disc of radius a, h away, h^2 / (a^2 + h^2) of the light is left; the closed form."""
    cells = torch.linspace(-0.02, 0.02, 201)
    x, y = torch.meshgrid(cells, cells, indexing="xy")
    disc = x.square() + y.square() < 0.02**2
    walls = torch.stack([x[disc], y[disc], torch.full_like(x[disc], 0.01)], 1)
    below, up = torch.zeros(1, 3), torch.tensor([[0.0, 0, 1]])
    area = float(cells[1] - cells[0]) ** 2
    found = exposure(below, up, walls, -up.expand_as(walls), area)
    assert float(found) == pytest.approx(0.01**2 / (0.02**2 + 0.01**2), abs=0.005)
    assert float(exposure(below, up, walls, up.expand_as(walls), area)) == 1, "it faces away"
    assert float(exposure(below, -up, walls, -up.expand_as(walls), area)) == 1, "it is behind"
