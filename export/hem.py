"""The hem: the end of the body where the pictures' frames end. It fades in one colour there, instead of fraying.

A Gaussian at the edge of every frame is seen in part, and by few pictures: large ones, light and dark, fit that part
as well as the body would. Whoever looks from further away sees the rest of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator

import torch
from scipy.spatial import cKDTree
from torch import Tensor

from mvp4d_export.avatar import Avatar, logit_of
from mvp4d_export.dataset import Dataset
from mvp4d_export.photos import Picture
from mvp4d_export.rig import Pose
from mvp4d_export.seeding import project_points
from mvp4d_export.visibility import smoothstep

EVEN = (-0.004, 0.018)  # metres inside of frames at which a colour is the mean of those beside the hem, its own
FADES = (-0.003, 0.009)  # metres inside of frames at which a Gaussian is gone, whole
BESIDE = 0.02  # metres beside the hem whose colours it takes
NEIGHBOURS = 24  # Gaussians that one mean is of
VISIBLE = 0.2  # opacity that these have at least
REACH = 1.0  # standard deviations to which a Gaussian reaches
MOMENTS = 9  # of the capture that are looked at, at most


@dataclasses.dataclass(frozen=True)
class Edges:
    """Pictures of one moment, and where they end.

    Attributes:
      pose: one frame. viewmats: [V, 4, 4]. Ks: [V, 3, 3].
      left, right, bottom: pixels at which they end. Heads may be cut off above.
    """

    pose: Pose
    viewmats: Tensor
    Ks: Tensor
    left: int
    right: int
    bottom: int

    @classmethod
    def of_capture(cls, data: Dataset) -> Iterator[Edges]:
        """The views that are fitted, at moments spread over their time."""
        height, width = data.size
        for time in data.moments(MOMENTS):
            views = [view for view in data.train_views if data.usable[view, time]]
            yield cls(data.pose[time : time + 1], data.viewmats[views, time], data.Ks[views, time], 0, width, height)

    @classmethod
    def of_photo(cls, picture: Picture, pose: Pose, viewmat: Tensor) -> Edges:
        """A photo that has a pixel; its crop may be wider than it is."""
        rows, columns = (picture.known > 0).nonzero().T
        ends = int(columns.min()), int(columns.max()) + 1, int(rows.max()) + 1
        return cls(pose, viewmat[None], picture.K[None], *ends)


@torch.no_grad()
def inside_frames(avatar: Avatar, pictures: Iterable[Edges]) -> Tensor:
    """[G] metres to which Gaussians reach inside of the frame that shows them best: off its left, right, lower edge."""
    best = torch.full((avatar.gaussian_count,), -torch.inf, device=avatar.device)
    for edges in pictures:
        splats = avatar.splats(avatar.vertices(edges.pose))
        means, reach = splats.means, REACH * splats.scales.amax(1)
        for viewmat, K in zip(edges.viewmats @ edges.pose.head_matrix(), edges.Ks):
            pixels, depth = project_points(means, viewmat, K)
            column, row = pixels.unbind(1)
            within = torch.stack((column - edges.left, edges.right - column, edges.bottom - row)).amin(0)
            best = torch.where(depth > 0, torch.maximum(best, within * depth / K[0, 0] - reach), best)
    return best


@torch.no_grad()
def finish_hem(avatar: Avatar, among: Tensor, pictures: Iterable[Edges]) -> None:
    """Fades Gaussians at the edges of all frames, and gives them the colours beside them.

    Args:
      among: [G] bool, those that may change.
      pictures: all that shows the person, generated views and photos.
    """
    inside = inside_frames(avatar, pictures)
    opacity = avatar.logit_opacity.sigmoid()
    hem = among & (inside < EVEN[1])
    beside = among & ~hem & (inside < EVEN[1] + BESIDE) & (opacity > VISIBLE)
    if not hem.any() or not beside.any():
        return
    places = avatar.splats(avatar.gather(avatar.rig.template)).means
    count = min(NEIGHBOURS, int(beside.sum()))
    _, index = cKDTree(places[beside].cpu().numpy()).query(places[hem].cpu().numpy(), [*range(1, count + 1)])
    index = torch.from_numpy(index).to(places.device)  # [H, K]
    weights = opacity[beside][index][..., None]
    mean = torch.zeros_like(avatar.harmonics[hem])  # [H, S, 3]: the same from all sides
    mean[:, 0] = (weights * avatar.harmonics[beside, 0][index]).sum(1) / weights.sum(1)
    avatar.harmonics[hem] = torch.lerp(mean, avatar.harmonics[hem], smoothstep(inside[hem], *EVEN)[:, None, None])
    faded = opacity[hem] * smoothstep(inside[hem], *FADES)
    avatar.logit_opacity[hem] = logit_of(faded)
