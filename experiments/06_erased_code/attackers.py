"""Photos, what matchers see on them, and attackers with people of their own. Crops and embeddings are biometric data and stay in runs/06."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.discriminant_analysis import QuadraticDiscriminantAnalysis
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.neural_network import MLPClassifier
from sklearn.svm import SVC
from sklearn.utils.class_weight import compute_sample_weight

from privface.audit import auc, balanced_accuracy
from privface.data import open_source
from privface.images import to_unit
from privface.models import load_matcher
from privface.pipeline import load_aligned

DATA = Path("runs/06/data")
READ = {"lfw": "lfw", "utkface": "utkface adults", "extra": "cfp"}
"""Sets, and what the photos of each that attackers read are called."""

SVM_ROWS = 6_000
"""Rows that a kernel machine learns from, at most."""

Progress = Callable[[str, int, int], None]
Rows = tuple[NDArray[Any], NDArray[np.int64]]
"""Embeddings ``(N, D)`` and genders ``(N,)``."""


def prepare(name: str, progress: Progress) -> tuple[NDArray[np.uint8], pd.DataFrame]:
    """All photos of a set, aligned at the first call, and their labels; a photo without identity counts as a person.

    Added columns: ``set``, ``male`` (0, 1 or -1), ``learn`` (labelled, split ``train``, from 10 years), ``read`` (split ``val``, from 18).
    """
    if not (DATA / f"{name}.csv").is_file():
        folder = Path(os.environ["PRIVFACE_DATA"])
        listed = open_source(f"table:{folder}", labels=folder / f"{name}.csv")
        mode = "aligned" if name == "extra" else "landmarks"
        faces = load_aligned(listed, mode=mode, size=112, progress=progress, stage=f"align {name}")
        rows = pd.read_csv(folder / f"{name}.csv", dtype=str, keep_default_na=False).set_index("file")
        DATA.mkdir(parents=True, exist_ok=True)
        np.save(DATA / f"{name}.npy", faces.pixels)
        rows.loc[faces.table.files].reset_index().to_csv(
            DATA / f"{name}.csv", index=False
        )  # last: all is there
    table = pd.read_csv(DATA / f"{name}.csv", dtype=str, keep_default_na=False)
    people = table.get("identity", pd.Series("", table.index))
    table["identity"] = people.where(people != "", "file:" + table["file"])
    table["set"], table["male"] = name, table["gender"].map({"female": 0, "male": 1}).fillna(-1).astype(int)
    age = pd.to_numeric(table.get("age", pd.Series(None, table.index)), errors="coerce")
    for column, split, least in (("learn", "train", 10), ("read", "val", 18)):
        table[column] = (table["split"] == split) & (table["male"] >= 0) & ~(age < least)
    return np.load(DATA / f"{name}.npy", mmap_mode="r"), table


def embeddings(name: str, spec: str, progress: Progress) -> NDArray[np.float32]:
    """What a matcher sees on all photos of a set; computed at the first call."""
    stem = Path(spec.partition(":")[2]).stem.removeprefix("matcher_")
    if not spec.startswith("onnx:"):  # a network of ours may be trained anew under its name
        stem += f"-{load_matcher(spec).fingerprint[:8]}"
    path = DATA / f"{name}_{stem}.npy"
    if not path.is_file():
        found = in_parts(load_matcher(spec).embed, prepare(name, progress)[0], f"{stem} on {name}", progress)
        np.save(path.with_suffix(".part.npy"), found)
        path.with_suffix(".part.npy").replace(path)
    return np.asarray(np.load(path))


def in_parts(
    look: Callable[[NDArray[np.float32]], Any], pixels: NDArray[np.uint8], stage: str, progress: Progress
) -> NDArray[Any]:
    """What is seen on aligned photos, 64 at a time."""
    parts = []
    for start in range(0, len(pixels), 64):
        parts.append(look(to_unit(np.asarray(pixels[start : start + 64]))))
        progress(stage, min(start + 64, len(pixels)), len(pixels))
    return np.concatenate(parts)


def _models(seed: int) -> dict[str, Any]:
    return {
        "rbf-svm": SVC(class_weight="balanced", cache_size=500),  # its gamma follows size and variance
        "quadratic": GridSearchCV(
            QuadraticDiscriminantAnalysis(solver="eigen", priors=[0.5, 0.5]),
            {"shrinkage": [0.1, 0.3, 0.6, 0.9]},
            scoring="roc_auc",
            cv=3,
        ),
        "logistic": LogisticRegression(class_weight="balanced", max_iter=500),
        "mlp": MLPClassifier((256,), alpha=1e-3, early_stopping=True, max_iter=60, random_state=seed),
    }


def male_scores(
    train: Rows, read: Sequence[NDArray[Any]], *, seed: int, count: int = 4
) -> dict[str, list[NDArray[np.float64]]]:
    """Scores of each table that is read, positive for men, by attacker: the first ``count`` of them, who learn from other people."""
    centre, scale, found = train[0].mean(axis=0), train[0].var(axis=0).mean() ** 0.5, {}
    x, *tables = ((np.asarray(part, np.float64) - centre) / scale for part in (train[0], *read))
    chosen = np.random.default_rng([seed, 6]).permutation(len(x))
    for kind, model in list(_models(seed).items())[:count]:
        rows = chosen[: SVM_ROWS if kind == "rbf-svm" else None]
        weights = (
            {"sample_weight": compute_sample_weight("balanced", train[1][rows])} if kind == "mlp" else {}
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(x[rows], train[1][rows], **weights)
        if kind == "mlp":
            found[kind] = [model.predict_proba(part)[:, 1] - 0.5 for part in tables]
        else:
            found[kind] = [model.decision_function(part) for part in tables]
    return found


def attack(train: Rows, read: Mapping[str, Rows], **options: Any) -> dict[str, Any]:
    """By set that is read: each attacker's balanced accuracy and AUC, and the worst of them."""
    scores = male_scores(train, [x for x, _ in read.values()], **options)
    return {
        name: judged({kind: found[k] for kind, found in scores.items()}, male)
        for k, (name, (_, male)) in enumerate(read.items())
    }


def judged(scores: Mapping[str, NDArray[np.float64]], male: NDArray[np.int64]) -> dict[str, Any]:
    """Each attacker's balanced accuracy and AUC, and the worst of them, by balanced accuracy."""
    each = {}
    for kind, found in scores.items():
        area = auc(found[male == 1], found[male == 0])
        accuracy = balanced_accuracy(found, male, 0.0)
        each[kind] = {"balanced_accuracy": round(accuracy, 4), "auc": round(float(area), 4)}
    worst = max(each, key=lambda kind: each[kind]["balanced_accuracy"])
    return {"worst": {"attacker": worst, **each[worst]}, "attackers": each}


def between_halves(x: NDArray[Any], male: NDArray[np.int64], people: NDArray[np.str_]) -> dict[str, Any]:
    """Each half of the people is read by attackers who learnt from the other half; figures are of all people together."""
    names = np.unique(people)
    first = np.isin(people, np.random.default_rng(7).permutation(names)[: len(names) // 2])
    whole: dict[str, NDArray[np.float64]] = {}
    for half in (first, ~first):
        for kind, (found,) in male_scores((x[~half], male[~half]), [x[half]], seed=0).items():
            whole.setdefault(kind, np.zeros(len(x)))[half] = found
    return {**judged(whole, male), "photos": len(x), "people": len(names)}
