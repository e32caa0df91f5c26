"""Where on the built-in head MediaPipe's face mesh sees the Multi-PIE points: `_PLACES` of core/heads/builtin/rig.py.

    python benchmarks/landmark_places.py --people 12 --held-out 4      films, detects, fits; about 5 minutes

Studio people are filmed from five sides. Each landmark, with its mirror image, is laid on the point of the surface
within 16 mm of where it is now whose projections lie nearest to the detections, by a robust sum (Geman-McClure, 5 mm)
over all people, frames and views that face it. Prints the table, and medians of the distances before and after, for
the people that it was fitted to and for others.
"""

from __future__ import annotations

import argparse
import dataclasses

import numpy as np
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from mvp4d.core.cameras.camera import Camera, project
from mvp4d.core.cameras.crops import head_vertices
from mvp4d.core.cameras.rigs import camera_rig
from mvp4d.core.heads import load_head
from mvp4d.core.heads.builtin.rig import _LOWER_LIP, _MIRRORED, _UPPER_LIP
from mvp4d_jax.heads.skinning import skin
from mvp4d_jax.studio.studio import Studio
from mvp4d_jax.tracking.detector import detect_faces
from mvp4d_jax.tracking.landmarks import choose_face, from_mesh
from mvp4d_jax.tracking.rig import _similarity, _visible

