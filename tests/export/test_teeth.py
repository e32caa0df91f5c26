"""Upper teeth are as long as a photo shows them."""

import copy

import pytest
import torch
from test_hidden import SIDE, SKIN, avatar, camera, pose_of  # noqa: F401

from mvp4d.core.heads.model import INTERIOR
from mvp4d_export.hidden import lid_triangles, seed_hidden, upper_teeth
from mvp4d_export.photos import Picture
from mvp4d_export.seeding import project_points
from mvp4d_export.teeth import LONGEST, longer_teeth
from mvp4d_export.visibility import gaussians_of

TEETH = torch.tensor((0.8, 0.75, 0.7))


@pytest.mark.parametrize("more, found", [(3, 3), (6, 6), (-4, 0), (40, None)])
def test_the_length_is_what_a_photo_shows(avatar, more, found):  # noqa: F811
    """White down to `more` pixels below the rig's own incisors, lips and dark below; at most `LONGEST`."""
    viewmat, K = camera(avatar, INTERIOR)
    pose = pose_of(avatar, jawOpen=0.5)
    front = avatar.rig.template[avatar.rig.faces[upper_teeth(avatar.rig)].unique()]
    front = front[front[:, 2] > front[:, 2].max() - 0.012]
    pixels, depth = project_points(front, viewmat, K)
    middle = (pixels[:, 0] > 68) & (pixels[:, 0] < 91)  # 0.4 of the breadth of what is white below
    end = int(pixels[middle, 1].max().round()) + more
    rgb, mouth = torch.full((SIDE, SIDE, 3), 0.2), torch.zeros(SIDE, SIDE, dtype=torch.bool)
    rgb[end - 12 : end, 50:110] = TEETH
    mouth[end - 12 : end + 20, 45:115] = True
    picture = Picture(rgb, torch.ones(SIDE, SIDE), torch.ones(SIDE, SIDE), K)
    longer = longer_teeth(avatar, picture, mouth, TEETH, pose, viewmat)
    pixel = float(depth.mean()) / float(K[1, 1])
    assert longer == LONGEST if found is None else abs(longer - found * pixel) < 0.6 * pixel
    assert longer_teeth(avatar, picture, mouth & False, TEETH, pose, viewmat) == 0


def test_longer_ones_end_lower_and_begin_where_they_did(avatar):  # noqa: F811
    found = []
    for longer in (0.0, 0.003):
        own = copy.deepcopy(avatar)
        seed_hidden(own, lid_triangles(own), torch.tensor(SKIN), longer=longer)
        found.append(
            [
                own.splats(own.gather(own.rig.template)).means[gaussians_of(own, (name,)), 1].detach()
                for name in ("upper_teeth", "lower_teeth", "tongue")
            ]
        )
    (upper, *others), (longer_upper, *longer_others) = found
    assert abs(float(upper.min() - longer_upper.min()) - 0.003) < 0.0004
    assert abs(float(upper.max() - longer_upper.max())) < 0.0003
    for before, after in zip(others, longer_others):
        assert abs(float(before.min() - after.min())) < 0.0006 and abs(float(before.max() - after.max())) < 0.0006
