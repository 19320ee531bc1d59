"""A model card in Markdown, filled from an audit: what a data protection officer asks first (Mitchell et al., FAT* 2019)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from markupsafe import Markup

from privface.images import write_atomic
from privface.report.html import environment
from privface.report.reading import Reading, Row, part_of, plain_text, rows_of


def write_card(document: Row, out: Path, *, model: str | None = None) -> Path:
    """Write ``card.md``; what only the maker knows is left to be filled in.

    Terms are those of ISO/IEC 19795-1 and 19795-10 (matching), 24745 and 30136 (protection); FNMR is 1 - TMR. ``model`` is
    what was audited, as its maker names it.
    """
    data, leakage = part_of(document, "data"), rows_of(document, "leakage")
    people = part_of(data, "attacker_people")
    cohorts = rows_of(document, "cohorts")
    faces = [row for row in rows_of(document, "matching") if row.get("impostors") == "all"]
    template = environment(text=_markdown).get_template("card.md.j2")
    text = template.render(
        model=model,
        verdict=part_of(document, "verdict"),
        data=data,
        leakage=leakage,
        leaks=list(_leakage(document)),
        attackers=leakage or rows_of(document, "attribute_readings"),
        learnt_from=sum(n for part in ("train", "val") if isinstance(n := people.get(part), int)),
        attacked=people.get("test"),
        matching=list(_matching([row for row in faces if not row.get("white_box")])),
        attributes=[row for row in rows_of(document, "attributes") if row.get("medium") == "any"],
        cohorts=[{**row, "group": f"{row.get('cohort')} {row.get('value')}"} for row in cohorts],
        irreversibility=[
            row | {side: part_of(row, side).get("0.01") for side in ("recovered", "protected", "original")}
            for row in map(dict, rows_of(document, "irreversibility"))
        ],
        unlinkability=rows_of(document, "unlinkability"),
        table=lambda heads, lines: Markup(markdown_table(heads, lines)),  # noqa: S704 - cells are escaped
        lines=_lines,
    )
    write_atomic(out, (text + "\n").encode())
    return out


def _matching(rows: Sequence[Row]) -> Iterable[Sequence[str]]:
    for name in dict.fromkeys(row.get("matcher") for row in rows):
        mine = {row.get("mode"): row for row in rows if row.get("matcher") == name}
        met = {True: "yes", False: "no"}.get(next(iter(mine.values())).get("seen"), "not known")  # type: ignore[arg-type]
        missed = [_missed(part_of(mine.get(mode, {}), "tmr").get("0.01")) for mode in ("O-O", "P-P", "P-O")]
        yield [_text(name), met, *missed]


def _missed(tmr: object) -> str:
    found = Reading.of(tmr)
    return Reading(1 - found.value, 1 - found.high, 1 - found.low).text


def _leakage(document: Row) -> Iterable[Sequence[str]]:
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


def _lines(rows: Iterable[Row], names: Sequence[str], figures: Sequence[str]) -> list[Sequence[str]]:
    """A line for each row: some entries as they are, then some figures."""
    return [
        [*(_text(row.get(key)) for key in names), *(Reading.of(row.get(key)).text for key in figures)]
        for row in rows
    ]


def markdown_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of cells in which ``|`` is escaped."""
    if not rows:
        return "Not measured."
    lines = [f"| {' | '.join(cells)} |" for cells in (heads, *rows)]
    return "\n".join([lines[0], f"|{' --- |' * len(heads)}", *lines[1:]])


def _markdown(value: str) -> Markup:
    return Markup(_text(value))  # noqa: S704 - escaped as Markdown


def _text(value: object) -> str:
    """One line that no table and no markup comes out of."""
    return plain_text(value).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")
