"""Compile a job ahead of time for a named topology: does it fit, what does it compute and move?

TPU topologies (v5e:4x4, v5p:4x4x4, v6e:8x8, tpu7x:4x4x4) compile through libtpu, no TPU needed. GPU-shaped ones
(h100:8) compile on host devices. Exit code 1 when the job does not fit; the last line says by how much,
and what helps.
"""

from __future__ import annotations

import argparse

from mvp4d.core.errors import UserError

TAKES_OVERRIDES = True
SAMPLING = ("mesh", "views", "group", "guidance")  # flags of --job sample


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", required=True, help="name or path; override with --config.a.b=v")
    parser.add_argument("--topology", required=True, help="v5p:4x4x4, v6e:8x8, h100:8, ...")
    parser.add_argument("--slices", type=int, default=1, help="so many of that topology, joined by the data network")
    parser.add_argument("--job", choices=("train", "sample"), default="train")
    parser.add_argument("--stage", default="", help="of the curriculum; default the one with the most tokens")
    parser.add_argument("--kind", default="", help="monocular, static or multiview; default the largest")
    sample = parser.add_argument_group("what 'mvp4d sample' will be given (--job sample)")
    sample.add_argument("--mesh", help="devices as data,fsdp,context (default: all to context)")
    sample.add_argument("--views", type=int, help="to make (default: as trained)")
    sample.add_argument("--group", type=int, help="views per sequence (default: as trained)")
    sample.add_argument("--guidance", type=float, help="default 1.5; 1 is off")
    parser.add_argument("--json", action="store_true", help="print the reports as JSON")


def run(args: argparse.Namespace) -> str:
    import json

    from mvp4d.commands.sample import parse_mesh
    from mvp4d_jax.preflight.preflight import DoesNotFit, Topology, preflight, table

    topology = Topology.parse(args.topology, args.slices)
    given = {name: getattr(args, name) for name in SAMPLING if getattr(args, name) is not None}
    if given and args.job == "train":
        name = next(iter(given))
        fix = "training's is --config.mesh" if name == "mesh" else f"training's {name} stands in the config"
        raise UserError(f"`{name}`", "belongs to --job sample", fix)
    if "mesh" in given:
        given["mesh"] = parse_mesh(args.mesh)
    reports = preflight(
        args.config, args.overrides, topology, args.job, stage=args.stage, kind=args.kind, sampling=given
    )
    print(json.dumps(reports, indent=2) if args.json else table(reports, topology))
    if not all(report["fits"] for report in reports):
        raise DoesNotFit(reports, topology)
    return "" if args.json else f"{args.job} fits {topology.text}"
