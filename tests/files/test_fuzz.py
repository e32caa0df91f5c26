"""Damaged inputs over every reader: one line, or a success that the validator confirms; never a traceback or a hang."""

import contextlib
import dataclasses
import os
import shutil
import signal
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from scipy.io import wavfile

from mvp4d.core import images, video
from mvp4d.core.cameras.path import CameraPath
from mvp4d.core.cameras.rigs import camera_rig
from mvp4d.core.capture import Capture
from mvp4d.core.capture.calibration import read_calibration
from mvp4d.core.capture.cap4d import export_cap4d, import_cap4d
from mvp4d.core.capture.fit import Fit
from mvp4d.core.capture.gaussian_avatars import export_gaussian_avatars, import_gaussian_avatars
from mvp4d.core.capture.motion_file import read_motion, write_motion
from mvp4d.core.capture.nersemble import import_nersemble
from mvp4d.core.capture.portrait import Portrait, open_person, save_person
from mvp4d.core.capture.videos import import_videos
from mvp4d.core.driving import load_motion
from mvp4d.core.errors import UserError, system_error
from mvp4d.core.files import write_json
from mvp4d.core.heads import load_head
from mvp4d.core.heads.model import HeadModel
from mvp4d.core.live_link import read_live_link
from mvp4d.core.sound import read_sound
from mvp4d.validation import validate
from tests.capture.toy import make_cameras, make_flame, make_motion, make_rig, write_capture
from tests.files.fuzz import damage, damage_again
from tests.files.test_meaning import recording
from tests.heads.flame_files import flame_arrays

SECONDS = 30  # that one reader may take with one input, on a machine with much else to do

