"""Tables from diffusers' parameter names to paths in our modules, with the change of layout between the two.

A rule is a regular expression over the whole checkpoint name, the path template, and a layout:

    linear   torch [O, I]            ours [I, O]
    conv2d   torch [O, I, kh, kw]    ours [kh, kw, I, O]
    conv3d   torch [O, I, kt, kh, kw] ours [kt, kh, kw, I, O]
    point3d  torch [O, I, 1, 1, 1]   ours [I, O]
    same     unchanged

`{}` in a path takes the groups of the expression in turn; a digit is an index into a list.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

import numpy as np

_TO_OURS = {"linear": (1, 0), "conv2d": (2, 3, 1, 0), "conv3d": (2, 3, 4, 1, 0)}
_TO_THEIRS = {"linear": (1, 0), "conv2d": (3, 2, 0, 1), "conv3d": (4, 3, 0, 1, 2)}


def to_ours(array: np.ndarray, layout: str) -> np.ndarray:
    """Brings a checkpoint's tensor into our layout (a view)."""
    if layout == "point3d":
        return array.reshape(array.shape[:2]).transpose(1, 0)
    return array.transpose(_TO_OURS[layout]) if layout in _TO_OURS else array


def to_theirs(array: np.ndarray, layout: str) -> np.ndarray:
    """Brings our tensor into the checkpoint's layout, contiguous."""
    if layout == "point3d":
        array = array.transpose(1, 0)[:, :, None, None, None]
    elif layout in _TO_THEIRS:
        array = array.transpose(_TO_THEIRS[layout])
    return np.ascontiguousarray(array)


@dataclasses.dataclass(frozen=True)
class Target:
    """Where a checkpoint's tensor goes: path of the leaf, layout, and for a stacked leaf the index along its first axis."""

    path: tuple[str, ...]
    layout: str
    layer: int | None = None


@dataclasses.dataclass(frozen=True)
class Rule:
    """One line of a table; `stacked`: the first group is the layer's index in a leaf that stacks all layers."""

    pattern: str
    path: str
    layout: str
    stacked: bool = False

    def match(self, name: str) -> Target | None:
        """The target of `name`, or None when the rule is not about it."""
        found = re.fullmatch(self.pattern, name)
        if not found:
            return None
        groups = list(found.groups())
        layer = int(groups.pop(0)) if self.stacked else None
        return Target(tuple(self.path.format(*groups).split(".")), self.layout, layer)


def find_target(rules: Sequence[Rule], name: str) -> Target | None:
    """The target of the first rule that knows `name`, else None."""
    return next((target for rule in rules if (target := rule.match(name))), None)


def _pair(pattern: str, path: str, layout: str, *, scale: str = "kernel", stacked: bool = False) -> list[Rule]:
    """Rules for a weight and the bias beside it."""
    return [Rule(pattern + r"\.weight", f"{path}.{scale}", layout, stacked),
            Rule(pattern + r"\.bias", f"{path}.bias", "same", stacked)]


_STAGE = r"(encoder|decoder)\.(?:down_|up_)blocks\.(\d+)"
_RESNETS = [(_STAGE + r"\.resnets\.(\d+)", "{}.blocks.{}.resnets.{}"),
            (r"(encoder|decoder)\.mid_block\.resnets\.(\d+)", "{}.middle.resnets.{}")]

AUTOENCODER: tuple[Rule, ...] = (
    *_pair(r"(encoder|decoder)\.(conv_in|conv_out)\.conv", "{}.{}", "conv3d"),
    *_pair(r"encoder\.norm_out", "encoder.norm_out", "same", scale="scale"),
    *_pair(r"decoder\.norm_out\.norm_layer", "decoder.norm_out.norm", "same", scale="scale"),
    *_pair(r"decoder\.norm_out\.conv_y\.conv", "decoder.norm_out.scale", "point3d"),
    *_pair(r"decoder\.norm_out\.conv_b\.conv", "decoder.norm_out.shift", "point3d"),
    *_pair(_STAGE + r"\.(?:downsamplers|upsamplers)\.0\.conv", "{}.blocks.{}.resample", "conv2d"),
    *(rule for pattern, path in _RESNETS for rule in (
        *_pair(pattern + r"\.(conv1|conv2)\.conv", path + ".{}", "conv3d"),
        *_pair(pattern + r"\.conv_shortcut", path + ".conv_shortcut", "point3d"),
        *_pair(pattern + r"\.(norm1|norm2)", path + ".{}", "same", scale="scale"),
        *_pair(pattern + r"\.(norm1|norm2)\.norm_layer", path + ".{}.norm", "same", scale="scale"),
        *_pair(pattern + r"\.(norm1|norm2)\.conv_y\.conv", path + ".{}.scale", "point3d"),
        *_pair(pattern + r"\.(norm1|norm2)\.conv_b\.conv", path + ".{}.shift", "point3d"),
    )),
)
