"""The whole pipeline as a list of `mvp4d` commands, run one after another, each skipped when it is already done.

The demo runs what a user would type, and its report shows just these commands.
"""

from __future__ import annotations

import dataclasses
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from mvp4d.core.errors import UserError
from mvp4d.core.files import checksum, read_json, write_json
from mvp4d.core.owner import sweep
from mvp4d.core.stopping import tied

TEST_IDENTITY = 11_004  # of the studio's test range: the weights have never seen it
VIEWS, FRAMES, ORBIT_FRAMES = 8, 17, 100
PHOTO_SIDE = 512  # pixels of the videos of a person whose photos are in the fit
STOP_SECONDS = 60  # for a stage to save what it has
FIT_STEPS = 900  # half of the preset's for large pictures: a demo is waited for
PHOTO_STEPS = 0.55  # share of them with photos, whose steps cost nearly twice as much


_REPLACING = ("studio", "track", "sample", "evaluate", "distill", "render", "export")  # verbs with --overwrite


@dataclasses.dataclass(frozen=True)
class Stage:
    """One command.

    Attributes:
      name, what: short name; one line on what is being done.
      command: the verb and its arguments.
      output: what it makes; the stage is done when this exists and command and inputs are those recorded.
      inputs: the user's own files that it reads.
      recorded: the command as the record has it: with OUT for the demo's folder, however that is named.
    """

    name: str
    what: str
    command: tuple[str, ...]
    output: Path
    inputs: tuple[Path, ...] = ()
    recorded: tuple[str, ...] = ()


def plan_stages(
    out: Path,
    *,
    photos: Sequence[Path] = (),
    masks: Sequence[Path] = (),
    weights: str,
    size: int,
    identity: int,
    frames: int = FRAMES,
) -> list[Stage]:
    """The commands of the demo: on a test identity of the studio, or on photos of a person or a clip (`photos`)."""
    given = (photos, masks, weights, size, identity, frames)
    named, neutral = _plan(out, *given), _plan(Path("OUT"), *given)
    return [dataclasses.replace(stage, recorded=same.command) for stage, same in zip(named, neutral)]


def _plan(
    out: Path, photos: Sequence[Path], masks: Sequence[Path], weights: str, size: int, identity: int, frames: int
) -> list[Stage]:
    cameras = f"orbit:360x{VIEWS}"
    truth, person, drive = out / ("driver.npz" if photos else "truth"), out / "person", out / "drive.npz"
    generated, avatar = out / "generated", out / "avatar"
    what = f"filming test identity {identity} in the studio, {VIEWS} views x {frames} frames"
    if photos:  # of whose performance the motion alone is taken
        what = f"recording {frames} frames of expressions to show the person with"
    stages = [
        Stage(
            "studio",
            what,
            (
                "studio",
                "--identity",
                str(identity),
                "--cameras",
                cameras,
                "--frames",
                str(frames),
                "--size",
                str(size),
                *(("--motion-only",) if photos else ()),
                "--out",
                str(truth),
            ),
            truth,
        )
    ]
    if photos:
        given = ("--mask", *(str(mask) for mask in masks)) if masks else ()
        stages.append(
            Stage(
                "track",
                f"fitting the built-in head to {', '.join(photo.name for photo in photos)}",
                ("track", *(str(photo) for photo in photos), "--head", "builtin", *given, "--out", str(person)),
                person,
                (*photos, *masks),
            )
        )
    stages.append(
        Stage(
            "drive",
            f"recording {ORBIT_FRAMES} frames of speech and smiles to drive the avatar with",
            (
                "studio",
                "--identity",
                str(identity),
                "--frames",
                str(ORBIT_FRAMES),
                "--seed",
                "1",
                "--motion-only",
                "--from-rest",
                "--out",
                str(drive),
            ),
            drive,
        )
    )
    stages.append(
        Stage(
            "sample",
            f"generating {VIEWS} views over 360 degrees from the reference picture",
            (
                "sample",
                "--weights",
                weights,
                "--reference",
                str(person if photos else truth),
                "--motion",
                str(truth),
                "--cameras",
                cameras if photos else str(truth),
                "--out",
                str(generated),
            ),
            generated,
            (facts,) if (facts := Path(weights) / "mvp4d.json").is_file() else (),
        )
    )
    if not photos:
        stages.append(
            Stage(
                "evaluate",
                "measuring the generated views against the studio's ground truth",
                ("evaluate", str(generated), "--against", str(truth), "--baselines", "--out", str(out / "evaluation")),
                out / "evaluation" / "evaluation.html",
            )
        )
    steps = round(FIT_STEPS * (PHOTO_STEPS if photos else 1))
    stages.append(
        Stage(
            "distill",
            "distilling the views into a 4D Gaussian avatar",
            ("distill", str(generated), "--out", str(avatar), "--preset", "cpu", "--steps", str(steps)),
            avatar,
        )
    )
    if not photos:
        stages.append(
            Stage(
                "compare",
                "rendering the avatar through the studio's own cameras",
                (
                    "render",
                    str(avatar),
                    "--motion",
                    str(truth),
                    "--cameras",
                    f"file:{truth / 'cameras.npz'}",
                    "--each-view",
                    "--size",
                    str(size),
                    "--out",
                    str(out / "avatar_views"),
                ),
                avatar_view(out, VIEWS - 1),
            )
        )
    side = str(PHOTO_SIDE if photos else 2 * size)
    stages.append(
        Stage(
            "render",
            "rendering the avatar from all around while it speaks",
            (
                "render",
                str(avatar),
                "--motion",
                str(drive),
                "--cameras",
                "turn:360",
                "--size",
                side,
                "--out",
                str(out / "orbit.mp4"),
            ),
            out / "orbit.mp4",
        )
    )
    stages.append(
        Stage(
            "page",
            "putting the avatar into a page that any browser opens",
            ("export", str(avatar), "--format", "html", "--motion", str(drive), "--out", str(out / "avatar.html")),
            out / "avatar.html",
        )
    )
    if photos:
        stages.append(
            Stage(
                "talk",
                "rendering the avatar from the front and both sides while it speaks",
                (
                    "render",
                    str(avatar),
                    "--motion",
                    str(drive),
                    "--cameras",
                    "sway:40",
                    "--size",
                    side,
                    "--out",
                    str(out / "talk.mp4"),
                ),
                out / "talk.mp4",
            )
        )
        stages.append(
            Stage(
                "likeness",
                "measuring how much it looks like the photos",
                (
                    "evaluate",
                    str(avatar),
                    "--against",
                    str(person),
                    "--motion",
                    str(drive),
                    "--out",
                    str(out / "likeness"),
                ),
                out / "likeness" / "evaluation.html",
            )
        )
    return stages