Reader = Callable[[Path], object]


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of input.

    Attributes:
      agree: readers of all of it, which must all take it or all refuse it.
      others: readers of a part of it, or into something else; they may take what the others refuse.
      weight: how often it is drawn.
    """

    agree: tuple[Reader, ...]
    others: tuple[Reader, ...] = ()
    weight: float = 1.0


def _views(path: Path) -> object:
    from mvp4d.views import Views

    return Views.read(path)


def _rig(path: Path) -> object:
    return camera_rig(f"file:{path}", (48, 64), 3)


def _avatar(path: Path) -> None:
    """What `render` and `export` do: posed Gaussians, which must be finite."""
    import torch

    from mvp4d_export import ply
    from mvp4d_export.avatar import Avatar
    from mvp4d_export.rig import Pose

    avatar = Avatar.load(path)
    motion, _ = load_motion(path, avatar.head)
    splats = next(ply.sequence(avatar, Pose.of(motion)[:1]))
    assert all(bool(torch.isfinite(value).all()) for value in (splats.means, splats.scales, splats.opacities))


def _distill(path: Path) -> object:
    from mvp4d_export.dataset import Dataset

    return Dataset.load(Capture.open(path))


def _shards(path: Path) -> object:
    from mvp4d_jax.data.shards import Shards

    shards = Shards.open(path)
    for scene in shards.scenes:
        for record in (*scene.window_records.reshape(-1), *scene.image_records.reshape(-1)):
            shards.read(scene.shard, int(record))
    return shards


def _facts(path: Path) -> object:
    from mvp4d_jax.release import read_facts

    return read_facts(path)


def _importer(read: Callable, head: object) -> Reader:
    def reader(path: Path) -> None:
        out = path.with_name("imported")
        try:
            read(path, out, head=head)
            validate(out)  # a success that the validator confirms
        finally:
            shutil.rmtree(out, ignore_errors=True)

    return reader


def _landmarks(path: Path) -> object:
    from mvp4d_jax.tracking.landmarks import read_landmarks

    return read_landmarks(path, (100, 100), 3, 25.0)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """One sound input of every kind, and what reads it."""
    root, flame, toy = tmp_path_factory.mktemp("sound"), make_flame(), make_rig()
    write_capture(root / "capture", reference=("cam0", 1))
    write_capture(root / "film", images="video", masks=False)
    export_cap4d(Capture.open(root / "capture"), root / "cap4d")
    write_capture(root / "flame", head=flame, motion=make_motion(expressions=4))
    export_gaussian_avatars(Capture.open(root / "flame"), root / "ga")
    shutil.copy(root / "cap4d" / "fit.npz", root / "fit.npz")
    CameraPath(make_cameras(1, 5)[0], (12, 10), 25.0).save(root / "orbit.npz")
    write_motion(root / "motion.npz", make_motion(), toy)
    recording(root / "drive.csv")
    pixels = np.random.default_rng(0).integers(0, 256, (24, 32, 4), dtype=np.uint8)
    images.write_png(root / "photo.png", pixels)
    images.Image.fromarray(pixels[..., :3]).save(root / "photo.jpg")
    images.Image.fromarray(pixels[..., :3]).save(root / "photo.tiff", compression="tiff_lzw")
    images.Image.fromarray(pixels).save(root / "photo.webp")
    with video.VideoWriter(root / "clip.mp4", (24, 32), 25) as writer:
        for _ in range(5):
            writer.add(np.ascontiguousarray(pixels[..., :3]))
    (root / "videos").mkdir()
    for name in ("a", "b", "c"):
        shutil.copy(root / "clip.mp4", root / "videos" / f"{name}.mp4")
    wide = make_cameras()
    Fit(
        make_motion(5),
        dataclasses.replace(wide, cx=wide.cx + 10),
        np.tile((24, 32), (3, 1)),
        ("a", "b", "c"),
        head="toy",
    ).save(root / "videos" / "fit.npz")
    np.savez(root / "landmarks.npz", landmarks=np.random.default_rng(1).uniform(20, 80, (3, 68, 2)))
    arrays = {key: value.toarray() if hasattr(value, "toarray") else value for key, value in flame_arrays().items()}
    np.savez(root / "flame2023.npz", **{key: value for key, value in arrays.items() if not isinstance(value, str)})
    _make_calibrations(root)
    _make_person(root)
    _make_nersemble(root)
    wavfile.write(root / "speech.wav", 16000, np.random.default_rng(2).integers(-9000, 9000, 8000, np.int16))
    _make_avatar(root)
    _make_release(root)
    from tests.data.synthetic import write_shards

    write_shards(root / "shards", scenes=2, views=2, windows=1, images=1)
    readers = {
        "capture": Kind((validate, _views, _distill), weight=3),
        "film": Kind((validate, _views, _distill)),
        "cap4d": Kind((_importer(import_cap4d, toy),), weight=1.5),
        "ga": Kind((_importer(import_gaussian_avatars, flame),), weight=2),
        "videos": Kind((_importer(import_videos, toy),)),
        "fit.npz": Kind((validate, Fit.load), (lambda path: load_motion(path, toy),), weight=1.5),
        "orbit.npz": Kind((validate, CameraPath.load, _rig)),
        "motion.npz": Kind((validate, read_motion), (lambda path: load_motion(path, toy),), weight=1.5),
        "drive.csv": Kind((read_live_link, lambda path: load_motion(path, toy)), weight=1.5),
        "photo.png": Kind((images.read_picture, images.read_mask), (images.image_size, images.has_alpha)),
        "photo.jpg": Kind((images.read_picture, images.read_mask), (images.image_size,)),
        "photo.tiff": Kind((images.read_picture, images.read_mask), (images.image_size,)),
        "photo.webp": Kind((images.read_picture, images.read_mask), (images.image_size,)),
        "clip.mp4": Kind((video.look_at_video, lambda path: list(video.read_video(path))), (video.video_facts,)),
        "landmarks.npz": Kind((_landmarks,)),
        "colmap": Kind((read_calibration,), weight=1.5),
        "rig.json": Kind((read_calibration,)),
        "rig.xml": Kind((read_calibration,)),
        "flame2023.npz": Kind((lambda path: load_head(f"flame:{path}"),)),
        "person": Kind((validate, open_person), weight=1.5),
        "nersemble": Kind((_importer(_nersemble, toy),), weight=1.5),
        "speech.wav": Kind((read_sound,)),
        "avatar": Kind((validate, _avatar), weight=3),
        "release": Kind((validate,), (_facts,), weight=1.5),
        "shards": Kind((validate, _shards), weight=2),
    }
    return root, readers


def _make_calibrations(root: Path) -> None:
    shutil.copytree(Path(__file__).parents[1] / "tracking" / "colmap" / "opencv", root / "colmap")
    matrix = np.eye(4).tolist()
    shared = {"fl_x": 900.0, "cx": 250.5, "k1": 0.01, "w": 512, "h": 480}
    frames = [{"file_path": f"images/{name}.png", "transform_matrix": matrix} for name in "abc"]
    write_json(root / "rig.json", {**shared, "frames": frames})
    (root / "rig.xml").write_text(
        '<document version="2.0.0"><chunk label="c"><sensors><sensor id="0" type="frame"><resolution width="512" '
        'height="480"/><calibration type="frame" class="adjusted"><f>900</f><cx>3</cx><k1>-0.1</k1></calibration>'
        '</sensor></sensors><cameras><camera id="0" sensor_id="0" label="a"><transform>1 0 0 0.1 0 1 0 0.2 0 0 1 0.3 0 '
        "0 0 1</transform></camera></cameras><transform><scale>0.5</scale><translation>1 2 3</translation></transform>"
        "</chunk></document>"
    )


def _make_person(root: Path) -> None:
    capture = Capture.open(root / "capture")
    photos = tuple(np.random.default_rng(3).integers(0, 256, (2, 24, 20, 4), dtype=np.uint8))
    cameras, points = make_cameras()[:2, 0], np.random.default_rng(4).uniform(0, 24, (2, 68, 2))
    save_person(
        root / "person",
        Portrait(photos, cameras, capture.motion[:2], capture.head, 1, ("a.png", "b.png"), points),
    )


def _make_nersemble(root: Path) -> None:
    """A participant with one sequence, and a fit in which one of its cameras is named."""
    folder = root / "nersemble" / "sequences" / "EMO" / "images"
    folder.mkdir(parents=True)
    (root / "nersemble" / "calibration").mkdir()
    serials, cameras = ("222200036", "222200037", "222200042"), make_cameras()
    for serial in serials:
        shutil.copy(root / "clip.mp4", folder / f"cam_{serial}.mp4")
    calibrated = dict(zip(serials, np.asarray(cameras.world_to_camera)[:, 0].tolist()))
    intrinsics = [[8000.0, 0, 1100.0], [0, 8010.0, 1600.0], [0, 0, 1]]
    for name, value in (
        ("camera_params", {"world_2_cam": calibrated, "intrinsics": intrinsics}),
        ("color_calibration", {serials[1]: np.eye(3).tolist()}),
    ):
        write_json(root / "nersemble" / "calibration" / f"{name}.json", value)
    fit = Fit(make_motion(5), cameras[2:3], np.array([[24, 32]]), serials[2:], head="toy")
    fit.save(root / "nersemble" / "fit.npz")


def _nersemble(path: Path, out: Path, *, head: HeadModel) -> object:
    return import_nersemble(path, out, sequence="EMO", head=head, fit=path / "fit.npz")


def _make_avatar(root: Path) -> None:
    """A few Gaussians and a small net on the egg of the exporter's tests."""
    import sys

    import torch

    sys.path.insert(0, str(Path(__file__).parents[1] / "export"))
    from export_world import small_config
    from export_world import write_capture as write_egg

    from mvp4d_export.avatar import GAUSSIAN_TENSORS, Avatar

    egg = Capture.open(write_egg(root / "egg"))
    avatar = Avatar(small_config().avatar, egg.head, 20, egg.frame_count)
    with torch.no_grad():
        for name in GAUSSIAN_TENSORS:
            getattr(avatar, name).normal_(0, 0.3)
    avatar.save(root / "avatar", {"fps": 25})
    for name in ("motion.npz", "cameras.npz"):
        shutil.copy(egg.path / name, root / "avatar" / name)


