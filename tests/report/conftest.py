"""A made-up audit with every part that a report shows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.stats import norm


def measured(value: float, half: float = 0.02) -> dict[str, Any]:
    return {"value": value, "low": value - half, "high": value + half, "n": 900}


def missing(reason: str) -> dict[str, Any]:
    return {"value": None, "low": None, "high": None, "n": 0, "reason": reason}


def matching_row(matcher: str, mode: str, impostors: str, tmr: float) -> dict[str, Any]:
    rates = {
        "0.01": measured(tmr),
        "0.001": measured(tmr - 0.1),
        "0.0001": missing("79 impostors are too few"),
    }
    return {
        "matcher": matcher, "seen": matcher == "net-a", "mode": mode, "impostors": impostors, "tmr": rates,
        "genuine_pairs": 6165, "impostor_pairs": 1_650_000, "eer": measured(0.03), "auc": measured(0.97),
        "d_prime": measured(3.5), "fte": measured(0.01, 0.0),
    }  # fmt: skip


def leakage_row(probe: str, kind: str, medium: str, leakage: float) -> dict[str, Any]:
    return {
        "probe": probe, "kind": kind, "input": medium, "seen": False, "original_auc": measured(0.97),
        "auc": measured(leakage), "leakage": measured(leakage), "balanced_accuracy": measured(leakage - 0.05),
        "eer": measured(1 - leakage), "measurable": True, "reason": None, "bits": measured(0.3),
        "privacy_gain": measured(2.0), "pic": measured(-1.2), "suppression_rate": measured(0.1),
        "setting": "C=1,gamma=1/D", "validation_leakage": leakage,
    }  # fmt: skip


@pytest.fixture
def audit() -> dict[str, Any]:
    """All parts but the curves, whose figures take longest to draw."""
    limits = {"net-a": 0.0, "net-b": 0.02, "all": 0.0, "same-gender": 0.05}
    readers = (("rbf-svm", "embedding:net-b"), ("cnn", "image"))
    worst = {"probe": "rbf-svm", "input": "embedding:net-b"}
    return {
        "schema": "privface.audit/2",
        "verdict": {
            "status": "leaks", "headline": "Gender can be read.", "sentences": ["One.", "Two.", "Three.", "Four."],
        },
        "data": {
            "name": "toy", "images": 400, "people": 80, "female": 200, "male": 200,
            "attacker_people": {"train": 40, "val": 12, "test": 28},
        },
        "provenance": {"privface": "0.1.0", "seed": 0, "matchers": [{"name": "net-a"}]},
        "matching": [
            matching_row(name, mode, impostors, tmr - limits[name] - limits[impostors])
            for name in ("net-a", "net-b")
            for mode, tmr in (("O-O", 0.996), ("P-P", 0.942), ("P-O", 0.93))
            for impostors in ("all", "same-gender")
        ],
        "leakage": [
            leakage_row("stock", "frozen", "image", 0.62),
            leakage_row("cnn", "retrained", "image", 0.78),
            leakage_row("rbf-svm", "retrained", "embedding:net-b", 0.87),
            leakage_row("recover+cnn", "recovered", "image", 0.80),
        ],
        "mode": "images",
        "frozen_gaps": {
            "seen": {"probe": "own", "leakage": measured(0.55), "gap": measured(0.32)},
            "unseen": {"probe": "stock", "leakage": measured(0.62), "gap": measured(0.25)},
        },
        "recovery": [
            {
                "input": "image", "recoverer": "denoiser", "probe": "recover+cnn",
                "plain": measured(0.78), "recovered": measured(0.80), "gain": measured(0.02),
            }
        ],
        "irreversibility": [
            {
                "input": "image", "recoverer": "denoiser", "matcher": "net-b", "seen": False,
                "original": {"0.01": measured(0.981), "0.001": measured(0.961)},
                "protected": {"0.01": measured(0.412), "0.001": measured(0.313)},
                "recovered": {"0.01": measured(0.634), "0.001": missing("too few strangers")},
                "people": 28, "genuine_pairs": 140, "impostor_pairs": 9000,
            }
        ],
        "unlinkability": [
            {
                "matcher": "net-b", "seen": False, "d_sys": measured(0.874), "d_sys_same_photo": measured(0.951),
                "mated_pairs": 480, "non_mated_pairs": 79000, "local": {"cuts": [0.2], "d": [0.0, 0.9]},
            }
        ],
        "set_attack": [
            {
                "probe": probe, "input": medium, "photos": count, "people": 200 // count,
                "leakage": measured(0.78 + 0.02 * count), "single": measured(0.74 + 0.02 * count),
            }
            for probe, medium in readers
            for count in (2, 4, 8)
        ],
        "label_budget": [
            {
                "probe": probe, "input": medium, "people": count, "photos": 2 * count,
                "leakage": measured(0.6 + 0.1 * np.log10(count)),
            }
            for probe, medium in readers
            for count in (50, 200, 591)
        ],
        "battery": {
            "made": "2026-11-21",
            "same_libraries": False,
            "leaks": [
                {
                    "leak": leak, "medium": "embedding", "bayes": 0.9, "best_probe": "mlp", "best": best,
                    "found": best > 0.88, "probes": {"mlp": best},
                }
                for leak, best in (("linear", 0.895), ("xor", 0.86))
            ],
            "nulls": [{"probe": "battery", "medium": "embedding", "sets": 200, "alarms": 2, "rate": 0.01}],
        },
        "pairs_protocol": [
            {"matcher": "net-b", "mode": "P-P", "accuracy": measured(0.97), "folds": 10, "pairs": 6000}
        ],
        "worst_retrained": {**worst, "leakage": measured(0.87)},
        "worst_upper": {**worst, "leakage": {"value": 0.89, "n": 900}},
        "worst_frozen": {"probe": "stock", "input": "image", "leakage": measured(0.62)},
        "illusion_gap": measured(0.25),
        "quality": {"psnr": measured(22.4, 0.3), "ssim": measured(0.861, 0.004)},
        "cohorts": [
            {
                "cohort": "gender", "value": value, "n": 200, "fnmr_before": measured(0.02, 0.01),
                "fnmr_after": measured(fnmr, 0.01), "ratio": measured(ratio, 0.1),
                "leakage": missing("one gender only"),
            }
            for value, fnmr, ratio in (("female", 0.05, 2.5), ("male", 0.022, 1.1))
        ],
        "curves": {"det": []},
    }  # fmt: skip


@pytest.fixture
def full_audit(audit: dict[str, Any]) -> dict[str, Any]:
    """With the curves of two matchers."""
    fmr, edges = np.logspace(-5, 0, 40), np.linspace(-0.4, 1.0, 61)
    for name in ("net-a", "net-b"):
        for mode, separation, place in (("O-O", 4.0, 0.65), ("P-P", 3.0, 0.5), ("P-O", 2.8, 0.52)):
            curve = {"matcher": name, "mode": mode, "impostors": "all"}
            rates = {"fmr": fmr.tolist(), "fnmr": norm.cdf(norm.isf(fmr) - separation).tolist()}
            audit["curves"]["det"].append({**curve, **rates})
            genuine, impostor = (
                np.diff(norm.cdf(edges, *peak)).tolist() for peak in ((place, 0.12), (0.05, 0.1))
            )
            scores = {"edges": edges.tolist(), "genuine": genuine, "impostor": impostor}
            audit["curves"].setdefault("scores", []).append({**curve, **scores})
    return audit
