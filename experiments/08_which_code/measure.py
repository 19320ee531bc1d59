"""Erased codes under attack, kind by kind and width by width: the eraser knows one half of the people, attackers have the other."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import autoencoders
import numpy as np
import pandas as pd
from attackers import READ, Progress, attack, embeddings, prepare
from numpy.typing import NDArray
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from white_box import components, halves, tmr

from privface.erasers import RegionalTransport
from privface.images import write_atomic

RESULTS = Path(__file__).parent / "results"
MATCHERS = ("mobilefacenet_a", "facefeature", "dlib_resnet")
KINDS = {
    "matchers": (*MATCHERS,),
    **{kind: (kind,) for kind in autoencoders.KINDS},
    "matchers + convolutional": (*MATCHERS, "convolutional"),
}
"""What makes the code."""

WIDTHS = (48, 96, 192)
DROP = 48


def encoders(kind: str) -> list[str]:
    """What makes a code, as specifications of models."""
    return [
        f"onnx:{os.environ['PRIVFACE_MODELS']}/matcher_{name}.onnx"
        if name in MATCHERS
        else f"autoencoder:{autoencoders.folder(name)}"
        for name in KINDS[kind]
    ]


def seen(kind: str, progress: Progress) -> list[NDArray[np.float32]]:
    """What each encoder of a kind makes of all photos of all sets."""
    return [
        np.concatenate(
            [
                embeddings(name, spec, progress)
                if spec.startswith("onnx:")
                else autoencoders.codes(Path(spec.partition(":")[2]).name, name, progress)
                for name in READ
            ]
        )
        for spec in encoders(kind)
    ]


def measure(kinds: Sequence[str], *, seed: int, progress: Progress) -> None:
    """Measure every kind at every width that the file lacks; the file is written after each."""
    path = RESULTS / "codes.json"
    rows = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    people = pd.concat([prepare(name, progress)[1] for name in READ], ignore_index=True)
    for kind in kinds:
        parts = None
        for width in WIDTHS:
            key = {"kind": kind, "width": width, "seed": seed}
            if any(key.items() <= row.items() for row in rows):
                continue
            parts = seen(kind, progress) if parts is None else parts
            rows.append({**key, **_cell(width, people, parts, seed)})
            write_atomic(path, (json.dumps(rows, indent=1) + "\n").encode())
            print(json.dumps({**rows[-1], "before": None, "attackers": None}), flush=True)


def _cell(width: int, people: pd.DataFrame, parts: list[NDArray[np.float32]], seed: int) -> dict[str, Any]:
    """One eraser: its code's matches and what attackers read, before (one attacker) and after (four)."""
    fit, others = halves(people, seed)
    read = np.flatnonzero(people["read"] & (people["set"] == "lfw"))
    male, names = people["male"].to_numpy(), people["identity"].to_numpy(str)
    plain, code = components(parts, fit, width).astype(np.float32), erased(width, people, parts, fit, seed)
    shown = {"lfw": (code[read], male[read])}
    after = attack((code[others], male[others]), shown, seed=seed)["lfw"]
    before = attack((plain[others], male[others]), {"lfw": (plain[read], male[read])}, seed=seed, count=1)
    lfw = fit[people["set"][fit] == "lfw"]
    return {
        "tmr": tmr(code[read], names[read]),
        "tmr_before": tmr(plain[read], names[read]),
        "tmr_learnt_metric": tmr(_by_people(code, lfw, names)[read], names[read]),
        "leakage": after["worst"],
        "leakage_before": before["lfw"]["worst"],
        "attackers": after["attackers"],
    }


def erased(
    width: int,
    people: pd.DataFrame,
    parts: Sequence[NDArray[np.float32]],
    fit: NDArray[np.int64],
    seed: int,
) -> NDArray[np.float32]:
    """Everybody's erased code; components and eraser are fitted on some rows."""
    whole, male = components(parts, fit, width + DROP).astype(np.float32), people["male"].to_numpy()
    eraser = RegionalTransport(drop=DROP, random_state=seed)
    eraser.fit(whole[fit], male[fit], sets=people["set"].to_numpy(str)[fit])
    return np.asarray(eraser.transform(whole), np.float32)


def _by_people(
    code: NDArray[np.float32], rows: NDArray[np.int64], names: NDArray[np.str_]
) -> NDArray[np.float32]:
    """The code in a metric that people of the eraser's half teach: what differs between them counts, what differs within does not."""
    several = rows[pd.Series(names[rows]).duplicated(keep=False).to_numpy()]
    learnt = LinearDiscriminantAnalysis(solver="eigen", shrinkage=0.1).fit(code[several], names[several])
    return np.asarray(learnt.transform(code), np.float32)
