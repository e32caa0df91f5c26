"""A capture as a tracker would have seen it: the same pictures, but a smaller head model fitted to noisy landmarks.

    python benchmarks/tracked_rig.py out/person --out out/tracked
    python benchmarks/distill.py out/tracked --preset cpu

The studio moves its heads with the very rig that it writes, which leaves nothing to the deformation net. A user's rig
is never exact. Here the expression basis is cut down to its first principal components, as head models made from scans
have them, and the coefficients of every frame are fitted to the rig's 68 landmarks (3D, with noise) under the
components' own Gaussian prior. Shape, rotation, translation, neck, jaw and eyes stay the true ones, so that the error
is in the expression alone; its size is printed.
"""

import argparse
import dataclasses
import os
import shutil
from pathlib import Path

import numpy as np
import torch

from mvp4d.core.capture.motion_file import read_motion
from mvp4d.core.files import read_npz
from mvp4d.core.heads.model import HeadModel
from mvp4d.core.heads.motion import Motion
from mvp4d_export.rig import Pose, Rig

SPREAD = 0.25  # standard deviation of a blendshape's coefficient, over people's expressions


def track(capture: Path, out: Path, components: int, noise: float, seed: int) -> None:
    """Writes `out`: the capture with the smaller model and the fitted motion; pictures are hard links."""
    arrays, moved = read_npz(capture / "head.npz"), read_npz(capture / "motion.npz")
    basis = arrays["expression_basis"]  # [E, N, 3]
    count = len(basis)
    left, size, right = np.linalg.svd(basis.reshape(count, -1).astype(np.float64), full_matrices=False)
    kept = (SPREAD * size[:components, None] * right[:components]).reshape(components, *basis.shape[1:])
    mix = SPREAD * left[:, :components].T  # [K, E]: what a component is in blendshapes
    corners, weights = arrays["faces"][arrays["landmark_faces"]], arrays["landmark_barycentric"][..., None]

    def landmarks(offsets: np.ndarray) -> np.ndarray:
        return (offsets[:, corners] * weights).sum(2).reshape(len(offsets), -1)  # [., 68 * 3]

    seen = moved["expression"] @ landmarks(basis)
    seen = seen + noise * np.random.default_rng(seed).standard_normal(seen.shape)
    model = landmarks(kept)
    normal = model @ model.T + noise**2 * np.eye(components)  # coefficients have unit variance under the prior
    fitted = np.linalg.solve(normal, model @ seen.T).T
    shutil.copytree(capture, out, copy_function=os.link)
    for name in ("head.npz", "motion.npz"):
        (out / name).unlink()
    arrays |= {
        "expression_basis": kept.astype(np.float32),
        "joint_expression_basis": np.einsum("ke,ejc->kjc", mix, arrays["joint_expression_basis"]).astype(np.float32),
        "expression_names": np.array([f"component{index:02d}" for index in range(components)]),
    }
    np.savez(out / "head.npz", **arrays)
    moved = {name: value for name, value in moved.items() if name not in ("expression_names", "head")}
    np.savez(out / "motion.npz", **(moved | {"expression": fitted.astype(np.float32)}))


def faces_of(capture: Path) -> tuple[np.ndarray, np.ndarray]:
    """Rest and posed vertices [F, N, 3] of a capture's head, the neck at rest."""
    rig, motion = Rig(HeadModel.load(capture / "head.npz")), read_motion(capture / "motion.npz").motion
    still = dataclasses.replace(motion, neck=Motion.still(motion.frame_count, 0).neck)
    with torch.no_grad():
        return rig.template.numpy(), rig(Pose.of(still))[0].numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("capture", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--components", type=int, default=10)
    parser.add_argument("--noise", type=float, default=0.001, metavar="METRES", help="of each landmark coordinate")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    track(args.capture, args.out, args.components, args.noise, args.seed)
    rest, truth = faces_of(args.capture)
    moved = np.linalg.norm(truth - rest, axis=-1)
    error = np.linalg.norm(truth - faces_of(args.out)[1], axis=-1)
    face = moved.max(0) > 0.002  # vertices that the motion moves by two millimetres
    print(
        f"{args.out}: the moving face is {1e3 * moved[:, face].mean():.2f} mm from rest on average; the tracked rig "
        f"misses it by {1e3 * error[:, face].mean():.2f} mm, by {1e3 * error.max():.1f} mm at most"
    )


if __name__ == "__main__":
    main()