def _make_release(root: Path) -> None:
    """The built-in facts and configs; weights of a few numbers are refused, so the weights are the built-in ones."""
    from mvp4d_jax.release import BUILT_IN

    shutil.copytree(BUILT_IN / "tiny", root / "release", copy_function=os.link)
    for path in root.joinpath("release").rglob("*.json"):
        text = path.read_bytes()
        path.unlink()
        path.write_bytes(text)


@contextlib.contextmanager
def in_time(seconds: int) -> Iterator[None]:
    def ring(*_: object) -> None:
        raise TimeoutError("takes too long")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def attempt(reader: Reader, path: Path) -> tuple[bool, str]:
    """(taken, the line or what is wrong); what is wrong begins with "!"."""
    try:
        with in_time(SECONDS), warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)
            reader(path)
        return True, ""
    except UserError as error:
        line = str(error)
    except TimeoutError as error:
        return False, f"!{error}"
    except OSError as error:
        line = str(system_error(error))
    except BaseException as error:
        return False, "!" + "".join(traceback.format_exception(error)[-4:])
    return False, line if "\n" not in line and 10 < len(line) < 900 else f"!not one line: {line[:300]}"


def fuzz(world, tmp_path: Path, seed: int, count: int) -> list[str]:
    """What went wrong with `count` damaged inputs."""
    root, readers = world
    rng = np.random.default_rng(seed)
    names, weights = list(readers), np.array([kind.weight for kind in readers.values()])
    wrong = []
    for number in range(count):
        name = names[rng.choice(len(names), p=weights / weights.sum())]
        kind, path = readers[name], tmp_path / "work" / name
        path.parent.mkdir(exist_ok=True)
        if (root / name).is_dir():
            copy = os.link if name == "release" else shutil.copy2
            shutil.copytree(root / name, path, copy_function=copy)
            for item in path.rglob("*.json" if name == "release" else "-"):  # links share their bytes with the original
                text = item.read_bytes()
                item.unlink()
                item.write_bytes(text)
        else:
            shutil.copy2(root / name, path)
        what = damage(path, rng) if name != "release" else _damage_release(path, rng)
        if name != "release" and rng.random() < 0.3:
            what += damage_again(path, rng)
        results = [attempt(reader, path) for reader in (*kind.agree, *kind.others)]
        label = f"seed {seed}, input {number}, {name}, {what}"
        wrong += [f"{label}: {line}" for _, line in results if line.startswith("!")]
        taken = {result for result, _ in results[: len(kind.agree)]}
        if len(taken) > 1:
            wrong.append(f"{label}: readers disagree: {results}")
        shutil.rmtree(tmp_path / "work")
    return wrong


def _damage_release(path: Path, rng: np.random.Generator) -> str:
    file = path / ("mvp4d.json" if rng.random() < 0.6 else f"{rng.choice(['vae', 'transformer'])}/config.json")
    return f"{file.name}: {damage(file, rng)}"


def test_sound_inputs_are_taken(world):
    root, readers = world
    for name, kind in readers.items():
        for reader in (*kind.agree, *kind.others):
            assert attempt(reader, root / name) == (True, ""), name


def test_some_damaged_inputs(world, tmp_path):
    assert not (wrong := fuzz(world, tmp_path, 1, 60)), "\n".join(wrong)


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_thousand_damaged_inputs(world, tmp_path):
    wrong = fuzz(
        world, tmp_path, int(os.environ.get("MVP4D_FUZZ_SEED", "0")), int(os.environ.get("MVP4D_FUZZ_COUNT", "1000"))
    )
    assert not wrong, "\n".join(wrong)
