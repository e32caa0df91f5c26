"""Strands grow where photos show no hair, lie along it, and are as uneven as the hair that they do show."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree

from mvp4d.core.heads import load_head
from mvp4d.core.heads.regions import landmarks_of, scalp_and_face
from mvp4d_export.avatar import GAUSSIAN_TENSORS, Avatar, AvatarConfig
from mvp4d_export.harmonics import colour_of_sh, sh_of_colour
from mvp4d_export.initialise import nearest
from mvp4d_export.projection import quaternion_to_matrix
from mvp4d_export.strands import LONG, OVERLAID, SHORT, strands
from mvp4d_export.triangles import to_local, triangle_frames

SKIN, BROWN = (0.80, 0.60, 0.50), (0.30, 0.20, 0.12)
CONTRAST = 0.15  # of the hair's brightness


@pytest.fixture(scope="module")
def head():
    return load_head("builtin")


def made(head, hair: tuple[float, float, float]) -> Avatar:
    """A head of opaque discs, its scalp of uneven hair."""
    avatar = Avatar(AvatarConfig(96, 0), head)
    frames = triangle_frames(avatar.gather(avatar.rig.template), avatar.mesh_faces)
    count = len(avatar.mesh_faces)
    scalp, _ = scalp_and_face(head)
    nearest = cKDTree(head.template).query(frames[2].numpy())[1]
    uneven = 1 + CONTRAST * torch.randn(count, 1, generator=torch.Generator().manual_seed(1))
    colours = torch.where(
        torch.from_numpy(scalp[nearest] > 0.5)[:, None], torch.tensor(hair) * uneven, torch.tensor(SKIN)
    )
    rotation = torch.zeros(count, 4)
    rotation[:, 0] = 1
    size = torch.full((count, 3), 1.0)
    size[:, 1] = 0.1  # flat
    tensors = {
        "position": torch.zeros(count, 3),
        "rotation": rotation,
        "log_scale": size.log(),
        "logit_opacity": torch.full((count,), 4.0),
        "harmonics": sh_of_colour(colours)[:, None],
    }
    avatar.set_gaussians(torch.arange(count), tensors)
    return avatar


def grown(avatar: Avatar, head, squarely: torch.Tensor, most: int = 4000, seed: int = 0):
    """Strands as (means [S, 3], axes [S, 3] along them, colours [S, 3]), or None."""
    own = torch.zeros(avatar.gaussian_count, dtype=torch.bool)
    added = strands(avatar, head, squarely, own, most, torch.Generator().manual_seed(seed))
    if added is None:
        return None
    alone = Avatar(avatar.config, head)
    alone.set_gaussians(added[0], added[1])
    with torch.no_grad():
        splats = alone.splats(alone.gather(alone.rig.template))
    longest = splats.scales.argmax(1)
    axes = quaternion_to_matrix(splats.quaternions)[torch.arange(len(longest)), :, longest]
    return splats.means, axes, colour_of_sh(added[1]["harmonics"][:, 0])


def front(avatar: Avatar) -> torch.Tensor:
    """[G] 1 where a photo from the front shows the Gaussians, 0 behind."""
    places = triangle_frames(avatar.gather(avatar.rig.template), avatar.mesh_faces)[2][avatar.binding]
    return (places[:, 2] > places[:, 2].mean()).float()


def test_they_grow_on_the_scalp_that_no_photo_shows(head):
    avatar = made(head, BROWN)
    means, axes, colours = grown(avatar, head, front(avatar))
    assert 3000 < len(means) <= 4000
    middle = float(triangle_frames(avatar.gather(avatar.rig.template), avatar.mesh_faces)[2][:, 2].mean())
    assert (means[:, 2] < middle + 0.012).float().mean() > 0.99
    scalp, _ = scalp_and_face(head)
    off = torch.from_numpy(cKDTree(head.template[scalp > 0]).query(means.numpy())[0])
    assert off.max() < 0.012  # metres: on its surface
    assert means[:, 1].min() > landmarks_of(head)[8, 1]  # none on neck or shoulders

    side = means[:, 1] < head.template[:, 1].max() - 0.06
    assert axes[side, 1].abs().mean() > 0.8  # hair falls (0.83 to 0.88 from seed to seed)
    outward = torch.nn.functional.normalize(means - torch.tensor([0.0, 0.03, -0.01]), dim=1)
    assert (axes * outward).sum(1).abs().mean() < 0.3  # along the head

    colours = colours[(means[:, 2] < -0.04) & (means[:, 1] > 0.0)]  # off the hairline, where they are skin's in part
    light = colours.mean(1)
    assert light.std() / light.mean() == pytest.approx(CONTRAST / OVERLAID, rel=0.1)
    hue = colours / light[:, None]
    torch.testing.assert_close(hue.median(0).values, torch.tensor(BROWN) / np.mean(BROWN), atol=0.05, rtol=0)


def test_there_are_none_on_bald_heads_nor_where_photos_show_all_hair(head):
    bald = made(head, SKIN)
    assert grown(bald, head, front(bald)) is None
    avatar = made(head, BROWN)
    assert grown(avatar, head, torch.ones(avatar.gaussian_count)) is None
    assert grown(avatar, head, torch.zeros(avatar.gaussian_count)) is None  # nor where none shows what hair is like


def with_curtains(
    avatar: Avatar, head, top: float, below: tuple[float, float, float] = BROWN, shoulders: float = 0.0
) -> Avatar:
    """With a sheet of hair's colour on either side, 2 cm off the head, from a height down to 7 cm below the chin, of
    another colour below that; and level ones outwards from 3 cm below the chin, `shoulders` metres wide."""
    chin = float(landmarks_of(head)[8, 1])
    steps = torch.arange(chin - 0.07, top, 0.004), torch.arange(-0.07, 0.05, 0.004)
    height, depth = (values.reshape(-1) for values in torch.meshgrid(*steps, indexing="ij"))
    width = 0.02 + float(np.abs(head.template[head.template[:, 1] > chin, 0]).max())
    places = torch.cat([torch.stack((torch.full_like(height, x), height, depth), 1) for x in (-width, width)])
    steps = torch.arange(width, width + shoulders, 0.004), torch.arange(-0.07, 0.05, 0.004)
    out, depth = (values.reshape(-1) for values in torch.meshgrid(*steps, indexing="ij"))
    level = torch.full_like(out, chin - 0.03)
    places = torch.cat((places, *(torch.stack((side * out, level, depth), 1) for side in (-1, 1))))
    frames = triangle_frames(avatar.gather(avatar.rig.template), avatar.mesh_faces)
    binding = nearest(places, frames[2])[1]
    count, rotation = len(places), torch.zeros(len(places), 4)
    rotation[:, 0] = 1
    more = {
        "position": to_local(places, frames, binding),
        "rotation": rotation,
        "log_scale": (0.003 / frames[1][binding, None]).log().expand(-1, 3),
        "logit_opacity": torch.full((count,), 4.0),
        "harmonics": sh_of_colour(torch.where(places[:, 1:2] > chin, torch.tensor(BROWN), torch.tensor(below)))[
            :, None
        ],
    }
    tensors = {name: torch.cat((getattr(avatar, name).detach(), more[name])) for name in GAUSSIAN_TENSORS}
    result = Avatar(avatar.config, head)
    result.set_gaussians(torch.cat((avatar.binding, binding)), tensors)
    return result


def test_long_hair_that_hangs_together_has_them_below_the_chin_and_a_collar_has_none(head):
    chin = float(landmarks_of(head)[8, 1])
    found = []
    # From the temples; below the chin alone; from the temples to a black collar.
    for top, below in ((0.05, BROWN), (chin - 0.02, BROWN), (0.05, (0.04, 0.04, 0.04))):
        avatar = with_curtains(made(head, BROWN), head, top, below)
        with torch.no_grad():
            places = avatar.splats(avatar.gather(avatar.rig.template)).means
        means, _, _ = grown(avatar, head, (places[:, 2] > 0).float())
        found.append(int(((means[:, 1] < chin - 0.02) & (means[:, 1] > chin - 0.07)).sum()))
    assert found[0] > 50
    assert found[1] == found[2] == 0


def test_shoulders_in_hairs_colour_that_it_lies_on_have_none(head):
    """Hair falls: below the chin it is hardly wider than above."""
    avatar = with_curtains(made(head, BROWN), head, 0.05, shoulders=0.12)
    with torch.no_grad():
        places = avatar.splats(avatar.gather(avatar.rig.template)).means
    means, _, _ = grown(avatar, head, (places[:, 2] > 0).float())
    chin, curtain = float(landmarks_of(head)[8, 1]), 0.02 + float(head.template[head.template[:, 1] > 0, 0].max())
    low = means[:, 1] < chin - 0.02
    assert int((low & (means[:, 0].abs() < curtain + 0.02)).sum()) > 50
    assert int((low & (means[:, 0].abs() > curtain + 0.05)).sum()) == 0


def test_cropped_hair_has_short_ones(head):
    """Hair on the rig itself, and the same 20 mm off it."""
    lengths = []
    for off in (0.0, 0.02):
        avatar = made(head, BROWN)
        frames = triangle_frames(avatar.gather(avatar.rig.template), avatar.mesh_faces)
        scalp = scalp_and_face(head)[0][cKDTree(head.template).query(frames[2].numpy())[1]] > 0.5
        with torch.no_grad():  # the second axis of a triangle's frame is its normal
            avatar.position[scalp, 1] = off / frames[1][scalp]
            avatar.log_scale[scalp] += 0.5 * bool(off)  # no gaps
        own = torch.zeros(avatar.gaussian_count, dtype=torch.bool)
        added = strands(avatar, head, front(avatar), own, 4000, torch.Generator().manual_seed(0))
        alone = Avatar(avatar.config, head)
        alone.set_gaussians(*added)
        with torch.no_grad():
            lengths.append(float(alone.splats(alone.gather(alone.rig.template)).scales.amax(1).median()))
    assert abs(lengths[0] - SHORT * LONG) < 0.1 * SHORT * LONG and abs(lengths[1] - LONG) < 0.1 * LONG


def test_an_avatar_that_is_hardly_there_has_none(head):
    """Gaussians that show no solid surface, and those that show hardly any of it."""
    avatar = made(head, BROWN)
    places = triangle_frames(avatar.gather(avatar.rig.template), avatar.mesh_faces)[2]
    shown = front(avatar)
    with torch.no_grad():
        avatar.logit_opacity.fill_(-6.0)
        assert grown(avatar, head, shown) is None
        top = (places - places[places[:, 1].argmax()]).norm(dim=1) < 0.003
        avatar.logit_opacity[top] = 4.0
        assert grown(avatar, head, shown) is None


def test_a_head_without_a_scalp_has_none(head):
    """A face alone, with hair beside it."""
    scalp, _ = scalp_and_face(head)
    template = head.template.copy()
    template[scalp > 0, 1] = template[:, 1].min()
    face = dataclasses.replace(head, template=template)
    avatar = made(face, BROWN)
    with torch.no_grad():
        lifted = triangle_frames(avatar.gather(avatar.rig.template), avatar.mesh_faces)
        hair = (lifted[2][:, 2] < 0) & (lifted[2][:, 1] > -0.04)
        avatar.position[hair, 1] = 0.02 / lifted[1][hair]  # metres along the normal
        avatar.harmonics[hair, 0] = sh_of_colour(torch.tensor(BROWN))
    assert hair.sum() > 50
    assert grown(avatar, face, torch.ones(avatar.gaussian_count)) is None


@pytest.mark.filterwarnings("error")
def test_colours_outside_of_what_pictures_show_count_as_shown(head):
    """A fit's harmonics leave [0, 1] where it saw black or white."""
    black, darker = made(head, (0.0, 0.0, 0.0)), made(head, (-0.2, -0.2, -0.2))
    shown = front(black)
    torch.testing.assert_close(grown(darker, head, shown)[0], grown(black, head, shown)[0])


