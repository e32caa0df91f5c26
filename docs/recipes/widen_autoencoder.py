"""Widens an autoencoder's latents; what it does stays: new channels are random, and the decoder ignores them.

    python docs/recipes/widen_autoencoder.py FOLDER OUT CHANNELS
"""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

source, target, channels = sys.argv[1], sys.argv[2], int(sys.argv[3])
shutil.copytree(source, target)
file, config_file = f"{target}/diffusion_pytorch_model.safetensors", Path(target) / "config.json"
config = json.loads(config_file.read_text())
old = config["latent_channels"]
more, random = channels - old, np.random.default_rng(0)
tensors = {name: value.astype(np.float32) for name, value in load_file(file).items()}
for name, value in tensors.items():
    if name.startswith("encoder.conv_out"):  # [2 C, ...]: means, then logarithms of variances
        mean, log_variance = value[:old], value[old:]
        if name.endswith("weight"):
            new = random.normal(size=(more, *value.shape[1:])).astype(np.float32) * mean.std()
            new_variance = np.zeros_like(new)
        else:
            new, new_variance = np.zeros(more, np.float32), np.full(more, log_variance.mean(), np.float32)
        tensors[name] = np.concatenate([mean, new, log_variance, new_variance])
    elif name.startswith("decoder") and value.ndim == 5 and value.shape[1] == old:
        unseen = np.zeros((value.shape[0], more, *value.shape[2:]), np.float32)
        tensors[name] = np.concatenate([value, unseen], axis=1)
save_file(tensors, file)
config_file.write_text(json.dumps({**config, "latent_channels": channels, "scaling_factor": 1.0}, indent=2))
