"""Generates synchronised multi-view video of a head from one picture.

The reference is a photo with its fit (`mvp4d track PHOTO --head HEAD --out fit.npz`) or a capture, whose reference
frame is taken. The motion is a fit.npz, a capture or a Live Link Face CSV. Cameras are a rig (orbit:360x8,
arc:120x6@15, turn:360, file:orbit.npz) around the head, or a capture whose cameras are used. `--plan` prints what would
be done and what it costs, and stops. A run that was stopped goes on where it was when the same command is given again.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

from mvp4d.core.errors import UserError


def configure(parser: argparse.ArgumentParser) -> None:
    need = parser.add_argument_group("inputs")
    need.add_argument("--weights", required=True,
                      help="a release folder, or weights that come along: tiny (64 x 64 pixels), tiny_128")
    need.add_argument("--reference", required=True, metavar="IMAGE|CAPTURE", help="the picture of the person")
    need.add_argument("--fit", metavar="FILE", help="fit.npz of the photo (not needed for a capture)")
    need.add_argument("--head", default="builtin", help="head model: builtin, ict:PATH or flame:PATH")
    need.add_argument("--motion", required=True, metavar="FILE|CAPTURE", help="driving motion")
    need.add_argument("--cameras", required=True, metavar="SPEC|CAPTURE", help="the views to make")
    need.add_argument("--out", required=True, metavar="CAPTURE", help="capture folder to write")
    need.add_argument("--mask", metavar="IMAGE", help="white where the person is: takes the photo's background away")
    need.add_argument("--matte", choices=("none", "auto"), default="none",
                      help="auto: cut the person out without a mask (plain backgrounds)")
    need.add_argument("--clean-views", metavar="CAPTURE[:NAME,...]", help="existing views to condition on")
    plan = parser.add_argument_group("what is denoised together")
    plan.add_argument("--frames", type=int, help="frames to make (default: as many as the motion has)")
    plan.add_argument("--window", type=int, help="frames per window, 1 + 4k (default: as trained)")
    plan.add_argument("--overlap", type=int, default=1, help="clean latent frames between windows (default 1)")
    plan.add_argument("--group", type=int, help="views per sequence (default: as trained)")
    plan.add_argument("--anchors", type=int, default=1, help="views that sit in every group (default 1)")
    plan.add_argument("--routing", default="random", help="random or circular (default random)")
    plan.add_argument("--plan", action="store_true", help="print the plan and its cost, and stop")
    how = parser.add_argument_group("sampler")
    how.add_argument("--sampler", default="dpm", help="dpm or ddim (default dpm)")
    how.add_argument("--steps", type=int, default=24, help="denoising steps (default 24)")
    how.add_argument("--guidance", type=float, default=1.5, help="classifier-free guidance (default 1.5; 1 is off)")
    how.add_argument("--guidance-interval", type=float, nargs=2, default=(0.0, 1.0), metavar=("FROM", "TO"),
                     help="share of the noise range in which guidance acts (default 0 1)")
    how.add_argument("--guidance-rescale", type=float, default=0.0, help="0 to 1 (default 0)")
    how.add_argument("--eta", type=float, default=0.0, help="noise added back at every step, 0 to 1 (default 0)")
    how.add_argument("--seed", type=int, default=0)
    how.add_argument("--mesh", default="1,1,1", help="devices as data,fsdp,context (default 1,1,1)")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing capture")


def run(args: argparse.Namespace) -> str:
    """Checks every input before the weights are loaded; samples; says where to look."""
    from mvp4d_jax.sampling.generate import Generator, Shot
    from mvp4d_jax.sampling.inputs import clean_views, open_reference, pick_cameras, pick_motion
    from mvp4d_jax.sampling.plan import describe, make_plan
    from mvp4d_jax.sampling.release import load_release, read_facts, resolve_weights
    from mvp4d_jax.sampling.shot import check_cameras

    out = Path(args.out)
    if out.exists() and not args.overwrite and not args.plan:
        raise UserError(out, "exists already", "choose another --out or give --overwrite")
    folder = resolve_weights(args.weights)
    facts = read_facts(folder)
    source = open_reference(args, facts)
    motion, notice = pick_motion(args.motion, source.head, args.frames)
    if notice:
        print(f"note: {notice}")
    size = (facts.image_size, facts.image_size)
    cameras, names, vertices = pick_cameras(args.cameras, source.head, motion, size)
    check_cameras(cameras, names, vertices, size)
    clean = clean_views(args.clean_views, size, source.head)
    plan = make_plan(
        views=len(names), frames=motion.frame_count, latent_size=facts.latent_size,
        trained_views=facts.views, window_frames=args.window or facts.frames,
        clean_views=len(clean.views) if clean else 0, overlap_latents=args.overlap, group_size=args.group,
        anchors=args.anchors, routing=args.routing, steps=args.steps, guidance_scale=args.guidance, seed=args.seed,
        stride=facts.conditioning.temporal_stride)
    options = _options(args, facts, plan)
    print(describe(plan, **_cost(folder, plan)))
    if args.plan:
        return "planned only; leave --plan out to sample"

    mesh = _mesh(args.mesh)
    generator = Generator(load_release(folder), mesh)
    reference = generator.reference(source.image, source.camera, source.motion, source.head, source.inside)
    shot = Shot(reference, source.head, motion, cameras, tuple(names), clean)
    fingerprint = _fingerprint(folder, (source, plan, options), motion, cameras)
    capture = generator.run(plan, shot, options, out, fingerprint, _extra(args, folder), overwrite=args.overwrite)
    return (f"{capture.view_count} views x {capture.frame_count} frames: {out}; look at {out}.mp4; "
            f"next: mvp4d distill {out} --out AVATAR")


def _options(args: argparse.Namespace, facts: Any, plan: Any) -> Any:
    from mvp4d_jax.sampling.denoise import DenoiseOptions

    options = DenoiseOptions(args.sampler, args.eta, facts.snr_shift, tuple(args.guidance_interval),
                             args.guidance_rescale)
    try:
        options.sampler(plan), options.guidance(plan)
    except ValueError as error:
        raise UserError("sampler flags", str(error)) from None
    return options


def _mesh(text: str) -> Any:
    from mvp4d_jax.parallel import make_mesh

    try:
        shape = tuple(int(part) for part in text.split(","))
    except ValueError:
        shape = ()
    if len(shape) != 3:
        raise UserError("--mesh", f"'{text}' is not three numbers", "give data,fsdp,context, for example 1,1,8")
    return make_mesh(shape)


def _cost(folder: Path, plan: Any) -> dict[str, float]:
    """What `describe` needs: read off the transformer's config.json and file size, before anything is loaded."""
    from mvp4d_jax.models.checkpoint_config import read_config
    from mvp4d_jax.models.transformer_config import forward_flops

    config, _ = read_config(folder / "transformer")
    size = sum(file.stat().st_size for file in (folder / "transformer").glob("*.safetensors"))
    return {"patch": config.patch_size, "flops_per_forward": forward_flops(config, plan.tokens(config.patch_size)),
            "parameter_bytes": float(size)}


def _fingerprint(folder: Path, inputs: tuple, motion: Any, cameras: Any) -> str:
    """A hash of everything the pictures depend on, so that kept windows are used for the same run only."""
    import numpy as np

    source, plan, options = inputs
    digest = hashlib.sha256(plan.fingerprint().encode())
    digest.update(json.dumps(dataclasses.asdict(options), sort_keys=True).encode())
    digest.update((folder / "mvp4d.json").read_bytes())
    arrays = [source.image, source.head.template, motion.expression, motion.rotation, motion.translation, motion.neck,
              motion.jaw, motion.eyes, cameras.world_to_camera, cameras.fx, cameras.cx, cameras.cy]
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    for file in sorted(folder.rglob("*.safetensors")):
        digest.update(f"{file.name} {file.stat().st_size}".encode())
    return digest.hexdigest()


def _extra(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """What the capture remembers of its making."""
    keys = ("reference", "motion", "cameras", "sampler", "steps", "guidance", "seed", "routing")
    return {"weights": folder.name, **{key: getattr(args, key) for key in keys}}
