"""Training an autoencoder: it learns, the best epoch is kept, and the same arguments give the same weights."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from privface.errors import CheckpointError, ConfigError, TrainingError
from privface.models import Autoencoder, variant
from privface.training import FitSettings, UnitSource, evaluate, train_autoencoder

PLAIN = FitSettings(epochs=6, batch_size=16, learning_rate=5e-3)


def pictures(count: int, seed: int) -> np.ndarray:
    """Pictures with few degrees of freedom: two blobs of varying brightness."""
    rng = np.random.default_rng(seed)
    grid = np.linspace(-1, 1, 16)
    blobs = [np.exp(-((grid[:, None] - a) ** 2 + (grid - b) ** 2) * 6) for a, b in ((-0.4, -0.4), (0.4, 0.3))]
    weights = rng.random((count, 3, 2))
    return np.einsum("ncb,bhw->nchw", weights, np.stack(blobs)).clip(0, 1).astype(np.float32)


def fresh(name: str = "convolutional", **changes: object) -> Autoencoder:
    torch.manual_seed(1)
    return Autoencoder(variant(name, **{"shape": (3, 16, 16), "code": 8, "width": 8, "depth": 2, **changes}))


@pytest.fixture(scope="module")
def sources() -> tuple[UnitSource, UnitSource]:
    return UnitSource(pictures(160, 0)), UnitSource(pictures(48, 1))


def test_it_learns_and_keeps_the_best_epoch(sources):
    network = fresh()
    before = evaluate(network, sources[1], PLAIN)
    told: list[float] = []
    epochs = train_autoencoder(
        network, sources[0], PLAIN, validation=sources[1], progress=lambda *said: told.append(said[2])
    )
    assert len(told) == 60
    assert [e.number for e in epochs] == list(range(1, 7))
    best = min(e.validation for e in epochs)
    assert best < 0.5 * before
    assert evaluate(network, sources[1], PLAIN) == pytest.approx(best, rel=1e-5)
    assert not network.training


class KilledError(Exception):
    """Stands for a kill."""


@pytest.mark.parametrize(
    ("name", "validated"), [("variational", True), ("denoising", False), ("dropout", False)]
)
def test_a_resumed_training_ends_with_the_weights_of_an_unbroken_one(name, validated, sources, tmp_path):
    settings = FitSettings(epochs=4, batch_size=32, learning_rate=5e-3)
    options = {"validation": sources[1] if validated else None}
    unbroken, state = fresh(name), torch.get_rng_state()
    wanted = train_autoencoder(unbroken, sources[0], settings, **options)
    assert torch.equal(torch.get_rng_state(), state), "the global generator is left alone"
    assert validated or all(math.isnan(e.validation) and e.kept for e in wanted), "the last epoch is kept"
    torch.manual_seed(99)

    def die(done: int, total: int, loss: float) -> None:
        if done == 13:  # in the third of four epochs
            raise KilledError

    checkpoint = tmp_path / "resume.ckpt"
    with pytest.raises(KilledError):
        train_autoencoder(fresh(name), sources[0], settings, checkpoint=checkpoint, progress=die, **options)
    steps: list[int] = []
    resumed = fresh(name)
    found = train_autoencoder(
        resumed, sources[0], settings, checkpoint=checkpoint, resume=True,
        progress=lambda done, total, loss: steps.append(done), **options,
    )  # fmt: skip
    assert steps == list(range(11, 21)), "two epochs are not trained again"
    np.testing.assert_equal([vars(epoch) for epoch in found], [vars(epoch) for epoch in wanted])
    ended = resumed.state_dict()
    assert all(torch.equal(value, ended[name]) for name, value in unbroken.state_dict().items())
    assert not checkpoint.exists()


def test_a_training_is_not_resumed_with_other_settings_or_from_nothing(sources, tmp_path):
    checkpoint = tmp_path / "resume.ckpt"
    with pytest.raises(CheckpointError, match=r"no resume\.ckpt"):
        train_autoencoder(fresh(), sources[0], PLAIN, checkpoint=checkpoint, resume=True)

    def die(epoch: object) -> None:
        if checkpoint.exists():
            raise KilledError

    with pytest.raises(KilledError):
        train_autoencoder(fresh(), sources[0], PLAIN, checkpoint=checkpoint, on_epoch=die)
    other = FitSettings(epochs=6, batch_size=8, learning_rate=5e-3)
    with pytest.raises(CheckpointError, match="other settings"):
        train_autoencoder(fresh(), sources[0], other, checkpoint=checkpoint, resume=True)


def test_targets_are_what_it_learns_to_give(sources):
    network = fresh()
    inverse = UnitSource(1.0 - pictures(160, 0))
    held = UnitSource(1.0 - pictures(48, 1))
    train_autoencoder(
        network, sources[0], PLAIN, validation=sources[1], targets=inverse, validation_targets=held
    )
    to_itself, to_inverse = (evaluate(network, sources[1], PLAIN, targets=t) for t in (None, held))
    assert to_inverse < 0.1 * to_itself


def test_a_penalty_empties_the_code(sources):
    shares = []
    for weight in (0.0, 3.0):
        network = fresh("sparse", code=32)
        train_autoencoder(network, sources[0], FitSettings(epochs=6, batch_size=16, penalty=weight))
        with torch.no_grad():
            code = network.encode(torch.from_numpy(pictures(48, 1)))
        shares.append(float((code == 0).float().mean()))
    assert shares[1] > shares[0] + 0.2


def test_bad_settings_and_sources_are_refused(sources):
    for wrong in ({"loss": "hinge"}, {"epochs": 0}, {"learning_rate": 0.0}, {"penalty": -1.0}):
        with pytest.raises(ConfigError):
            FitSettings(**wrong)
    with pytest.raises(TrainingError, match="no image"):
        train_autoencoder(fresh(), UnitSource(pictures(0, 0)), PLAIN)
    with pytest.raises(TrainingError, match="160 images, but 48 targets"):
        train_autoencoder(fresh(), sources[0], PLAIN, targets=sources[1])
    with pytest.raises(TrainingError, match="The loss is nan"):
        train_autoencoder(fresh(), UnitSource(np.full((8, 3, 16, 16), np.nan, np.float32)), PLAIN)
