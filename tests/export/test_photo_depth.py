"""Where a photo's pixels lie: on the rig's face, or on the wig that only generated views know."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from export_world import RADII
from photo_world import SIDE, photo_fit, portrait_of
from scipy import ndimage

from mvp4d_export.distill import STRAYED
from mvp4d_export.outside import outside
from mvp4d_export.photo_depth import CELLS, MISFIT, WIDER, GeneratedViews, _beside, _beyond
from mvp4d_export.seeding import project_points
from mvp4d_export.sheet import on_sheet
from mvp4d_export.thickness import PLACES, Thickness, centres
from mvp4d_export.triangles import to_local, triangle_frames

WIG = 0.02  # metres from the rig to the wig's visible strands, which are up to 0.03 long

LONGEST = 0.03
SKIN = (0.8, 0.6, 0.5)


@pytest.fixture(scope="module")
def looked(egg, sharp):
    """A fit with a photo from the side of the egg, the photo's depth, and rays [S, S, 3] in the axes of its head."""
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


def test_outlines_tell_how_thick_hair_is_and_that_skin_is_bare(looked):
    fit, _, _, _, _ = looked
    sights = GeneratedViews(fit.avatar, fit.data, torch.ones(3))
    skin = torch.tensor(SKIN)
    thickness = Thickness.of_all(sights.outlines(skin))
    places = centres(fit.avatar)
    _, y, z = (places / torch.from_numpy(RADII).float()).unbind(1)
    found = thickness.at(places)
    crown, face = (y > 0.6) & (z < 0.5), (y < 0) & (z > 0.6)
    assert found[crown].median() == pytest.approx(LONGEST, abs=0.006)  # its outline is where the longest strands end
    assert float(found[face].median()) < 0.001


def test_hair_over_the_rig_lies_before_it(looked):
    _, shown, rays, eye, _ = looked
    depth, points = first_hit(rays, eye, RADII + WIG)
    _, y, z = np.moveaxis(points[..., 0, :] / (RADII + WIG), -1, 0)
    over = (shown.surface.facing.numpy() > 0.5) & ((y > 0.45) | ((z < 0.05) & (y > 0)))
    rig, found = (np.abs(value.numpy() - depth[..., 0])[over] for value in (shown.surface.depth, shown.depth))
    assert over.sum() > 100
    assert np.median(found) < 0.015 < 0.025 < np.median(rig)


def test_outlines_of_a_known_shape():
    """A disk of the rig in a larger disk of hair: the ring's width, everywhere; none where its colour is skin's."""
    avatar = SimpleNamespace(rig=SimpleNamespace(template=torch.eye(3), faces=torch.tensor([[0, 1, 2]])))
    away = np.hypot(*(np.mgrid[:80, :80] - 39.5))
    face = torch.from_numpy(np.where(away < 20, 0, -1))
    depth, mask = torch.where(face >= 0, 2.0, torch.inf), torch.from_numpy(away < 28).float()
    colours = torch.zeros(80, 80, 3).index_fill_(1, torch.arange(40, 80), 0.6)
    told = Thickness.of_outline(avatar, face, depth, mask, colours, torch.tensor(1000.0), torch.full((3,), 0.6))
    hairy = told.beyond > 0
    torch.testing.assert_close(told.beyond[hairy], torch.full_like(told.beyond[hairy], 0.016), atol=0.0015, rtol=0)
    assert 0.4 < float(hairy.float().mean()) < 0.6
    far = told.at(torch.tensor([[1 / 3, 1 / 3, 1 / 3 + 0.5], [1 / 3] * 3]))
    assert float(far[0]) == 0 and 0.4 * 0.016 < float(far[1]) < 0.6 * 0.016
    half = torch.ones(80, 80).index_fill_(0, torch.arange(40), 0)  # a photo that ends in the middle
    cut = Thickness.of_outline(avatar, face, depth, mask * half, colours, *map(torch.tensor, (1000.0, SKIN)), half)
    assert len(cut.beyond) == pytest.approx(len(told.beyond) / 2, abs=4) and float(cut.beyond.max()) < 0.018
    nothing = Thickness.of_outline(avatar, face * 0 - 1, depth, mask, colours, torch.tensor(1000.0), torch.ones(3))
    assert Thickness.of_all([nothing]).at(torch.zeros(2, 3)).tolist() == [0, 0]
    many = Thickness.of_all([told] * 500)  # more than are kept
    assert len(many.beyond) <= PLACES
    assert float(many.length.sum()) == pytest.approx(500 * float(told.length.sum()), rel=0.02)


