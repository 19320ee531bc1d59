"""Commands of ``privface``. Only light imports here: heavy rooms load inside the command that needs them."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from typing import Annotated

import typer

from privface import __version__
from privface.cli.app import app as web_page
from privface.cli.audit import audit, compare
from privface.cli.autoencoder import app as autoencoder_app
from privface.cli.erase import app as erase_app
from privface.cli.fields import fields_as_options
from privface.cli.protect import match, protect
from privface.cli.show import (
    EXIT_BUG,
    EXIT_SOME_FAILED,
    EXIT_STOPPED,
    EXIT_USAGE,
    AsJson,
    Console,
    audit_content,
    progress_bars,
)
from privface.cli.sweep import sweep
from privface.errors import PrivfaceError
from privface.options import Alignment, Computing, ModelChoice

app = typer.Typer(
    name="privface",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help=(
        "Hide gender in face images while face matching keeps working - and measure honestly whether it does.\n\n"
        "Start with `privface demo`. Then `protect` a folder, with the model that comes along or with one that you `train` on "
        "labelled faces, and `audit` the result with attackers that are retrained on the protected photos.\n\n"
        "Exit codes: 0 done, 1 some files failed, 2 wrong usage or input, 3 audit gate not met, 70 a bug of privface, 130 stopped."
    ),
)
models_app = typer.Typer(no_args_is_help=True, help="Models on this machine.")


def _version(value: bool) -> None:
    if value:
        typer.echo(f"privface {__version__}")
        raise typer.Exit


@app.callback()
def common(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="No progress, no summary; errors only.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options of every command."""
    Console.start(debug=debug, quiet=quiet)


def demo(
    out: Annotated[
        Path, typer.Option(help="Folder for the demo; must be new, empty or an earlier demo.")
    ] = Path("demo"),
    seed: Annotated[int, typer.Option(help="Same seed, same audit.")] = 0,
    json: AsJson = False,
) -> None:
    """Generated faces, matchers, a classifier, a protector and an honest audit, in three to five minutes, offline."""
    from privface.pipeline.demo import run_demo  # noqa: PLC0415

    with progress_bars() as progress:
        progress("demo, three to five minutes on two cores", 0, 1)
        result = run_demo(out, seed=seed, progress=progress)
        progress("demo, three to five minutes on two cores", 1, 1)
    files = {
        "report": out / "report.html",
        "audit": out / "audit.json",
        "contact_sheet": out / "contact_sheet.png",
    }
    Console.document("demo", **audit_content(result), files=files)
    Console.audit(result)
    Console.say(
        f"Report: {files['report']}\nContact sheet: {files['contact_sheet']}\n\n"
        "Next: open the report; then protect photos with the model that comes with privface\n"
        "  privface protect PHOTOS OUTPUT\n"
        "or train on your own faces with\n"
        "  privface train --config experiments/06_erased_code/configs/strong.yaml --out runs/mine\n"
        "after pointing `data` and `matchers` at your files (docs/training.md)."
    )


def train(
    config: Annotated[Path, typer.Option(help="YAML settings; docs/training.md lists them all.")],
    out: Annotated[Path, typer.Option(help="Run folder to write.")],
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Override a setting, such as loop.epochs=3. Repeatable.")
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Go on from the run's last checkpoint, exactly. A finished run is left as it is."
        ),
    ] = False,
    save_images: Annotated[
        bool, typer.Option("--save-images", help="Write a contact sheet an epoch. It shows original faces.")
    ] = False,
    json: AsJson = False,
) -> None:
    """Train a perturbation model on labelled faces against a matcher and gender classifiers.

    Example: `privface train --config train.yaml --out runs/mine`
    """
    from privface.config import load_settings  # noqa: PLC0415
    from privface.pipeline import train as fit  # noqa: PLC0415
    from privface.pipeline.methods import find_method  # noqa: PLC0415

    settings = load_settings(config, set_ or ())
    with progress_bars() as progress:
        summary = fit(settings, out, resume=resume, save_images=save_images, progress=progress)
    Console.document(
        "train",
        steps=summary.steps,
        images_per_second=summary.images_per_second,
        data_wait_share=summary.data_wait_share,
        validation=summary.validation,
        files={"model": out},
    )
    figures = "".join(f"\n  {name}: {value:.3f}" for name, value in summary.validation.items())
    labels = " --genders LABELS.csv" if find_method(settings.method).needs_genders else ""
    Console.say(
        f"{summary.steps} steps, {summary.images_per_second:.1f} images/s, {summary.data_wait_share:.1%} of the time waiting for data.\n"
        f"Validation on held-out people:{figures or ' none'}\nModel: {out}\n\n"
        f"Next: privface protect PHOTOS OUTPUT --model {out}{labels}"
    )


