"""The commands of ``privface erase``: gender, or another attribute, out of stored embeddings, ours or a vendor's."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from privface.cli.show import AsJson, Console, progress_bars

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

    Console.document(
        "erase methods",
        methods=[
            {
                "method": name,
                "promise": kind.promise.kind,
                "meaning": kind.promise.text,
                "classes": "2 or more" if kind.several else "2",
                "streams": hasattr(kind, "partial_fit"),
                "settings": kind().get_params(),
            }
            for name, kind in METHODS.items()
        ],
    )
    Console.table(
        ["method", "promise", "which means", "classes", "streams", "settings and their defaults"],
        [
            [
                name,
                kind.promise.kind,
                kind.promise.text,
                "2 or more" if kind.several else "2",
                "yes" if hasattr(kind, "partial_fit") else "no",
                ", ".join(f"{key}={value}" for key, value in kind().get_params().items()),
            ]
            for name, kind in METHODS.items()
        ],
    )


@app.command()
def fit(
    table: Annotated[
        Path, typer.Argument(metavar="EMBEDDINGS", help="Table of embeddings: .parquet, .npz or .csv.")
    ],
    out: Annotated[Path, typer.Option(help="Folder to write the eraser to.")],
    method: Annotated[
        str, typer.Option(help="See `privface erase methods`; adversarial hides most.")
    ] = "adversarial",
    attribute: Annotated[
        str,
        typer.Option(
            help="What to erase: gender, another column of the labels, or numbers in bands, as in age=16,30,45,60. More than two "
            "classes are for methods that say so."
        ),
    ] = "gender",
    labels: Annotated[
        Path | None,
        typer.Option(
            help="CSV or Parquet: file, the attribute and, better, identity; by default the table's own columns."
        ),
    ] = None,
    split: Annotated[str | None, typer.Option(help="Learn only from rows of this split.")] = None,
    matcher: Annotated[
        str | None, typer.Option(help="Learn only from rows of this matcher, if the table has several.")
    ] = None,
    more: Annotated[
        list[str] | None,
        typer.Option(
            help="A further labelled set of the same matcher, EMBEDDINGS or EMBEDDINGS:LABELS; genders are made alike within "
            "each set. Repeatable; for methods that are networks."
        ),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="A setting of the method, such as similarity=80. Repeatable."),
    ] = None,
    max_per_person: Annotated[int, typer.Option(help="Embeddings a person counts with; 0 takes all.")] = 5,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an eraser in OUT.")] = False,
    json: AsJson = False,
) -> None:
    """Learn an eraser from labelled embeddings; nobody's label is asked for when it is applied.

    Example: `privface erase fit emb.parquet --labels labels.csv --split train --method leace --out erasers/leace`
    """
    from privface.attributes import Attribute  # noqa: PLC0415
    from privface.config import parse_values  # noqa: PLC0415
    from privface.pipeline.erase import EraserSource, fit_eraser  # noqa: PLC0415

    further = []
    for text in more or ():
        name, _, label = text.partition(":")
        further.append(EraserSource(Path(name), Path(label) if label else None, matcher=matcher))
    with progress_bars() as progress:
        found = fit_eraser(
            EraserSource(table, labels, split, matcher),
            out,
            method=method,
            attribute=Attribute.parse(attribute),
            settings=parse_values(set_ or ()),
            more=further,
            max_per_person=max_per_person,
            overwrite=overwrite,
            progress=progress,
        )
    promise = found.eraser.stated()
    Console.document(
        "erase fit",
        method=method,
        rows=found.rows,
        people=found.people,
        left_out={"no_embedding": found.skipped, "no_label": found.unlabelled, "capped": found.capped},
        promise={"kind": promise.kind, "meaning": promise.text},
        files={"eraser": out},
    )
    left_out = ", ".join(
        f"{count} {why}"
        for count, why in (
            (found.skipped, "without an embedding"),
            (found.unlabelled, "without a label"),
            (found.capped, f"beyond {max_per_person} of a person"),
        )
        if count
    )
    Console.say(
        f"{method}, fitted on {found.rows} embeddings of {found.people or 'unknown'} people"
        f"{f' (left out: {left_out})' if left_out else ''}; {out}\n"
        f"Promise: {promise.kind}. {promise.text}\n\n"
        f"Next: privface erase apply {out} EMBEDDINGS ERASED.parquet"
    )


@app.command()
def apply(
    eraser: Annotated[Path, typer.Argument(metavar="ERASER", help="Folder that `privface erase fit` wrote.")],
    table: Annotated[Path, typer.Argument(metavar="EMBEDDINGS", help="Table: .parquet, .npz or .csv.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Parquet file to write.")],
    keep_labels: Annotated[
        bool,
        typer.Option(
            "--keep-labels",
            help="Keep the column of what was erased, which is dropped otherwise.",
        ),
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT.")] = False,
    json: AsJson = False,
) -> None:
    """Erase a table of embeddings of the same matcher, of any length; memory stays flat.

    Rows and keys stay in order. Rows without an embedding stay empty, and then the exit code is 1.

    Example: `privface erase apply erasers/leace emb.parquet erased.parquet`
    """
    from privface.pipeline.erase import apply_eraser  # noqa: PLC0415

    with progress_bars() as progress:
        found = apply_eraser(
            eraser, table, out, keep_labels=keep_labels, overwrite=overwrite, progress=progress
        )
    Console.document(
        "erase apply",
        erased=found.erased,
        skipped=found.skipped,
        rows_per_second=found.rows_per_second,
        files={"embeddings": out},
    )
    Console.say(
        f"{found.erased} embeddings erased, {found.skipped} rows without one; {found.rows_per_second:,.0f} rows/s; {out}"
    )
    if found.skipped:
        raise typer.Exit(1)
