"""Whether a compiled step fits the devices of this machine, asked before it runs."""

from __future__ import annotations

import os
from typing import Any

import jax

from mvp4d.core.errors import UserError
from mvp4d_jax.devices import GIB


def needed(compiled: Any) -> int:
    """Bytes on one device while a compiled program runs."""
    stats = compiled.memory_analysis()
    return (
        stats.argument_size_in_bytes + stats.output_size_in_bytes - stats.alias_size_in_bytes + stats.temp_size_in_bytes
    )


def limit(device: jax.Device) -> int | None:
    """Bytes a program may use on a device; host devices share the machine's memory. None where it is not known."""
    stats = device.memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"]
    if device.platform == "cpu":
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // jax.local_device_count()
    return None


def check(compiled: Any, mesh: jax.sharding.Mesh, what: str, resident: int = 0) -> None:
    """Raises UserError where a step needs more than a device has beside `resident` bytes of shards."""
    local = [device for device in mesh.devices.flat if device.process_index == jax.process_index()]
    have, need = limit(local[0]), needed(compiled) + resident
    if have is not None and need > have:
        raise UserError(
            what,
            f"a step {'and the resident shards need' if resident else 'needs'} {need / GIB:.2f} GiB on each device, "
            f"which has {have / GIB:.2f}",
            ("leave config.data.resident out; " if resident else "")
            + "use more devices along fsdp or context, remat 'full', accumulation, or a smaller batch; "
            "'mvp4d preflight' tries other topologies; --no-memory-check starts anyway",
        )
