from __future__ import annotations

import json
import math

import numpy as np
import pytest

from privface.audit.result import SCHEMA, AuditResult, figure_data, read_figure, to_json_data
from privface.errors import AuditError, ConfigError, OutputError
from privface.records import Measured


def matching_row(matcher: str, mode: str, impostors: str, tmr: Measured) -> dict:
    rest, few = Measured(0.1, 0.05, 0.15, 9), Measured.undefined("few")
    names = {"matcher": matcher, "seen": False, "mode": mode, "impostors": impostors}
    figures = dict.fromkeys(("eer", "auc", "d_prime", "fte"), rest)
    return {**names, **figures, "tmr": {"0.01": tmr, "0.001": few, "0.0001": few}}


@pytest.fixture
def document() -> dict:
    return {
        "schema": SCHEMA,
        "matching": [
            matching_row("a", "P-P", "all", Measured(0.97, 0.95, 0.98, 9)),
            matching_row("b", "P-P", "all", Measured(0.91, 0.9, 0.93, 9)),
            matching_row("a", "P-P", "same-gender", Measured(0.8, 0.7, 0.9, 9)),
        ],
        "worst_retrained": {"probe": "cnn", "leakage": Measured(0.58, 0.55, 0.612, 100)},
        "worst_upper": {"probe": "mlp", "leakage": Measured(0.6304, 0.56, 0.6304, 100)},
        "worst_frozen": {"probe": None, "leakage": Measured.undefined("no frozen probe")},
        "illusion_gap": Measured.undefined("no frozen probe"),
        "quality": {"psnr": Measured(30.123456789), "ssim": Measured(0.9)},
    }


@pytest.fixture
def result(document) -> AuditResult:
    return AuditResult(document)


def test_figures_and_the_worst_matcher(result):
    assert result.figure("worst_retrained") == Measured(0.58, 0.55, 0.612, 100)
    assert result.figure("leakage").value == 0.6304
    assert result.figure("tmr") == result.figure("tmr_p_p_0.01") == Measured(0.91, 0.9, 0.93, 9)
    assert result.figure("tmr_p_p_0.01_same_gender").value == 0.8
    assert math.isnan(result.figure("tmr_p_p_0.001").value)
    with pytest.raises(ConfigError, match=r"no figure 'psrn'.*psnr"):
        result.figure("psrn")


def test_undefined_figure_of_one_matcher_is_not_hidden_by_another(document):
    document["matching"][0]["tmr"]["0.01"] = Measured.undefined("lost")
    assert math.isnan(AuditResult(document).figure("tmr").value)
    document["matching"].reverse()
    assert math.isnan(AuditResult(document).figure("tmr").value)


@pytest.mark.parametrize(
    ("expression", "failed"),
    [
        ("leakage>0.60", True),
        ("leakage > 0.64", False),
        ("worst_retrained.high>=0.612", True),
        ("worst_retrained.low<0.55", False),
        ("worst_retrained.low<=0.55", True),
        ("tmr_p_p_0.01_same_gender<6e-1", False),
    ],
)
def test_gates(result, expression, failed):
    outcome = result.gate(expression)
    assert (outcome.failed, outcome.expression) == (failed, expression)
    assert not math.isnan(outcome.value)


@pytest.mark.parametrize(
    "expression", ["illusion_gap>0.1", "illusion_gap<0.1", "tmr_p_p_0.001<0.5", "psnr.low<1"]
)
def test_unmeasured_figure_fails_the_gate_with_a_reason(result, expression):
    outcome = result.gate(expression)
    assert outcome.failed
    assert math.isnan(outcome.value)
    assert "not measurable" in outcome.reason


@pytest.mark.parametrize(
    "expression",
    [
        "",
        "leakage",
        "leakage=0.6",
        "leakage>nan",
        "leakage>1..2",
        "leakage>0.6; ls",
        "nonsense>1",
        "leakage.mid>1",
    ],
)
def test_malformed_gates_are_refused_with_the_names(result, expression):
    with pytest.raises(ConfigError) as caught:
        result.gate(expression)
    assert "worst_retrained" in caught.value.hint


def test_save_and_load(result, tmp_path):
    path = result.save(tmp_path / "deep" / "audit.json")
    assert AuditResult.load(path) == result
    assert path.read_bytes() == result.to_bytes()
    text = json.loads(path.read_text())
    none = {"value": None, "low": None, "high": None, "n": 0}
    assert text["illusion_gap"] == {**none, "reason": "no frozen probe"}
    assert text["quality"]["psnr"]["value"] == 30.1235
    assert list(text) == sorted(text)
    with pytest.raises(OutputError):
        result.save(path / "below-a-file.json")
    result.to_dict()["quality"]["psnr"]["value"] = 0  # a copy
    assert result.figure("psnr").value == 30.1235


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "cannot be read"),
        ("{", "cannot be read"),
        ("[]", "holds a list"),
        ('{"schema": "privface.audit/9"}', "schema 'privface.audit/9', this version reads"),
        (None, "cannot be read as an audit .*No such file"),
    ],
)
def test_bad_files_are_refused(tmp_path, content, told):
    path = tmp_path / "audit.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(AuditError, match=told):
        AuditResult.load(path)


def test_json_data():
    data = {"a": (np.float32(0.5), np.int64(3), np.bool_(True)), "b": np.array([np.inf, -0.0])}
    assert to_json_data(data) == {"a": [0.5, 3, True], "b": [None, 0.0]}
    assert str(to_json_data(-0.0)) == "0.0"
    assert to_json_data(1234567.89) == 1234570.0
    with pytest.raises(AuditError, match="set has no JSON form"):
        to_json_data({1})


def test_figures_round_trip():
    for figure in (Measured(0.5, 0.4, 0.6, 3), Measured.undefined("why", n=4)):
        back = read_figure(to_json_data(figure_data(figure)))
        assert (back.reason, back.n) == (figure.reason, figure.n)
        assert back.value == pytest.approx(figure.value, nan_ok=True)
    assert read_figure(None).reason == "not measured in this audit"
