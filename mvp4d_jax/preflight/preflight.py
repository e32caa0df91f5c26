"""Does a job fit a topology? Compiles it ahead of time, without the devices, and reads off what it takes.

TPU topologies compile through libtpu, no TPU needed; GPU-shaped meshes on as many host devices, which shows the
sharding and is an estimate of the memory. The compilation runs in a process of its own, because it needs
an environment of its own.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mvp4d.core.errors import UserError
from mvp4d.core.progress import say
from mvp4d.core.stopping import tied
from mvp4d_jax.devices import GIB, GPUS, TPUS, Kind, compiler_flags
from mvp4d_jax.training.config import load_config

TOLD_EVERY = 10.0  # seconds, on a terminal
MOST_CHIPS = 9216
MORE_DEVICES = "more devices along fsdp or context"
# What makes a part of a job smaller.
REMEDIES = {
    "train": f"{MORE_DEVICES}, --config.transformer.remat=full, --config.optimiser.accumulation=2 on a mesh of half as "
    "many rows (data x fsdp), fewer samples, views or frames in the stage's mixture",
    "validation": f"{MORE_DEVICES}, or --config.validation.sample_steps=0, which draws none",
    "denoise": "more devices along context, or a smaller `group`",
    "decode": "devices with more memory: one device decodes a chunk",
}


@dataclasses.dataclass(frozen=True)
class Topology:
    """`v5p:4x4x4` (TPU torus), as many slices of it as asked for, or `h100:8` (so many GPUs)."""

    text: str
    kind: str
    shape: tuple[int, ...]
    slices: int = 1

    @classmethod
    def parse(cls, text: str, slices: int = 1) -> Topology:
        """Raises UserError for an unknown device or shape."""
        kind, _, sizes = text.partition(":")
        kind = {"v7x": "tpu7x", "v5lite": "v5e"}.get(kind, kind)
        known = {**TPUS, **GPUS}
        google, dash, _ = kind.partition("-")
        if dash and ({"v5litepod": "v5e"}.get(google, google)) in TPUS:
            raise UserError(
                f"--topology {text}", "is Google's name of a size", "give kind and shape, v5p:4x4x4 for v5p-128"
            )
        if kind not in known:
            raise UserError(
                f"--topology {text}",
                f"'{kind}' is not known",
                f"choose one of {', '.join(known)}, with its shape: v5p:4x4x4",
            )
        if not re.fullmatch(r"[1-9][0-9]*(x[1-9][0-9]*)*", sizes):
            example = "4x4x4" if known[kind].dims == 3 else "4x4" if known[kind].dims == 2 else "8"
            raise UserError(f"--topology {text}", f"'{sizes}' is no shape", f"for example {kind}:{example}")
        shape = tuple(int(size) for size in sizes.split("x"))
        if len(shape) != known[kind].dims:
            raise UserError(f"--topology {text}", f"has {len(shape)} dimensions", f"{kind} has {known[kind].dims}")
        if slices < 1 or (slices > 1 and kind not in TPUS):
            raise UserError("--slices", f"is {slices}", "give 1 or more; only TPUs come in slices")
        if math.prod(shape) * slices > MOST_CHIPS:
            raise UserError(
                f"--topology {text}",
                f"{slices} x {sizes} is {math.prod(shape) * slices:,} devices",
                f"at most {MOST_CHIPS:,}, as the largest pod has",
            )
        return cls(f"{kind}:{sizes}", kind, shape, slices)

    @property
    def is_tpu(self) -> bool:
        return self.kind in TPUS

    @property
    def device(self) -> Kind:
        return {**TPUS, **GPUS}[self.kind]

    @property
    def chips(self) -> int:
        """Of one slice."""
        return math.prod(self.shape)

    def environment(self) -> dict[str, str]:
        """What the compiling process needs: no metadata server, no other hosts, and the flags of a launch.

        Flags that the caller has set already stand, as they would on the machine.
        """
        base = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
        base["JAX_PLATFORMS"] = "cpu"
        if self.is_tpu:
            base.update(
                TPU_SKIP_MDS_QUERY="1",
                TPU_WORKER_HOSTNAMES="localhost",
                ALLOW_MULTIPLE_LIBTPU_LOAD="1",
                TPU_ACCELERATOR_TYPE=f"{self.device.accelerator}-{self.chips * self.device.cores}",
            )
            base = {**compiler_flags(self.kind), **base}
        else:
            base["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={self.chips}"
        return base


class DoesNotFit(UserError):
    """The job needs more memory than the devices have."""

    exit_code = 1

    def __init__(self, reports: Sequence[dict[str, Any]], topology: Topology):
        worst = max((report for report in reports if not report["fits"]), key=lambda report: report["total"])
        super().__init__(
            f"{worst['part']} on {topology.text}",
            f"does not fit: {worst['total'] / GIB:.2f} GiB on each device, which has {worst['limit'] / GIB:.2f}",
            f"what helps: {REMEDIES[worst['part']]}",
        )


def preflight(
    config: str,
    overrides: Sequence[str],
    topology: Topology,
    job: str,
    *,
    stage: str = "",
    kind: str = "",
    sampling: dict[str, Any] | None = None,
    parts: Sequence[str] | None = None,
    timeout: float = 1800,
) -> list[dict[str, Any]]:
    """Compiles the parts of a job for a topology.

    Args:
      config, overrides: as for `mvp4d train`.
      job: "train" (one update; where held-out shards are named, also the sample that validation draws) or "sample" (one
        guided denoising step, and the decoding of one view's largest chunk).
      stage, kind: of the curriculum; default those with the most tokens a sample.
      sampling: what `mvp4d sample` is given: `mesh` (default (1, 1, -1)), `views`, `group`, `guidance`.
      parts: only these of "train", "validation", "denoise", "decode".
      timeout: seconds of processor time for each part; a busy machine takes longer by the clock.

    Returns:
      One report per part: name, memory in bytes per device (arguments, outputs, temporaries, `resident`: weights that
      the part does not read but that lie there meanwhile; total of all, limit), flops, kernel_flops, collective_bytes
      by kind, attention, tokens, samples, seconds, processor_seconds, fits; of training also hosts, host_rows and
      host_bytes (of a batch, that one host reads a step) and checkpoint_bytes.

    Raises:
      UserError: a bad config, no libtpu, or a part that does not compile.
    """
    from mvp4d_jax.preflight.jobs import check, make_job
    from mvp4d_jax.training.plan import validates

    loaded = load_config(config, overrides)
    if loaded.get("job"):
        raise UserError(f"--config {config}", "trains an autoencoder, which is not preflighted", "choose another")
    if parts is None:
        parts = ["denoise", "decode"] if job == "sample" else ["train"]
        if job == "train" and validates(loaded) and loaded.validation.sample_steps > 0:
            parts.append("validation")
    asked = make_job(loaded, stage, kind, sampling or {})
    for part in parts:
        check(asked, part, topology.chips * topology.slices * topology.device.devices)
    request = {
        "config": config,
        "overrides": list(overrides),
        "topology": topology.text,
        "slices": topology.slices,
        "stage": stage,
        "kind": kind,
        "sampling": sampling or {},
        "timeout": timeout,
    }
    reports = []
    for part in parts:
        say(f"compiling {part} for {topology.text}: some minutes of processor time")
        reports.append(_compile({**request, "part": part}, topology, timeout))
    return reports


def _compile(request: dict[str, Any], topology: Topology, timeout: float) -> dict[str, Any]:
    part = request["part"]
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "report.json"
        command = [sys.executable, "-m", "mvp4d_jax.preflight.worker", json.dumps(request), str(answer)]
        code, said = _patiently(command, topology.environment(), part)
        if code == -signal.SIGXCPU:
            raise UserError(f"{part} on {topology.text}", f"did not compile within {timeout:.0f} s of processor time")
        if not answer.is_file():
            named = [line for line in said.splitlines() if re.match(r"[\w.]+(Error|Exception)\b", line)]
            lines = named or said.split("\n")[-2:] or ["no message"]
            raise UserError(f"{part} on {topology.text}", f"the compiler ended with {code}: {lines[-1][:400]}")
        report = json.loads(answer.read_text(encoding="utf-8"))
    if "error" in report:
        raise UserError(*report["error"])
    limit = topology.device.gib * GIB
    return {**report, "limit": limit, "fits": report["total"] <= limit}


def _patiently(command: list[str], environment: dict[str, str], part: str) -> tuple[int, str]:
    """Runs a command to its end, on a terminal with a line of the seconds that have passed now and then; returns its
    exit code and what it wrote on standard error. It ends with this process."""
    began = time.monotonic()
    with subprocess.Popen(
        tied(command),
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
    ) as process:
        try:
            while True:
                try:
                    said = process.communicate(timeout=TOLD_EVERY)[1]
                    return process.returncode, said
                except subprocess.TimeoutExpired:
                    if sys.stderr.isatty():
                        say(f"{part}: compiling for {time.monotonic() - began:.0f} s")
        finally:
            process.kill()


def table(reports: list[dict[str, Any]], topology: Topology) -> str:
    """The reports for a person."""
    lines = []
    for report in reports:
        moved = report["collective_bytes"]
        beside = f", {report['resident'] / GIB:.2f} weights beside" if report["resident"] else ""
        shares = f" ({report['arguments'] / GIB:.2f} arguments, {report['temporaries'] / GIB:.2f} temporaries{beside})"
        lines += [
            f"{report['part']} on {topology.text} ({report['devices']} devices, mesh {report['mesh']}): "
            f"{report['what']}",
            f"  memory per device   {report['total'] / GIB:7.2f} GiB of {report['limit'] / GIB:.2f}"
            + (shares if report["arguments"] else ""),  # a compiler that gave up says the total alone
        ]
        if report["flops"]:
            lines += [
                f"  FLOPs per device    {report['flops'] / 1e12:7.2f} T "
                f"({report['kernel_flops'] / 1e12:.2f} T in Pallas kernels); {_compute_time(report, topology.device)}",
                f"  moved per device    {sum(moved.values()) / 1e9:7.2f} GB"
                + "".join(f"; {name} {value / 1e9:.2f}" for name, value in sorted(moved.items()))
                + (
                    f"; {least_seconds(report, topology.device)[1]:.2f} s at the links' rate"
                    if topology.device.link
                    else ""
                ),
            ]
        elif report["fits"]:
            lines.append("  FLOPs, bytes moved      not counted: this jaxlib cannot read back what this libtpu wrote")
        if "hosts" in report:
            lines.append(
                f"  a host of {report['hosts']:<9} reads {report['host_rows']} samples a step, "
                f"{report['host_bytes'] / 1e6:.0f} MB; a checkpoint holds "
                f"{report['checkpoint_bytes'] / 1e9:.1f} GB"
            )
        lines += [f"  attention           {report['attention']}"] if report["attention"] else []
        if not topology.is_tpu:
            lines.append("  (host devices in the place of GPUs: sharding is exact, memory an estimate)")
        lines.append(
            f"  {'fits' if report['fits'] else 'DOES NOT FIT'}; compiled in {report['seconds']:.0f} s "
            f"({report['processor_seconds']:.0f} s of processor time)"
        )
    return "\n".join(lines)


def least_seconds(report: dict[str, Any], device: Kind) -> tuple[float, float]:
    """Seconds of one run at the device's peak, attention at what its heads leave of it; and of what the links carry."""
    rate = device.attention_flops(report["head_dim"])
    computed = (report["flops"] - report["kernel_flops"]) / device.flops + report["kernel_flops"] / rate
    return computed, sum(report["collective_bytes"].values()) / device.link if device.link else 0.0


def _compute_time(report: dict[str, Any], device: Kind) -> str:
    share = device.attention_flops(report["head_dim"]) / device.flops
    narrow = f", heads of {report['head_dim']} at {share:.0%} of it" if share < 1 and report["kernel_flops"] else ""
    return f"{least_seconds(report, device)[0]:.2f} s at the device's peak{narrow}"
