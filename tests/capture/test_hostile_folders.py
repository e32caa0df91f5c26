"""Damaged and hostile folders of other tools: each ends in one clear line; nothing is read or written elsewhere."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from mvp4d.core.capture.cap4d import import_cap4d
from mvp4d.core.capture.fit import read_references
from mvp4d.core.capture.gaussian_avatars import import_gaussian_avatars
from mvp4d.core.errors import UserError
from tests.capture.damage import (
    EVERY_ARRAY,
    JSON_NONSENSE,
    WHOLE_FILE,
    content,
    cut,
    edit_json,
    missing,
    other_size,
    replace_array,
)
from tests.capture.refusals import assert_one_line, copy, spread
from tests.capture.toy import make_flame, make_rig

# A warning of numpy's would be a second line on the user's terminal.
pytestmark = [pytest.mark.timeout(60), pytest.mark.filterwarnings("error::RuntimeWarning:mvp4d_jax")]


def frames_edit(**fields):
    def damage(path: Path) -> None:
        value = json.loads(path.read_text())
        value["frames"][5] = {key: item for key, item in (value["frames"][5] | fields).items() if item is not ...}
        path.write_text(json.dumps(value))

    return damage


SECRET = "../../../../../../../../etc/passwd"
FRAMES = {
    **JSON_NONSENSE,
    "climbs": frames_edit(file_path=SECRET),
    "absolute": frames_edit(file_path="/etc/passwd"),
    "no path": frames_edit(file_path=...),
    "path number": frames_edit(file_path=7),
    "path NUL": frames_edit(file_path="a\0"),
    "mask climbs": frames_edit(fg_mask_path=SECRET),
    "missing picture": frames_edit(file_path="images/9.png"),
    "no matrix": frames_edit(transform_matrix=...),
    "matrix text": frames_edit(transform_matrix="one"),
    "matrix ragged": frames_edit(transform_matrix=[[1], [2, 3]]),
    "matrix of zeros": frames_edit(transform_matrix=[[0] * 4] * 4),
    "matrix mirrored": frames_edit(transform_matrix=np.diag([-1.0, 1, 1, 1]).tolist()),
    "matrix huge": frames_edit(transform_matrix=[[1e308] * 4] * 4),
    "focal text": frames_edit(fl_x="wide"),
    "focal 0": frames_edit(fl_x=0),
    "no index": frames_edit(camera_index=...),
    "index text": frames_edit(timestep_index="1"),
    "index -1": frames_edit(camera_index=-1),
    "a step missing": frames_edit(timestep_index=900),
    "camera name": frames_edit(camera_id="../x"),
    "frames text": edit_json(frames="many"),
    "no frames": edit_json(frames=[]),
    "frames of lists": edit_json(frames=[[1], [2]]),
}


def import_ga(path: Path) -> None:
    import_gaussian_avatars(path, path.parent / "out", head=make_flame())


def import_toy(path: Path) -> None:
    import_cap4d(path, path.parent / "out", head=make_rig())


def assert_refused(action, path: Path) -> None:
    with pytest.raises(UserError) as caught:
        action(path)
    text = str(caught.value)
    assert "\n" not in text and 20 < len(text) < 700, text
    assert not (path.parent / "out").exists()


@pytest.mark.parametrize("case", FRAMES)
def test_transforms(originals, sandbox, case):
    path = copy(originals, "ga", sandbox)
    FRAMES[case](path / "transforms.json")
    for other in ("train", "val", "test"):
        (path / f"transforms_{other}.json").unlink()
    assert_refused(import_ga, path)


@pytest.mark.parametrize("file, damage", spread(WHOLE_FILE, "flame_param/00002.npz"))
def test_flame_params(originals, sandbox, file, damage):
    path = copy(originals, "ga", sandbox)
    damage(path / file)
    assert_refused(import_ga, path)


@pytest.mark.parametrize(
    "array, change",
    [case for name in ("translation", "rotation", "expr", "eyes_pose") for case in spread(EVERY_ARRAY, name)]
    + [
        pytest.param("static_offset", lambda a: a[:, :7], id="static_offset short"),
        pytest.param("shape", lambda a: a + np.nan, id="shape NaN"),
        pytest.param("shape", lambda a: a + 1, id="shape of another head"),
    ],
)
def test_flame_param_arrays(originals, sandbox, array, change):
    path = copy(originals, "ga", sandbox)
    replace_array(array, change)(path / "flame_param" / "00000.npz")
    assert_refused(import_ga, path)


CAP4D = {
    "no fit": lambda path: missing(path / "fit.npz"),
    "no images": lambda path: shutil.rmtree(path / "images"),
    "a picture less": lambda path: missing(path / "images" / "cam1" / "00002.png"),
    "a matte less": lambda path: missing(path / "bg" / "cam1" / "0002.png"),
    "a picture of another size": lambda path: other_size(path / "images" / "cam1" / "00002.png"),
    "a picture broken": lambda path: cut(0.4)(path / "images" / "cam2" / "00003.png"),
    "a picture linked out": lambda path: (
        (path / "images" / "cam2" / "00003.png").unlink()
        or (path / "images" / "cam2" / "00003.png").symlink_to("/etc/passwd")
    ),
    "two sizes": lambda path: replace_array("resolutions", lambda a: a + [[0, 0], [2, 0], [0, 0]])(path / "fit.npz"),
    "reference beyond": lambda path: content(b'[["cam0", 99]]')(path / "reference_images.json"),
    "reference unknown": lambda path: content(b'[["cam9", 0]]')(path / "reference_images.json"),
    "another head": lambda path: replace_array("head", lambda a: np.str_("builtin"))(path / "fit.npz"),
    "too many expressions": lambda path: replace_array("expr", lambda a: np.tile(a + 1, 3))(path / "fit.npz"),
    "too many shapes": lambda path: replace_array("fps", lambda a: a)(path / "fit.npz") or _add_shape(path / "fit.npz"),
}


def _add_shape(path: Path) -> None:
    with np.load(path) as data:
        arrays = {key: data[key] for key in data}
    np.savez(path, **arrays, shape=np.ones(9, np.float32))


@pytest.mark.parametrize("case", CAP4D)
def test_cap4d_folders(originals, sandbox, case):
    path = copy(originals, "cap4d", sandbox)
    CAP4D[case](path)
    assert_refused(import_toy, path)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{}",
        b"[]",
        b"[[1, 2]]",
        b'[["a"]]',
        b'[["a", 1.5]]',
        b'[["a", true]]',
        b'[["a", -1]]',
        b'[["../a", 0]]',
        b'[["a", 0], 7]',
        b'["a", 0]',
        b'[["a", 99999999999]]',
    ],
)
def test_reference_lists(sandbox, text):
    path = sandbox / "input"
    path.write_bytes(text)
    assert_refused(read_references, path)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b'{"format": 3, "version": 1}',
        b"\xff\xfe",
        b"[" * 5000,
        b'{"format": "mvp4d-shards", "version": 1, "files": 7, "scenes": 3}',
    ],
)
@pytest.mark.parametrize("marker", ["manifest.json", "avatar.json", "mvp4d.json", "config.json"])
def test_markers_of_other_folders(sandbox, capsys, marker, text):
    """Folders that call themselves shards, avatars or weights and hold nothing."""
    if marker == "avatar.json":
        pytest.importorskip("mvp4d_export.avatar")
    path = sandbox / "input"
    path.mkdir()
    (path / marker).write_bytes(text)
    assert_one_line(capsys, path)
