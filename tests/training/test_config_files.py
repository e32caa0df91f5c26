"""Config files that are damaged, and values that no setting takes: one line, before anything else."""

import json

import pytest

from mvp4d import cli
from mvp4d.core.errors import UserError
from mvp4d_jax.training.config import load_config, save_config
from mvp4d_jax.training.config_file import packaged
from mvp4d_jax.training.plan import check_batches, resolve

PYTHON = {
    "def get_config(:": r"is not valid Python \(line 1",
    "\0": "null bytes",
    "raise ValueError('one\\ntwo')": "raises ValueError in line 1: one two$",
    "import nothing_of_that_name": "raises ModuleNotFoundError in line 1",
    "import sys\nsys.exit(0)": "raises SystemExit in line 2: 0",
    "def get_config():\n  return {}['x']": "raises KeyError in line 2: 'x'",
    "def get_config():\n  raise OSError(28, 'No space')": "raises OSError in line 2",
    "raise BaseException('one\\ntwo')": "raises BaseException in line 1: one two$",
    "class E(Exception):\n  def __str__(self): raise ValueError\nraise E()": "raises E in line 3: no message$",
    "def get_config(x):\n  return x": "raises TypeError",
    "def get_config():\n  pass": "returns a NoneType; it returns an ml_collections.ConfigDict",
    "def get_config():\n  return {}": "returns a dict",
    "get_config = 3": r"has no function get_config\(\)",
    "": r"has no function get_config\(\)",
    "import ml_collections as m\ndef get_config():\n  return m.ConfigDict()": "config.autoencoder is missing",
}
CHANGED = {
    "c.optimizer = 3": "config has no 'optimizer'; did you mean 'optimiser'",
    "c.stages.all.batch = 3": "config.stages.all has no 'batch'",
    "c.stages.all.mixture.static.view = 3": "config.stages.all.mixture.static has no 'view'; did you mean 'views'",
    "del c.data.threads": "config.data.threads is missing",
    "del c.stages.all.steps": "config.stages.all.steps is missing",
    "c.job = 'other'": "config.job is 'other'",
}


@pytest.mark.parametrize("text, said", PYTHON.items())
def test_python_that_is_no_config(text, said, tmp_path, capsys):
    file = tmp_path / "mine.py"
    file.write_text(text)
    with pytest.raises(UserError, match=said) as caught:
        load_config(str(file))
    assert str(caught.value).startswith(str(file)) and "\n" not in str(caught.value)
    assert cli.main(["train", "--config", str(file), "--workdir", str(tmp_path / "run")]) == 2
    assert str(caught.value) in capsys.readouterr().err


@pytest.mark.parametrize("line, said", CHANGED.items())
def test_settings_that_are_missing_or_unknown(line, said, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        f"from mvp4d_configs.tiny import get_config as tiny\ndef get_config():\n  c = tiny()\n  {line}\n  return c"
    )
    with pytest.raises(UserError, match=said):
        load_config(str(file))


@pytest.mark.parametrize(
    "value, said",
    [
        ([], "is not an object"),
        ({"a.b": 1}, "raises ValueError"),
        ({}, "config.autoencoder is missing"),
        ({"transformer": 3}, "config.transformer is 3, not a group of settings; it has attention_backend"),
        ({"data": None}, "config.data is None, not a group of settings"),
        ({"stages": {"all": 1}}, "config.stages.all is 1, not a group of settings"),
        ({"stages": {"all": {"mixture": {}}}}, "config.stages.all.decay is missing"),
        ({"seed": {"x": 1}}, "config.seed is a group of settings"),
        ({"seed": "one"}, "config.seed: 'one' is not of type int"),
        ({"later": 1}, None),  # a run of another version
    ],
)
def test_stored_configs(value, said, tmp_path):
    file = tmp_path / "config.json"
    if isinstance(value, dict) and value and "a.b" not in value:
        value = {**save_config(load_config("tiny")), **value}
    file.write_text(json.dumps(value))
    if said is None:
        resolve(load_config(str(file)))
        return
    with pytest.raises(UserError, match=said):
        load_config(str(file))


def test_a_run_from_before_a_setting_goes_on(tmp_path):
    value = save_config(load_config("tiny"))
    del value["data"]["resident"]
    file = tmp_path / "config.json"
    file.write_text(json.dumps(value))
    assert load_config(str(file)).data.resident is False
    assert load_config(str(file), ["--config.data.resident=true"]).data.resident is True


VALUES = """
mesh=1,x,8 mesh=1,1.5,1 stages.all.mesh=-1 stages.all.mesh=True stages.all.mesh=1,2 stages.all.steps=-3
stages.all.warmup=-1 stages.all.image_size=0 stages.all.learning_rate=-1 stages.all.learning_rate=1e400
stages.all.steps=99999999999999999999 stages.all.snr_shift=True stages.all.snr_shift=1e400 stages.all.shards=[1]
stages.all.mixture.static.batch=-8 stages.all.mixture.static.views=0 stages.all.mixture.static.weight=1e400
curriculum=[[1]] data.shards=[1] data.validation_shards=[None] data.threads=0 data.buffer=0 data.workers=-1
optimiser.freeze=[1] optimiser.freeze=(a optimiser.clip=-1 optimiser.clip=0 optimiser.b1=1.0 optimiser.b2=-0.1
optimiser.ema=1.5 optimiser.eps=0 optimiser.weight_decay=-5 optimiser.accumulation=0 transformer.num_heads=2.5
transformer.num_layers=99999999999999999999 transformer.skip_width=1.5 transformer.norm_eps=foo
transformer.qk_norm_eps=0.0 transformer.spatial_scale=True transformer.temporal_scale=[1]
transformer.pad_patches_to=1e400 checkpoint.every=0 checkpoint.keep_last=-1 checkpoint.keep_best=-1 metrics.every=0
profile.steps=-1 validation.every=0 validation.batches=-1 validation.sample_steps=1001 validation.guidance=-1
seed=-1 seed=4294967296 loss.snr_shift=0 sampling.clean_views=1.5 sampling.condition_dropout=-5 distill.substeps=0
prepare.jitter_scale=-1 prepare.jitter_scale=1e400 prepare.jitter_shift=1e30 prepare.images=1000000
prepare.photos=1000 sampling.reference_angle=-1
"""


@pytest.mark.parametrize("override", VALUES.split())
def test_values_that_no_setting_takes(override):
    with pytest.raises(UserError, match=rf"^(--)?config\.{override.split('=')[0]}") as caught:
        check_batches(resolve(load_config("tiny", [f"--config.{override}"])))
    assert "\n" not in str(caught.value)


def test_a_mixture_of_nothing():
    nothing = [f"--config.stages.all.mixture.{kind}.weight=0" for kind in ("monocular", "static", "multiview")]
    with pytest.raises(UserError, match=r"config.stages.all.mixture: has no kind of data of weight above 0"):
        resolve(load_config("tiny", nothing))


def test_the_autoencoders_values():
    for override in ("steps=0", "ema=1.0", "every.metrics=0", "learning_rate=-1", "recoloured=2.0", "seed=x"):
        with pytest.raises(UserError, match=f"config.{override.split('=')[0]}"):
            load_config("tiny_autoencoder", [f"--config.{override}"])


def test_packaged_configs_hold_their_own_rules(tmp_path):
    for name in packaged():
        file = tmp_path / "config.json"
        file.write_text(json.dumps(save_config(load_config(name))))
        load_config(str(file))
