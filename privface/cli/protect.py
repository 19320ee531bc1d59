"""``privface protect`` and ``privface match``: data sets before storage, and the gallery that comes of them."""

from __future__ import annotations

import sys
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import typer

from privface.cli.fields import command_options
from privface.cli.show import EXIT_SOME_FAILED, AsJson, Console, progress_bars
from privface.options import Alignment, Computing, ModelOptions, ProtectOptions

if TYPE_CHECKING:
    from privface.protect import ImageProtector, ProtectSummary
    from privface.protect.job import Engine


@command_options(
    flags={
        "source": "INPUT", "output": "OUTPUT", "image_format": "--format", "layout": "--to", "as_csv": "--csv",
        "videos": "--video", "max_pixels": None,
    },
    panels={
        "Output": ("layout", "shard_size", "image_format", "quality", "overwrite", "as_csv", "times", "embeddings"),
        "Scale": ("batch_size", "workers", "engine", "actors", "cpus_per_actor", "gpus_per_actor"),
    },
)  # fmt: skip
def protect(
    source: str,
    output: str,
    *,
    model: Path = Path("bundled:erased"),
    options: ProtectOptions,
    asked: ModelOptions,
    embeddings: str | None = None,
    engine: Literal["local", "ray"] = "local",
    actors: int | None = None,
    cpus_per_actor: int = 1,
    gpus_per_actor: float = 0,
    json: AsJson = False,
) -> None:
    """Protect every photo of a folder, list, archive or table: same tree, no metadata, a manifest row for each file, resumable.

    Each face is written alone, aligned: the central one under the photo's name, others as NAME.face2.jpg and so on. Nothing is
    ever written for a photo that could not be protected. Run it again to go on after a stop.

    One photo gives one file, and OUT.face2.png and so on for further faces.

    Examples: `privface protect photos protected`, `privface protect photo.jpg face.png`

    Options:
        source: Folder of photos, .txt list of paths, .zip, .tar shards or .parquet tables (*.tar in quotes); a path or a URL such
            as s3://bucket/photos. Or one photo; - is standard input. Never written to.
        output: Folder for protected photos and manifest.parquet (.csv without pyarrow). For one photo: a file; - is standard
            output.
        model: Run folder of `privface train`, or an .onnx file of `privface export`. The default comes with privface; its card:
            `privface models card bundled:erased`. To compare with: baseline:blur,sigma=3 (docs/methods.md).
        embeddings: `MATCHER` or `MATCHER:ERASER`. Also write embeddings.parquet (.npz without pyarrow), a template of each photo's
            central face: of the protected face; with an eraser's folder (`privface erase fit`), of the original one with gender
            erased.
        engine: ``local``: this machine. ``ray``: the cluster of RAY_ADDRESS, else this machine (docs/scale.md; extra ``ray``).
        actors: Copies of the model on the cluster; by default as many as fit.
        cpus_per_actor: CPUs a copy.
        gpus_per_actor: GPUs a copy; with them it computes there.
    """
    if output == "-":
        if json or not _is_photo(source):
            raise typer.BadParameter("OUTPUT - is for one photo, without --json.")
        Console.quiet = True  # nothing but the photo
    cluster: Engine | None = None
    if engine == "ray":
        from privface.protect.cluster import RayEngine  # noqa: PLC0415

        cluster = RayEngine(actors=actors, cpus=cpus_per_actor, gpus=gpus_per_actor)
        if asked.device == "auto":
            asked = replace(asked, device="cuda" if gpus_per_actor else "cpu")
    if options.videos:
        from privface.protect.video import require_av  # noqa: PLC0415

        require_av()
    protector = _protector(str(model), asked)
    if _is_photo(source):
        unfit = {"--embeddings": embeddings, "--engine": cluster}
        _protect_photo(source, output, protector, options, [name for name, value in unfit.items() if value])
        return
    from privface.protect.folder import StoppedError, protect_folder  # noqa: PLC0415

    maker = None
    if embeddings is not None:
        from privface.device import Device  # noqa: PLC0415
        from privface.protect.templates import template_maker, templates_name  # noqa: PLC0415

        maker = template_maker(embeddings, Device.choose(asked.device, asked.precision))
    try:
        with progress_bars() as progress:
            summary = protect_folder(
                source,
                output,
                protector,
                options,
                templates=maker,
                engine=cluster,
                progress=partial(progress, "protect"),
            )
    except StoppedError as stop:
        Console.error("Stopped; what was finished is kept.", "Run the same command again to go on.")
        raise typer.Exit(128 + stop.signal) from stop
    files = {"manifest": summary.manifest}
    if maker is not None:
        files["templates"] = Path(output) / templates_name()
    _report(summary, files, protector.fingerprint, model=model)


def _report(summary: ProtectSummary, files: dict[str, Path], fingerprint: str, *, model: Path) -> None:
    """What a job came to, and the exit code where not every file was protected."""
    counts = ", ".join(f"{count} {status}" for status, count in summary.counts.items() if count)
    short = fingerprint if " " in fingerprint else fingerprint[:12]  # a baseline's says its settings
    Console.say(
        f"{counts}; {summary.images_per_second:.1f} images/s\nModel: {model} ({short})"
        + "".join(f"\n{name.capitalize()}: {path}" for name, path in files.items())
    )
    Console.document(
        "protect",
        model=model,
        fingerprint=fingerprint,
        counts=summary.counts,
        reused=summary.reused,
        images_per_second=summary.images_per_second,
        files=files,
    )
    if any(count for status, count in summary.counts.items() if status != "ok"):
        raise typer.Exit(EXIT_SOME_FAILED)


