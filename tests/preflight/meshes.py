"""Builds the launch's mesh for every slice of TPUs that libtpu knows, and checks it against plain loops.

Run as a program, with the environment of `Topology.environment`: libtpu reads it once. Prints one JSON object.
"""

import itertools
import json
import math

import numpy as np
from jax.experimental import topologies

from mvp4d.core.errors import UserError
from mvp4d_jax import parallel

SIDES = (1, 2, 4, 8, 12, 16, 20, 24, 32)
LAUNCHES = ((1, 8, -1), (1, 4, -1), (2, 4, -1), (1, 1, -1), (-1, 8, 8))  # of mvp4d_2b, and for fewer or more chips


def shapes() -> list[str]:
    """Every slice of 4 to 512 chips, sides rising; libtpu is asked which of them there are."""
    found = []
    for kind, dims in (("v5e", 2), ("v6e", 2), ("v5p", 3), ("tpu7x", 3)):
        for sides in itertools.product(SIDES, repeat=dims):
            rising = tuple(sorted(sides)) == sides or sides == (2, 2, 1)
            if rising and 4 <= math.prod(sides) <= 512 and (dims == 3 or max(sides) <= 16):
                found.append(f"{kind}:{'x'.join(map(str, sides))}")
    return found


def rows_of_each_process(mesh, batch: int) -> dict[int, list[int]]:
    """Which rows a process's devices hold, by walking over the mesh."""
    split = mesh.devices.shape[0] * mesh.devices.shape[1]
    each, rows = batch // split, {}
    for (data, fsdp, _), device in np.ndenumerate(mesh.devices):
        block = data * mesh.devices.shape[1] + fsdp
        rows.setdefault(device.process_index, set()).update(range(block * each, (block + 1) * each))
    return {process: sorted(held) for process, held in rows.items()}


def check(name: str, devices: list, launch: tuple[int, ...]) -> str:
    """ "" or what is wrong; "refused: ..." where the mesh cannot be had."""
    try:
        mesh = parallel.make_mesh(launch, devices)
    except UserError as error:
        return f"refused: {error}"
    if sorted(device.id for device in mesh.devices.flat) != sorted(device.id for device in devices):
        return f"{name} {launch}: not every device once"
    batch = 2 * parallel.batch_rows(mesh)
    layout, wanted = parallel.batch_sharding(mesh), rows_of_each_process(mesh, batch)
    where = layout.devices_indices_map((batch,))
    for process, rows in list(wanted.items())[:: max(1, len(wanted) // 8)]:  # eight or so hosts, spread over the slice
        held = parallel.held_rows(layout, batch, process)
        if held.tolist() != rows:
            return f"{name} {launch}: process {process} holds {rows}, held_rows says {held.tolist()}"
        for device, index in where.items():
            if device.process_index == process:
                part = parallel.rows_of_part(held, index, batch)
                if held[part].tolist() != list(range(batch))[index[0]]:
                    return f"{name} {launch}: {device} would be fed rows {held[part].tolist()}"
    return ""


def main() -> None:
    wrong, built, refused, scattered = [], [], [], []
    for name in shapes():
        try:
            devices = list(topologies.get_topology_desc(name, platform="tpu").devices)
        except Exception:  # libtpu raises many kinds for shapes that do not exist
            continue
        for launch in LAUNCHES:
            said = check(name, devices, launch)
            refused += [f"{name} {launch}: {said}"] if said.startswith("refused") else []
            wrong += [said] if said and not said.startswith("refused") else []
            built += [] if said else [[name, launch]]
            if said and not said.startswith("refused"):
                continue
        mesh = None if len(devices) % 8 else parallel.make_mesh((1, 8, -1), devices)
        rows = [] if mesh is None else rows_of_each_process(mesh, 8).values()
        scattered += [name] if any(max(held) - min(held) >= len(held) for held in rows) else []
    slices = list(topologies.get_topology_desc("v5p:2x2x2", platform="tpu", num_slices=2).devices)
    mesh = parallel.make_mesh((2, 4, 2), slices)
    try:
        crossing = str(parallel.make_mesh((1, 8, 2), slices).shape)
    except UserError as error:
        crossing = f"refused: {error}"
    print(
        json.dumps(
            {
                "wrong": wrong,
                "built": built,
                "refused": refused,
                "scattered": scattered,
                "crossing": crossing,
                "slices": [sorted({device.slice_index for device in row.flat}) for row in mesh.devices],
            }
        )
    )


if __name__ == "__main__":
    main()
