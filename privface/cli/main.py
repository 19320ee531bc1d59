"""Commands of ``privface``. Only light imports here: heavy rooms load inside the command that needs them."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from typing import Annotated

import typer

from privface import __version__
from privface.cli.audit import audit, compare
from privface.cli.autoencoder import app as autoencoder_app
from privface.cli.erase import app as erase_app
from privface.cli.fields import command_options
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


@command_options()
def demo(*, out: Path = Path("demo"), seed: int = 0, json: AsJson = False) -> None:
    """Generated faces, matchers, a classifier, a protector and an honest audit, in three to five minutes, offline.

    Options:
        out: Folder for the demo; must be new, empty or an earlier demo.
        seed: Same seed, same audit.
    """
    from privface.pipeline.demo import run_demo  # noqa: PLC0415

    stage = "demo, three to five minutes on two cores"
    with progress_bars() as progress:
        progress(stage, 0, 1)
        result = run_demo(out, seed=seed, progress=progress)
        progress(stage, 1, 1)
    names = {"report": "report.html", "audit": "audit.json", "contact_sheet": "contact_sheet.png"}
    files = {key: out / name for key, name in names.items()}
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


@command_options(flags={"set_": "--set"})
def train(
    *,
    config: Path,
    out: Path,
    set_: tuple[str, ...] = (),
    resume: bool = False,
    save_images: bool = False,
    json: AsJson = False,
) -> None:
    """Train a perturbation model on labelled faces against a matcher and gender classifiers.

    Example: `privface train --config train.yaml --out runs/mine`

    Options:
        config: YAML settings; docs/training.md lists them all.
        out: Run folder to write.
        set_: Override a setting, such as loop.epochs=3. Repeatable.
        resume: Go on from the run's last checkpoint, exactly. A finished run is left as it is.
        save_images: Write a contact sheet an epoch. It shows original faces.
    """
    from privface.config import load_settings  # noqa: PLC0415
    from privface.pipeline import train as fit  # noqa: PLC0415
    from privface.pipeline.methods import find_method  # noqa: PLC0415

    settings = load_settings(config, set_)
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


@command_options(flags={"run": "RUN", "out": "OUT.onnx"})
def export(run: Path, out: Path, *, choice: ModelChoice, json: AsJson = False) -> None:
    """Write a model as one ONNX file with all choices built in, after checking that ONNX Runtime and torch agree.

    Use it anywhere ONNX runs, or here: `privface protect PHOTOS OUTPUT --model OUT.onnx`.

    Options:
        run: Run folder of `privface train`, or bundled:erased.
        out: File to write.
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


