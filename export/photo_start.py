"""How a fit with photos begins: colours in their light, hair where they show it, Gaussians from their pixels."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, grid_sample, max_pool2d

from mvp4d_export.avatar import GAUSSIAN_TENSORS
from mvp4d_export.free_space import THROUGH, PosedPhoto, agreeing, before_background
from mvp4d_export.harmonics import colour_of_sh, sh_of_colour
from mvp4d_export.hidden import NOT_SKIN, in_light, lid_triangles, seed_hidden, teeth_colour
from mvp4d_export.initialise import STILL, moved, recolour
from mvp4d_export.lips import seed_lips
from mvp4d_export.photo_depth import GeneratedViews, photo_depth
from mvp4d_export.photo_eyes import seed_eyes
from mvp4d_export.photo_fit import PhotoFit
from mvp4d_export.relight import local_gains, mean_gain, relight
from mvp4d_export.seeding import project_points, seed_from_photos
from mvp4d_export.teeth import longer_teeth
from mvp4d_export.visibility import TEETH, gaussians_of, rig_surface, shows_parts, smoothstep

MOST_TINT = 0.5  # that the colours' match before the fit may change
LIP_SEEN, LIP_KNOWN = 0.1, 0.1  # how far a photo must show lips to tell their colour, and how much around them
LIP_SHADE = 0.9  # light on those that none shows, beside that on the others
LIP_NEAR, LIP_FEW = 0.004, 10.0  # metres around a place over which lips tell its colour; how many tell little
LIP_COLOUR = (0.72, 0.42, 0.4)  # of lips, as the mouth's colours are meant


class PhotoStart:
    """The beginning of a `PhotoFit`, once its avatar has the Gaussians of the generated views."""

    def __init__(self, fit: PhotoFit):
        self.fit, self.avatar, self.data, self.photos = fit, fit.avatar, fit.data, fit.photos

    def begin(self, on_hull: int, budget: int, seed: int) -> None:
        """Colours of what is there, of which the last `on_hull` lie off the rig, then Gaussians from the photos."""
        on_hull = self._drop(on_hull, [before_background(picture) for picture in self.photos.pictures])
        self.fit.look()
        self._match_light()
        posed = self._posed()
        self.fit.depths = [photo.shown for photo in posed]
        on_hull = self._drop(on_hull, [photo.free() for photo in posed])
        recolour(self.avatar, self.data, on_hull)
        self.fit.look()
        self._match_light()  # again, now that skin is told from hair before it
        self._relight()
        face = self._face_colour()
        lids = lid_triangles(self.avatar)
        seed_from_photos(self.avatar, self.photos, self.fit.depths, self.fit.mouths, budget, seed, lids)
        own = seed_hidden(self.avatar, lids, face, *self._teeth(face))
        eyes = seed_eyes(self.fit, face)
        lips = seed_lips(self.avatar)
        ends = torch.arange(self.avatar.gaussian_count, 0, -1, device=face.device)  # 1 for the last one
        self.fit.fixed = (ends > lips) & (ends <= lips + eyes + own)
        self.fit.look()
        self.fit.fixed |= self._colour_lips(ends <= lips, face)
        self.fit.know_own()

    @torch.no_grad()
    def _drop(self, on_hull: int, free: list[Tensor]) -> int:
        """Drops those of the last `on_hull` Gaussians that photos look through, to `free` [S, S] metres each; returns
        how many stay. None is fixed yet."""
        avatar = self.avatar
        keep = torch.ones(avatar.gaussian_count, dtype=torch.bool, device=avatar.device)
        for index, picture in enumerate(self.photos.pictures):
            pose, viewmat = self.fit.view(index)
            means = avatar.splats(avatar.vertices(pose)).means
            pixels, depth = project_points(means, viewmat @ pose.head_matrix()[0], picture.K)
            column, row = pixels.floor().long().unbind(1)
            inside = (column >= 0) & (row >= 0) & (column < picture.side) & (row < picture.side)
            place = row.clamp(0, picture.side - 1), column.clamp(0, picture.side - 1)
            keep &= ~(inside & (depth < free[index][place]))
        keep[: avatar.gaussian_count - on_hull] = True
        avatar.set_gaussians(avatar.binding[keep], {name: getattr(avatar, name)[keep] for name in GAUSSIAN_TENSORS})
        self.fit.fixed = torch.zeros(avatar.gaussian_count, dtype=torch.bool, device=avatar.device)
        return int(keep[len(keep) - on_hull :].sum())

    @torch.no_grad()
    def _posed(self) -> list[PosedPhoto]:
        """The photos, and how far off each one's pixels are."""
        sights = GeneratedViews(self.avatar, self.data, 1 + self.fit.shared)
        skin = self._face_colour() / (1 + self.fit.shared)
        found = []
        for index, picture in enumerate(self.photos.pictures):
            pose, viewmat = self.fit.view(index)
            surface = rig_surface(self.avatar, pose, viewmat, picture.K, picture.side)
            shown = photo_depth(sights, pose, viewmat, picture, surface, skin)
            found.append(PosedPhoto(picture, pose, viewmat, shown))
        return [dataclasses.replace(photo, shown=shown) for photo, shown in zip(found, agreeing(self.avatar, found))]

    @torch.no_grad()
    def _face_colour(self) -> Tensor:
        """[3] median colour of the skin that photos show squarely; of all skin where they show none."""
        skin = ~gaussians_of(self.avatar, NOT_SKIN)
        means = self.avatar.splats(self.avatar.gather(self.avatar.rig.template)).means
        near = (moved(self.avatar) > STILL)[self.avatar.binding]  # hair and clothes hardly follow the face
        chosen = skin & near & (self.fit.shown > 0.5) & (means[:, 2] > 0)
        chosen = chosen if chosen.any() else skin
        return colour_of_sh(self.avatar.harmonics[chosen, 0]).median(0).values

    @torch.no_grad()
    def _teeth(self, face: Tensor) -> tuple[Tensor | None, float]:
        """[3] colour of the teeth in the first photo that shows them, the reference before others, and metres that the
        upper ones are longer there than the head's; None, 0: none does."""
        for index in self.photos.reference_first:
            picture, pose = self.photos.pictures[index], self.photos.pose[index : index + 1]
            viewmat, mouth = self.photos.viewmats[index], self.fit.mouths[index] > 0
            teeth = shows_parts(self.avatar, pose, viewmat, picture.K, picture.side, TEETH)
            found = teeth_colour(picture.rgb, teeth & mouth, face)
            if found is not None:
                return found, longer_teeth(self.avatar, picture, mouth, found, pose, viewmat)
        return None, 0.0

    @torch.no_grad()
    def _match_light(self) -> None:
        """Sets what generated views' light is beside the photos'."""
        generated = colour_of_sh(self.avatar.harmonics[:, 0])
        photo, weight = self._colours_shown()
        if (weight > 0).any():
            self.fit.shared.copy_((1 / mean_gain(generated, photo, weight) - 1).clamp(-MOST_TINT, MOST_TINT))

    @torch.no_grad()
    def _relight(self) -> None:
        """Puts generated views and colours into the photos' light; shown Gaussians get the photos' colours."""
        avatar = self.avatar
        generated = colour_of_sh(avatar.harmonics[:, 0])
        photo, shown = self._colours_shown()
        places = avatar.splats(avatar.gather(avatar.rig.template)).means
        gains = local_gains(places, generated, photo, shown, 1 / (1 + self.fit.shared))
        relight(avatar, self.data, gains)
        self.fit.shared.zero_()
        colour = torch.lerp(generated * gains, photo, shown[:, None]).clamp(0.01, 0.99)
        avatar.harmonics[:, 0] = sh_of_colour(colour)

    def _colours_shown(self) -> tuple[Tensor, Tensor]:
        """Colours [G, 3] of the Gaussians in the first photo that shows them, the reference before others, and how far
        it does [G]."""
        avatar = self.avatar
        photo, weight = torch.zeros_like(avatar.harmonics[:, 0]), torch.zeros_like(self.fit.shown)
        for index in self.photos.reference_first:
            colour, seen = self._photo_colours(index)
            better = (weight == 0) & (seen > 0)
            photo = torch.where(better[:, None], colour, photo)
            weight = torch.where(better, seen, weight)
        return photo, weight

    @torch.no_grad()
    def _colour_lips(self, lips: Tensor, face: Tensor) -> Tensor:
        """Gives lips [G] bool the colours of the photos that show them best; returns which ones none shows, [G].

        Where none shows any of them, they are lips in the light of a face of this colour [3].
        """
        avatar = self.avatar
        colour, weight = in_light(LIP_COLOUR, face).repeat(len(lips), 1), torch.zeros_like(self.fit.shown)
        for index in range(len(self.photos)):
            found, seen = self._photo_colours(index, LIP_KNOWN)
            better = seen * self.fit.claims[index] > weight
            colour = torch.where(better[:, None], found, colour)
            weight = torch.where(better, seen * self.fit.claims[index], weight)
        seen, hidden = lips & (weight > LIP_SEEN), lips & (weight <= LIP_SEEN)
        if seen.any():  # those about as far from the middle, on either side; not the next one's, a corner's shadow
            places = avatar.splats(avatar.gather(avatar.rig.template)).means
            places = torch.cat((places[:, :1].abs(), places[:, 1:]), 1) / LIP_NEAR
            near = (-torch.cdist(places[hidden], places[seen]).square() / 2).exp() * weight[seen]
            median = LIP_SHADE * colour[seen].median(0).values
            colour[hidden] = (near @ colour[seen] + LIP_FEW * median) / (near.sum(1, keepdim=True) + LIP_FEW)
        avatar.harmonics[lips, 0] = sh_of_colour(colour[lips].clamp(0.01, 0.99))
        return hidden

    def _photo_colours(self, index: int, known: float = 0.7) -> tuple[Tensor, Tensor]:
        """Colours [G, 3] of the Gaussians in a photo and [G] how far it shows them: not where less than a share
        `known` of the pixels around says something."""
        avatar = self.avatar
        picture, says = self.fit.picture(index, 0)
        pose, viewmat = self.fit.view(index)
        means = avatar.splats(avatar.vertices(pose)).means
        pixels, depth = project_points(means, viewmat @ pose.head_matrix()[0], picture.K)
        grid = (pixels / (picture.side / 2) - 1)[None, None]
        solid = picture.alpha * says
        stacked = torch.cat((picture.rgb * solid[..., None], solid[..., None]), -1).permute(2, 0, 1)[None]
        found = grid_sample(avg_pool2d(stacked, 5, 1, 2), grid, align_corners=False)[0, :, 0].T
        shown = self.fit.shown * (self.fit.claims[index] > 0)  # by this one
        seen = shown * smoothstep(found[:, 3], known, known + 0.3)
        if self.fit.depths:  # not what lies behind hair
            before = self.fit.depths[index].depth.clamp(max=1e3)[None, None]
            front = grid_sample(-max_pool2d(-before, 9, 1, 4), grid, mode="nearest", align_corners=False)[0, 0, 0]
            seen = seen * (depth < front + THROUGH)
        return found[:, :3] / found[:, 3:].clamp(min=1e-3), seen
