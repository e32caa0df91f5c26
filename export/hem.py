"""The hem: the end of the body where the pictures' frames end. It is cut even there, and beside them it fades.

A Gaussian at the edge of every frame is seen in part, and by few pictures: large ones, light and dark, fit that part
as well as the body would. Whoever looks from further away sees the rest of them. Frames end at other heights all
around the body, the more so the nearer it is to their cameras: it is cut where most of them still show it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator

import torch
from scipy.spatial import cKDTree
from torch import Tensor
from torch.nn.functional import normalize

from mvp4d_export.avatar import Avatar, Splats, logit_of
from mvp4d_export.cut import cut_off
from mvp4d_export.dataset import Dataset
from mvp4d_export.joined import joined
from mvp4d_export.photos import Picture
from mvp4d_export.rig import Pose
from mvp4d_export.seeding import project_points
from mvp4d_export.visibility import smoothstep

EVEN = (-0.004, 0.018)  # metres inside of frames at which a colour is the mean of those beside the hem, its own
FADES = (-0.003, 0.009)  # metres inside of frames at which a Gaussian is gone, whole
BESIDE = 0.02  # metres beside the hem whose colours it takes
NEIGHBOURS = 24  # Gaussians that one mean is of
VISIBLE = 0.2  # opacity that these have at least
BEHIND = 0.03  # metres beyond the body's axis to which a camera sees what lies there
AT_END = (-0.004, 0.008)  # metres above the end of frames at which Gaussians tell where these end
CUT_QUANTILE = 0.75  # share of them below the plane of the cut: most of the body above it is seen
LEVER, STEADY = 0.1, 1e-3  # metres over which its slopes are measured, and how much they are held to 0
ROUNDS, NEAR = 40, 1e-4  # of reweighting, and metres below which distances to the plane weigh alike
CUT = -0.008  # metres above that plane at which the body is cut: below the frames of most views
ISLAND = 0.06  # metres above the cut within which what hangs together with nothing above goes
LINKED = 0.003, 2.0, 0.02  # Gaussians hang together within so many metres and standard deviations; metres at most
FAINT = 0.05  # opacity that one has at least
FEW = 32  # Gaussians that tell no end
REACH = 1.0  # standard deviations to which a Gaussian reaches
FRAMES = 9  # of the capture that are looked at, at most


@dataclasses.dataclass(frozen=True)
class Edges:
    """Pictures of one video frame, and where they end.

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
        """The views that are fitted, at frames spread over their time."""
        height, width = data.size
        for frame in data.spread_frames(FRAMES):
            views = [view for view in data.train_views if data.usable[view, frame]]
            yield cls(
                data.pose[frame : frame + 1], data.viewmats[views, frame], data.Ks[views, frame], 0, width, height
            )

    @classmethod
    def of_photo(cls, picture: Picture, pose: Pose, viewmat: Tensor) -> Edges:
        """A photo that has a pixel; its crop may be wider than it is."""
        rows, columns = (picture.known > 0).nonzero().T
        ends = int(columns.min()), int(columns.max()) + 1, int(rows.max()) + 1
        return cls(pose, viewmat[None], picture.K[None], *ends)


@torch.no_grad()
def inside_frames(avatar: Avatar, pictures: Iterable[Edges]) -> tuple[Tensor, Tensor]:
    """How far Gaussians reach into the frames, the best of all pictures.

    Returns:
      inside: [G] metres off the left, right and lower edge. above: [G] metres above the lower edge of frames whose
      cameras are on the Gaussian's side of the body: others look through it.
    """
    inside = torch.full((avatar.gaussian_count,), -torch.inf, device=avatar.device)
    above, axis = inside.clone(), avatar.rig.template.mean(0)
    for edges in pictures:
        splats = avatar.splats(avatar.vertices(edges.pose))
        means, reach = splats.means, REACH * splats.scales.amax(1)
        around = (means - axis)[:, ::2]
        for viewmat, K in zip(edges.viewmats @ edges.pose.head_matrix(), edges.Ks):
            pixels, depth = project_points(means, viewmat, K)
            column, row = pixels.unbind(1)
            metres, camera = depth / K[0, 0], -viewmat[:3, :3].T @ viewmat[:3, 3]
            aside = torch.minimum(column - edges.left, edges.right - column) * metres - reach
            low = (edges.bottom - row) * metres - reach
            before = depth > 0
            inside = torch.where(before, torch.maximum(inside, torch.minimum(aside, low)), inside)
            faced = before & (around @ normalize((camera - axis)[::2], dim=0) > -BEHIND)
            above = torch.where(faced, torch.maximum(above, low), above)
    return inside, above


