"""Plans: windows cover the frames, groups cover the views, costs follow by arithmetic."""

import itertools

import numpy as np
import pytest

from mvp4d.core.errors import UserError
from mvp4d_jax.sampling.plan import cut_windows, deal_groups, describe, make_plan


def _plan(**changes):
    values = {"views": 8, "frames": 9, "latent_size": (8, 8), "trained_views": 4, "window_frames": 9}
    return make_plan(**{**values, **changes})


@pytest.mark.parametrize("frames", [1, 2, 5, 9, 10, 17, 18, 49, 50])
@pytest.mark.parametrize("window, overlap, stride", [(9, 1, 4), (9, 2, 4), (13, 3, 4), (5, 1, 4), (9, 3, 2), (7, 1, 2)])
def test_windows_cover_every_frame_once_beyond_their_clean_prefix(frames, window, overlap, stride):
    windows = cut_windows(frames, window, overlap, stride)
    fresh = np.concatenate([np.arange(w.start + w.clean_frames, w.stop) for w in windows])
    np.testing.assert_array_equal(fresh, np.arange(windows[-1].stop))
    assert windows[-1].stop >= frames > (windows[-2].stop if len(windows) > 1 else 0)
    assert all((w.frames - 1) % stride == 0 and w.frames <= window for w in windows)
    assert all(w.latents == 1 + (w.frames - 1) // stride for w in windows)
    for before, after in itertools.pairwise(windows):
        assert after.start + after.clean_frames == before.stop


@pytest.mark.parametrize("routing", ["random", "circular"])
@pytest.mark.parametrize("views, group, anchors", [(16, 4, 1), (16, 4, 0), (8, 5, 2), (7, 4, 1)])
def test_every_view_is_dealt_and_anchors_sit_everywhere(views, group, anchors, routing):
    plan = _plan(views=views, group_size=group, anchors=anchors, routing=routing)
    dealt = [deal_groups(plan, step) for step in range(5)]
    for groups in dealt:
        assert groups.shape == (plan.groups, group)
        assert set(groups.ravel()) == set(range(views))
        assert all(len(set(row)) == group for row in groups)
        assert all(set(range(anchors)) <= set(row) for row in groups)
    assert any(not np.array_equal(dealt[0], other) for other in dealt[1:])
    np.testing.assert_array_equal(dealt[3], deal_groups(plan, 3))


def test_joint_plan_has_one_group():
    plan = _plan(views=3)
    assert plan.joint and plan.groups == 1 and plan.anchors == 0
    np.testing.assert_array_equal(deal_groups(plan, 7), [[0, 1, 2]])


def test_paper_scale_token_count():
    """8 views x 49 frames x 512^2 at 2B: 107,520 tokens (8 x 13 x 1024 + 1024)."""
    plan = make_plan(views=8, frames=49, latent_size=(64, 64), trained_views=8, window_frames=49)
    assert plan.tokens(patch=2) == 107_520
    assert plan.forwards() == 100
    assert "107,520 in the longest sequence" in describe(plan, patch=2, flops_per_forward=1e15, dtype="bfloat16")


def test_fingerprint_tells_plans_apart():
    assert _plan().fingerprint() == _plan().fingerprint() != _plan(seed=1).fingerprint()


@pytest.mark.parametrize(
    "changes, flag",
    [
        ({"views": 0}, "`cameras`"),
        ({"window_frames": 8}, "`window`"),
        ({"routing": "round"}, "`routing`"),
        ({"steps": 0}, "`steps`"),
        ({"anchors": 4}, "`anchors`"),
        ({"frames": 20, "overlap_latents": 3}, "`overlap`"),
        ({"frames": 20, "overlap_latents": 0}, "`overlap`"),
        ({"overlap_latents": -1}, "`overlap`"),  # of one window, too
        ({"window_frames": 0}, "`window`"),
        ({"group_size": 0}, "`group`"),
        ({"group_size": 1.5}, "`group`"),
        ({"anchors": -1, "views": 2}, "`anchors`"),
        ({"steps": float("nan")}, "`steps`"),
        ({"seed": None}, "`seed`"),
        ({"guidance_scale": float("nan")}, "`guidance`"),
        ({"guidance_scale": -1}, "`guidance`"),
    ],
)
def test_what_cannot_be_planned_is_refused_by_flag(changes, flag):
    with pytest.raises(UserError, match=flag):
        _plan(**changes)
