"""Figures: well-formed, deterministic, and drawn where the numbers say."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ET

import pytest

from privface.report import det_figure, leakage_figure, tradeoff_figure
from privface.report.figures import _spread, growth_figure, score_figure
from privface.report.reading import Reading, plain_text


def texts(svg: str) -> list[str]:
    root = ET.fromstring(svg)  # noqa: S314  # our own drawing
    return ["".join(node.itertext()).strip() for node in root.iter() if node.tag.endswith("}text")]


def marker_places(svg: str) -> list[tuple[float, float]]:
    found = re.findall(r'<use xlink:href="#[^"]*" x="([\d.]+)" y="([\d.]+)"[^>]*var\(--protected', svg)
    return [(float(x), float(y)) for x, y in found]


def test_det_labels_each_mode_and_drops_gaps(full_audit):
    curves = [c for c in full_audit["curves"]["det"] if c["matcher"] == "net-a"]
    curves[0]["fnmr"][3] = None
    curves[1]["fmr"][4] = float("nan")
    assert {"O-O", "P-P", "P-O", "0.01 %"} <= set(texts(det_figure(curves, title="DET")))
    perfect = {"mode": "O-O", "fmr": [0.0, 0.5, 1.0], "fnmr": [0.0, 0.0, 0.0]}
    assert "O-O" in texts(det_figure([perfect], title="DET"))


def test_leakage_dots_lie_in_the_order_of_their_values_and_what_is_unmeasured_has_none(audit):
    places = marker_places(leakage_figure(audit["leakage"], title="Leakage"))
    by_height = [x for x, _ in sorted(places, key=lambda place: place[1])]
    worst, cnn, recovered, stock = by_height  # three groups, each from the worst down
    assert worst > recovered > cnn > stock
    # 0.87, 0.78 and 0.62 on a linear axis
    assert (worst - cnn) / (cnn - stock) == pytest.approx(0.09 / 0.16, rel=1e-3)
    audit["leakage"][1]["leakage"] = {"value": None, "reason": "too few"}
    svg = leakage_figure(audit["leakage"], title="Leakage")
    assert "not measurable" in texts(svg)
    assert len(marker_places(svg)) == len(places) - 1


def test_marks_are_named_beside_themselves(full_audit):
    assert {"original", "protected"} <= set(texts(leakage_figure(full_audit["leakage"], title="Leakage")))
    point = {"leakage_before": 0.97, "leakage_after": 0.6, "tmr_before": 0.99, "tmr_after": 0.94}
    svg = tradeoff_figure([{**point, "matcher": name} for name in ("one", "two")], title="Trade-off")
    assert {"original", "protected", "↖ better", "one", "two"} <= set(texts(svg))
    scores = [c for c in full_audit["curves"]["scores"] if c["matcher"] == "net-a"]
    assert {"original", "protected"} <= set(texts(score_figure(scores, title="Scores")))
    assert {"together", "one photo", "cnn"} <= set(
        texts(growth_figure(full_audit["set_attack"], title="Sets", single=True))
    )


def test_names_of_marks_that_lie_close_stay_inside(audit):
    row = {**audit["leakage"][0], "leakage": {"value": 0.99}, "original_auc": {"value": 1.0}}
    places = re.findall(r'x="([\d.]+)"[^>]*>(original|protected)<', leakage_figure([row], title="Leakage"))
    found = {word: float(x) for x, word in places}
    assert found["original"] - found["protected"] > 30


def test_names_are_text_and_not_formulas_or_markup(audit):
    audit["leakage"][0]["probe"] = "<b>$x$ & 名\x00\u202e" + "y" * 90
    svg = leakage_figure(audit["leakage"], title='<t> & "u"')
    assert any(text.startswith("<b>$x$ & 名") and "…y" in text for text in texts(svg))
    assert ET.fromstring(svg).attrib["aria-label"] == '<t> & "u"'  # noqa: S314


def test_colours_can_be_set_by_the_page_and_fall_back(audit):
    svg = leakage_figure(audit["leakage"], title="Leakage")
    assert "var(--protected, #d55e00)" in svg
    assert set(re.findall(r"(?<!, )#[0-9a-f]{6}\b", svg)) <= {"#ffffff", "#000000"}


def test_figures_carry_no_date_and_do_not_vary_between_processes(audit):
    here = leakage_figure(audit["leakage"], title="Leakage")
    script = (
        "import json, sys; from privface.report import leakage_figure;"
        "sys.stdout.buffer.write(leakage_figure(json.load(sys.stdin), title='Leakage').encode())"
    )
    given = json.dumps(audit["leakage"]).encode()
    there = subprocess.run([sys.executable, "-c", script], input=given, capture_output=True, check=True)
    assert there.stdout.decode() == here
    assert "metadata" not in here
    assert "dc:date" not in here


def test_labels_are_pushed_apart_and_stay_centred():
    placed = [height for height, _ in _spread([(0.5, "a", ""), (0.5, "b", ""), (0.9, "c", "")], gap=0.1)]
    assert placed[1] - placed[0] == pytest.approx(0.1)
    assert sum(placed) == pytest.approx(1.9)
    assert _spread([], gap=1) == []


def test_readings_take_figures_numbers_and_nothing():
    assert Reading.of({"value": 0.4, "low": 0.3, "high": 0.45, "n": 7}).leakage == Reading(0.6, 0.55, 0.7, "")
    assert Reading.of(0.7).value == 0.7
    assert not Reading.of(0.7).has_interval
    for nothing in (None, "text", True, [], float("inf")):
        assert not Reading.of(nothing).known
    assert Reading.of({"value": None, "reason": "why"}).reason == "why"


def test_plain_text_keeps_letters_and_drops_controls():
    assert plain_text("é名\t\u200b\u202ex\udcff") == "é名 x\\udcff"
