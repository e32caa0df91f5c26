"""Generates synchronised multi-view video of a head from one photo.

The reference is a person (`mvp4d track PHOTO --out PERSON`), a capture, whose person or reference frame is taken, or a
photo with its fit (`mvp4d track PHOTO --head HEAD --out fit.npz`), out of which the person is cut as `track` does it.
The motion is a motion.npz, a fit.npz, a capture or a Live Link Face CSV. Cameras are a rig (orbit:360x8, arc:120x6@15,
turn:360, file:orbit.npz) around the head, or a capture whose cameras are used. `--plan` prints what would be done and
what it costs, and stops. A run that was stopped goes on where it was when the same command is given again. Several
hosts share a run (`--distributed`): the same command on each; the first reads and writes the capture.
"""

from __future__ import annotations

import argparse
import contextlib
import shlex
from pathlib import Path

from mvp4d.commands.hosts import add_host_flags, among_hosts, join_hosts
from mvp4d.commands.person import add_matte_flag
from mvp4d.core.errors import UserError
from mvp4d.core.host import has_accelerator, keep_freed_memory
from mvp4d.core.words import counted


def configure(parser: argparse.ArgumentParser) -> None:
    _add_inputs(parser.add_argument_group("inputs"))
    _add_plan(parser.add_argument_group("what is denoised together"))
    how = parser.add_argument_group("sampler")
    _add_sampler(how)
    _add_finishing(how)
    _add_device(how)
    add_host_flags(parser.add_argument_group("several hosts, with --mesh over the devices of all"))
    parser.add_argument("--overwrite", action="store_true", help="replace an existing capture")


def _add_inputs(need: argparse._ActionsContainer) -> None:
    need.add_argument(
        "--weights",
        required=True,
        help="a release folder, or weights that come along: tiny_128_turbo (128 x 128 pixels), its teacher tiny_128, "
        "tiny (64 x 64)",
    )
    need.add_argument(
        "--reference",
        required=True,
        metavar="PERSON|CAPTURE|IMAGE",
        help="what `track` wrote; or a capture; or a photo, with --fit",
    )
    need.add_argument("--fit", metavar="FILE", help="fit.npz of the photo (not needed for a capture)")
    need.add_argument("--head", default="builtin", help="head model: builtin, ict:PATH or flame:PATH")
    need.add_argument("--motion", required=True, metavar="FILE|CAPTURE", help="driving motion")
    need.add_argument("--cameras", required=True, metavar="SPEC|CAPTURE", help="the views to make")
    need.add_argument("--out", required=True, metavar="CAPTURE", help="capture folder to write")
    need.add_argument("--mask", metavar="IMAGE", help="white where the person is: takes the photo's background away")
    add_matte_flag(need)
    need.add_argument(
        "--clean-views",
        metavar="CAPTURE[:NAME,...]|photos",
        help="existing views to condition on; photos: the person's other photos",
    )


def _add_plan(plan: argparse._ActionsContainer) -> None:
    plan.add_argument("--frames", type=int, help="frames to make (default: as many as the motion has)")
    plan.add_argument(
        "--window", type=int, help="frames per window, 1 + s k where a latent frame holds s (default: as trained)"
    )
    plan.add_argument("--overlap", type=int, default=1, help="clean latent frames between windows (default 1)")
    plan.add_argument("--group", type=int, help="views per sequence (default: as trained)")
    plan.add_argument("--anchors", type=int, help="views that sit in every group (default: the weights' own)")
    plan.add_argument("--routing", default="random", help="random or circular (default random)")
    plan.add_argument("--plan", action="store_true", help="print the plan and its cost, and stop")


def _add_sampler(how: argparse._ActionsContainer) -> None:
    how.add_argument("--sampler", help="dpm or ddim (default: the weights' own)")
    how.add_argument("--steps", type=int, help="denoising steps (default: the weights' own)")
    how.add_argument("--guidance", type=float, help="classifier-free guidance; 1 is off (default: the weights' own)")
    how.add_argument(
        "--guidance-interval",
        type=float,
        nargs=2,
        default=(0.0, 1.0),
        metavar=("FROM", "TO"),
        help="share of the noise range in which guidance acts (default 0 1)",
    )
    how.add_argument("--guidance-rescale", type=float, default=0.0, help="0 to 1 (default 0)")
    how.add_argument("--eta", type=float, default=0.0, help="noise added back at every step, 0 to 1 (default 0)")
    how.add_argument("--seed", type=int, default=0, help="of the noise (default 0)")


