"""``privface app``: the web page for people who do not use a command line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from privface.cli.fields import fields_as_options
from privface.cli.show import Console
from privface.options import Computing


@fields_as_options()
def app(
    model: Annotated[
        Path | None,
        typer.Option(
            help="Run folder of `privface train`, or an .onnx file of `privface export`; by default bundled:erased, which comes "
            "with privface."
        ),
    ] = None,
    matcher: Annotated[
        list[str] | None,
        typer.Option(
            help="Face matcher: bundled:matcher, facenet:vggface2, onnx:FILE, module:pkg.fn, mini:FOLDER. Repeatable. Audits need one."
        ),
    ] = None,
    probe: Annotated[
        list[str] | None, typer.Option(help="Gender classifier, same forms; bundled:gender. Repeatable.")
    ] = None,
    port: Annotated[int, typer.Option(help="Port on this machine; 0 takes a free one.")] = 7860,
    *,
    where: Computing,
) -> None:
    """A web page on this machine: protect photos, audit sets of photos, compare audits. Extra [app].

    Only this machine can open it, nothing is sent elsewhere, and nothing uploaded is kept (docs/app.md).

    Example: `privface app --model runs/mine --matcher onnx:m.onnx --probe mini:runs/mine/classifiers/0`
    """
    from privface.app.server import Settings, serve  # noqa: PLC0415

    Console.say("Loading models ...")
    serve(
        Settings(model=model, matchers=matcher or (), probes=probe or (), port=port, where=where),
        ready=lambda address: Console.say(
            f"Open {address} in a browser. Ctrl-C ends it and wipes all that was uploaded."
        ),
    )
