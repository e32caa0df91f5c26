"""Widens an autoencoder folder's latents: old channels as they are, new ones at random in the encoder, unseen by the decoder."""
import json, shutil, sys
import numpy as np
from safetensors.numpy import load_file, save_file
src, dst, C = sys.argv[1], sys.argv[2], int(sys.argv[3])
shutil.copytree(src, dst, dirs_exist_ok=True)
f = f"{dst}/diffusion_pytorch_model.safetensors"
t = {k: v.astype(np.float32) for k, v in load_file(f).items()}
rng = np.random.default_rng(0)
old = 12
for k, v in list(t.items()):
    if k.startswith("encoder.conv_out") :
        mean, lv = v[:old], v[old:]
        if k.endswith("weight"):
            new = rng.normal(size=(C-old,)+v.shape[1:]).astype(np.float32) * mean.std()
            nlv = np.zeros_like(new)
        else:
            new = np.zeros(C-old, np.float32); nlv = np.full(C-old, lv.mean(), np.float32)
        t[k] = np.concatenate([mean, new, lv, nlv])
    elif v.ndim == 5 and v.shape[1] == old and k.startswith("decoder"):
        print(k, v.shape)
        t[k] = np.concatenate([v, np.zeros((v.shape[0], C-old)+v.shape[2:], np.float32)], 1)
save_file({k: v.astype(np.float32) for k, v in t.items()}, f)
c = json.load(open(f"{dst}/config.json")); c["latent_channels"] = C; c["scaling_factor"] = 1.0
json.dump(c, open(f"{dst}/config.json", "w"), indent=2)
