"""A distillation's step on eight devices and on one, and the whole job: teacher, student, release."""

import functools
import json
import re
import shlex
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_train_step import CONFIG, make_batch

from mvp4d import cli
from mvp4d.core.errors import UserError
from mvp4d_jax import parallel
from mvp4d_jax.diffusion.distillation import DistillOptions, ddim_step
from mvp4d_jax.diffusion.guidance import GuidanceConfig, guide, keep_conditions
from mvp4d_jax.diffusion.samplers import SamplerConfig, make_sampler
from mvp4d_jax.diffusion.schedule import NoiseSchedule
from mvp4d_jax.models.checkpoint import load_transformer
from mvp4d_jax.models.transformer import MultiViewTransformer
from mvp4d_jax.release import read_facts
from mvp4d_jax.training.checkpoints import Checkpoints
from mvp4d_jax.training.config import load_config
from mvp4d_jax.training.distill import Distillation, check_teacher, make_distill_step
from mvp4d_jax.training.ground import Ground
from mvp4d_jax.training.launch import initial_weights
from mvp4d_jax.training.plan import resolve
from mvp4d_jax.training.release import export_release
from mvp4d_jax.training.state import ModelTemplate, OptimiserOptions, initial_state, make_optimiser
from mvp4d_jax.training.step import LossOptions, conditions_of, noisy_batch
from tests.small_inputs import sizes
from tests.small_world import clean_of, quick_compilation
from tests.training.tiny_run import ROOT, overrides, run, write_autoencoder

OPTIONS = DistillOptions(steps=4, substeps=2, guidance=2.0, truth=0.25, rollout=0.5)
LOSS = LossOptions("mixed", snr_shift=1.0)
MASK = slice(7, 8)


def distillation(mesh) -> tuple[ModelTemplate, Distillation]:
    template, teacher = (ModelTemplate(lambda rngs: MultiViewTransformer(CONFIG, rngs=rngs), mesh) for _ in range(2))
    return template, Distillation(OPTIONS, teacher, MASK)


def distill_steps(mesh_shape, accumulation: int):
    """Losses and state after two steps on a mesh."""
    mesh = parallel.make_mesh(mesh_shape)
    template, given = distillation(mesh)
    options = OptimiserOptions(accumulation=accumulation, ema=0.5, clip=1.0, eps=1e-3)
    optimiser = make_optimiser(options, template.shapes)
    state = initial_state(template, optimiser, mesh, seed=0)
    plan = types.SimpleNamespace(optimiser=options, loss=LOSS, learning_rate=lambda: lambda step: jnp.float32(1e-2))
    step = make_distill_step(template, given, optimiser, plan)
    losses = []
    with parallel.use_mesh(mesh):
        teacher = jax.jit(given.teacher.initialise, out_shardings=given.teacher.shardings)(jax.random.key(7))
        batches = [jax.device_put(make_batch(index), parallel.batch_sharding(mesh)) for index in range(2)]
        compiled = step.lower(state, batches[0], teacher).compile(
            compiler_options={"xla_backend_optimization_level": 0}
        )
        for batch in batches:
            state, metrics = compiled(state, batch, teacher)
            losses.append(float(metrics["loss"]))
    return np.asarray(losses), jax.tree.map(np.asarray, state)


@pytest.fixture(scope="module")
def one_device():
    return distill_steps((1, 1, 1), 1)


