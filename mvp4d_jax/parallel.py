"""The device mesh and the logical axis rules.

Three mesh axes: `data` (samples), `fsdp` (samples, and the shards of parameters and optimiser state), `context` (the
tokens of one sample, and again the shards of parameters). Modules name logical axes; `RULES` says where each lives.
Work under

    with parallel.use_mesh(parallel.make_mesh((1, 8, 1))):
        ...

Without a mesh every constraint is a no-op, so that the same code runs on one device.
"""

import contextlib
import functools
import itertools
import logging
import math
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from mvp4d.core.errors import UserError

log = logging.getLogger(__name__)

AXES = ("data", "fsdp", "context")

# Logical axis -> mesh axes. CogVideoX-2B has 30 heads, which neither 4 nor 8 divides: no axis shards over heads.
RULES = (
    ("batch", ("data", "fsdp")),  # samples
    ("tokens", ("context",)),  # tokens of one sample
    ("views", ("data", "fsdp", "context")),  # videos that the autoencoder treats one by one
    ("embed", ("fsdp", "context")),  # model width, in parameters only
    ("mlp", None),
    ("heads", None),
    ("modulation", None),
    ("layers", None),
)

GATHERED_AT_ONCE = 32  # devices, see `gather_shards`

# The logical axis of parameters whose mesh axes may lie on their other dimensions, and the one that takes none of them:
# layers are scanned, and one of them lies as all do. CogVideoX-2B's width, 1,920, divides by 8 and by 64, not by 256.
SPREAD, SCANNED = "embed", "layers"