@torch.no_grad()
def test_what_is_off_the_rig_is_laid_on_a_sheet_and_nothing_else_moves(looked):
    """Points go where `on_sheet` has them, as the photo's camera sees them; those that it does not see stay."""
    fit, _, _, _, _ = looked
    photos, avatar = fit.photos, fit.avatar
    pose, before = photos.photos.pose[:1], avatar.position.clone()
    moved = (photos.claims[0] > 0) & ~photos.on_surface() & ~photos.fixed
    assert moved.sum() > 100
    matrix = photos.photos.viewmats[0] @ pose.head_matrix()[0]
    eye, axis = -torch.linalg.inv(matrix[:3, :3]) @ matrix[:3, 3], matrix[2, :3]
    means = avatar.splats(avatar.vertices(pose)).means
    expected = means.clone()
    expected[moved] = on_sheet(means[moved], eye, axis)
    assert float((expected - means)[moved].norm(dim=1).median()) > 1e-4
    photos.even_depths()
    torch.testing.assert_close(avatar.splats(avatar.vertices(pose)).means, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(avatar.position[~moved], before[~moved], atol=0, rtol=0)
    avatar.position.copy_(before)


def widen_wig(photo, by=4):
    """[S, S] bool: the pixels beside the wig of `photo` [S, S, 4] that it gets, `by` wide."""
    solid = photo[..., 3] > 127
    at = ndimage.distance_transform_edt(~solid, return_distances=False, return_indices=True)
    wider = ndimage.binary_dilation(solid, iterations=by) & ~solid
    wider &= (np.arange(SIDE) < SIDE // 2)[:, None]  # beside the wig, not the neck
    photo[..., :3][wider] = photo[..., :3][at[0], at[1]][wider]
    photo[wider, 3] = 255
    return wider


def test_hair_wider_than_in_the_views_is_as_far_off_as_what_lies_beside(egg, sharp):
    """They have depths, Gaussians start there and are no strays at the end."""
    portrait = portrait_of(sharp, [16])
    photo = portrait.photos[0]
    known = photo_fit(egg, portrait).photos.depths[0]
    solid = photo[..., 3] > 127
    wider = widen_wig(photo)
    fit = photo_fit(egg, portrait)
    photos, shown = fit.photos, fit.photos.depths[0]
    assert not known.beyond[torch.from_numpy(~solid)].any()
    wider = torch.from_numpy(wider)
    assert (wider & known.off).sum() == 0 and (wider & shown.off).sum() > 0.4 * wider.sum()  # skin among it
    got = wider & shown.beyond
    assert int(got.sum()) > 50
    solid, size = torch.from_numpy(photo[..., 3] > 127), SIDE // CELLS
    near = ndimage.binary_dilation(shown.beyond.numpy(), np.ones((2 * size + 1,) * 2))
    near = solid & torch.from_numpy(near) & ~torch.isfinite(shown.surface.depth)
    assert float(shown.off[near].float().mean()) > 0.97  # to its outline; without that 0.92
    depth = known.depth.numpy()
    at = ndimage.distance_transform_edt(~known.off.numpy(), return_distances=False, return_indices=True)
    missed = np.abs(shown.depth[got].numpy() - depth[at[0], at[1]][got.numpy()])
    assert np.median(missed) < 0.02 and missed.max() < 0.05  # metres
    beyond = photos.beyond_views()
    picture, (pose, viewmat) = photos.photos.pictures[0], photos.view(0)
    with torch.no_grad():
        means = fit.avatar.splats(fit.avatar.vertices(pose)).means
    pixels, _ = project_points(means, viewmat @ pose.head_matrix()[0], picture.K)
    column, row = pixels.detach().floor().long().clamp(0, picture.side - 1).unbind(1)
    assert int(beyond.sum()) > 5 and bool(shown.beyond[row, column][beyond].all())
    assert not outside(fit.avatar, fit.data, ~photos.on_surface() & ~photos.fixed & ~beyond).any()
    views, trust = [1, 3, 5], fit.config.photos.trust
    splats, cameras = fit.avatar.splats(fit.avatar.vertices(pose)), (fit.data.viewmats[views, 0], fit.data.Ks[views, 0])
    drawn = fit.avatar.render(splats, fit.data.pose[:1], *cameras, 48, 48, marks=photos.marks())
    _, outlines = photos.view_weights(drawn, 0, views)  # [3, 48, 48]
    far = outlines.flatten(1)[outlines.amax((1, 2)) > 1 - 1e-3]  # views that are not from where the photo was taken
    assert len(far) and float(far.min()) < 1 - 0.9 * trust and float(far.mean()) > 0.95


def test_hair_wider_than_in_the_views_is_no_stray_where_the_fit_moved_it_along_the_sight(egg, sharp):
    """Along it the photo stays as it is, so a fit moves Gaussians there."""
    portrait = portrait_of(sharp, [16])
    widen_wig(portrait.photos[0], by=9)
    fit = photo_fit(egg, portrait)
    photos, (pose, viewmat) = fit.photos, fit.photos.view(0)
    beyond, matrix = photos.beyond_views(), viewmat @ pose.head_matrix()[0]
    with torch.no_grad():
        vertices = fit.avatar.vertices(pose)
        means = fit.avatar.splats(vertices).means
        sight = means + matrix[:3, :3].T @ matrix[:3, 3]  # from the camera
        moved = means + 0.02 * sight / sight.norm(dim=1, keepdim=True)
        frames = triangle_frames(vertices, fit.avatar.mesh_faces)
        fit.avatar.position[beyond] = to_local(moved, frames, fit.avatar.binding)[beyond]
    assert not photos.beyond_views()[beyond].any() and photos.beyond_views(STRAYED)[beyond].all()
    assert outside(fit.avatar, fit.data, ~photos.on_surface() & ~photos.fixed)[beyond].sum() > 5  # they would go
    fit.finish()
    assert int(photos.beyond_views(STRAYED).sum()) > 0.95 * int(beyond.sum())


def test_skin_within_the_hull_of_the_views_is_not_beyond_it(egg, sharp):
    """Half of the wig beside the rig has skin's colour in the photo alone, as fair hair may: it is where it was."""
    portrait = portrait_of(sharp, [16])
    known = photo_fit(egg, portrait).photos.depths[0]
    away = ndimage.distance_transform_edt(~torch.isfinite(known.surface.depth).numpy())
    chosen = (known.off & ~known.beyond).numpy() & (away > 5)
    chosen &= np.arange(SIDE) < np.median(np.nonzero(chosen)[1])
    assert chosen.sum() > 50
    portrait.photos[0][..., :3][chosen] = np.round(255 * np.array(SKIN)).astype(np.uint8)
    fit = photo_fit(egg, portrait)
    assert not fit.photos.depths[0].beyond[torch.from_numpy(chosen)].any()


@pytest.mark.parametrize("light, hair", [(1.0, False), (0.5, True)])
def test_what_has_the_hue_of_skin_beside_the_rig_is_skin_where_it_is_as_light(egg, sharp, light, hair):
    """Half of the wig beside the rig, in the colour of skin and of brown hair."""
    portrait = portrait_of(sharp, [16])
    known = photo_fit(egg, portrait).photos.depths[0]
    away = ndimage.distance_transform_edt(~torch.isfinite(known.surface.depth).numpy())
    chosen = known.off.numpy() & (away > 0) & (away < MISFIT)
    chosen &= np.arange(SIDE) < np.median(np.nonzero(chosen)[1])
    assert chosen.sum() > 50
    portrait.photos[0][..., :3][chosen] = np.round(255 * light * np.array(SKIN)).astype(np.uint8)
    shown = photo_fit(egg, portrait).photos.depths[0]
    share = float(shown.off[torch.from_numpy(chosen)].float().mean())
    assert share > 0.7 if hair else share < 0.3


def test_what_lies_beside_is_as_far_as_what_is_near_and_smooth():
    off = torch.zeros(9, 9, dtype=torch.bool)
    off[:, 0] = off[:, 8] = True
    depth = torch.full((9, 9), torch.inf)
    depth[:, 0], depth[:, 8] = 1.0, 2.0
    places = torch.zeros_like(off)
    places[4, 1:8] = True
    found = _beside(places, off, depth)
    by_hand = [
        sum(d * ((x - c) ** 2 + (4 - r) ** 2) ** -2 for r in range(9) for c, d in ((0, 1), (8, 2)))
        / sum(((x - c) ** 2 + (4 - r) ** 2) ** -2 for r in range(9) for c in (0, 8))
        for x in range(1, 8)
    ]
    assert found.tolist() == pytest.approx(by_hand, rel=1e-5)
    assert float(found[3]) == pytest.approx(1.5) and (found[1:] > found[:-1]).all()
    assert _beside(off & False, off, depth).shape == (0,)


def test_what_a_photo_does_not_show_is_not_beyond_the_hull_in_it(egg, sharp):
    """Gaussians aside of a picture whose border shows what is beyond."""
    photos = photo_fit(egg, portrait_of(sharp, [16])).photos
    picture, (pose, viewmat), shown = photos.photos.pictures[0], photos.view(0), photos.depths[0]
    shown.beyond[:] = True
    shown.depth[:] = float(viewmat[2, 3])
    avatar = photos.avatar
    with torch.no_grad():
        frames = triangle_frames(avatar.vertices(pose), avatar.mesh_faces)
        matrix = viewmat @ pose.head_matrix()[0]
        aside = torch.tensor([0.0, 0.6, 3.0])  # halves of the picture from its middle
        half = picture.side / 2 * shown.depth[0, 0] / picture.K[0, 0]
        camera = torch.stack([aside * 2 * half, torch.zeros(3), shown.depth[0, 0].expand(3)], 1)
        avatar.position[:3] = to_local((camera - matrix[:3, 3]) @ matrix[:3, :3], frames, avatar.binding[:3])
    assert photos.beyond_views()[:3].tolist() == [True, False, False]


def test_skin_beside_the_rig_is_its_own_outline_and_skin_far_from_it_is_not():
    side, rig = 40, torch.zeros(40, 40, dtype=torch.bool)
    rig[:, :10] = True
    off = torch.zeros_like(rig)
    off[:10, 10:20] = True
    unknown, skin = ~off & ~rig, torch.ones_like(rig)
    row, column = torch.meshgrid(*2 * [torch.arange(float(side))], indexing="ij")
    away = torch.maximum((10 - column).clamp(min=0) + (column - 19).clamp(min=0), row - 9)
    near = unknown & (away <= WIDER)
    assert torch.equal(_beyond(unknown, off, rig, ~skin), near)
    assert torch.equal(_beyond(unknown, off, rig, skin), near & (column - 9 > MISFIT))
    assert not _beyond(unknown, off & False, rig, skin).any()
