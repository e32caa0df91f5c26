"""GPUs of a process of a SLURM job. JAX by itself gives every process one: the one whose number is SLURM_LOCALID."""

from __future__ import annotations

import os
import re

import jax

from mvp4d.core.progress import say

# A step's processes per node, "8(x2),4" for nodes of 8, 8 and 4; the first that is set counts.
_TASKS = ("SLURM_STEP_TASKS_PER_NODE", "SLURM_TASKS_PER_NODE", "SLURM_NTASKS_PER_NODE")


def local_device_ids() -> list[int] | None:
    """The GPUs that this process is to use, as `jax.distributed.initialize` takes them: numbers among those it sees.

    A process that is alone on its node, or that SLURM bound to GPUs (`--gpus-per-task`), uses all that it sees.
    Processes that all see the node's GPUs share them out evenly, in the order of SLURM_LOCALID. One that sees some
    counts as bound: where CUDA_VISIBLE_DEVICES was set by hand, alike for several, name JAX_LOCAL_DEVICE_IDS.

    Returns:
      The numbers; [] for every GPU that the process sees; None to leave it to JAX: outside SLURM's steps, where
      JAX_LOCAL_DEVICE_IDS names the GPUs, or where nothing tells of any.
    """
    tasks = _tasks_of_node()
    if tasks is None or os.environ.get("JAX_LOCAL_DEVICE_IDS"):
        return None
    seen = _seen_gpus()
    if tasks == 1 or 0 < seen < max(_gpus_of_node(), tasks):
        return []
    share, place = seen // tasks, int(os.environ["SLURM_LOCALID"])
    return list(range(place * share, (place + 1) * share)) or None


def note_idle_gpus() -> None:
    """Prints one line where the node's processes use fewer GPUs than SLURM gave the node. Call it once JAX is up."""
    tasks, given = _tasks_of_node(), _gpus_of_node()
    if tasks is None or jax.default_backend() != "gpu" or os.environ["SLURM_LOCALID"] != "0":
        return
    used = tasks * jax.local_device_count()
    if used < given:
        say(
            f"note: {tasks} process{'es' * (tasks > 1)} of this node use {used} of its {given} GPUs: "
            "give one process per node, or one per GPU"
        )


def _tasks_of_node() -> int | None:
    """Processes of this step on this node; None outside SLURM's steps, and under Open MPI, whose ranks JAX counts."""
    if not {"SLURM_STEP_NODELIST", "SLURM_LOCALID"} <= os.environ.keys() or "OMPI_MCA_orte_hnp_uri" in os.environ:
        return None
    text = next((os.environ[name] for name in _TASKS if os.environ.get(name)), "")
    runs = re.findall(r"(\d+)(?:\(x(\d+)\))?", text)
    counts = [int(count) for count, times in runs for _ in range(int(times or 1))]
    node = int(os.environ.get("SLURM_NODEID", 0))
    return counts[min(node, len(counts) - 1)] if counts else None


def _seen_gpus() -> int:
    """GPUs that this process sees, 0 where nothing tells."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return _gpus_of_node() if visible is None else len([name for name in visible.split(",") if name.strip()])


def _gpus_of_node() -> int:
    """GPUs that SLURM gave this step on this node, 0 where it does not tell."""
    text = os.environ.get("SLURM_GPUS_ON_NODE", "")
    return int(text) if text.isdecimal() else 0
