"""CogVideoX checkpoint in the diffusers layout to ours, and ours back.

  mvp4d convert CogVideoX-2b weights/2b          plain CogVideoX: gains the zero-initialised conditioning projection
  mvp4d convert weights/2b plain                 ours: loses it again, every other tensor byte for byte

SRC is a model folder (config.json, *.safetensors) or one that holds vae/ and transformer/. Both layouts are diffusers';
what is converted is the set of tensors, and every one is checked on the way: name, shape, no NaN. One tensor is in
memory at a time.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from mvp4d.core.errors import UserError
from mvp4d.core.files import read_npy


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SRC", type=Path, help="a diffusers folder, or one of ours")
    parser.add_argument("destination", metavar="DST", type=Path, help="the folder to write")
    parser.add_argument(
        "--conditioning-channels",
        type=int,
        metavar="N",
        help="of the transformer that is written (default: 56 for a plain SRC, none for one of ours)",
    )
    parser.add_argument(
        "--empty-prompt",
        dest="prompt",
        metavar="FILE",
        type=Path,
        help="npy [T, 4096]: the text encoder's output for '', which the model shall hold and read",
    )
    parser.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), help="default: each tensor's own")
    parser.add_argument("--shard-gb", type=float, default=5.0, metavar="GB", help="largest file (default 5)")
    parser.add_argument("--overwrite", action="store_true", help="replace DST if it exists")


def run(args: argparse.Namespace) -> str:
    if args.shard_gb <= 0:
        raise UserError("--shard-gb", f"is {args.shard_gb:g}", "give a positive size")
    if args.conditioning_channels is not None and args.conditioning_channels < 0:
        raise UserError("--conditioning-channels", f"is {args.conditioning_channels}", "give 0 or more")
    if args.destination.resolve() == args.source.resolve():
        raise UserError(args.destination, "is SRC itself", "name another folder")
    prompt = None if args.prompt is None else _read_prompt(args.prompt)
    from mvp4d_jax.models.convert import convert

    return convert(
        args.source,
        args.destination,
        conditioning_channels=args.conditioning_channels,
        prompt=prompt,
        dtype=args.dtype,
        shard_bytes=int(args.shard_gb * 10**9),
        overwrite=args.overwrite,
    )


def _read_prompt(path: Path) -> np.ndarray:
    prompt = read_npy(path)
    if prompt.dtype.kind != "f" or not np.isfinite(prompt).all():
        raise UserError(path, "holds no array of finite numbers", "numpy.save the text encoder's output")
    return prompt[0] if prompt.ndim == 3 and len(prompt) == 1 else prompt
