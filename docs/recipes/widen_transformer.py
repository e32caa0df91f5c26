"""Fits the earlier `tiny` transformer to the wider, shorter latents; what it computes of the old ones stays.

    python docs/recipes/widen_transformer.py FOLDER OUT

Latents 12 -> 24, `skip_width` 192 -> 384, `detail_width` 96 -> 128; of three displacements within a latent frame one is
left. New inputs and outputs have no weight; new hidden channels have random directions and no gain.
"""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

LATENTS, SKIP, DETAIL = (12, 24), (192, 384), (96, 128)  # before, after
PATCH = 16  # latent pixels in a patch
MAPS = 52  # of the new transformer, without the painted latents and their share
KEPT = np.r_[0:50, 54:69]  # of the old maps: of the displacements 50:56 the last, from the frame before the drawn one
# The old channels hold in the new autoencoder what they held, this much larger.
LOUDER = 1.37

source, target = sys.argv[1], sys.argv[2]
shutil.copytree(source, target)
file, config_file = f"{target}/diffusion_pytorch_model.safetensors", Path(target) / "config.json"
t = {name: value.astype(np.float32) for name, value in load_file(file).items()}
random = np.random.default_rng(0)
more = LATENTS[1] - LATENTS[0]


def zeros(name: str, axis: int, count: int) -> np.ndarray:
    shape = list(t[name].shape)
    shape[axis] = count
    return np.zeros(shape, np.float32)


def noise(name: str, axis: int, count: int, fan_in: int) -> np.ndarray:
    return random.uniform(-1, 1, zeros(name, axis, count).shape).astype(np.float32) * fan_in**-0.5


def put(name: str, axis: int, at: int, new: np.ndarray) -> None:
    """Inserts channels into a tensor."""
    before, after = np.split(t[name], [at], axis)
    t[name] = np.concatenate([before, new, after], axis)


# ---- The maps: painted latents in the new units, two displacements fewer, more painted latents.
t["conditioning_embed.weight"][:, 56:68] /= LOUDER
t["detail.of_pixel.weight"][:, LATENTS[0] + 56: LATENTS[0] + 68] /= LOUDER
t["conditioning_embed.weight"] = t["conditioning_embed.weight"][:, KEPT]
put("conditioning_embed.weight", 1, MAPS + LATENTS[0], zeros("conditioning_embed.weight", 1, more))
put("patch_embed.proj.weight", 1, LATENTS[0], zeros("patch_embed.proj.weight", 1, more))

# ---- The detail head: [latents, maps] of a pixel -> hidden -> latents.
name, grown = "detail.of_pixel.weight", DETAIL[1] - DETAIL[0]
t[name] = np.concatenate([t[name][:, :LATENTS[0]], t[name][:, LATENTS[0]:][:, KEPT]], axis=1)
put(name, 1, LATENTS[0] + MAPS + LATENTS[0], zeros(name, 1, more))
put(name, 1, LATENTS[0], zeros(name, 1, more))
put(name, 0, DETAIL[0], noise(name, 0, grown, t[name].shape[1]))
put("detail.of_pixel.bias", 0, DETAIL[0], zeros("detail.of_pixel.bias", 0, grown))
for part in ("weight", "bias"):
    name = f"detail.of_token.{part}"
    t[name] = t[name].reshape(PATCH, DETAIL[0], *t[name].shape[1:])
    put(name, 1, DETAIL[0], noise(name, 1, grown, 256) if part == "weight" else zeros(name, 1, grown))
    t[name] = t[name].reshape(PATCH * DETAIL[1], *t[name].shape[2:])
    name = f"detail.modulation.{part}"
    t[name] = t[name].reshape(2, DETAIL[0], *t[name].shape[1:])
    put(name, 1, DETAIL[0], zeros(name, 1, grown))
    t[name] = t[name].reshape(2 * DETAIL[1], *t[name].shape[2:])
put("detail.hidden.weight", 1, DETAIL[0], zeros("detail.hidden.weight", 1, grown))
put("detail.hidden.weight", 0, DETAIL[0], noise("detail.hidden.weight", 0, grown, DETAIL[1]))
put("detail.hidden.bias", 0, DETAIL[0], zeros("detail.hidden.bias", 0, grown))
put("detail.out.weight", 1, DETAIL[0], zeros("detail.out.weight", 1, grown))
put("detail.out.weight", 0, LATENTS[0], zeros("detail.out.weight", 0, more))
put("detail.out.bias", 0, LATENTS[0], zeros("detail.out.bias", 0, more))

# ---- Patches: of the output, and of the noise's own path, whose new channels see the new latents alone.
patch, new_patch, grown = LATENTS[0] * PATCH, more * PATCH, SKIP[1] - SKIP[0]
for name in ("proj_out.weight", "proj_out.bias", "skip.proj_out.weight", "skip.proj_out.bias"):
    put(name, 0, patch, zeros(name, 0, new_patch))
put("skip.proj_in.weight", 1, patch, zeros("skip.proj_in.weight", 1, new_patch))
rows = zeros("skip.proj_in.weight", 0, grown)
rows[:, patch:] = random.uniform(-1, 1, (grown, new_patch)) * new_patch**-0.5
put("skip.proj_in.weight", 0, SKIP[0], rows)
for name in ("skip.proj_in.bias", "skip.gain.weight", "skip.gain.bias"):
    put(name, 0, SKIP[0], zeros(name, 0, grown))
columns = zeros("skip.proj_out.weight", 1, grown)
columns[patch:] = random.uniform(-1, 1, (new_patch, grown)) * grown**-0.5
put("skip.proj_out.weight", 1, SKIP[0], columns)

save_file({name: np.ascontiguousarray(value) for name, value in t.items()}, file)
config = json.loads(config_file.read_text())
config.pop("temporal_compression_ratio", None)
config.update(in_channels=LATENTS[1], out_channels=LATENTS[1], conditioning_channels=MAPS + LATENTS[1] + 1,
              skip_width=SKIP[1], detail_width=DETAIL[1])
config_file.write_text(json.dumps(config, indent=2))