@pytest.mark.parametrize(
    "mesh, accumulation",
    [((2, 2, 2), 4), *(pytest.param(mesh, 1, marks=pytest.mark.slow) for mesh in ((8, 1, 1), (1, 1, 8)))],
)
def test_meshes_equal_one_device(mesh, accumulation, one_device):
    losses, state = distill_steps(mesh, accumulation)
    np.testing.assert_allclose(losses, one_device[0], rtol=1e-5)
    for name in ("params", "ema", "moments"):
        for ours, theirs in zip(
            jax.tree.leaves(getattr(state, name)), jax.tree.leaves(getattr(one_device[1], name)), strict=True
        ):
            np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_targets_end_where_the_guided_teacher_does():
    """The student's one step with its target, against the samplers' own loop over the guided teacher."""
    mesh = parallel.make_mesh((1, 1, 1))
    template, given = distillation(mesh)
    given = Distillation(DistillOptions(steps=4, substeps=2, guidance=2.0), given.teacher, MASK)
    schedule = NoiseSchedule.cogvideox(snr_shift=1.0)
    batch = {name: jnp.asarray(value) for name, value in make_batch().items()}
    params = template.initialise(jax.random.key(7))

    @jax.jit  # operation by operation, all of this test takes three times as long
    def targets(params, batch):
        guided = functools.partial(given.predict_guided, params)
        return given.targets(jax.random.key(3), batch, None, guided, LossOptions("shared", snr_shift=1.0), schedule)

    made = targets(params, batch)
    clean = np.asarray(batch["clean"])
    np.testing.assert_array_equal(np.asarray(made["latents"])[clean], np.asarray(batch["latents"])[clean])
    assert not np.asarray(made["timesteps"])[clean].any() and not np.asarray(made["weight"])[clean].any()

    model = jax.jit(lambda sample, timesteps, conditions: template.model(params)(sample, timesteps, **conditions))
    conditions = conditions_of(batch)
    teacher = make_sampler(SamplerConfig("ddim", 8), schedule)
    student = make_sampler(SamplerConfig("ddim", 4), schedule)
    dropped = keep_conditions(conditions, jnp.zeros((), bool), MASK)
    seen = set()
    for row in range(len(clean)):
        index = int(np.flatnonzero(student.timesteps == int(np.asarray(made["timesteps"])[row].max()))[0])
        seen.add(index)
        state = teacher.start(made["latents"])
        for step in (2 * index, 2 * index + 1):
            timesteps = teacher.timesteps_for(step, batch["clean"])
            kept, without = (model(state.sample, timesteps, some) for some in (conditions, dropped))
            state = teacher.step(state, guide(kept, without, GuidanceConfig(2.0)), step, clean=batch["clean"])
        ours = ddim_step(student, made["latents"], made["target"], jnp.full(clean.shape, index), batch["clean"])
        np.testing.assert_allclose(
            np.asarray(ours)[row][~clean[row]], np.asarray(state.sample)[row][~clean[row]], atol=2e-4
        )
    assert len(seen) > 1


def test_a_job_from_teacher_to_release(shards, undisturbed, autoencoder, tmp_path):
    """The student starts as its teacher, learns, and its release says how it is sampled."""
    taught = [*overrides(shards), f"--config.autoencoder={autoencoder}"]
    teacher = tmp_path / "teacher"
    export_release(load_config("tiny", taught), undisturbed, teacher, dtype="float32")
    arguments = [
        *overrides(shards, steps=3, initial="", distill__teacher=teacher, distill__steps=2, distill__substeps=2),
        f"--config.autoencoder={autoencoder}",
    ]
    run(tmp_path / "run", arguments)
    config = load_config("tiny", arguments)
    said = export_release(config, tmp_path / "run", tmp_path / "student", dtype="float32")
    assert said.startswith("step 3 ")
    facts = json.loads((tmp_path / "student" / "mvp4d.json").read_text())
    own = {"method": "ddim", "steps": 2, "guidance": 1.0, "distilled": True}
    own |= {"photo_detail": True, "temporal_filter": True, "hair_colour": True, "anchors": 0}
    assert facts["sampler"] == own
    assert read_facts(tmp_path / "student").sampler.distilled
    plan = resolve(config)
    ours, theirs = (
        jax.tree.leaves(
            ModelTemplate(
                lambda rngs: MultiViewTransformer(plan.transformer, rngs=rngs), parallel.make_mesh((1, 1, 1))
            ).params_of(load_transformer(folder / "transformer")[0])
        )
        for folder in (tmp_path / "student", teacher)
    )
    moved = max(float(np.abs(np.asarray(a) - np.asarray(b)).max()) for a, b in zip(ours, theirs, strict=True))
    assert 0 < moved < 0.05, "three steps from the teacher, not from random weights"


def test_a_students_validation_is_at_its_own_steps():
    schedule = NoiseSchedule.cogvideox(snr_shift=1.0)
    grid = OPTIONS.samplers(schedule)[0].timesteps
    batch = {name: jnp.asarray(value) for name, value in make_batch().items()}
    noisy = noisy_batch(jax.random.key(5), batch, LOSS, schedule, grid)
    timesteps, clean = np.asarray(noisy["timesteps"]), np.asarray(batch["clean"])
    assert set(timesteps[~clean].tolist()) == set(grid.tolist()) and not timesteps[clean].any()
    np.testing.assert_allclose(
        clean_of(schedule, noisy["latents"], noisy["target"], noisy["timesteps"])[~clean],
        np.asarray(batch["latents"])[~clean],
        atol=1e-4,
    )


