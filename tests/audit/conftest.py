"""A toy world: 32-pixel pictures with one region that tells gender and one that tells the person."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from privface.audit import AuditData, Auditor
from privface.audit.subjects import Subjects


def toy_people(
    people: int = 60, photos: int = 6, *, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pictures uint8 (N, 32, 32, 3), identities and genders.

    The upper half shows a code of the person, the lower half a brightness that leans on gender.
    """
    rng = np.random.default_rng(seed)
    person = np.repeat(np.arange(people), photos)
    genders = (person % 2).astype(np.int64)
    code = rng.uniform(40, 215, (people, 4, 8, 3))
    upper = np.kron(code[person], np.ones((1, 4, 4, 1)))
    cue = 128 + 25 * (2 * genders - 1)[:, None, None, None] + rng.normal(0, 10, (person.size, 1, 1, 1))
    lower = np.broadcast_to(cue, (person.size, 16, 32, 3))
    images = np.concatenate([upper, lower], axis=1) + rng.normal(0, 12, (person.size, 32, 32, 3))
    return np.clip(images, 0, 255).astype(np.uint8), np.array([f"p{k:03d}" for k in person]), genders


def remove_cue(images: np.ndarray) -> np.ndarray:
    """The ideal protector: the lower half becomes grey."""
    out = images.copy()
    out[:, 16:] = 128
    return out


def flip_cue(images: np.ndarray) -> np.ndarray:
    """Makes women look like men and men like women: fools a fixed classifier, hides nothing."""
    out = images.copy()
    out[:, 16:] = 255 - out[:, 16:]
    return out


def toy_data(protect, *, people: int = 60, photos: int = 4, **changes: object) -> AuditData:
    images, identities, genders = toy_people(people, photos)
    fields = {
        "original": images,
        "protected": protect(images),
        "enrolled_original": np.ones(len(images), bool),
        "enrolled_protected": np.ones(len(images), bool),
        "files": tuple(f"{name}/{k}.png" for k, name in enumerate(identities)),
        "identities": identities,
        "genders": genders,
        "name": "toy",
    }
    return AuditData(**{**fields, **changes})


def toy_subjects(people: int, photos: int = 1, **changes: object) -> Subjects:
    """Labels alone; every second person is a man."""
    person = np.repeat(np.arange(people), photos)
    fields = {
        "files": tuple(f"{k}.png" for k in range(person.size)),
        "identities": np.array([f"p{k:03d}" for k in person]),
        "genders": (person % 2).astype(np.int64),
    }
    return Subjects(**{**fields, **changes})


class ToyMatcher:
    """The picture at 8 x 8, less its mean: tells persons by the upper half and sees the lower half too."""

    def __init__(self, *, name: str = "toy", seen: bool | None = False) -> None:
        self.name, self.seen, self.fingerprint = name, seen, "toy-1"

    def embed(self, images: np.ndarray) -> np.ndarray:
        assert images.dtype == np.float32
        assert images.min() >= 0
        assert images.max() <= 1
        small = images.reshape(len(images), 3, 8, 4, 8, 4).mean(axis=(3, 5))
        return (small - 0.5).reshape(len(images), -1).astype(np.float32)


class ToyClassifier:
    """Brightness of the lower half."""

    name, seen, fingerprint = "brightness", True, "toy-2"

    def male_scores(self, images: np.ndarray) -> np.ndarray:
        return images[:, :, 16:].mean(axis=(1, 2, 3)).astype(np.float64)


def toy_auditor(**settings: object) -> Auditor:
    """A quick audit: one matcher, and one attacker on its embeddings."""
    quick = {
        "matchers": [ToyMatcher()],
        "embedding_probes": ("logistic",),
        "image_probes": (),
        "label_budgets": (),
        "resamples": 40,
    }
    return Auditor(**{**quick, **settings})


def rows_of(result, part: str = "leakage", **wanted: object) -> list[dict]:
    """Rows of a part of an audit, those with the wanted values."""
    return [row for row in result.document[part] if all(row.get(k) == v for k, v in wanted.items())]


@pytest.fixture(scope="session")
def toy() -> SimpleNamespace:
    """The toy world's parts (importlib mode has no sibling imports)."""
    return SimpleNamespace(
        people=toy_people,
        data=toy_data,
        subjects=toy_subjects,
        auditor=toy_auditor,
        rows=rows_of,
        remove_cue=remove_cue,
        flip_cue=flip_cue,
        identity=lambda images: images.copy(),
        constant=lambda images: np.full_like(images, 128),
        Matcher=ToyMatcher,
        Classifier=ToyClassifier,
    )


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Networks this small gain nothing from threads, which only wait for each other on busy cores."""
    torch, pools = pytest.importorskip("torch"), pytest.importorskip("threadpoolctl")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pools.threadpool_limits(1):
        yield
    torch.set_num_threads(before)
