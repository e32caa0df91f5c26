"""The transformer's forward pass against diffusers, on the same weights and inputs, in the same process.

    python benchmarks/transformer.py                 # CPU: 2B width, 2 layers, 4,096 video and 226 text tokens
    python benchmarks/transformer.py --gpu           # 2B, 30 layers, bfloat16, 8 views x 13 + 1 frames: 107,520 tokens
    python benchmarks/transformer.py --gpu --size 16 --layers 2     # the same paths at a size that any GPU holds
    python benchmarks/transformer.py --kernels       # also: the layer's products and attention alone, and their share

Prints a table: seconds (best of the repeats, and median), TFLOP/s, ours over theirs, relative L2 difference.
"""

import argparse
import logging
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import torch
from diffusers import CogVideoXTransformer3DModel
from flax import nnx

from mvp4d_jax.models.attention import attention
from mvp4d_jax.models.checkpoint import load_transformer
from mvp4d_jax.models.transformer_config import TransformerConfig


@dataclass(frozen=True)
class Work:
    """What is run: `frames` latent frames of size x size latents, and text."""

    layers: int
    frames: int
    size: int
    text: int
    dtype: str
    repeats: int

    @property
    def tokens(self) -> int:
        return self.frames * (self.size // 2) ** 2 + self.text

    def flops(self, config: TransformerConfig) -> tuple[float, float]:
        """Floating-point operations of one forward pass: products with weights, and attention."""
        width = config.width
        return (
            2.0 * self.layers * self.tokens * (4 + 2 * config.mlp_ratio) * width**2,
            4.0 * self.layers * self.tokens**2 * width,
        )


def best(call: Callable[[], None], repeats: int) -> tuple[float, float]:
    """Shortest and median seconds of `repeats` calls after one to warm up."""
    call()
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return min(times), statistics.median(times)


def make_theirs(config: TransformerConfig) -> CogVideoXTransformer3DModel:
    """Diffusers' 2B with random weights."""
    torch.manual_seed(0)
    model = CogVideoXTransformer3DModel(num_layers=config.num_layers)
    return model.to(getattr(torch, config.dtype)).eval()


def make_inputs(work: Work, config: TransformerConfig) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    lead = (1, work.frames, work.size, work.size, config.latent_channels)
    return {
        "latents": generator.standard_normal(lead, dtype=np.float32),
        "text": generator.standard_normal((1, work.text, config.text_dim), dtype=np.float32),
        "timesteps": np.array([600]),
    }


def run_theirs(model: CogVideoXTransformer3DModel, inputs: dict[str, np.ndarray], device: str) -> Callable:
    model.patch_embed.max_text_seq_length = inputs["text"].shape[1]
    model.to(device)
    dtype = next(model.parameters()).dtype
    latents = torch.from_numpy(inputs["latents"]).permute(0, 1, 4, 2, 3).to(device, dtype)
    text = torch.from_numpy(inputs["text"]).to(device, dtype)
    timesteps = torch.from_numpy(inputs["timesteps"]).to(device)

    def call() -> torch.Tensor:
        with torch.inference_mode():
            out = model(latents, text, timesteps, return_dict=False)[0]
        if device == "cuda":
            torch.cuda.synchronize()
        return out.permute(0, 1, 3, 4, 2)

    return call


def run_ours(model: nnx.Module, inputs: dict[str, np.ndarray]) -> Callable:
    graph, state = nnx.split(model)
    placed = jax.device_put({**inputs, "latents": inputs["latents"][:, None]})
    if not placed["text"].shape[1]:
        placed.pop("text")
    forward = jax.jit(lambda state, inputs: nnx.merge(graph, state)(**inputs))
    return lambda: jax.block_until_ready(forward(state, placed))


def kernels_alone(work: Work, config: TransformerConfig) -> dict[str, float]:
    """Seconds of one layer's products with weights, and of one layer's attention, times the layers."""
    dtype, width = jnp.dtype(config.dtype), config.width
    x = jnp.ones((work.tokens, width), dtype)
    square, up, down = (jnp.ones(shape, dtype) for shape in ((width, width), (width, 4 * width), (4 * width, width)))

    @jax.jit
    def products(x):
        for _ in range(4):
            x = x @ square
        return (x @ up) @ down

    heads = jnp.ones((1, work.tokens, config.num_heads, config.head_dim), dtype)
    mix = jax.jit(lambda q: attention(q, q, q))
    return {
        "products": work.layers * best(lambda: jax.block_until_ready(products(x)), work.repeats)[0],
        "attention": work.layers * best(lambda: jax.block_until_ready(mix(heads)), work.repeats)[0],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpu", action="store_true", help="2B in bfloat16 on a GPU, at 107,520 tokens")
    parser.add_argument("--kernels", action="store_true", help="time products and attention alone, too")
    parser.add_argument("--ours-only", action="store_true", help="leave diffusers out (its memory, or its time)")
    for name in ("layers", "frames", "size", "text", "repeats"):
        parser.add_argument(f"--{name}", type=int)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    logging.getLogger("jax").setLevel(logging.WARNING)
    if args.gpu and not (torch.cuda.is_available() and jax.default_backend() == "gpu"):
        sys.exit("--gpu: torch and jax must both see a GPU; install the CUDA builds of both")

    work = Work(30, 105, 64, 0, "bfloat16", 5) if args.gpu else Work(2, 4, 64, 226, "float32", 5)
    given = {name: getattr(args, name) for name in ("layers", "frames", "size", "text", "repeats")}
    work = replace(work, **{name: value for name, value in given.items() if value is not None})
    config = TransformerConfig.named("2b", num_layers=work.layers, dtype=work.dtype, conditioning_channels=0)
    print(
        f"2B width, {work.layers} layers, {work.tokens:,} tokens ({work.text} of text), {work.dtype}, "
        f"jax {jax.__version__} on {jax.devices()[0].device_kind}, torch {torch.__version__}"
    )

    inputs, theirs = make_inputs(work, config), make_theirs(config)
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        ours, _ = load_transformer(folder, config)
    products, mixing = work.flops(config)
    rows, outputs = [], {}
    calls = {"ours": run_ours(ours, inputs)}
    if not args.ours_only:
        calls["diffusers"] = run_theirs(theirs, inputs, "cuda" if args.gpu else "cpu")
    for name, call in calls.items():
        shortest, median = best(call, work.repeats)
        outputs[name] = np.asarray(call() if name == "ours" else call().float().cpu(), np.float64).ravel()
        rows.append((name, shortest, median))
    print(f"\n{'':24}{'best s':>10}{'median s':>10}{'TFLOP/s':>10}")
    for name, shortest, median in rows:
        print(f"{name:24}{shortest:10.3f}{median:10.3f}{(products + mixing) / shortest / 1e12:10.3f}")
    if not args.ours_only:
        error = np.linalg.norm(outputs["ours"] - outputs["diffusers"]) / np.linalg.norm(outputs["diffusers"])
        print(
            f"\nours / diffusers: {rows[0][1] / rows[1][1]:.2f} (best), {rows[0][2] / rows[1][2]:.2f} (median); "
            f"relative L2 difference {error:.1e}"
        )
    if args.kernels:
        alone = kernels_alone(work, config)
        for name, flops in (("products", products), ("attention", mixing)):
            print(f"{name + ' alone':24}{alone[name]:10.3f}{'':10}{flops / alone[name] / 1e12:10.3f}")
        print(f"share of the forward pass that its isolated kernels take: {math.fsum(alone.values()) / rows[0][1]:.0%}")


if __name__ == "__main__":
    main()
