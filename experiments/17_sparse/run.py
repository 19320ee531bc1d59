"""Experiment 17: a code that is mostly zero.

Claim under test: with an L1 penalty at least half of the code is exactly zero on held-out digits, at an error at most 25 %
above that of the same network with a dense code.

    python experiments/17_sparse/run.py
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
import family

from privface.models import variant
from privface.training import FitSettings

CODE = 256  # four for every pixel: a sparse code is a large one


def work(folder: Path) -> dict[str, Any]:
    parts = family.digits()
    settings = FitSettings(epochs=120, batch_size=50, learning_rate=2e-3)
    dense = family.fit(variant("fully-connected", shape=(1, 8, 8), code=CODE, hidden=(256,)), parts, settings)
    error = family.mse(family.reproduce(dense, parts.test), parts.test)
    rows, shown = {}, [parts.test[:16], family.reproduce(dense, parts.test[:16])]
    for penalty in (0.0, 0.01, 0.03, 0.04, 0.05):
        network = family.fit(
            variant("fully-connected", shape=(1, 8, 8), code=CODE, hidden=(256,), kind="sparse"),
            parts,
            settings.changed(penalty=penalty),
        )
        code = family.codes(network, parts.test)
        found = family.mse(family.reproduce(network, parts.test), parts.test)
        rows[penalty] = {
            "zeros_validation": float(np.mean(family.codes(network, parts.val) == 0.0)),
            "zeros": float(np.mean(code == 0.0)),
            "zeros_of_used_units": float(np.mean(code[:, (code > 0).any(axis=0)] == 0.0)),
            "units_never_used": float(np.mean((code == 0.0).all(axis=0))),
            "mse": found,
            "excess": found / error - 1.0,
        }
        if penalty == 0.04:
            shown.append(family.reproduce(network, parts.test[:16]))
    family.sheet(folder / "digits.png", shown, enlarge=6)
    chosen = min(penalty for penalty, row in rows.items() if row["zeros_validation"] >= 0.5)
    return {
        "claim": "at least 50 % exact zeros at most 25 % more error than the dense code, at the smallest penalty that"
        " gives half zeros on validation digits",
        "chosen_penalty": chosen,
        "mse_dense": error,
        "penalties": rows,
        "holds": rows[chosen]["zeros"] >= 0.5 and rows[chosen]["excess"] <= 0.25,
    }


if __name__ == "__main__":
    family.run(__file__, __doc__, work)
