"""The PyTorch half: distils a capture into a 4D Gaussian avatar and renders it. Never imports jax."""

import os

# torch's OpenMP threads spin while they wait for each other; where other programs share the cores, a step of the CPU
# rasteriser then takes ten times as long. Read when torch is loaded, hence before anything else here.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
