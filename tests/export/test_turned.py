"""Photos as the rig carries them into turned views."""

import dataclasses

import numpy as np
import pytest
import torch
from export_world import write_capture
from scipy.spatial.transform import Rotation

from mvp4d.core.capture import Capture
from mvp4d_export.avatar import Avatar, AvatarConfig
from mvp4d_export.dataset import Dataset
from mvp4d_export.photos import Picture
from mvp4d_export.turned import turned_picture, turned_view
from mvp4d_export.visibility import rig_surface

SIDE = 96


@pytest.fixture(scope="module")
def turned(tmp_path_factory) -> Dataset:
    """The egg's first frame from 18 sides."""
    return Dataset.load(
        Capture.open(write_capture(tmp_path_factory.mktemp("turned") / "capture", views=18, frames=1, size=SIDE))
    )


def test_a_turned_view_is_the_turned_heads(turned):
    pose, viewmat = turned.pose[:1], turned.viewmats[0, 0]
    head = Rotation.from_rotvec(pose.rotation[0].numpy()) * Rotation.from_rotvec([0, 0.4, 0])
    posed = dataclasses.replace(pose, rotation=torch.from_numpy(head.as_rotvec()[None].astype(np.float32)))
    expected = viewmat @ posed.head_matrix()[0]
    torch.testing.assert_close(turned_view(viewmat, pose, 0.4) @ pose.head_matrix()[0], expected, atol=1e-5, rtol=0)


def test_what_a_photo_shows_is_where_another_view_has_it(turned):
    """Against that view itself, drawn from the egg: on its face, where no wig is in the way."""
    avatar = Avatar(AvatarConfig(24, 0), turned.capture.head)
    pose, viewmats, K = turned.pose[:1], turned.viewmats[:, 0], turned.Ks[0, 0]
    pictures, masks, *_ = turned.batch([0, 2, 9], 0)
    photo = Picture(pictures[0], masks[0], torch.ones(SIDE, SIDE), K)
    says = torch.ones(SIDE, SIDE)
    there = rig_surface(avatar, pose, viewmats[2], K, SIDE)
    face = (there.point[..., 1] < 0.01) & (there.point[..., 1] > -0.06) & (there.point[..., 2] > 0.03)

    known = turned_picture(avatar, photo, says, pose, viewmats[0], viewmats[2])
    sure = (known.alpha > 0.9) & face
    assert sure.sum() > 0.5 * face.sum()
    error = (known.rgb - pictures[1])[sure].abs().mean()
    unmoved = (pictures[0] - pictures[1])[sure].abs().mean()
    assert error < 0.03 and error < 0.5 * unmoved, (float(error), float(unmoved))

    silent = turned_picture(avatar, photo, 0 * says, pose, viewmats[0], viewmats[2])
    assert silent.alpha.max() == 0
    behind = turned_picture(avatar, photo, says, pose, viewmats[0], viewmats[9])  # of which the photo shows nothing
    assert behind.alpha.max() == 0
