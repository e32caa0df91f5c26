"""What hangs together, against chains told by hand."""

import torch

from mvp4d_export.joined import joined


def line(*metres: float) -> torch.Tensor:
    return torch.tensor([[x, 0.0, 0.0] for x in metres])


def test_steps_of_one_length():
    places = line(0.0, 0.9, 1.8, 3.0, 3.5)
    begin = torch.tensor([True, False, False, False, False])
    assert joined(places, begin, 1.0).tolist() == [True, True, True, False, False]
    assert joined(places, begin, 1.3).all()
    assert not joined(places, ~begin & False, 1.3).any()


def test_the_longer_reach_of_two_counts():
    places = line(0.0, 1.0, 1.5, 4.5)
    begin = torch.tensor([True, False, False, False])
    assert joined(places, begin, torch.tensor([0.1, 1.0, 0.1, 2.0])).tolist() == [True, True, True, False]
    assert joined(places, begin, torch.tensor([0.1, 0.1, 0.6, 2.6])).tolist() == [True, False, False, False]
    assert joined(places, begin, torch.tensor([1.0, 0.1, 0.1, 2.6])).tolist() == [True, True, False, False]


def test_nothing():
    assert joined(torch.zeros(0, 3), torch.zeros(0, dtype=torch.bool), 1.0).shape == (0,)
