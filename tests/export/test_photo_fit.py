"""Photos in a fit: what they show, what they add, what generated views count beside them."""

import dataclasses
import shutil

import numpy as np
import pytest
import torch
from export_world import small_config
from photo_world import PHOTOS, SIDE, photo_fit, portrait_of
from scipy.spatial.transform import Rotation

from mvp4d.core.capture import Capture
from mvp4d.core.capture.portrait import write_portrait
from mvp4d.core.errors import UserError
from mvp4d_export.avatar import Avatar, AvatarConfig, Splats
from mvp4d_export.dataset import Dataset
from mvp4d_export.densify import DensifyConfig
from mvp4d_export.distill import Distiller
from mvp4d_export.fit_checkpoint import load_checkpoint, save_checkpoint
from mvp4d_export.fitting import fit_avatar
from mvp4d_export.losses import psnr
from mvp4d_export.mouth_mask import mouth_mask
from mvp4d_export.photo_fit import LIMITS
from mvp4d_export.photo_start import PhotoStart
from mvp4d_export.photos import Photos, Picture
from mvp4d_export.presets import with_photos
from mvp4d_export.projection import EPS_2D, project, quaternion_to_matrix
from mvp4d_export.rig import Pose
from mvp4d_export.triangles import triangle_frames
from mvp4d_export.visibility import excess_variance, light, rig_surface, smoothed


@pytest.mark.slow
def test_photos_sharpen_what_they_show_and_spoil_nothing_else(egg, sharp):
    truth = Dataset.load(sharp)

    def score(fit: Distiller, view: int) -> float:
        pose = truth.pose[:1]
        with torch.no_grad():
            splats = fit.avatar.splats(fit.avatar.vertices(pose))
            drawn = fit.avatar.render(
                splats, pose, truth.viewmats[[view], 0], truth.Ks[[view], 0], SIDE, SIDE, truth.background
            )
        return float(psnr(drawn.rgb.clamp(0, 1), truth.batch([view], 0)[0]))

    config = small_config(frames_per_step=2, steps=120)
    plain = Distiller(
        Dataset.load(Capture.open(egg)),
        dataclasses.replace(config, avatar=dataclasses.replace(config.avatar, antialiased=True)),
    )
    with_photos = photo_fit(egg, portrait_of(sharp, [17, 1]), steps=120)
    for fit in (plain, with_photos):
        for _ in range(fit.config.steps):
            fit.train_step()
        fit.finish()
    gain = {view: score(with_photos, view) - score(plain, view) for view in (17, 0, 1, 9)}
    assert min(gain[17], gain[1]) > 2.0, gain
    assert gain[0] > 1.0, gain  # between the two, never seen as sharp
    assert gain[9] > -0.1, gain  # from behind


def test_the_rig_is_drawn_as_rays_hit_it(egg):
    """Moller and Trumbore's intersection, ray by ray, says the same triangle and depth."""
    data = Dataset.load(Capture.open(egg))
    avatar = Avatar(AvatarConfig(24, 0), data.capture.head)
    pose, side = data.pose[2:3], 48
    surface = rig_surface(avatar, pose, data.viewmats[1, 2], data.Ks[1, 2], side)
    matrix = (data.viewmats[1, 2] @ pose.head_matrix()[0]).double()
    corners = avatar.rig(pose)[0][0].double()[avatar.rig.faces]  # [T, 3, 3]
    corners = corners @ matrix[:3, :3].T + matrix[:3, 3]
    a, first, second = corners[:, 0], corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    K = data.Ks[1, 2].double()
    hits = 0
    for row in range(2, side, 5):
        for column in range(2, side, 5):
            ray = torch.tensor([(column + 0.5 - K[0, 2]) / K[0, 0], (row + 0.5 - K[1, 2]) / K[1, 1], 1.0]).double()
            normal = torch.linalg.cross(ray.expand_as(second), second)
            det = (first * normal).sum(1)
            u = (-a * normal).sum(1) / det
            across = torch.linalg.cross(-a, first)
            v, depth = (ray * across).sum(1) / det, (second * across).sum(1) / det
            hit = (u >= 0) & (v >= 0) & (u + v <= 1) & (depth > 0)
            assert bool(hit.any()) == (int(surface.face[row, column]) >= 0)
            if hit.any():
                hits += 1
                assert float(surface.depth[row, column]) == pytest.approx(float(depth[hit].min()), abs=1.5e-3)
    assert hits > 20


