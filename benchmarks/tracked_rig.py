"""A capture as a tracker would have seen it: the same pictures, with expressions fitted to noisy landmarks.

    python benchmarks/tracked_rig.py out/person --out out/tracked
    python benchmarks/distill.py out/tracked --preset cpu

The studio moves its heads with the very rig that it writes, so that nothing is left for the deformation net. A user's
rig is never exact: here the expression coefficients of every frame are fitted anew to the rig's 68 landmarks (3D,
with noise), under the Gaussian prior that trackers keep their fits plausible with. The head's rotation, translation,
neck, jaw and eyes stay the true ones, so the error is in the expression alone; its size is printed.
"""

import argparse
import os
import shutil
from pathlib import Path

import numpy as np

from mvp4d_export.capture import read_head, read_motion, read_npz
from mvp4d_export.rig import Pose, Rig


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("capture", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--noise", type=float, default=0.001, metavar="METRES", help="of each landmark coordinate")
    parser.add_argument("--prior", type=float, default=0.3, help="standard deviation of a coefficient under the prior")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    head, motion, arrays = (read(args.capture / name) for read, name in
                            ((read_head, "head.npz"), (read_motion, "motion.npz"), (read_npz, "head.npz")))
    corners, weights = head.faces[arrays["landmark_faces"]], arrays["landmark_barycentric"]  # [68, 3]
    basis = (head.expression_basis[:, corners] * weights[..., None]).sum(2).reshape(head.expression_count, -1)
    noise = args.noise * np.random.default_rng(args.seed).standard_normal((motion.frame_count, basis.shape[1]))
    seen = motion.expression @ basis + noise  # [F, 204] landmark offsets
    normal = basis @ basis.T + (args.noise / args.prior) ** 2 * np.eye(head.expression_count)
    fitted = np.clip(np.linalg.solve(normal, basis @ seen.T).T, 0, 1).astype(np.float32)
    shutil.copytree(args.capture, args.out, copy_function=os.link)
    (args.out / "motion.npz").unlink()
    np.savez(args.out / "motion.npz", **{**read_npz(args.capture / "motion.npz"), "expression": fitted})

    rig = Rig(head)
    truth, tracked = (rig(Pose.of(read_motion(path / "motion.npz")))[0].numpy() for path in (args.capture, args.out))
    moved = np.linalg.norm(truth - rig.template.numpy(), axis=-1)
    error = np.linalg.norm(truth - tracked, axis=-1)
    face = moved.max(0) > 0.001  # vertices that the motion moves by a millimetre
    print(f"{args.out}: moving vertices are {1e3 * moved[:, face].mean():.2f} mm from rest on average; "
          f"the tracked rig misses them by {1e3 * error[:, face].mean():.2f} mm (largest {1e3 * error.max():.1f} mm)")


if __name__ == "__main__":
    main()
