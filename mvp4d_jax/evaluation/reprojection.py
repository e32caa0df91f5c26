"""Multi-view consistency: match neighbouring views, triangulate with the known cameras, measure reprojection error.

After MVP4D's RE@LG, with SIFT (Lowe 2004, from scikit-image) in place of DISK + LightGlue, whose weights are a
download. The two numbers are not comparable; the ground truth's own value stands beside ours.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from skimage.color import rgb2gray
from skimage.feature import SIFT, match_descriptors
from skimage.transform import resize

from mvp4d.core.cameras.camera import Camera

RATIO = 0.8  # Lowe's ratio test
WORKING_SIZE = 256  # SIFT finds next to nothing on pictures of 64 pixels: smaller ones are enlarged to this
GATE = 0.03  # errors above this share of the image side are mismatches, not inconsistency


@dataclasses.dataclass(frozen=True)
class Consistency:
    """Mean reprojection error in pixels of the original pictures, and how many matches it stands on."""

    error: float
    matches: int
    pairs: int


def features(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """SIFT keypoints [K, 2] as (u, v) in pixels of `image` (centres at +0.5) and descriptors [K, 128]."""
    height = image.shape[0]
    scale = max(1.0, WORKING_SIZE / height)
    grey = rgb2gray(np.asarray(image, np.float64))
    if scale > 1:
        grey = resize(grey, [round(side * scale) for side in grey.shape], order=3)
    detector = SIFT(upsampling=1)
    try:
        detector.detect_and_extract(grey)
    except RuntimeError:  # a picture without structure
        return np.zeros((0, 2)), np.zeros((0, 128))
    return (detector.keypoints[:, ::-1] + 0.5) / scale, detector.descriptors


def triangulate(points: np.ndarray, projections: np.ndarray) -> np.ndarray:
    """Linear triangulation (Hartley & Zisserman 12.2): points [K, 2, 2] pixels in two views, projections [2, 3, 4]."""
    rows = []
    for view in range(2):
        u, v, matrix = points[:, view, 0], points[:, view, 1], projections[view]
        rows += [u[:, None] * matrix[2] - matrix[0], v[:, None] * matrix[2] - matrix[1]]
    system = np.stack(rows, axis=1)  # [K, 4, 4]
    solution = np.linalg.svd(system)[2][:, -1]  # [K, 4]
    return solution[:, :3] / solution[:, 3:]


def projection_matrix(camera: Camera, index: tuple[int, ...]) -> np.ndarray:
    """[3, 4] matrix from world metres to pixels of one camera of a batch."""
    fx, fy, cx, cy = (float(np.asarray(getattr(camera, name))[index]) for name in ("fx", "fy", "cx", "cy"))
    intrinsics = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
    return intrinsics @ np.asarray(camera.world_to_camera, np.float64)[index][:3]


def pair_errors(first: tuple, second: tuple, projections: np.ndarray, image_size: tuple[int, int]) -> np.ndarray:
    """Reprojection errors [K] in pixels of the matches between two views given as (keypoints, descriptors)."""
    if min(len(first[0]), len(second[0])) < 2:
        return np.zeros(0)
    matches = match_descriptors(first[1], second[1], max_ratio=RATIO, cross_check=True)
    if not len(matches):
        return np.zeros(0)
    points = np.stack([first[0][matches[:, 0]], second[0][matches[:, 1]]], axis=1)  # [K, 2, 2]
    world = triangulate(points, projections)
    homogeneous = np.concatenate([world, np.ones((len(world), 1))], axis=1)
    projected = np.einsum("vij,kj->kvi", projections, homogeneous)
    in_front = (projected[..., 2] > 0).all(axis=1)
    pixels = projected[..., :2] / projected[..., 2:]
    errors = np.linalg.norm(pixels - points, axis=-1).mean(axis=1)
    return errors[in_front & (errors < GATE * max(image_size))]


def consistency(images: np.ndarray, cameras: Camera, frame_index: int = 0, max_angle: float = 60.0) -> Consistency:
    """Error over all pairs of views less than `max_angle` degrees apart; images [V, H, W, 3] in [0, 1]."""
    found = [features(image) for image in images]
    matrices, axes = [], []
    for view in range(len(images)):
        frame = min(frame_index, np.asarray(cameras.fx).shape[1] - 1)
        matrices.append(projection_matrix(cameras, (view, frame)))
        axes.append(np.asarray(cameras.world_to_camera, np.float64)[view, frame, 2, :3])
    errors, pairs = [], 0
    for a in range(len(images)):
        for b in range(a + 1, len(images)):
            if axes[a] @ axes[b] < np.cos(np.radians(max_angle)):
                continue
            pair = pair_errors(found[a], found[b], np.stack([matrices[a], matrices[b]]), images.shape[1:3])
            errors.append(pair)
            pairs += len(pair) > 0
    errors = np.concatenate(errors) if errors else np.zeros(0)
    return Consistency(float(errors.mean()) if len(errors) else float("nan"), len(errors), pairs)
