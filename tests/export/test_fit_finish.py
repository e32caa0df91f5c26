"""How a fit with photos ends: what strays goes, strands come once, a broken end begins again."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from export_world import RADII
from photo_world import PHOTOS, photo_fit, portrait_of

from mvp4d.core.heads.model import HeadModel
from mvp4d_export.avatar import GAUSSIAN_TENSORS
from mvp4d_export.densify import Change
from mvp4d_export.fit_checkpoint import load_checkpoint, save_checkpoint
from mvp4d_export.fitting import distill
from mvp4d_export.outside import outside
from mvp4d_export.photo_end import even_rims
from mvp4d_export.rim import EAR_RIM, SKIN_RIM
from mvp4d_export.triangles import triangle_frames
from mvp4d_export.visibility import gaussians_of


def with_landmarks(egg, folder) -> Path:
    """The egg's capture with a head whose landmarks tell brows, chin and ears."""
    shutil.copytree(egg, folder)
    head = HeadModel.load(folder / "head.npz")
    centres, faces = head.template[head.faces].mean(1) / RADII, np.zeros(68, np.int32)
    places = {0: (-1, 0, 0), 8: (0, -0.85, 0.5), 16: (1, 0, 0), 19: (-0.3, 0.4, 0.87), 24: (0.3, 0.4, 0.87)}
    for landmark, place in places.items():
        faces[landmark] = ((centres - place) ** 2).sum(1).argmin()
    barycentric = np.full((68, 3), 1 / 3, np.float32)
    dataclasses.replace(head, landmark_faces=faces, landmark_barycentric=barycentric).save(folder / "head.npz")
    return folder


def with_side(egg, folder, name) -> Path:
    """The egg's capture with a head whose left half is a part of this name."""
    shutil.copytree(egg, folder)
    head = HeadModel.load(folder / "head.npz")
    side = (head.template[head.faces].mean(1)[:, 0] > 0).astype(np.int32)
    dataclasses.replace(head, part_names=("skin", name), face_parts=side).save(folder / "head.npz")
    return folder


def test_strands_are_added_once_and_kept_by_a_checkpoint(egg, sharp, tmp_path):
    """A fit whose writing failed goes on from what it saved when it was done: with the same strands, and no more."""
    marked, portrait = with_landmarks(egg, tmp_path / "egg"), portrait_of(sharp, [0])
    photos = dataclasses.replace(PHOTOS, strands=300)
    fits = [photo_fit(marked, portrait, photos=photos) for _ in range(3)]
    before = fits[0].avatar.gaussian_count
    fits[0].finish()
    fits[0].finish()
    assert before + 200 < fits[0].avatar.gaussian_count <= before + 300
    save_checkpoint(fits[0], tmp_path)
    assert load_checkpoint(fits[1], tmp_path)
    for fit in fits[1:]:
        fit.finish()
        assert torch.equal(fit.avatar.binding, fits[0].avatar.binding)
        for name in GAUSSIAN_TENSORS:
            assert torch.equal(getattr(fit.avatar, name), getattr(fits[0].avatar, name)), name
        assert len(fit.start) == len(fit.limits[0]) == len(fit.photos.fixed) == fit.avatar.gaussian_count
    none = photo_fit(marked, portrait, photos=dataclasses.replace(PHOTOS, strands=0))
    none.finish()
    assert none.avatar.gaussian_count == before
    assert torch.equal(none.avatar.position, fits[0].avatar.position[:before])


def test_ears_are_laid_once_and_kept_by_a_checkpoint(egg, sharp, tmp_path, monkeypatch):
    """Twenty Gaussians for the first ten: all that is kept of each stays in step, and they are the head's own."""

    def ears(fit, _):
        keep = torch.arange(fit.avatar.gaussian_count) >= 10
        tensors = {name: getattr(fit.avatar, name).detach()[:20].clone() for name in GAUSSIAN_TENSORS}
        return Change(keep, fit.avatar.binding[:20], tensors)

    monkeypatch.setattr("mvp4d_export.distill.own_ears", ears)
    fits = [photo_fit(egg, portrait_of(sharp, [0])) for _ in range(2)]
    before = fits[0].avatar.gaussian_count
    fits[0].finish()
    fits[0].finish()
    count = fits[0].avatar.gaussian_count
    assert count == before + 10
    save_checkpoint(fits[0], tmp_path)
    assert load_checkpoint(fits[1], tmp_path)
    fits[1].finish()
    for fit in fits:
        assert len(fit.start) == len(fit.limits[0]) == len(fit.photos.fixed) == len(fit.photos.pitch) == count
        assert fit.photos.fixed[-20:].all() and torch.equal(fit.photos.fixed, fits[0].photos.fixed)
        assert (fit.photos.pitch[-20:] == fit.avatar.config.pitch).all()


def test_a_fit_that_broke_off_as_it_was_finished_goes_on_from_its_last_step(egg, sharp, tmp_path, monkeypatch):
    """Blurred once, not twice: memory may run out when the Gaussians have been changed already."""
    portrait = portrait_of(sharp, [0])
    plain, broken, again = (photo_fit(egg, portrait, steps=2) for _ in range(3))
    distill(plain, tmp_path / "plain")

    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as patched, pytest.raises(torch.OutOfMemoryError):
        patched.setattr(broken, "_add_strands", full)
        distill(broken, tmp_path / "avatar")
    assert distill(again, tmp_path / "avatar")["resumed"]
    for name in GAUSSIAN_TENSORS:
        assert torch.equal(getattr(again.avatar, name), getattr(plain.avatar, name)), name


