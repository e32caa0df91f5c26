"""Where Gaussians start: on the rig's surface, and on the hull that the masks carve around it (hair, clothes)."""

from __future__ import annotations

import math

import torch
from scipy.spatial import cKDTree
from torch import Tensor
from torch.nn.functional import avg_pool2d, grid_sample, max_pool3d, normalize

from mvp4d_export.avatar import Avatar
from mvp4d_export.dataset import Dataset
from mvp4d_export.harmonics import even_harmonics, sh_of_colour
from mvp4d_export.remesh import JAW_OPEN
from mvp4d_export.rig import Pose, Rig
from mvp4d_export.triangles import Frames, no_turns, to_head, to_local, triangle_frames
from mvp4d_export.visibility import parts_named

MARGIN = (0.14, 0.13, 0.14)  # metres around the rig that hair and clothes may take
REACH = 0.13  # metres from the nearest triangle that a Gaussian may start at
FRAMES, AGREED = 5, 0.7  # video frames that are asked for the hull, and the share of them that must agree
TRIANGLE_SHARE = 0.6  # of all Gaussians, at most, start on a triangle each
SURFACE_SHARE = 0.2  # of all Gaussians, at most, close the seams of the UV chart ...
SAMPLES, SEAM = 20_000, 0.8  # ... at some of so many places, this share of the triangles' spacing from other points
HIDDEN_PARTS = ("inside", "socket", "nostril", "gum", "tongue")
COARSE_STEP, FINEST_STEP = 0.012, 0.004  # metres between hull points of the first try, and at least
TOLERANCE = 0.06  # share of the pictures in which a hull point may fall outside of the mask
SPACING = (0.0008, 0.012)  # metres between neighbours, as far as it tells a Gaussian's size
WIDTH, FLAT = 0.65, 0.35  # standard deviation over that spacing; thickness on the rig over the width
CLOSED = 1.3  # how much larger Gaussians on the rig are than those off it: nothing shines through a face
ASKANCE = 0.05  # least cosine by which a view counts for the colours of a surface
DEPTH_SLACK = 0.012  # metres behind the nearest point at which a point still counts as visible
STILL = 0.003  # metres that expressions may move skin on which hair and clothes hang
HANGING = 0.012  # metres from the skin beyond which they do not follow all that it does
OPACITY = 0.75


@torch.no_grad()
def initialise(avatar: Avatar, data: Dataset, limit: int, seed: int) -> int:
    """Gives an avatar its Gaussians. `limit` bounds their number. Returns how many lie on the hull, off the rig."""
    device = avatar.mesh_faces.device
    frames = sorted({data.train_frames[int(i)] for i in torch.linspace(0, len(data.train_frames) - 1, FRAMES)})
    offsets = torch.zeros(len(avatar.mesh_pixels), 3, device=device)
    posed = [avatar.vertices(data.pose[frame : frame + 1], offsets) for frame in frames]
    local_frames = [triangle_frames(vertices, avatar.mesh_faces) for vertices in posed]
    points, binding, on_rig = _start(avatar, data, frames, local_frames, limit, seed)
    local = to_local(points, local_frames[0], binding)
    size = _neighbour_distance(points).clamp(*SPACING)
    flat = size[:, None].repeat(1, 3) * WIDTH
    flat[:on_rig] *= CLOSED
    flat[:on_rig, 1] *= FLAT  # thin along the triangle's normal
    normals = local_frames[0][0][binding, :, 1]
    normals[on_rig:] = 0
    colour = _colours(avatar, data, frames[0], points, normals)
    opacity = torch.full((len(points),), math.log(OPACITY / (1 - OPACITY)), device=device)
    avatar.set_gaussians(
        binding,
        {
            "position": local,
            "rotation": no_turns(len(points), device),
            "log_scale": (flat / local_frames[0][1][binding, None]).log(),
            "logit_opacity": opacity,
            "harmonics": even_harmonics(colour, avatar.config.harmonic_count),
        },
    )
    return len(points) - on_rig


