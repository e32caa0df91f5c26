"""Gives every frame a latent frame of its own: a clip becomes a row of single images, as the autoencoder knows them.

    python docs/recipes/one_frame.py WEIGHTS OUT

WEIGHTS and OUT hold `vae` and `transformer`. To a causal kernel a single image is the same frame three times: the sum
of the kernel's taps is what it does to one. Put in the last tap, it does that to every frame of a clip. The transformer
loses the displacements between the frames of a latent frame: there is but one.
"""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

LATENTS, DISPLACEMENT = 24, slice(50, 52)  # the displacement's channels within the maps

source, target = Path(sys.argv[1]), Path(sys.argv[2])
FILE = "diffusion_pytorch_model.safetensors"


def edit_config(folder: Path, **values: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **values}, indent=2))


shutil.copytree(source / "vae", target / "vae")
tensors = load_file(target / "vae" / FILE)
for name, value in tensors.items():
    if value.ndim == 5 and value.shape[2] == 3:  # [out, in, time, height, width]
        only = np.zeros_like(value)
        only[:, :, -1] = value.astype(np.float32).sum(axis=2)
        tensors[name] = only
save_file(tensors, target / "vae" / FILE)
edit_config(target / "vae", temporal_compression_ratio=1)

shutil.copytree(source / "transformer", target / "transformer")
tensors = load_file(target / "transformer" / FILE)
for name, before in (("conditioning_embed.weight", 0), ("detail.of_pixel.weight", LATENTS)):
    gone = np.arange(DISPLACEMENT.start, DISPLACEMENT.stop) + before
    tensors[name] = np.ascontiguousarray(np.delete(tensors[name], gone, axis=1))
save_file(tensors, target / "transformer" / FILE)
channels = json.loads((target / "transformer" / "config.json").read_text())["conditioning_channels"]
edit_config(target / "transformer", conditioning_channels=channels - (DISPLACEMENT.stop - DISPLACEMENT.start))
