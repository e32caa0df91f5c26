"""`mvp4d evaluate` on small captures: means by hand, angles in closed form, a report that stands alone."""

import json
import shutil

import numpy as np
import pytest
from small_world import ball, motion, write_scene

from mvp4d.cli import main
from mvp4d.core.capture import Capture
from mvp4d.core.files import read_json
from mvp4d_jax.evaluation.baselines import project_reference, repeat_reference
from mvp4d_jax.evaluation.evaluate import evaluate, reference_angles
from mvp4d_jax.evaluation.likeness_report import pictures_beside
from mvp4d_jax.evaluation.metrics import psnr
from mvp4d_jax.small.painting import vertex_colours


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("captures")
    return (
        Capture.open(write_scene(folder / "ours", views=4, frames=5, seed=1)),
        Capture.open(write_scene(folder / "truth", views=4, frames=5, seed=2)),
    )


@pytest.fixture(scope="module")
def scores(pair):
    return evaluate(*pair, consistency_frames=1)


def test_scores_are_means_over_frames_and_views(pair, scores):
    ours, truth = pair
    by_hand = [psnr(ours.frames(view) / 255, truth.frames(view) / 255).mean() for view in range(4)]
    np.testing.assert_allclose([view["psnr"] for view in scores["views"]], by_hand, rtol=1e-5)
    assert scores["mean"]["psnr"] == pytest.approx(np.mean(by_hand), rel=1e-5)
    assert {"LPIPS", "CSIM", "JOD", "RE@LG"} == set(scores["left_out"])


def test_a_capture_against_itself_is_perfect(pair):
    scores = evaluate(pair[0], pair[0], consistency_frames=1)
    mean = scores["mean"]
    assert mean["psnr"] == 100 and mean["ssim"] == pytest.approx(1) and mean["flicker"] == 0


def test_angles_are_the_rigs(pair, scores):
    """Four cameras around, the reference in front at frame 0, where the head does not turn: 0, 90, 180, 90 degrees."""
    assert list(reference_angles(*pair).values()) == pytest.approx([0, 90, 180, 90], abs=1e-4)
    rings = {ring["from"]: ring["views"] for ring in scores["by_angle"]}
    assert rings == {0: 1, 90: 2, 150: 1}


def test_report_stands_alone(pair, tmp_path):
    ours, truth = pair
    assert main(["evaluate", str(ours.path), "--against", str(truth.path), "--out", str(tmp_path)]) == 0
    scores = json.loads((tmp_path / "evaluation.json").read_text())
    page = (tmp_path / "evaluation.html").read_text()
    assert f"{scores['mean']['psnr']:.3f}" in page and page.count("data:image/png") == 4
    assert "http" not in page.replace("http-equiv", "")


def test_what_cannot_be_measured_is_null(tmp_path):
    """Flicker takes three frames. NaN is no JSON: a browser's JSON.parse and this program's own reader refuse it."""
    for name, seed in (("ours", 1), ("truth", 2)):
        write_scene(tmp_path / name, frames=2, seed=seed)
    words = ["evaluate", str(tmp_path / "ours"), "--against", str(tmp_path / "truth"), "--out", str(tmp_path)]
    assert main(words) == 0
    scores = read_json(tmp_path / "evaluation.json")
    assert [view["flicker"] for view in (*scores["views"], scores["mean"])] == [None] * 3
    assert all(20 > view["psnr"] > 5 for view in scores["views"])
    row = {"name": "a", "psnr": None, "ssim": 0.5}
    page = pictures_beside([row], [np.zeros((2, 4, 3), np.uint8)])
    assert "PSNR - dB, SSIM 0.500" in page


def test_baselines_are_scored_like_the_capture(pair, tmp_path):
    ours, truth = pair
    words = ["evaluate", str(ours.path), "--against", str(truth.path), "--out", str(tmp_path), "--baselines"]
    assert main(words) == 0
    scores = json.loads((tmp_path / "evaluation.json").read_text())
    reference = truth.frame(*truth.reference) / 255
    by_hand = [
        np.minimum(psnr(np.broadcast_to(reference, (5, 32, 32, 3)), truth.frames(view) / 255), 100).mean()
        for view in range(4)
    ]
    assert scores["baselines"]["repeat"]["mean"]["psnr"] == pytest.approx(np.mean(by_hand), rel=1e-4)
    rings = [[ring["views"] for ring in each["by_angle"]] for each in (scores, *scores["baselines"].values())]
    assert rings == [[1, 2, 1]] * 3
    assert "painted onto the head" in (tmp_path / "evaluation.html").read_text()


def test_baselines_need_a_reference(pair, tmp_path, capsys):
    unnamed = tmp_path / "truth"
    shutil.copytree(pair[1].path, unnamed)
    info = json.loads((unnamed / "capture.json").read_text())
    (unnamed / "capture.json").write_text(json.dumps({**info, "reference": None}))
    assert main(["evaluate", str(pair[0].path), "--against", str(unnamed), "--out", str(tmp_path), "--baselines"]) == 2
    assert "field 'reference'" in capsys.readouterr().err


def test_captures_that_share_nothing_are_refused(pair, tmp_path, capsys):
    other = write_scene(tmp_path / "other", views=1, frames=1, size=64)
    assert main(["evaluate", str(other), "--against", str(pair[1].path)]) == 2
    assert "pictures are" in capsys.readouterr().err


def test_repeating_shows_the_reference_everywhere():
    image = np.random.default_rng(0).uniform(size=(8, 8, 3))
    np.testing.assert_array_equal(repeat_reference(image, 2, 3)[1, 2], image)


def test_projection_gives_the_photo_back_from_its_own_camera(pair):
    """A mesh painted by the photo and seen by the photo's camera shows the photo, where the mesh is."""
    truth, head, still = pair[1], ball(), motion(1)
    camera = truth.camera(0, 0)
    v, u = np.mgrid[:32, :32] / 32
    photo = np.stack([u, v, 1 - u], -1).astype(np.float32)
    one = type(camera)(**{name: np.asarray(value)[None, None] for name, value in vars(camera).items()})
    painted = project_reference(photo, camera, still, head, still, one)[0, 0]
    inside = np.zeros((32, 32), bool)
    inside[12:20, 12:20] = True
    assert np.abs(painted - photo)[inside].max() < 0.05
    corner = painted[0, 0]
    np.testing.assert_array_equal(corner, 1)  # white where there is no mesh
    colours = vertex_colours(photo, camera, still, head)[:, :3]
    behind = head.template[:, 2] < -0.05
    assert np.isfinite(colours[behind]).all() and colours[behind].std() > 0  # filled from what is known
