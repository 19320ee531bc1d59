"""The verdict in words: what was found, never that something is safe."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, Literal, TypeAlias

from privface.audit.result import match_rates
from privface.audit.subjects import WHITE_BOX
from privface.records import NO_GENDER, Measured

Status: TypeAlias = Literal["leaks", "matching-lost", "not-measurable", "inconclusive", "no-leak-found"]
"""The first that applies: a probe reads gender, or another attribute where the set has no gender labels; matching is lost; no
probe proved that it can read; the figures do not decide; no probe of the battery reads more than the limit and matching holds."""

FLIP_EER = 0.60
FNMR_GROWTH = 1.25
"""No cohort's FNMR should grow by more than this factor (after ISO/IEC 19795-10)."""

_ATTACKERS: Final = {
    "frozen": "a pretrained classifier",
    "retrained": "an attacker trained on protected data of other people",
    "recovered": "an attacker who first turns the protection back",
    "white-box": "an attacker who holds the model and turns its faces back into their code without loss",
}


def write_verdict(document: Mapping[str, Any], *, max_leakage: float, max_tmr_loss: float) -> dict[str, Any]:
    """Status, headline and sentences for an audit document.

    Args:
        document: The audit's figures, as :class:`~privface.records.Measured`.
        max_leakage: Leakage above which gender leaks. A lower interval end above it is a finding even for a
            probe that reads originals poorly; to say that no leak was found, all upper ends must lie
            below it and every input (images, each matcher's embeddings) needs a probe that counts. Of attributes that are not
            gender the macro AUC stands in for it: 0.5 is chance, too.
        max_tmr_loss: Loss of TMR at FMR 1e-2 above which matching counts as lost.
    """
    rows = _readings(document)
    leaking = [row for row in rows if row["leakage"].low > max_leakage]
    losses = _matching_losses(document["matching"])
    status = _status(rows, _bound(document, rows), leaking, losses, max_leakage, max_tmr_loss)
    # chosen on validation people, so it is preferred to the highest here
    chosen = [_name(row) for row in (document["worst_retrained"], *document.get("attributes", ()))]
    worst = max(leaking, key=lambda row: (_name(row) in chosen, row["leakage"].value), default=None)
    headline = _headline(status, document, rows, worst, losses)
    return {"status": status, "headline": headline, "sentences": [*_sentences(document, losses)]}


