"""The launch's mesh on every TPU slice that libtpu knows, and train steps compiled with the launch's flags."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mvp4d_jax.devices import GIB, TPUS, compiler_flags, kind_of
from mvp4d_jax.preflight.preflight import Topology

HERE = Path(__file__).parent
# Two layers of the 2B width, 8 samples of 5,120 tokens: what is compiled for a layer depends on neither number.
TWO_LAYERS = [
    "--config.transformer.num_layers=2",
    "--config.stages.full.mixture.multiview.views=2",
    "--config.stages.full.mixture.multiview.frames=5",
]


@pytest.fixture(scope="module")
def meshes() -> dict:
    pytest.importorskip("libtpu")
    done = subprocess.run(
        [sys.executable, str(HERE / "meshes.py")],
        env=Topology.parse("v5p:4x4x4").environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def test_every_slice_gets_the_launchs_mesh_and_every_host_its_rows(meshes):
    assert meshes["wrong"] == []
    names = {name for name, _ in meshes["built"]}
    assert len(names) > 120 and {name.partition(":")[0] for name in names} == set(TPUS)
    for name in ("v5p:4x4x4", "v5p:8x8x8", "v6e:4x4", "v6e:16x16", "v5e:16x16", "tpu7x:4x4x4"):
        assert [name, [1, 8, -1]] in meshes["built"]
    # On these a host's rows are no single run.
    assert {"v5p:2x2x2", "v5p:2x2x4", "v5p:2x4x4"} <= set(meshes["scattered"])


def test_a_mesh_that_cannot_be_had_is_refused_in_one_line(meshes):
    assert meshes["refused"] and all("does not divide" in said or "needs" in said for said in meshes["refused"])
    assert all("\n" not in said for said in meshes["refused"])


def test_slices_share_out_the_data_axis(meshes):
    assert meshes["slices"] == [[0], [1]]
    assert meshes["crossing"].startswith("refused: `mesh`: (1, 8, 2) puts 1 along data, which 2 slices do not divide")


def test_flags_are_known_for_every_kind():
    for name in TPUS:
        flags = compiler_flags(name)["LIBTPU_INIT_ARGS"]
        assert ("async_collective_fusion" in flags) == (name == "v5e")  # elsewhere it stops the compiler
    assert kind_of("TPU v5 lite")[0] == "v5e" and kind_of("TPU v5")[0] == "v5p" and kind_of("cpu") is None
    assert kind_of("NVIDIA A100-SXM4-40GB")[0] == "a100-40" and kind_of("NVIDIA A100-SXM4-80GB")[0] == "a100"


def compile_steps(*topologies: str) -> dict[str, dict]:
    """Reports of two-layer steps, all of one kind of TPU: one process, with that kind's flags."""
    pytest.importorskip("libtpu")
    requests = [
        {
            "config": "mvp4d_2b",
            "overrides": TWO_LAYERS,
            "topology": name,
            "slices": 1,
            "part": "train",
            "stage": "full",
            "kind": "multiview",
        }
        for name in topologies
    ]
    code = (
        "import json, sys\nfrom mvp4d_jax.preflight.worker import main\n"
        "print(json.dumps([main(request) for request in json.loads(sys.argv[1])]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(requests)],
        env=Topology.parse(topologies[0]).environment(),
        capture_output=True,
        text=True,
        timeout=1500,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(zip(topologies, json.loads(done.stdout.splitlines()[-1])))


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "topologies",
    [("v5p:2x2x2", "v5p:4x4x4", "v5p:8x8x8"), ("v6e:8x8", "v6e:16x16"), ("v5e:4x4", "v5e:16x16")],
    ids=lambda names: names[0].partition(":")[0],
)
def test_a_train_step_compiles_with_the_launchs_flags(topologies):
    for name, report in compile_steps(*topologies).items():
        topology = Topology.parse(name)
        assert report["devices"] == topology.chips and report["attention"] == "splash", name
        assert 0 < report["total"] < topology.device.gib * GIB and report["kernel_flops"] > 0, name