def test_a_seed_gives_the_same_ones(head):
    avatar = made(head, BROWN)
    own, squarely = torch.zeros(avatar.gaussian_count, dtype=torch.bool), front(avatar)
    first, again, other = (
        strands(avatar, head, squarely, own, 500, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)
    )
    assert torch.equal(first[0], again[0])
    assert all(torch.equal(first[1][name], again[1][name]) for name in GAUSSIAN_TENSORS)
    assert len(first[0]) <= 500
    assert not (len(first[0]) == len(other[0]) and torch.equal(first[1]["position"], other[1]["position"]))


@pytest.mark.parametrize("count", [0, 5])
def test_a_head_without_landmarks_or_with_others_has_none(head, count):
    names = ("landmark_faces", "landmark_barycentric")
    bare = dataclasses.replace(head, **{name: getattr(head, name)[:count] for name in names})
    avatar = made(head, BROWN)
    assert grown(avatar, bare, front(avatar)) is None


def test_they_move_with_the_rig(head):
    """A strand keeps its place and turn on its triangle: a rigidly turned head turns it likewise."""
    avatar = made(head, BROWN)
    own = torch.zeros(avatar.gaussian_count, dtype=torch.bool)
    binding, tensors = strands(avatar, head, front(avatar), own, 200, torch.Generator().manual_seed(0))
    avatar.set_gaussians(binding, tensors)
    angle = 0.4
    turn = torch.tensor([[math.cos(angle), 0, math.sin(angle)], [0, 1, 0], [-math.sin(angle), 0, math.cos(angle)]])
    rest = avatar.gather(avatar.rig.template)
    with torch.no_grad():
        before, after = avatar.splats(rest), avatar.splats(rest @ turn.T)
    torch.testing.assert_close(after.means, before.means @ turn.T, atol=1e-5, rtol=0)
    moved = quaternion_to_matrix(after.quaternions)[..., 0]
    torch.testing.assert_close(moved, quaternion_to_matrix(before.quaternions)[..., 0] @ turn.T, atol=1e-4, rtol=0)
