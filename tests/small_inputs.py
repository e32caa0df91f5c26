"""What the documented commands name, made small: a random CogVideoX, captures, shards, a release, a photo with its fit.

`shrink` turns a documented command into one of the same words whose sizes two CPU cores can do; `furnish` makes the
files that it names.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from flax import nnx
from PIL import Image

from mvp4d.core.cameras.camera import FIELDS, Camera
from mvp4d.core.cameras.rigs import camera_rig
from mvp4d.core.capture.fit import Fit
from mvp4d.core.capture.portrait import Portrait, save_person
from mvp4d.core.files import write_json
from mvp4d.core.heads import load_head
from mvp4d.core.heads.motion import Motion
from mvp4d_jax.data.prepare import autoencoder_identity
from mvp4d_jax.models.checkpoint import save_transformer
from mvp4d_jax.models.checkpoint_config import read_config
from mvp4d_jax.models.transformer import MultiViewTransformer
from mvp4d_jax.training.config import load_config
from mvp4d_jax.training.plan import autoencoder_folder, resolve
from tests.data.synthetic import write_shards
from tests.small_world import quick_compilation, write_release, write_scene
from tests.training.tiny_run import write_autoencoder

LAYERS, HEADS, HEAD_DIM, TIME_WIDTH = 2, 2, 16, 32  # of the transformer
IMAGE_SIZES = {512: 64, 256: 32, 128: 64}  # documented -> small
FRAMES = {49: 9, 25: 5, 17: 9}
VIEWS = {16: 4, 8: 3, 6: 3}


def write_cogvideox(folder: Path) -> Path:
    """CogVideoX-2B's layout with random numbers, as diffusers writes it: float16, the transformer in several files."""
    import torch
    from diffusers import AutoencoderKLCogVideoX, CogVideoXTransformer3DModel

    torch.manual_seed(0)
    transformer = CogVideoXTransformer3DModel(
        num_attention_heads=HEADS,
        attention_head_dim=HEAD_DIM,
        in_channels=16,
        out_channels=16,
        num_layers=LAYERS,
        time_embed_dim=TIME_WIDTH,
        text_embed_dim=4096,
        patch_size=2,
        sample_height=60,
        sample_width=90,
    )
    transformer.to(torch.float16).save_pretrained(folder / "transformer", max_shard_size="300KB")
    vae = AutoencoderKLCogVideoX(
        block_out_channels=(8, 8, 8, 8),
        layers_per_block=1,
        norm_num_groups=4,
        latent_channels=16,
        scaling_factor=1.15258426,
        down_block_types=("CogVideoXDownBlock3D",) * 4,
        up_block_types=("CogVideoXUpBlock3D",) * 4,
    )
    vae.to(torch.float16).save_pretrained(folder / "vae")
    write_json(folder / "model_index.json", {"_class_name": "CogVideoXPipeline"})
    write_json(folder / "scheduler" / "scheduler_config.json", {"_class_name": "CogVideoXDDIMScheduler"})
    return folder


def sizes(name: str) -> list[str]:
    """Overrides that make a packaged config small: the same stages, kinds of data and mesh."""
    config = load_config(name)
    made = {
        "transformer.num_layers": LAYERS,
        "transformer.num_heads": HEADS,
        "transformer.head_dim": HEAD_DIM,
        "transformer.time_embed_dim": TIME_WIDTH,
        "validation.sample_steps": 2,
        "validation.batches": 1,
    }
    if "prepare" in config:
        made |= {
            "prepare.image_size": IMAGE_SIZES.get(config.prepare.image_size, 64),
            "prepare.frames": FRAMES.get(config.prepare.frames, config.prepare.frames),
            "prepare.stride": 4,
        }
    for stage in config.curriculum:
        settings = config.stages[stage]
        made |= {
            f"stages.{stage}.image_size": IMAGE_SIZES.get(settings.image_size, settings.image_size),
            f"stages.{stage}.steps": 4,
            f"stages.{stage}.warmup": 1,
        }
        for kind, mix in settings.mixture.items():
            where = f"stages.{stage}.mixture.{kind}"
            made |= {
                f"{where}.frames": FRAMES.get(mix.frames, mix.frames),
                f"{where}.views": VIEWS.get(mix.views, mix.views),
                f"{where}.batch": 8,
            }
    return [f"--config.{key}={value}" for key, value in made.items()]


def shrink(words: Sequence[str]) -> list[str]:
    """A documented command made small: the sizes that it gives are scaled, those of its config follow."""
    made = []
    for word in words:
        found = re.fullmatch(r"(--config\..*(image_size|frames|views)=)(\d+)", word)
        table = {"image_size": IMAGE_SIZES, "frames": FRAMES, "views": VIEWS}.get(found[2], {}) if found else {}
        word = re.sub(r"^flame:.*", "builtin", word)  # FLAME's files are nobody's to give away
        made.append(f"{found[1]}{table.get(int(found[3]), found[3])}" if found else word)
    if "--config" not in made:
        return made
    if made[0] == "preflight":  # reads no weights, so its autoencoder may be narrower
        made.append("--config.autoencoder_size=small")
    name, given = made[made.index("--config") + 1], {word.split("=")[0] for word in made}
    return [*made, *(word for word in sizes(name) if word.split("=")[0] not in given)]


