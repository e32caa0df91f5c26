"""Ahead-of-time compilation: topologies by name, and small jobs compiled for devices that are not there."""

import json
import os
import re
import sys

import jax
import pytest
from flax import nnx

from mvp4d import cli
from mvp4d.core.errors import UserError
from mvp4d_jax.devices import GIB
from mvp4d_jax.models.attention_splash import padded_length
from mvp4d_jax.models.transformer import MultiViewTransformer
from mvp4d_jax.preflight import jobs
from mvp4d_jax.preflight import preflight as preflight_module
from mvp4d_jax.preflight.preflight import Topology, preflight
from mvp4d_jax.preflight.worker import _out_of_memory
from mvp4d_jax.training.config import load_config
from mvp4d_jax.training.metrics import tokens_of
from mvp4d_jax.training.plan import batch_shapes, resolve

# A narrow model of head size 64 at 512 tokens: enough for the splash kernel, a gather and a reduction of gradients.
SMALL = [
    "--config.curriculum=all",
    "--config.transformer.num_layers=2",
    "--config.transformer.dtype=bfloat16",
    "--config.transformer.remat=full",
    "--config.stages.all.image_size=128",
    "--config.stages.all.mixture.multiview.batch=2",
    "--config.stages.all.mixture.multiview.frames=3",
]


@pytest.mark.parametrize(
    "text, chips, accelerator",
    [
        ("v5p:4x4x4", 64, "v5p-128"),
        ("v5e:4x4", 16, "v5litepod-16"),
        ("v6e:8x8", 64, "v6e-64"),
        ("tpu7x:2x2x1", 4, "tpu7x-8"),
        ("v7x:2x2x1", 4, "tpu7x-8"),
    ],
)
def test_tpu_topologies(text, chips, accelerator):
    topology = Topology.parse(text)
    assert topology.is_tpu and topology.chips == chips
    assert topology.environment()["TPU_ACCELERATOR_TYPE"] == accelerator


def test_gpu_topologies_are_host_devices():
    topology = Topology.parse("h100:8")
    assert not topology.is_tpu and topology.chips == 8
    assert topology.environment()["XLA_FLAGS"].endswith("device_count=8")


@pytest.mark.parametrize(
    "text, said",
    [
        ("v9:2x2", "'v9' is not known"),
        ("v5p-128", "is Google's name of a size; give kind and shape, v5p:4x4x4 for v5p-128"),
        ("v5litepod-16", "is Google's name of a size"),
        ("a100-41:8", "'a100-41' is not known"),
        ("v5p", "'' is no shape; for example v5p:4x4x4"),
        ("v5p:4x4", "has 2 dimensions; v5p has 3"),
        ("v6e:2x2x2", "has 3 dimensions; v6e has 2"),
        ("h100:2x4", "has 2 dimensions"),
        ("v5e:0x4", "'0x4' is no shape; for example v5e:4x4"),
        ("h100:0", "'0' is no shape; for example h100:8"),
        ("v5p:\uff14x4x4", "is no shape"),
        ("h100:1000000", "is 1,000,000 devices; at most 9,216"),
    ],
)
def test_unknown_topologies_are_refused(text, said):
    with pytest.raises(UserError, match="--topology.*" + re.escape(said)):
        Topology.parse(text)
    with pytest.raises(UserError, match="is 4,000,000 devices"):
        Topology.parse("v5e:2x2", slices=1_000_000)


@pytest.mark.parametrize(
    "words, said",
    [
        ("--job sample --views 0", "--views: is 0; it is a whole number from 1 on"),
        ("--job sample --views -4", "--views: is -4"),
        ("--job sample --group 0", "--group: is 0"),
        ("--job sample --guidance=-3", "--guidance: is -3.0"),
        ("--job sample --mesh=1,1,0", "--mesh: (1, 1, 0) is not a mesh shape"),
        ("--job sample --mesh=1,1,8", "--mesh: (1, 1, 8) needs 8 devices, there are 4"),
        ("--job sample --mesh=-1,1,3", "--mesh: (-1, 1, 3): 3 does not divide the 4 devices"),
        ("--config.mesh=1,-1,3", "config.mesh: (1, -1, 3): 3 does not divide the 4 devices"),
        ("--config.mesh=1,1,0", "config.mesh: (1, 1, 0) is not a mesh shape"),
        ("--config.mesh=1,1,8", "config.mesh: (1, 1, 8) needs 8 devices, there are 4"),
        ("--mesh 1,1,4", "--mesh: belongs to --job sample; training's is --config.mesh"),
        ("--views 4", "--views: belongs to --job sample"),
        ("--stage foo", "--stage: there is no 'foo'; the config has all, settle"),
        ("--kind foo", "--kind: there is no 'foo'; the stage has monocular, multiview, static"),
    ],
)
def test_what_cannot_be_asked_is_refused_before_anything_compiles(words, said, capsys):
    assert cli.main(["preflight", "--config", "tiny", "--topology", "v5e:2x2", *words.split()]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"mvp4d preflight: {said}") and "compiling" not in error


