"""Where more Gaussians are needed and which may go: the default rule of 3D Gaussian splatting, and MCMC; on triangles.

Children stay on their parent's triangle, so that a growing set keeps following the rig.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from mvp4d_export.avatar import GAUSSIAN_TENSORS, Avatar, Splats
from mvp4d_export.projection import quaternion_to_matrix


@dataclasses.dataclass(frozen=True)
class DensifyConfig:
    """When and how the set of Gaussians changes. Steps are shares of the whole run.

    Attributes:
      strategy: "default" (Kerbl et al. 2023), "mcmc" (Kheradmand et al. 2024) or "none".
      start, stop: share of the run between which the set grows and shrinks.
      rounds: how often within it.
      gradient: mean screen gradient (in units of half the picture) above which a Gaussian is cloned or split.
      grow_share: of the present count, the most that one round adds.
      split_size: metres; larger ones are split, smaller ones cloned.
      min_opacity: fainter ones go.
      max_size: metres; larger ones go.
      noise: MCMC's position noise, per unit of learning rate.
    """

    strategy: str = "default"
    start: float = 0.1
    stop: float = 0.6
    rounds: int = 8
    gradient: float = 2e-4
    grow_share: float = 0.15
    split_size: float = 0.004
    min_opacity: float = 0.02
    max_size: float = 0.03
    noise: float = 5e3

    def due(self, step: int, steps: int) -> bool:
        """Whether the set changes after this step (counted from 1)."""
        if self.strategy == "none" or self.rounds < 1:
            return False
        first, last = self.start * steps, self.stop * steps
        every = max(1.0, (last - first) / self.rounds)
        return first <= step <= last and math.floor((step - first) / every) != math.floor((step - 1 - first) / every)


class Statistics:
    """Screen gradients since the last change of the set."""

    def __init__(self, count: int, device: torch.device):
        self.gradient = torch.zeros(count, device=device)
        self.seen = torch.zeros(count, device=device)

    def add(self, screen_gradient: Tensor, visible: Tensor) -> None:
        """Adds d loss / d position [V, N, 2], in half pictures, of some views of a frame."""
        # The loss is a mean over the views; the threshold is meant for one.
        self.gradient += (screen_gradient.norm(dim=-1) * visible).sum(0) * len(screen_gradient)
        self.seen += visible.sum(0)

    def mean(self) -> Tensor:
        return self.gradient / self.seen.clamp(min=1)


@dataclasses.dataclass
class Change:
    """A new set: rows `keep` of the old one, then `tensors` of new ones on triangles `binding`."""

    keep: Tensor
    binding: Tensor
    tensors: dict[str, Tensor]


def local_scale(avatar: Avatar, splats: Splats) -> Tensor:
    """[G] metres per unit of each Gaussian's triangle frame."""
    return (splats.scales[:, 0] / avatar.log_scale[:, 0].exp()).detach()


@torch.no_grad()
def default_round(
    avatar: Avatar,
    splats: Splats,
    statistics: Statistics,
    config: DensifyConfig,
    limit: int,
    generator: torch.Generator,
    finer: Tensor | None = None,
    fixed: Tensor | None = None,
) -> Change:
    """Clones small and splits large Gaussians with large screen gradients; drops faint, huge and always hidden ones.

    `finer` [G] scales the size from which they are split: some are seen in finer pictures than others. Those that are
    `fixed` [G] stay as they are.
    """
    device = avatar.device
    size = splats.scales.amax(1)
    mean = statistics.mean()
    if fixed is not None:
        mean = mean.masked_fill(fixed, 0)
    wanted = mean > config.gradient
    room = max(0, min(limit - avatar.gaussian_count, int(config.grow_share * avatar.gaussian_count)))
    if int(wanted.sum()) > room:
        wanted = torch.zeros_like(wanted).index_fill_(0, mean.topk(room).indices, True)
    split = wanted & (size > config.split_size * (1.0 if finer is None else finer))
    clone = wanted & ~split
    # What hides behind others all the time has no gradient at all.
    keep = (splats.opacities > config.min_opacity) & (size < config.max_size) & ~split & (statistics.gradient > 0)
    if fixed is not None:
        keep |= fixed
    tensors = {name: getattr(avatar, name).detach() for name in GAUSSIAN_TENSORS}
    children = {name: torch.cat((value[clone], value[split], value[split])) for name, value in tensors.items()}
    clones, splits = int(clone.sum()), int(split.sum())
    if splits:
        noise = torch.randn(2 * splits, 3, generator=generator).to(device)
        both = torch.cat((tensors["rotation"][split],) * 2)
        spread = torch.cat((tensors["log_scale"][split],) * 2).exp() * noise
        children["position"][clones:] += (quaternion_to_matrix(both) * spread[:, None]).sum(-1)
        children["log_scale"][clones:] -= math.log(1.6)
    return Change(
        keep.nonzero()[:, 0], torch.cat((avatar.binding[clone], avatar.binding[split], avatar.binding[split])), children
    )