@fields_as_options()
def export(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="Run folder of `privface train`, or bundled:erased.")
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT.onnx", help="File to write.")],
    *,
    choice: ModelChoice,
    json: AsJson = False,
) -> None:
    """Write a model as one ONNX file with all choices built in, after checking that ONNX Runtime and torch agree.

    Use it anywhere ONNX runs, or here: `privface protect PHOTOS OUTPUT --model OUT.onnx`.
    """
    from privface.models.export import export_protector  # noqa: PLC0415

    exported = export_protector(run, out, **{**vars(choice), "hide": choice.hidden})
    Console.document(
        "export",
        bytes=exported.bytes,
        difference=exported.difference,
        metadata=exported.metadata,
        files={"model": exported.path},
    )
    Console.say(
        f"{exported.path}: {exported.bytes / 2**20:.1f} MiB, input 'images' (N, 3, {exported.metadata['privface.size']},"
        f" {exported.metadata['privface.size']}) in [0, 1]; differs from torch by at most {exported.difference:.1g}"
    )


@fields_as_options()
def embed(
    images: Annotated[Path, typer.Argument(metavar="IMAGES", help="Photos: a folder, or kind:path.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Parquet file to write.")],
    matcher: Annotated[
        str, typer.Option(help="bundled:matcher, facenet:vggface2, onnx:FILE, module:pkg.fn or mini:FOLDER.")
    ],
    labels: Annotated[Path | None, typer.Option(help="CSV or Parquet: file, identity, gender.")] = None,
    *,
    faces: Annotated[Alignment, typer.Option(help="How photos are aligned.")] = "auto",
    where: Computing,
    json: AsJson = False,
) -> None:
    """Write face embeddings with their labels to Parquet, one row a photo.

    Example: `privface embed photos embeddings.parquet --matcher onnx:models/matcher.onnx`
    """
    from privface.device import Device  # noqa: PLC0415
    from privface.pipeline import embed as run  # noqa: PLC0415

    here = Device.choose(where.device, where.precision)
    with progress_bars() as progress:
        frame = run(images, out, matcher=matcher, labels=labels, faces=faces, device=here, progress=progress)
    missing = frame[frame["embedding"].isna()]
    failed = len(missing)
    Console.document(
        "embed",
        embeddings=len(frame) - failed,
        failed=dict(zip(missing["file"], missing["reason"], strict=True)),
        files={"embeddings": out},
    )
    Console.say(f"{len(frame) - failed} embeddings, {failed} failed; {out}")
    if failed:
        raise typer.Exit(EXIT_SOME_FAILED)


@models_app.command("list")
def models_list(
    folder: Annotated[
        Path | None,
        typer.Argument(help="Also look for models that privface trained in this folder, such as runs."),
    ] = None,
    json: AsJson = False,
) -> None:
    """Which models there are: kind, what they can be asked to hide, licence, size, SHA-256, origin, and whether their weights are here."""
    from privface.models.inventory import FORMS, list_models  # noqa: PLC0415

    models = list_models(folder)
    Console.document("models list", models=[vars(model) for model in models], forms=FORMS)
    columns = {
        "model": "name",
        "kind": "kind",
        "hides": lambda m: ", ".join(m["hides"]),
        "here": lambda m: "yes" if m["present"] else "no",
        "size": lambda m: "" if m["bytes"] is None else f"{m['bytes'] / 2**20:.1f} MiB",
        "sha256": lambda m: (m["sha256"] or "")[:12],
        "licence": "licence",
        "from": "source",
        "where": "where",
    }
    Console.rows([vars(model) for model in models], columns)
    Console.say("")
    Console.table(["or name it as", "which is"], list(FORMS.items()))


