"""Experiment 11: hidden layers beat principal components.

Claim under test: on held-out digits a fully connected autoencoder with hidden layers reconstructs with a smaller error
than a principal component analysis with the same size of code, for codes of 4, 8 and 16 (Hinton and Salakhutdinov, 2006).

    python experiments/11_deep_beats_pca/run.py
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from sklearn.decomposition import PCA

sys.path.insert(0, str(Path(__file__).parents[1]))
import family

from privface.models import variant
from privface.training import FitSettings

CODES = (4, 8, 16)


def work(folder: Path) -> dict[str, Any]:
    parts = family.digits()
    flat = [x.reshape(len(x), -1) for x in (parts.train, parts.test)]
    rows, shown = {}, [parts.test[:16]]
    for code in CODES:
        network = family.fit(
            variant("fully-connected", shape=(1, 8, 8), code=code, hidden=(256, 128)),
            parts,
            FitSettings(epochs=150, batch_size=50, learning_rate=2e-3, weight_decay=1e-2),
        )
        pca = PCA(code).fit(flat[0])
        theirs = family.mse(pca.inverse_transform(pca.transform(flat[1])), flat[1])
        mine = family.mse(family.reproduce(network, parts.test), parts.test)
        rows[code] = {"mse": mine, "mse_pca": theirs, "ratio": mine / theirs}
        if code == 8:
            projected = pca.inverse_transform(pca.transform(flat[1][:16])).reshape(shown[0].shape)
            shown += [family.reproduce(network, shown[0]), projected]
    family.sheet(folder / "digits.png", shown, enlarge=6)
    return {
        "claim": "smaller error than PCA on held-out digits at every size of code",
        "codes": rows,
        "holds": all(row["ratio"] < 1.0 for row in rows.values()),
    }


if __name__ == "__main__":
    family.run(__file__, __doc__, work)
