"""What photos add to a fit: samples of their own, who is shown how finely, and how much generated views count beside.

Generated views are low in resolution and show a person who only resembles the photos' one. Where a photo shows the
surface squarely, they count little; where none does, fully. Colours are matched before the fit and held together by one
correction that all generated views share.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, grid_sample, max_pool2d, normalize

from mvp4d_export.avatar import Avatar, Splats
from mvp4d_export.dataset import Dataset
from mvp4d_export.initialise import SH_0
from mvp4d_export.photos import Photos, Picture
from mvp4d_export.presets import PhotoConfig
from mvp4d_export.projection import project
from mvp4d_export.rig import Pose, rotation_matrix
from mvp4d_export.seeding import project_points, seed_from_photos
from mvp4d_export.visibility import (
    EYES,
    FACING_FROM,
    FACING_TO,
    GRAZING,
    INTERIOR,
    excess_variance,
    facing,
    gaussians_of,
    light,
    parts_named,
    rig_surface,
    smoothed,
    smoothstep,
)

# How far a photo's own fit may be wrong: radians and metres of its camera, weights, radians of neck, jaw and eyes.
LIMITS = {"turn": 0.03, "shift": 0.012, "expression": 0.2, "neck": 0.08, "jaw": 0.06, "eyes": 0.15}
INTERIOR_MARGIN = 0.012  # of a picture's side around the open mouth that a photo says nothing about
OFF_SURFACE = 0.008  # metres from its triangle beyond which a Gaussian has no use for the triangle's normal
SEEN_FROM, SEEN_TO = 0.08, 0.35  # share of a Gaussian's light between which it passes from hidden to visible
RIDGE = 0.02  # pull of the colour match to no change, in units of the colours' mean square
NEAR_FROM, NEAR_TO = 0.64, 0.94  # cosines between a generated view's direction and a photo's: unlike, the same


class PhotoFit:
    """Photos in one fit: their free corrections, and per Gaussian how well and how finely they show it.

    Attributes:
      shown: [G] 0 where no photo sees a Gaussian, 1 where one does squarely.
      pitch: [G] metres: the finest pixel that saw it.
    """

    def __init__(self, avatar: Avatar, data: Dataset, photos: Photos, config: PhotoConfig):
        self.avatar, self.data, self.photos, self.config = avatar, data, photos, config
        device, count = avatar.device, len(photos)
        sizes = {"turn": (3,), "shift": (3,), "expression": photos.pose.expression.shape[1:], "neck": (3,),
                 "jaw": (3,), "eyes": (2, 3)}
        self.free = {name: nn.Parameter(torch.zeros(count, *size, device=device)) for name, size in sizes.items()}
        self.colour = nn.Parameter(torch.zeros(count, 3, 4, device=device))
        self.shared = nn.Parameter(torch.zeros(3, 4, device=device))  # of all generated views
        self.mouths = [self._mouth(index) for index in range(count)]
        self.shown = self.pitch = torch.zeros(0, device=device)
        self.weights: dict[tuple[int, int], Tensor] = {}
        self.interior = torch.zeros(0, dtype=torch.bool, device=device)

    def begin(self, on_hull: int, budget: int, seed: int) -> int:
        """Colours of what is there, then Gaussians from the photos. Returns how many were added."""
        self.look()
        self._match_colours()
        added = seed_from_photos(self.avatar, self.photos, on_hull, budget, seed)
        self.look()
        return added

    def parameters(self) -> dict[str, nn.Parameter]:
        named = {f"photo.{name}": value for name, value in self.free.items()}
        return named | {"photo.colour": self.colour, "photo.shared": self.shared}

    def rates(self, factor: float) -> dict[str, float]:
        named = {f"photo.{name}": self.config.rate * factor for name in self.free}
        return named | {f"photo.{name}": self.config.colour_rate * factor for name in ("colour", "shared")}

    def view(self, index: int) -> tuple[Pose, Tensor]:
        """Pose and camera [4, 4] of a photo with its corrections."""
        moved = {name: LIMITS[name] * torch.tanh(value[index : index + 1]) for name, value in self.free.items()}
        pose = self.photos.pose[index : index + 1]
        pose = dataclasses.replace(pose, **{name: getattr(pose, name) + moved[name]
                                            for name in ("expression", "neck", "jaw", "eyes")})
        viewmat = self.photos.viewmats[index]
        head = (viewmat @ pose.head_matrix()[0])[:3, 3]  # turned about the head, which stays where it is
        turn = rotation_matrix(moved["turn"][0])
        rotation = turn @ viewmat[:3, :3]
        shift = turn @ (viewmat[:3, 3] - head) + head + moved["shift"][0]
        last = viewmat[3:]
        return pose, torch.cat((torch.cat((rotation, shift[:, None]), 1), last))

    def level(self, index: int, share: float) -> int:
        """How often a photo's sides are halved when `share` of the run is done."""
        quarter, half = self.config.coarse
        wanted = 2 if share < quarter else int(share < half)
        while wanted and self.photos.pictures[index].side >> wanted < 64:
            wanted -= 1
        return wanted

    def picture(self, index: int, level: int) -> tuple[Picture, Tensor]:
        """A photo and [S, S] where it says something: within its borders and off the open mouth."""
        picture = self.photos.pictures[index].at(level)
        mouth = self.mouths[index]
        if level:
            mouth = max_pool2d(mouth[None, None], 1 << level)[0, 0]
        return picture, picture.known * (1 - mouth)

    def pull(self) -> Tensor:
        """What holds the corrections to nothing: a penalty."""
        loss = sum(value.square().mean() for value in self.free.values())
        return self.config.pull * loss + self.config.colour_pull * self.colour.square().mean()

    def correct(self, index: int, rgb: Tensor, alpha: Tensor) -> Tensor:
        """The avatar's premultiplied colours [1, S, S, 3] in the light of a photo."""
        if index == self.photos.reference:
            return torch.zeros_like(rgb)
        return colour_change(self.colour[index : index + 1], rgb, alpha)

    def smooth(self, splats: Splats, viewmats: Tensor, K: Tensor, pose: Pose) -> Splats:
        """Splats as pictures through cameras [V, 4, 4] with intrinsics [V, 3, 3] may show them: no finer than known."""
        depth = (viewmats @ pose.head_matrix())[:, 2, 3]
        return self.smooth_at(splats, float((depth / K[:, 0, 0]).mean()))

    def smooth_at(self, splats: Splats, pitch: float) -> Splats:
        pitch = max(pitch, self.avatar.config.pitch)
        if pitch >= self.data.pixel_pitch:
            return splats
        return smoothed(splats, excess_variance(self.pitch, pitch))

    @torch.no_grad()
    def bake(self) -> None:
        """Blurs every Gaussian by what it lacks at the finest pitch, which alone then describes the avatar."""
        avatar = self.avatar
        pose = self.data.pose[:1]
        splats = avatar.splats(avatar.vertices(pose))
        soft = self.smooth_at(splats, avatar.config.pitch)
        avatar.log_scale.add_((soft.scales / splats.scales).log())
        avatar.logit_opacity.copy_(torch.logit(soft.opacities.clamp(1e-5, 1 - 1e-5)))

    @torch.no_grad()
    def look(self) -> None:
        """Measures anew what the photos show of the Gaussians there are now."""
        avatar = self.avatar
        count = avatar.gaussian_count
        self.interior = gaussians_of(avatar, INTERIOR)
        self.shown = torch.zeros(count, device=avatar.device)
        self.pitch = torch.full((count,), self.data.pixel_pitch, device=avatar.device)
        for index in range(len(self.photos)):
            level = min(1, self.level(index, 0.0))
            picture, says = self.picture(index, level)
            pose, viewmat = self.view(index)
            vertices = avatar.vertices(pose)
            splats = avatar.splats(vertices)
            seen = light(avatar, splats, pose, viewmat, picture.K, picture.side, picture.alpha * says)
            matrix = viewmat @ pose.head_matrix()[0]
            flat = project(splats.means, splats.quaternions, splats.scales, splats.opacities, matrix[None],
                           picture.K[None], picture.side, picture.side, antialiased=avatar.config.antialiased)
            conic = flat.conics[0]
            spread = (conic[:, 0] * conic[:, 2] - conic[:, 1].square()).clamp(min=1e-12).rsqrt()
            share = seen / (2 * math.pi * spread * flat.opacities[0]).clamp(min=1e-6)
            cosine = facing(avatar, vertices, -matrix[:3, :3].T @ matrix[:3, 3])[avatar.binding]
            cosine = torch.where(self._off_surface(splats, vertices), cosine.clamp(min=0.5), cosine)
            square = smoothstep(share, SEEN_FROM, SEEN_TO) * smoothstep(cosine, FACING_FROM, FACING_TO)
            self.shown = torch.maximum(self.shown, torch.where(self.interior, torch.zeros_like(square), square))
            finest = self.photos.pitch[index] / cosine.clamp(min=GRAZING)
            visible = (share > SEEN_FROM) & (seen > 0) & ~self.interior & (cosine > 0)
            self.pitch = torch.where(visible, torch.minimum(self.pitch, finest), self.pitch)
        self.weights = {}

    def _off_surface(self, splats: Splats, vertices: Tensor) -> Tensor:
        centre = vertices[self.avatar.mesh_faces].mean(1)[self.avatar.binding]
        return (splats.means - centre).norm(dim=1) > OFF_SURFACE

    @torch.no_grad()
    def view_weights(self, views: list[int], moment: int, level: int) -> Tensor:
        """[B, h, w] how much the pixels of generated views count."""
        kept = []
        for view in views:
            if (view, moment) not in self.weights:
                self.weights[view, moment] = self._view_weight(view, moment)
            kept.append(self.weights[view, moment])
        weights = torch.stack(kept)
        return avg_pool2d(weights[:, None], 1 << level)[:, 0] if level else weights

    def _view_weight(self, view: int, moment: int) -> Tensor:
        avatar, data = self.avatar, self.data
        pose = data.pose[moment : moment + 1]
        height, width = data.size
        viewmat, K = data.viewmats[[view], moment], data.Ks[[view], moment]
        splats = avatar.splats(avatar.vertices(pose))
        inside = torch.stack((self.shown, self.interior.float(), torch.zeros_like(self.shown)), 1)
        drawn = avatar.render(splats, pose, viewmat, K, width, height, colours=inside)
        shown = drawn.rgb[0, ..., 0] / drawn.alpha[0].clamp(min=1e-3) * (drawn.alpha[0] > 0.02)
        mouth = drawn.rgb[0, ..., 1]
        near = smoothstep((self._directions() @ _direction(viewmat[0], pose)).amax(), NEAR_FROM, NEAR_TO)
        shown = torch.maximum(shown, near * (1 - mouth).clamp(0, 1))
        return 1 - self.config.trust * shown.clamp(0, 1)

    def _directions(self) -> Tensor:
        """[N, 3] where the photos' cameras stand, as unit vectors in head axes."""
        views = [self.view(index) for index in range(len(self.photos))]
        return torch.stack([_direction(viewmat, pose) for pose, viewmat in views])

    @torch.no_grad()
    def _mouth(self, index: int) -> Tensor:
        """[S, S] 1 where a photo shows the inside of the mouth, and a little around it."""
        picture = self.photos.pictures[index]
        pose = self.photos.pose[index : index + 1]
        surface = rig_surface(self.avatar, pose, self.photos.viewmats[index], picture.K, picture.side)
        hidden = parts_named(self.avatar.rig.part_names, INTERIOR).to(self.avatar.device)
        part = self.avatar.rig.face_parts[surface.face.clamp(min=0)]
        inside = ((surface.face >= 0) & hidden[part]).float()
        reach = max(1, round(INTERIOR_MARGIN * picture.side))
        return max_pool2d(inside[None, None], 2 * reach + 1, 1, reach)[0, 0]

    @torch.no_grad()
    def _match_colours(self) -> None:
        """Gives shown Gaussians the photo's colours, the others the generated ones as the photo's light has them."""
        avatar = self.avatar
        generated = avatar.harmonics[:, 0] * SH_0 + 0.5
        photo, weight = torch.zeros_like(generated), torch.zeros_like(generated[:, 0])
        for index in [self.photos.reference, *range(len(self.photos))]:
            colour, seen = self._photo_colours(index)
            better = (weight == 0) & (seen > 0)
            photo = torch.where(better[:, None], colour, photo)
            weight = torch.where(better, seen, weight)
        if not (weight > 0).any():
            return
        change = _affine(photo, generated, weight)
        self.shared.copy_(change)
        matrix = torch.eye(3, device=photo.device) + change[:, :3]
        relit = torch.linalg.solve(matrix, (generated - change[:, 3]).T).T
        colour = torch.lerp(relit, photo, weight[:, None]).clamp(0.01, 0.99)
        avatar.harmonics[:, 0] = (colour - 0.5) / SH_0

    def _photo_colours(self, index: int) -> tuple[Tensor, Tensor]:
        """Colours [G, 3] of the Gaussians in a photo and [G] how far it shows them."""
        avatar = self.avatar
        picture, says = self.picture(index, 0)
        pose, viewmat = self.view(index)
        means = avatar.splats(avatar.vertices(pose)).means
        pixels, _ = project_points(means, viewmat @ pose.head_matrix()[0], picture.K)
        grid = (pixels / (picture.side / 2) - 1)[None, None]
        solid = picture.alpha * says
        stacked = torch.cat((picture.rgb * solid[..., None], solid[..., None]), -1).permute(2, 0, 1)[None]
        found = grid_sample(avg_pool2d(stacked, 5, 1, 2), grid, align_corners=False)[0, :, 0].T
        return found[:, :3] / found[:, 3:].clamp(min=1e-3), self.shown * smoothstep(found[:, 3], 0.7, 1.0)


