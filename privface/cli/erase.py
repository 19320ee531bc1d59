"""The commands of ``privface erase``: gender, or another attribute, out of stored embeddings, ours or a vendor's."""

from __future__ import annotations

from pathlib import Path

import typer

from privface.cli.fields import command_options
from privface.cli.show import EXIT_SOME_FAILED, AsJson, Console, progress_bars

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help=(
        "Take gender, or another attribute, out of stored face embeddings while people can still be matched.\n\n"
        "`fit` learns an eraser from labelled embeddings, `apply` erases any table of the same matcher, `methods` says what each "
        "method promises. Then judge it with `privface audit --original before.parquet --protected after.parquet --eraser E`."
    ),
)


@app.command()
def methods(json: AsJson = False) -> None:
    """Every method, what it promises and which published attack breaks it."""
    from privface.erasers import METHODS  # noqa: PLC0415

    rows = [
        {
            "method": name,
            "promise": kind.promise.kind,
            "meaning": kind.promise.text,
            "classes": "2 or more" if kind.several else "2",
            "streams": hasattr(kind, "partial_fit"),
            "settings": kind().get_params(),
        }
        for name, kind in METHODS.items()
    ]
    Console.document("erase methods", methods=rows)
    columns = {
        "method": "method",
        "promise": "promise",
        "which means": "meaning",
        "classes": "classes",
        "streams": lambda row: "yes" if row["streams"] else "no",
        "settings and their defaults": lambda row: ", ".join(f"{k}={v}" for k, v in row["settings"].items()),
    }
    Console.rows(rows, columns)


@app.command()
@command_options(flags={"table": "EMBEDDINGS", "settings": "--set"})
def fit(
    table: Path,
    *,
    out: Path,
    method: str = "adversarial",
    attribute: tuple[str, ...] = (),
    labels: Path | None = None,
    split: str | None = None,
    matcher: str | None = None,
    more: tuple[str, ...] = (),
    settings: tuple[str, ...] = (),
    max_per_person: int = 5,
    overwrite: bool = False,
    json: AsJson = False,
) -> None:
    """Learn an eraser from labelled embeddings; nobody's label is asked for when it is applied.

    Example: `privface erase fit emb.parquet --labels labels.csv --split train --method leace --out erasers/leace`

    Options:
        table: Table of embeddings: .parquet, .npz or .csv.
        out: Folder to write the eraser to.
        method: See ``privface erase methods``; adversarial hides most.
        attribute: What to erase: gender (the default), another column of the labels, or numbers in bands, as in age=16,30,45,60.
            Repeatable: several are erased at once. More than two classes, and several attributes, need a method that takes more
            than two classes (leace, transport, regional).
        labels: CSV or Parquet: file, the attribute and, better, identity; by default the table's own columns.
        split: Learn only from rows of this split.
        matcher: Learn only from rows of this matcher, if the table has several.
        more: A further labelled set of the same matcher, EMBEDDINGS or EMBEDDINGS:LABELS; genders are made alike within each
            set. Repeatable; for methods that are networks.
        settings: A setting of the method, such as similarity=80. Repeatable.
        max_per_person: Embeddings a person counts with; 0 takes all.
        overwrite: Replace an eraser in OUT.
    """
    from privface.attributes import parse_attributes  # noqa: PLC0415
    from privface.config import parse_values  # noqa: PLC0415
    from privface.pipeline.erase import EraserSource, fit_eraser  # noqa: PLC0415

    sets = [text.partition(":") for text in more]
    with progress_bars() as progress:
        fitted = fit_eraser(
            EraserSource(table, labels, split, matcher),
            out,
            method=method,
            attributes=parse_attributes(attribute),
            settings=parse_values(settings),
            more=[
                EraserSource(Path(n), Path(file) if file else None, matcher=matcher) for n, _, file in sets
            ],
            max_per_person=max_per_person,
            overwrite=overwrite,
            progress=progress,
        )
    promise = fitted.eraser.stated()
    Console.document(
        "erase fit",
        method=method,
        rows=fitted.rows,
        people=fitted.people,
        left_out={"no_embedding": fitted.skipped, "no_label": fitted.unlabelled, "capped": fitted.capped},
        promise={"kind": promise.kind, "meaning": promise.text},
        files={"eraser": out},
    )
    counts = {
        "without an embedding": fitted.skipped,
        "without a label": fitted.unlabelled,
        f"beyond {max_per_person} of a person": fitted.capped,
    }
    left_out = ", ".join(f"{count} {why}" for why, count in counts.items() if count)
    Console.say(
        f"{method}, fitted on {fitted.rows} embeddings of {fitted.people or 'unknown'} people"
        f"{f' (left out: {left_out})' if left_out else ''}; {out}\n"
        f"Promise: {promise.kind}. {promise.text}\n\n"
        f"Next: privface erase apply {out} EMBEDDINGS ERASED.parquet"
    )


@app.command()
@command_options(flags={"eraser": "ERASER", "table": "EMBEDDINGS", "out": "OUT"})
def apply(
    eraser: Path,
    table: Path,
    out: Path,
    *,
    keep_labels: bool = False,
    overwrite: bool = False,
    json: AsJson = False,
) -> None:
    """Erase a table of embeddings of the same matcher, of any length; memory stays flat.

    Rows and keys stay in order. Rows without an embedding stay empty, and then the exit code is 1.

    Example: `privface erase apply erasers/leace emb.parquet erased.parquet`

    Options:
        eraser: Folder that `privface erase fit` wrote.
        table: Table: .parquet, .npz or .csv.
        out: Parquet file to write.
        keep_labels: Keep the columns of what was erased, which are dropped otherwise.
        overwrite: Replace OUT.
    """
    from privface.pipeline.erase import apply_eraser  # noqa: PLC0415

    with progress_bars() as progress:
        summary = apply_eraser(
            eraser, table, out, keep_labels=keep_labels, overwrite=overwrite, progress=progress
        )
    Console.document("erase apply", **vars(summary), files={"embeddings": out})
    Console.say(
        f"{summary.erased} embeddings erased, {summary.skipped} rows without one; {summary.rows_per_second:,.0f} rows/s; {out}"
    )
    if summary.skipped:
        raise typer.Exit(EXIT_SOME_FAILED)
