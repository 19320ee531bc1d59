"""Experiment 03: its rows can be trained, and its tables say what the audits say, no more."""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from privface.audit.result import SCHEMA
from privface.config import check_settings
from privface.errors import ConfigError
from privface.models import variant
from privface.pipeline.methods import find_method
from privface.records import Measured

FOLDER = Path(__file__).parents[2] / "experiments" / "03_san_family"
NAMES = ("rows", "tables", "plot", "making", "methods")


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, ModuleType]]:
    """The experiment's files, imported as its script does."""
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setattr(sys, "path", list(sys.path))  # one of them adds the folder of experiment 02
    yield {name: importlib.import_module(name) for name in NAMES}
    for name in NAMES:
        sys.modules.pop(name, None)


# made-up audits -------------------------------------------------------------------------------------------


def figure(value: float | None, half: float = 0.02) -> dict[str, Any]:
    if value is None:
        return {"value": None, "low": None, "high": None, "n": 0, "reason": "no reason given"}
    ends = (float(f"{end:.6g}") for end in (value - half, value + half))  # as an audit writes them
    return {"value": value, **dict(zip(("low", "high"), ends, strict=True)), "n": 100}


def reading(probe: str, kind: str, where: str, auc: float, accuracy: float, **other: Any) -> dict[str, Any]:
    row = {
        "probe": probe,
        "kind": kind,
        "input": where,
        "seen": False,
        "original_auc": figure(0.95),
        "auc": figure(auc),
        "leakage": figure(max(auc, 1 - auc)),
        "balanced_accuracy": figure(accuracy),
        "eer": figure(1 - auc),
        "bits": figure(0.1),
        "measurable": True,
        "validation_leakage": max(auc, 1 - auc),
    }
    return {**row, **other}


def audit(
    *,
    image: float = 0.68,
    embedding: float = 0.78,
    tmr: float = 0.95,
    leakage: float = 0.80,
    readings: list[dict[str, Any]] | None = None,
    image_recoverers: tuple[str, ...] = ("denoiser",),
) -> dict[str, Any]:
    """A small audit in the form of ``audit.json``: O-O 0.98, P-O as P-P, unseen frozen probe near chance."""
    matching = [
        {
            "matcher": f"onnx:matcher_mobilefacenet_{letter}",
            "seen": letter == "a",
            "mode": mode,
            "impostors": impostors,
            "tmr": {"0.01": figure(value if letter == "b" else 0.5), "0.001": figure(0.1)},
            **{key: figure(0.5) for key in ("eer", "auc", "d_prime", "fte")},
        }
        for letter in "ab"
        for mode, value in (("O-O", 0.98), ("P-P", tmr), ("P-O", tmr))
        for impostors in ("all", "same-gender")
    ]
    rows = readings or [
        reading("onnx:gender_tinyxception", "frozen", "image", 0.52, 0.5),
        reading("cnn", "retrained", "image", image + 0.05, image),
        reading("recover+cnn", "recovered", "image", image + 0.06, image + 0.01),
        reading("quadratic", "retrained", "embedding:onnx:matcher_mobilefacenet_b", embedding, embedding),
    ]
    worst = {"probe": "cnn", "input": "image", "leakage": figure(leakage)}
    return {
        "schema": SCHEMA,
        "mode": "images",
        "data": {"original_fingerprint": "same photos"},
        "provenance": {
            "seed": 0,
            "settings": {"image_recoverers": list(image_recoverers), "image_probes": ["pixel-svm", "cnn"]},
        },
        "matching": matching,
        "leakage": rows,
        "worst_retrained": worst,
        "worst_upper": worst,
        "worst_frozen": worst,
        "illusion_gap": figure(0.05),
        "frozen_gaps": {"seen": None, "unseen": None},
        "recovery": [{"gain": figure(0.01)}],
        "set_attack": [],
        "cohorts": [{"ratio": figure(1.2)}, {"ratio": {"value": 1.1, "low": None, "high": None, "n": 9}}],
        "quality": {"psnr": figure(24.0), "ssim": figure(0.8)},
    }


def audits(modules: dict[str, ModuleType], **documents: dict[str, Any] | None) -> list[Any]:
    make, row = modules["tables"].Audit, modules["rows"].Row
    return [
        make(row(name.replace("_", "-"), name, "ready", ours=name.startswith("san"), images="none"), document)
        for name, document in documents.items()
    ]


# rows and configurations ----------------------------------------------------------------------------------


def test_every_configuration_can_be_trained_with_equal_budgets(modules, monkeypatch):
    monkeypatch.setenv("PRIVFACE_DATA", "/data")
    monkeypatch.setenv("PRIVFACE_MODELS", "/models")
    places = modules["making"].Places(Path("elsewhere"), Path("out"), Path("cache"), Path("/models"))
    budgets = {}
    rows = [row for row in modules["rows"].all_rows() if row.source == "trained"]
    assert {"san", "san-2018", "ensemble-san", "flow-san", "privacynet"} < {row.name for row in rows}
    for row in rows:
        settings = modules["making"].settings_of(row, places)
        method = find_method(settings.method)
        options = check_settings(method.options, settings.method_options, where=row.name)
        assert row.needs_label == method.needs_genders
        if settings.autoencoder.variant != "san":
            config = variant(
                settings.autoencoder.variant, shape=(3, 112, 112), **settings.autoencoder.options
            )
            assert config.kind == "plain" or settings.losses.code > 0  # else the penalty is never paid
        assert "matcher_mobilefacenet_b" not in str(settings.matchers)
        assert "tinyxception" not in str(settings.classifiers)
        assert "runs/01/" not in str(settings.classifiers)
        if row.ours:
            continue
        assert "elsewhere/classifiers/0" in str(settings.classifiers)
        assert settings.matchers == ("onnx:/models/matcher_mobilefacenet_a.onnx",)
        loops = getattr(options, "networks", 1)
        epochs = settings.loop.epochs + getattr(options, "reconstruction_epochs", 0)
        budgets[row.name] = loops * epochs * settings.loop.epoch_images
    assert budgets.pop("san-2018") == 320
    assert set(budgets.values()) == {9600}


