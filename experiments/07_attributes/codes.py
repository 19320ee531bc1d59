"""Chains of erasers on codes alone, before a face is drawn: what attackers with few and with many labelled people read."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

sys.path.append(str(Path(__file__).parents[1] / "06_erased_code"))
from attackers import READ, SVM_ROWS, Progress, embeddings, prepare
from white_box import components, tmr

from privface.attributes import Attribute
from privface.erasers import RegionalTransport
from privface.images import write_atomic
from privface.pipeline.methods.erased_code import kept_classes

Labels = Mapping[str, NDArray[np.int64]]
"""The class of every row by attribute, -1 where it has no label."""


@dataclass(frozen=True)
class Chain:
    """What is erased of a code, and how.

    ``jointly``: one eraser whose classes are all products of the attributes' classes. ``balanced``: what is hidden is balanced
    within each class of what is kept.
    """

    hidden: tuple[str, ...]
    size: int = 96
    drop: int = 16
    rounds: int = 3
    jointly: bool = False
    balanced: bool = False


ALONE = (("gender",), ("race",), ("age",), ("gender", "race", "age"))
CHAINS = (
    Chain((), drop=0),
    *(Chain(hidden, size, drop) for size, drop in ((96, 0), (80, 48), (96, 16)) for hidden in ALONE),
    Chain(ALONE[-1], rounds=5),
    *(Chain(("gender", "race"), drop=0, jointly=jointly) for jointly in (False, True)),
    *(Chain(hidden, drop=drop, balanced=True) for drop in (0, 16) for hidden in ALONE[:3]),
)


def measure(specs: Sequence[str], attributes: Sequence[Attribute], path: Path, progress: Progress) -> None:
    """Measure every chain that the file lacks; it is written after each."""
    rows = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    people = pd.concat([prepare(name, progress)[1] for name in READ], ignore_index=True)
    learn = people["learn"].to_numpy()
    words = {a.name: people[a.name].fillna("").to_numpy(str) for a in attributes}
    labels = {a.name: a.read(np.where(learn | people["read"], words[a.name], ""))[1] for a in attributes}
    seen = [np.concatenate([embeddings(name, spec, progress) for name in READ]) for spec in specs]
    for number, chain in enumerate(CHAINS):
        key = json.loads(json.dumps(asdict(chain)))
        if not any(key.items() <= row.items() for row in rows):
            rows.append({**key, **_cell(chain, people, labels, seen)})
            write_atomic(path, (json.dumps(rows, indent=1) + "\n").encode())
        progress("codes", number + 1, len(CHAINS))


def _cell(chain: Chain, people: pd.DataFrame, labels: Labels, seen: Sequence[Any]) -> dict[str, Any]:
    learn, read = people["learn"].to_numpy(), people["read"].to_numpy()
    adults, lfw = read & (people["set"] == "utkface").to_numpy(), read & (people["set"] == "lfw").to_numpy()
    half = np.random.default_rng(0).random(len(people)) < 0.5  # UTKFace has no people: photos are divided
    plain = components(seen, np.flatnonzero(learn), chain.size + chain.drop)
    sets = people["set"].to_numpy(str)
    code, of_half = (erased(plain, chain, labels, sets, rows) for rows in (learn, learn & half))
    few, many = {}, {}
    for name, codes in labels.items():
        rows = np.random.default_rng(1).permutation(np.flatnonzero(adults & (codes >= 0)))
        parts = rows[: 2 * len(rows) // 3], rows[2 * len(rows) // 3 :]
        few[name] = max(_reads(code, codes, *parts, kind) for kind in ("rbf-svm", "logistic", "mlp"))
        others = np.random.default_rng(2).permutation(np.flatnonzero(learn & ~half & (codes >= 0)))
        many[name] = _reads(of_half, codes, others[:SVM_ROWS], rows, "rbf-svm")
    matched = tmr(code[lfw].astype(np.float32), people["identity"][lfw].to_numpy(str))
    return {"few": few, "many": many, "tmr": matched}


def erased(
    code: NDArray[np.float64], chain: Chain, labels: Labels, sets: NDArray[np.str_], fit: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """The code after the chain, fitted on some rows, in turn and in rounds, as the method does it; or jointly."""
    columns = [labels[name] for name in chain.hidden]
    if chain.jointly:
        known = np.all([codes >= 0 for codes in columns], axis=0)
        cells = np.unique(np.stack(columns, axis=1), axis=0, return_inverse=True)[1]
        columns = [np.where(known, cells, -1)]
    strata = kept_classes(labels, chain.hidden if chain.balanced else tuple(labels))
    each, rest = divmod(chain.drop, max(len(columns), 1))
    for number in range(chain.rounds):
        for place, codes in enumerate(columns):
            rows = fit & (codes >= 0)
            eraser = RegionalTransport(drop=0 if number else each + (place < rest), regions=1)
            code = eraser.fit(code[rows], codes[rows], sets=sets[rows], strata=strata[rows]).transform(code)
    return code


def _reads(
    code: NDArray[np.float64],
    codes: NDArray[np.int64],
    train: NDArray[np.int64],
    read: NDArray[np.int64],
    kind: str,
) -> float:
    """Balanced accuracy of one attacker who learns from some rows and reads others."""
    models: dict[str, Any] = {
        "rbf-svm": SVC(class_weight="balanced", gamma=1 / code.shape[1]),
        "logistic": LogisticRegression(class_weight="balanced", C=0.05, max_iter=500),
        "mlp": MLPClassifier((128,), alpha=0.01, early_stopping=True, max_iter=60, random_state=0),
    }
    scale = StandardScaler().fit(code[train])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = models[kind].fit(scale.transform(code[train]), codes[train])
    return round(float(balanced_accuracy_score(codes[read], model.predict(scale.transform(code[read])))), 4)


def table(path: Path) -> str:
    """A row for each chain: few labelled people, in brackets many."""
    lines = [
        "| values, dropped, rounds | hidden | gender | race | age | TMR@1e-2, 1e-3 |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in json.loads(path.read_text(encoding="utf-8")):
        how = "".join(f" {word}" for word in ("jointly", "balanced") if row[word])
        rounds = f"{row['rounds']}{how}" if row["hidden"] else "-"
        told = [f"{row['few'][name]:.3f} ({row['many'][name]:.3f})" for name in ("gender", "race", "age")]
        matched = ", ".join(f"{row['tmr'][fmr]:.3f}" for fmr in ("0.01", "0.001"))
        hidden = ", ".join(row["hidden"]) or "nothing"
        cells = [f"{row['size']}, {row['drop']}, {rounds}", hidden, *told, matched]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
