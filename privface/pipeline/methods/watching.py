"""What is looked at after each epoch of training: held-out people, and a contact sheet where asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from privface.audit import EmbeddingProbe, auc, leakage, tmr_at_fmr
from privface.audit.curves import by_label
from privface.audit.matching import choose_pairs
from privface.audit.streaming import cosine_scores
from privface.data import LoadedFaces
from privface.errors import PrivfaceError
from privface.images import encode_image, to_pixels, to_unit, write_atomic
from privface.models import GenderProbe, Matcher, Protector, San2018Protector
from privface.report import contact_sheet

AnyProtector: TypeAlias = Protector | San2018Protector
"""What a method in training can show."""

_VALIDATION_FACES = 800


def validation(
    held: LoadedFaces, matchers: Sequence[Matcher], classifiers: Sequence[GenderProbe]
) -> Callable[[AnyProtector], Mapping[str, float]]:
    """What gives figures of matching and leakage on people who train nothing, cheap enough for every epoch.

    A logistic regression is retrained on each matcher's embeddings of half of these people and read on the other half.
    """
    faces = held.take(_some_people(held.table.identities))
    genders, people = faces.table.genders, faces.table.identities
    parts = np.array_split(np.arange(len(faces)), max(1, len(faces) // 64))

    def watch(protector: AnyProtector) -> Mapping[str, float]:
        figures = {}
        protected = [_protected(protector, faces.pixels[rows], genders[rows]) for rows in parts]
        pairs = choose_pairs(people, seed=0)
        for matcher in matchers:
            embeddings = np.concatenate([matcher.embed(part) for part in protected])
            genuine, impostor = (
                cosine_scores(embeddings, embeddings, rows) for rows in (pairs.genuine, pairs.impostor)
            )
            try:
                figures[f"tmr_p_p_0.01_{matcher.name}"] = tmr_at_fmr(genuine, impostor, fmr=0.01).tmr
                figures[f"leakage_logistic_{matcher.name}"] = _retrained(embeddings, genders, people)
            except PrivfaceError:  # too few people held out for this figure; the log then lacks it
                continue
        for classifier in classifiers:
            scores = np.concatenate([classifier.male_scores(part) for part in protected])
            with suppress(PrivfaceError):
                figures[f"leakage_{classifier.name}"] = leakage(auc(*by_label(scores, genders)))
        return figures

    return watch


def _some_people(people: NDArray[np.str_]) -> NDArray[np.int64]:
    """Rows of so many people, drawn at random, that there are some hundred photos; all where there are no more."""
    _, person, counts = np.unique(people, return_inverse=True, return_counts=True)
    order = np.random.default_rng(0).permutation(len(counts))
    chosen = (
        order[np.cumsum(counts[order]) <= _VALIDATION_FACES] if len(people) > _VALIDATION_FACES else order
    )
    return np.flatnonzero(np.isin(person, chosen))


def _retrained(embeddings: NDArray[Any], genders: NDArray[Any], people: NDArray[Any]) -> float:
    codes = np.unique(people, return_inverse=True)[1]
    train, chosen, test = codes % 5 < 2, codes % 5 == 2, codes % 5 > 2
    probe = EmbeddingProbe("logistic").fit(
        embeddings[train], genders[train], people[train], embeddings[chosen], genders[chosen], seed=0
    )
    return leakage(auc(*by_label(probe.scores(embeddings[test]), genders[test])))


def sheet_writer(run: Path, faces: LoadedFaces) -> Callable[[int, AnyProtector], None]:
    """What writes ``contact_epoch_NNN.jpg`` an epoch, of the first ten faces; only made where images were asked for."""
    few = faces.take(np.arange(min(len(faces), 10)))

    def write(epoch: int, protector: AnyProtector) -> None:
        sheet = contact_sheet(few.pixels, to_pixels(_protected(protector, few.pixels, few.table.genders)))
        write_atomic(run / f"contact_epoch_{epoch + 1:03d}.jpg", encode_image(sheet, ".jpg", quality=90))

    return write


def _protected(
    protector: AnyProtector, pixels: NDArray[np.uint8], genders: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Protected faces ``(N, 3, S, S)``; methods that ask for the true genders are told."""
    if isinstance(protector, San2018Protector):
        return protector(to_unit(pixels), genders)
    return protector(to_unit(pixels))