@pytest.mark.parametrize(
    "change, named",
    [
        ({"distill__steps": 4}, "names no teacher"),
        ({"distill__steps": 4, "distill__teacher": "nobody"}, "no release"),
        ({"distill__steps": 4, "distill__teacher": "tiny", "loss__snr_shift": 3.0}, "snr_shift 1.0"),
        ({"distill__steps": 4, "distill__teacher": "tiny_128"}, "conditioning"),
    ],
)
def test_teachers_that_do_not_fit_are_named(change, named):
    with pytest.raises(UserError, match=named) as caught:
        check_teacher(resolve(load_config("tiny", overrides("shards", **change))))
    assert "\n" not in str(caught.value)


def test_a_student_of_another_size_than_its_teacher_is_told_before_it_is_built(tmp_path):
    student = overrides("shards", initial="", distill__teacher="tiny", distill__steps=4)
    config = load_config("tiny", student)
    with pytest.raises(UserError, match=r"tiny/transformer: has num_layers 4, the model 1;") as caught:
        initial_weights(config, resolve(config), tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name, parent", [("tiny_128_turbo", "tiny_128"), ("mvp4d_2b_turbo", "mvp4d_2b")])
def test_turbo_configs_are_their_parents_models(name, parent):
    ours, theirs = resolve(load_config(name)), resolve(load_config(parent))
    assert ours.transformer == theirs.transformer and ours.conditioning == theirs.conditioning
    assert load_config(name).initial == "", "a student starts from its teacher"
    shifts = {
        plan.for_stage(stage).loss.snr_shift for plan, stage in ((ours, ours.stages[-1]), (theirs, theirs.stages[-1]))
    }
    assert len(shifts) == 1, "a student learns at its teacher's noise"
    assert ours.distill.steps == 4 and ours.sampling.condition_dropout == 0
    if ours.distill.teacher:
        check_teacher(ours)


def test_the_documented_student_of_a_2b_release(tmp_path, monkeypatch, capsys):
    """A release of `mvp4d_2b`'s own stages, narrow, and the command of docs/weights.md: only its shards are missing."""
    monkeypatch.chdir(tmp_path)
    narrow = [word for word in sizes("mvp4d_2b") if "transformer" in word]
    arguments = [*narrow, "--config.autoencoder=vae", "--config.mesh=1,1,1"]
    write_autoencoder(tmp_path / "vae", "2b")
    config = load_config("mvp4d_2b", arguments)
    ground = Ground.of(plan := resolve(config), plan.stages[-1])
    with quick_compilation():
        state = initial_state(ground.template, ground.optimiser, ground.mesh, 0)
    checkpoints = Checkpoints(tmp_path / "run" / "checkpoints")
    checkpoints.save(80_000, state, {"step": 80_000, "seconds": 0.0, "seed": 0})
    checkpoints.close()
    export_release(config, tmp_path / "run", tmp_path / "release")
    shift = json.loads((tmp_path / "release" / "mvp4d.json").read_text())["snr_shift"]
    # docs/launch.md: 107,520 tokens a sample, and 3 at CogVideoX-2B's 17,776.
    assert shift == pytest.approx(3 * (107_520 / 17_776) ** 0.5, rel=1e-12)

    text = (ROOT / "docs" / "weights.md").read_text().replace("\\\n", " ")
    command = re.search(r"^mvp4d (train --config tiny_128_turbo .*--config.distill.teacher=.*)$", text, re.MULTILINE)[1]
    for ours, theirs in (("tiny_128_turbo", "mvp4d_2b_turbo"), ("teacher=tiny_128", "teacher=release")):
        assert ours in command
        command = command.replace(ours, theirs)
    words = [*shlex.split(command), *narrow, "--config.autoencoder=release/vae", "--dry-run", "--no-memory-check"]
    assert cli.main(words) == 2
    assert "shards_128: not a shards folder" in (said := capsys.readouterr().err) and "teacher" not in said
    assert cli.main([*words, "--config.stages.distill.snr_shift=3.0"]) == 2
    assert f"has snr_shift {shift}, the config 3.0" in capsys.readouterr().err