SIZE, FRAMES, RIG = (512, 512), 2, "arc:180x5@5"
REACH, SOFT = 0.016, 5.0  # metres, millimetres
GROUPS = {"jaw": (0, 17), "brows": (17, 27), "nose": (27, 36), "eyes": (36, 48), "mouth": (48, 68)}
# Shares of a triangle's corners: the corners, the middles of its sides, its middle, and between.
SHARES = np.array(
    [[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [1, 0, 1], [0, 1, 1], [1, 1, 1]]
    + [[4, 1, 1], [1, 4, 1], [1, 1, 4], [4, 4, 1], [4, 1, 4], [1, 4, 4]],
    float,
)
SHARES /= SHARES.sum(1, keepdims=True)


@dataclasses.dataclass(frozen=True)
class Sight:
    """One picture: vertices [N, 3], its camera, landmarks detected [68, 2], and trust in each [68]."""

    vertices: np.ndarray
    camera: Camera
    found: np.ndarray
    trust: np.ndarray

    def away(self, places: np.ndarray, number: int) -> np.ndarray:
        """[...] millimetres at the head from where a landmark was found to where places [..., 3] project."""
        pixels, depth = project(self.camera, places.reshape(-1, 3))
        gap = np.linalg.norm(pixels - self.found[number], axis=-1) * depth / self.camera.fx
        return 1e3 * gap.reshape(places.shape[:-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, default=12, help="training people 1, 2, ... (default 12)")
    parser.add_argument("--held-out", type=int, default=4, help="test people 11000, ... (default 4)")
    args = parser.parse_args()
    head = load_head("builtin")
    train = [sight for person in range(1, args.people + 1) for sight in film(person, head)]
    test = [sight for person in range(11_000, 11_000 + args.held_out) for sight in film(person, head)]
    faces, shares = fit(head, train)
    places = np.einsum("kc,kcd->kd", shares, np.asarray(head.template, float)[np.asarray(head.faces)[faces]])
    for number in np.flatnonzero(np.arange(68) <= _MIRRORED):
        print("(" + ", ".join([str(number), *(f"{1e3 * value:.1f}" for value in places[number])]) + "),")
    before = np.asarray(head.landmark_faces), np.asarray(head.landmark_barycentric)
    for name, sights in (("fitted", train), ("held out", test)):
        old, new = (medians(head, sights, *item) for item in (before, (faces, shares)))
        words = (
            f"{group} {np.nanmean(old[a:b]):.2f} -> {np.nanmean(new[a:b]):.2f} mm" for group, (a, b) in GROUPS.items()
        )
        print(f"{name}: {', '.join(words)}")


def film(person: int, head) -> list[Sight]:
    studio, cameras = Studio(person), camera_rig(RIG, SIZE)
    motion = studio.motion(FRAMES, "speech")
    pictures, _ = studio.render(motion, cameras, SIZE)  # [V, F, H, W, 3]
    vertices, skull = np.asarray(skin(studio.head, motion), np.float64), head_vertices(head)
    rest = np.asarray(head.template, np.float64)[skull]
    poses = [_similarity(rest, frame[skull])[1] for frame in vertices]
    rotation = np.stack([Rotation.from_matrix(pose).as_rotvec() for pose in poses])
    middle = np.stack([frame[skull].mean(0) - pose @ rest.mean(0) for pose, frame in zip(poses, vertices)])
    trust = _visible(head, cameras, rotation, middle)  # [F, V, 68]
    count = len(pictures) * FRAMES
    meshes = detect_faces(pictures.reshape(count, *SIZE, 3), count, video=False).reshape(-1, FRAMES, 6, 478, 2)
    sights = []
    for view, found in enumerate(meshes):
        if np.isfinite(found).all((2, 3)).any():
            points = from_mesh(choose_face(found, None, view), SIZE).points
            sights += [
                Sight(vertices[frame], cameras[view], points[frame], trust[frame, view])
                for frame in range(FRAMES)
                if np.isfinite(points[frame]).all()
            ]
    return sights


def fit(head, sights: list[Sight]) -> tuple[np.ndarray, np.ndarray]:
    """Faces [68] and shares of their corners [68, 3]."""
    rest, triangles = np.asarray(head.template, np.float64), np.asarray(head.faces)
    now = np.einsum("kc,kcd->kd", head.landmark_barycentric, rest[triangles[head.landmark_faces]])
    mirror = cKDTree(rest).query(rest * [-1, 1, 1])[1]
    number_of = {tuple(sorted(face)): number for number, face in enumerate(triangles.tolist())}
    outside = np.isin(head.face_parts, [head.part_names.index(name) for name in ("skin", "lips", "lid_lining")])
    jaw = np.asarray(head.skin_weights)[:, head.joint_names.index("jaw")]
    faces, shares = np.zeros(68, np.int64), np.zeros((68, 3))
    for number in np.flatnonzero(np.arange(68) <= _MIRRORED):
        twin = _MIRRORED[number]
        near = np.flatnonzero(outside & (np.linalg.norm(rest[triangles].mean(1) - now[number], axis=-1) < REACH))
        corners, cost = triangles[near], np.zeros((len(near), len(SHARES)))
        for sight in sights:
            for mark, ends in {number: corners, twin: mirror[corners] if twin != number else corners}.items():
                away = sight.away(np.einsum("sc,ncd->nsd", SHARES, sight.vertices[ends]), mark)
                cost += sight.trust[mark] * away**2 / (1 + (away / SOFT) ** 2)
        if twin == number:
            cost[np.abs(np.einsum("sc,nc->ns", SHARES, rest[corners][..., 0])) > 1e-6] = np.inf
        if number in _UPPER_LIP or number in _LOWER_LIP:  # both lips lie in one place at rest
            lower = np.einsum("sc,nc->ns", SHARES, jaw[corners]) > 0.42
            cost[lower != (number in _LOWER_LIP)] = np.inf
        face, share = np.unravel_index(np.argmin(cost), cost.shape)
        faces[number], shares[number] = near[face], SHARES[share]
        if twin != number:
            other = mirror[corners[face]]
            faces[twin] = number_of[tuple(sorted(other.tolist()))]
            order = [int(np.flatnonzero(other == corner)[0]) for corner in triangles[faces[twin]]]
            shares[twin] = SHARES[share][order]
    return faces, shares


def medians(head, sights: list[Sight], faces: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """[68] millimetres; NaN for a landmark that no view faces."""
    corners = np.asarray(head.faces)[faces]
    away = np.array(
        [
            [
                sight.away(shares[k] @ sight.vertices[corners[k]], k) if sight.trust[k] > 0.05 else np.nan
                for k in range(68)
            ]
            for sight in sights
        ]
    )
    away[0] = np.where(np.isfinite(away).any(0), away[0], np.inf)
    return np.where(np.isfinite(found := np.nanmedian(away, axis=0)), found, np.nan)


if __name__ == "__main__":
    main()
