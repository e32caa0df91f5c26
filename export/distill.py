"""Fits an avatar to a capture: a sample is several views of one frame, which share mesh, neck and deformation."""

from __future__ import annotations

import dataclasses
import hashlib
import math

import torch
from torch import Tensor, nn

from mvp4d.core.errors import UserError
from mvp4d_export import densify
from mvp4d_export.avatar import GAUSSIAN_TENSORS, Avatar, Splats
from mvp4d_export.dataset import Dataset
from mvp4d_export.device import in_parallel
from mvp4d_export.ears import own_ears
from mvp4d_export.initialise import initialise
from mvp4d_export.lips import around_lips
from mvp4d_export.losses import Lpips, psnr
from mvp4d_export.objective import Regulariser, picture_loss
from mvp4d_export.optimiser import Adam
from mvp4d_export.outside import outside
from mvp4d_export.photo_end import finish_photos, seen_squarely
from mvp4d_export.photo_fit import PhotoFit
from mvp4d_export.photo_start import PhotoStart
from mvp4d_export.photos import Photos
from mvp4d_export.presets import DistillConfig
from mvp4d_export.rasterize import Rendering
from mvp4d_export.relight import tinted
from mvp4d_export.strands import strands
from mvp4d_export.turned import TURNS
from mvp4d_export.visibility import rigid_gaussians

MIN_SIDE = 16  # pictures are not halved below this
DIVERGED = 4.0  # times the best running loss
WARM_UP = 60  # steps before divergence is judged
SIZE_IN_PITCHES = 8.0  # longest axis of a Gaussian that photos show, in their pixels
SURFACE_LIMIT = 0.004  # metres that Gaussians on the rig's surface may leave their place where photos are fitted
SHOWN_LIMIT = 0.001  # the same of those that a photo shows squarely: it cannot tell how deep they lie
LIP_LIMIT, LIP_SIZE = 0.0005, 0.002  # the same of lips and skin beside them, and what they may measure: lips part
STRAYED = 0.04  # metres from what a photo shows beside the generated views' hull at which a Gaussian is none of it
RIGID_LIMIT = 0.0005  # metres that Gaussians of eyes and mouth may leave their place where photos are fitted


@dataclasses.dataclass
class Sample:
    """What one video frame or photo adds to a step: its loss and PSNR, a gradient (or None) per parameter, and for
    densification the gradients on the screen [V, N, 2] per half picture and who is `visible` [V, N]."""

    loss: float
    psnr: float
    gradients: tuple[Tensor | None, ...]
    screen_gradient: Tensor | None
    visible: Tensor | None
    splats: Splats


