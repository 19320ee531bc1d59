from __future__ import annotations

import numpy as np
import pytest
import torch

from privface.audit import auc
from privface.errors import TrainingError
from privface.images import to_unit
from privface.models import to_input
from privface.records import InputSpec
from privface.training import ArraySource, train_gender_classifier, train_matcher

SPEC = InputSpec(size=(16, 16), value_range=(-1.0, 1.0))
SMALL = {"spec": SPEC, "batch_size": 16, "width": 8, "stages": 1}


def outputs(network, pixels: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return network(to_input(torch.from_numpy(to_unit(pixels)), SPEC)).double().numpy()


def test_classifier_learns_a_planted_cue_from_an_unbalanced_set(toy):
    pixels, genders = toy.people(120)
    keep = np.flatnonzero((genders == 1) | (np.arange(120) % 6 == 0))
    network = train_gender_classifier(ArraySource(pixels[keep]), genders[keep], epochs=6, **SMALL)
    fresh, labels = toy.people(60, seed=4)
    scores = outputs(network, fresh)[:, 0]
    assert auc(scores[labels == 1], scores[labels == 0]) > 0.95
    assert not network.training


def test_seed_decides_and_the_callers_generator_is_left_alone(toy):
    pixels, genders = toy.people(32)
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    a, b, c = (
        train_gender_classifier(ArraySource(pixels), genders, epochs=1, seed=s, **SMALL) for s in (0, 0, 1)
    )
    assert torch.equal(torch.rand(1), expected)
    np.testing.assert_array_equal(outputs(a, pixels), outputs(b, pixels))
    assert np.abs(outputs(a, pixels) - outputs(c, pixels)).max() > 1e-3


def test_matcher_brings_photos_of_a_person_together():
    rng = np.random.default_rng(0)
    people = np.repeat(np.arange(12), 4)
    code = np.kron(rng.uniform(40, 215, (12, 4, 4, 3)), np.ones((1, 8, 8, 1)))
    pixels = np.clip(code[people] + rng.normal(0, 25, (48, 32, 32, 3)), 0, 255).astype(np.uint8)
    calls: list[tuple[int, int]] = []
    network = train_matcher(
        ArraySource(pixels),
        people,
        dimensions=8,
        epochs=8,
        learning_rate=1e-2,
        progress=lambda done, total, _: calls.append((done, total)),
        **SMALL,
    )
    out = outputs(network, pixels)
    out /= np.linalg.norm(out, axis=1, keepdims=True)
    cosines = out @ out.T
    same = people[:, None] == people[None, :]
    off = ~np.eye(48, dtype=bool)
    assert auc(cosines[same & off], cosines[~same]) > 0.95
    assert calls[-1] == (24, 24)
    with pytest.raises(TrainingError, match="1 person cannot train a matcher"):
        train_matcher(ArraySource(pixels), np.zeros(48, np.int64), **SMALL)