@pytest.mark.parametrize(
    "words, parts",
    [
        ([], ["train"]),
        (["--config.data.validation_shards=held_out"], ["train", "validation"]),
        (["--config.data.validation_shards=held_out", "--config.validation.sample_steps=0"], ["train"]),
        (["--config.data.validation_shards=held_out", "--config.validation.batches=0"], ["train"]),
    ],
)
def test_what_a_launch_would_not_run_is_not_compiled(words, parts, monkeypatch, capsys):
    """`mvp4d_2b` names no held-out shards: nothing is drawn of them, and nothing can fail to fit."""
    monkeypatch.setattr(
        preflight_module, "_compile", lambda request, *_: {"part": request["part"], "fits": True, "total": 0.0}
    )
    command = ["preflight", "--config", "mvp4d_2b", "--topology", "v5p:4x4x4", "--job", "train", "--json"]
    assert cli.main([*command, *words]) == 0
    assert [report["part"] for report in json.loads(capsys.readouterr().out)] == parts


def test_every_stages_batches_are_held_to_its_own_mesh():
    """The heaviest stage has 8 rows of its own, the other the config's 4: its 4 samples divide over those."""
    words = ["--config.curriculum=settle,all", "--config.mesh=1,4,1", "--config.stages.all.mesh=1,8,1"]
    words += [word for word in SMALL if "curriculum" not in word]
    for stage, batch in (("all", 8), ("settle", 4)):
        words += [f"--config.stages.{stage}.mixture.{kind}.batch={batch}" for kind in ("monocular", "static")]
        words.append(f"--config.stages.{stage}.mixture.multiview.batch={batch}")
    _, mesh, facts = jobs.train(jobs.make_job(load_config("tiny", words), "", "", {}), jax.devices())
    assert mesh.devices.shape == (1, 8, 1) and facts["samples"] == 8
    words += ["--config.data.validation_shards=held_out"]
    words += [f"--config.stages.all.mixture.{kind}.batch=12" for kind in ("monocular", "static", "multiview")]
    words += ["--config.stages.all.mesh=1,4,1", "--config.stages.settle.mesh=1,8,1"]
    words += [f"--config.stages.settle.mixture.{kind}.batch=8" for kind in ("monocular", "static", "multiview")]
    with pytest.raises(UserError, match=r"which validation takes in stage 'settle', too: 12 samples do not divide"):
        jobs.train(jobs.make_job(load_config("tiny", words), "", "", {}), jax.devices())


def test_an_autoencoders_training_has_no_preflight(capsys):
    assert cli.main(["preflight", "--config", "tiny_autoencoder", "--topology", "v5e:2x2"]) == 2
    assert "trains an autoencoder, which is not preflighted" in capsys.readouterr().err