def _is_photo(source: str) -> bool:
    from privface.images import IMAGE_SUFFIXES  # noqa: PLC0415

    return source == "-" or (Path(source).suffix.lower() in IMAGE_SUFFIXES and Path(source).is_file())


def _protect_photo(
    source: str, output: str, protector: ImageProtector, options: ProtectOptions, unfit: list[str]
) -> None:
    """One photo to one file, and a file more for each further face."""
    from privface.errors import OutputError, ProtectError  # noqa: PLC0415
    from privface.images import WRITTEN_SUFFIXES, write_atomic  # noqa: PLC0415
    from privface.protect import protect_photo  # noqa: PLC0415

    usual, target, piped = ProtectOptions(), Path(output), output == "-"
    foreign = {"--to": "layout", "--csv": "as_csv", "--times": "times", "--video": "videos"}
    unfit += [name for name, field in foreign.items() if getattr(options, field) != getattr(usual, field)]
    if unfit:
        raise typer.BadParameter(
            f"{', '.join(unfit)}: {source} is one photo; leave it out, or give a folder."
        )
    if not piped:
        if target.suffix.lower() not in WRITTEN_SUFFIXES:
            raise typer.BadParameter(
                f"{source} is one photo, so OUTPUT is -, or a file that ends in {', '.join(WRITTEN_SUFFIXES)}; got {output}."
            )
        if options.image_format is not None:
            raise typer.BadParameter("--format goes with folders and with -; a file's name says its format.")
        options = replace(options, image_format=target.suffix)
    data = sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
    name = "photo.png" if source == "-" else Path(source).name
    try:
        files = protect_photo(data, protector, options, name=name)
    except ProtectError as error:
        Console.error(error.message, error.hint)
        raise typer.Exit(EXIT_SOME_FAILED) from error
    if piped:
        sys.stdout.buffer.write(files[0])
        return
    written = [target, *(target.with_suffix(f".face{k}{target.suffix}") for k in range(2, len(files) + 1))]
    for path in written:
        if path.exists() and (not options.overwrite or (source != "-" and path.samefile(source))):
            raise OutputError(f"{path} is there already.", hint="Choose another name, or add --overwrite.")
    for path, content in zip(written, files, strict=True):
        write_atomic(path, content)
    Console.say("\n".join(map(str, written)))
    Console.document("protect", fingerprint=protector.fingerprint, faces=written)


def _protector(spec: str, asked: ModelOptions) -> ImageProtector:
    """The model, or a baseline, which has none of a model's options."""
    from privface.models import load_protector  # noqa: PLC0415
    from privface.protect import is_baseline, load_baseline  # noqa: PLC0415

    if not is_baseline(spec):
        genders = None
        if asked.genders is not None:
            from privface.data import read_genders  # noqa: PLC0415

            genders = read_genders(asked.genders)
        return load_protector(spec, **{**vars(asked), "genders": genders, "hide": asked.hidden})
    unfit = [
        f"--{one.name.replace('_', '-')}" for one in fields(asked) if getattr(asked, one.name) != one.default
    ]
    if unfit:
        raise typer.BadParameter(
            f"{', '.join(unfit)}: these are for trained models, and {spec} is a baseline. Change its own settings instead."
        )
    baseline = load_baseline(spec)
    Console.say(
        f"{spec}: a baseline to compare with. Attackers trained on photos changed in the same way read gender nearly as before."
    )
    return baseline


@command_options()
def match(
    probe: Path,
    *,
    templates: str,
    gallery: Path,
    faces: Alignment = "auto",
    top: int = 5,
    threshold: float | None = None,
    out: Path | None = None,
    where: Computing,
    json: AsJson = False,
) -> None:
    """Search a protected gallery with a live photo: who in the gallery is this?

    Example: `privface match visitor.jpg --gallery protected/embeddings.parquet --templates onnx:m.onnx:erasers/transport`

    Options:
        probe: A photo, or a folder of photos.
        templates: `MATCHER` or `MATCHER:ERASER`: the matcher, and the eraser's folder, that made the gallery.
        gallery: Templates: embeddings.parquet or .npz of `protect --embeddings`, or any table of `erase apply`.
        faces: How probes are aligned.
        top: Candidates a probe.
        threshold: Leave candidates below this similarity out.
        out: Also write the candidates to this CSV file.
    """
    from privface.device import Device  # noqa: PLC0415
    from privface.pipeline.search import search, write_candidates  # noqa: PLC0415

    here = Device.choose(where.device, where.precision)
    with progress_bars() as progress:
        result = search(
            probe,
            gallery,
            templates=templates,
            faces=faces,
            top=top,
            threshold=threshold,
            device=here,
            progress=progress,
        )
    if out is not None:
        write_candidates(result.candidates, out)
    Console.table(
        ["probe", "rank", "gallery", "similarity"],
        [[c.probe, str(c.rank), c.file, f"{c.similarity:.4f}"] for c in result.candidates],
    )
    Console.say(f"{result.searched} templates searched")
    Console.document(
        "match",
        searched=result.searched,
        candidates=[vars(candidate) for candidate in result.candidates],
        failed=result.failed,
    )
    for name, reason in result.failed.items():
        Console.error(f"{name}: {reason}", None)
    if result.failed:
        raise typer.Exit(EXIT_SOME_FAILED)
