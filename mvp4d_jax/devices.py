"""What is known of each kind of accelerator: memory, speed, links, and the compiler flags that a launch sets.

One JAX device is meant throughout: a chip, but half a chip on TPU7x, whose two cores JAX shows as two devices.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path

GIB = 1 << 30  # bytes
FLAGS = Path(__file__).parent / "preflight" / "flags.json"


@dataclasses.dataclass(frozen=True)
class Kind:
    """One kind of device.

    Attributes:
      jax_names: what `jax.Device.device_kind` begins with.
      gib: memory that a program may use, GiB, as the compiler reports it (TPU) or the data sheet has it.
      flops: dense bf16 peak, FLOP/s.
      matrix: side of the square that a matrix unit multiplies at once; an attention head narrower than that leaves
        the rest of it idle. 0: narrow heads cost nothing.
      link: bytes/s that all interconnect links of the device bring in together; 0: not known.
      accelerator: what libtpu calls a slice of it; "" where it is no TPU.
      cores: cores per chip that the slice's name counts.
      devices: JAX devices per chip.
      dims: dimensions of its torus.
    """

    jax_names: tuple[str, ...]
    gib: float
    flops: float
    matrix: int = 0
    link: float = 0.0
    accelerator: str = ""
    cores: int = 1
    devices: int = 1
    dims: int = 1

    def attention_flops(self, head_dim: int) -> float:
        """Peak FLOP/s of attention's products with heads of `head_dim` channels."""
        return self.flops * (min(1.0, head_dim / self.matrix) if self.matrix else 1.0)


# cloud.google.com/tpu/docs (v5e, v5p, v6e, tpu7x): "bidirectional interconnect bandwidth per chip" is twice `link`.
TPUS = {
    "v5e": Kind(("TPU v5 lite", "TPU v5e"), 15.75, 197e12, 128, 200e9, "v5litepod", dims=2),
    "v5p": Kind(("TPU v5", "TPU v5p"), 95.74, 459e12, 128, 600e9, "v5p", cores=2, dims=3),
    "v6e": Kind(("TPU v6 lite", "TPU v6e"), 31.25, 918e12, 256, 400e9, "v6e", dims=2),
    "tpu7x": Kind(("TPU7x", "TPU v7x"), 94.75, 1153.5e12, 256, 300e9, "tpu7x", cores=2, devices=2, dims=3),
}
GPUS = {
    "a100-40": Kind(("NVIDIA A100-SXM4-40GB", "NVIDIA A100-PCIE-40GB"), 39.4, 312e12, link=300e9),
    "a100": Kind(("NVIDIA A100",), 79.1, 312e12, link=300e9),
    "h100": Kind(("NVIDIA H100",), 79.1, 989e12, link=450e9),
    "h200": Kind(("NVIDIA H200",), 139.8, 989e12, link=450e9),
    "b200": Kind(("NVIDIA B200",), 178.0, 2250e12, link=900e9),
    "l4": Kind(("NVIDIA L4",), 22.0, 121e12),
    "l40s": Kind(("NVIDIA L40S",), 44.4, 362e12),
    "rtx4090": Kind(("NVIDIA GeForce RTX 4090",), 23.5, 165e12),
}


def kind_of(device_kind: str) -> tuple[str, Kind] | None:
    """Name and facts of a device by what JAX calls it; None for what is not known (a CPU)."""
    found = [
        (len(prefix), name, kind)
        for name, kind in {**TPUS, **GPUS}.items()
        for prefix in kind.jax_names
        if device_kind.startswith(prefix)
    ]
    return max(found)[1:] if found else None


@functools.cache
def compiler_flags(name: str) -> dict[str, str]:
    """{environment variable: flags on one line} that a launch on this kind of device sets (`preflight/flags.json`).

    TPU flags belong in LIBTPU_INIT_ARGS: in XLA_FLAGS they stop every process that runs on CPU.
    """
    table = json.loads(FLAGS.read_text(encoding="utf-8"))
    chosen = table[name] if name in table else table["gpu"] if name in GPUS else {}
    return {variable: " ".join(flags) for variable, flags in chosen.items()}