def _start(
    avatar: Avatar, data: Dataset, frames: list[int], local_frames: list[Frames], limit: int, seed: int
) -> tuple[Tensor, Tensor, int]:
    """Points [M, 3] in the first of these frames, the triangles [M] that carry them, and how many of them lie on the
    rig: the first ones."""
    centres, device = local_frames[0][2], avatar.device
    binding = torch.arange(len(centres), device=device)
    if len(binding) > TRIANGLE_SHARE * limit:
        spacing = float(local_frames[0][1].median())
        binding = _thin(centres, TRIANGLE_SHARE * limit, spacing).sort().values
    points = centres[binding]

    spacing = local_frames[0][1].median() * (len(centres) / len(binding)) ** 0.5
    extra = _surface_samples(avatar, data, frames[0], seed)
    extra = extra[nearest(extra, points)[0] > SEAM * spacing]
    extra = extra[_thin(extra, SURFACE_SHARE * limit, float(SEAM * spacing))]
    points = torch.cat((points, extra))
    on_rig = len(points)
    if data.masks is not None and limit > on_rig:
        points = torch.cat((points, _hull(data, frames, local_frames, points, limit - on_rig)))
    everywhere = torch.ones(len(centres), dtype=torch.bool, device=device)
    seams = nearest(points[len(binding) : on_rig], centres)[1]
    return points, torch.cat((binding, seams, hang(avatar, points[on_rig:], centres, everywhere))), on_rig


@torch.no_grad()
def recolour(avatar: Avatar, data: Dataset, on_hull: int) -> None:
    """Gives Gaussians the views' colours anew, of which the last `on_hull` lie off the rig."""
    frame = data.train_frames[0]
    vertices = avatar.vertices(data.pose[frame : frame + 1])
    normals = triangle_frames(vertices, avatar.mesh_faces)[0][avatar.binding, :, 1]
    normals[len(normals) - on_hull :] = 0
    avatar.harmonics[:, 0] = sh_of_colour(_colours(avatar, data, frame, avatar.splats(vertices).means, normals))


def nearest(points: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Distance [M] to, and index [M] of, the nearest target of each point."""
    distance, index = cKDTree(targets.cpu().numpy()).query(points.cpu().numpy())
    return (
        torch.as_tensor(distance, dtype=points.dtype, device=points.device),
        torch.as_tensor(index, dtype=torch.int64, device=points.device),
    )


def hang(avatar: Avatar, points: Tensor, centres: Tensor, among: Tensor) -> Tensor:
    """The triangle [M] that points off the rig follow, of those with `centres` [T, 3] that are `among` [T] bool.

    It is the nearest, but far from it one that expressions hardly move: a collar does not follow the chin above it.
    """
    every = among.nonzero()[:, 0]
    still = (among & (moved(avatar) < STILL)).nonzero()[:, 0]
    distance, index = nearest(points, centres[every])
    binding = every[index]
    far = distance > HANGING
    if len(still) and far.any():
        binding[far] = still[nearest(points[far], centres[still])[1]]
    return binding


def moved(avatar: Avatar) -> Tensor:
    """[T] metres that the expression that moves a triangle most moves it, the jaw's among them."""
    return avatar.gather(moved_vertices(avatar.rig)[:, None])[avatar.mesh_faces].amax((1, 2))


def moved_vertices(rig: Rig) -> Tensor:
    """[N] metres, likewise, of the vertices of a rig."""
    zero = rig.template.new_zeros
    most = zero(len(rig.template))
    for offset in rig.expression_basis:
        most = torch.maximum(most, offset.norm(dim=1))
    jaw = zero(1, 3)
    jaw[0, 0] = JAW_OPEN
    pose = Pose(zero(1, len(rig.expression_basis)), zero(1, 3), zero(1, 3), zero(1, 3), jaw, zero(1, 2, 3))
    return torch.maximum(most, (rig(pose)[0][0] - rig.template).norm(dim=1))


def _neighbour_distance(points: Tensor) -> Tensor:
    """Mean distance to the three nearest others."""
    host = points.cpu().numpy()
    distance, _ = cKDTree(host).query(host, k=4)
    return torch.as_tensor(distance[:, 1:].mean(1), dtype=points.dtype, device=points.device)


def _surface_samples(avatar: Avatar, data: Dataset, frame: int, seed: int) -> Tensor:
    """Points spread over the whole rig by area: they close the seams of the UV chart."""
    vertices, _ = avatar.rig(data.pose[frame : frame + 1])
    outside = ~parts_named(avatar.rig.part_names, HIDDEN_PARTS).to(avatar.device)[avatar.rig.face_parts]
    corners = vertices[0][avatar.rig.faces[outside]].cpu()
    area = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]).norm(dim=1)
    generator = torch.Generator().manual_seed(seed)
    face = torch.multinomial(area + 1e-12, SAMPLES, replacement=True, generator=generator)
    u = torch.rand(len(face), 2, generator=generator)
    u = torch.where(u.sum(1, keepdim=True) > 1, 1 - u, u)
    a, b, c = corners[face].unbind(1)
    return (a + u[:, :1] * (b - a) + u[:, 1:] * (c - a)).to(vertices.device)


