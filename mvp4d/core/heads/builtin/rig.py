"""Joints, skin weights and landmarks of the built-in head."""

from __future__ import annotations

import numpy as np

from mvp4d.core.heads.builtin.assembly import PART_NAMES, Assembly
from mvp4d.core.heads.builtin.measures import (
    EYE_CENTRE,
    JAW_JOINT,
    MOUTH_HALF_WIDTH,
    MOUTH_HEIGHT,
    NECK_JOINT,
    smoothstep,
)
from mvp4d.core.heads.builtin.skin_mesh import LIP_POINTS

JOINT_NAMES = ("root", "neck", "jaw", "left_eye", "right_eye")
JOINT_PARENTS = (-1, 0, 1, 1, 1)
MIRROR_X = np.array([-1.0, 1.0, 1.0])


def rest_joints() -> np.ndarray:
    """[5, 3] rest positions: bust, base of the skull, jaw hinge, eyeball centres."""
    return np.stack([np.array([0.0, -0.26, -0.02]), NECK_JOINT, JAW_JOINT, EYE_CENTRE, EYE_CENTRE * MIRROR_X])


def upper_share(head: Assembly) -> np.ndarray:
    """[N] 1 above the line where the lips meet, 0 below, 0.5 at the corners; exact on the lips."""
    y = head.vertices[:, 1]
    share = smoothstep(y, MOUTH_HEIGHT - 0.006, MOUTH_HEIGHT + 0.006)
    rows = head.rings["lips"]
    along = np.clip(0.5 + (LIP_POINTS - np.arange(rows.shape[1])) / 5.0, 0.0, 1.0)
    for row, target in zip(rows, np.linspace(1.0, 0.3, len(rows))):
        share[row] = target * along + (1 - target) * share[row]
    bag = head.of("mouth")
    share[bag] = np.clip(0.5 + 1.4 * head.extra[bag], 0.0, 1.0)
    return _mirrored(head, share)


def _mirrored(head: Assembly, values: np.ndarray) -> np.ndarray:
    """Copies values of the left half to the right."""
    right = head.vertices[:, 0] < 0
    values = values.copy()
    values[right] = values[head.mirror[right]]
    return values


def jaw_share(head: Assembly) -> np.ndarray:
    """[N] how much of the jaw's turn each vertex takes."""
    x, y, z = head.vertices.T
    bearing = np.degrees(np.arctan2(JAW_JOINT[1] - y, z - JAW_JOINT[2]))
    skin = smoothstep(bearing, 9.0, 41.0) * smoothstep(z, 0.000, 0.055)
    skin *= smoothstep(y, -0.165, -0.117)
    upper, reach = upper_share(head), np.abs(x)
    corner = smoothstep(reach, 0.002, MOUTH_HALF_WIDTH + 0.002)
    target = upper * 0.42 * corner**1.6 + (1 - upper) * (1.0 - 0.58 * corner**1.6)
    beyond = np.hypot(np.maximum(reach - MOUTH_HALF_WIDTH, 0), y - MOUTH_HEIGHT)
    influence = np.exp(-((beyond / 0.0155) ** 2)) * smoothstep(z, 0.060, 0.085)
    share = skin + influence * (target - skin)
    rings = head.rings["lips"][:5]
    share[rings] = target[rings]
    bag = head.of("mouth")
    share[bag] = target[bag] * 1.0
    deep = bag & (z < 0.082)
    share[deep] = 1.0 - upper[deep]
    share = np.where(head.of("lower_teeth", "lower_gum", "tongue"), 1.0, share)
    share = np.where(head.of("eye", "lashes", "upper_teeth", "upper_gum", "ear"), 0.0, share)
    return _mirrored(head, share)


def skin_weights(head: Assembly) -> np.ndarray:
    """[N, 5] weights of root, neck, jaw, left eye, right eye; rows sum to one."""
    y, z = head.vertices[:, 1], head.vertices[:, 2]
    skull = smoothstep(y + 0.15 * (z + 0.02), -0.195, -0.105)
    skull = np.where(head.of("skin"), skull, 1.0)
    weights = np.zeros((len(y), 5))
    jaw = jaw_share(head) * skull
    weights[:, 0], weights[:, 2] = 1.0 - skull, jaw
    weights[:, 1] = skull - jaw
    eye = head.of("eye")
    weights[eye] = 0.0
    weights[eye & (head.vertices[:, 0] > 0), 3] = 1.0
    weights[eye & (head.vertices[:, 0] < 0), 4] = 1.0
    return weights