def test_a_run_with_other_settings_is_not_audited_under_the_row_s_name(modules, monkeypatch, tmp_path):
    making, rows = modules["making"], modules["rows"]
    monkeypatch.setattr(rows, "CONFIGS", tmp_path)
    content = {"data": {"source": "folder:x"}, "matchers": ["mini:runs/01/y"], "loop": {"epochs": 3}}
    (tmp_path / "one.yaml").write_text("# One.\n" + yaml.safe_dump(content))
    row = rows.find_row("one")
    places = making.Places(Path("a"), tmp_path / "out", tmp_path, tmp_path)
    run = places.out / "one"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text(yaml.safe_dump({**content, "matchers": ["mini:b/y"]}))
    making.require_configured(row, places)  # it lies elsewhere, and is the same
    (run / "config.yaml").write_text(yaml.safe_dump({**content, "loop": {"epochs": 1}}))
    with pytest.raises(ConfigError, match=r"another loop than one\.yaml says"):
        making.require_configured(row, places)


# tables ---------------------------------------------------------------------------------------------------


def test_the_worst_attacker_is_chosen_on_validation_people_among_those_that_count(modules):
    rows = [
        reading("a", "retrained", "image", 0.9, 0.85, validation_leakage=0.7),
        reading("b", "retrained", "image", 0.8, 0.75, validation_leakage=0.8),
        reading("c", "recovered", "image", 0.7, 0.65, validation_leakage=0.9),
        reading("d", "retrained", "image", 0.99, 0.98, validation_leakage=0.99, measurable=False),
        reading("e", "retrained", "image", 0.99, 0.98, validation_leakage=None),
        reading("f", "frozen", "image", 0.99, 0.98, validation_leakage=0.99),
    ]
    (found,) = audits(modules, san=audit(readings=rows))
    assert found.worst("image")["probe"] == "c"
    assert found.worst("image", ("retrained",))["probe"] == "b"
    assert found.worst("embedding") is None
    assert found.highest("image").value == 0.98  # with hindsight, e


# aims -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "low", "high", "limits", "said"),
    [
        (0.68, 0.66, 0.70, (None, 0.70), "reached"),
        (0.69, 0.66, 0.72, (None, 0.70), "reached; not by the whole interval"),
        (0.75, 0.72, 0.78, (None, 0.70), "**missed** by 0.050"),
        (0.71, 0.69, 0.73, (None, 0.70), "**missed** by 0.010; the interval reaches it"),
        (0.93, 0.92, 0.94, (0.95, None), "**missed** by 0.020"),
        (0.50, 0.46, 0.54, (0.45, 0.55), "reached"),
        (0.60, 0.57, 0.63, (0.45, 0.55), "**missed** by 0.050"),
        (0.40, 0.37, 0.46, (0.45, 0.55), "**missed** by 0.050; the interval reaches it"),
        (0.80, math.nan, math.nan, (0.75, None), "reached"),
        (math.nan, math.nan, math.nan, (0.75, None), "not measured"),
    ],
)
def test_an_aim_is_reached_or_missed_by_so_much(modules, value, low, high, limits, said):
    assert modules["tables"].verdict(Measured(value, low, high), limits) == said


# who dominates --------------------------------------------------------------------------------------------


def test_dominance_counts_the_points_of_others(modules):
    found = audits(
        modules,
        none=audit(image=0.95, tmr=0.98),
        worse=audit(image=0.90, embedding=0.5, tmr=0.50),
        near=audit(image=0.685, tmr=0.95),
        same=audit(),
        private=audit(image=0.55, tmr=0.10),
        better=audit(image=0.60, tmr=0.97),
        missing=None,
        san=audit(),
    )
    image = modules["tables"].dominance(found)["balanced accuracy of the worst attacker on images"]
    assert (image.points, image.dominated, image.clearly, image.tied, image.above) == (5, 2, 1, 1, 1)
    assert image.names == ("worse", "near")


def test_all_settings_of_ours_are_one_method(modules):
    found = audits(modules, a=audit(image=0.9, tmr=0.9), b=audit(image=0.6, tmr=0.5),
                   san_low=audit(image=0.58, tmr=0.6), san=audit(image=0.8, tmr=0.95))  # fmt: skip
    image = modules["tables"].dominance(found)["balanced accuracy of the worst attacker on images"]
    assert (image.points, image.dominated) == (2, 2)  # each by another one of ours


# tables and picture ---------------------------------------------------------------------------------------


def test_tables_and_picture_show_what_was_audited_and_nothing_else(modules, tmp_path):
    tables = modules["tables"]
    found = audits(modules, none=audit(image=0.95, tmr=0.98), san=audit(), fgsm=None)
    lines = tables.tables(found).splitlines()
    assert sum(line.startswith("| san |") for line in lines) == 3
    assert not any(line.startswith("| fgsm |") for line in lines)
    assert "fgsm" in lines[-1]
    assert "reached" in tables.targets("san", found)
    missing = tables.targets("fgsm", found)
    assert "reached" not in missing
    assert "missed" not in missing
    for name in ("one.png", "two.png"):
        modules["plot"].draw(tmp_path / name, found)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
