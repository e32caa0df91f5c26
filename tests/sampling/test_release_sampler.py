"""A release names how it is sampled; flags override; distilled weights refuse what they have not learned."""

import json

import pytest
from small_world import SIZE, write_scene

import mvp4d
from mvp4d.core.errors import UserError
from mvp4d_jax.geometry.conditioning import ConditioningConfig
from mvp4d_jax.release import ReleaseSampler, read_facts, resolve_weights


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    return write_scene(tmp_path_factory.mktemp("world") / "truth")


@pytest.fixture
def planned(scene, tmp_path):
    """(sampler of the release, settings) -> (method, steps, guidance) of the plan, which reads no weights."""

    def plan(named, job=False, **settings):
        folder = tmp_path / "release"
        folder.mkdir(exist_ok=True)
        facts = {
            "head": "ball",
            "image_size": SIZE,
            "views": 2,
            "frames": 5,
            "snr_shift": 1.0,
            "crop_margin": 1.2,
            "conditioning": ConditioningConfig().record,
        }
        facts |= {} if named is None else {"sampler": named}
        (folder / "mvp4d.json").write_text(json.dumps(facts))
        planned = mvp4d.load(folder).plan(scene, motion=scene, **{"cameras": scene, **settings})
        return planned if job else (planned.options.method, planned.plan.steps, planned.plan.guidance_scale)

    return plan


OWN = {"method": "ddim", "steps": 4, "guidance": 1.0}


def test_the_releases_own_sampler_is_taken_and_flags_override(planned):
    assert planned(None) == ("dpm", 24, 1.5)  # a release that names none
    assert planned(OWN) == ("ddim", 4, 1.0)
    assert planned(OWN, steps=7, guidance=2.0) == ("ddim", 7, 2.0)
    assert planned(OWN, sampler="dpm") == ("dpm", 4, 1.0)


@pytest.mark.parametrize(
    "settings, named",
    [
        ({"guidance": 1.5}, "`guidance`: is 1.5"),
        ({"steps": 3}, "`steps`: is 3"),
        ({"steps": 0}, "`steps`: is 0"),
        ({"sampler": "dpm"}, "`sampler` and `eta`"),
        ({"eta": 0.5}, "`sampler` and `eta`"),
    ],
)
def test_distilled_weights_refuse_what_they_have_not_learned(planned, settings, named):
    assert planned({**OWN, "distilled": True}) == ("ddim", 4, 1.0)
    assert planned({**OWN, "distilled": True}, steps=2, guidance=1.0) == ("ddim", 2, 1.0)
    with pytest.raises(UserError) as caught:
        planned({**OWN, "distilled": True}, **settings)
    assert named in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["photo_detail", "temporal_filter", "hair_colour"])
def test_finishing_is_as_the_release_says_and_the_flag_overrides(planned, name):
    def taken(named, **settings):
        return getattr(planned(named, job=True, **settings).finishing, name)

    assert not taken(None) and not taken(OWN)
    assert taken({**OWN, name: True}) and taken(OWN, **{name: True})
    assert not taken({**OWN, name: True}, **{name: False})


def test_anchors_are_the_releases_and_the_flag_overrides(planned):
    def anchors(named, **settings):
        return planned(named, job=True, cameras="arc:60x4", group=2, **settings).plan.anchors

    assert anchors(None) == anchors(OWN) == 1
    assert anchors({**OWN, "anchors": 0}) == 0
    assert anchors({**OWN, "anchors": 0}, anchors=1) == 1


@pytest.mark.parametrize(
    "settings",
    [
        {"enlarge": 0},
        {"enlarge": 9},
        {"enlarge": 2.5},
        {"enlarge": "2"},
        {"photo_detail": "no"},
        {"temporal_filter": 2},
        {"hair_colour": "white"},
    ],
)
def test_what_is_no_size_and_no_choice_is_refused(planned, settings):
    with pytest.raises(UserError, match=f"`{next(iter(settings))}`"):
        planned(OWN, **settings)


@pytest.mark.parametrize(
    "sampler",
    [
        {"method": "euler"},
        {"steps": 0},
        {"step": 4},
        {"guidance": "much"},
        {"photo_detail": 1},
        {"temporal_filter": "y"},
        {"hair_colour": "white"},
        {"anchors": -1},
        {"anchors": True},
        {"anchors": 1.0},
        4,
    ],
)
def test_a_damaged_sampler_is_named(planned, sampler):
    with pytest.raises(UserError, match="field 'sampler'"):
        planned(sampler)


@pytest.mark.parametrize("name", ["tiny", "tiny_128", "tiny_128_turbo"])
def test_the_weights_that_ship_name_theirs(name):
    folder = resolve_weights(name)
    assert read_facts(folder).sampler == ReleaseSampler(**json.loads((folder / "mvp4d.json").read_text())["sampler"])