@torch.no_grad()
def mcmc_round(
    avatar: Avatar,
    splats: Splats,
    config: DensifyConfig,
    limit: int,
    generator: torch.Generator,
    fixed: Tensor | None = None,
) -> Change:
    """Moves dead Gaussians onto live ones and adds up to 5 %, both drawn by opacity, keeping the picture as it is.

    Above `limit` dead ones go, until there are no more than that. Those that are `fixed` [G] stay and are not drawn.
    """
    opacity = splats.opacities
    fixed = torch.zeros_like(opacity, dtype=torch.bool) if fixed is None else fixed
    dead = (opacity <= config.min_opacity) & ~fixed
    alive = (~dead).nonzero()[:, 0]
    grown = min(limit, int(1.05 * avatar.gaussian_count) + 1)
    chosen = _drawn(opacity, (~dead & ~fixed).nonzero()[:, 0], grown - len(alive), generator)
    copies = torch.bincount(chosen, minlength=avatar.gaussian_count)[chosen] + 1  # the original counts
    new_opacity, shrink = relocated(opacity[chosen], copies)
    logit = torch.logit(new_opacity.clamp(config.min_opacity, 1 - 1e-6))
    avatar.logit_opacity.data[chosen] = logit
    avatar.log_scale.data[chosen] += shrink.log()[:, None]
    tensors = {name: getattr(avatar, name).detach()[chosen].clone() for name in GAUSSIAN_TENSORS}
    return Change(alive, avatar.binding[chosen], tensors)


def _drawn(opacity: Tensor, candidates: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """`count` of the `candidates` (indices), by opacity, with replacement; none where the count is below 1."""
    if count < 1 or not len(candidates):
        return candidates[:0]
    drawn = torch.multinomial(opacity[candidates].cpu(), count, replacement=True, generator=generator)
    return candidates[drawn.to(candidates.device)]


def relocated(opacity: Tensor, copies: Tensor) -> tuple[Tensor, Tensor]:
    """Opacity of each of `copies` Gaussians that together replace one, and the factor on their size.

    Equation 9 of 3DGS-MCMC (Kheradmand et al. 2024).
    """
    new = 1 - (1 - opacity) ** (1 / copies)
    total = torch.zeros_like(opacity)
    for index in range(1, int(copies.max()) + 1 if len(copies) else 1):
        inner = sum(math.comb(index - 1, k) * (-1) ** k * new ** (k + 1) / math.sqrt(k + 1) for k in range(index))
        total = total + torch.where(copies >= index, inner, torch.zeros_like(inner))
    return new, opacity / total.clamp(min=1e-6)


@torch.no_grad()
def mcmc_noise(
    avatar: Avatar,
    splats: Splats,
    learning_rate: float,
    config: DensifyConfig,
    generator: torch.Generator,
    fixed: Tensor | None = None,
) -> None:
    """Moves Gaussians at random, faint ones most and those that are `fixed` [G] not: the exploration of 3DGS-MCMC."""
    faint = 1 / (1 + torch.exp(-100 * (0.005 - splats.opacities)))
    noise = torch.randn(avatar.gaussian_count, 3, generator=generator).to(avatar.device)
    matrix = quaternion_to_matrix(avatar.rotation) * avatar.log_scale.exp()[:, None, :]
    step = torch.einsum("gij,gkj,gk->gi", matrix, matrix, noise) * (faint * learning_rate * config.noise)[:, None]
    if fixed is not None:
        step = step.masked_fill(fixed[:, None], 0)
    avatar.position.data += step.clamp(-1, 1)