def furnish(root: Path, words: Sequence[str]) -> None:
    """Makes the inputs that a (small) command names and that are not there yet."""
    verb = words[0]
    if verb == "convert":
        if "--empty-prompt" in words:
            np.save(root / words[words.index("--empty-prompt") + 1], np.ones((226, 4096), np.float32))
        return
    named = dict(word.removeprefix("--").split("=", 1) for word in words if re.match(r"--config\..*=", word))
    flags = {words[index][2:]: words[index + 1] for index in range(len(words) - 1) if words[index].startswith("--")}
    if verb == "sample":
        return _furnish_sample(root, flags)
    overrides = [f"--{key}={value}" for key, value in named.items()]
    config = load_config(flags["config"], overrides)
    for key in ("config.autoencoder", "config.initial"):
        if key in named and not (root / named[key]).exists() and named[key] not in ("random", "none"):
            _cogvideox_part(root / named[key], key.removeprefix("config."), config)
    if verb == "prepare":
        _captures(root / words[1], config.head, config.prepare.image_size)
    elif verb == "train" and not config.get("job"):
        plan = resolve(config)
        for stage in plan.stages:
            for path in stage.shards or tuple(config.data.shards):
                if not (root / path).exists():
                    _shards(root, root / path, flags["config"], config, plan, stage)


def _cogvideox_part(folder: Path, part: str, config) -> None:
    """An autoencoder or a transformer of the config's own shape."""
    if part == "autoencoder":
        write_autoencoder(folder, config.autoencoder_size)
        return
    transformer = resolve(config).transformer
    with quick_compilation():
        save_transformer(folder, MultiViewTransformer(transformer, rngs=nnx.Rngs(0)), transformer)


def _captures(folder: Path, head: str, size: int) -> None:
    for index, name in enumerate(("one", "two")):
        if not (folder / name).exists():
            write_scene(folder / name, views=4, frames=13, size=size, seed=index, head=head)


def _shards(root: Path, folder: Path, name: str, config, plan, stage) -> None:
    longest = max(modality.latents for modality in stage.used)
    views = max(modality.views for modality in stage.used)
    write_shards(folder, config=name, scenes=2, views=views, latents=longest, image_size=stage.image_size)
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest |= {"head": config.head, "conditioning": plan.conditioning.record}
    if config.autoencoder != "none":
        built_in = config.autoencoder.startswith("builtin:")
        vae = autoencoder_folder(config) if built_in else root / config.autoencoder
        manifest |= {"autoencoder": autoencoder_identity(vae), "latent_scale": read_config(vae)[0].scaling_factor}
    path.write_text(json.dumps(manifest))


def _furnish_sample(root: Path, flags: dict[str, str]) -> None:
    """A release, a person's folder or a photo with its fit, and a driving fit, all of the built-in head."""
    weights, photo = root / flags["weights"], root / flags["reference"]
    if not weights.exists():
        write_release(weights)
        write_json(weights / "mvp4d.json", {**json.loads((weights / "mvp4d.json").read_text()), "head": "builtin"})
    if not photo.suffix and not photo.exists():
        write_person(photo)
    elif not photo.exists():
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (256, 256, 3), np.uint8)).save(photo)
    for name, frames in (("fit", 1), ("motion", 9)):
        if name in flags and not (root / flags[name]).exists():
            write_fit(root / flags[name], frames)


def write_person(path: Path) -> None:
    """A photo of noise of a still, neutral head, as `mvp4d track PHOTO --out PERSON` would write it."""
    head = load_head("builtin").personalise(np.zeros(0, np.float32))
    photo = np.random.default_rng(0).integers(0, 255, (256, 256, 4), np.uint8)
    save_person(
        path,
        Portrait(
            (photo,),
            camera_rig("orbit:360x1", (256, 256)),
            Motion.still(1, head.expression_count),
            head,
            0,
            ("front.jpg",),
        ),
    )


def write_fit(path: Path, frames: int) -> None:
    """A still, neutral head before a camera, as `mvp4d track --head builtin` would write it."""
    head = load_head("builtin")
    camera = camera_rig("orbit:360x1", (256, 256))
    cameras = Camera(**{name: np.asarray(getattr(camera, name))[:, None] for name in FIELDS})
    Fit(
        Motion.still(frames, head.expression_count),
        cameras,
        np.array([[256, 256]]),
        ("front",),
        np.zeros(len(head.shape_basis), np.float32),
        "builtin",
    ).save(path)
