"""Fitting one head to the landmarks of several known cameras: triangulated start, then all views at once.

The start: each landmark is triangulated from the views that see it (linear, reweighted by its reprojection error), and
the neutral head is laid on the points of each frame by a similarity (Umeyama 1991). Its scale tells the unit of the
calibration. The world stays the calibration's where the head stands upright in it; otherwise (COLMAP's is arbitrary)
it is turned and moved so that the head of the first frame looks along +z from the origin.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence

import jax
import numpy as np
from scipy.spatial.transform import Rotation

from mvp4d.core.cameras.camera import Camera, centre
from mvp4d.core.errors import UserError
from mvp4d.core.heads.mesh import vertex_normals
from mvp4d.core.heads.model import HeadModel
from mvp4d.core.heads.motion import Motion
from mvp4d.core.progress import say
from mvp4d_jax.heads.skinning import landmarks
from mvp4d_jax.tracking.landmarks import POINTS, Landmarks
from mvp4d_jax.tracking.observations import observations_of_rig
from mvp4d_jax.tracking.photometric import Pictures, Refiner, refine
from mvp4d_jax.tracking.problem import (
    Layout,
    Problem,
    SolveConfig,
    acceleration_weights,
    draw,
    landmark_rig,
    minimise,
    motion_of,
)

UNITS = {"metres": 1.0, "centimetres": 100.0, "millimetres": 1000.0}  # in a metre
UNIT_MARGIN = 1.25  # how far an adult's head may be from the mean one
UPRIGHT = np.cos(np.radians(45))  # of the angle between the head's up and the world's
START_ERROR = 0.06  # of the face box: views whose landmarks triangulate worse do not belong together
OUTLIER = 0.03  # of the face box, from which on a view counts less for a triangulated point
PAIRS = 300  # of views that are tried for those that agree
MOST = 0.7  # share of a frame's faces that agree, at least, in a rig whose calibration is right
_FIXED = slice(17, POINTS)  # the contour of the jaw is no fixed place on the skin


@dataclasses.dataclass(frozen=True)
class RigSolution:
    """A head fitted to V views of F frames.

    Attributes:
      shape: [S] identity coefficients.
      motion: F frames, in the world of `cameras`.
      cameras: [V], metres.
      projected: [V, F, 68, 2] the head's landmarks in pixels.
      error: [V, F] mean distance to the landmarks seen, over the face box; NaN where a view saw no face.
    """

    shape: np.ndarray
    motion: Motion
    cameras: Camera
    projected: np.ndarray
    error: np.ndarray


def solve_rig(
    head: HeadModel,
    seen: Sequence[Landmarks],
    cameras: Camera,
    config: SolveConfig | None = None,
    report: Callable[[int, int], None] | None = None,
    where: object = "`cameras`",
    pictures: Pictures | None = None,
) -> RigSolution:
    """Fits `head` to synchronised views.

    Args:
      seen: landmarks of each of V views, F frames each; NaN where a view does not see the face.
      cameras: [V] of the views, in any unit and any world.
      report: called with (iteration, of how many) as it goes on.
      where: what an error message names: the calibration.
      pictures: begins the frames, V pictures each; where it is given, landmarks are the start and pictures decide.

    Raises:
      UserError: no frame whose face two views see, or views and calibration do not belong together.
    """
    config = config or SolveConfig()
    layout, small = Layout.of(head, config), landmark_rig(head)
    every = seen
    if pictures is not None:
        seen = agreeing(every, cameras)
    points, error = triangulate(seen, cameras)  # [F, 68, 3], [F]
    whole = np.isfinite(points).all((1, 2))
    if not whole.any():
        raise UserError(where, "no frame has a face that two cameras see", "add cameras in front of the face")
    if not np.nanmedian(error) < START_ERROR:
        raise UserError(
            where,
            f"does not fit the pictures: landmarks triangulated with it come out {100 * np.nanmedian(error):.0f} % of "
            "the face box away from where they were seen",
            "is it this rig's, are the cameras' names right, and are the pictures those it was made for?",
        )
    rest = np.asarray(landmarks(head, np.asarray(head.template)), np.float64)
    poses = [_similarity(rest[_FIXED], frame[_FIXED]) for frame in points[whole]]
    scale = float(np.median([pose[0] for pose in poses]))
    cameras, poses = _in_metres(cameras, poses, _unit(scale, where))
    cameras, poses = _upright(cameras, poses, where)
    frames = _start(layout, poses, whole)
    visible = _visible(head, cameras, frames[:, layout.slices["rotation"]], frames[:, layout.slices["translation"]])
    data = observations_of_rig(seen, cameras, visible, config.landmark)
    smooth = None if len(frames) < 3 else acceleration_weights(layout, config, seen[0].fps)
    shared = np.append(np.zeros(layout.shapes), np.log(config.focal))  # of which the focal length is not used
    shared, frames = minimise(Problem(small, layout, config, data, smooth), shared, frames, report)
    if pictures is not None:
        boxes = [view.box_size for view in seen if view.found.any()]
        sides = np.array([view.box_size if view.found.any() else np.median(boxes) for view in seen])
        refiner = Refiner.of(head, small, layout, config, cameras, sides)
        shared, frames = refine(refiner, data, smooth, shared, frames, pictures)
    data = observations_of_rig(every, cameras, visible, config.landmark)  # what was left out is judged too
    return _solution(head, small, layout, every, cameras, data, shared, frames)


def triangulate(seen: Sequence[Landmarks], cameras: Camera, rounds: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """Landmarks in the world [F, 68, 3], NaN where fewer than two views see the face, and [F] the distance from
    where they project to where they were seen, over the face box, that a quarter of them exceeds.

    Each point is the null vector of its views' equations u P3 - P1, v P3 - P2 (Hartley and Zisserman, section 12.2),
    scaled to pixels over the face box and reweighted by its reprojection error (Geman-McClure).
    """
    pixels = np.stack([view.points for view in seen], 1)  # [F, V, 68, 2]
    found = np.stack([view.found for view in seen], 1)  # [F, V]
    boxes = np.array([view.box_size if view.found.any() else 1.0 for view in seen])
    projection, size, middle = _normalised(cameras)
    points = np.full((len(pixels), POINTS, 3), np.nan)
    error = np.full(len(pixels), np.nan)
    for frame in np.flatnonzero(found.sum(1) >= 2):
        use = np.flatnonzero(found[frame])
        world, away = _intersect(pixels[frame, use], projection[use], boxes[use], rounds)
        points[frame] = world * size + middle
        error[frame] = np.quantile(away, 0.75)
    return points, error


def _normalised(cameras: Camera) -> tuple[np.ndarray, float, np.ndarray]:
    """Projections [V, 3, 4] of a world around the origin and of size one, so that equations are well scaled whatever
    the unit; and the size and the middle [3] that the world has."""
    intrinsics = np.zeros((len(cameras.fx), 3, 3))
    intrinsics[:, 0, 0], intrinsics[:, 1, 1], intrinsics[:, 2, 2] = cameras.fx, cameras.fy, 1
    intrinsics[:, 0, 2], intrinsics[:, 1, 2] = cameras.cx, cameras.cy
    middle = np.mean(centre(cameras), axis=0)
    size = max(float(np.linalg.norm(centre(cameras) - middle, axis=-1).max()), 1e-12)
    placed = np.eye(4)
    placed[:3, :3] *= size
    placed[:3, 3] = middle
    return intrinsics @ (np.asarray(cameras.world_to_camera, np.float64) @ placed)[:, :3], size, middle


def _intersect(seen: np.ndarray, projection: np.ndarray, boxes: np.ndarray, rounds: int) -> tuple[np.ndarray, ...]:
    """Points [K, 3] that views [v, 3, 4] see at pixels [v, K, 2], and [v, K] how far each is from there, over the
    views' face boxes [v]; 1000 where it lies behind the camera."""
    equations = seen[..., None] * projection[:, None, 2:3] - projection[:, None, :2]  # [v, K, 2, 4]
    weights, depth = np.ones(seen.shape[:2]), np.ones(seen.shape[:2])
    for _ in range(rounds):
        rows = equations * (weights / depth / boxes[:, None])[..., None, None]
        solved = np.linalg.svd(rows.transpose(1, 0, 2, 3).reshape(seen.shape[1], -1, 4))[2][:, -1]  # [K, 4]
        world = solved[:, :3] / np.where(np.abs(solved[:, 3:]) < 1e-12, 1e-12, solved[:, 3:])
        away, front = _away(world, seen, projection, boxes)
        depth = np.abs(front)
        weights = 1 / (1 + (away / OUTLIER) ** 2)
    return world, np.where(front > 0, away, 1e3)


