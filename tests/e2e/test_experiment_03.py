"""Experiment 03: its rows can be trained, and its worst attackers are the right ones; test_readme.py holds its tables to its audits."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from privface.config import check_settings
from privface.errors import ConfigError
from privface.models import variant
from privface.pipeline.methods import find_method
from privface.records import Measured


@pytest.fixture
def modules(experiment: Callable[..., dict[str, ModuleType]]) -> dict[str, ModuleType]:
    return experiment("03_san_family", "rows", "tables", "plot", "making")


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


def reading(probe: str, kind: str, accuracy: float, **other: Any) -> dict[str, Any]:
    figure = {"value": accuracy, "low": None, "high": None}
    return {
        "probe": probe,
        "kind": kind,
        "input": "image",
        "balanced_accuracy": figure,
        "measurable": True,
        **other,
    }


def test_the_worst_attacker_is_chosen_on_validation_people_among_those_that_count(modules):
    rows = [
        reading("a", "retrained", 0.85, validation_leakage=0.7),
        reading("b", "retrained", 0.75, validation_leakage=0.8),
        reading("c", "recovered", 0.65, validation_leakage=0.9),
        reading("d", "retrained", 0.98, validation_leakage=0.99, measurable=False),
        reading("e", "retrained", 0.98, validation_leakage=None),
        reading("f", "frozen", 0.99, validation_leakage=0.99),
    ]
    found = modules["tables"].Audit(None, {"leakage": rows})
    assert found.worst("image")["probe"] == "c"
    assert found.worst("image", ("retrained",))["probe"] == "b"
    assert found.worst("embedding") is None
    assert found.highest("image").value == 0.98  # with hindsight, e


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


def test_what_was_not_audited_has_no_verdict(modules, monkeypatch):
    monkeypatch.setattr(modules["rows"].Row, "document", lambda _: None)
    missing = modules["tables"].targets("fgsm")
    assert "reached" not in missing
    assert "missed" not in missing


def test_the_picture_is_the_same_each_time(modules, tmp_path):
    one, two = tmp_path / "one.png", tmp_path / "two.png"
    for path in (one, two):
        modules["plot"].draw(path)
    assert one.read_bytes() == two.read_bytes()
