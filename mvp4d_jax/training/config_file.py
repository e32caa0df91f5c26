"""Where a config comes from: a packaged one, a Python file, a run's config.json; what each must hold."""

from __future__ import annotations

import importlib
import importlib.util
import json
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from mvp4d.core.errors import UserError
from mvp4d.core.files import read_json
from mvp4d.core.places import is_remote, place
from mvp4d.core.words import meant
from mvp4d_jax.data.options import PrepareOptions
from mvp4d_jax.data.pipeline import SamplingOptions
from mvp4d_jax.diffusion.distillation import DistillOptions
from mvp4d_jax.geometry.conditioning import ConditioningConfig
from mvp4d_jax.models.transformer_config import TransformerConfig
from mvp4d_jax.training.state import OptimiserOptions
from mvp4d_jax.training.step import LossOptions

PACKAGE = "mvp4d_configs"
# Section -> the dataclass that it fills, which has defaults and refuses what it does not know; sections of a run of an
# earlier version lack what is newer.
CLASSES = {
    "transformer": TransformerConfig,
    "conditioning": ConditioningConfig,
    "prepare": PrepareOptions,
    "optimiser": OptimiserOptions,
    "loss": LossOptions,
    "distill": DistillOptions,
    "sampling": SamplingOptions,
}
NEWER = ("config.data.resident",)  # settings of other sections that a run of an earlier version lacks, likewise


def read_config_file(name: str) -> ConfigDict:
    """A config by the name of a packaged one, or the path of a .py file or of a config.json, which may lie in a bucket.

    Raises:
      UserError: no such config; a file that is damaged, raises, or holds no config; a setting that is missing, unknown
        or of the wrong type.
    """
    path = Path(name)
    stored = is_remote(name) or path.suffix == ".json"
    if is_remote(name):
        value = _from_bucket(name)
    elif stored:
        value = read_json(path)
    else:
        value = _made_by_python(name, path)
    if stored and not isinstance(value, dict):
        raise UserError(name, "is not an object", "a config is an object of settings")
    config = _guarded(name, lambda: ConfigDict(value)) if stored else value
    if not isinstance(config, ConfigDict):
        raise UserError(
            name, f"get_config() returns a {type(config).__name__}", "it returns an ml_collections.ConfigDict"
        )
    _check_settings(config, name, stored)
    return config


def packaged() -> list[str]:
    """Names of the configs that come with the project."""
    folder = Path(importlib.import_module(PACKAGE).__file__).parent
    return sorted(path.stem for path in folder.glob("*.py") if path.stem not in ("__init__", "base"))


def _from_bucket(name: str) -> object:
    path = place(name)
    if path.suffix != ".json" or not path.is_file():
        raise UserError(name, "no such config", "in a bucket lies a run's own: gs://BUCKET/WORKDIR/config.json")
    return read_value(path)


def read_value(path: Any) -> object:
    """What a JSON file holds, here or in a bucket. Raises UserError."""
    if not is_remote(path):
        return read_json(path)
    try:
        return json.loads(place(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(path, f"not readable JSON ({str(error)[:120]})") from None


def _made_by_python(name: str, path: Path) -> object:
    if path.suffix == ".py":
        if not path.is_file():
            raise UserError(name, "no such config file", f"packaged configs are {', '.join(packaged())}")
        spec = importlib.util.spec_from_file_location(f"mvp4d_config_{path.stem}", path)
        module = importlib.util.module_from_spec(spec)
        _guarded(name, lambda: spec.loader.exec_module(module))
    elif name in packaged():
        module = importlib.import_module(f"{PACKAGE}.{name}")
    else:
        close = meant(name, packaged())
        raise UserError(
            f"--config {name}",
            "no such config",
            f"did you mean '{close}'?" if close else f"packaged configs are {', '.join(packaged())}",
        )
    if not callable(getattr(module, "get_config", None)):
        raise UserError(name, "has no function get_config()", "a config file defines get_config() -> ConfigDict")
    return _guarded(name, module.get_config)


def _guarded(name: str, action: Callable[[], Any]) -> Any:
    """What a user's file does, its failure told in one line: file, line, exception."""
    try:
        return action()
    except (UserError, KeyboardInterrupt):
        raise
    except SyntaxError as error:
        where = f" (line {error.lineno}: {error.msg})" if error.lineno else f" ({error.msg})"
        raise UserError(name, f"is not valid Python{where}") from None
    except BaseException as error:  # SystemExit: a config that ends the process would end it as if done
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename.endswith(name)]
        where = f" in line {lines[-1]}" if lines else ""
        try:
            said = " ".join(str(error).split())[:200]
        except Exception:  # of a class that cannot say what it means
            said = "no message"
        raise UserError(name, f"raises {type(error).__name__}{where}: {said}") from None


def reference(config: ConfigDict) -> ConfigDict:
    """The settings that a config of this job has, with neutral values: `base()`, or the autoencoder's own."""
    module = importlib.import_module(f"{PACKAGE}.{'tiny_autoencoder' if config.get('job') else 'base'}")
    return module.get_config() if config.get("job") else module.base()


def stage_reference() -> tuple[ConfigDict, ConfigDict]:
    """The same of a stage, and of a kind of data in its mixture."""
    module = importlib.import_module(f"{PACKAGE}.base")
    stage = module.stage(steps=1, learning_rate=1.0, image_size=1, mixture={})
    return stage, ConfigDict(module.mix(weight=1.0, batch=1))


def _check_settings(config: ConfigDict, name: str, stored: bool) -> None:
    """Holds a config's groups and names to the reference.

    Args:
      stored: by a run, perhaps of an earlier version: settings that are not known are passed over.
    """
    if config.get("job") not in (None, "autoencoder"):
        raise UserError(name, f"config.job is '{config.job}'", "leave it out, or 'autoencoder'")
    _compare(config, reference(config), "config", name, stored)
    if config.get("job"):
        return
    stage, mix = stage_reference()
    for title, settings in config.stages.items():
        where = f"config.stages.{title}"
        _compare(settings, stage, where, name, stored)
        for kind, modality in settings.mixture.items():
            _compare(modality, mix, f"{where}.mixture.{kind}", name, stored)


def _compare(given: Any, reference: ConfigDict, where: str, name: str, stored: bool) -> None:
    if not isinstance(given, ConfigDict):
        raise UserError(name, f"{where} is {given!r:.60}, not a group of settings", f"it has {', '.join(reference)}")
    filled = where.removeprefix("config.") in CLASSES
    unknown = set() if stored or filled or where == "config.stages" else set(given) - set(reference) - {"job"}
    if unknown and reference:
        close = meant(min(unknown), reference)
        raise UserError(
            name,
            f"{where} has no '{min(unknown)}'",
            f"did you mean '{close}'?" if close else f"known are {', '.join(reference)}",
        )
    for key, default in reference.items():
        if key not in given and stored and f"{where}.{key}" in NEWER:
            given[key] = default
        if key not in given:
            if (filled and key != "size") or default is None or key == "distill":
                continue
            raise UserError(name, f"{where}.{key} is missing", "begin with base() of mvp4d_configs.base")
        value, inner = given[key], f"{where}.{key}"
        if isinstance(default, ConfigDict):
            if key != "mixture" or not isinstance(value, ConfigDict):
                _compare(value, default, inner, name, stored)
        elif isinstance(value, ConfigDict):
            raise UserError(name, f"{inner} is a group of settings", f"it is a value like {default!r}")