def _thin(points: Tensor, limit: float, spacing: float) -> Tensor:
    """Indices of one point per cell of a grid of at least this spacing, coarser where more than `limit` are left."""
    while len(points):
        cells = (points / spacing).floor().long()
        cells = cells - cells.amin(0)
        sizes = cells.amax(0) + 1
        keys = (cells[:, 0] * sizes[1] + cells[:, 1]) * sizes[2] + cells[:, 2]
        order = keys.argsort(stable=True)
        first = torch.ones(len(order), dtype=torch.bool, device=points.device)
        first[1:] = keys[order][1:] != keys[order][:-1]
        if int(first.sum()) <= limit:
            return order[first]
        spacing *= 1.1
    return torch.zeros(0, dtype=torch.int64, device=points.device)


def _hull(data: Dataset, frames: list[int], local_frames: list[Frames], taken: Tensor, budget: int) -> Tensor:
    """Points on the hull of the masks that are not already covered, as fine as the budget allows. Head space."""
    step, points = COARSE_STEP, _hull_at(data, frames, local_frames, taken, COARSE_STEP)
    for _ in range(4):
        # The count of a surface goes with the inverse square of the step.
        finer = max(FINEST_STEP, step * (len(points) / max(0.95 * budget, 1)) ** 0.5)
        if len(points) <= budget and finer > 0.95 * step:
            return points
        step = finer
        points = _hull_at(data, frames, local_frames, taken, step)
    return points[:: -(-len(points) // max(budget, 1))]


def _hull_at(data: Dataset, frames: list[int], local_frames: list[Frames], taken: Tensor, step: float) -> Tensor:
    """Hull points on a grid of `step` metres."""
    centres = local_frames[0][2]
    margin = torch.tensor(MARGIN, device=centres.device)
    low, high = centres.amin(0) - margin, centres.amax(0) + margin
    sizes = [int(n) + 1 for n in ((high - low) / step).tolist()]
    axes = [low[k] + step * torch.arange(sizes[k], device=centres.device) for k in range(3)]
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
    inside = _inside(data, frames[0], grid) >= 1 - TOLERANCE
    solid = inside.reshape(1, 1, *sizes)
    surface = solid & (max_pool3d((~solid).float(), 3, 1, 1) > 0)
    points = grid[surface.flatten()]
    points = points[nearest(points, taken)[0] > max(0.7 * step, 0.003)]
    distance, bound = nearest(points, centres)
    points, bound = points[distance < REACH], bound[distance < REACH]
    agreed = torch.zeros(len(points), device=points.device)
    local = to_local(points, local_frames[0], bound)
    for frame, triangles in zip(frames, local_frames):
        agreed += _inside(data, frame, to_head(local, triangles, bound)) >= 1 - 2 * TOLERANCE
    return points[agreed >= AGREED * len(frames)]


def _project(data: Dataset, frame: int, points: Tensor) -> tuple[Tensor, Tensor]:
    """Head-space points in every fitted view of a frame: pixels [V, M, 2] and depth [V, M]."""
    viewmats = data.viewmats[data.train_views, frame] @ data.pose[frame : frame + 1].head_matrix()
    camera = points @ viewmats[:, :3, :3].transpose(1, 2) + viewmats[:, None, :3, 3]
    pixels = camera @ data.Ks[data.train_views, frame].transpose(1, 2)
    return pixels[..., :2] / pixels[..., 2:].clamp(min=1e-6), camera[..., 2]


def _grid(pixels: Tensor, height: int, width: int) -> Tensor:
    """Pixels [V, M, 2] in grid_sample's units (align_corners=False): [V, 1, M, 2]."""
    return (pixels / pixels.new_tensor([width / 2, height / 2]) - 1)[:, None]


def _inside(data: Dataset, frame: int, points: Tensor) -> Tensor:
    """Share of the views that see a point in which it falls on the mask; 0 where fewer than two see it."""
    usable = torch.as_tensor(data.usable[data.train_views, frame], device=points.device)
    masks = data.masks[data.train_views, frame].float() / 255
    pixels, depth = _project(data, frame, points)
    height, width = data.size
    seen = (pixels > 0).all(-1) & (pixels < pixels.new_tensor([width, height])).all(-1) & (depth > 0.01)
    seen &= usable[:, None]
    value = grid_sample(masks[:, None], _grid(pixels, height, width), align_corners=False)[:, 0, 0] > 0.5
    total = seen.sum(0)
    return torch.where(total >= 2, (value & seen).sum(0) / total.clamp(min=1), torch.zeros_like(depth[0]))


def _colours(avatar: Avatar, data: Dataset, frame: int, points: Tensor, normals: Tensor) -> Tensor:
    """Mean colour [M, 3] over the views in which a point is not hidden behind another, which count by how squarely they
    see the surface; its normals [M, 3] are 0 for points off it."""
    height, width = data.size
    pictures = data.pictures[data.train_views, frame].float() / 255
    pixels, depth = _project(data, frame, points)
    coarse = max(1, min(height, width) // 48)
    columns, rows = -(-width // coarse), -(-height // coarse)
    cell = (pixels / coarse).floor().long()
    inside = (cell >= 0).all(-1) & (cell[..., 0] < columns) & (cell[..., 1] < rows) & (depth > 0.01)
    index = (cell[..., 1] * columns + cell[..., 0]).clamp(0, rows * columns - 1)
    surface = normals.norm(dim=1) > 0
    visible = inside
    for hides, hidden in ((surface, surface), (torch.ones_like(surface), ~surface)):
        # Hair over skin lends it its colour: the hull is too large to tell where it ends.
        first = torch.full((len(depth), rows * columns), math.inf, device=depth.device)
        first.scatter_reduce_(1, index, torch.where(inside & hides, depth, torch.full_like(depth, math.inf)), "amin")
        visible = visible & (~hidden | (depth < first.gather(1, index) + DEPTH_SLACK))
    smooth = avg_pool2d(pictures.permute(0, 3, 1, 2), 3, 1, 1, count_include_pad=False)
    colour = grid_sample(smooth, _grid(pixels, height, width), align_corners=False)[:, :, 0].transpose(
        1, 2
    )  # [V, M, 3]
    weight = visible.float()[..., None]
    if data.masks is not None:  # the background is nobody's colour
        masks = data.masks[data.train_views, frame].float() / 255
        solid = grid_sample(masks[:, None], _grid(pixels, height, width), align_corners=False)[:, 0, 0]
        weight = weight * solid[..., None].square()
    matrices = data.viewmats[data.train_views, frame] @ data.pose[frame : frame + 1].head_matrix()
    eyes = -(matrices[:, :3, :3].mT @ matrices[:, :3, 3:])[..., 0]
    cosine = (normalize(eyes[:, None] - points, dim=-1) * normals).sum(-1).clamp(min=ASKANCE)
    weight = weight * torch.where(surface, cosine, 1.0)[..., None].square()
    total = weight.sum(0)
    mean = (weight * colour).sum(0) / total.clamp(min=1e-6)
    known = total[:, 0] > 1e-3
    if known.any() and not known.all():
        mean[~known] = mean[known][nearest(points[~known], points[known])[1]]
    return mean.clamp(0.01, 0.99)
