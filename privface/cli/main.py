"""Commands of ``privface``. Only light imports here: heavy rooms load inside the command that needs them."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from privface import __version__
from privface.cli.app import app as web_page
from privface.cli.autoencoder import app as autoencoder_app
from privface.cli.erase import app as erase_app
from privface.cli.protect import match, protect
from privface.cli.show import (
    AsJson,
    Console,
    DeviceName,
    HideNames,
    PrecisionName,
    attribute_names,
    audit_content,
    progress_bars,
)
from privface.cli.sweep import sweep
from privface.errors import PrivfaceError
from privface.options import Alignment, AuditOptions, Effort

EXIT_SOME_FAILED, EXIT_USAGE, EXIT_GATE, EXIT_BUG, EXIT_STOPPED = 1, 2, 3, 70, 130

_ATTACKERS = "Attackers with people of their own"

_ORDER = (
    "demo", "train", "protect", "audit", "compare", "sweep", "embed", "erase", "match", "export", "app", "autoencoder",
    "models", "doctor",
)  # fmt: skip


class InOrderOfUse(TyperGroup):
    """Lists commands as a newcomer meets them, not as the code defines them; what is not in that order comes last."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Names of the commands."""
        names = super().list_commands(ctx)
        return sorted(names, key=lambda name: _ORDER.index(name) if name in _ORDER else len(_ORDER))


