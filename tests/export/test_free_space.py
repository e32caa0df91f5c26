"""What a photo takes for hair, where another photo looks through it."""

import dataclasses

import pytest
import torch
from photo_world import photo_fit, portrait_of

from mvp4d_export.free_space import PosedPhoto, agreeing
from mvp4d_export.photo_depth import PhotoDepth
from mvp4d_export.seeding import project_points

LIFT = 0.03  # metres before the rig that hair is wrongly taken to be


@pytest.fixture(scope="module")
def shots(egg, sharp):
    """An avatar and two photos of an egg, 40 degrees apart, each of which shows the rig and nothing else."""
    fit = photo_fit(egg, portrait_of(sharp, [0, 2]))
    photos = fit.photos.photos
    found = []
    for index, (picture, depth) in enumerate(zip(photos.pictures, fit.photos.depths)):
        bare = PhotoDepth(depth.surface, depth.surface.depth, *2 * [torch.zeros_like(depth.off)])
        found.append(PosedPhoto(picture, photos.pose[index : index + 1], photos.viewmats[index], bare))
    return fit.avatar, found


def lifted(photo: PosedPhoto, where: torch.Tensor) -> PosedPhoto:
    """The same with what lies `where` [S, S] bool before the rig."""
    depth = photo.shown.depth - LIFT * where
    return dataclasses.replace(photo, shown=PhotoDepth(photo.shown.surface, depth, where, where & False))


def before_the_rig(photo: PosedPhoto, depth: torch.Tensor, other: PosedPhoto) -> torch.Tensor:
    """Metres [M] that a photo's pixels with a finite `depth` [S, S] are before the rig in another one, where it
    shows the rig squarely: at its outline neighbouring pixels are centimetres apart."""
    rows, columns = torch.isfinite(depth).nonzero().unbind(1)
    rays = torch.stack((columns + 0.5, rows + 0.5, torch.ones(len(rows))), 1) @ torch.linalg.inv(photo.picture.K).T
    points = (rays * depth[rows, columns, None] - photo.matrix[:3, 3]) @ photo.matrix[:3, :3]
    pixels, there = project_points(points, other.matrix, other.picture.K)  # both photos are of one frame
    columns, rows = pixels.long().clamp(0, other.picture.side - 1).unbind(1)
    surface = other.shown.surface
    return (surface.depth[rows, columns] - there)[
        (surface.face >= 0)[rows, columns] & (surface.facing > 0.5)[rows, columns]
    ]


def test_nothing_is_before_what_another_photo_shows(shots):
    avatar, (one, other) = shots
    wrong = lifted(one, torch.isfinite(one.shown.surface.depth))
    found = agreeing(avatar, [wrong, other])
    began, ended = (before_the_rig(one, depth, other) for depth in (wrong.shown.depth, found[0].depth))
    # 3 mm are let pass and a step of the trial is 4 mm; between cells that move and cells that need not, it is more.
    assert float((began > 0.008).float().mean()) > 0.7
    assert float((ended > 0.008).float().mean()) < 0.15 and float(ended.median()) < 0.004
    torch.testing.assert_close(found[1].depth, other.shown.depth)  # nothing of it was off the rig


def test_what_no_other_photo_looks_through_stays(shots):
    avatar, (one, other) = shots
    where = torch.isfinite(one.shown.surface.depth)
    hairy = lifted(other, torch.isfinite(other.shown.surface.depth))
    alone, both = (agreeing(avatar, [lifted(one, where), *others])[0] for others in ([], [hairy]))
    expected = torch.where(where, one.shown.depth - LIFT, torch.inf)
    torch.testing.assert_close(alone.depth, expected)
    squarely = where & (one.shown.surface.facing > 0.8)  # elsewhere the two guesses differ by more than the slack
    same = (both.depth[squarely] - expected[squarely]).abs() < 1e-4
    assert int(squarely.sum()) > 300 and float(same.float().mean()) > 0.95
