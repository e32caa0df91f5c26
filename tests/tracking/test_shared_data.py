"""Real portraits through the commands: Lincoln and Tesla by their tracker's output, three photos by MediaPipe."""

import json

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from mvp4d.cli import main
from mvp4d.core.capture import Capture
from mvp4d.core.capture.fit import Fit
from mvp4d.core.capture.portrait import open_person
from mvp4d.core.errors import UserError
from mvp4d.core.files import write_json
from mvp4d.core.heads.flame import LANDMARKS
from tests.heads.flame_files import flame_arrays
from tests.small_world import write_release

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
PORTRAITS = {"lincoln": "abraham_lincoln.png", "tesla": "tesla.png"}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Random weights that name a head: head name -> folder."""
    made = {}
    root = write_release(tmp_path_factory.mktemp("weights") / "ball")

    def of(head):
        if head not in made:
            made[head] = root.with_name(head)
            made[head].mkdir()
            for part in ("vae", "transformer"):
                (made[head] / part).symlink_to(root / part)
            facts = json.loads((root / "mvp4d.json").read_text())
            write_json(made[head] / "mvp4d.json", {**facts, "head": head})
        return made[head]

    return of


def sample(weights, reference, shared_data, out, *more):
    """Two views of five frames of the real driving sequence; the capture is validated."""
    words = ["--motion", str(shared_data / "tracked_examples" / "driving_00" / "fit.npz"), "--cameras", "orbit:360x2"]
    words += ["--weights", str(weights), "--frames", "5", "--steps", "1", "--out", str(out), *more]
    assert main(["sample", "--reference", str(reference), *words]) == 0
    assert main(["validate", str(out)]) == 0
    capture = Capture.open(out)
    assert (capture.view_count, capture.frame_count) == (2, 5)
    return capture


@pytest.mark.parametrize("person", PORTRAITS)
def test_a_portrait_by_its_trackers_landmarks(person, shared_data, weights, tmp_path):
    """track --landmarks, then sample: the head turned as in the tracker's own fit, within ten degrees."""
    folder = shared_data / "tracked_examples" / person
    with np.load(folder / "alignment.npz") as data:
        np.savez(tmp_path / "marks.npz", landmarks=data["vertex_coords"][0, 0][list(LANDMARKS)])
    words = ["--landmarks", str(tmp_path / "marks.npz"), "--matte", "none", "--out", str(tmp_path / "person")]
    assert main(["track", str(folder / PORTRAITS[person]), *words]) == 0
    assert main(["validate", str(tmp_path / "person")]) == 0
    portrait, theirs = open_person(tmp_path / "person"), Fit.load(folder / "fit.npz").motion
    turn = Rotation.from_rotvec(portrait.motion.rotation[0]) * Rotation.from_rotvec(theirs.rotation[0]).inv()
    assert np.degrees(turn.magnitude()) < 10
    sample(weights("builtin"), tmp_path / "person", shared_data, tmp_path / "views")


@pytest.mark.parametrize("person", PORTRAITS)
def test_a_portrait_with_the_trackers_own_fit(person, shared_data, weights, tmp_path):
    """sample --fit: FLAME's coefficients on a file of FLAME's layout and random numbers, driven by FLAME's."""
    folder = shared_data / "tracked_examples" / person
    arrays = {key: value.toarray() if hasattr(value, "toarray") else value for key, value in flame_arrays().items()}
    arrays = {key: value for key, value in arrays.items() if not isinstance(value, str)}
    np.savez(tmp_path / "flame2023_no_jaw.npz", **arrays)
    head = f"flame:{tmp_path / 'flame2023_no_jaw.npz'}"
    words = ["--fit", str(folder / "fit.npz"), "--head", head, "--matte", "none"]
    made = sample(weights("flame2023-nojaw"), folder / PORTRAITS[person], shared_data, tmp_path / "views", *words)
    driven = Fit.load(shared_data / "tracked_examples" / "driving_00" / "fit.npz").motion
    np.testing.assert_array_equal(
        made.motion.expression, np.asarray(driven.expression)[:5, : made.head.expression_count]
    )


def test_three_photos_of_one_person(shared_data, tmp_path):
    """All of `track` with its networks: landmarks, whether it is one person, the cut-out."""
    from mvp4d_jax.tracking.detector import MEDIAPIPE

    try:
        MEDIAPIPE.python()
    except UserError as error:
        pytest.skip(f"MediaPipe cannot be had here: {error}")
    photos = [str(shared_data / "photos" / f"person_a_{number}.png") for number in (1, 2, 3)]
    assert main(["track", *photos, "--out", str(tmp_path / "person")]) == 0
    assert main(["validate", str(tmp_path / "person")]) == 0
    portrait = open_person(tmp_path / "person")
    assert len(portrait.photos) == 3 and portrait.head.name == "builtin"
    for photo in portrait.photos:  # cut out: some of it is clear, some is not
        assert 0.2 < (photo[..., 3] > 127).mean() < 0.9