def make_mesh(
    shape: tuple[int, int, int] = (1, 1, 1),
    devices: Sequence[jax.Device] | None = None,
    where: str = "`mesh`",
) -> Mesh:
    """A mesh of `shape` = (data, fsdp, context): the one builder, for training, sampling and preflight alike.

    On a TPU torus neighbours of the mesh are neighbours of the torus as far as the shape allows; an axis may be cut
    where it is no product of whole sides (8 on v5p:4x4x4). Several TPU slices share out the `data` axis.

    Args:
      shape: devices along each axis; one entry may be -1 and takes what is left.
      devices: the devices to use; default all of `jax.devices()`. A mesh smaller than that takes the first ones, in one
        process; several processes must use all.
      where: the argument or field that names the shape, for messages.

    Raises:
      UserError: the shape does not fit the devices.
    """
    pool = list(jax.devices() if devices is None else devices)
    sizes = mesh_sizes(shape, len(pool), where)
    needed = math.prod(sizes)
    if needed < len(pool) and devices is None and jax.process_count() > 1:
        raise UserError(
            where,
            f"{tuple(shape)} uses {needed} of {len(pool)} devices on {jax.process_count()} "
            "processes, some of which would have none",
            "use all: give one entry as -1",
        )
    order = np.asarray(pool[:needed]).reshape(sizes) if needed < len(pool) else _laid_out(sizes, pool, where)
    return Mesh(order, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def mesh_sizes(shape: Sequence[int], count: int, where: str = "`mesh`") -> list[int]:
    """The shape with its -1 filled in. Raises UserError, naming `where`, where it does not fit `count` devices."""
    sizes = list(shape)
    if len(sizes) != len(AXES) or sizes.count(-1) > 1 or any(size < 1 and size != -1 for size in sizes):
        raise UserError(where, f"{tuple(shape)} is not a mesh shape", f"give positive sizes for {', '.join(AXES)}")
    given = math.prod(size for size in sizes if size != -1)
    if given > count:
        raise UserError(
            where,
            f"{tuple(shape)} needs {given} devices or more, there are {count}",
            "choose a smaller mesh, or try it on host devices: XLA_FLAGS=--xla_force_host_platform_device_count="
            f"{given}",
        )
    if -1 in sizes:
        if count % given:
            raise UserError(
                where,
                f"{tuple(shape)}: {given} does not divide the {count} devices",
                "choose sizes whose product does",
            )
        sizes[sizes.index(-1)] = count // given
    return sizes


def _laid_out(sizes: list[int], devices: list[jax.Device], where: str) -> np.ndarray:
    """All devices as an array of `sizes`, so that what communicates most (the last axis) lies closest."""
    slices = {getattr(device, "slice_index", 0) for device in devices} if devices[0].platform == "tpu" else {0}
    if sizes[0] % len(slices):
        raise UserError(
            where,
            f"{tuple(sizes)} puts {sizes[0]} along data, which {len(slices)} slices do not divide",
            f"give a multiple of {len(slices)} as the first entry: only data crosses slices",
        )
    if len(slices) > 1:
        within = [sizes[0] // len(slices), *sizes[1:]]
        parts = [[device for device in devices if device.slice_index == index] for index in sorted(slices)]
        return np.concatenate([_laid_out_slice(within, part) for part in parts])  # along data
    return _laid_out_slice(sizes, devices)


def _laid_out_slice(sizes: list[int], devices: list[jax.Device]) -> np.ndarray:
    try:
        return mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
    except (ValueError, NotImplementedError, AssertionError) as error:  # some sides, 20 for one, it cannot cut
        log.info("mesh %s does not follow the torus, devices are taken in their order (%s)", tuple(sizes), error)
        return np.asarray(devices).reshape(sizes)


def planned_mesh(shape: Sequence[int]) -> AbstractMesh:
    """A mesh of positive sizes (data, fsdp, context) without devices, for arithmetic."""
    return AbstractMesh(tuple(shape), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def say_mesh(sizes: Sequence[int]) -> str:
    """A mesh in words, and how many devices it leaves idle, if any."""
    used, idle = math.prod(sizes), jax.device_count() - math.prod(sizes)
    axes = ", ".join(f"{axis} {size}" for axis, size in zip(AXES, sizes, strict=True))
    return f"{axes}: {used} device{'s' * (used > 1)}" + (f"; {idle} of {used + idle} stay idle" if idle > 0 else "")


@contextlib.contextmanager
def use_mesh(mesh: Mesh) -> Iterator[Mesh]:
    """Work on `mesh`: `jax.set_mesh` and this project's logical axis rules for Flax."""
    with jax.set_mesh(mesh), nnx.logical_axis_rules(RULES):
        yield mesh


def current_mesh() -> AbstractMesh | None:
    """The mesh of the surrounding `use_mesh` (visible while tracing, too), or None."""
    mesh = jax.sharding.get_abstract_mesh()
    return None if mesh.empty or "context" not in mesh.axis_names else mesh


def platform() -> str:
    """`cpu`, `gpu` or `tpu`: the mesh's own where there is one (even one only compiled for), else JAX's default."""
    mesh = current_mesh()
    name = jax.default_backend() if mesh is None or mesh.abstract_device is None else mesh.abstract_device.platform
    return "gpu" if name in ("cuda", "rocm") else name


def axis_size(logical: str) -> int:
    """Over how many devices of the current mesh a logical axis is split; 1 without a mesh."""
    mesh = current_mesh()
    axes = dict(RULES)[logical]
    return 1 if mesh is None or axes is None else math.prod(mesh.shape[axis] for axis in axes)


def fit_spec(
    shape: Sequence[int], names: Sequence[str | None], mesh: Mesh | AbstractMesh | None = None
) -> PartitionSpec:
    """The `PartitionSpec` of an array of `shape` whose dimensions carry logical `names`.

    Where a dimension is not divisible by all its mesh axes, the leading axes that do divide it are kept: one sample on
    a mesh of two data rows is replicated, not refused. A parameter, which has a dimension named `embed`, is split into
    as many parts as its dimensions allow: a mesh axis that does not divide `embed` goes onto another one.

    Args:
      mesh: default the current one; without any nothing is split.
    """
    mesh, rules, entries = mesh or current_mesh(), dict(RULES), []
    if mesh is not None and SPREAD in names:
        return _spread_spec(shape, names, mesh)
    for size, name in zip(shape, names, strict=True):
        kept, split = [], 1
        for axis in (rules[name] or ()) if name is not None and mesh is not None else ():
            if size % (split * mesh.shape[axis]):
                break
            kept.append(axis)
            split *= mesh.shape[axis]
        entries.append(tuple(kept) or None)
    return PartitionSpec(*entries)


def _spread_spec(shape: Sequence[int], names: Sequence[str | None], mesh: Mesh | AbstractMesh) -> PartitionSpec:
    """Every mesh axis of `embed` on the dimension of that name, on another or on none, for the most parts of even size;
    among equals the first axis stays on `embed`, then the second."""
    axes, own = dict(RULES)[SPREAD], names.index(SPREAD)
    places = [own, *(index for index, name in enumerate(names) if name != SCANNED and index != own), None]

    def parts(chosen: Sequence[int | None]) -> int:
        counts = [1] * len(shape)
        for axis, place in zip(axes, chosen, strict=True):
            if place is not None:
                counts[place] *= mesh.shape[axis]
        return 0 if any(size % count for size, count in zip(shape, counts, strict=True)) else math.prod(counts)

    best = max(itertools.product(places, repeat=len(axes)), key=parts)  # `max` takes the first among equals
    laid = (tuple(axis for axis, place in zip(axes, best, strict=True) if place == at) for at in range(len(shape)))
    return PartitionSpec(*(those or None for those in laid))


def constrain(x: jax.Array, *names: str | None) -> jax.Array:
    """Say how `x` lies on the current mesh, by one logical name (or None) per dimension; a no-op without a mesh."""
    if current_mesh() is None:
        return x
    return jax.lax.with_sharding_constraint(x, fit_spec(x.shape, names))


def parameter_shardings(state: nnx.State, mesh: Mesh | AbstractMesh) -> nnx.State:
    """The logical axis names that modules gave their variables, as shardings that divide every array evenly."""

    def one(variable: nnx.Variable) -> nnx.Variable:
        shape = variable.get_value().shape
        names = variable.get_metadata("out_sharding", None) or (None,) * len(shape)
        return variable.replace(NamedSharding(mesh, fit_spec(shape, names, mesh)))

    return jax.tree.map(one, state, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable))


def gather_parameter(value: jax.Array, names: tuple[str | None, ...]) -> jax.Array:
    """A parameter's shards, brought together on every device for use; its gradient is summed and split again.

    Said in so many words, because the partitioner left to itself sometimes moves activations instead.

    Args:
      value: the parameter (of one layer), cast to what it is used in, so that little travels.
      names: its logical axes, one per dimension.
    """
    if current_mesh() is None:
        return value
    split = fit_spec(value.shape, names)
    # A PartitionSpec turns a tuple of one name into the name.
    axes = [(entry,) if isinstance(entry, str) else entry or () for entry in split]
    # Dimensions that are split, by their first axis: a long `context` is gathered last, when others have been.
    order = sorted((at for at, those in enumerate(axes) if those), key=lambda at: AXES.index(axes[at][0]))
    if not order:
        return value

    def together(shard: jax.Array) -> jax.Array:
        for dimension in order:
            for axis in reversed(axes[dimension]):
                shard = gather_shards(shard, axis, dimension)
        return shard

    def apart(gradient: jax.Array) -> jax.Array:
        # One dimension after the other: a sum that is split along two at once the TPU compiler makes an all-reduce, at
        # twice a reduce-scatter's bytes, with a slice behind it.
        for count in range(1, len(order) + 1):
            some = (entry if at in order[:count] else None for at, entry in enumerate(split))
            gradient = jax.lax.with_sharding_constraint(gradient, PartitionSpec(*some))
        return gradient

    @jax.custom_vjp
    def gather(value: jax.Array) -> jax.Array:
        return jax.shard_map(together, in_specs=split, out_specs=PartitionSpec(), check_vma=False)(value)

    gather.defvjp(lambda value: (gather(value), None), lambda _, gradient: (apart(gradient),))
    return gather(value)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def gather_shards(shard: jax.Array, axis: str, dimension: int) -> jax.Array:
    """Inside a `shard_map`: every device's `shard` along a mesh axis, concatenated in order.

    A long axis takes two steps, first among neighbours, then between the groups they form. In one step over all of a
    TPU torus of 64 chips the compiler gathers by summing arrays that are zero elsewhere, at twice the bytes. The
    gradient is `scatter_sum` of its own.
    """
    for groups in _turns(axis):
        shard = jax.lax.all_gather(shard, axis, axis=dimension, tiled=True, axis_index_groups=groups)
    return shard


def scatter_sum(whole: jax.Array, axis: str, dimension: int) -> jax.Array:
    """Inside a `shard_map`: the sum over a mesh axis of every device's `whole`, each keeping its own part of it.

    The dimension that is split comes first on the way: the TPU compiler makes a reduce-scatter of that, and of any
    other an all-reduce, at twice the bytes, with a slice behind it.
    """
    for groups in reversed(_turns(axis)):
        parts = jax.lax.axis_size(axis) if groups is None else len(groups[0])
        shape = whole.shape
        cut = whole.reshape(*shape[:dimension], parts, shape[dimension] // parts, *shape[dimension + 1 :])
        rest = jnp.moveaxis(cut, dimension, 0).shape[1:]
        flat = jnp.moveaxis(cut, dimension, 0).reshape(parts, -1, math.prod(shape[dimension + 1 :]))
        whole = jax.lax.psum_scatter(flat, axis, tiled=True, axis_index_groups=groups).reshape(rest)
    return whole


gather_shards.defvjp(
    lambda shard, axis, dimension: (gather_shards(shard, axis, dimension), None),
    lambda axis, dimension, _, gradient: (scatter_sum(gradient, axis, dimension),),
)


def _turns(axis: str) -> list[list[list[int]] | None]:
    """Groups of neighbours along an axis in which a gather goes, turn by turn; None: all at once."""
    parts = jax.lax.axis_size(axis)
    near = next(size for size in range(math.isqrt(parts), 0, -1) if parts % size == 0)
    if parts <= GATHERED_AT_ONCE or near == 1:
        return [None]
    neighbours = [list(range(start, start + near)) for start in range(0, parts, near)]
    alike = [list(range(start, parts, near)) for start in range(near)]
    return [neighbours, alike]


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """How a batch of samples [B, ...] lies on the mesh: over `data` and `fsdp`."""
    return NamedSharding(mesh, PartitionSpec(dict(RULES)["batch"]))


def batch_rows(mesh: Mesh) -> int:
    """Into how many parts a batch is split: the product of `data` and `fsdp`."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def check_batch(mesh: Mesh, batch: int, where: str) -> None:
    """Raises UserError, naming both numbers, where a batch does not divide over the mesh's sample axes."""
    rows = batch_rows(mesh)
    if batch % rows:
        raise UserError(
            where,
            f"{batch} samples do not divide over {rows} rows of devices (data x fsdp of mesh "
            f"{tuple(mesh.shape.values())})",
            f"choose a multiple of {rows}, or a mesh with fewer rows",
        )


def held_rows(layout: jax.sharding.Sharding, batch: int, process: int | None = None) -> np.ndarray:
    """Rows of a batch [B, ...] that the devices of a process hold under `layout`, rising; not always one run.

    Args:
      process: default this one.
    """
    mine = jax.process_index() if process is None else process
    every = layout.devices_indices_map((batch,)).items()
    held = [np.arange(batch)[index[0]] for device, index in every if device.process_index == mine]
    return np.unique(np.concatenate(held)) if held else np.zeros(0, np.int64)


def place_rows(local: np.ndarray, rows: np.ndarray, layout: jax.sharding.Sharding, batch: int) -> jax.Array:
    """The global array [B, ...] of which this process brings `rows` (`held_rows`), in that order."""
    return jax.make_array_from_callback(
        (batch, *local.shape[1:]), layout, lambda index: local[rows_of_part(rows, index, batch)]
    )


def rows_of_part(rows: np.ndarray, index: tuple[slice, ...], batch: int) -> slice:
    """Where among a process's `rows` those of one device's part of the batch stand; `index` is the part's."""
    first, last, _ = index[0].indices(batch)
    start = int(np.searchsorted(rows, first))
    return slice(start, start + last - first)


def replicated(mesh: Mesh) -> NamedSharding:
    """The same array on every device."""
    return NamedSharding(mesh, PartitionSpec())