def colour_change(correction: Tensor, rgb: Tensor, alpha: Tensor) -> Tensor:
    """What corrections [B, 3, 4], a matrix and an offset, add to premultiplied colours [B, H, W, 3] under alpha."""
    correction = correction[:, None, None]
    return (correction[..., :3] * rgb[..., None, :]).sum(-1) + correction[..., 3] * alpha[..., None]


def rigid_gaussians(avatar: Avatar) -> Tensor:
    """[G] bool: Gaussians of eyes, teeth, gums and tongue, which have a surface of their own to stay on."""
    return gaussians_of(avatar, (*INTERIOR, *EYES))


def _direction(viewmat: Tensor, pose: Pose) -> Tensor:
    """Unit vector [3] from the head to a camera [4, 4], in head axes."""
    matrix = viewmat @ pose.head_matrix()[0]
    return normalize(-matrix[:3, :3].T @ matrix[:3, 3], dim=0)


def _affine(source: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """[3, 4] matrix and offset, near zero, such that source + matrix source + offset comes close to target [M, 3]."""
    ones = torch.cat((source, torch.ones_like(source[:, :1])), 1)
    total = weight.sum().clamp(min=1e-6)
    gram = (ones * weight[:, None]).T @ ones / total
    pull = RIDGE * torch.eye(4, device=source.device) * gram.diagonal().mean()
    return torch.linalg.solve(gram + pull, (ones * weight[:, None]).T @ (target - source) / total).T