# Where the head has the Multi-PIE landmarks as detectors place them: (number, x, y, z in mm at rest), those of its
# right side and of the midline. Fitted to the face mesh that `tracking.landmarks` reads by
# benchmarks/landmark_places.py, but for the lower inner lip, which stays where the lips meet.
# fmt: off
_PLACES = (
    (0, -73.8, 11.3, 34.8), (1, -72.7, -21.7, 26.7), (2, -70.8, -36.8, 23.0), (3, -63.4, -72.4, 32.2),
    (4, -56.4, -84.0, 48.0), (5, -48.7, -91.6, 62.0), (6, -31.4, -102.8, 82.6), (7, -12.9, -107.3, 101.0),
    (8, 0.0, -107.6, 106.1), (17, -56.1, 14.4, 76.3), (18, -49.8, 20.5, 85.5), (19, -40.5, 23.2, 92.4),
    (20, -28.4, 22.5, 97.3), (21, -13.5, 18.6, 99.0), (27, 0.0, 3.6, 104.5), (28, 0.0, -12.3, 113.0),
    (29, 0.0, -26.0, 121.9), (30, 0.0, -33.4, 125.1), (31, -16.5, -45.8, 102.5), (32, -7.1, -47.2, 110.5),
    (33, 0.0, -48.3, 114.5), (36, -45.3, -1.3, 81.9), (37, -38.5, 3.5, 88.7), (38, -28.0, 4.3, 89.9),
    (39, -16.6, -3.2, 87.6), (40, -26.6, -5.4, 89.7), (41, -37.4, -5.4, 88.5), (48, -26.1, -69.7, 98.5),
    (49, -15.8, -63.0, 105.9), (50, -8.2, -61.3, 109.1), (51, 0.0, -62.6, 110.4), (57, 0.0, -77.1, 109.1),
    (58, -7.7, -77.1, 107.8), (59, -14.4, -76.2, 105.5), (60, -24.7, -69.4, 98.2), (61, -6.9, -68.8, 106.8),
    (62, 0.0, -69.4, 107.5), (66, 0.0, -69.0, 107.5), (67, -6.9, -68.7, 106.8),
)
# fmt: on
# The number that each landmark has in a mirrored face.
_MIRRORED = np.array(
    [*range(16, -1, -1), *range(26, 16, -1), *range(27, 31), *range(35, 30, -1)]
    + [45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40, *range(54, 47, -1), *range(59, 54, -1)]
    + [*range(64, 59, -1), 67, 66, 65]
)
_LOWER_LIP = (*range(55, 60), *range(65, 68))
_UPPER_LIP = (*range(49, 54), *range(61, 64))


def landmarks(head: Assembly) -> tuple[np.ndarray, np.ndarray]:
    """The 68 Multi-PIE landmarks, 0..16 from the head's right (picture's left) to its left, as (face [68] int32,
    barycentric [68, 3]): the points of skin, lips and lids nearest to where they are listed."""
    corners = head.vertices[head.faces]  # [T, 3, 3]
    outside = np.isin(head.face_parts, [PART_NAMES.index(name) for name in ("skin", "lips", "lid_lining")])
    upper = upper_share(head)[head.faces].mean(1)
    index = {tuple(sorted(face)): number for number, face in enumerate(head.faces.tolist())}
    chosen, weights = np.zeros(68, np.int32), np.zeros((68, 3), np.float32)
    for number, *place in _PLACES:
        side = upper > 0.5 if number in _UPPER_LIP else upper < 0.5 if number in _LOWER_LIP else True
        middle = _MIRRORED[number] == number
        near = np.flatnonzero(outside & side & (np.abs(corners.mean(1) - np.array(place) / 1000).max(1) < 0.01))
        if middle:  # exactly: on edges of the midline
            near = near[(corners[near][..., 0] == 0).sum(1) == 2]
        shares = _nearest_shares(corners[near], np.array(place) / 1000)
        if middle:
            shares = shares * (corners[near][..., 0] == 0)
            shares /= shares.sum(1, keepdims=True)
        gap = np.linalg.norm(np.einsum("tc,tcd->td", shares, corners[near]) - np.array(place) / 1000, axis=-1)
        best = int(np.argmin(gap))
        face, share = head.faces[near[best]], shares[best]
        other = head.mirror[face]
        twin = index[tuple(sorted(other.tolist()))]
        chosen[number], weights[number] = near[best], share
        if not middle:
            order = [int(np.flatnonzero(other == corner)[0]) for corner in head.faces[twin]]
            chosen[_MIRRORED[number]], weights[_MIRRORED[number]] = twin, share[order]
    return chosen, weights


def _nearest_shares(corners: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Barycentric coordinates [T, 3] of the points of triangles [T, 3, 3] that lie nearest to a place [3]: on the plane
    where they are inside, else on the nearest edge."""
    edges = corners[:, 1:] - corners[:, :1]  # [T, 2, 3]
    flat = np.linalg.solve(edges @ edges.transpose(0, 2, 1), (edges @ (place - corners[:, 0])[..., None]))[..., 0]
    options = [np.concatenate([1 - flat.sum(1, keepdims=True), flat], 1)]
    options[0] = np.where((options[0] >= 0).all(1, keepdims=True), options[0], np.nan)
    for first, second in ((0, 1), (1, 2), (2, 0)):
        edge = corners[:, second] - corners[:, first]
        along = ((place - corners[:, first]) * edge).sum(1) / (edge * edge).sum(1)
        share = np.zeros((len(corners), 3))
        share[:, second] = np.clip(along, 0, 1)
        share[:, first] = 1 - share[:, second]
        options.append(share)
    stacked = np.stack(options, 1)  # [T, 4, 3]
    gap = np.linalg.norm(np.einsum("toc,tcd->tod", stacked, corners) - place, axis=-1)
    return stacked[np.arange(len(corners)), np.nanargmin(gap, 1)]
