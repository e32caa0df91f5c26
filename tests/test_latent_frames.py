"""The arithmetic of latent frames against counting by hand."""

import numpy as np
import pytest

from mvp4d.core.errors import UserError
from mvp4d_jax.latent_frames import fill, frame_count, frame_groups, latent_count


def grouped(frames: int, ratio: int) -> list[list[int]]:
    """Frame 0 alone, then `ratio` frames each."""
    return [[0], *([k + 1 for k in range(start, start + ratio)] for start in range(0, frames - 1, ratio))]


@pytest.mark.parametrize("ratio", [1, 2, 4])
def test_counts_are_those_of_the_groups(ratio):
    for frames in range(1, 60):
        groups = grouped(frames, ratio)
        whole = groups[-1][-1] == frames - 1
        assert fill(frames, ratio) == groups[-1][-1] + 1
        if whole:
            assert latent_count(frames, ratio) == len(groups) and frame_count(len(groups), ratio) == frames
            assert [sorted(set(row)) for row in frame_groups(frames, ratio).tolist()] == groups
        else:
            with pytest.raises(UserError, match=f"^size: .*{groups[-1][0]} or {groups[-1][-1] + 1}$"):
                latent_count(frames, ratio, "size")


def test_of_cogvideox():
    """49 frames are 13 latent frames; each row of the groups ends with its drawn frame."""
    assert latent_count(49, 4) == 13 and frame_count(13, 4) == 49 and frame_count(0, 4) == 0
    np.testing.assert_array_equal(frame_groups(9, 4), [[0, 0, 0, 0], [1, 2, 3, 4], [5, 6, 7, 8]])
    with pytest.raises(UserError, match="1 or 5"):
        latent_count(0, 4)
