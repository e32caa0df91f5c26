"""The process that compiles for `preflight`: one part of a job, one JSON file as the answer."""

from __future__ import annotations

import importlib.util
import json
import math
import re
import resource
import sys
import time
from pathlib import Path
from typing import Any

import jax
from jax.experimental import topologies

from mvp4d.core.errors import UserError
from mvp4d_jax.devices import GIB
from mvp4d_jax.preflight.jobs import PARTS, make_job
from mvp4d_jax.preflight.preflight import Topology
from mvp4d_jax.training.config import load_config
from mvp4d_jax.training.hlo import compiled_cost


def main(request: dict[str, Any]) -> dict[str, Any]:
    """The report of one part."""
    topology = Topology.parse(request["topology"], request.get("slices", 1))
    config = load_config(request["config"], request["overrides"])
    job = make_job(config, request["stage"], request["kind"], request.get("sampling", {}))
    began = time.monotonic()
    lowered, mesh, facts = PARTS[request["part"]](job, _devices(topology))
    report = {
        "part": request["part"],
        "devices": mesh.size,
        "mesh": str(tuple(mesh.shape.values())),
        "head_dim": job.plan.transformer.head_dim,
        "resident": 0.0,
        **facts,
    }
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        verdict = _out_of_memory(error)
        return {**report, **verdict, "total": verdict["total"] + report["resident"], **_times(began)}
    memory = compiled.memory_analysis()
    cost = compiled_cost(compiled)
    held = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    return {
        **report,
        "arguments": memory.argument_size_in_bytes,
        "outputs": memory.output_size_in_bytes,
        "temporaries": memory.temp_size_in_bytes,
        "total": held + memory.temp_size_in_bytes + report["resident"],
        "flops": cost.flops,
        "kernel_flops": cost.kernel_flops,
        "collective_bytes": cost.collective_bytes,
        "kernels": cost.kernels,
        **_times(began),
    }


def _times(began: float) -> dict[str, float]:
    """Wall-clock and processor time; they part where the machine is busy with other work."""
    return {"seconds": time.monotonic() - began, "processor_seconds": time.process_time()}


def _devices(topology: Topology) -> list:
    if not topology.is_tpu:
        return jax.devices()
    try:
        several = {"num_slices": topology.slices} if topology.slices > 1 else {}
        return list(topologies.get_topology_desc(topology.text, platform="tpu", **several).devices)
    except Exception as error:  # libtpu raises many kinds; a user needs the reason, not the trace
        missing = importlib.util.find_spec("libtpu") is None
        raise UserError(
            f"--topology {topology.text}",
            str(error).splitlines()[0][:300],
            "install libtpu (in the checkout: pip install '.[tpu]')" if missing else "choose a shape that exists",
        ) from None


def _out_of_memory(error: Exception) -> dict[str, Any]:
    """The compiler's own verdict: "Used 20.1G of 15.75G hbm", or what temporaries alone would take."""
    text = str(error)
    used = re.search(r"Used ([0-9.]+)([KMGT]) of [0-9.]+[KMGT] hbm", text) or re.search(
        r"memory required for .* \(([0-9.]+)([KMGT])\) exceeds available HBM", text
    )
    if used is None:
        raise UserError("the compiler", text.splitlines()[0][:400]) from None
    total = float(used.group(1)) * {"K": 2**10, "M": 2**20, "G": GIB, "T": 2**40}[used.group(2)]
    return {
        "arguments": 0,
        "outputs": 0,
        "temporaries": total,
        "total": total,
        "flops": 0.0,
        "kernel_flops": 0.0,
        "collective_bytes": {},
        "kernels": 0,
    }


if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(asked["timeout"]),) * 2)
    try:
        result = main(asked)
    except UserError as error:
        result = {"error": error.args}
    Path(sys.argv[2]).write_text(json.dumps(result), encoding="utf-8")
