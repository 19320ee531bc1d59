"""Experiment 18: a variational autoencoder's code follows the distribution that it is sampled from.

Claims under test, on digits: the divergence of the code equals a Monte Carlo estimate within 1 %; drawn codes of held-out
digits, taken together, have means below 0.1 and variances between 0.8 and 1.2 in every unit. Reported: how well a random
forest tells drawn digits from real ones (a classifier two-sample test, Lopez-Paz and Oquab, ICLR 2017; 0.5 is best).

    python experiments/18_variational/run.py
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import cross_val_score
from torch.distributions import Normal

sys.path.insert(0, str(Path(__file__).parents[1]))
import family

from privface.models import variant
from privface.models.parts import GaussianCode, gaussian_divergence
from privface.training import FitSettings

CODE = 8


def work(folder: Path) -> dict[str, Any]:
    parts = family.digits()
    network = family.fit(
        variant("fully-connected", shape=(1, 8, 8), code=CODE, hidden=(256, 128), kind="variational"),
        parts,
        FitSettings(epochs=200, batch_size=50, learning_rate=2e-3, loss="bce", penalty=1.0),
    )
    images, generator = torch.from_numpy(parts.test), torch.Generator().manual_seed(0)
    with torch.inference_mode():
        mean, log_variance = GaussianCode.moments(network.features(images))
        spread = (0.5 * log_variance).exp()
        exact = float(gaussian_divergence(mean, log_variance).mean())
        estimate = monte_carlo(mean, spread, generator)
        drawn_codes = (mean + spread * torch.randn(20, *mean.shape, generator=generator)).flatten(0, 1)
        drawn = network.sample(len(parts.test), generator=generator).numpy()
    centre, width = drawn_codes.mean(0).abs().max(), drawn_codes.var(0)
    holds = (
        abs(exact / estimate - 1.0) <= 0.01
        and float(centre) < 0.1
        and 0.8 <= float(width.min()) <= float(width.max()) <= 1.2
    )
    family.sheet(folder / "drawn_digits.png", [drawn[k : k + 16] for k in range(0, 96, 16)], enlarge=6)
    return {
        "claim": "divergence within 1 % of Monte Carlo; aggregated code: means below 0.1, variances 0.8 to 1.2",
        "divergence_nats": exact,
        "monte_carlo": estimate,
        "largest_mean": float(centre),
        "variance": [float(width.min()), float(width.max())],
        "two_sample_accuracy": told_apart(parts.test, drawn),
        "two_sample_accuracy_of_reproductions": told_apart(parts.test, family.reproduce(network, parts.test)),
        "two_sample_accuracy_of_other_real_digits": told_apart(parts.test, parts.train[: len(parts.test)]),
        "holds": bool(holds),
    }


def monte_carlo(mean: torch.Tensor, spread: torch.Tensor, generator: torch.Generator) -> float:
    """Mean of log q(z) - log p(z) over 2,000 draws of every image's code."""
    total = 0.0
    for _ in range(20):
        code = mean + spread * torch.randn(100, *mean.shape, generator=generator)
        total += float((Normal(mean, spread).log_prob(code) - Normal(0.0, 1.0).log_prob(code)).sum(-1).mean())
    return total / 20


def told_apart(a: np.ndarray, b: np.ndarray) -> float:
    """Accuracy of a random forest, five folds."""
    both = np.concatenate([a, b]).reshape(len(a) + len(b), -1)
    labels = np.repeat([0, 1], [len(a), len(b)])
    return float(cross_val_score(RandomForestClassifier(300, random_state=0), both, labels, cv=5).mean())


if __name__ == "__main__":
    family.run(__file__, __doc__, work)