@torch.no_grad()
def finish_hem(avatar: Avatar, among: Tensor, pictures: Iterable[Edges]) -> None:
    """Cuts the body even, fades Gaussians at the edges of all frames, and gives both the colours beside them.

    Args:
      among: [G] bool, those that may change.
      pictures: all that shows the person, generated views and photos.
    """
    inside, above = inside_frames(avatar, pictures)
    opacity = avatar.logit_opacity.sigmoid()
    told = torch.where(above.isfinite(), torch.minimum(inside, above), inside)  # no camera may face the back
    hem = among & (told < EVEN[1])
    beside = among & ~hem & (told < EVEN[1] + BESIDE) & (opacity > VISIBLE)
    if not hem.any() or not beside.any():
        return
    vertices = avatar.gather(avatar.rig.template)
    places = avatar.splats(vertices).means
    mean = _mean_light(avatar, places, opacity, hem, beside)
    avatar.harmonics[hem] = torch.lerp(mean, avatar.harmonics[hem], smoothstep(told[hem], *EVEN)[:, None, None])

    share = smoothstep(inside, *FADES)
    ends = among & (opacity > VISIBLE) & (above > AT_END[0]) & (above < AT_END[1])
    if ends.sum() > FEW:
        plane = Plane.over(places[ends])
        cut_off(avatar, vertices, among, plane.above(places) - CUT, plane.up)
        splats = avatar.splats(vertices)
        left = _left_over(splats, splats.opacities * share > FAINT, plane.above(splats.means) - CUT)
        share = torch.where(left, 0.0, share)
    fades = among & (share < 1)
    avatar.logit_opacity[fades] = logit_of(avatar.logit_opacity[fades].sigmoid() * share[fades])


@dataclasses.dataclass(frozen=True)
class Plane:
    """Heights that are linear over the ground.

    Attributes:
      level: metres. slopes: [2] along x and z.
    """

    level: Tensor
    slopes: Tensor

    @classmethod
    def over(cls, ends: Tensor) -> Plane:
        """The plane that has `CUT_QUANTILE` of the ends [E, 3] below it.

        Linear quantile regression by reweighted least squares: a head that is bent leans against the frames.
        """
        levers = ends[:, [0, 2]].double() / LEVER
        known = torch.cat((torch.ones_like(levers[:, :1]), levers), 1)
        heights = ends[:, 1].double()
        weights = torch.ones_like(heights)
        steady = torch.diag(heights.new_tensor([0.0, 1.0, 1.0])) * len(ends)  # slopes that nothing tells are 0
        for _ in range(ROUNDS):
            normal = known.T @ (weights[:, None] * known) + STEADY * weights.mean() * steady
            found = torch.linalg.solve(normal, known.T @ (weights * heights))
            off = heights - known @ found
            weights = torch.where(off > 0, CUT_QUANTILE, 1 - CUT_QUANTILE) / off.abs().clamp(min=NEAR)
        found = found.to(ends.dtype)
        return cls(found[0], found[1:] / LEVER)

    @property
    def up(self) -> Tensor:
        """[3] the gradient of `above`."""
        return torch.stack((-self.slopes[0], torch.ones_like(self.level), -self.slopes[1]))

    def above(self, places: Tensor) -> Tensor:
        """[G] metres that places [G, 3] lie above it."""
        return places @ self.up - self.level


def _mean_light(avatar: Avatar, places: Tensor, opacity: Tensor, hem: Tensor, beside: Tensor) -> Tensor:
    """[H, S, 3] harmonics of the hem [G] bool: the mean of the nearest of those beside it [G], alike from all sides."""
    count = min(NEIGHBOURS, int(beside.sum()))
    _, index = cKDTree(places[beside].cpu().numpy()).query(places[hem].cpu().numpy(), [*range(1, count + 1)])
    index = torch.from_numpy(index).to(places.device)  # [H, K]
    weights = opacity[beside][index][..., None]
    mean = torch.zeros_like(avatar.harmonics[hem])
    mean[:, 0] = (weights * avatar.harmonics[beside, 0][index]).sum(1) / weights.sum(1)
    return mean


def _left_over(splats: Splats, solid: Tensor, height: Tensor) -> Tensor:
    """[G] bool: what the cut leaves of the body that hangs together with nothing further up.

    Args:
      solid: [G] bool, Gaussians that can be seen. height: [G] metres above the cut.
    """
    near = (solid & (height < ISLAND)).nonzero()[:, 0]
    if not len(near):
        return torch.zeros_like(solid)
    # One node for those that lie within a few millimetres: a fit has many of them.
    cells, cell = torch.unique((splats.means[near] / LINKED[0]).floor(), dim=0, return_inverse=True)
    count = torch.bincount(cell).to(height.dtype)
    nodes = torch.zeros_like(cells).index_add(0, cell, splats.means[near]) / count[:, None]
    reach = (LINKED[0] + LINKED[1] * splats.scales[near].amax(1)).clamp(max=LINKED[2])
    reach = torch.zeros_like(count).scatter_reduce(0, cell, reach, "amax")
    top = torch.bincount(cell, (height[near] > ISLAND / 2).to(height.dtype)) > 0
    left = torch.zeros_like(solid)
    left[near] = ~joined(nodes, top, reach)[cell]
    return left
