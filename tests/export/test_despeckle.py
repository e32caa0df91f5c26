"""Gaussians that stand alone beside the head fade; those that have company stay."""

import pytest
import torch
from export_world import without_hull

from mvp4d_export.densify import local_scale
from mvp4d_export.despeckle import fade_specks
from mvp4d_export.photos import Picture

SIDE = 96


@pytest.mark.parametrize(("size", "away"), [(0.001, 0.06), (0.006, 0.05)])
def test_a_gaussian_alone_fades_and_a_lock_of_them_stays(size, away, tmp_path):
    data, avatar = without_hull(tmp_path / "capture", SIDE)
    with torch.no_grad():
        avatar.logit_opacity.fill_(3.0)
        splats = avatar.splats(avatar.gather(avatar.rig.template))
        top = splats.means[:, 1].argsort(descending=True)
        alone, lock = top[:1], top[1:60]
        off = 1 / local_scale(avatar, splats)
        avatar.position[alone, 1] += away * off[alone]  # off the surface, by metres
        avatar.position[lock, 1] += 0.01 * off[lock]
        avatar.log_scale[alone] = torch.log(size * off[alone])[:, None]
    pictures, masks, viewmats, Ks = data.batch([0], 0)
    before = torch.sigmoid(avatar.logit_opacity)
    fade_specks(avatar, Picture(pictures[0], masks[0], torch.ones(SIDE, SIDE), Ks[0]), data.pose[:1], viewmats[0])
    after = torch.sigmoid(avatar.logit_opacity)
    assert after[alone].item() < 1e-3
    kept = torch.ones(len(after), dtype=torch.bool)
    kept[alone] = False
    torch.testing.assert_close(after[kept], before[kept], atol=0.05, rtol=0)  # a corner of the outline is half alone
    assert ((after - before)[kept].abs() > 1e-4).sum() < 5
