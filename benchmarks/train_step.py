"""One training step of a config on the devices at hand, on random numbers: seconds, tokens a second, TFLOP/s, memory.

    python benchmarks/train_step.py                              2B, one view of 49 frames at 512 x 512: 14,336 tokens
    python benchmarks/train_step.py --kind multiview --views 2   more views a sample, as memory allows
    python benchmarks/train_step.py --config tiny --repeats 2    a size for CPUs

The step is what `mvp4d train` compiles: forward, backward, AdamW, moving average. FLOPs are the compiled program's.
"""

import argparse
import dataclasses
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np

from mvp4d_jax import parallel
from mvp4d_jax.models.transformer import MultiViewTransformer
from mvp4d_jax.preflight.jobs import heaviest
from mvp4d_jax.training.config import load_config
from mvp4d_jax.training.distill import make_step
from mvp4d_jax.training.feed import Feed
from mvp4d_jax.training.metrics import peak_flops, tokens_of
from mvp4d_jax.training.plan import batch_shapes, resolve
from mvp4d_jax.training.state import ModelTemplate, initial_state, make_optimiser


def random_batch(shapes: dict[str, jax.ShapeDtypeStruct]) -> dict[str, jax.Array]:
    """Normal numbers; every frame noisy."""
    rng = np.random.default_rng(0)

    def draw(shape: jax.ShapeDtypeStruct) -> jax.Array:
        value = np.zeros(shape.shape) if shape.dtype == jnp.bool_ else rng.standard_normal(shape.shape, np.float32)
        return jax.device_put(value.astype(shape.dtype), shape.sharding)

    return {name: draw(shape) for name, shape in shapes.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="mvp4d_2b")
    parser.add_argument("--stage", default="")
    parser.add_argument("--kind", default="monocular", help="of data: monocular, static, multiview")
    parser.add_argument("--views", type=int, help="views a sample (default: the config's)")
    parser.add_argument("--batch", type=int, default=1, help="samples a step")
    parser.add_argument("--repeats", type=int, default=5)
    args, overrides = parser.parse_known_args()

    plan = resolve(load_config(args.config, overrides))
    stage, modality = heaviest(plan, args.stage, args.kind)
    modality = dataclasses.replace(modality, batch=args.batch, views=args.views or modality.views)
    plan = plan.for_stage(stage)
    mesh = parallel.make_mesh((1, -1, 1) if args.batch % jax.device_count() == 0 else (1, 1, 1))
    template = ModelTemplate(lambda rngs: MultiViewTransformer(plan.transformer, rngs=rngs), mesh)
    optimiser = make_optimiser(plan.optimiser, template.shapes)
    step = make_step(plan, template, optimiser)
    state = initial_state(template, optimiser, mesh, seed=0)
    feed = Feed.onto(mesh, modality.batch)
    batch = random_batch(batch_shapes(plan, stage, modality, feed.layout))
    tokens = modality.batch * tokens_of(plan.transformer, modality.views, modality.latents, plan.latent_size(stage))
    began = time.perf_counter()
    with parallel.use_mesh(mesh):
        compiled = step.lower(state, batch).compile()
    print(f"compiled in {time.perf_counter() - began:.1f} s for {jax.devices()[0].device_kind}", flush=True)
    times = []
    for _ in range(args.repeats + 1):
        began = time.perf_counter()
        state, metrics = compiled(state, batch)
        loss = float(metrics["loss"])
        times.append(time.perf_counter() - began)
    best, middle = min(times[1:]), statistics.median(times[1:])
    flops = compiled.cost_analysis().get("flops", float("nan"))
    memory = compiled.memory_analysis()
    held = (memory.argument_size_in_bytes + memory.temp_size_in_bytes) / 2**30
    print(
        f"{args.config} {modality.kind}: {tokens:,} tokens a step, best {best:.3f} s, median {middle:.3f} s, "
        f"{tokens / best:,.0f} tokens/s, {flops / best / 1e12:.1f} TFLOP/s a device by the compiler's count "
        f"({flops / best / peak_flops(jax.devices()[0]):.0%} of peak), {held:.1f} GiB a device, loss {loss:.3f}",
        flush=True,
    )


if __name__ == "__main__":
    main()
