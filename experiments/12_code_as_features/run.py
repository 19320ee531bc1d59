"""Experiment 12: what a code is worth as features.

Question: how well does a random forest read digits from an autoencoder's code of 8 units, from principal components of the
same number, and from raw pixels? Held-out digits; mean and standard deviation over five forests. Nothing is claimed.

    python experiments/12_code_as_features/run.py
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.decomposition import PCA
from sklearn.ensemble import RandomForestClassifier

sys.path.insert(0, str(Path(__file__).parents[1]))
import family

from privface.models import variant
from privface.training import FitSettings

CODE = 8


def work(folder: Path) -> dict[str, Any]:
    parts, labels = family.digits(), family.digit_labels()
    flat = [x.reshape(len(x), -1) for x in (parts.train, parts.test)]
    network = family.fit(
        variant("fully-connected", shape=(1, 8, 8), code=CODE, hidden=(256, 128)),
        parts,
        FitSettings(epochs=150, batch_size=50, learning_rate=2e-3, weight_decay=1e-2),
    )
    pca = PCA(CODE).fit(flat[0])
    features = {
        "raw pixels (64)": flat,
        f"PCA ({CODE})": [pca.transform(x) for x in flat],
        f"code ({CODE})": [family.codes(network, x) for x in (parts.train, parts.test)],
    }
    rows = {}
    for name, (learn, judge) in features.items():
        found = [
            RandomForestClassifier(300, random_state=seed)
            .fit(learn, labels[:1000])
            .score(judge, labels[1200:])
            for seed in range(5)
        ]
        rows[name] = {"accuracy": float(np.mean(found)), "sd": float(np.std(found, ddof=1))}
    return {"claim": None, "features": rows, "holds": None}


if __name__ == "__main__":
    family.run(__file__, __doc__, work)