def test_light_is_what_blending_lets_through(egg):
    """Two Gaussians behind each other: the front one's weights are its alphas, the rear one's what is left."""
    avatar = Avatar(AvatarConfig(24, 0), Capture.open(egg).head)
    splats = Splats(
        torch.tensor([[0.0, 0, 0.0], [0.0, 0, 0.1]]),
        torch.tensor([[1.0, 0, 0, 0]] * 2),
        torch.full((2, 3), 0.01),
        torch.tensor([0.6, 0.8]),
        torch.zeros(2, 1, 3),
    )
    pose = Pose(torch.zeros(1, 4), *(torch.zeros(1, 3) for _ in range(4)), torch.zeros(1, 2, 3))
    viewmat = torch.eye(4)
    viewmat[2, 3] = 0.5  # looks along z: the second one is behind the first
    side = 32
    K = torch.tensor([[200.0, 0, side / 2], [0, 200.0, side / 2], [0, 0, 1]])
    mask = torch.zeros(side, side)
    mask[:, : side // 2] = 1
    found = light(avatar, splats, pose, viewmat, K, mask)
    grid = torch.stack(torch.meshgrid(*(torch.arange(side) + 0.5,) * 2, indexing="ij"), -1) - side / 2
    squared = grid.square().sum(-1)
    alphas = [
        opacity * torch.exp(-squared / 2 / ((0.01 * 200 / depth) ** 2 + EPS_2D))
        for opacity, depth in ((0.6, 0.5), (0.8, 0.6))
    ]
    alphas = [torch.where(alpha > 1 / 255, alpha, 0) for alpha in alphas]
    expected = torch.stack([(alphas[0] * mask).sum(), (alphas[1] * (1 - alphas[0]) * mask).sum()])
    torch.testing.assert_close(found, expected, rtol=2e-3, atol=0)


@pytest.mark.parametrize("axis", [(0.0, 0.0, 0.0), (0.9, 0.3, -0.4)])
def test_smoothing_in_space_is_blur_on_the_screen(axis):
    """Smoothed by what its pitch lacks, a Gaussian looks as if the screen's blur had grown instead."""
    turn = torch.from_numpy(Rotation.from_rotvec(axis).as_quat(scalar_first=True)).float()[None]
    splats = Splats(
        torch.zeros(1, 3), turn, torch.tensor([[0.001, 0.002, 4e-4]]), torch.tensor([0.7]), torch.zeros(1, 1, 3)
    )
    viewmat = torch.eye(4)[None]
    viewmat[:, 2, 3] = 0.5
    K = torch.tensor([[[1000.0, 0, 32], [0, 1000.0, 32], [0, 0, 1]]])
    pitch, shown = 0.002, 0.5 / 1000
    towards = torch.tensor([[0.0, 0, -1]])
    soft = smoothed(splats, excess_variance(torch.tensor([pitch]), shown), towards)
    ours, blurred = (
        project(
            item.means, item.quaternions, item.scales, item.opacities, viewmat, K, 64, 64, antialiased=True, eps2d=eps
        )
        for item, eps in ((soft, EPS_2D), (splats, EPS_2D * (pitch / shown) ** 2))
    )
    torch.testing.assert_close(ours.conics, blurred.conics, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(ours.opacities, blurred.opacities, rtol=1e-4, atol=0)
    same = smoothed(splats, excess_variance(torch.tensor([shown]), shown), towards)
    torch.testing.assert_close(same.scales, splats.scales)
    torch.testing.assert_close(same.opacities, splats.opacities)


def test_generated_views_count_less_where_a_photo_shows_the_surface(egg, sharp):
    fit = photo_fit(egg, portrait_of(sharp, [0]))
    views, pose = [0, 1, 3], fit.data.pose[:1]
    splats = fit.avatar.splats(fit.avatar.vertices(pose))
    cameras = fit.data.viewmats[views, 0], fit.data.Ks[views, 0]
    drawn = fit.avatar.render(splats, pose, *cameras, 48, 48, marks=fit.photos.marks())
    (front, side, back), outlines = fit.photos.view_weights(drawn, 0, views)
    head = fit.data.masks[[0, 1, 3], 0] > 250
    trust = fit.config.photos.trust
    assert float(front[head[0]].mean()) < 1 - 0.6 * trust
    assert float(back[head[2]].mean()) > 0.97
    lit, far = side[:, :24][head[1][:, :24]], side[:, 24:][head[1][:, 24:]]  # 60 degrees off: one half faces the photo
    assert abs(float(lit.mean()) - float(far.mean())) > 0.15
    torch.testing.assert_close(outlines.mean((1, 2)), torch.tensor([1 - trust, 1.0, 1.0]), atol=0.05, rtol=0)


def test_pitch_is_that_of_the_finest_picture(egg, sharp):
    fit = photo_fit(egg, portrait_of(sharp, [0]))
    photo, coarse = float(fit.photos.photos.pitch[0]), fit.data.pixel_pitch
    assert photo == pytest.approx(coarse / 2, rel=0.1)
    assert fit.avatar.config.pitch == pytest.approx(photo)
    pose = fit.data.pose[:1]
    means = fit.avatar.splats(fit.avatar.vertices(pose)).means.detach()
    behind = means[:, 2] < -0.05
    assert float((fit.photos.pitch[behind] == coarse).float().mean()) > 0.98
    nose = (means[:, 2] > 0.085) & (fit.photos.shown > 0.5)
    assert nose.sum() > 20
    torch.testing.assert_close(fit.photos.pitch[nose], torch.full((int(nose.sum()),), photo))


def test_colours_are_matched_before_the_fit(egg, sharp):
    """A photo in warmer light: the avatar takes its colours all over, and generated views are put into its light."""
    gain = np.array([1.15, 0.95, 0.8])
    portrait = portrait_of(sharp, [0])
    warm = portrait.photos[0].astype(float)
    warm[..., :3] *= gain / gain.max()
    fits = photo_fit(egg, portrait), photo_fit(egg, dataclasses.replace(portrait, photos=(warm.astype(np.uint8),)))
    solid = fits[0].data.masks > 250
    neutral, tinted = (fit.data.pictures[solid].float().mean(0) for fit in fits)
    torch.testing.assert_close((tinted / neutral).double(), torch.from_numpy(gain / gain.max()), atol=0.03, rtol=0)
    plain = Dataset.load(Capture.open(egg)).pictures[solid].float().mean(0)
    torch.testing.assert_close(neutral / plain, torch.ones(3), atol=0.06, rtol=0)
    colours = [fit.avatar.harmonics.detach()[:, 0] * 0.28209479177387814 + 0.5 for fit in fits]
    behind = [fit.avatar.splats(fit.avatar.vertices(fit.data.pose[:1])).means[:, 2] < -0.06 for fit in fits]
    ratio = colours[1][behind[1]].mean(0) / colours[0][behind[0]].mean(0)
    torch.testing.assert_close(ratio.double(), torch.from_numpy(gain / gain.max()), atol=0.05, rtol=0)


def test_a_photos_own_fit_is_mended_within_limits(egg, sharp):
    """The second photo's camera is 8 mm off: it comes back towards where the first one has the head."""
    portrait = portrait_of(sharp, [0, 1])
    cameras = np.array(portrait.camera.world_to_camera)
    cameras[1, 0, 3] += 0.008
    wrong = dataclasses.replace(portrait, camera=dataclasses.replace(portrait.camera, world_to_camera=cameras))
    fit = photo_fit(egg, wrong, steps=30, photos=dataclasses.replace(PHOTOS, every=2, rate=0.05))
    for _ in range(30):
        fit.train_step()
    centre = torch.tensor([0.0, 0.0, 0.0, 1.0])
    with torch.no_grad():
        pose, viewmat = fit.photos.view(1)
        truth = torch.from_numpy(np.asarray(portrait.camera.world_to_camera[1], np.float32))
        off = ((viewmat - truth) @ pose.head_matrix()[0] @ centre)[0]
        assert 0 < float(off) < 0.006
        fit.photos.free["shift"].fill_(100.0)
        fit.photos.free["turn"].zero_()
        moved = fit.photos.view(1)[1] - fit.photos.photos.viewmats[1]
    assert float(moved[:3, 3].abs().max()) <= LIMITS["shift"] * 1.001


def test_a_stopped_fit_with_photos_goes_on_as_if_it_had_not(egg, sharp, tmp_path):
    schedule = DensifyConfig(rounds=2, start=0.2, stop=0.8)
    portrait = portrait_of(sharp, [0, 2])
    whole, first, second = (photo_fit(egg, portrait, steps=6, densify=schedule) for _ in range(3))
    for _ in range(6):
        whole.train_step()
    for _ in range(5):  # two steps after Gaussians were dropped and added: places have changed since limits were set
        first.train_step()
    save_checkpoint(first, tmp_path)
    assert load_checkpoint(second, tmp_path)
    kept = first.photos.state()
    assert set(kept) == {"fixed", "beyond", "shown", "pitch", "across", "claims", "corrections"}
    for name, value in second.photos.state().items():
        assert torch.equal(value, kept[name]), name
    first.photos.look()
    assert not torch.equal(first.photos.across, kept["across"])  # places have changed: measured anew it differs
    second.train_step()
    for mine, theirs in zip(second.limits, whole.limits):
        assert torch.equal(mine, theirs)
    for name, value in whole.parameters().items():
        torch.testing.assert_close(second.parameters()[name], value, rtol=0, atol=0)
    assert not load_checkpoint(photo_fit(egg, portrait_of(sharp, [0]), steps=6, densify=schedule), tmp_path)


@pytest.mark.parametrize("teeth", [(0.85, 0.82, 0.74), (0.8, 0.61, 0.48)])
@pytest.mark.parametrize("off", [5, -4, 0])
def test_a_mouth_is_told_from_lips_where_the_fit_is_off(teeth, off):
    """Teeth, white or like skin in warm light, with a dark rim between lips; the fitted head is some pixels off."""
    side, rng = 256, np.random.default_rng(0)
    rows, columns = np.mgrid[:side, :side]

    def oval(height, width, down=0):
        return ((rows - 150 - down) / height) ** 2 + ((columns - 128) / width) ** 2 < 1

    rgb = np.tile(np.array([0.78, 0.6, 0.5]), (side, side, 1))
    rgb[oval(22, 52)] = (0.7, 0.35, 0.35)
    rgb[oval(10, 38)] = (0.12, 0.06, 0.06)
    rgb[oval(8, 34)] = teeth
    rgb = np.clip(rgb + 0.02 * rng.standard_normal(rgb.shape), 0, 1)
    ones = torch.ones(side, side)
    picture = Picture(torch.from_numpy(rgb).float(), ones, ones, torch.eye(3))
    found = mouth_mask(picture, torch.from_numpy(oval(10, 38, off))) > 0
    truth, outer = torch.from_numpy(oval(10, 38)), torch.from_numpy(oval(14, 42))
    assert float(found[truth].float().mean()) > 0.97
    assert int((found & ~outer).sum()) < 20
    nothing = mouth_mask(picture, torch.zeros(side, side, dtype=torch.bool))
    assert not nothing.any()


def test_photos_are_cropped_to_the_head_and_end_where_they_end(sharp):
    portrait = portrait_of(sharp, [0])
    photo = np.pad(portrait.photos[0], ((30, 10), (50, 70), (0, 0)))
    camera = dataclasses.replace(portrait.camera, cx=portrait.camera.cx + 50, cy=portrait.camera.cy + 30)
    padded = dataclasses.replace(portrait, photos=(photo,), camera=camera)
    whole, cropped = Photos.load(portrait, SIDE), Photos.load(padded, 64)
    assert whole.pictures[0].side == SIDE and cropped.pictures[0].side == 64
    # The same rays carry the same colours.
    small, large = cropped.pictures[0], whole.pictures[0]
    pixel = torch.tensor([30.5, 33.5])
    ray = (pixel - small.K[:2, 2]) / torch.stack((small.K[0, 0], small.K[1, 1]))
    there = (ray * torch.stack((large.K[0, 0], large.K[1, 1])) + large.K[:2, 2] - 0.5).round().long()
    torch.testing.assert_close(small.rgb[33, 30], large.rgb[there[1], there[0]], atol=0.08, rtol=0)
    away = dataclasses.replace(padded, camera=dataclasses.replace(camera, cx=camera.cx + 400))
    with pytest.raises(UserError, match="outside of the picture"):
        Photos.load(away, 64)


def test_a_capture_with_a_portrait_is_fitted_with_it(egg, sharp, tmp_path):
    capture = tmp_path / "capture"
    shutil.copytree(egg, capture)
    write_portrait(capture, portrait_of(sharp, [0]))
    options = {"preset_name": "cpu", "steps": 1, "device": "cpu"}
    with_photo = fit_avatar(Capture.open(capture), tmp_path / "a", **options)
    without = fit_avatar(Capture.open(capture), tmp_path / "b", photos=False, **options)
    assert (with_photo["photos"], without["photos"]) == (1, 0)
    assert Avatar.load(tmp_path / "a").config.pitch < 0.6 * Avatar.load(tmp_path / "b").config.pitch
    config = with_photos(small_config())
    assert config.avatar.antialiased and config.max_gaussians > config.start_gaussians


def test_baking_blurs_by_what_no_picture_told(egg, sharp, monkeypatch):
    """Covariances before and after: nothing is added across a photo's line of sight, the coarse pitch along it, but on
    the rig, whose normal is known too: of M = t t' + n n' with an angle a between line of sight and n, the smallest
    eigenvalue is 1 - sin a."""
    for other in ("fade_specks", "cut_overreach"):  # of which this head has some
        monkeypatch.setattr(f"mvp4d_export.photo_end.{other}", lambda *_: None)
    fit = photo_fit(egg, portrait_of(sharp, [0]))
    pose, viewmat = fit.photos.view(0)

    def covariances():
        splats = fit.avatar.splats(fit.avatar.vertices(pose))
        root = quaternion_to_matrix(splats.quaternions) * splats.scales[:, None]
        return splats, (root @ root.mT).detach()

    splats, before = covariances()
    seen, finest, coarse = fit.photos.pitch < fit.data.pixel_pitch, fit.avatar.config.pitch, fit.data.pixel_pitch
    opacity = fit.avatar.logit_opacity.detach().clone()
    fit.finish()
    fit.finish()  # once
    _, after = covariances()
    grown = after - before
    full = EPS_2D * (coarse**2 - finest**2)
    torch.testing.assert_close(grown[~seen], full * torch.eye(3).expand(int((~seen).sum()), 3, 3), rtol=0.02, atol=1e-7)
    matrix = (viewmat @ pose.head_matrix()[0]).detach()
    ray = torch.nn.functional.normalize(splats.means.detach() + matrix[:3, :3].T @ matrix[:3, 3], dim=1)[seen]
    expected = full * ray[:, :, None] * ray[:, None, :]
    vertices = fit.avatar.vertices(pose).detach()
    binding = fit.avatar.binding[seen]
    surface = (splats.means.detach()[seen] - vertices[fit.avatar.mesh_faces].mean(1)[binding]).norm(dim=1) < 0.008
    assert 100 < int(surface.sum()) < len(surface) - 100
    torch.testing.assert_close(grown[seen][~surface], expected[~surface], rtol=0.02, atol=1e-7)
    normal = triangle_frames(vertices, fit.avatar.mesh_faces)[0][binding][surface][:, :, 1]
    sine = torch.linalg.cross(normal, ray[surface]).norm(dim=1)
    most = EPS_2D * finest**2 * (1 / (1 - sine + (finest / coarse) ** 2) - 1).clamp(min=0)
    largest, rest = torch.linalg.eigvalsh(grown[seen][surface]).flip(1).split((1, 2), dim=1)
    torch.testing.assert_close(largest[:, 0], most, rtol=0.02, atol=1e-7)
    assert rest.abs().max() < 1e-7
    torch.testing.assert_close(fit.avatar.logit_opacity[seen].detach(), opacity[seen], atol=1e-3, rtol=0)
    assert float((opacity - fit.avatar.logit_opacity.detach())[~seen].median()) > 0.3
    assert 200 < int(seen.sum()) < len(seen) - 200


def test_of_two_photos_the_one_that_sees_a_place_squarely_tells_its_colour(egg, sharp, monkeypatch):
    """Photos from the front and from 40 degrees beside it: each counts on its own side of the face."""
    monkeypatch.setattr("mvp4d_export.visibility.OTHERS", 1.0)  # neither is preferred
    fit = photo_fit(egg, portrait_of(sharp, [0, 2]))
    shares, tops = [], []
    for index in range(2):
        pose, viewmat = fit.photos.view(index)
        picture = fit.photos.photos.pictures[index]
        splats = fit.avatar.splats(fit.avatar.vertices(pose))
        cameras = viewmat[None], picture.K[None]
        drawn = fit.avatar.render(splats, pose, *cameras, SIDE, SIDE, marks=fit.photos.own(index))
        share = fit.photos.own_share(drawn)
        columns = (share * picture.alpha).sum(0) / picture.alpha.sum(0).clamp(min=1)
        shares.append(columns[picture.alpha.sum(0) > 8])
    for share in shares:
        ends = float(share[: len(share) // 8].mean()), float(share[-len(share) // 8 :].mean())
        tops.append(ends.index(max(ends)))
        assert max(ends) > 0.8 and min(ends) < 0.45, ends
    assert tops[0] != tops[1]
    alone = photo_fit(egg, portrait_of(sharp, [0]))
    assert alone.photos.own(0) is None
    assert float(alone.photos.own_share(dataclasses.replace(drawn, marked=None)).min()) == 1


def test_what_a_photo_shows_stays_on_the_rig(egg, sharp):
    fit = photo_fit(egg, portrait_of(sharp, [0]))
    surface, shown = fit.photos.on_surface(), fit.photos.shown
    away = fit.limits[1]
    assert (surface & (shown == 1)).sum() > 30 and (surface & (shown == 0)).sum() > 100
    torch.testing.assert_close(away[surface & (shown == 1)].unique(), torch.tensor([0.001]))
    torch.testing.assert_close(away[surface & (shown == 0)].unique(), torch.tensor([0.004]))
    assert float(away[~surface].min()) > 0.01


def test_a_photo_tells_nothing_of_what_another_one_sees(egg, sharp):
    """Photos from the front and from behind: neither tells the light on the other's side."""
    fit = photo_fit(egg, portrait_of(sharp, [0, 9]))
    start = PhotoStart(fit.photos)
    fit.photos.depths = []  # as before they are known
    pose = fit.data.pose[:1]
    z = fit.avatar.splats(fit.avatar.vertices(pose)).means[:, 2]
    depicted = (z.abs() > 0.07) & ~fit.photos.beyond  # the rest is seen at the photo's rim
    for index, other_side in enumerate((z < -0.03, z > 0.03)):
        seen = start._photo_colours(index)[1].detach()
        assert float(seen[other_side].max()) == 0
        assert float(seen[~other_side & depicted].mean()) > 0.5


def test_every_other_sample_of_a_photo_is_a_turned_view(egg, sharp, monkeypatch):
    """Of two photos each in turn, first as it is, then from one of four sides; every third step is of photos alone, and
    between them views go round the frames."""
    fit = photo_fit(egg, portrait_of(sharp, [0, 1]))
    drawn, frames, kinds = [], [], []
    monkeypatch.setattr(fit, "photo_sample", lambda index, *rest: (drawn.append((index, rest[-1])), kinds.append(1)))
    monkeypatch.setattr(fit, "sample", lambda frame, *_: (frames.append(frame), kinds.append(0)))
    for index in range(3 * 18):
        fit.draw(index, 0.5, False)
    assert drawn[:16] == [(photo, turn) for which in range(4) for turn in (None, which) for photo in (0, 1)]
    assert kinds == [kind for _ in range(6) for kind in (0, 0, 1) for _ in range(3)]
    fitted_frames = fit.data.train_frames
    assert sorted(frames[: len(fitted_frames)]) == sorted(fitted_frames)
