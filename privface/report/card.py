"""A model card in Markdown, filled from an audit: what a data protection officer asks first (Mitchell et al., FAT* 2019)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from privface.images import write_atomic
from privface.report.reading import Reading, part_of, plain_text, rows_of

_LIMITS = """\
- It is no anonymisation: people are still recognised, on purpose. Whoever holds a labelled photo of the same person learns the gender by matching.
- The figures hold for these photos, people and attackers. Another attacker, or more labels, may read more.
- Labels are perceived and binary.
- It is a technical test after the ideas of the standards named here, not a certificate of conformity."""


def write_card(document: Mapping[str, Any], out: Path, *, model: str | None = None) -> Path:
    """Write ``card.md``; what only the maker knows is left to be filled in.

    Terms are those of ISO/IEC 19795-1 and 19795-10 (matching), 24745 and 30136 (protection); FNMR is 1 - TMR. ``model`` is
    what was audited, as its maker names it.
    """
    write_atomic(out, (card(document, model=model) + "\n").encode())
    return out


def card(document: Mapping[str, Any], *, model: str | None = None) -> str:
    """The text of :func:`write_card`."""
    verdict = part_of(document, "verdict")
    parts = [
        f"# Model card: {_text(model or '(name of the model)')}",
        f"**{_text(verdict.get('headline'))}**",
        "- Made by: (fill in)\n- Meant for: (fill in)\n- Not meant for: (fill in)\n- Learnt from: (fill in; whose photos, by which right)",
        "## Audited on",
        _audited_on(document),
        "## Are people still recognised? (ISO/IEC 19795-1)",
        "FNMR: share of pairs of one person that are missed, at FMR 1 %. Protected with protected, protected with original.",
        markdown_table(
            ("matcher", "met in training", "original", "protected", "protected and original"),
            _matching(rows_of(document, "matching")),
        ),
        *_read(document),
        "## Do some groups pay more? (ISO/IEC 19795-10)",
        markdown_table(
            ("group", "photos", "FNMR before", "FNMR after", "ratio"),
            _lines(
                [
                    {**row, "group": f"{row.get('cohort')} {row.get('value')}"}
                    for row in rows_of(document, "cohorts")
                ],
                ("group", "n"),
                ("fnmr_before", "fnmr_after", "ratio"),
            ),
        ),
        "## Can it be turned back, or linked? (ISO/IEC 24745, 30136)",
        "TMR at FMR 1 % of recovered and of protected faces against other originals of the person, beside that of originals.",
        markdown_table(
            ("recovered from", "by", "compared by", "recovered", "protected", "original"),
            _lines(
                [
                    {
                        **row,
                        **{
                            side: part_of(row, side).get("0.01")
                            for side in ("recovered", "protected", "original")
                        },
                    }
                    for row in rows_of(document, "irreversibility")
                ],
                ("input", "recoverer", "matcher"),
                ("recovered", "protected", "original"),
            ),
        ),
        "D_sys, how surely two protections of one person are linked: 0 is never, 1 is always.",
        markdown_table(
            ("compared by", "D_sys"), _lines(rows_of(document, "unlinkability"), ("matcher",), ("d_sys",))
        ),
        "## What this card does not say",
        _LIMITS,
    ]
    return "\n\n".join(parts)


def _read(document: Mapping[str, Any]) -> Iterable[str]:
    """The parts on gender, where it was labelled, and on further attributes, where there are any."""
    attributes = [row for row in rows_of(document, "attributes") if row.get("medium") == "any"]
    if rows_of(document, "leakage") or not attributes:
        yield "## What is read of gender?"
        yield "AUC, folded: 0.5 is guessing, 1 is always right. Intervals hold 95 %."
        yield markdown_table(("who", "reads"), _leakage(document))
    if attributes:
        yield "## What is read of other attributes?"
        yield "Balanced accuracy of the worst attacker, chosen on validation people, beside that of a guess. Intervals hold 95 %."
        yield markdown_table(
            ("attribute", "a guess", "original", "protected"),
            _lines(attributes, ("attribute",), ("chance", "original", "protected")),
        )


def _audited_on(document: Mapping[str, Any]) -> str:
    data, rows = part_of(document, "data"), rows_of(document, "leakage")
    rows = rows or rows_of(document, "attribute_readings")
    people, counting = part_of(data, "attacker_people"), sum(row.get("measurable") is True for row in rows)
    female, male = data.get("female_people"), data.get("male_people")
    genders = f" ({female} women, {male} men)" if female or male else ""
    return (
        f"{data.get('images')} photos of {data.get('people')} people{genders}"
        f", set {_text(data.get('name'))}. {len(rows)} attackers were sent, of whom {counting} read"
        f" the originals well enough to count. They learnt from {_sum(people, 'train', 'val')} people and attacked"
        f" {people.get('test')} others."
    )


def _matching(rows: Sequence[Mapping[str, Any]]) -> Iterable[Sequence[str]]:
    faces = [row for row in rows if row.get("impostors") == "all" and not row.get("white_box")]
    for name in dict.fromkeys(row.get("matcher") for row in faces):
        mine = {row.get("mode"): row for row in faces if row.get("matcher") == name}
        met = {True: "yes", False: "no"}.get(next(iter(mine.values())).get("seen"), "not known")  # type: ignore[arg-type]
        missed = [_missed(part_of(mine.get(mode, {}), "tmr").get("0.01")) for mode in ("O-O", "P-P", "P-O")]
        yield [_text(name), met, *missed]


def _missed(tmr: object) -> str:
    found = Reading.of(tmr)
    return Reading(1 - found.value, 1 - found.high, 1 - found.low, found.n).text


def _leakage(document: Mapping[str, Any]) -> Iterable[Sequence[str]]:
    for key, who in (
        ("worst_frozen", "pretrained classifier"),
        ("worst_retrained", "worst attacker who learns from protected photos of others"),
        ("worst_upper", "upper end of any such attacker's interval"),
        ("worst_white_box", "whoever holds the model and reads its code"),
    ):
        found = part_of(document, key)
        if found:
            yield [
                f"{who} ({_text(found.get('probe') or 'none counts')})",
                Reading.of(found.get("leakage")).text,
            ]
    for row in rows_of(document, "learning_curve"):
        more = Reading.of(row.get("ten_times")).text
        yield [
            f"{_text(row.get('probe'))} on {_text(row.get('input'))} with ten times the labels, extrapolated",
            more,
        ]


def _lines(
    rows: Iterable[Mapping[str, Any]], names: Sequence[str], figures: Sequence[str]
) -> Iterable[Sequence[str]]:
    """A line for each row: some entries as they are, then some figures."""
    for row in rows:
        yield [*(_text(row.get(key)) for key in names), *(Reading.of(row.get(key)).text for key in figures)]


def markdown_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of cells in which ``|`` is escaped."""
    lines = [f"| {' | '.join(cells)} |" for cells in rows]
    if not lines:
        return "Not measured."
    return "\n".join([f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}", *lines])


def _text(value: object) -> str:
    """One line that no table and no markup comes out of."""
    return plain_text(value).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")


def _sum(people: Mapping[str, Any], *parts: str) -> int:
    return sum(value for part in parts if isinstance(value := people.get(part), int))
