"""All stages on the built-in weights: one photo -> 8 synchronised views over 360 degrees -> a 4D Gaussian avatar
-> an orbit video while it speaks -> report.html.

With --photo (one or several of one person) or --video, the photos take part in the fit, and the report says how much
the avatar looks like them. Without, the picture is of a test identity of the synthetic studio, so that everything can
be measured against ground truth. Run it again after a stop: finished stages are kept.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from pathlib import Path


def configure(parser: argparse.ArgumentParser) -> None:
    from mvp4d_jax.demo import TEST_IDENTITY

    given = parser.add_mutually_exclusive_group()
    given.add_argument(
        "--photo",
        metavar="IMAGE",
        nargs="+",
        help="portrait photos of one person (default: a test identity of the studio)",
    )
    given.add_argument("--video", metavar="FILE", help="a clip of a person instead")
    parser.add_argument(
        "--mask",
        dest="masks",
        metavar="IMAGE",
        nargs="+",
        help="white where the person is, for each photo (default: cut out automatically)",
    )
    parser.add_argument(
        "--face", type=int, help="which face of each photo, counted from the left from 1 (default: the largest)"
    )
    parser.add_argument("--out", default="out/demo", metavar="DIR", help="where everything goes (default out/demo)")
    parser.add_argument(
        "--weights",
        default="tiny_128_turbo",
        help="weights that come along, tiny_128_turbo (128 x 128 pixels, the default), its teacher tiny_128 or "
        "tiny (64 x 64; faster), or a release folder",
    )
    parser.add_argument(
        "--identity",
        type=int,
        default=TEST_IDENTITY,
        help="whom the studio films; with --photo or --video, whose expressions and speech the person is shown with "
        f"(default {TEST_IDENTITY})",
    )
    parser.add_argument("--frames", type=int, default=17, help="frames of the motion (default 17)")


def resumes(args: argparse.Namespace) -> bool:
    """Finished stages are kept."""
    return True


def run(args: argparse.Namespace) -> str:
    """Runs the stages, writes the report, says where it is."""
    from mvp4d.core.errors import UserError
    from mvp4d.core.host import cpu_count
    from mvp4d.core.outputs import check_demo
    from mvp4d_jax.demo import RECORD, plan_stages, run_stages
    from mvp4d_jax.evaluation.demo_report import write_demo_report
    from mvp4d_jax.release import read_facts, resolve_weights
    from mvp4d_jax.studio.produce import Order
    from mvp4d_jax.studio.traits import split_of
    from mvp4d_jax.tracking.portrait import check_photos

    # All that can be known to be wrong, before the first stage spends time.
    photos = [_for_stages(path) for path in args.photo or ([args.video] if args.video else [])]
    masks = [_for_stages(path) for path in args.masks or []]
    if masks and not photos:
        raise UserError("`masks`", "is for photos", "give `photo`, too")
    if args.face is not None and not photos:
        raise UserError("`face`", "is for photos and videos", "give `photo` or `video`, too")
    if args.face is not None and args.face < 1:
        raise UserError("`face`", f"is {args.face}", "faces count from the left, from 1")
    if photos:
        check_photos(photos, masks or None)
    facts = read_facts(resolve_weights(args.weights))
    Order(frames=args.frames, size=facts.image_size).check()
    split_of(args.identity)
    out = _for_stages(args.out)
    check_demo(out, RECORD)
    out.mkdir(parents=True, exist_ok=True)
    minutes = "4 to 6" if facts.image_size <= 128 else "10"  # docs/benchmarks.md; more with more photos
    print(f"about {minutes} minutes on two idle cores ({cpu_count()} here); all goes to {out}", flush=True)
    stages = plan_stages(
        out,
        photos=photos,
        masks=masks,
        face=args.face,
        weights=args.weights,
        size=facts.image_size,
        identity=args.identity,
        frames=args.frames,
    )
    began = time.monotonic()
    seconds = run_stages(stages, out)
    commands = [(stage.name, stage.what, stage.command, seconds[stage.name]) for stage in stages]
    write_demo_report(out, photos, commands, f"{cpu_count()} cores, {platform.machine()}, {_devices(out)}")
    return f"done in {time.monotonic() - began:.0f} s: open {out / 'report.html'}"


def _for_stages(path: str) -> Path:
    """A path as commands take it. A Path drops the `./` of `./~/a`, and `~/a` is another place to them."""
    found = Path(path)
    return found.absolute() if found.parts[:1] == ("~",) else found


def _devices(out: Path) -> str:
    """What the stages worked on: JAX's devices, and the one that the avatar's own report names."""
    import jax

    report = json.loads((out / "avatar" / "report.json").read_text(encoding="utf-8"))
    views, fit = jax.devices()[0], report["device"]
    if views.platform == "cpu" and fit == "cpu":
        return "without a GPU"
    return f"views on {views.device_kind}, avatar on {fit}"
