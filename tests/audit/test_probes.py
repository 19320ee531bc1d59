from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from torch import nn

from privface.audit.image_probe import CNNProbe, FineTunedProbe
from privface.audit.kernels import KernelSVM, SimilarityClassifier
from privface.audit.picture_probes import HOGProbe, PixelProbe
from privface.audit.planted import plant
from privface.audit.probes import PROBE_KINDS, EmbeddingProbe
from privface.errors import AuditError, ConfigError


def embeddings(count: int, *, leak: str, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gaussian embeddings into which gender is written in a known way; three quarters are men."""
    rng = np.random.default_rng(seed)
    genders = (rng.random(count) < 0.75).astype(np.int64)
    x = rng.normal(size=(count, 12))
    sign = 2 * genders - 1
    if leak == "linear":
        x[:, 0] += 2.0 * sign
    elif leak == "xor":
        corner = rng.choice([-1.0, 1.0], count)
        x[:, 0], x[:, 1] = x[:, 0] * 0.4 + 2 * corner, x[:, 1] * 0.4 + 2 * corner * sign
    elif leak == "norm":
        x *= np.where(sign > 0, 1.8, 1.0)[:, None]
    return x.astype(np.float32), genders, np.array([f"p{seed}-{k // 2}" for k in range(count)])


def fitted(probe, leak: str, *, rows: int = 300, seed: int = 0):
    train, (val, val_genders, _) = embeddings(rows, leak=leak, seed=1), embeddings(150, leak=leak, seed=2)
    return probe.fit(*train, val, val_genders, seed=seed)


def fitted_auc(probe, leak: str) -> float:
    test, genders, _ = embeddings(500, leak=leak, seed=3)
    return roc_auc_score(genders, fitted(probe, leak).scores(test))


@pytest.mark.parametrize("kind", PROBE_KINDS)
def test_linear_leak_is_found_and_none_is_invented(kind):
    assert fitted_auc(EmbeddingProbe(kind), "linear") > 0.97
    assert 0.4 < fitted_auc(EmbeddingProbe(kind), "none") < 0.6


@pytest.mark.parametrize("leak", ["xor", "norm"])
def test_curved_leaks_need_curved_probes(leak):
    assert fitted_auc(EmbeddingProbe("logistic"), leak) < 0.65
    assert fitted_auc(EmbeddingProbe("rbf-svm"), leak) > 0.93
    assert fitted_auc(EmbeddingProbe("mlp"), leak) > 0.85


@pytest.mark.parametrize("kind", PROBE_KINDS)
def test_same_seed_same_scores_and_global_generators_untouched(kind):
    test, _, _ = embeddings(60, leak="linear", seed=3)
    before = _global_generator()
    first, second = (fitted(EmbeddingProbe(kind), "linear", rows=120, seed=7) for _ in range(2))
    assert np.array_equal(first.scores(test), second.scores(test))
    assert first.setting == second.setting
    assert _global_generator() == before


def _global_generator() -> tuple[object, ...]:
    """Its whole state: a single draw moves the place among its numbers, and not one of them."""
    _, numbers, *rest = np.random.get_state()  # noqa: NPY002  # that it stays is the point
    return numbers.tobytes(), *rest


@pytest.mark.parametrize("kind", ["logistic", "mlp", "quadratic", "rbf-svm"])
def test_the_number_of_threads_changes_nothing(kind, monkeypatch):
    """Candidates are fitted side by side; each computes alone, so nothing depends on how many cores there are."""
    monkeypatch.setattr("privface.threads._loaded_torch", lambda: None)  # its own threads stay as they are
    found, (test, _, _) = [], embeddings(100, leak="xor", seed=3)
    for threads in (1, 3):
        monkeypatch.setattr("privface.threads.thread_count", lambda threads=threads: threads)
        probe = fitted(EmbeddingProbe(kind), "xor")
        found.append((probe.setting, probe.scores(test).tobytes()))
    assert found[0] == found[1]


def test_probes_refuse_what_they_cannot_learn_from():
    x, y, people = embeddings(60, leak="none", seed=1)
    broken = np.where(np.arange(60)[:, None] == 0, np.nan, x)
    for train, message in (
        ((x, np.ones_like(y), people), "both are needed"),
        ((broken, y, people), "1 embeddings of the training part"),
        ((x, y, np.full(60, "one")), "at least two training people"),
    ):
        with pytest.raises(AuditError, match=message):
            EmbeddingProbe("logistic").fit(*train, x, y, seed=0)
    with pytest.raises(ConfigError, match="logistic, linear-svm, rbf-svm"):
        EmbeddingProbe("tree")


@pytest.fixture(scope="module")
def pictures(toy):
    """Photos, genders and people of those who train, who choose and who are attacked."""
    images, people, genders = toy.people(40, 5)
    part = np.digitize(np.unique(people, return_inverse=True)[1], [20, 28])
    return [(images[part == k], genders[part == k], people[part == k]) for k in range(3)]


def fitted_to(probe, pictures, *, protect=lambda images: images, seed: int = 0):
    (train, *labels), (val, val_genders, _), _ = pictures
    return probe.fit(protect(train), *labels, protect(val), val_genders, seed=seed)


@pytest.mark.parametrize(
    ("probe", "least"), [(CNNProbe(epochs=6, width=8), 0.95), (PixelProbe(), 0.8)], ids=["cnn", "pixel-svm"]
)
def test_image_probes_read_the_cue_and_nothing_else(probe, least, pictures, toy):
    def image_auc(protect) -> float:
        test, genders, _ = pictures[2]
        return roc_auc_score(genders, fitted_to(probe, pictures, protect=protect).scores(protect(test)))

    assert image_auc(toy.identity) > least
    assert image_auc(toy.flip_cue) > least
    assert 0.2 < image_auc(toy.remove_cue) < 0.8  # 12 people: a wide null


def test_cnn_is_deterministic_alone_with_its_generator_and_blind_to_the_batch(pictures):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    seen, test = [], pictures[2][0]
    probe = CNNProbe(epochs=1, width=4, progress=lambda *step: seen.append(step))
    first, same, other = (fitted_to(probe, pictures, seed=seed) for seed in (1, 1, 2))
    scores = first.scores(test, batch_size=len(test))
    np.testing.assert_array_equal(scores, same.scores(test, batch_size=len(test)))
    assert not np.array_equal(first.scores(test), other.scores(test))
    assert seen == [(1, 1)] * 3
    assert torch.equal(torch.rand(3), expected)
    turned, mirrored = (
        np.ascontiguousarray(test[..., ::-1])[..., ::-1],
        np.ascontiguousarray(test[:, :, ::-1]),
    )
    turned.flags.writeable = False  # and it has negative strides
    np.testing.assert_array_equal(first.scores(turned, batch_size=len(test)), scores)
    for batch, images in ((1, test), (3, test), (len(test), mirrored)):
        np.testing.assert_allclose(first.scores(images, batch_size=batch), scores, atol=1e-5)


def test_networks_refuse_tiny_photos_and_one_gender(pictures):
    (images, genders, people), validation = pictures[0], pictures[1][:2]
    for crops, labels, message in (
        (images[:, :8], genders, "16 pixels or more"),
        (images, genders * 0, "needs both genders"),
    ):
        with pytest.raises(AuditError, match=message):
            CNNProbe().fit(crops, labels, people, *validation, seed=0)


@pytest.mark.parametrize("probe", [PixelProbe(), HOGProbe()], ids=lambda probe: probe.name)
def test_a_fitted_probe_on_pictures_can_be_sent_to_another_process(probe, pictures):
    fitted, photos = fitted_to(probe, pictures), pictures[2][0]
    sent = pickle.loads(pickle.dumps(fitted))  # noqa: S301  # ours
    assert np.array_equal(sent.scores(photos), fitted.scores(photos))


def test_the_input_is_standardised_by_the_photos_of_the_training(pictures):
    probe, flat = CNNProbe(epochs=1, width=4), pictures[0][0].reshape(-1, 3).astype(np.float64)
    fitted = fitted_to(probe, pictures)
    np.testing.assert_allclose(fitted.mean, flat.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(fitted.std, flat.std(axis=0), rtol=1e-6)
    assert fitted_to(probe, pictures, protect=lambda images: np.full_like(images, 7)).std.tolist() == [
        1,
        1,
        1,
    ]


def pretrained(width: int) -> nn.Module:
    """A network that somebody trained for something else: a few fixed features."""
    torch.manual_seed(0)
    features = nn.Sequential(nn.Conv2d(3, 8, 5, 2, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten())
    return nn.Sequential(features, nn.Linear(128, width))


@pytest.mark.parametrize("width", [1, 6], ids=["classifier", "matcher"])
def test_a_pretrained_network_is_taught_anew_and_every_time_from_the_same_weights(width, pictures, toy):
    probe = FineTunedProbe("mine", lambda: pretrained(width), epochs=6, batch_size=8, learning_rate=5e-3)
    assert probe.name == "fine-tuned:mine"
    test, genders, _ = pictures[2]
    fitted, again = (fitted_to(probe, pictures) for _ in range(2))
    assert roc_auc_score(genders, fitted.scores(test)) > 0.85
    assert "epoch=" in fitted.setting
    np.testing.assert_array_equal(again.scores(test), fitted.scores(test))
    hidden = fitted_to(probe, pictures, protect=toy.remove_cue).scores(toy.remove_cue(test))
    assert roc_auc_score(genders, hidden) < 0.75


class Viewing(nn.Module):
    """A network that cannot have channels last."""

    def __init__(self) -> None:
        super().__init__()
        self.features, self.last = nn.Conv2d(3, 8, 5, 4, 2), nn.Linear(8 * 8 * 8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.features(x).view(len(x), -1))


@pytest.mark.parametrize(
    ("probe", "layout"),
    [
        (CNNProbe(epochs=1), torch.channels_last),
        (CNNProbe(epochs=1, width=4), torch.contiguous_format),  # torch would write past its memory
        (FineTunedProbe("mine", Viewing, epochs=1), torch.contiguous_format),
    ],
)
def test_networks_learn_channels_last_where_they_can(probe, layout, pictures):
    fitted = fitted_to(probe, pictures)
    assert fitted.layout == layout
    assert fitted.standardise(pictures[0][0][:2]).is_contiguous(memory_format=layout)
    assert not np.isnan(fitted.scores(pictures[2][0])).any()


@pytest.mark.parametrize("kind", PROBE_KINDS)
def test_few_people_of_one_gender_are_enough_to_run(kind):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(30, 40)).astype(np.float32)
    y = (np.arange(30) < 3).astype(np.int64)
    people = np.array([f"p{k}" for k in range(30)])
    fitted = EmbeddingProbe(kind).fit(x, y, people, x[:12], y[:12], seed=0)
    assert np.isfinite(fitted.scores(x)).all()
    assert fitted.setting


def test_the_kernel_machine_equals_scikit_learn_s():
    x, y, _ = embeddings(200, leak="norm", seed=1)
    theirs = make_pipeline(StandardScaler(), SVC(C=10.0, gamma=0.05, class_weight="balanced")).fit(x, y)
    mine = KernelSVM(0.05, 10.0).fit(x.astype(np.float64), y)
    np.testing.assert_allclose(mine.decision_function(x), theirs.decision_function(x), atol=1e-4)


def test_similarity_needs_no_training_and_counts_both_genders_alike():
    rows = np.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]])
    fitted = SimilarityClassifier(2).fit(rows, np.array([1, 1, 0]))
    by_hand = (1 + 1 / np.sqrt(1.01)) / 2 - 0.0  # two men, and the only woman
    assert fitted.decision_function(np.array([[2.0, 0.0]]))[0] == pytest.approx(by_hand)


def test_gradients_read_what_mean_pictures_do_not_show():
    made = [plant("local-texture", people=n, size=32, seed=k) for k, n in enumerate((120, 60, 120))]
    parts = [(part.data, part.genders, part.people) for part in made]
    assert roc_auc_score(parts[2][1], fitted_to(HOGProbe(), parts).scores(parts[2][0])) > 0.8


@pytest.mark.parametrize("kind", ["rbf-svm", "knn", "similarity"])
def test_a_rare_class_is_among_the_rows_that_a_kernel_learns_from(kind, monkeypatch):
    monkeypatch.setattr("privface.audit.probes.MAX_KERNEL_ROWS", 20)
    rng = np.random.default_rng(0)
    x, people = rng.normal(size=(400, 4)), np.arange(400).astype(str)
    rare = (np.arange(400) == 7).astype(np.int64)
    fitted = EmbeddingProbe(kind).fit(x, rare, people, x[:60], rare[:60], seed=0)
    assert np.isfinite(fitted.scores(x)).all()