def test_a_small_train_step_compiles_for_tpu():
    pytest.importorskip("libtpu")
    (report,) = preflight("tiny", [*SMALL, "--config.mesh=1,2,2"], Topology.parse("v5e:2x2"), "train", kind="multiview")
    plan = resolve(load_config("tiny", SMALL))
    tokens = tokens_of(plan.transformer, 4, 3, plan.latent_size(plan.stages[0]))
    assert report["fits"] and report["attention"] == "splash" and report["devices"] == 4
    assert report["tokens"] == tokens == 13 * 64
    # Attention: two products forward, again when the layer is computed anew, five backward (fused). A device has half
    # of one sample's queries; the kernel pads both sides to whole tiles.
    product = 2 * padded_length(tokens // 2) * padded_length(tokens) * plan.transformer.width
    assert report["kernel_flops"] == pytest.approx(9 * product * plan.transformer.num_layers)
    assert report["flops"] > report["kernel_flops"]
    assert set(report["collective_bytes"]) >= {"all-gather"}
    shapes = nnx.state(nnx.eval_shape(lambda: MultiViewTransformer(plan.transformer, rngs=nnx.Rngs(0))), nnx.Param)
    held = 4 * sum(leaf.size for leaf in jax.tree.leaves(shapes))  # parameters, EMA, two moments; a quarter of each
    video = next(modality for modality in plan.stages[0].modalities if modality.kind == "multiview")
    batch = batch_shapes(plan, plan.stages[0], video, None).values()
    # One of two samples; between as it is and with its last dimension filled up to the 128 lanes of a TPU's tiles.
    least, most = (
        sum(leaf.size // leaf.shape[-1] * width(leaf.shape[-1]) * leaf.dtype.itemsize for leaf in batch) / 2
        for width in (lambda channels: channels, lambda channels: -(-channels // 128) * 128)
    )
    assert (held + least) * 0.95 < report["arguments"] < (held + most) * 1.05


def test_a_gpu_shaped_sample_job(capsys, monkeypatch):
    arguments = [
        "preflight",
        "--config",
        "tiny",
        "--topology",
        "l4:2",
        "--job",
        "sample",
        "--config.transformer.num_layers=1",
        "--config.stages.all.mixture.multiview.views=2",
    ]
    assert cli.main([*arguments, "--json"]) == 0
    reports = json.loads(capsys.readouterr().out)
    assert [report["part"] for report in reports] == ["denoise", "decode"] and reports[0]["devices"] == 2
    assert all(0 < report["total"] < report["limit"] == 22 * GIB for report in reports)
    # What `fits` decides, without compiling again.
    for fits in (True, False):
        monkeypatch.setattr(
            "mvp4d_jax.preflight.preflight.preflight",
            lambda *_, fits=fits, **__: [reports[0], {**reports[1], "fits": fits}],
        )
        assert cli.main(arguments) == (0 if fits else 1)
        shown = capsys.readouterr()
        assert "host devices in the place of GPUs" in shown.out and ("DOES NOT FIT" in shown.out) == (not fits)
        needed = reports[1]["total"] / GIB
        said = f"decode on l4:2: does not fit: {needed:.2f} GiB on each device, which has 22.00; what helps: devices"
        assert (said in shown.err) == (not fits)


def test_a_terminal_is_told_that_the_compiler_is_at_work(monkeypatch, capsys):
    monkeypatch.setattr(preflight_module, "TOLD_EVERY", 0.2)
    program = [sys.executable, "-c", "import sys, time; time.sleep(1); sys.exit('RuntimeError: no')"]
    assert preflight_module._patiently(program, dict(os.environ), "train") == (1, "RuntimeError: no\n")
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert preflight_module._patiently(program, dict(os.environ), "train") == (1, "RuntimeError: no\n")
    assert re.fullmatch(r"(train: compiling for [0-3] s\n)+", capsys.readouterr().err)


@pytest.mark.slow
def test_2b_train_step_for_64_chips_fits_with_room_and_grows_evenly():
    """The whole 2B step at 107,520 tokens a sample for 64 and, with eight times the samples, for 512 chips."""
    pytest.importorskip("libtpu")
    full = {"stage": "full", "kind": "multiview"}
    (small,) = preflight("mvp4d_2b", [], Topology.parse("v5p:4x4x4"), "train", **full)
    (large,) = preflight(
        "mvp4d_2b",
        ["--config.mesh=8,8,8", "--config.stages.full.mixture.multiview.batch=64"],
        Topology.parse("v5p:8x8x8"),
        "train",
        **full,
    )
    assert small["tokens"] == 107520 and small["samples"] == 8
    assert small["total"] < 0.5 * 95 * GIB
    assert abs(large["flops"] / small["flops"] - 1) < 0.05
    moved = [sum(report["collective_bytes"].values()) for report in (small, large)]
    assert abs(moved[1] / moved[0] - 1) < 0.2


def test_the_validation_sample_compiles_for_tpu():
    pytest.importorskip("libtpu")
    settings = [*SMALL, "--config.mesh=1,2,2", "--config.validation.sample_steps=2"]
    parts = {"kind": "multiview", "parts": ["validation"]}
    (report,) = preflight("tiny", settings, Topology.parse("v5e:2x2"), "train", **parts)
    assert report["fits"] and report["devices"] == 4 and report["total"] > 0


@pytest.mark.slow  # the compiler takes seconds for every convolution
def test_a_chunk_of_decoding_compiles_for_tpu():
    """With the options of convolution programs, which only this compiler takes, and the transformer beside it."""
    pytest.importorskip("libtpu")
    (report,) = preflight("tiny", SMALL, Topology.parse("v5e:2x2"), "sample", parts=["decode"])
    assert report["fits"] and report["devices"] == 1 and report["resident"] > 0
    assert report["total"] == report["arguments"] + report["outputs"] + report["temporaries"] + report["resident"]


@pytest.mark.parametrize(
    "said, gib",
    [
        ("Ran out of memory in memory space hbm. Used 20.10G of 15.75G hbm. Exceeded hbm capacity by 4.35G.", 20.1),
        (
            "Ran out of memory on HBM, the total memory required for HLO temporaries (26.66G) exceeds available HBM "
            "(15.75G). HLO module: jit_train_step.",
            26.66,
        ),
    ],
)
def test_the_compilers_own_verdict_on_memory_is_read(said, gib):
    assert _out_of_memory(RuntimeError(f"RESOURCE_EXHAUSTED: {said}"))["total"] == pytest.approx(gib * GIB)
