"""Gains that put generated colours into a photo's light."""

import torch

from mvp4d_export.relight import MOST, local_gains, mean_gain

MEAN = torch.tensor([1.0, 1.0, 1.0])
SKIN, HAIR = torch.tensor([0.8, 0.6, 0.5]), torch.tensor([0.2, 0.15, 0.1])


def test_a_gain_holds_where_it_was_seen_and_fades_to_the_mean():
    """Skin on a line of 40 cm, 1 mm apart, lit 1.2 times as bright on the first 5 cm, which alone the photo shows."""
    places = torch.zeros(400, 3)
    places[:, 0] = torch.arange(400) / 1000
    generated = SKIN.repeat(400, 1)
    shown = (places[:, 0] < 0.05).float()
    gains = local_gains(places, generated, 1.2 * generated, shown, MEAN)
    torch.testing.assert_close(gains[10], torch.full((3,), 1.2), atol=0.03, rtol=0)
    assert (gains[50:, 0].diff() < 1e-6).all()
    assert 1 < float(gains[-1, 0]) < 1.06


def test_hair_takes_nothing_of_the_skins_gain():
    places = torch.rand(300, 3, generator=torch.Generator().manual_seed(0)) * 0.02
    hair = torch.arange(300) >= 200
    generated = torch.where(hair[:, None], HAIR, SKIN)
    photo = generated * torch.where(hair, 0.6, 1.3)[:, None]
    gains = local_gains(places, generated, photo, torch.ones(300), MEAN)
    torch.testing.assert_close(gains[hair], torch.full((100, 3), 0.6), atol=0.06, rtol=0)
    torch.testing.assert_close(gains[~hair], torch.full((200, 3), 1.3), atol=0.06, rtol=0)


def test_nothing_shown_is_the_mean_and_gains_are_bounded():
    places, generated = torch.zeros(5, 3), SKIN.repeat(5, 1)
    assert (local_gains(places, generated, generated, torch.zeros(5), MEAN) == MEAN).all()
    assert float(local_gains(places, generated, 9 * generated, torch.ones(5), MEAN).max()) <= MOST


def test_the_mean_gain_is_a_median_by_weight():
    generated = SKIN.repeat(5, 1)
    photo = generated * torch.tensor([0.5, 1.0, 1.1, 1.2, 3.0])[:, None]
    expected = torch.full((3,), 1.2)
    torch.testing.assert_close(mean_gain(generated, photo, torch.tensor([1.0, 1.0, 1.0, 3.0, 2.0])), expected)
