"""One update of a config's largest batch on the devices that are here, on weights and samples without meaning.

    python benchmarks/train_step.py                  # one GPU: mvp4d_2b, a sample of 8 views x 49 frames x 512 x 512
    python benchmarks/train_step.py --config tiny    # the same on CPU, at a size that it holds

The step is the one that `mvp4d train` runs and `mvp4d preflight` compiles; random weights, samples of zeros. Prints
seconds of a step (best and median), samples and TFLOP a second, memory by the compiler's count.
"""

import argparse
import statistics
import time

import jax
import jax.numpy as jnp

from mvp4d_jax import parallel
from mvp4d_jax.models.transformer import MultiViewTransformer
from mvp4d_jax.preflight.jobs import heaviest
from mvp4d_jax.training.config import load_config
from mvp4d_jax.training.distill import make_step
from mvp4d_jax.training.feed import Feed
from mvp4d_jax.training.hlo import program_cost
from mvp4d_jax.training.metrics import tokens_of
from mvp4d_jax.training.plan import batch_shapes, resolve
from mvp4d_jax.training.state import ModelTemplate, initial_state, make_optimiser

GIB = 2**30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="mvp4d_2b")
    parser.add_argument("--repeats", type=int, default=3)
    args, overrides = parser.parse_known_args()
