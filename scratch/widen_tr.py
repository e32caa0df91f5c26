"""Widens the shipped transformer: latents 12 -> 24, skip 192 -> 384, detail 96 -> 128; what it knows stays."""
import json, shutil, sys
import numpy as np
from safetensors.numpy import load_file, save_file
src, dst = sys.argv[1:3]
C0, C, S0, S, K0, K, P = 12, 24, 192, 384, 96, 128, 16
shutil.copytree(src, dst, dirs_exist_ok=True)
f = f"{dst}/diffusion_pytorch_model.safetensors"
t = {k: v.astype(np.float32) for k, v in load_file(f).items()}
rng = np.random.default_rng(0)
def zeros(x, axis, n):
    s = list(x.shape); s[axis] = n; return np.zeros(s, np.float32)
def noise(x, axis, n, fan):
    s = list(x.shape); s[axis] = n; return rng.uniform(-1, 1, s).astype(np.float32) * fan ** -0.5
def after(x, axis, at, new): return np.concatenate([np.take(x, range(at), axis), new, np.take(x, range(at, x.shape[axis]), axis)], axis)
n = C - C0
def put(name, axis, at, new): t[name] = after(t[name], axis, at, new)
# Of three displacements the last stays: that of the frame before the drawn one.
kept = np.r_[0:50, 54:69]
# The autoencoder's first twelve channels are what they were, 1.37 times as large.
t["conditioning_embed.weight"][:, 56:68] /= 1.37
t["detail.of_pixel.weight"][:, C0 + 56 : C0 + 68] /= 1.37
w = "conditioning_embed.weight"; t[w] = t[w][:, kept]
w = "detail.of_pixel.weight"; t[w] = np.concatenate([t[w][:, :C0], t[w][:, C0:][:, kept]], 1)
w = "patch_embed.proj.weight"; put(w, 1, C0, zeros(t[w], 1, n))
w = "conditioning_embed.weight"; put(w, 1, 52 + C0, zeros(t[w], 1, n))  # 52 maps, painted latents, their share
# Painted latents follow the noisy ones and the maps.
w = "detail.of_pixel.weight"; put(w, 1, C0 + 52 + C0, zeros(t[w], 1, n)); put(w, 1, C0, zeros(t[w], 1, n))
put(w, 0, K0, noise(t[w], 0, K - K0, t[w].shape[1])); w = "detail.of_pixel.bias"; put(w, 0, K0, zeros(t[w], 0, K - K0))
for part, fan in (("weight", 256), ("bias", 0)):
    w = f"detail.of_token.{part}"; x = t[w].reshape(P, K0, *t[w].shape[1:])
    new = noise(x, 1, K - K0, fan) if fan else zeros(x, 1, K - K0)
    t[w] = np.concatenate([x, new], 1).reshape(P * K, *t[w].shape[1:])
    w = f"detail.modulation.{part}"; x = t[w].reshape(2, K0, *t[w].shape[1:])
    t[w] = np.concatenate([x, zeros(x, 1, K - K0)], 1).reshape(2 * K, *t[w].shape[1:])
w = "detail.hidden.weight"; put(w, 1, K0, zeros(t[w], 1, K - K0)); put(w, 0, K0, noise(t[w], 0, K - K0, K))
w = "detail.hidden.bias"; put(w, 0, K0, zeros(t[w], 0, K - K0))
w = "detail.out.weight"; put(w, 1, K0, zeros(t[w], 1, K - K0)); put(w, 0, C0, zeros(t[w], 0, n))
w = "detail.out.bias"; put(w, 0, C0, zeros(t[w], 0, n))
for w in ("proj_out.weight", "proj_out.bias"): put(w, 0, C0 * P, zeros(t[w], 0, n * P))
# The path of the noise: old patches as before, new latents through new channels, with random directions and no gain.
w = "skip.proj_in.weight"; put(w, 1, C0 * P, zeros(t[w], 1, n * P))
new = zeros(t[w], 0, S - S0); new[:, C0 * P:] = rng.uniform(-1, 1, (S - S0, n * P)) * (n * P) ** -0.5; put(w, 0, S0, new)
w = "skip.proj_in.bias"; put(w, 0, S0, zeros(t[w], 0, S - S0))
for w in ("skip.gain.weight", "skip.gain.bias"): put(w, 0, S0, zeros(t[w], 0, S - S0))
w = "skip.proj_out.weight"; put(w, 0, C0 * P, zeros(t[w], 0, n * P))
new = zeros(t[w], 1, S - S0); new[C0 * P:] = rng.uniform(-1, 1, (n * P, S - S0)) * (S - S0) ** -0.5; put(w, 1, S0, new)
w = "skip.proj_out.bias"; put(w, 0, C0 * P, zeros(t[w], 0, n * P))
save_file({k: np.ascontiguousarray(v) for k, v in t.items()}, f)
c = json.load(open(f"{dst}/config.json"))
c.pop("temporal_compression_ratio")
c.update(in_channels=C, out_channels=C, conditioning_channels=52 + C + 1, skip_width=S, detail_width=K)
json.dump(c, open(f"{dst}/config.json", "w"), indent=2)
print(sum(v.size for v in t.values()) / 1e6)
