"""Where a photo's pixels lie: on the rig's face, or on the wig that only generated views know."""

import numpy as np
import pytest
import torch
from export_world import RADII, write_capture
from scipy import ndimage
from test_photo_fit import photo_fit, portrait_of

from mvp4d.core.capture import Capture
from mvp4d_export.seeding import project_points

WIG = 0.02  # metres from the rig to the wig's visible strands, which are up to 0.03 long


@pytest.fixture(scope="module")
def looked(egg, tmp_path_factory):
    """A fit with a photo from the side of the egg, the photo's depth, and rays [S, S, 3] in the axes of its head."""
    sharp = Capture.open(write_capture(tmp_path_factory.mktemp("side") / "capture", views=18, frames=1, size=96))
    fit = photo_fit(egg, portrait_of(sharp, [16]))  # 40 degrees from the front
    photos = fit.photos.photos
    picture = photos.pictures[0]
    matrix = (photos.viewmats[0] @ photos.pose[:1].head_matrix()[0]).double().numpy()
    rows, columns = np.mgrid[: picture.side, : picture.side] + 0.5
    rays = np.stack([columns, rows, np.ones_like(rows)], -1) @ np.linalg.inv(picture.K.double().numpy()).T
    eye = -matrix[:3, :3].T @ matrix[:3, 3]
    return fit, fit.photos.depths[0], rays @ matrix[:3, :3], eye, picture


def first_hit(rays: np.ndarray, eye: np.ndarray, radii: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Depth [S, S, 2] where rays of depth 1 enter and leave an ellipsoid, NaN where they miss; points [S, S, 2, 3]."""
    direction, start = rays / radii, eye / radii
    a, b, c = (direction**2).sum(-1), direction @ start, start @ start - 1
    root = np.sqrt(np.where(b * b > a * c, b * b - a * c, np.nan))
    depth = np.stack([-b - root, -b + root], -1) / a[..., None]
    return depth, eye + rays[..., None, :] * depth[..., None]


def test_hair_beyond_the_outline_lies_where_the_views_show_it(looked):
    _, shown, rays, eye, _ = looked
    depth, points = first_hit(rays, eye, RADII + WIG)
    _, y, z = np.moveaxis(points / (RADII + WIG), -1, 0)
    hairy = (y > 0.45) | ((z < 0.1) & (y > -0.2))
    expected = np.where(hairy[..., 0], depth[..., 0], np.where(hairy[..., 1], depth[..., 1], np.nan))
    beyond = ~torch.isfinite(shown.surface.depth).numpy() & shown.off.numpy() & np.isfinite(expected)
    rig = shown.surface.depth.numpy()
    rows, columns = ndimage.distance_transform_edt(~np.isfinite(rig), return_distances=False, return_indices=True)
    found, outline = (np.abs(depth - expected)[beyond] for depth in (shown.depth.numpy(), rig[rows, columns]))
    assert beyond.sum() > 300
    assert np.median(found) < 0.02 < 0.03 < np.median(outline)  # what the rig's outline would tell


def test_the_face_stays_on_the_rig(looked):
    _, shown, rays, eye, _ = looked
    _, points = first_hit(rays, eye, RADII)
    x, y, z = np.moveaxis(points[..., 0, :] / RADII, -1, 0)
    face = (y < 0.3) & (z > 0.3) & np.isfinite(x)
    assert face.sum() > 1000
    assert shown.off.numpy()[face].mean() < 0.02


def test_nothing_floats_before_the_face(looked):
    """The hull of six views fills what is hollow; a photo that shows the skin clears it."""
    fit, shown, _, _, picture = looked
    photos = fit.photos.photos
    matrix = (photos.viewmats[0] @ photos.pose[:1].head_matrix()[0]).detach()
    with torch.no_grad():
        means = fit.avatar.splats(fit.avatar.vertices(photos.pose[:1])).means
    pixels, depth = project_points(means, matrix, picture.K)
    columns, rows = pixels.long().clamp(0, picture.side - 1).unbind(1)
    skin = torch.isfinite(shown.surface.depth) & ~shown.off & (shown.surface.facing > 0.5)
    before = skin[rows, columns] & (depth < shown.depth[rows, columns] - 0.006)
    assert int(before.sum()) == 0
