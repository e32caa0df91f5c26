"""Coarse Gaussians beside a photo's silhouette end there; what is fine, on the rig or further inside stays."""

import torch
from export_world import without_hull

from mvp4d_export.avatar import GAUSSIAN_TENSORS
from mvp4d_export.densify import local_scale
from mvp4d_export.overreach import COARSE, cut_overreach
from mvp4d_export.photos import Picture

SIDE = 96
WIG = 0.04  # metres from the rig to where hair ends


def test_what_reaches_into_the_background_is_cut(tmp_path):
    data, avatar = without_hull(tmp_path / "capture", SIDE)
    pictures, masks, viewmats, Ks = data.batch([0], 0)
    photo, pose = Picture(pictures[0], masks[0], torch.ones(SIDE, SIDE), Ks[0]), data.pose[:1]
    with torch.no_grad():
        avatar.logit_opacity.fill_(5.0)
        avatar.log_scale.copy_((0.0002 / local_scale(avatar, avatar.splats(avatar.vertices(pose)))).log()[:, None])
        splats = avatar.splats(avatar.vertices(pose))
        places = splats.means
        top, middle = int(places[:, 1].argmax()), int(places[:, 2].argmax())
        coarse = torch.tensor([top, middle])
        avatar.position[top, 1] += WIG / local_scale(avatar, splats)[top]  # to the outline of hair
        avatar.log_scale[coarse] += torch.tensor(4 * COARSE / 0.0002).log()
    before = {name: getattr(avatar, name).detach().clone() for name in GAUSSIAN_TENSORS}

    def stray() -> float:
        """Alpha over the photo's background, in pixels."""
        splats = avatar.splats(avatar.vertices(pose))
        alpha = avatar.render(splats, pose, viewmats, Ks, SIDE, SIDE).alpha[0].detach()
        return float((alpha * (photo.alpha == 0)).sum())

    beside = stray()
    assert beside > 5
    cut_overreach(avatar, torch.zeros(avatar.gaussian_count, dtype=torch.bool), photo, pose, viewmats[0])
    assert all(torch.equal(getattr(avatar, name), value) for name, value in before.items())  # all on the rig
    cut_overreach(avatar, torch.ones(avatar.gaussian_count, dtype=torch.bool), photo, pose, viewmats[0])
    assert stray() < 0.3 * beside
    rest = torch.arange(avatar.gaussian_count) != top
    assert all(torch.equal(getattr(avatar, name)[rest], value[rest]) for name, value in before.items())
    assert not torch.equal(avatar.position[top], before["position"][top])
