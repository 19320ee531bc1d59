"""Audits side by side: what changed since an earlier one, and which of several methods another one beats."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from privface.audit.result import AuditResult, figure_data, match_rates
from privface.errors import AuditError
from privface.records import Measured

_MORE_IS_BETTER: Final = re.compile(r"tmr.*|auc_.*|d_prime_.*")
_NO_DIRECTION: Final = frozenset({"psnr", "ssim", "unlinkability"})


def changes(old: AuditResult, new: AuditResult) -> list[dict[str, Any]]:
    """Every figure of two audits with its difference and what that means.

    A change is called plainly ``better`` or ``worse`` only where the two intervals do not overlap.

    Args:
        old: The baseline.
        new: What it became.

    Returns:
        Rows of ``figure``, ``old``, ``new``, ``difference`` and ``verdict``, the worst news first.
    """
    before, after = old.figures, new.figures
    rows = []
    for name in [*before, *(n for n in after if n not in before)]:
        one, other = (
            figures.get(name, Measured.undefined("not in this audit")) for figures in (before, after)
        )
        if math.isnan(one.value) and math.isnan(other.value):
            continue
        row = {"figure": name, "old": figure_data(one), "new": figure_data(other)}
        rows.append({**row, "difference": other.value - one.value, "verdict": _judge(name, one, other)})
    order = {"worse": 0, "no longer measurable": 1, "worse, within the intervals": 2}
    return sorted(rows, key=lambda row: order.get(row["verdict"], len(order)))


def _judge(name: str, old: Measured, new: Measured) -> str:
    if math.isnan(new.value):
        return "no longer measurable"
    if math.isnan(old.value):
        return "measurable now"
    if math.isclose(old.value, new.value, rel_tol=1e-5, abs_tol=1e-6):
        return "same"
    if name in _NO_DIRECTION:
        return "changed"
    grew = new.value > old.value
    word = "better" if grew == bool(_MORE_IS_BETTER.fullmatch(name)) else "worse"
    apart = new.low > old.high or new.high < old.low  # false where an interval is missing
    return word if apart else f"{word}, within the intervals"


def trade_off(
    named: Sequence[tuple[str, Mapping[str, Any]]], *, matchers: Collection[str] | None = None
) -> list[dict[str, Any]]:
    """One point per audit: leakage of the worst retrained attacker against matches that are kept.

    Matching is that of the unseen matcher that suffers most (of any matcher, where none is known to be unseen):
    TMR at FMR 1e-2, protected against protected, all impostors.

    Args:
        named: Names and documents of audits of the same photos, templates or people.
        matchers: Names of the matchers that count, the same for every audit. Without them each audit says by
            itself which it had not seen, and one that does not know is held to the worst of all.

    Returns:
        Points in the order given: ``name``, ``leakage``, ``tmr`` and ``tmr_before`` (figures), ``matcher``,
        ``dominated_by`` (another audit leaks no more and matches no less, one of them strictly less or
        more; ``None`` if there is none) and ``differs`` (what was measured otherwise than in the first).

    Raises:
        AuditError: If two audits are not of the same originals.
    """
    first_name, first = named[0]
    points = []
    for name, document in named:
        if not _same_originals(first, document):
            raise AuditError(
                f"{name!r} is an audit of other photos than {first_name!r}: they cannot be compared.",
                hint="Audit both methods on the same originals with the same labels, aligned alike and of one size.",
            )
        matcher, before, after = _kept_matches(document, matchers)
        point = {
            "name": name,
            "leakage": document["worst_retrained"]["leakage"],
            "differs": _differences(first, document),
        }
        points.append({**point, "tmr": after, "tmr_before": before, "matcher": matcher})
    for point in points:
        point["dominated_by"] = next((o["name"] for o in points if _dominates(o, point)), None)
    return points


def standing(
    points: Sequence[Mapping[str, Any]], methods: Mapping[str, str], *, ours: str
) -> list[dict[str, Any]]:
    """How one method's points stand against the points of each other method.

    A point dominates another one that leaks no less and matches no more than itself, and that differs from it. Two
    points that agree on both figures, which have six significant digits, are *tied*: neither dominates.

    Args:
        points: Points of :func:`trade_off`.
        methods: Method of each point, by its name.
        ours: The method that is compared with each other one.

    Returns:
        A row a method, in the order of ``points``: ``points`` (its points with both figures), ``dominated``
        (those of them that one of ours dominates), ``clearly`` (those of these where one of ours that dominates
        it also lies outside of its interval on leakage or matching), ``tied`` (not dominated, but equal to
        one of ours), ``dominates`` (points of ours that one of its points dominates), ``ours`` (points of ours with
        both figures) and ``unmeasured`` (its points that lack a figure, and so count nowhere).
    """
    mine = [p for p in points if methods[p["name"]] == ours and None not in _pair(p)]
    rows = []
    for method in dict.fromkeys(methods[p["name"]] for p in points):
        if method == ours:
            continue
        all_of_it = [p for p in points if methods[p["name"]] == method]
        known = [p for p in all_of_it if None not in _pair(p)]
        beaten = [p for p in known if any(_dominates(m, p) for m in mine)]
        rows.append(
            {
                "method": method,
                "points": len(known),
                "dominated": len(beaten),
                "clearly": sum(any(_dominates(m, p) and _apart(m, p) for m in mine) for p in beaten),
                "tied": sum(p not in beaten and any(_pair(m) == _pair(p) for m in mine) for p in known),
                "dominates": sum(any(_dominates(p, m) for p in known) for m in mine),
                "ours": len(mine),
                "unmeasured": len(all_of_it) - len(known),
            }
        )
    return rows


def _pair(point: Mapping[str, Any]) -> tuple[float | None, float | None]:
    return point["leakage"]["value"], point["tmr"]["value"]


def _apart(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether the intervals of one of the two figures do not overlap."""
    for key in ("leakage", "tmr"):
        ends = [figure[end] for figure in (one[key], other[key]) for end in ("low", "high")]
        if None not in ends and (ends[0] > ends[3] or ends[2] > ends[1]):
            return True
    return False