app = typer.Typer(
    name="privface",
    cls=InOrderOfUse,
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
app.command()(protect)
app.command()(match)
app.command("app")(web_page)
app.command()(sweep)
app.add_typer(models_app, name="models")
app.add_typer(autoencoder_app, name="autoencoder")
app.add_typer(erase_app, name="erase")


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


@app.command()
def demo(
    out: Annotated[
        Path, typer.Option(help="Folder for the demo; must be new, empty or an earlier demo.")
    ] = Path("demo"),
    seed: Annotated[int, typer.Option(help="Same seed, same audit.")] = 0,
    json: AsJson = False,
) -> None:
    """Generated faces, matchers, a classifier, a protector and an honest audit, in about three minutes, offline."""
    from privface.pipeline.demo import run_demo  # noqa: PLC0415

    with progress_bars() as progress:
        progress("demo, about three minutes on two cores", 0, 1)
        outcome = run_demo(out, seed=seed, progress=progress)
        progress("demo, about three minutes on two cores", 1, 1)
    Console.document(
        "demo",
        **audit_content(outcome.result),
        files={"report": outcome.report, "audit": out / "audit.json", "contact_sheet": outcome.sheet},
    )
    Console.audit(outcome.result)
    Console.say(
        f"Report: {outcome.report}\nContact sheet: {outcome.sheet}\n\n"
        "Next: open the report; then protect photos with the model that comes with privface\n"
        "  privface protect PHOTOS OUTPUT\n"
        "or train on your own faces with\n"
        "  privface train --config experiments/01_san_on_lfw/config.yaml --out runs/mine\n"
        "after pointing `data` and `matchers` at your files (docs/training.md)."
    )


@app.command()
def train(
    config: Annotated[Path, typer.Option(help="YAML settings; docs/training.md lists them all.")],
    out: Annotated[Path, typer.Option(help="Run folder to write.")],
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Override a setting, such as loop.epochs=3. Repeatable.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the run's last checkpoint, exactly.")
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


@app.command()
def export(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="Run folder of `privface train`, or bundled:erased.")
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT.onnx", help="File to write.")],
    strength: Annotated[
        float, typer.Option(help="Built in, 0 to 2; 1 is what was trained and audited.")
    ] = 1.0,
    code_size: Annotated[
        int | None, typer.Option(help="Built in: values of the code, for a model trained with several.")
    ] = None,
    hide: HideNames = None,
    json: AsJson = False,
) -> None:
    """Write a model as one ONNX file, after checking that ONNX Runtime and torch agree.

    Use it anywhere ONNX runs, or here: `privface protect PHOTOS OUTPUT --model OUT.onnx`.
    """
    from privface.models.export import export_protector  # noqa: PLC0415

    found = export_protector(run, out, strength=strength, code_size=code_size, hide=attribute_names(hide))
    Console.document(
        "export",
        bytes=found.bytes,
        difference=found.difference,
        metadata=found.metadata,
        files={"model": found.path},
    )
    Console.say(
        f"{found.path}: {found.bytes / 2**20:.1f} MiB, input 'images' (N, 3, {found.metadata['privface.size']},"
        f" {found.metadata['privface.size']}) in [0, 1]; differs from torch by at most {found.difference:.1g}"
    )


@app.command()
def audit(
    original: Annotated[
        Path | None,
        typer.Option(
            help="Original photos: a folder, or kind:path. Or a table of embeddings: .parquet, .npz, .csv."
        ),
    ] = None,
    protected: Annotated[
        Path | None,
        typer.Option(
            help="Protected photos with the same relative paths, from any tool; or a table of the same keys."
        ),
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(help="CSV or Parquet: file, identity, gender; other columns are cohorts.")
    ] = None,
    matcher: Annotated[
        list[str] | None,
        typer.Option(
            help="Face matcher: bundled:matcher (small), facenet:vggface2, onnx:FILE, module:pkg.fn, mini:FOLDER. Repeatable."
        ),
    ] = None,
    probe: Annotated[
        list[str] | None,
        typer.Option(help="Frozen gender classifier, same forms; bundled:gender is small. Repeatable."),
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(
            help="The protector's run folder, or bundled:erased: marks seen models, refuses its training people (of bundled models "
            "they are not known)."
        ),
    ] = None,
    eraser: Annotated[
        Path | None,
        typer.Option(help="For tables: folder of the eraser that protected them: refuses its people."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for audit.json and report.html.")] = Path("audit"),
    effort: Annotated[
        Effort,
        typer.Option(
            help="quick: linear and SVM attackers. standard: every attacker but fine-tuned networks. full: also those, "
            "and learned recovery of the images."
        ),
    ] = "standard",
    split: Annotated[str | None, typer.Option(help="Take only rows of this split.")] = None,
    attribute: Annotated[
        list[str] | None,
        typer.Option(
            help="Column beside gender that attackers read, too; numbers in bands, as in age=16,30,45,60. Repeatable."
        ),
    ] = None,
    faces: Annotated[
        Alignment,
        typer.Option(
            help="How originals are aligned; auto: as protect took them, else landmarks of the labels, else detection."
        ),
    ] = AuditOptions.faces,
    protected_faces: Annotated[
        Alignment, typer.Option(help="How protected photos are aligned.")
    ] = AuditOptions.protected_faces,
    pairs: Annotated[
        Path | None, typer.Option(help="LFW-style pairs file: adds its 10-fold accuracy to the report.")
    ] = None,
    draws: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FOLDER",
            help="Another draw of the protected photos, where the protection is randomised (`protect --draw` with another "
            "seed): adds the attacker who averages draws. Repeatable.",
        ),
    ] = None,
    attackers: Annotated[
        Path | None,
        typer.Option(
            metavar="PHOTOS",
            help="Labelled photos of other people, as --original: attackers learn from them and all audited people are attacked. "
            "They are protected with --model.",
            rich_help_panel=_ATTACKERS,
        ),
    ] = None,
    attackers_labels: Annotated[
        Path | None, typer.Option(help="Their labels, as --labels.", rich_help_panel=_ATTACKERS)
    ] = None,
    attackers_split: Annotated[
        str | None, typer.Option(help="Take only rows of this split.", rich_help_panel=_ATTACKERS)
    ] = None,
    attackers_protected: Annotated[
        Path | None,
        typer.Option(
            help="Their protected photos, as --protected; for protections of other tools.",
            rich_help_panel=_ATTACKERS,
        ),
    ] = None,
    second: Annotated[
        Path | None,
        typer.Option(
            help="The same photos or embeddings protected a second time (other draw, model or eraser): adds D_sys, how "
            "surely the two protections of a person can be linked."
        ),
    ] = None,
    fail_if: Annotated[
        list[str] | None,
        typer.Option(help='Gate, such as "leakage>0.60" or "tmr.low<0.9": exit 3 if it holds. Repeatable.'),
    ] = None,
    baseline: Annotated[
        Path | None, typer.Option(help="An earlier audit.json: shows what got better and what got worse.")
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(
            help="Folder that keeps embeddings and probe scores, so that a second audit of the same originals "
            "costs only the protected side. They are biometric data: keep it private."
        ),
    ] = AuditOptions.cache,
    seed: Annotated[int, typer.Option(help="Same seed, same audit.json.")] = AuditOptions.seed,
    resamples: Annotated[int, typer.Option(help="Bootstrap resamples of people.")] = AuditOptions.resamples,
    cnn_epochs: Annotated[int, typer.Option(help="Epochs of the CNN attacker.")] = AuditOptions.cnn_epochs,
    images: Annotated[
        bool, typer.Option("--images", help="Put a contact sheet into the report. It shows original faces.")
    ] = False,
    card: Annotated[
        bool,
        typer.Option(
            "--card",
            help="Also write card.md: a model card filled with the figures, in the words of the ISO standards.",
        ),
    ] = False,
    battery: Annotated[
        Path | None,
        typer.Option(
            help="selftest.json to quote in the report; by default the one that came with this version."
        ),
    ] = AuditOptions.battery,
    recoverer: Annotated[
        str | None,
        typer.Option(
            help="With --effort full: autoencoder variant that turns photos back (docs/autoencoders.md); by default a U-Net."
        ),
    ] = AuditOptions.recoverer,
    device: DeviceName = AuditOptions.device,
    precision: PrecisionName = AuditOptions.precision,
    self_test: Annotated[
        bool,
        typer.Option(
            "--self-test",
            help="Audit the attackers instead: planted leaks they must find, sets without a leak they must not.",
        ),
    ] = False,
    json: AsJson = False,
) -> None:
    """Measure matching and gender leakage, with attackers retrained on protected data of other people.

    Photos: `privface audit --original photos --protected out --labels labels.csv --matcher onnx:m.onnx --fail-if "leakage>0.60"`

    Embeddings of any vendor: `privface audit --original before.parquet --protected after.parquet --labels labels.csv`

    The attackers themselves: `privface audit --self-test --out selftest`
    """
    from privface.attributes import parse_attributes  # noqa: PLC0415
    from privface.audit import AuditResult  # noqa: PLC0415
    from privface.audit.comparison import changes  # noqa: PLC0415
    from privface.audit.result import check_gate  # noqa: PLC0415
    from privface.data import TABLE_SUFFIXES  # noqa: PLC0415
    from privface.pipeline import audit as run  # noqa: PLC0415
    from privface.pipeline import audit_tables  # noqa: PLC0415
    from privface.pipeline.inspect import AttackerSet  # noqa: PLC0415
    from privface.report.card import write_card  # noqa: PLC0415

    if self_test:
        _self_test(out, seed=seed)
        return
    if original is None or protected is None:
        raise typer.BadParameter("give --original and --protected, or --self-test.")
    for expression in fail_if or ():  # before the work, not after it
        check_gate(expression, [found.name for found in parse_attributes(attribute or ())])
    earlier = AuditResult.load(baseline) if baseline is not None else None
    options = AuditOptions(
        seed=seed,
        resamples=resamples,
        effort=effort,
        cnn_epochs=cnn_epochs,
        attributes=tuple(attribute or ()),
        faces=faces,
        protected_faces=protected_faces,
        cache=cache,
        battery=battery,
        recoverer=recoverer,
        device=device,
        precision=precision,
    )
    with progress_bars() as progress:
        if original.suffix.lower() in TABLE_SUFFIXES:
            _refuse_image_options(
                matcher=matcher, probe=probe, model=model, pairs=pairs, draws=draws, attackers=attackers
            )
            result = audit_tables(
                original,
                protected,
                labels=labels,
                split=split,
                second=second,
                out=out,
                options=options,
                eraser=eraser,
                baseline=earlier,
                progress=progress,
            )
        else:
            own = None
            if attackers is not None:
                own = AttackerSet(attackers, attackers_protected, attackers_labels, attackers_split)
            elif attackers_labels or attackers_split or attackers_protected:
                raise typer.BadParameter("--attackers-... say more of --attackers; give that, too.")
            if eraser is not None:
                raise typer.BadParameter("--eraser belongs to tables of embeddings; these are photos.")
            result = run(
                original,
                protected,
                labels=labels,
                split=split,
                matchers=matcher or (),
                probes=probe or (),
                model=model,
                pairs=pairs,
                draws=draws or (),
                second=second,
                attackers=own,
                out=out,
                options=options,
                images=images,
                baseline=earlier,
                progress=progress,
            )
    files = {"audit": out / "audit.json", "report": out / "report.html"}
    if card:
        named = model or eraser
        title = None if named is None else named.name
        files["card"] = write_card(result.to_dict(), out / "card.md", model=title)
    outcomes = [result.gate(expression) for expression in fail_if or ()]
    changed = changes(earlier, result) if earlier is not None else None
    Console.document(
        "audit",
        **audit_content(result, outcomes),
        changes=changed,
        files=files,
    )
    Console.audit(result)
    if changed is not None:
        Console.changes(changed)
    Console.say(f"Report: {files['report']}\nFigures: {files['audit']}")
    for outcome in outcomes:
        Console.say(outcome.reason)
    if any(outcome.failed for outcome in outcomes):
        raise typer.Exit(EXIT_GATE)


def _refuse_image_options(**options: object) -> None:
    given = [f"--{name}" for name, value in options.items() if value]
    if given:
        raise typer.BadParameter(
            f"{', '.join(given)}: a table of embeddings holds no images. Leave it out, or give folders of photos."
        )


def _self_test(out: Path, *, seed: int) -> None:
    from datetime import UTC, datetime  # noqa: PLC0415

    from privface.pipeline import self_test as run  # noqa: PLC0415

    with progress_bars() as progress:
        found = run(out, seed=seed, made=datetime.now(UTC).date().isoformat(), progress=progress)
    Console.document("audit --self-test", selftest=found, files={"selftest": out / "selftest.json"})
    Console.battery(found)
    Console.say(f"Result: {out / 'selftest.json'}")


@app.command()
def compare(
    audits: Annotated[
        list[str], typer.Argument(help="Two or more audit.json files, or NAME=FILE.", metavar="AUDIT...")
    ],
    out: Annotated[Path, typer.Option(help="HTML file to write.")] = Path("compare.html"),
    json: AsJson = False,
) -> None:
    """Several audits of the same photos in one report: the trade-off, which methods another one beats, all figures.

    Example: `privface compare blur=audits/blur/audit.json ours=audits/san/audit.json --out compare.html`
    """
    from privface.pipeline import compare_audits  # noqa: PLC0415

    rows = compare_audits(audits, out)
    Console.document("compare", methods=rows, files={"report": out})
    Console.comparison(rows)
    Console.say(f"Report: {out}")


@app.command()
def embed(
    images: Annotated[Path, typer.Argument(metavar="IMAGES", help="Photos: a folder, or kind:path.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Parquet file to write.")],
    matcher: Annotated[
        str, typer.Option(help="bundled:matcher, facenet:vggface2, onnx:FILE, module:pkg.fn or mini:FOLDER.")
    ],
    labels: Annotated[Path | None, typer.Option(help="CSV or Parquet: file, identity, gender.")] = None,
    faces: Annotated[Alignment, typer.Option(help="How photos are aligned.")] = "auto",
    device: DeviceName = "auto",
    precision: PrecisionName = "fp32",
    json: AsJson = False,
) -> None:
    """Write face embeddings with their labels to Parquet, one row a photo.

    Example: `privface embed photos embeddings.parquet --matcher onnx:models/matcher.onnx`
    """
    from privface.device import Device  # noqa: PLC0415
    from privface.pipeline import embed as run  # noqa: PLC0415

    here = Device.choose(device, precision)
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

    found = list_models(folder)
    Console.document("models list", models=[vars(model) for model in found], forms=FORMS)
    Console.table(
        ["model", "kind", "hides", "here", "size", "sha256", "licence", "from", "where"],
        [
            [
                m.name,
                m.kind,
                ", ".join(m.hides),
                "yes" if m.present else "no",
                "" if m.bytes is None else f"{m.bytes / 2**20:.1f} MiB",
                (m.sha256 or "")[:12],
                m.licence,
                m.source,
                m.where,
            ]
            for m in found
        ],
    )
    Console.say("")
    Console.table(["or name it as", "which is"], [[form, meaning] for form, meaning in FORMS.items()])


@models_app.command("verify")
def models_verify(
    spec: Annotated[
        list[str],
        typer.Argument(help="Matcher or gender classifier specification, bundled:erased, or a run folder."),
    ],
    probe: Annotated[bool, typer.Option("--probe", help="These are gender classifiers.")] = False,
    json: AsJson = False,
) -> None:
    """Load models, run a blank face through them, print the hash of their weights, input and output size.

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


@app.command()
def doctor(json: AsJson = False) -> None:
    """Versions, device, ONNX Runtime, extras, weights, data and disk; and what to do about each problem."""
    from privface.cli.doctor import checks  # noqa: PLC0415

    findings = checks()
    problems = sum(c.state == "problem" for c in findings)
    Console.document("doctor", problems=problems, checks=[vars(c) for c in findings])
    Console.table(
        ["check", "state", "finding", "what to do"], [[c.name, c.state, c.finding, c.cure] for c in findings]
    )
    if problems:
        raise typer.Exit(EXIT_SOME_FAILED)


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
    except Exception as error:  # whatever it is, a user is told in one sentence
        first = next(iter(str(error).strip().splitlines()), "no message")
        _fail(
            f"This is a bug in privface: {type(error).__name__}: {first}",
            "Run the command again as `privface --debug ...` and report the command and its traceback.",
            EXIT_BUG,
        )
    except SystemExit as stop:
        if stop.code == EXIT_STOPPED:  # typer turns Ctrl-C into this code
            Console.error(
                "Stopped; what was finished is kept.",
                "Run the same command again to go on (training: with --resume).",
            )
        raise


def _fail(message: str, hint: str | None, code: int) -> None:
    if Console.debug:
        traceback.print_exc()
    Console.error(message, hint)
    sys.exit(code)