def test_what_strays_before_the_background_of_views_goes(egg, sharp):
    """Ten Gaussians off the rig, put 15 centimetres above the head's middle, beside its outline in every
    view, go; nothing else does that was not outside already, and what is kept of each stays in step."""
    fit = photo_fit(egg, portrait_of(sharp, [0]))
    avatar, (pose, _) = fit.avatar, fit.photos.view(0)
    off = ~fit.photos.on_surface()
    at_first = outside(avatar, fit.data, off)
    with torch.no_grad():
        frames = triangle_frames(avatar.vertices(pose), avatar.mesh_faces)
        above = frames[2][avatar.binding, 1] > 0.03  # what no neck, jaw or expression moves far
        moved = (off & ~at_first & above).nonzero()[::20, 0][:10]
        rotation, scale, centre = (part[avatar.binding[moved]] for part in frames)
        there = torch.tensor([0.0, 0.15, 0]).expand(10, 3)
        avatar.position[moved] = ((there - centre)[:, :, None] * rotation).sum(1) / scale[:, None]
    strayed = outside(avatar, fit.data, off)
    assert strayed.nonzero()[:, 0].tolist() == sorted([*moved.tolist(), *at_first.nonzero()[:, 0].tolist()])
    assert not outside(avatar, fit.data, off & False).any()
    places, surface = avatar.position.detach().clone(), fit.photos.on_surface()[~strayed]
    colours = avatar.harmonics.detach().clone()
    fit.finish()
    torch.testing.assert_close(fit.avatar.position[surface].detach(), places[~strayed][surface])  # others may be cut
    claims = fit.photos.claims.amax(0)
    kept = surface & ((claims == 0) | (claims > SKIN_RIM[1]))  # others are seen from beside: as even as skin around
    assert kept.sum() > 0.5 * surface.sum()
    torch.testing.assert_close(fit.avatar.harmonics.detach()[kept], colours[~strayed][kept])
    assert len(fit.start) == len(fit.photos.fixed) == len(fit.photos.pitch) == fit.avatar.gaussian_count


def test_a_photo_without_a_pixel_ends_nothing(egg, sharp):
    """Cut out at its border, the reference says nothing: the fit ends as that of the other photo does."""
    fit = photo_fit(egg, portrait_of(sharp, [0, 4]))
    nothing, other = fit.photos.photos.pictures
    nothing = dataclasses.replace(nothing, known=torch.zeros_like(nothing.known))
    fit.photos.photos = dataclasses.replace(fit.photos.photos, pictures=(nothing, other))
    fit.photos._pictures.clear()
    fit.photos.look()
    fit.finish()
    assert all(torch.isfinite(getattr(fit.avatar, name)).all() for name in GAUSSIAN_TENSORS)


def test_ears_are_as_even_as_photos_see_them_from_beside(egg, sharp, tmp_path):
    """In random colours, the side of an egg that is called ears takes means where photos tell nothing; what they see
    squarely keeps its own, and so does all of it where it is skin."""
    found = {}
    for name in ("ears", "cheek"):
        capture = with_side(egg, tmp_path / name, name)
        fit = photo_fit(capture, portrait_of(sharp, [0]), photos=dataclasses.replace(PHOTOS, strands=0))
        chosen, claims = gaussians_of(fit.avatar, (name,)), fit.photos.claims.amax(0)
        with torch.no_grad():
            colours = torch.rand(fit.avatar.gaussian_count, 3, generator=torch.Generator().manual_seed(0))
            fit.avatar.harmonics.zero_()[:, 0] = colours
        on_surface = fit.photos.on_surface()
        even_rims(fit.photos)
        own, after = colours, fit.avatar.harmonics[:, 0].detach()
        unseen, squarely = chosen & on_surface & (claims == 0), chosen & on_surface & (claims > EAR_RIM[1])
        assert unseen.sum() > 30 and squarely.sum() > 20
        torch.testing.assert_close(after[squarely], own[squarely])
        found[name] = after[unseen].std(0) / own[unseen].std(0)
    assert (found["ears"] < 0.6).all()  # a mean of four or more
    torch.testing.assert_close(found["cheek"], torch.ones(3))


def test_an_ear_that_a_photo_from_beside_shows_squarely_keeps_its_colours(egg, sharp, tmp_path):
    """Such a photo's claims weigh less than the reference's; its cosines are the same."""
    capture = with_side(egg, tmp_path / "egg", "ears")
    fit = photo_fit(capture, portrait_of(sharp, [0, 4]), photos=dataclasses.replace(PHOTOS, strands=0))
    claims, ears = fit.photos.claims, gaussians_of(fit.avatar, ("ears",)) & fit.photos.on_surface()
    squarely = ears & (claims[0] < EAR_RIM[0]) & (claims[1] < EAR_RIM[1]) & (claims[1] > SKIN_RIM[1])
    assert squarely.sum() > 10
    with torch.no_grad():
        own = torch.rand(fit.avatar.gaussian_count, 3, generator=torch.Generator().manual_seed(0))
        fit.avatar.harmonics.zero_()[:, 0] = own
    even_rims(fit.photos)
    torch.testing.assert_close(fit.avatar.harmonics[:, 0].detach()[squarely], own[squarely])
