"""What photos add to a fit: samples of their own, who is shown how finely, and how much generated views count beside.

Generated views are low in resolution and show a person who only resembles the photos' one. Where a photo shows the
surface squarely, they count little; where none does, fully. Colours are matched before the fit and held together by one
correction that all generated views share.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool2d, normalize

from mvp4d.core.heads.model import INTERIOR
from mvp4d_export.avatar import Avatar, Splats
from mvp4d_export.dataset import Dataset
from mvp4d_export.free_space import THROUGH
from mvp4d_export.hidden import NOT_SKIN, OwnMouths
from mvp4d_export.mouth_mask import mouth_mask
from mvp4d_export.photo_depth import PhotoDepth
from mvp4d_export.photo_visibility import PhotoVisibility, off_surface, photo_visibility, with_own_known
from mvp4d_export.photos import Photos, Picture
from mvp4d_export.presets import PhotoConfig
from mvp4d_export.projection import camera_centre
from mvp4d_export.rasterize import Rendering
from mvp4d_export.rig import Pose, rotation_matrix
from mvp4d_export.seeding import project_points
from mvp4d_export.sheet import on_sheet
from mvp4d_export.triangles import to_local, triangle_frames
from mvp4d_export.turned import TURNS, turned_picture, turned_view
from mvp4d_export.visibility import excess_variance, gaussians_of, shows_parts, smoothed, smoothstep

TINTS = ("tint", "view_tint", "shared")
# How far a photo's own fit may be wrong: radians and metres of its camera, weights, radians of neck, jaw and eyes.
LIMITS = {"turn": 0.03, "shift": 0.012, "expression": 0.2, "neck": 0.08, "jaw": 0.06, "eyes": 0.15}
YIELD_FROM, YIELD_TO = 0.5, 0.95  # claims over the largest: a photo counts least, fully
YIELDED = 0.1  # what the least is
BESIDE_FROM, BESIDE_TO = 0.1, 0.6  # the same: what a photo shows may look otherwise from there, as it does in the photo
BEYOND = 3.0  # mark of Gaussians beside the generated views' hull; others have 1 at most: a blend's excess is theirs
NEAR_FROM, NEAR_TO = 0.64, 0.94  # cosines between a generated view's direction and a photo's: unlike, the same


class PhotoFit:
    """Photos in one fit: their free corrections, and per Gaussian how well and how finely they show it.

    Attributes:
      fixed: [G] bool: the head's own, which learn nothing.
      beyond: [G] bool: they lay beside the generated views' hull when `look` last measured them.
      visibility: what the photos show of the Gaussians, as `look` last measured it.
      shown, pitch, across, claims: its tensors.
      tint, view_tint, shared: gains less one, [N, 3] of each photo but the reference, [V, 3] of each generated view
        and [3] of all of them. Gains, because a fit of offsets takes blur and misfit for a haze.
    """

    def __init__(self, avatar: Avatar, data: Dataset, photos: Photos, config: PhotoConfig):
        self.avatar, self.data, self.photos, self.config = avatar, data, photos, config
        device, count = avatar.device, len(photos)
        sizes = {
            "turn": (3,),
            "shift": (3,),
            "expression": photos.pose.expression.shape[1:],
            "neck": (3,),
            "jaw": (3,),
            "eyes": (2, 3),
        }
        self.free = {name: nn.Parameter(torch.zeros(count, *size, device=device)) for name, size in sizes.items()}
        self.tint = nn.Parameter(torch.zeros(count, 3, device=device))
        self.view_tint = nn.Parameter(torch.zeros(len(data.capture.names), 3, device=device))
        self.shared = nn.Parameter(torch.zeros(3, device=device))
        self._mouths_of_views = OwnMouths(avatar, data)
        self.mouths = [self._mouth(index) for index in range(count)]
        self.depths: list[PhotoDepth] = []  # of each photo, once the fit has begun
        self._pictures: dict[tuple[int, int], tuple[Picture, Tensor]] = {}  # by index and level
        self._turned: dict[tuple[int, int, int], tuple[Picture, Pose, Tensor]] = {}  # by index, turn and level
        self.visibility = PhotoVisibility.none(self._corrections())
        self.fixed = torch.zeros(0, dtype=torch.bool, device=device)
        self.beyond = self.fixed.clone()

    def parameters(self) -> dict[str, nn.Parameter]:
        named = {f"photo.{name}": value for name, value in self.free.items()}
        return named | {f"photo.{name}": getattr(self, name) for name in TINTS}

    def rates(self, factor: float) -> dict[str, float]:
        named = {f"photo.{name}": self.config.rate * factor for name in self.free}
        return named | {f"photo.{name}": self.config.colour_rate * factor for name in TINTS}

    def view(self, index: int) -> tuple[Pose, Tensor]:
        """Pose and camera [4, 4] of a photo with its corrections."""
        return self._placed(index, {name: value[index : index + 1] for name, value in self.free.items()})

    def _corrections(self) -> Tensor:
        """[N, P] of all photos, in one."""
        return torch.cat([value.detach().flatten(1) for value in self.free.values()], 1)

    def _placed(self, index: int, free: dict[str, Tensor]) -> tuple[Pose, Tensor]:
        """Pose and camera [4, 4] of a photo with corrections [1, ...]."""
        moved = {name: LIMITS[name] * torch.tanh(value) for name, value in free.items()}
        pose = self.photos.pose[index : index + 1]
        pose = dataclasses.replace(
            pose, **{name: getattr(pose, name) + moved[name] for name in ("expression", "neck", "jaw", "eyes")}
        )
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
        if (index, level) not in self._pictures:
            picture = self.photos.pictures[index].at(level)
            mouth = self.mouths[index]
            if level:
                mouth = max_pool2d(mouth[None, None], 1 << level)[0, 0]
            self._pictures[index, level] = picture, picture.known * (1 - mouth)
        return self._pictures[index, level]

    @torch.no_grad()
    def turned(self, index: int, which: int, level: int) -> tuple[Picture, Pose, Tensor]:
        """A photo as the rig carries it into the view of `TURNS[which]`, known as far as its alpha says, with the pose
        that it was carried in and the camera [4, 4] of that view. Its corrections are those of the last look, so that a
        run that was stopped has the same."""
        if (index, which, level) not in self._turned:
            parts = self.visibility.corrections[index].split([value[0].numel() for value in self.free.values()])
            free = {name: part.view_as(value[:1]) for (name, value), part in zip(self.free.items(), parts)}
            pose, viewmat = self._placed(index, free)
            camera = turned_view(viewmat, pose, TURNS[which])
            picture, says = self.picture(index, 0)
            says = says * ~self.depths[index].off  # hair before a forehead is none of it
            carried = turned_picture(self.avatar, picture, says, pose, viewmat, camera)
            self._turned[index, which, level] = carried.at(level), pose, camera
        return self._turned[index, which, level]

    def pull(self) -> Tensor:
        """What holds the corrections to nothing: a penalty."""
        loss = sum(value.square().mean() for value in self.free.values())
        tints = self.tint.square().mean() + self.view_tint.square().mean()
        return self.config.pull * loss + self.config.colour_pull * tints

    def photo_gain(self, index: int) -> Tensor:
        """[3] what turns the avatar's colours into those of a photo."""
        return 1 + self.tint[index] * (index != self.photos.reference)

    def view_gain(self, views: list[int]) -> Tensor:
        """[B, 1, 1, 3] what turns the avatar's colours into those of generated views."""
        return 1 + (self.shared + self.view_tint[views])[:, None, None]

    def smooth(self, splats: Splats, pose: Pose, viewmats: Tensor, Ks: Tensor) -> Splats:
        """Splats as pictures through cameras [V, 4, 4] with intrinsics [V, 3, 3] may show them: no finer than known."""
        matrices = viewmats @ pose.head_matrix()
        shown = max(self.avatar.config.pitch, float((matrices[:, 2, 3] / Ks[:, 0, 0]).mean()))
        if shown >= self.data.pixel_pitch:
            return splats
        towards = torch.stack([direction_to(viewmat, pose) for viewmat in viewmats])
        return smoothed(splats, excess_variance(self.pitch, shown), towards)

    @torch.no_grad()
    def look(self) -> None:
        """Measures anew what the photos show of the Gaussians there are now."""
        self._turned = {}
        pictures = [self.picture(index, min(1, self.level(index, 0.0))) for index in range(len(self.photos))]
        views = [self.view(index) for index in range(len(self.photos))]
        coarsest = self.data.pixel_pitch
        self.visibility = photo_visibility(
            self.avatar, self.photos, pictures, views, self.fixed, coarsest, self._corrections()
        )
        self.beyond = self.beyond_views()

    def know_own(self) -> None:
        """The same for Gaussians that have become the head's own since."""
        self.visibility = with_own_known(self.visibility, self.avatar, self.fixed, self.data.pixel_pitch)

    def know(self, own: Tensor) -> None:
        """Takes Gaussians `own` [G] bool, which now lie where the head has them, for known to the finest pitch."""
        finest, seen = self.avatar.config.pitch, self.visibility
        exact = torch.eye(3, device=own.device) / finest**2
        self.visibility = dataclasses.replace(
            seen,
            pitch=seen.pitch.masked_fill(own, finest),
            across=torch.where(own[:, None, None], exact, seen.across),
        )

    @property
    def shown(self) -> Tensor:
        return self.visibility.shown

    @property
    def pitch(self) -> Tensor:
        return self.visibility.pitch

    @property
    def across(self) -> Tensor:
        return self.visibility.across

    @property
    def claims(self) -> Tensor:
        return self.visibility.claims

    @torch.no_grad()
    def even_depths(self) -> None:
        """Lays what photos see beside the rig on sheets (`sheet.on_sheet`), along the sight of who claims it."""
        avatar = self.avatar
        best, which = self.claims.max(0)
        free = (best > 0) & ~self.on_surface() & ~self.fixed
        for index in range(len(self.photos)):
            chosen = (free & (which == index)).nonzero()[:, 0]
            pose, viewmat = self.view(index)
            vertices = avatar.vertices(pose)
            matrix = viewmat @ pose.head_matrix()[0]
            means = on_sheet(avatar.splats(vertices).means[chosen], camera_centre(matrix), matrix[2, :3])
            frames = triangle_frames(vertices, avatar.mesh_faces)
            avatar.position[chosen] = to_local(means, frames, avatar.binding[chosen])

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint keeps beside the parameters: measured before places changed, `look` would find another."""
        fields = dataclasses.fields(self.visibility)
        measured = {field.name: getattr(self.visibility, field.name) for field in fields}
        return {"fixed": self.fixed, "beyond": self.beyond} | measured

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Takes up a `state`.

        Raises:
          KeyError: it lacks a name.
        """
        self._turned, self.fixed, self.beyond = {}, state["fixed"], state["beyond"]
        fields = dataclasses.fields(PhotoVisibility)
        self.visibility = PhotoVisibility(**{field.name: state[field.name] for field in fields})

    @torch.no_grad()
    def on_surface(self) -> Tensor:
        """[G] bool: Gaussians on the rig."""
        vertices = self.avatar.gather(self.avatar.rig.template)
        return ~off_surface(self.avatar, self.avatar.splats(vertices), vertices)

    def on_skin(self) -> Tensor:
        """[G] bool: those of them on skin that are not the head's own."""
        return self.on_surface() & ~self.fixed & ~gaussians_of(self.avatar, (*NOT_SKIN, "lip"))

    @torch.no_grad()
    def beyond_views(self, most: float = THROUGH) -> Tensor:
        """[G] bool: Gaussians up to `most` metres from what a photo shows beside the generated views' hull."""
        found = torch.zeros_like(self.fixed)
        for index, (picture, shown) in enumerate(zip(self.photos.pictures, self.depths)):
            pose, viewmat = self.view(index)
            means = self.avatar.splats(self.avatar.vertices(pose)).means
            pixels, depth = project_points(means, viewmat @ pose.head_matrix()[0], picture.K)
            column, row = pixels.floor().long().clamp(0, picture.side - 1).unbind(1)
            inside = ((pixels >= 0) & (pixels < picture.side)).all(1)
            found |= inside & shown.beyond[row, column] & ((depth - shown.depth[row, column]).abs() < most)
        return found

    def marks(self) -> Tensor:
        """[G] what generated views are drawn with, for `view_weights`."""
        return torch.where(self.beyond, BEYOND, self.shown)

    @torch.no_grad()
    def view_weights(self, drawn: Rendering, frame: int, views: list[int]) -> tuple[Tensor, Tensor]:
        """How much the pixels of generated views count, B views of a frame.

        Args:
          drawn: these views, with `marks`.

        Returns:
          [B, h, w] of their colours: little where photos show the surface, and little beside the head in views from
          where a photo was taken; [B, h, w] of their outlines: little in such views, and where Gaussians `beyond` show.
        """
        pose, viewmats = self.data.pose[frame : frame + 1], self.data.viewmats[views, frame]
        towards = torch.stack([direction_to(viewmat, pose) for viewmat in viewmats])
        cosine = (towards @ self._directions().T).amax(1)[:, None, None]
        near, beside = smoothstep(cosine, NEAR_FROM, NEAR_TO), smoothstep(cosine, BESIDE_FROM, BESIDE_TO)
        beyond = (drawn.marked - 1).clamp(0, 1)
        shown = drawn.marked * beside + (1 - drawn.alpha) * near + beyond
        return 1 - self.config.trust * shown.clamp(0, 1), 1 - self.config.trust * torch.maximum(near, beyond)

    def own(self, index: int) -> Tensor | None:
        """[G] how much a photo's colours count, little where another one's claim weighs more; None: there is no other.

        Photos never agree to the pixel on a surface that is known to millimetres.
        """
        if len(self.photos) == 1:
            return None
        best = self.claims.amax(0)
        ahead = torch.where(best > 0, self.claims[index] / best.clamp(min=1e-6), 1.0)
        return YIELDED + (1 - YIELDED) * smoothstep(ahead, YIELD_FROM, YIELD_TO)

    @torch.no_grad()
    def own_share(self, drawn: Rendering) -> Tensor:
        """[S, S] how much the colours of a photo's pixels count, drawn with `own` of it as marks."""
        if drawn.marked is None:
            return torch.ones_like(drawn.alpha[0])
        return (drawn.marked[0] + 1 - drawn.alpha[0]).clamp(0, 1)

    def with_own_mouths(self, pictures: Tensor, frame: int, views: list[int]) -> tuple[Tensor, Tensor]:
        """Generated views [B, h, w, 3] of a frame with the head's own mouth where the rig has it open, [B, h, w]."""
        return self._mouths_of_views(pictures, frame, views, self.fixed, self.view_gain(views))

    def _directions(self) -> Tensor:
        """[N, 3] where the photos' cameras stand, as unit vectors in head axes."""
        views = [self.view(index) for index in range(len(self.photos))]
        return torch.stack([direction_to(viewmat, pose) for pose, viewmat in views])

    @torch.no_grad()
    def _mouth(self, index: int) -> Tensor:
        """[S, S] 1 where a photo shows the inside of the mouth."""
        picture = self.photos.pictures[index]
        pose = self.photos.pose[index : index + 1]
        inside = shows_parts(self.avatar, pose, self.photos.viewmats[index], picture.K, picture.side, INTERIOR)
        return mouth_mask(picture, inside)


def direction_to(viewmat: Tensor, pose: Pose) -> Tensor:
    """Unit vector [3] from the head to a camera [4, 4], in head axes."""
    return normalize(camera_centre(viewmat @ pose.head_matrix()[0]), dim=0)