def avatar_view(out: Path, view: int) -> Path:
    """The folder of the avatar's frames from one of the studio's cameras, as `mvp4d render --each-view` names it."""
    return out / f"avatar_views_{view:02d}"


def run_stages(stages: list[Stage], out: Path) -> dict[str, float]:
    """Runs what is not done yet; returns the seconds each stage took (kept from earlier runs for stages already done).

    Raises:
      UserError: something that no demo made is in the way; a stage failed: its own message stands above.
    """
    record_path = out / "demo.json"
    record = _read_record(record_path)
    for stage in stages:  # those would be replaced
        if stage.command[0] in _REPLACING and stage.name not in record and os.path.lexists(stage.output):
            raise UserError(stage.output, "is in the way: no demo made it", "choose another `out`, or move it")
    sweep(out)
    stale = False  # once a stage runs anew, what was made from its output is out of date
    for number, stage in enumerate(stages, 1):
        label = f"[{number}/{len(stages)}] {stage.what}"
        known = record.get(stage.name)
        command = list(stage.recorded)
        inputs = [checksum(path) for path in stage.inputs]
        same = known and known["command"] == command and known.get("inputs", inputs) == inputs
        done = same and not known.get("begun")
        if not stale and done and stage.output.exists():
            print(f"{label}: already done", flush=True)
            continue
        stale = True
        entry = {"command": command, **({"inputs": inputs} if inputs else {})}
        record[stage.name] = {**entry, "seconds": 0.0, "begun": True}  # what it leaves is the demo's own
        write_json(record_path, record)
        print(f"{label}\n      $ mvp4d {shlex.join(stage.command)}", flush=True)
        began = time.monotonic()
        status = run_command([*stage.command, *_overwrite(stage)])
        if status:
            raise UserError(
                f"stage '{stage.name}'",
                f"stopped with status {status} (its own message is above)",
                "mend that, then run the same command again to go on from here",
            )
        record[stage.name] = {**entry, "seconds": round(time.monotonic() - began, 1)}
        write_json(record_path, record)
    return {stage.name: record[stage.name]["seconds"] for stage in stages}


def run_command(words: list[str]) -> int:
    """Runs a verb in a process that ends when this one does; where it is stopped, waits until it has saved.

    Returns its exit code.
    """
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # which it inherits: Ctrl-C is this process's, which ends it
    try:
        process = subprocess.Popen(tied([sys.executable, "-m", "mvp4d.cli", *words]))
    finally:
        signal.signal(signal.SIGINT, before)
    with process:
        try:
            return process.wait()
        except KeyboardInterrupt:
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
            raise


def _overwrite(stage: Stage) -> list[str]:
    """A stage that runs again replaces what it, or a run that was stopped, left."""
    return ["--overwrite"] if stage.command[0] in _REPLACING else []


def _read_record(path: Path) -> dict[str, dict]:
    if not path.exists():
        return {}
    record = read_json(path)
    if not isinstance(record, dict) or not all(
        isinstance(item, dict) and isinstance(item.get("command"), list) and isinstance(item.get("seconds"), float)
        for item in record.values()
    ):
        raise UserError(path, "is no record of a demo's stages", "delete it, or choose another `out`")
    return record
