"""``privface audit`` and ``privface compare``."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from privface.cli.fields import command_options
from privface.cli.show import EXIT_GATE, AsJson, Console, audit_content, progress_bars
from privface.options import AuditOptions, Effort

if TYPE_CHECKING:
    from privface.audit import AuditResult
    from privface.pipeline.faces import Progress
    from privface.pipeline.inspect import AttackerSet


@dataclass(frozen=True)
class Sets:
    """What is audited, and with which models.

    Attributes:
        original: Original photos: a folder, or kind:path. Or a table of embeddings: .parquet, .npz, .csv.
        protected: Protected photos with the same relative paths, from any tool; or a table of the same keys.
        labels: CSV or Parquet: file, identity, gender; other columns are cohorts.
        matchers: Face matcher: bundled:matcher (small), facenet:vggface2, onnx:FILE, module:pkg.fn, mini:FOLDER. Repeatable.
        probes: Frozen gender classifier, same forms; bundled:gender is small. Repeatable.
        model: The protector's run folder, or bundled:erased: marks seen models, refuses its training people (of bundled
            models they are not known).
        eraser: For tables: folder of the eraser that protected them: refuses its people.
        split: Take only rows of this split.
        pairs: LFW-style pairs file: adds its 10-fold accuracy to the report.
        draws: Folder with another draw of the protected photos, where the protection is randomised (``protect --draw`` with
            another seed): adds the attacker who averages draws. Repeatable.
        second: The same photos or embeddings protected a second time (other draw, model or eraser): adds D_sys, how surely
            the two protections of a person can be linked.
    """

    original: Path | None = None
    protected: Path | None = None
    labels: Path | None = None
    matchers: tuple[str, ...] = ()
    probes: tuple[str, ...] = ()
    model: Path | None = None
    eraser: Path | None = None
    split: str | None = None
    pairs: Path | None = None
    draws: tuple[Path, ...] = ()
    second: Path | None = None

    def pair(self) -> tuple[Path, Path]:
        """Originals and protected."""
        if self.original is None or self.protected is None:
            raise typer.BadParameter("give --original and --protected, or --self-test.")
        return self.original, self.protected


@dataclass(frozen=True)
class Attackers:
    """Other people whom the attackers know.

    Attributes:
        attackers: Labelled photos, or a table of embeddings, of other people, as --original: attackers learn from them and all
            audited people are attacked. They are protected with --model, embeddings with --eraser.
        attackers_labels: Their labels, as --labels.
        attackers_split: Take only rows of this split.
        attackers_protected: Their protected photos or embeddings, as --protected; for protections of other tools.
    """

    attackers: Path | None = None
    attackers_labels: Path | None = None
    attackers_split: str | None = None
    attackers_protected: Path | None = None

    def given(self) -> AttackerSet | None:
        """As an audit takes them."""
        from privface.pipeline.inspect import AttackerSet  # noqa: PLC0415

        more = self.attackers_protected, self.attackers_labels, self.attackers_split
        if self.attackers is not None:
            return AttackerSet(self.attackers, *more)
        if any(more):
            raise typer.BadParameter("--attackers-... options need --attackers.")
        return None


@dataclass(frozen=True)
class Results:
    """What is made of the figures.

    Attributes:
        out: Folder for audit.json and report.html.
        fail_if: Gate, such as "leakage>0.60" or "tmr.low<0.9": exit 3 if it holds. Repeatable.
        baseline: An earlier audit.json: shows what got better and what got worse.
        images: Put a contact sheet into the report. It shows original faces.
        card: Also write card.md: a model card filled with the figures, in the words of the ISO standards.
    """

    out: Path = Path("audit")
    fail_if: tuple[str, ...] = ()
    baseline: Path | None = None
    images: bool = False
    card: bool = False


@command_options(
    flags={"matchers": "--matcher", "probes": "--probe", "attributes": "--attribute", "effort": None, "size": None},
    panels={
        "Attackers with people of their own": [
            "attackers", "attackers_labels", "attackers_split", "attackers_protected",
        ]
    },
)  # fmt: skip
def audit(
    *,
    sets: Sets,
    results: Results,
    effort: Effort = "standard",
    options: AuditOptions,
    attackers: Attackers,
    self_test: bool = False,
    json: AsJson = False,
) -> None:
    """Measure matching and gender leakage, with attackers retrained on protected data of other people.

    Photos: `privface audit --original photos --protected out --labels labels.csv --matcher onnx:m.onnx --fail-if "leakage>0.60"`

    Embeddings of any vendor: `privface audit --original before.parquet --protected after.parquet --labels labels.csv`

    The attackers themselves: `privface audit --self-test --out selftest`

    Options:
        effort: quick: linear and SVM attackers. standard: every attacker but fine-tuned networks. full: also those, and learned
            recovery of the images.
        self_test: Audit the attackers instead: planted leaks they must find, sets without a leak they must not.
    """
    from privface.attributes import parse_attributes  # noqa: PLC0415
    from privface.audit import AuditResult  # noqa: PLC0415
    from privface.audit.result import check_gate  # noqa: PLC0415

    if self_test:
        _self_test(results.out, seed=options.seed)
        return
    sets.pair()
    for expression in results.fail_if:  # before the work, not after it
        check_gate(expression, [attribute.name for attribute in parse_attributes(options.attributes)])
    earlier = AuditResult.load(results.baseline) if results.baseline is not None else None
    with progress_bars() as progress:
        options = replace(options, effort=effort)
        result = _audited(sets, attackers, results, options, earlier, progress)
    _report(result, sets, results, earlier)


def _audited(
    sets: Sets,
    attackers: Attackers,
    results: Results,
    options: AuditOptions,
    earlier: AuditResult | None,
    progress: Progress,
) -> AuditResult:
    """The audit of two folders of photos, or of two tables of embeddings."""
    from privface.data import TABLE_SUFFIXES, names_kind  # noqa: PLC0415
    from privface.pipeline import audit as audit_photos  # noqa: PLC0415
    from privface.pipeline import audit_tables  # noqa: PLC0415

    original, protected = sets.pair()
    common: dict[str, Any] = {
        "labels": sets.labels, "split": sets.split, "second": sets.second, "attackers": attackers.given(),
        "out": results.out, "options": options, "baseline": earlier, "progress": progress,
    }  # fmt: skip
    if names_kind(str(original)) or original.suffix.lower() not in TABLE_SUFFIXES:
        if sets.eraser is not None:
            raise typer.BadParameter("--eraser belongs to tables of embeddings; these are photos.")
        return audit_photos(
            original,
            protected,
            matchers=sets.matchers,
            probes=sets.probes,
            model=sets.model,
            pairs=sets.pairs,
            draws=sets.draws,
            images=results.images,
            **common,
        )
    unfit = {
        "matcher": sets.matchers, "probe": sets.probes, "model": sets.model, "pairs": sets.pairs, "draws": sets.draws,
    }  # fmt: skip
    if given := [f"--{name}" for name, value in unfit.items() if value]:
        raise typer.BadParameter(
            f"{', '.join(given)}: a table of embeddings holds no images. Leave it out, or give folders of photos"
            " (a table that lists photos: table:FILE)."
        )
    return audit_tables(original, protected, eraser=sets.eraser, **common)


def _report(result: AuditResult, sets: Sets, results: Results, earlier: AuditResult | None) -> None:
    """What the figures say, against an earlier audit and at the gates."""
    from privface.audit.comparison import changes  # noqa: PLC0415
    from privface.report.card import write_card  # noqa: PLC0415

    files = {"audit": results.out / "audit.json", "report": results.out / "report.html"}
    if results.card:
        named = sets.model or sets.eraser
        title = None if named is None else named.name
        files["card"] = write_card(result.to_dict(), results.out / "card.md", model=title)
    outcomes = [result.gate(expression) for expression in results.fail_if]
    changed = changes(earlier, result) if earlier is not None else None
    Console.document("audit", **audit_content(result, outcomes), changes=changed, files=files)
    Console.audit(result)
    if changed is not None:
        Console.changes(changed)
    Console.say(f"Report: {files['report']}\nFigures: {files['audit']}")
    for outcome in outcomes:
        Console.say(outcome.reason)
    if any(outcome.failed for outcome in outcomes):
        raise typer.Exit(EXIT_GATE)


def _self_test(out: Path, *, seed: int) -> None:
    from datetime import UTC, datetime  # noqa: PLC0415

    from privface.pipeline import self_test as run  # noqa: PLC0415

    with progress_bars() as progress:
        reached = run(out, seed=seed, made=datetime.now(UTC).date().isoformat(), progress=progress)
    Console.document("audit --self-test", selftest=reached, files={"selftest": out / "selftest.json"})
    Console.battery(reached)
    Console.say(f"Result: {out / 'selftest.json'}")


@command_options(flags={"audits": "AUDIT..."})
def compare(audits: tuple[str, ...], *, out: Path = Path("compare.html"), json: AsJson = False) -> None:
    """Several audits of the same photos in one report: the trade-off, which methods another one beats, all figures.

    Example: `privface compare blur=audits/blur/audit.json ours=audits/san/audit.json --out compare.html`

    Options:
        audits: Two or more audit.json files, or NAME=FILE.
        out: HTML file to write.
    """
    from privface.pipeline import compare_audits  # noqa: PLC0415

    rows = compare_audits(audits, out)
    Console.document("compare", methods=rows, files={"report": out})
    Console.comparison(rows)
    Console.say(f"Report: {out}")
