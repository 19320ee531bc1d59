"""The verdict in words: what was found, never that something is safe."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, TypeAlias

from privface.records import Measured

Status: TypeAlias = Literal["leaks", "matching-lost", "not-measurable", "inconclusive", "no-leak-found"]
"""The first that applies: a probe reads gender; matching is lost; no probe proved that it can read; the
figures do not decide; no probe of the battery reads more than the limit and matching holds."""

FLIP_EER = 0.60

_CAVEATS: Final = (
    "The figures hold for these photos, probes and people; another attacker may read more.",
    "Labels are perceived and binary.",
    "Whoever holds a labelled photo of the same person learns the gender by matching.",
)


def write_verdict(document: Mapping[str, Any], *, max_leakage: float, max_tmr_loss: float) -> dict[str, Any]:
    """Status, headline and sentences for an audit document.

    Args:
        document: The audit's figures, as :class:`~privface.records.Measured`.
        max_leakage: Leakage above which gender leaks. A lower interval end above it is a finding even for a
            probe that reads originals poorly; to say that no leak was found, all upper ends must lie
            below it and every input (images, each matcher's embeddings) needs a probe that counts.
        max_tmr_loss: Loss of TMR at FMR 1e-2 above which matching counts as lost.
    """
    rows: Sequence[Mapping[str, Any]] = document["leakage"]
    leaking = [row for row in rows if row["leakage"].low > max_leakage]
    losses = _matching_losses(document["matching"])
    status = _status(document, leaking, losses, max_leakage, max_tmr_loss)
    worst = max(leaking, key=lambda row: row["leakage"].value) if leaking else None
    headline = _headline(status, document, worst, losses)
    return {"status": status, "headline": headline, "sentences": _sentences(document, losses)}


def _status(
    document: Mapping[str, Any],
    leaking: Sequence[Mapping[str, Any]],
    losses: Mapping[str, Measured],
    max_leakage: float,
    max_tmr_loss: float,
) -> Status:
    if leaking:
        return "leaks"
    if any(loss.value > max_tmr_loss for loss in losses.values()):
        return "matching-lost"
    retrained = [row for row in document["leakage"] if row["kind"] == "retrained"]
    if not any(row["measurable"] for row in retrained):
        return "not-measurable"
    # written so that NaN, which fails every comparison, leads to "inconclusive"
    bounded = document["worst_upper"]["leakage"].value <= max_leakage and all(
        row["leakage"].high <= max_leakage for row in document["leakage"] if row["measurable"]
    )
    inputs = {row["input"] for row in retrained}
    covered = inputs == {row["input"] for row in retrained if row["measurable"]}
    kept = all(loss.value <= max_tmr_loss for loss in losses.values())
    return "no-leak-found" if bounded and covered and kept else "inconclusive"


def _matching_losses(rows: Sequence[Mapping[str, Any]]) -> dict[str, Measured]:
    """TMR at FMR 1e-2 lost between O-O and P-P, all impostors, by matcher."""
    rates: dict[tuple[str, str], Measured] = {
        (row["matcher"], row["mode"]): row["tmr"]["0.01"] for row in rows if row["impostors"] == "all"
    }
    losses = {}
    for matcher, mode in rates:
        if mode == "O-O":
            before, after = rates[matcher, "O-O"], rates[matcher, "P-P"]
            losses[matcher] = Measured(before.value - after.value, reason=before.reason or after.reason)
    return losses


def _headline(
    status: Status,
    document: Mapping[str, Any],
    worst: Mapping[str, Any] | None,
    losses: Mapping[str, Measured],
) -> str:
    if status == "leaks" and worst is not None:
        return (
            f"Gender can be read: the {worst['kind']} probe {worst['probe']} on {_source(worst['input'])}"
            f" reads it at {_range(worst['leakage'])}, where 0.5 is chance."
        )
    if status == "matching-lost":
        name, loss = max(
            ((k, v) for k, v in losses.items() if not math.isnan(v.value)), key=lambda item: item[1].value
        )
        return (
            f"Matching is lost: with {name}, {100 * loss.value:.1f} points fewer genuine pairs match at"
            " FMR 1e-2 once protected."
        )
    if status == "not-measurable":
        return (
            "Not measurable: no retrained probe of this battery reads gender from the originals well enough."
        )
    bound = document["worst_upper"]["leakage"].value
    version = document["provenance"]["privface"]
    if status == "inconclusive":
        return f"Inconclusive: the upper bound of what a retrained probe reads is {_number(bound)}."
    return (
        f"No probe in this battery (privface {version}) reads gender at more than {_number(bound)}"
        " (upper 95 % bound, 0.5 is chance)."
    )


def _sentences(document: Mapping[str, Any], losses: Mapping[str, Measured]) -> list[str]:
    out = []
    worst, frozen = document["worst_retrained"], document["worst_frozen"]
    gap: Measured = document["illusion_gap"]
    if worst["probe"] is not None:
        out.append(
            f"The worst retrained probe is {worst['probe']} on {_source(worst['input'])}: leakage"
            f" {_range(worst['leakage'])}; it was chosen on validation people."
        )
    if frozen["probe"] is not None:
        out.append(f"The worst frozen probe is {frozen['probe']}: leakage {_range(frozen['leakage'])}.")
    if not math.isnan(gap.value):
        out.append(
            f"The illusion gap, what a test with fixed classifiers alone would have missed, is {_range(gap)}."
        )
    for row in document["leakage"]:
        name = f"{row['probe']} on {_source(row['input'])}"
        if row["kind"] == "frozen" and row["eer"].value > FLIP_EER:
            out.append(
                f"The frozen probe {name} is flipped (EER {row['eer'].value:.3f}): it calls women men and men"
                " women, and who inverts its answer reads gender."
            )
        if not row["measurable"]:
            out.append(f"The {row['kind']} probe {name} is not measurable: {row['reason']}.")
    out += _matching_sentences(document["matching"], losses)
    identical = document["quality"]["identical_images"]
    if identical:
        out.append(f"{identical} protected images are identical to their originals.")
    return [*out, *_CAVEATS]


def _matching_sentences(rows: Sequence[Mapping[str, Any]], losses: Mapping[str, Measured]) -> list[str]:
    if not losses:
        return ["Matching was not audited: no matcher was given."]
    out = []
    seen = {row["matcher"]: row["seen"] for row in rows}
    for matcher, loss in losses.items():
        known = {True: "seen in training", False: "not seen in training", None: "unknown if seen in training"}
        title = f"{matcher} ({known[seen[matcher]]})"
        if math.isnan(loss.value):
            out.append(f"TMR at FMR 1e-2 with {title} is not measurable: {loss.reason}.")
            continue
        rate = {
            row["mode"]: row["tmr"]["0.01"]
            for row in rows
            if row["matcher"] == matcher and row["impostors"] == "all"
        }
        out.append(
            f"With {title}, {rate['P-P'].value:.1%} of genuine pairs match at FMR 1e-2 once protected,"
            f" {rate['O-O'].value:.1%} before."
        )
    if all(value is not False for value in seen.values()):
        out.append("No matcher is known to be unseen in training, so matching may be flattered.")
    return out


def _source(source: str) -> str:
    kind, _, name = source.partition(":")
    return f"{name} embeddings" if kind == "embedding" else "images"


def _number(value: float) -> str:
    return "not measurable" if math.isnan(value) else f"{value:.3f}"


def _range(figure: Measured) -> str:
    if math.isnan(figure.low):
        return _number(figure.value)
    return f"{figure.value:.3f} ({figure.low:.3f} to {figure.high:.3f})"