def _readings(document: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """What attackers read of gender; of a set without gender labels, their macro AUC of each attribute as ``leakage``."""
    if document["leakage"]:
        return list(document["leakage"])
    return [
        {
            **row,
            "kind": "recovered" if row["probe"].startswith("recover+") else "retrained",
            "leakage": row["auc"],
            "white_box": row["input"].startswith(f"{WHITE_BOX}:"),
        }
        for row in document.get("attribute_readings", ())
    ]


def _name(row: Mapping[str, Any]) -> tuple[object, ...]:
    return row["probe"], row["input"], row.get("attribute")


def _bound(document: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> float:
    """The highest upper bound of an attacker who learns; NaN where there is none."""
    if document["leakage"]:
        return float(document["worst_upper"]["leakage"].value)
    return max((row["leakage"].high for row in rows if not math.isnan(row["leakage"].high)), default=math.nan)


def _status(
    rows: Sequence[Mapping[str, Any]],
    bound: float,
    leaking: Sequence[Mapping[str, Any]],
    losses: Mapping[str, Measured],
    max_leakage: float,
    max_tmr_loss: float,
) -> Status:
    if leaking:
        return "leaks"
    if any(loss.value > max_tmr_loss for loss in losses.values()):
        return "matching-lost"
    retrained = [row for row in rows if row["kind"] == "retrained"]
    if not any(row["measurable"] for row in retrained):
        return "not-measurable"
    # written so that NaN, which fails every comparison, leads to "inconclusive"
    bounded = bound <= max_leakage and all(
        row["leakage"].high <= max_leakage for row in rows if row["measurable"]
    )
    inputs = {(row["input"], row.get("attribute")) for row in retrained}
    covered = inputs == {(row["input"], row.get("attribute")) for row in retrained if row["measurable"]}
    kept = all(loss.value <= max_tmr_loss for loss in losses.values())
    return "no-leak-found" if bounded and covered and kept else "inconclusive"


def _matching_losses(rows: Sequence[Mapping[str, Any]]) -> dict[str, Measured]:
    """TMR lost between O-O and P-P, by matcher."""
    rates, losses = match_rates(rows), {}
    for matcher in dict.fromkeys(matcher for matcher, _ in rates):
        before, after = rates[matcher, "O-O"], rates[matcher, "P-P"]
        losses[matcher] = Measured(before.value - after.value, reason=before.reason or after.reason)
    return losses


def _headline(
    status: Status,
    document: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    worst: Mapping[str, Any] | None,
    losses: Mapping[str, Measured],
) -> str:
    what = " or ".join(dict.fromkeys(row.get("attribute", "gender") for row in rows)) or "gender"
    if status == "leaks" and worst is not None:
        at = "Gender can be read at"
        if "attribute" in worst:
            at = f"The attribute {worst['attribute']} can be read at a macro AUC of"
        return (
            f"{at} {_range(worst['leakage'])}, where 0.5 is chance, by"
            f" {_ATTACKERS['white-box' if worst.get('white_box') else worst['kind']]}."
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
            f"Not measurable: no retrained probe of this battery reads {what} from the originals well enough."
        )
    bound = _bound(document, rows)
    version = document["provenance"]["privface"]
    if status == "inconclusive":
        return f"Inconclusive: the upper bound of what a retrained probe reads is {_number(bound)}."
    return (
        f"No probe in this battery (privface {version}) reads {what} at more than {_number(bound)}"
        " (upper 95 % bound, 0.5 is chance)."
    )


def _sentences(document: Mapping[str, Any], losses: Mapping[str, Measured]) -> Iterator[str]:
    worst, frozen = document["worst_retrained"], document["worst_frozen"]
    gap: Measured = document["illusion_gap"]
    gendered = bool(document["leakage"] or not document.get("attributes"))
    if worst["probe"] is not None:
        yield (
            f"The worst retrained probe is {worst['probe']} on {_source(worst['input'])}: leakage"
            f" {_range(worst['leakage'])}; it was chosen on validation people."
        )
    if frozen["probe"] is not None:
        yield f"The worst frozen probe is {frozen['probe']}: leakage {_range(frozen['leakage'])}."
    if not math.isnan(gap.value):
        yield f"The illusion gap, what a test with fixed classifiers alone would have missed, is {_range(gap)}."
    if not gendered:
        yield from _attribute_sentences(document)
    elif "worst_white_box" in document:
        yield _white_box_sentence(document["worst_white_box"])
    for row in document["leakage"]:
        if row["kind"] == "frozen" and row["eer"].value > FLIP_EER:
            yield (
                f"The frozen probe {row['probe']} on {_source(row['input'])} is flipped (EER {row['eer'].value:.3f}): it"
                " calls women men and men women, so the opposite of its answer gives gender away."
            )
    yield from _averaging_sentences(document.get("averaging", ()))
    yield from _matching_sentences(document["matching"], losses)
    yield from _cohort_sentences(document["cohorts"])
    if silent := [row for row in document["leakage"] if not row["measurable"]]:
        names = sorted({row["probe"] for row in silent})
        yield (
            f"{len(silent)} of {len(document['leakage'])} probes do not count, mostly because they read the originals too poorly"
            f" to prove anything ({', '.join(names)}); the table gives each one's reason and what it read."
        )
    yield _battery_sentence(document["battery"])
    if identical := document["quality"]["identical_images"]:
        yield f"{identical} protected images are identical to their originals."
    yield "The figures hold for these photos, probes and people; another attacker may read more."
    yield f"Labels are perceived{' and binary' if gendered else ''}."
    what = "gender" if gendered else "attribute"
    yield f"Whoever holds a labelled photo of the same person learns the {what} by matching."


def _attribute_sentences(document: Mapping[str, Any]) -> Iterator[str]:
    """Who reads most of each attribute, for a set without gender labels."""
    yield f"Gender is not measurable: {NO_GENDER}."
    for row in document["attributes"]:
        if row["medium"] == "any" and row["probe"] == "none":
            yield f"The attribute {row['attribute']} is not measurable: {row['protected'].reason}."
        elif row["medium"] == "any":
            yield (
                f"The worst attacker on {row['attribute']} is {row['probe']} on {_source(row['input'])}: balanced accuracy"
                f" {_range(row['protected'])}, {_range(row['original'])} on originals, where a guess has {row['chance']:.3f};"
                " it was chosen on validation people."
            )


def _white_box_sentence(worst: Mapping[str, Any]) -> str:
    """What the code tells from which faces are drawn."""
    if worst["probe"] is None:
        return "White box: no probe reads the code before its eraser, so nobody knows what is left in it."
    return (
        f"White box: whoever holds the model and could turn each face back into its code without loss reads"
        f" {_range(worst['leakage'])} with {worst['probe']}. A face is drawn from this code alone and tells no more than it."
    )


def _averaging_sentences(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What the attacker with the most draws reads who reads most on validation people."""
    most = max((row["draws"] for row in rows), default=1)
    known = [row for row in rows if row["draws"] == most and row["measurable"]]
    if most > 1 and not known:
        yield f"No probe that counts could be sent against the average of {most} draws."
    elif most > 1:
        worst = max(known, key=lambda row: row["validation_leakage"])
        yield (
            f"The protection is randomised: whoever holds {most} draws of each photo and averages their {worst['combined']}"
            f" reads {_range(worst['leakage'])} with {worst['probe']} on {_source(worst['input'])},"
            f" {worst['gain'].value:+.3f} over one draw."
        )


def _battery_sentence(battery: Mapping[str, Any] | None) -> str:
    if not battery:
        return "The battery was not self-tested on planted leaks, so nobody knows what it could have found."
    missed = [row["leak"] for row in battery["leaks"] if not row["found"]]
    found = [row["leak"] for row in battery["leaks"] if row["found"]]
    alarms = [row["rate"] for row in battery["nulls"] if row["probe"] == "battery"]
    said = f"Self-test: of {len(battery['leaks'])} planted leaks the battery found {len(found)}"
    said += f", not {', '.join(missed)}" if missed else f" ({', '.join(found)})"
    if alarms:
        said += f", and raised a false alarm on {max(alarms):.1%} of the sets without any"
    return f"{said}."


def _cohort_sentences(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Whom the protection costs most, of the cohorts whose growth in FNMR has an interval."""
    measured = [row for row in rows if not math.isnan(row["ratio"].low)]
    hardest = max(measured, key=lambda row: row["ratio"].value, default=None)
    if hardest is not None and hardest["ratio"].value <= FNMR_GROWTH:
        yield f"No cohort's FNMR at FMR 1e-2 grows by more than a factor of {FNMR_GROWTH}."
    elif hardest is not None:
        yield (
            f"Hit hardest is the cohort {hardest['cohort']} {hardest['value']}: with {hardest['matcher']} its FNMR at"
            f" FMR 1e-2 goes from {hardest['fnmr_before'].value:.1%} to {hardest['fnmr_after'].value:.1%}, a factor"
            f" of {hardest['ratio'].value:.1f} ({hardest['ratio'].low:.1f} to {hardest['ratio'].high:.1f}); more than"
            f" {FNMR_GROWTH} counts as unfair."
        )


def _matching_sentences(rows: Sequence[Mapping[str, Any]], losses: Mapping[str, Measured]) -> Iterator[str]:
    if not losses:
        yield "Matching was not audited: no matcher was given."
        return
    seen = {row["matcher"]: row["seen"] for row in rows}
    known = {True: "seen in training", False: "not seen in training", None: "unknown if seen in training"}
    for matcher, loss in losses.items():
        title = f"{matcher} ({known[seen[matcher]]})"
        if math.isnan(loss.value):
            yield f"TMR at FMR 1e-2 with {title} is not measurable: {loss.reason}."
            continue
        before, after = (match_rates(rows)[matcher, mode].value for mode in ("O-O", "P-P"))
        yield f"With {title}, {after:.1%} of genuine pairs match at FMR 1e-2 once protected, {before:.1%} before."
    if all(value is not False for value in seen.values()):
        yield "No matcher is known to be unseen in training, so matching may be flattered."


def _source(source: str) -> str:
    kind, _, name = source.partition(":")
    if kind == WHITE_BOX:
        return f"the {name} itself (white box)"
    return f"{name} embeddings" if kind == "embedding" else "images"


def _number(value: float) -> str:
    return "not measurable" if math.isnan(value) else f"{value:.3f}"


def _range(figure: Measured) -> str:
    if math.isnan(figure.low):
        return _number(figure.value)
    return f"{figure.value:.3f} ({figure.low:.3f} to {figure.high:.3f})"
