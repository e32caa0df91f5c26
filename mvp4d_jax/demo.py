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
RECORD = "demo.json"  # in the demo's folder: what was run, with what, for how long


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
    face: int | None = None,
    weights: str,
    size: int,
    identity: int,
    frames: int = FRAMES,
) -> list[Stage]:
    """The commands of the demo: on a test identity of the studio, or on photos of a person or a clip (`photos`).

    Args:
      face: which face of each photo, counted from the left from 1; None for the largest.
    """
    given = (tuple(photos), tuple(masks), face, weights, size, identity, frames)
    named, neutral = _Plan(out, *given).stages(), _Plan(Path("OUT"), *given).stages()
    return [dataclasses.replace(stage, recorded=same.command) for stage, same in zip(named, neutral)]


@dataclasses.dataclass(frozen=True)
class _Plan:
    """The stages of a demo, a method each; `out` is its folder, the others are the arguments of `plan_stages`."""

    out: Path
    photos: tuple[Path, ...]
    masks: tuple[Path, ...]
    face: int | None
    weights: str
    size: int
    identity: int
    frames: int

    def stages(self) -> list[Stage]:
        if self.photos:
            return [
                self._studio(),
                self._track(),
                self._drive(),
                self._sample(),
                self._distill(),
                self._render(),
                self._page(),
                self._talk(),
                self._likeness(),
            ]
        return [
            self._studio(),
            self._drive(),
            self._sample(),
            self._evaluate(),
            self._distill(),
            self._compare(),
            self._render(),
            self._page(),
        ]

    @property
    def truth(self) -> Path:
        """The studio's capture; where there are photos, of whose performance the motion alone is taken."""
        return self.out / ("driver.npz" if self.photos else "truth")

    @property
    def person(self) -> Path:
        return self.out / "person"

    @property
    def drive(self) -> Path:
        return self.out / "drive.npz"

    @property
    def generated(self) -> Path:
        return self.out / "generated"

    @property
    def avatar(self) -> Path:
        return self.out / "avatar"

    @property
    def side(self) -> int:
        """Pixels of the avatar's videos."""
        return PHOTO_SIDE if self.photos else 2 * self.size

    def _studio(self) -> Stage:
        what = f"filming test identity {self.identity} in the studio, {VIEWS} views x {self.frames} frames"
        if self.photos:
            what = f"recording {self.frames} frames of expressions to show the person with"
        command = _command(
            "studio",
            identity=self.identity,
            cameras=f"orbit:360x{VIEWS}",
            frames=self.frames,
            size=self.size,
            motion_only=bool(self.photos),
            out=self.truth,
        )
        return Stage("studio", what, command, self.truth)

    def _track(self) -> Stage:
        what = f"fitting the built-in head to {', '.join(photo.name for photo in self.photos)}"
        command = _command("track", *self.photos, head="builtin", mask=self.masks, face=self.face, out=self.person)
        return Stage("track", what, command, self.person, (*self.photos, *self.masks))

    def _drive(self) -> Stage:
        what = f"recording {ORBIT_FRAMES} frames of speech and smiles to drive the avatar with"
        command = _command(
            "studio",
            identity=self.identity,
            frames=ORBIT_FRAMES,
            seed=1,
            motion_only=True,
            from_rest=True,
            out=self.drive,
        )
        return Stage("drive", what, command, self.drive)

    def _sample(self) -> Stage:
        what = f"generating {VIEWS} views over 360 degrees from the reference picture"
        command = _command(
            "sample",
            weights=self.weights,
            reference=self.person if self.photos else self.truth,
            motion=self.truth,
            cameras=f"orbit:360x{VIEWS}" if self.photos else self.truth,
            out=self.generated,
        )
        facts = Path(self.weights) / "mvp4d.json"
        return Stage("sample", what, command, self.generated, (facts,) if facts.is_file() else ())

    def _evaluate(self) -> Stage:
        what = "measuring the generated views against the studio's ground truth"
        out = self.out / "evaluation"
        command = _command("evaluate", self.generated, against=self.truth, baselines=True, out=out)
        return Stage("evaluate", what, command, out / "evaluation.html")

    def _distill(self) -> Stage:
        what = "distilling the views into a 4D Gaussian avatar"
        command = _command("distill", self.generated, out=self.avatar, preset="cpu")
        return Stage("distill", what, command, self.avatar)

    def _compare(self) -> Stage:
        what = "rendering the avatar through the studio's own cameras"
        command = _command(
            "render",
            self.avatar,
            motion=self.truth,
            cameras=f"file:{self.truth / 'cameras.npz'}",
            each_view=True,
            size=self.size,
            out=self.out / "avatar_views",
        )
        return Stage("compare", what, command, avatar_view(self.out, VIEWS - 1))

    def _render(self) -> Stage:
        what = "rendering the avatar from all around while it speaks"
        return self._video("render", what, "turn:360", self.out / "orbit.mp4")

    def _page(self) -> Stage:
        what = "putting the avatar into a page that any browser opens"
        out = self.out / "avatar.html"
        return Stage("page", what, _command("export", self.avatar, format="html", motion=self.drive, out=out), out)

    def _talk(self) -> Stage:
        what = "rendering the avatar from the front and both sides while it speaks"
        return self._video("talk", what, "sway:40", self.out / "talk.mp4")

    def _likeness(self) -> Stage:
        what = "measuring how much it looks like the photos"
        out = self.out / "likeness"
        command = _command("evaluate", self.avatar, against=self.person, motion=self.drive, out=out)
        return Stage("likeness", what, command, out / "evaluation.html")

    def _video(self, name: str, what: str, cameras: str, out: Path) -> Stage:
        command = _command("render", self.avatar, motion=self.drive, cameras=cameras, size=self.side, out=out)
        return Stage(name, what, command, out)


def _command(verb: str, *given: object, **options: object) -> tuple[str, ...]:
    """A verb with its arguments, flags in the order of `options`: True is a flag alone; None, False and () leave it
    out."""
    words = [verb, *map(str, given)]
    for name, value in options.items():
        if value is None or value is False or value == ():
            continue
        values = () if value is True else value if isinstance(value, tuple) else (value,)
        words += [f"--{name.replace('_', '-')}", *map(str, values)]
    return tuple(words)


def avatar_view(out: Path, view: int) -> Path:
    """The folder of the avatar's frames from one of the studio's cameras, as `mvp4d render --each-view` names it."""
    return out / f"avatar_views_{view:02d}"


def run_stages(stages: list[Stage], out: Path) -> dict[str, float]:
    """Runs what is not done yet; returns the seconds each stage took (kept from earlier runs for stages already done).

    Raises:
      UserError: something that no demo made is in the way; a stage failed: its own message stands above.
    """
    record_path = out / RECORD
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
