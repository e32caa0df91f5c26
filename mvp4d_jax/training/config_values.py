"""Every value of a config: of the right type, and in its range.

What values mean to each other `training.plan` checks.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import math
import re
from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from mvp4d.core.arguments import fits
from mvp4d.core.errors import UserError
from mvp4d_jax.training.config_file import CLASSES, reference, stage_reference

LARGEST = 10**12  # of a whole number
ABOVE_0, BELOW_1 = math.ulp(0.0), math.nextafter(1.0, 0.0)
# Setting -> lowest and highest value. Sizes of the model and of the data have rules of their own where they are used.
RANGES = {
    "seed": (0, 2**32 - 1),
    "checkpoint.keep_best": (0, LARGEST),
    "checkpoint.*": (1, LARGEST),
    "metrics.every": (1, LARGEST),
    "profile.*": (0, LARGEST),
    "validation.every": (1, LARGEST),
    "validation.batches": (0, LARGEST),
    "validation.sample_steps": (0, 1000),
    "validation.guidance": (0, 1000),
    "data.threads": (1, 1024),
    "data.buffer": (1, 10_000),
    "data.workers": (0, 1024),
    "optimiser.b[12]": (0, BELOW_1),
    "optimiser.ema": (0, BELOW_1),
    "optimiser.eps": (ABOVE_0, math.inf),
    "optimiser.clip": (ABOVE_0, math.inf),
    "optimiser.weight_decay": (0, math.inf),
    "optimiser.accumulation": (1, LARGEST),
    "loss.snr_shift": (ABOVE_0, math.inf),
    "distill.steps": (0, 1000),
    "distill.substeps": (1, 1000),
    "distill.guidance": (0, 1000),
    "sampling.reference_angle": (0, math.pi),
    "sampling.*": (0, 1),
    "transformer.*_eps": (ABOVE_0, 1),
    "transformer.*_scale": (ABOVE_0, math.inf),
    "prepare.jitter_*": (0, 0.9),
    "prepare.images": (1, 1000),
    "prepare.variants": (1, 1000),
    "prepare.colours": (1, 1000),
    "prepare.photos": (1, 100),
    "prepare.*": (0, LARGEST),
    "stages.*.mixture.*.weight": (0, math.inf),
    "stages.*.mixture.*.*": (1, LARGEST),
    "stages.*.learning_rate": (0, math.inf),
    "stages.*.image_size": (1, 65536),
    "stages.*.steps": (0, LARGEST),
    "stages.*.warmup": (0, LARGEST),
}
AUTOENCODER_RANGES = {
    "seed": (0, 2**32 - 1),
    "learning_rate": (0, math.inf),
    "warmup": (0, LARGEST),
    "ema": (0, BELOW_1),
    "clip": (ABOVE_0, math.inf),
    "recoloured": (0, 1),
    "loss.*": (0, math.inf),
    "data.held_out": (1, LARGEST),
    "data.threads": (1, 1024),
    "data.buffer": (1, 10_000),
    "*": (1, LARGEST),
}


def check_values(config: ConfigDict) -> None:
    """Raises UserError, naming the setting, for a value of another type, out of its range, or no finite number."""
    neutral, (stage, mix) = reference(config), stage_reference()
    ranges = AUTOENCODER_RANGES if config.get("job") else RANGES
    for parts, value in _leaves(config):
        wanted = _type_of(parts, neutral, stage, mix)
        path = ".".join(parts)
        if wanted == "tuple":
            _check_entries(f"config.{path}", value, "int" if parts[-1] == "mesh" else "str")
        elif wanted and not fits(value, wanted):
            raise UserError(f"config.{path}", f"{value!r:.60} is not of type {wanted}")
        if isinstance(value, int | float) and not isinstance(value, bool):
            _check_range(path, value, ranges)
    for pattern in config.optimiser.get("freeze", ()) if "optimiser" in config else ():
        try:
            re.compile(pattern)
        except re.error as error:
            raise UserError("config.optimiser.freeze", f"'{pattern}' is no regular expression ({error})") from None


def _leaves(config: ConfigDict, above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            yield from _leaves(value, (*above, name))
        else:
            yield (*above, name), value


def _type_of(parts: tuple[str, ...], neutral: ConfigDict, stage: ConfigDict, mix: ConfigDict) -> str:
    """What a setting holds, as `fits` reads it, or "tuple"; "" where something else checks it."""
    if parts[0] in CLASSES and len(parts) == 2 and parts[0] in neutral and "job" not in neutral:
        fields = {field.name: field.type for field in dataclasses.fields(CLASSES[parts[0]])}
        hint = fields.get(parts[1], "")
        text = hint if isinstance(hint, str) else getattr(hint, "__name__", str(hint))
        if parts[0] == "conditioning" and parts[1] == "painted":
            return "int | bool"
        return "tuple" if text.startswith("tuple") else f"{text} | None" if text and parts[0] == "transformer" else text
    if parts[0] == "stages":
        node = stage if len(parts) == 3 else mix
        default = node.get(parts[-1])
    else:
        node = neutral
        for part in parts[:-1]:
            node = node.get(part, ConfigDict())
        default = node.get(parts[-1])
    return "" if default is None else type(default).__name__


def _check_entries(where: str, value: object, kind: str) -> None:
    if not isinstance(value, list | tuple) or not all(fits(item, kind) for item in value):
        raise UserError(where, f"is {value!r:.60}", "give whole numbers" if kind == "int" else "give names, a,b")


def _check_range(path: str, value: float, ranges: dict[str, tuple[float, float]]) -> None:
    if not math.isfinite(value) or (isinstance(value, int) and abs(value) > LARGEST):
        raise UserError(f"config.{path}", f"{value} is no number that can be meant")
    for pattern, (lowest, highest) in ranges.items():
        if fnmatch.fnmatchcase(path, pattern):
            if not lowest <= value <= highest:
                raise UserError(f"config.{path}", f"is {value}", _choose(lowest, highest))
            return


def _choose(lowest: float, highest: float) -> str:
    low = "a number above 0" if lowest == ABOVE_0 else f"{lowest:,} or more"
    if highest >= LARGEST:
        return f"choose {low}"
    if lowest == ABOVE_0:
        return f"choose {low}, {highest:,} at most"
    if highest == BELOW_1:
        return f"choose {lowest:,} or more, less than 1"
    return f"choose {lowest:,} to {highest if isinstance(highest, int) else round(highest, 2):,}"
