"""Runs MediaPipe's selfie segmentation and pymatting on pictures from standard input. A script for an environment of
its own: it is run by path and imports nothing of this project (see `mvp4d_jax/tracking/cutout.py`).

For each picture, one after the other until the input ends:
  in   height and width as little-endian uint32, raw RGB bytes
  out  the network's person, one byte a pixel
  in   the person's alpha, one byte a pixel; then what is known of it, one byte a pixel: 0 background, 255 person,
       128 to be solved for, 1 alpha is as given
  out  raw RGBA bytes, straight alpha, the colours free of the old background
"""

import os
import sys
from importlib.util import find_spec, module_from_spec

import mediapipe
import numpy as np
from scipy import sparse

# pymatting's own __init__ compiles all that it has, for more than a minute; a fifth of that is needed here.
for package in ("", ".foreground", ".laplacian", ".preconditioner", ".solver"):
    sys.modules[f"pymatting{package}"] = module_from_spec(find_spec(f"pymatting{package}"))

from pymatting.foreground.estimate_foreground_ml import estimate_foreground_ml  # noqa: E402
from pymatting.laplacian.cf_laplacian import cf_laplacian  # noqa: E402
from pymatting.preconditioner.ichol import ichol  # noqa: E402
from pymatting.solver.cg import cg  # noqa: E402

CERTAIN = 100.0  # weight of known pixels in the matting system
PRIOR = 0.02  # weight of the network's word on unknown pixels


def main() -> None:
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print must not get between the pictures
    network = mediapipe.solutions.selfie_segmentation.SelfieSegmentation(model_selection=0)
    while header := sys.stdin.buffer.read(8):
        height, width = np.frombuffer(header, "<u4").tolist()
        picture = take((height, width, 3))
        out.write(to_bytes(segment(network, picture)))
        out.flush()
        person, known = take((height, width)), take((height, width))
        alpha = matte(picture / 255.0, person / 255.0, known)
        colour = estimate_foreground_ml(picture / 255.0, alpha)
        out.write(to_bytes(np.concatenate([colour, alpha[..., None]], -1)))
        out.flush()


def take(shape: tuple) -> np.ndarray:
    return np.frombuffer(sys.stdin.buffer.read(int(np.prod(shape))), np.uint8).reshape(shape)


def to_bytes(values: np.ndarray) -> bytes:
    return np.uint8(np.rint(np.clip(values, 0, 1) * 255)).tobytes()


def segment(network: object, picture: np.ndarray) -> np.ndarray:
    """[H, W] in [0, 1]: the mean of the network's answers for the picture and its mirror image."""
    plain = network.process(np.ascontiguousarray(picture)).segmentation_mask
    mirrored = network.process(np.ascontiguousarray(picture[:, ::-1])).segmentation_mask[:, ::-1]
    return (plain + mirrored) / 2


def matte(picture: np.ndarray, person: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Closed-form matting (Levin 2008) of the unknown pixels, which the network's person draws to itself a little."""
    if (known == 1).all():
        return person
    if not (known == 128).any():
        return (known == 255).astype(np.float64)
    weight = np.where(known == 128, PRIOR, CERTAIN).ravel()
    wanted = np.where(known == 128, person, known == 255).ravel()
    system = cf_laplacian(picture, epsilon=1e-6, radius=1, is_known=(known != 128).ravel()) + sparse.diags(weight)
    alpha = cg(system, weight * wanted, M=ichol(system.tocsc(), discard_threshold=1e-3), rtol=1e-5, maxiter=300)
    return np.clip(alpha, 0, 1).reshape(known.shape)


if __name__ == "__main__":
    main()
