from __future__ import annotations

import pytest

from privface.audit import AuditResult
from privface.audit.comparison import changes, standing, trade_off
from privface.audit.result import SCHEMA
from privface.errors import AuditError

UNKNOWN = {"value": None, "low": None, "high": None, "n": 0, "reason": "no probe"}


def figure(value: float, half: float = 0.02) -> dict:
    return {"value": value, "low": value - half, "high": value + half, "n": 100}


def audit(leak: float, match: float, *, mode: str = "images", originals: str = "x") -> dict:
    rows = [
        {
            "matcher": name, "seen": seen, "mode": side, "impostors": "all", "eer": figure(0.02), "auc": figure(0.99),
            "d_prime": figure(3.0), "fte": figure(0.0, 0.0), "tmr": {"0.01": figure(value)},
        }
        for name, seen, lost in (("met", True, 0.3), ("unseen", False, 0.0), ("unseen-too", False, 0.01))
        for side, value in (("O-O", 0.99), ("P-P", match - lost), ("P-O", match))
    ]  # fmt: skip
    return {
        "schema": SCHEMA,
        "mode": mode,
        "data": {"original_fingerprint": originals, "images": 10, "people": 5},
        "provenance": {"seed": 0, "settings": {"resamples": 1000}, "libraries": {}},
        "matching": rows,
        "worst_retrained": {"probe": "p", "leakage": figure(leak)},
        "worst_upper": {"leakage": figure(leak + 0.02)},
        "worst_frozen": {"leakage": figure(0.6)},
        "illusion_gap": figure(leak - 0.6),
        "quality": {"psnr": figure(20.0), "ssim": figure(0.9)},
    }


def test_the_axis_is_the_unseen_matcher_that_suffers_most():
    (point,) = trade_off([("a", audit(0.9, 0.95))])
    assert point["matcher"] == "unseen-too"
    assert point["tmr"]["value"] == pytest.approx(0.94)
    assert point["tmr_before"]["value"] == 0.99


def test_a_method_is_beaten_where_another_leaks_no_more_and_keeps_no_less():
    figures = {"raw": (0.99, 0.99), "good": (0.7, 0.95), "bad": (0.8, 0.95), "same": (0.7, 0.95)}
    unknown = audit(0.1, 0.99)
    unknown["worst_retrained"]["leakage"] = UNKNOWN
    points = trade_off([*((name, audit(*pair)) for name, pair in figures.items()), ("unknown", unknown)])
    assert [p["dominated_by"] for p in points] == [None, None, "good", None, None]


def test_audits_of_other_photos_are_refused_and_other_settings_named():
    with pytest.raises(AuditError, match="'b' is an audit of other photos than 'a'"):
        trade_off([("a", audit(0.9, 0.9)), ("b", audit(0.9, 0.9, originals="y"))])
    other = audit(0.9, 0.9)
    other["provenance"]["settings"]["resamples"] = 5
    templates = audit(0.9, 0.9, mode="embeddings", originals="y")
    points = trade_off([("a", audit(0.9, 0.9)), ("b", other), ("c", templates)])
    assert [p["differs"] for p in points] == [[], ["resamples"], ["audited embeddings only"]]


def test_changes_have_a_direction_and_respect_the_intervals():
    old, new = AuditResult(audit(0.70, 0.95)), AuditResult(audit(0.90, 0.96))
    rows = {row["figure"]: row for row in changes(old, new)}
    assert rows["worst_retrained"]["verdict"] == "worse"
    assert rows["worst_retrained"]["difference"] == pytest.approx(0.2)
    assert rows["tmr_p_o_0.01"]["verdict"] == "better, within the intervals"
    assert rows["eer_p_p"]["verdict"] == "same"
    assert changes(old, new)[0]["verdict"] == "worse"
    assert {row["verdict"] for row in changes(new, old) if row["figure"] == "worst_retrained"} == {"better"}
    gone = audit(0.7, 0.95)
    gone["worst_retrained"]["leakage"] = None
    first = changes(old, AuditResult(gone))[0]
    assert (first["figure"], first["verdict"]) == ("worst_retrained", "no longer measurable")


def test_matchers_that_count_can_be_named_for_all_audits_alike():
    """A method that knows of no matcher as unseen must not be held to a harder one than the others."""
    blind = audit(0.9, 0.95)
    for row in blind["matching"]:
        row["seen"] = None
    alone, _ = trade_off([("blur", blind), ("san", audit(0.9, 0.95))])
    assert alone["matcher"] == "met"
    both = trade_off([("blur", blind), ("san", audit(0.9, 0.95))], matchers=["unseen", "unseen-too"])
    assert [point["matcher"] for point in both] == ["unseen-too", "unseen-too"]
    assert [point["dominated_by"] for point in both] == [None, None]


def test_standing_counts_dominated_tied_and_unmeasured_points_apart():
    nothing = audit(0.9, 0.9)
    nothing["worst_retrained"]["leakage"] = UNKNOWN
    named = [
        ("ours-1", audit(0.70, 0.90)),
        ("ours-2", audit(0.80, 0.95)),
        ("blur-1", audit(0.95, 0.80)),  # beaten, and far off
        ("blur-2", audit(0.71, 0.90)),  # beaten, within the intervals
        ("blur-3", audit(0.80, 0.95)),  # the same as ours-2, and worse than none
        ("blur-4", audit(0.60, 0.99)),  # beats both
        ("blur-5", nothing),
        ("jpeg", audit(0.99, 0.99)),
    ]
    methods = {name: name.split("-")[0] for name, _ in named}
    blur, jpeg = standing(trade_off(named), methods, ours="ours")
    assert blur == {
        "method": "blur", "points": 4, "dominated": 2, "clearly": 1, "tied": 1, "dominates": 2, "ours": 2,
        "unmeasured": 1,
    }  # fmt: skip
    assert (jpeg["points"], jpeg["dominated"], jpeg["tied"], jpeg["dominates"]) == (1, 0, 0, 0)