@models_app.command("verify")
def models_verify(
    spec: Annotated[
        list[str],
        typer.Argument(help="Matcher or gender classifier specification, bundled:erased, or a run folder."),
    ],
    probe: Annotated[bool, typer.Option("--probe", help="These are gender classifiers.")] = False,
    json: AsJson = False,
) -> None:
    """Load models, run a blank face through them, print the hash of their weights (a run folder: its fingerprint), input and output size.

    Files of models that come with privface are first compared with what was shipped.
    """
    from privface.models.inventory import verify_model  # noqa: PLC0415

    columns = ["model", "sha256", "input", "output"]
    rows = [list(verify_model(text, probe=probe)) for text in spec]
    Console.document("models verify", models=[dict(zip(columns, row, strict=True)) for row in rows])
    Console.table(columns, rows)


@models_app.command("card")
def models_card(
    spec: Annotated[str, typer.Argument(help="A model that comes with privface, such as bundled:erased.")],
) -> None:
    """Print a model's card: what it is, what it learnt from, what an audit found, what it must not be used for."""
    from privface.models.bundled import model_card  # noqa: PLC0415

    Console.say(model_card(spec))


def doctor(json: AsJson = False) -> None:
    """Versions, device, ONNX Runtime, extras, weights, data and disk; and what to do about each problem."""
    from privface.cli.doctor import checks  # noqa: PLC0415

    findings = [vars(check) for check in checks()]
    problems = sum(check["state"] == "problem" for check in findings)
    Console.document("doctor", problems=problems, checks=findings)
    columns = {"check": "name", "state": "state", "finding": "finding", "what to do": "cure"}
    Console.rows(findings, columns)
    if problems:
        raise typer.Exit(EXIT_SOME_FAILED)


# help lists them in this order, as a newcomer meets them
for command in (demo, train, protect, audit, compare, sweep, embed, match, export, web_page, doctor):
    app.command()(command)
app.add_typer(erase_app, name="erase")
app.add_typer(autoencoder_app, name="autoencoder")
app.add_typer(models_app, name="models")


def main() -> None:
    """Entry point: maps errors to messages and exit codes."""
    try:
        app()  # wrong usage: typer prints it and exits with 2
    except PrivfaceError as error:
        _fail(error.message, error.hint, EXIT_USAGE)
    except OSError as error:  # a full disk, a lost mount, a missing permission: the user's to cure
        place = f"{error.filename}: " if error.filename else ""
        _fail(
            f"{place}{error.strerror or error}.",
            "Check the path, its permissions and free space.",
            EXIT_USAGE,
        )
    except MemoryError:
        _fail("There is not enough memory.", "Take fewer images at once, such as --batch-size 8.", EXIT_USAGE)
    except ModuleNotFoundError as error:
        package = str(error.name).partition(".")[0]
        if package == "privface":
            _report_bug(error)
        _fail(
            f"This needs {package}, which is not installed.",
            "For Parquet tables: pip install pyarrow."
            if package == "pyarrow"
            else "Install all of privface: pip install 'privface[train]'.",
            EXIT_USAGE,
        )
    except Exception as error:  # whatever it is, a user is told in one sentence
        _report_bug(error)
    except SystemExit as stop:
        if stop.code == EXIT_STOPPED:  # typer turns Ctrl-C into this code
            Console.error(
                "Stopped; what was finished is kept.",
                "Run the same command again to go on (training: with --resume).",
            )
        raise


def _report_bug(error: Exception) -> None:
    first = next(iter(str(error).strip().splitlines()), "no message")
    _fail(
        f"This is a bug in privface: {type(error).__name__}: {first}",
        "Run the command again as `privface --debug ...` and report the command and its traceback.",
        EXIT_BUG,
    )


def _fail(message: str, hint: str | None, code: int) -> None:
    if Console.debug:
        traceback.print_exc()
    Console.error(message, hint)
    sys.exit(code)
