"""One update on one sample of a config's largest kind, on the first device, without data or weights.

    python benchmarks/train_step.py                  # one GPU: mvp4d_2b, a sample of 8 views x 49 frames x 512 x 512
    python benchmarks/train_step.py --config tiny    # the same on CPU, at a size that it holds

The step is the one that `mvp4d train` runs and `mvp4d preflight` compiles; random weights, samples of zeros. Prints
seconds of a step (best and median), samples and TFLOP a second, memory by the compiler's count.
"""

import argparse
import dataclasses
import statistics
import time

import jax
import jax.numpy as jnp

from mvp4d_jax import parallel
from mvp4d_jax.devices import GIB
from mvp4d_jax.models.transformer import MultiViewTransformer
from mvp4d_jax.preflight.jobs import heaviest
from mvp4d_jax.training.config import load_config
from mvp4d_jax.training.distill import make_step
from mvp4d_jax.training.feed import Feed
from mvp4d_jax.training.hlo import program_cost
from mvp4d_jax.training.metrics import tokens_of
from mvp4d_jax.training.plan import batch_shapes, resolve
from mvp4d_jax.training.state import ModelTemplate, initial_state, make_optimiser


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="mvp4d_2b")
    parser.add_argument("--repeats", type=int, default=3)
    args, overrides = parser.parse_known_args()

    plan = resolve(load_config(args.config, overrides))
    stage, modality = heaviest(plan)
    plan, modality = plan.for_stage(stage), dataclasses.replace(modality, batch=1)
    mesh = parallel.make_mesh((1, 1, 1), jax.devices()[:1])
    template = ModelTemplate(lambda rngs: MultiViewTransformer(plan.transformer, rngs=rngs), mesh)
    optimiser = make_optimiser(plan.optimiser, template.shapes)
    step = make_step(plan, template, optimiser, abstract=True)
    shapes = batch_shapes(plan, stage, modality, Feed.onto(mesh, 1).layout)
    tokens = tokens_of(plan.transformer, modality.views, modality.latents, plan.latent_size(stage))
    print(
        f"training step of {args.config}: {tokens:,} tokens, {plan.transformer.dtype}, {jax.devices()[0].device_kind}"
    )

    state = initial_state(template, optimiser, mesh, 0)
    with parallel.use_mesh(mesh):
        batch = {name: jnp.zeros(one.shape, one.dtype, device=one.sharding) for name, one in shapes.items()}
        began = time.perf_counter()
        compiled = step.lower(state, batch).compile()
        print(f"compiled in {time.perf_counter() - began:.1f} s", flush=True)
        memory, flops = compiled.memory_analysis(), program_cost(compiled.as_text()).flops
        seconds = []
        for _ in range(args.repeats + 1):  # the first one warms up
            began = time.perf_counter()
            state, _ = jax.block_until_ready(compiled(state, batch))
            seconds.append(time.perf_counter() - began)
    best = min(seconds[1:])
    total = (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes
    )
    print(
        f"training step: {best:.3f} s best, {statistics.median(seconds[1:]):.3f} s median, "
        f"{tokens / best:,.0f} tokens/s, {flops / best / 1e12:.3f} TFLOP/s, {total / GIB:.2f} GiB"
    )


if __name__ == "__main__":
    main()