def _away(
    world: np.ndarray, seen: np.ndarray, projection: np.ndarray, boxes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """How far points [K, 3] project from where views see them, over the face boxes, and their depths; [v, K] each."""
    local = world @ projection[:, :, :3].transpose(0, 2, 1) + projection[:, None, :, 3]  # [v, K, 3]
    depth = np.where(np.abs(local[..., 2]) < 1e-9, 1e-9, local[..., 2])
    return np.linalg.norm(local[..., :2] / depth[..., None] - seen, axis=-1) / boxes[:, None], depth


def agreeing(seen: Sequence[Landmarks], cameras: Camera) -> list[Landmarks]:
    """The landmarks without those of views that contradict the most others of their frame: a detector sees faces in
    hair, and profiles where none are. Each pair of views is intersected, and the pair wins with which the most views
    agree; a frame in which no two agree has no face. All landmarks, where most of a rig's views do not agree."""
    pixels = np.stack([view.points for view in seen], 1)[:, :, _FIXED]  # [F, V, 51, 2]
    found = np.stack([view.found for view in seen], 1)
    boxes = np.array([view.box_size if view.found.any() else 1.0 for view in seen])
    projection, _, _ = _normalised(cameras)
    keep = np.zeros_like(found)
    for frame in np.flatnonzero(found.sum(1) >= 2):
        use = np.flatnonzero(found[frame])
        arguments = pixels[frame, use], projection[use], boxes[use]
        best = (0, 0.0)
        for pair in itertools.islice(itertools.combinations(range(len(use)), 2), PAIRS):
            world, _ = _intersect(*(item[list(pair)] for item in arguments), rounds=2)
            away, depth = _away(world, *arguments)
            away = np.median(np.where(depth > 0, away, 1e3), axis=1)  # [v]
            agree = away < START_ERROR
            score = (int(agree.sum()), -float(away[agree].sum()))
            if agree[list(pair)].all() and score > best:
                best, keep[frame] = score, False
                keep[frame, use[agree]] = True
    share = keep.sum(1)[found.sum(1) >= 2] / found.sum(1)[found.sum(1) >= 2]
    if not (share.size and np.median(share) > MOST):
        return list(seen)
    return [
        dataclasses.replace(view, points=np.where(keep[:, index, None, None], view.points, np.nan))
        for index, view in enumerate(seen)
    ]


def _similarity(source: np.ndarray, target: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """Scale, rotation [3, 3] and translation [3] that lay `source` [N, 3] on `target` best (Umeyama 1991)."""
    first, second = source.mean(0), target.mean(0)
    u, singular, v = np.linalg.svd((target - second).T @ (source - first))
    flip = np.diag([1.0, 1.0, np.sign(np.linalg.det(u @ v))])
    rotation = u @ flip @ v
    scale = float((singular * np.diag(flip)).sum() / ((source - first) ** 2).sum())
    return scale, rotation, second - scale * rotation @ first


def _unit(scale: float, where: object) -> float:
    """How many of the calibration's units make a metre, told by the head's size; said where it is not one."""
    for name, factor in UNITS.items():
        if 1 / UNIT_MARGIN < scale / factor < UNIT_MARGIN:
            if factor != 1:
                say(f"{where}: taken as {name}, by the size of the head")
            return factor
    say(f"{where}: its unit is none that is known (a head is {0.2 * scale:.3g} long); scaled to an average head")
    return scale


Pose = tuple[float, np.ndarray, np.ndarray]


def _in_metres(cameras: Camera, poses: Sequence[Pose], unit: float) -> tuple[Camera, list[Pose]]:
    matrices = np.array(cameras.world_to_camera, np.float64)
    matrices[:, :3, 3] /= unit
    return dataclasses.replace(cameras, world_to_camera=matrices), [(s / unit, r, t / unit) for s, r, t in poses]


def _upright(cameras: Camera, poses: list[Pose], where: object) -> tuple[Camera, list[Pose]]:
    """The same in a world in which the head stands upright."""
    up = np.median([rotation[:, 1] for _, rotation, _ in poses], axis=0)
    if up[1] > UPRIGHT * np.linalg.norm(up):
        return cameras, poses
    say(f"{where}: the head does not stand upright in its world; turned and moved to where the head first is")
    _, turn, shift = poses[0]
    first = np.eye(4)
    first[:3, :3], first[:3, 3] = turn, shift
    matrices = np.asarray(cameras.world_to_camera) @ first
    moved = [(scale, turn.T @ rotation, turn.T @ (translation - shift)) for scale, rotation, translation in poses]
    return dataclasses.replace(cameras, world_to_camera=matrices), moved


def _start(layout: Layout, poses: Sequence[Pose], whole: np.ndarray) -> np.ndarray:
    """[F, P] the neutral head in each frame's pose; frames without one take the nearest frame's."""
    known, frames = np.flatnonzero(whole), np.zeros((len(whole), layout.frame_size))
    for frame in range(len(whole)):
        _, rotation, translation = poses[int(np.argmin(np.abs(known - frame)))]
        frames[frame, layout.slices["rotation"]] = Rotation.from_matrix(rotation).as_rotvec()
        frames[frame, layout.slices["translation"]] = translation
    return frames


def _visible(head: HeadModel, cameras: Camera, rotation: np.ndarray, translation: np.ndarray) -> np.ndarray:
    """[F, V, 68] trust in each landmark: detectors guess those that a picture does not show. From 1 where the skin
    faces the camera down to 0 where it is turned away by 100 degrees. The contour of the jaw, which detectors lay along
    the outline, counts where the face looks within about 20 degrees of the camera."""
    template = np.asarray(head.template, np.float64)
    corners = np.asarray(head.faces)[np.asarray(head.landmark_faces)]  # [68, 3]
    normals = vertex_normals(template, np.asarray(head.faces))[corners].mean(1)
    places = np.asarray(landmarks(head, np.asarray(head.template)), np.float64)
    turns = Rotation.from_rotvec(rotation).as_matrix()  # [F, 3, 3]
    normals = normals @ turns.transpose(0, 2, 1)  # [F, 68, 3]
    places = places @ turns.transpose(0, 2, 1) + translation[:, None]
    towards = centre(cameras)[None, :, None] - places[:, None]  # [F, V, 68, 3]
    cosine = (normals[:, None] * towards).sum(-1) / np.linalg.norm(towards, axis=-1)
    trust = np.clip((cosine + 0.17) / 0.5, 0.0, 1.0)
    middle = towards.mean(2)  # [F, V, 3]
    frontal = (middle * turns[:, None, :, 2]).sum(-1) / np.linalg.norm(middle, axis=-1)
    trust[..., : _FIXED.start] *= np.clip((frontal - 0.9) / 0.06, 0.0, 1.0)[..., None]
    return trust


def _solution(
    head: HeadModel,
    small: tuple,
    layout: Layout,
    seen: Sequence[Landmarks],
    cameras: Camera,
    data: dict[str, np.ndarray],
    shared: np.ndarray,
    frames: np.ndarray,
) -> RigSolution:
    frames = frames.copy()
    if layout.bounded:
        frames[:, layout.slices["expression"]] = np.clip(frames[:, layout.slices["expression"]], 0, 1)
    rows = {name: np.float32(value) for name, value in data.items()}
    projected = draw(*small, np.float32(shared), np.float32(frames), rows, layout=layout)
    projected = np.asarray(projected, np.float64).swapaxes(0, 1)  # [V, F, 68, 2]
    trust = data["weights"].swapaxes(0, 1)  # [V, F, 68]
    boxes = np.array([view.box_size if view.found.any() else 1.0 for view in seen])
    away = np.linalg.norm(projected - np.stack([view.points for view in seen]), axis=-1) / boxes[:, None, None]
    with np.errstate(invalid="ignore"):
        error = (np.nan_to_num(away) * trust).sum(-1) / np.where(trust.sum(-1) > 0, trust.sum(-1), np.nan)
    motion = jax.tree.map(lambda array: np.asarray(array, np.float32), motion_of(layout, frames, seen[0].fps))
    shape = np.zeros(head.shape_count, np.float32)
    shape[: layout.shapes] = shared[:-1]
    return RigSolution(shape, motion, cameras, projected, error)
