"""Motion of one head on another: expressions by name, head poses by the eyes."""

from __future__ import annotations

import re

import numpy as np

from mvp4d.core.heads.model import HeadModel
from mvp4d.core.heads.motion import Motion


def retarget(motion: Motion, source: str, names: tuple[str, ...], head: HeadModel) -> tuple[Motion, str]:
    """Reorders expression coefficients [F, E] by name; rotations and translation are taken as they are.

    A source whose coefficients have no ARKit names (FLAME's are principal components of another face space) drives a
    named head by its head, neck, jaw and eye rotations alone, and the notice says so.
    """
    if source.partition("+")[0] == head.name.partition("+")[0] and tuple(names) == tuple(head.expression_names):
        return motion, ""
    if _principal(source) or _principal(head.name):
        names = ()
    canonical = {canonical_name(name): index for index, name in enumerate(names)}
    expression = np.zeros((motion.frame_count, head.expression_count), np.float32)
    taken = 0
    for index, name in enumerate(head.expression_names):
        column = canonical.get(canonical_name(name))
        if column is not None:
            expression[:, index] = np.asarray(motion.expression)[:, column]
            taken += 1
    arrays = {
        key: np.asarray(getattr(motion, key), np.float32) for key in ("rotation", "translation", "neck", "jaw", "eyes")
    }
    notice = ""
    if taken == 0:
        notice = (
            f"the motion's expressions belong to head '{source}', which shares no expression name with "
            f"'{head.name}': only head, neck, jaw and eye rotations are used"
        )
    elif taken < len(names):
        notice = f"{len(names) - taken} of {len(names)} expressions of the motion have no counterpart in '{head.name}'"
    return Motion(expression, **arrays, fps=motion.fps), notice


def _principal(head: str) -> bool:
    """Whether a head's expressions are principal components of its own face space, whose numbers name nothing."""
    return head.startswith("flame")


def canonical_name(name: str) -> str:
    """`EyeBlinkLeft`, `eyeBlink_L` and `eyeBlinkLeft` are one expression: lower case, sides spelt out."""
    name = re.sub(r"_L$", "Left", name)
    return re.sub(r"_R$", "Right", name).replace("_", "").lower()
