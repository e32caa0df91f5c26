"""By how much the plain rig misses faces that move in their own way: `python benchmarks/own_motion.py`.

Expressive performances of several people, seen without turns of head and neck. Counted is every vertex of the face in
every frame in which the rig moves it by two millimetres or more.
"""

from __future__ import annotations

import argparse
import dataclasses

import numpy as np

from mvp4d.core.heads.model import HeadModel
from mvp4d_jax.heads.skinning import skin_in_head_space
from mvp4d_jax.studio.motions import make_motion
from mvp4d_jax.studio.own_motion import own_motion
from mvp4d_jax.studio.studio import builtin_head
from mvp4d_jax.studio.traits import draw_identity, random_for

MOVED = 0.002  # metres
FACE = ("skin", "lips", "nostrils")


def misses(identity: int, amount: float, frames: int) -> tuple[HeadModel, np.ndarray, np.ndarray]:
    """A person's head, the rig's displacements in a performance and the person's minus the rig's, [F, N, 3] metres."""
    head = builtin_head()
    head = head.personalise(draw_identity(identity, head.shape_count).shape)
    motion = make_motion(head.expression_names, frames, kind="expressive", seed=random_for(identity, "motion"))
    still = np.zeros_like(motion.neck)
    motion = dataclasses.replace(motion, neck=still, rotation=still, translation=still)
    own = own_motion(head, identity, amount)
    moved = dataclasses.replace(motion, expression=own.coefficients(motion.expression))
    rig = np.asarray(skin_in_head_space(head, motion))
    return head, rig - np.asarray(head.template), np.asarray(skin_in_head_space(own.rig, moved)) - rig


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--identities", type=int, nargs="+", default=[6, 3, 10001, 11001, 11007, 11012])
    parser.add_argument("--amount", type=float, default=1.0)
    parser.add_argument("--frames", type=int, default=100)
    args = parser.parse_args()
    for identity in args.identities:
        head, rig, miss = misses(identity, args.amount, args.frames)
        face = np.isin(head.face_parts, [head.part_names.index(name) for name in FACE])
        face = np.unique(np.asarray(head.faces)[face])
        size, error = 1e3 * np.linalg.norm(rig, axis=-1)[:, face], 1e3 * np.linalg.norm(miss, axis=-1)[:, face]
        moving = size > 1e3 * MOVED
        print(
            f"identity {identity}: the moving face is {size[moving].mean():.2f} mm from rest; the rig misses it by "
            f"{error[moving].mean():.2f} mm, by {np.percentile(error[moving], 95):.2f} mm for one vertex in twenty, "
            f"by {error.max():.1f} mm at most",
            flush=True,
        )


if __name__ == "__main__":
    main()
