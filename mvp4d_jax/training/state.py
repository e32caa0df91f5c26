"""What training carries from step to step, and how it lies on the mesh."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh

from mvp4d.core.errors import UserError
from mvp4d_jax import parallel

Tree = Any


@dataclasses.dataclass(frozen=True)
class TrainState:
    """Everything that a resumed run needs to go on as if nothing had happened.

    Attributes:
      step: int32 scalar, updates done.
      key: raw random key; a step's key is this folded with the step.
      params: float32, nested dictionaries of arrays.
      ema: exponential moving average of params, float32.
      moments: the optimiser's state.
    """

    step: jax.Array
    key: jax.Array
    params: Tree
    ema: Tree
    moments: Tree


jax.tree_util.register_dataclass(TrainState, [field.name for field in dataclasses.fields(TrainState)], [])


@dataclasses.dataclass(frozen=True)
class OptimiserOptions:
    """AdamW and what goes with it.

    Attributes:
      b1, b2, eps, weight_decay: AdamW's. Only kernels decay: no biases, norms or embeddings.
      clip: largest global norm of the gradient.
      ema: decay of the moving average; reached slowly, (1 + n) / (10 + n) after n steps.
      freeze: regular expressions; parameters whose path (`blocks/attn/to_q/kernel`) matches one stay as they are.
      accumulation: micro-batches a step.
    """

    b1: float = 0.9
    b2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 1e-3
    clip: float = 1.0
    ema: float = 0.9999
    freeze: tuple[str, ...] = ()
    accumulation: int = 1


def path_name(path: Sequence[Any]) -> str:
    """`blocks/attn/to_q/kernel` of a tree path."""
    return "/".join(str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in path)


class ModelTemplate:
    """A model's structure apart from its numbers, so that the numbers can be plain trees.

    Args:
      build: makes the model from `nnx.Rngs`.
      mesh: where it will live.
    """

    def __init__(self, build: Callable[[nnx.Rngs], nnx.Module], mesh: Mesh):
        self._build, self.mesh = build, mesh
        with parallel.use_mesh(mesh):
            abstract = nnx.eval_shape(lambda: build(nnx.Rngs(0)))
            self.graph, params, self.rest = nnx.split(abstract, nnx.Param, ...)
            self._template = params
            self.shapes = nnx.to_pure_dict(params)
            self.shardings = nnx.to_pure_dict(parallel.parameter_shardings(params, mesh))

    def initialise(self, key: jax.Array) -> Tree:
        """Fresh parameters, made where they live. Call inside `jax.jit` or outside."""
        _, params, _ = nnx.split(self._build(nnx.Rngs(key)), nnx.Param, ...)
        return nnx.to_pure_dict(params)

    def params_of(self, model: nnx.Module) -> Tree:
        """A module's numbers as a plain tree.

        Raises:
          UserError: another shape than this template's.
        """
        params = nnx.to_pure_dict(nnx.split(model, nnx.Param, ...)[1])
        if jax.tree.map(jnp.shape, params) != jax.tree.map(jnp.shape, self.shapes):
            raise UserError(
                "config.initial",
                "its parameters are not those of the model that the config describes",
                "use the sizes it was trained with",
            )
        return params

    def model(self, params: Tree) -> nnx.Module:
        """The module with these numbers; for use while tracing."""
        state = jax.tree.map(lambda leaf: leaf, self._template)
        nnx.replace_by_pure_dict(state, params)
        return nnx.merge(self.graph, state, self.rest)


def make_optimiser(options: OptimiserOptions, shapes: Tree) -> optax.GradientTransformation:
    """Clip, Adam, decay; the learning rate is applied by the step, which knows the stage.

    Raises:
      UserError: a freeze pattern that matches nothing or everything.
    """
    paths = [path_name(path) for path, _ in jax.tree_util.tree_flatten_with_path(shapes)[0]]
    for pattern in options.freeze:
        if not any(re.search(pattern, path) for path in paths):
            raise UserError("optimiser.freeze", f"'{pattern}' matches no parameter", f"for example {paths[0]}")

    def frozen(path: Sequence[Any]) -> bool:
        return any(re.search(pattern, path_name(path)) for pattern in options.freeze)

    labels = jax.tree_util.tree_map_with_path(lambda path, _: "frozen" if frozen(path) else "trained", shapes)
    if all(label == "frozen" for label in jax.tree.leaves(labels)):
        raise UserError("optimiser.freeze", "freezes every parameter", "leave some to train")

    def decays(tree: Tree) -> Tree:
        return jax.tree_util.tree_map_with_path(lambda path, _: path_name(path).endswith("kernel"), tree)

    adamw = optax.chain(
        optax.clip_by_global_norm(options.clip),
        optax.scale_by_adam(options.b1, options.b2, options.eps),
        optax.add_decayed_weights(options.weight_decay, mask=decays),
    )
    if not options.freeze:
        return adamw
    return optax.partition({"trained": adamw, "frozen": optax.set_to_zero()}, labels)


def state_shardings(template: ModelTemplate, optimiser: optax.GradientTransformation, mesh: Mesh) -> TrainState:
    """The sharding of every leaf of a TrainState: moments and EMA lie as their parameters do."""
    nowhere = parallel.replicated(mesh)
    moments = jax.eval_shape(optimiser.init, template.shapes)

    def frozen(leaf: Any) -> bool:  # stands where the optimiser keeps nothing
        return isinstance(leaf, optax.MaskedNode)

    moments = optax.tree_map_params(
        optimiser,
        lambda leaf, sharding: leaf if frozen(leaf) else sharding,
        moments,
        template.shardings,
        transform_non_params=lambda leaf: leaf if frozen(leaf) else nowhere,
        is_leaf=frozen,
    )
    return TrainState(nowhere, nowhere, template.shardings, template.shardings, moments)


def initial_state(
    template: ModelTemplate, optimiser: optax.GradientTransformation, mesh: Mesh, seed: int
) -> TrainState:
    """A fresh state, every array made in its shards."""
    shardings = state_shardings(template, optimiser, mesh)

    def make() -> TrainState:
        key = jax.random.key(seed)
        params = template.initialise(jax.random.fold_in(key, 0))
        return TrainState(
            jnp.zeros((), jnp.int32),
            jax.random.key_data(jax.random.fold_in(key, 1)),
            params,
            jax.tree.map(jnp.copy, params),
            optimiser.init(params),
        )

    with parallel.use_mesh(mesh):
        return jax.jit(make, out_shardings=shardings)()


def abstract_state(template: ModelTemplate, optimiser: optax.GradientTransformation, mesh: Mesh) -> TrainState:
    """Shapes, dtypes and shardings of a state, without its memory: what a restore or a compilation asks for."""
    shardings = state_shardings(template, optimiser, mesh)
    key = jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0)))
    shapes = TrainState(
        jax.ShapeDtypeStruct((), jnp.int32),
        key,
        template.shapes,
        template.shapes,
        jax.eval_shape(optimiser.init, template.shapes),
    )
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), shapes, shardings
    )


def with_params(state: TrainState, params: Tree) -> TrainState:
    """The state with other parameters (pretrained ones), laid out as its own; the EMA starts from them."""
    placed = jax.tree.map(
        lambda old, new: jax.device_put(jnp.asarray(new, old.dtype), old.sharding), state.params, params
    )
    return dataclasses.replace(state, params=placed, ema=jax.tree.map(jnp.copy, placed))