class Distiller:
    """One fit. The same capture, config and seed give the same avatar on a CPU; CUDA kernels add up in any order."""

    def __init__(
        self,
        data: Dataset,
        config: DistillConfig,
        *,
        seed: int = 0,
        lpips: Lpips | None = None,
        colour_correction: bool = False,
        photos: Photos | None = None,
    ):
        self.data, self.config, self.seed = data, config, seed
        self.device = data.pictures.device
        self.lpips = lpips.to(self.device) if lpips is not None else None
        finest = data.pixel_pitch if photos is None else min(data.pixel_pitch, float(photos.pitch.min()))
        avatar = dataclasses.replace(config.avatar, pitch=finest)
        with torch.random.fork_rng(devices=[]):  # the caller's own stays as it is
            torch.default_generator.manual_seed(seed)  # the net's initial weights
            self.avatar = Avatar(avatar, data.capture.head, frames=data.capture.frame_count).to(self.device)
        self.on_hull = initialise(self.avatar, data, config.start_gaussians, seed)
        self.photos = None
        if photos is not None:
            self.photos = PhotoFit(self.avatar, data, photos, config.photos)
            PhotoStart(self.photos).begin(self.on_hull, config.photos.start_gaussians, seed)
        self.limit()
        self.start = self.avatar.position.detach().clone()
        self.colour = nn.Parameter(torch.zeros(len(data.capture.names), 3, 4, device=self.device))
        self.colour_correction = colour_correction
        self.optimiser = Adam()
        self.statistics = densify.Statistics(self.avatar.gaussian_count, self.device)
        self.shape = Regulariser(config, self.avatar)
        self.step_done, self.finished = 0, False
        self.average: float | None = None
        self.best = math.inf
        self._images: dict[int, Tensor] = {}

    def parameters(self) -> dict[str, nn.Parameter]:
        named = {name: getattr(self.avatar, name) for name in GAUSSIAN_TENSORS}
        named["neck"] = self.avatar.neck_offsets
        if self.avatar.net is not None:
            named |= {f"net.{name}": value for name, value in self.avatar.net.named_parameters()}
        if self.colour_correction:
            named["colour"] = self.colour
        if self.photos is not None:
            named |= self.photos.parameters()
        return named

    def rates(self, share: float) -> dict[str, float | Tensor]:
        """Learning rates when `share` of the run is done: exponential decay."""
        rates, factor = self.config.rates, self.config.decay**share
        harmonics = torch.full((1, self.config.avatar.harmonic_count, 1), rates.harmonics_rest, device=self.device)
        harmonics[:, 0] = rates.harmonics
        named = {
            name: getattr(rates, name) * factor
            for name in ("position", "rotation", "log_scale", "logit_opacity", "neck", "colour")
        }
        named["harmonics"] = harmonics * factor
        if self.avatar.net is not None:
            named |= {f"net.{name}": rates.net * factor for name, _ in self.avatar.net.named_parameters()}
        if self.photos is not None:
            named |= self.photos.rates(factor)
        return named

    def choose(self, step: int) -> tuple[int, list[int]]:
        """The frame of a sample and the views of it: every frame comes once per round."""
        frames = self.data.train_frames
        epoch, place = divmod(step, len(frames))
        order = torch.randperm(len(frames), generator=_generator(self.seed, 1, epoch))
        frame = frames[int(order[place])]
        views = [view for view in self.data.train_views if self.data.usable[view, frame]]
        count = self.config.views or len(views)
        picked = torch.randperm(len(views), generator=_generator(self.seed, 2, step))[:count]
        return frame, [views[int(index)] for index in picked]

    def backdrop(self, step: int, always: bool = False) -> Tensor | None:
        """A background [3] for a step: any colour, so that no Gaussian can pass for background. None without masks."""
        if self.data.masks is None and not always:
            return None
        return torch.rand(3, generator=_generator(self.seed, 4, step)).to(self.device)

    def level(self, share: float) -> int:
        return int(share < self.config.coarse and min(self.data.size) >= 2 * MIN_SIDE)

    def train_step(self) -> dict[str, float]:
        """One optimiser step over the gradients of `config.frames_per_step` samples. Returns numbers to show.

        Raises:
          UserError: the fit diverged.
        """
        step, steps, count = self.step_done, self.config.steps, self.config.frames_per_step
        share = step / steps
        track = self.config.densify.strategy == "default" and share < self.config.densify.stop
        drawn = list(range(step * count, (step + 1) * count))
        parts = in_parallel(lambda index: self.draw(index, share, track), drawn)
        numbers = self._check(parts, step)
        for part in parts:
            if part.screen_gradient is not None:
                self.statistics.add(part.screen_gradient, part.visible)
        parameters = self.parameters()
        for index, parameter in enumerate(parameters.values()):
            gradients = [part.gradients[index] for part in parts if part.gradients[index] is not None]
            parameter.grad = sum(gradients) / count if gradients else None
        rates = self.rates(share)
        self.optimiser.step(parameters, rates)
        self.step_done += 1
        self._densify(parts[-1].splats, float(rates["position"]))
        return numbers

    def draw(self, index: int, share: float, track: bool) -> Sample:
        """The sample of an index: those of every `photos.every`-th step are photos, the others go round the frames.

        A photo takes longer than a view: a step of both kinds would leave cores without work.
        """
        if self.photos is None:
            return self.sample(*self.choose(index), self.backdrop(index), share, track)
        count, every = self.config.frames_per_step, self.config.photos.every
        step, place = divmod(index, count)
        turn = step // every
        if step % every == every - 1:
            again, photo = divmod(turn * count + place, len(self.photos.photos))
            which = again // 2 % len(TURNS) if again % 2 else None
            return self.photo_sample(photo, self.backdrop(index, always=True), share, track, which)
        return self.sample(*self.choose(index - turn * count), self.backdrop(index), share, track)

    def sample(self, frame: int, views: list[int], background: Tensor | None, share: float, track: bool) -> Sample:
        """Loss and gradients of some views of a frame on a background; with `track` those on the screen too."""
        level = self.level(share)
        pictures, masks, viewmats, Ks = self.data.batch(views, frame, level, background)
        background = self.data.background if background is None else background
        height, width = pictures.shape[1:3]
        pose = self.data.pose[frame : frame + 1]
        expressive, neutral = self.avatar.deformation(pose, self._expression_image(frame))
        vertices = self.avatar.vertices(pose, expressive, self.avatar.neck_offsets[frame])
        splats = self.avatar.splats(vertices)
        shown, marks = splats, None
        if self.photos is not None:
            shown, marks = self.photos.smooth(splats, pose, viewmats, Ks), self.photos.marks()
        rendering = self.avatar.render(shown, pose, viewmats, Ks, width, height, background, marks=marks)
        rgb, alpha = rendering.rgb, rendering.alpha
        loss = self.regulariser(splats, expressive, neutral)
        loss = loss + self.config.weights.neck * self.avatar.neck_offsets[frame].square().sum()
        if self.photos is not None:
            rgb = tinted(rgb, alpha, background, self.photos.view_gain(views))
        if self.colour_correction:
            correction = self.colour[views][:, None, None]
            rgb = rgb + (correction[..., :3] * rgb[..., None, :]).sum(-1) + correction[..., 3]
        seen = rgb.detach()
        if self.photos is not None:
            pictures, mouths = self.photos.with_own_mouths(pictures, frame, views)
            weights, outlines = self.photos.view_weights(rendering, frame, views)
            rgb = torch.lerp(pictures, rgb, torch.maximum(weights, mouths)[..., None])
            alpha = alpha if masks is None else torch.lerp(masks, alpha, outlines)
        loss = loss + picture_loss(self.config, self.lpips, rgb, pictures, share)
        if masks is not None:
            loss = loss + self.config.weights.alpha * (alpha - masks).abs().mean()
        return self._gradients(loss, rendering, splats, seen, pictures, track)

    def _expression_image(self, frame: int) -> Tensor:
        """[3, R, R] of a frame, which no step changes: less memory than its pictures take."""
        if frame not in self._images:
            self._images[frame] = self.avatar.expression_image(self.data.pose[frame : frame + 1])
        return self._images[frame]

    def photo_sample(
        self, index: int, background: Tensor, share: float, track: bool, turned: int | None = None
    ) -> Sample:
        """The same of a photo, or of what it says of a turned view: what it says nothing about is left out."""
        photos = self.photos
        level = photos.level(index, share)
        if turned is None:
            picture, says = photos.picture(index, level)
            pose, viewmat = photos.view(index)
        else:
            picture, pose, viewmat = photos.turned(index, turned, level)
            says = picture.alpha
            picture = dataclasses.replace(picture, alpha=torch.ones_like(says))
        expressive, neutral = self.avatar.deformation(pose)
        splats = self.avatar.splats(self.avatar.vertices(pose, expressive))
        viewmats, Ks = viewmat[None], picture.K[None]
        shown = photos.smooth(splats, pose, viewmats.detach(), Ks)
        side, marks = picture.side, photos.own(index)
        rendering = self.avatar.render(shown, pose, viewmats, Ks, side, side, background, marks=marks)
        target = torch.lerp(background.expand_as(picture.rgb), picture.rgb, picture.alpha[..., None])[None]
        alpha = rendering.alpha
        rgb = tinted(rendering.rgb, alpha, background, photos.photo_gain(index))
        counts = says * photos.own_share(rendering)
        rgb = torch.lerp(target, rgb, counts[..., None])
        loss = picture_loss(self.config, self.lpips, rgb, target, share)
        loss = loss + self.config.weights.alpha * ((alpha[0] - picture.alpha).abs() * says).mean()
        loss = self.config.photos.weight * loss + photos.pull()
        loss = loss + self.regulariser(splats, expressive, neutral)
        return self._gradients(loss, rendering, splats, rgb.detach(), target, track)

    def _gradients(
        self, loss: Tensor, rendering: Rendering, splats: Splats, rgb: Tensor, pictures: Tensor, track: bool
    ) -> Sample:
        inputs = list(self.parameters().values())
        gradients = torch.autograd.grad(loss, [*inputs, rendering.means2d] if track else inputs, allow_unused=True)
        if self.photos is not None:
            for name, gradient in zip(self.parameters(), gradients):
                if name in GAUSSIAN_TENSORS and gradient is not None:
                    gradient[self.photos.fixed] = 0
        height, width = pictures.shape[1:3]
        screen = gradients[-1] * gradients[-1].new_tensor([width / 2, height / 2]) if track else None
        return Sample(
            float(loss.detach()),
            float(psnr(rgb, pictures).mean()),
            gradients[: len(inputs)],
            screen,
            rendering.visible,
            splats,
        )

    def _fixed(self) -> Tensor | None:
        return None if self.photos is None else self.photos.fixed

    def limit(self) -> None:
        """Sets the metres [G] that Gaussians may measure and move freely: with photos less where these are fine."""
        count, device = self.avatar.gaussian_count, self.device
        size = torch.full((count,), self.config.scale_limit, device=device)
        away = torch.full((count,), self.config.position_limit, device=device)
        if self.photos is not None:
            size = torch.minimum(size, SIZE_IN_PITCHES * self.photos.pitch)
            surface = self.photos.on_surface()
            away[surface] = SURFACE_LIMIT + (SHOWN_LIMIT - SURFACE_LIMIT) * self.photos.shown[surface]
            away[rigid_gaussians(self.avatar)] = RIGID_LIMIT
            lips = around_lips(self.avatar)
            away[lips], size[lips] = LIP_LIMIT, size[lips].clamp(max=LIP_SIZE)
        self.limits = size, away

    def regulariser(self, splats: Splats, expressive: Tensor, neutral: Tensor) -> Tensor:
        loss = self.shape.gaussians(splats, self.start, *self.limits)
        return loss if self.avatar.net is None else loss + self.shape.deformation(expressive, neutral)

    def _check(self, parts: list[Sample], step: int) -> dict[str, float]:
        value = sum(part.loss for part in parts) / len(parts)
        self.average = value if self.average is None else 0.95 * self.average + 0.05 * value
        diverged = not math.isfinite(value) or (step > WARM_UP and self.average > DIVERGED * self.best)
        if diverged:
            raise UserError(
                f"step {step}",
                f"the fit diverged (loss {value:.4g}, best {self.best:.4g})",
                "try another --seed, or a capture with consistent views",
            )
        if step > WARM_UP // 2:
            self.best = min(self.best, self.average)
        return {
            "loss": value,
            "psnr": sum(part.psnr for part in parts) / len(parts),
            "gaussians": self.avatar.gaussian_count,
        }

    def _densify(self, splats: Splats, rate: float) -> None:
        config = self.config.densify
        generator = _generator(self.seed, 3, self.step_done)
        if config.strategy == "mcmc" and self.step_done < config.stop * self.config.steps:
            densify.mcmc_noise(self.avatar, splats, rate, config, generator, self._fixed())
        if not config.due(self.step_done, self.config.steps):
            return
        limit = self.config.max_gaussians
        if config.strategy == "mcmc":
            change = densify.mcmc_round(self.avatar, splats, config, limit, generator, self._fixed())
        else:
            finer = None if self.photos is None else self.photos.pitch / self.data.pixel_pitch
            change = densify.default_round(
                self.avatar, splats, self.statistics, config, limit, generator, finer, self._fixed()
            )
        self._apply(change)
        if self.photos is not None:
            self.photos.even_depths()

    def _apply(self, change: densify.Change) -> None:
        """Drops and adds Gaussians."""
        tensors = {
            name: torch.cat((getattr(self.avatar, name).detach()[change.keep], change.tensors[name]))
            for name in GAUSSIAN_TENSORS
        }
        self.start = torch.cat((self.start[change.keep], change.tensors["position"]))
        self.avatar.set_gaussians(torch.cat((self.avatar.binding[change.keep], change.binding)), tensors)
        self.optimiser.reindex(GAUSSIAN_TENSORS, change.keep, len(change.binding))
        if self.photos is not None:
            kept = self.photos.fixed[change.keep]
            self.photos.fixed = torch.cat((kept, kept.new_zeros(len(change.binding))))
            self.photos.look()
        self.limit()
        self.statistics = densify.Statistics(self.avatar.gaussian_count, self.device)

    def finish(self) -> None:
        """Makes the avatar what one pitch describes, after the last step; once."""
        if self.photos is not None and not self.finished:
            off = ~self.photos.on_surface() & ~self.photos.fixed & ~self.photos.beyond_views(STRAYED)
            strayed = outside(self.avatar, self.data, off)
            if strayed.any():
                none = {name: getattr(self.avatar, name).detach()[:0] for name in GAUSSIAN_TENSORS}
                self._apply(densify.Change(~strayed, self.avatar.binding[:0], none))
            finish_photos(self.photos)
            self._add_strands()
            self._lay_ears()  # after strands, which would take their colour beside them
        self.finished = True

    def _lay_ears(self) -> None:
        """Gives ears that a photo shows bare their folds."""
        change = own_ears(self.photos, _generator(self.seed, 6))
        if change is not None:
            self._apply(change)
            self.photos.fixed[self.avatar.gaussian_count - len(change.binding) :] = True
            self.photos.know_own()

    def _add_strands(self) -> None:
        """Gives hair that no photo shows its strands."""
        photos, generator = self.photos, _generator(self.seed, 5)
        head, most = self.data.capture.head, self.config.photos.strands
        added = strands(self.avatar, head, seen_squarely(photos), photos.fixed, most, generator)
        if added is not None:
            everyone = torch.ones(self.avatar.gaussian_count, dtype=torch.bool, device=self.device)
            self._apply(densify.Change(everyone, *added))


def _generator(seed: int, *parts: int) -> torch.Generator:
    """Randomness of one purpose and step."""
    digest = hashlib.blake2b(repr((seed, *parts)).encode(), digest_size=7).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little"))