def _same_originals(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    if one.get("mode") == other.get("mode"):
        return bool(one["data"]["original_fingerprint"] == other["data"]["original_fingerprint"])
    # photos and their templates have different bytes: the people and their division must agree
    keys = ("images", "people", "female", "male", "attacker_people")
    return all(one["data"].get(key) == other["data"].get(key) for key in keys)


def _differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Which settings of the audits differ, in words."""
    a, b = (doc["provenance"].get("settings", {}) for doc in (one, other))
    found = sorted(key for key in {*a, *b} if a.get(key) != b.get(key))
    if one.get("mode") != other.get("mode"):
        return [f"audited {other.get('mode')} only"]
    if one["provenance"].get("seed") != other["provenance"].get("seed"):
        found.append("seed")
    if one["provenance"].get("libraries") != other["provenance"].get("libraries"):
        found.append("library versions")
    return found


def _kept_matches(
    document: Mapping[str, Any], matchers: Collection[str] | None
) -> tuple[str | None, Any, Any]:
    rates = match_rates(document["matching"])
    names = [name for name, mode in rates if mode == "P-P" and (matchers is None or name in matchers)]
    if matchers is None:
        unseen = {row["matcher"] for row in document["matching"] if row["seen"] is False}
        names = [name for name in names if name in unseen] or names
    missing = figure_data(Measured.undefined("no matcher was audited"))
    if not names:
        return None, missing, missing

    def kept(name: str) -> float:
        value = rates[name, "P-P"]["value"]
        return -1.0 if value is None else float(value)

    worst = min(names, key=kept)
    return worst, rates[worst, "O-O"], rates[worst, "P-P"]


def _dominates(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    leak_a, match_a, leak_b, match_b = (*_pair(one), *_pair(other))
    if leak_a is None or match_a is None or leak_b is None or match_b is None:
        return False
    return leak_a <= leak_b and match_a >= match_b and (leak_a < leak_b or match_a > match_b)