def _add_finishing(how: argparse._ActionsContainer) -> None:
    """What is done to decoded pictures."""
    how.add_argument(
        "--photo-detail",
        action=argparse.BooleanOptionalAction,
        help="take the photo's detail where it shows the skin that a view shows (default: the weights' own)",
    )
    how.add_argument(
        "--temporal-filter",
        action=argparse.BooleanOptionalAction,
        help="average what moving surfaces show in neighbouring frames, and join windows where they meet: less flicker "
        "(default: the weights' own)",
    )
    how.add_argument(
        "--hair-colour",
        action=argparse.BooleanOptionalAction,
        help="give hair the hue that it has in the photo (default: the weights' own)",
    )
    how.add_argument(
        "--enlarge",
        type=int,
        default=1,
        metavar="N",
        help="pictures N times the model's size, 1 to 8: faces gain where they take the photo's detail (default 1)",
    )


def _add_device(how: argparse._ActionsContainer) -> None:
    how.add_argument(
        "--mesh",
        default="1,1,1",
        help="devices as data,fsdp,context; -1 takes what is left: --mesh=-1,1,1 (default 1,1,1)",
    )
    how.add_argument("--dtype", help="float32 or bfloat16 (default: what the weights were trained in)")


INPUTS = (
    "motion",
    "cameras",
    "clean_views",
    "fit",
    "head",
    "mask",
    "matte",
    "frames",
    "window",
    "overlap",
    "group",
    "anchors",
    "routing",
    "sampler",
    "steps",
    "guidance",
    "guidance_interval",
    "guidance_rescale",
    "eta",
    "seed",
    "photo_detail",
    "temporal_filter",
    "hair_colour",
    "enlarge",
)


def shares_out(args: argparse.Namespace) -> bool:
    """The hosts of a job are given one folder; the first keeps it for all of them."""
    return among_hosts(args)


def resumes(args: argparse.Namespace) -> bool:
    """Windows that are denoised are kept."""
    return not args.plan


def run(args: argparse.Namespace) -> str:
    """Checks every input before the weights are loaded; samples; says where to look."""
    if not has_accelerator():
        keep_freed_memory()
    join_hosts(args)
    from mvp4d_jax.processes import hold_together

    with contextlib.nullcontext() if args.plan else hold_together(args.out):
        return _sample(args, Path(args.out))


def _sample(args: argparse.Namespace, out: Path) -> str:
    import mvp4d
    from mvp4d.core.places import without_folders
    from mvp4d_jax.processes import begin_together, wait_for_all

    if not args.plan:
        from mvp4d_jax.sampling.generate import check_targets

        begin_together(lambda: check_targets(out, args.overwrite))
    model = mvp4d.load(args.weights, mesh=parse_mesh(args.mesh), dtype=args.dtype)
    job = model.plan(args.reference, **{name: getattr(args, name) for name in INPUTS})
    if job.notice:
        print(f"note: {job.notice}")
    print(job.describe())
    if args.plan:
        return "planned only; leave --plan out to sample"
    extra = {name: without_folders(str(getattr(args, name))) for name in ("reference", "motion", "cameras")}
    capture = model.run(job, out, overwrite=args.overwrite, extra=extra)
    wait_for_all("sampled")
    if capture is None:
        return f"process 0 wrote {out}"
    return (
        f"{counted(capture.view_count, 'view')} x {counted(capture.frame_count, 'frame')}: {out}; look at {out}.mp4; "
        f"next: mvp4d distill {shlex.quote(str(out))} --out AVATAR"
    )


def parse_mesh(text: str) -> tuple[int, int, int]:
    """Reads "1,1,8"."""
    try:
        data, fsdp, context = (int(part) for part in text.split(","))
    except ValueError:
        raise UserError("`mesh`", f"'{text}' is not three numbers", "give data,fsdp,context, as 1,1,8") from None
    return data, fsdp, context
