"""The file of LPIPS's weights (Zhang et al. 2018) that a user brings: torchvision's `features.N.weight/bias` of VGG-16
and the lpips package's `lin{0..4}.model.1.weight`, as safetensors; none are shipped."""

from __future__ import annotations

import os
from collections.abc import Container

from mvp4d.core.errors import UserError

MOST_BYTES = 1 << 32
# torchvision's vgg16.features: convolutions of each stage; a max-pool between stages, a ReLU after each convolution
STAGES = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # the lpips package's, of pictures in [-1, 1]


def tensor_names(found: Container[str], path: str | os.PathLike) -> list[str]:
    """Names of all weights, which must be among those `found` in the file at `path`.

    Raises:
      UserError: one is missing.
    """
    names = [f"features.{index}.{part}" for stage in STAGES for index in stage for part in ("weight", "bias")]
    names += [f"lin{stage}.model.1.weight" for stage in range(len(STAGES))]
    missing = [name for name in names if name not in found]
    if missing:
        raise UserError(
            path,
            f"lacks {len(missing)} tensors, {missing[0]} among them",
            "join torchvision's VGG-16 features and the lpips package's lin layers",
        )
    return names
