"""MVP4D in JAX: one portrait photo to synchronised multi-view video of a head. Never imports torch."""

import dataclasses

from mvp4d.core.cameras.camera import FIELDS, Camera
from mvp4d.core.heads.model import STATIC_FIELDS, HeadModel
from mvp4d.core.heads.motion import ARRAYS, Motion
from mvp4d.core.host import choose_platform

choose_platform()

import jax  # noqa: E402

# The nouns are numpy dataclasses; here JAX learns to pass them through its transformations.
jax.tree_util.register_dataclass(Camera, data_fields=list(FIELDS), meta_fields=[])
jax.tree_util.register_dataclass(Motion, data_fields=list(ARRAYS), meta_fields=["fps"])
jax.tree_util.register_dataclass(
    HeadModel,
    data_fields=[field.name for field in dataclasses.fields(HeadModel) if field.name not in STATIC_FIELDS],
    meta_fields=list(STATIC_FIELDS),
)