@command_options(flags={"images": "IMAGES", "out": "OUT"})
def embed(
    images: Path,
    out: Path,
    *,
    matcher: str,
    labels: Path | None = None,
    faces: Alignment = "auto",
    where: Computing,
    json: AsJson = False,
) -> None:
    """Write face embeddings with their labels to Parquet, one row a photo.

    Example: `privface embed photos embeddings.parquet --matcher onnx:models/matcher.onnx`

    Options:
        images: Photos: a folder, or kind:path.
        out: Parquet file to write.
        matcher: bundled:matcher, facenet:vggface2, onnx:FILE, module:pkg.fn or mini:FOLDER.
        labels: CSV or Parquet: file, identity, gender.
        faces: How photos are aligned.
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
@command_options()
def models_list(folder: Path | None = None, *, json: AsJson = False) -> None:
    """Which models there are: kind, what they can be asked to hide, licence, size, SHA-256, origin, and whether their weights are here.

    Options:
        folder: Also look for models that privface trained in this folder, such as runs.
    """
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
@command_options()
def models_verify(spec: tuple[str, ...], *, probe: bool = False, json: AsJson = False) -> None:
    """Load models, run a blank face through them, print the hash of their weights (a run folder: its fingerprint), input and output size.

    Files of models that come with privface are first compared with what was shipped.

    Options:
        spec: Matcher or gender classifier specification, bundled:erased, or a run folder.
        probe: These are gender classifiers.
    """
    from privface.models.inventory import verify_model  # noqa: PLC0415

    columns = ["model", "sha256", "input", "output"]
    rows = [list(verify_model(text, probe=probe)) for text in spec]
    Console.document("models verify", models=[dict(zip(columns, row, strict=True)) for row in rows])
    Console.table(columns, rows)


@models_app.command("card")
@command_options()
def models_card(spec: str) -> None:
    """Print a model's card: what it is, what it learnt from, what an audit found, what it must not be used for.

    Options:
        spec: A model that comes with privface, such as bundled:erased.
    """
    from privface.models.bundled import model_card  # noqa: PLC0415

    Console.say(model_card(spec))


@command_options(flags={"config": "CONFIG"})
def sweep(config: Path, *, out: Path, jobs: int = 1, dry_run: bool = False, json: AsJson = False) -> None:
    """Train a grid of settings, protect and audit each, and draw what is kept against what leaks.

    Run it again to go on: points that are done are kept, interrupted ones resume, failed ones are tried again.

    Example: `privface sweep experiments/20_trade_off/sweep.yaml --out runs/20 --jobs 2`

    Options:
        config: YAML: base, grid or points, audit, baselines; docs/sweep.md.
        out: Folder for all points, sweep.json, sweep.html and tradeoff.svg.
        jobs: Points at once, each in a process with its share of the threads and GPUs.
        dry_run: Check everything and list the points; write nothing.
    """
    from privface.pipeline.sweep import failed_points, plan_sweep, run_sweep, sentences  # noqa: PLC0415
    from privface.pipeline.sweep_plan import load_sweep  # noqa: PLC0415

    settings = load_sweep(config)
    if dry_run:
        rows = plan_sweep(settings, out)
        Console.document("sweep", plan=rows)
        Console.table(list(rows[0]), [list(row.values()) for row in rows])
        left = sum(row["state"] != "done" for row in rows)
        Console.say(f"\n{len(rows)} points, {left} to do.")
        return
    with progress_bars() as progress:
        document = run_sweep(settings, out, jobs=jobs, progress=progress)
    for part in filter(None, (document, document["report"])):
        Console.say(f"\nPeople: {part['split'] or 'all'}")
        Console.comparison([row for row in part["points"] if row["status"] == "done"])
    Console.say("\n" + "\n".join(sentences(document)))
    files = {"report": out / "sweep.html", "figure": out / "tradeoff.svg", "figures": out / "sweep.json"}
    Console.say("\n" + "\n".join(f"{name.capitalize()}: {path}" for name, path in files.items()))
    shown = {key: document[key] for key in ("points", "front", "report")}
    Console.document("sweep", **shown, files=files)
    if failed_points(document):
        raise typer.Exit(EXIT_SOME_FAILED)


@command_options()
def web_page(
    *,
    model: Path | None = None,
    matcher: tuple[str, ...] = (),
    probe: tuple[str, ...] = (),
    port: int = 7860,
    where: Computing,
) -> None:
    """A web page on this machine: protect photos, audit sets of photos, compare audits. Extra [app].

    Only this machine can open it, nothing is sent elsewhere, and nothing uploaded is kept (docs/app.md).

    Example: `privface app --model runs/mine --matcher onnx:m.onnx --probe mini:runs/mine/classifiers/0`

    Options:
        model: Run folder of `privface train`, or an .onnx file of `privface export`; by default bundled:erased, which comes with
            privface.
        matcher: Face matcher: bundled:matcher, facenet:vggface2, onnx:FILE, module:pkg.fn, mini:FOLDER. Repeatable. Audits need
            one.
        probe: Gender classifier, same forms; bundled:gender. Repeatable.
        port: Port on this machine; 0 takes a free one.
    """
    from privface.app.server import Settings, serve  # noqa: PLC0415

    Console.say("Loading models ...")
    serve(
        Settings(model=model, matchers=matcher, probes=probe, port=port, where=where),
        ready=lambda address: Console.say(
            f"Open {address} in a browser. Ctrl-C ends it and wipes all that was uploaded."
        ),
    )


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
for command in (demo, train, protect, audit, compare, sweep, embed, match, export):
    app.command()(command)
app.command("app")(web_page)
app.command()(doctor)
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
