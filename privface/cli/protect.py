"""``privface protect`` and ``privface match``: data sets before storage, and the gallery that comes of them."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from privface.cli.show import (
    AsJson,
    Console,
    DeviceName,
    HideNames,
    PrecisionName,
    attribute_names,
    progress_bars,
)
from privface.options import FaceMode, Layout, OnNoFace, ProtectOptions

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from privface.protect import ImageProtector
    from privface.protect.job import Engine, TemplateSink
    from privface.protect.templates import MatcherTemplates

EXIT_SOME_FAILED = 1

_SCALE = "Scale"
_TEMPLATES = "Templates"
_OUTPUT = "Output"


def protect(
    source: Annotated[
        str,
        typer.Argument(
            metavar="INPUT",
            help="Folder of photos, .txt list of paths, .zip, .tar shards or .parquet tables (*.tar in quotes); a path or "
            "a URL such as s3://bucket/photos. Or one photo; - is standard input. Never written to.",
        ),
    ],
    output: Annotated[
        str,
        typer.Argument(
            help="Folder for protected photos and manifest.parquet. For one photo: a file; - is standard output."
        ),
    ],
    model: Annotated[
        Path,
        typer.Option(
            help="Run folder of `privface train`, or an .onnx file of `privface export`. The default comes with privface; its "
            "card: `privface models card bundled:erased`. To compare with: baseline:blur,sigma=3 (docs/methods.md)."
        ),
    ] = Path("bundled:erased"),
    faces: Annotated[
        FaceMode,
        typer.Option(
            help="detect: look for faces and write each alone; aligned: all are face crops already; auto: those of "
            "exactly 112 x 112 or the model's size are, in others faces are looked for."
        ),
    ] = ProtectOptions.faces,
    paste: Annotated[
        bool,
        typer.Option(
            "--paste",
            help="Paste protected faces back into their photos. Hair, clothes and background stay and give gender away.",
        ),
    ] = ProtectOptions.paste,
    max_faces: Annotated[
        int | None,
        typer.Option(help="Refuse photos in which more faces are found (status many_faces)."),
    ] = ProtectOptions.max_faces,
    on_no_face: Annotated[
        OnNoFace, typer.Option(help="What a photo without a face does to the job.")
    ] = ProtectOptions.on_no_face,
    video: Annotated[
        bool,
        typer.Option(
            "--video",
            help="Videos of the folder, too, with --paste; frames without a face become black. Extra [video].",
        ),
    ] = ProtectOptions.videos,
    no_sound: Annotated[
        bool, typer.Option("--no-sound", help="Leave the sound of videos out: voices tell gender, too.")
    ] = not ProtectOptions.sound,
    strength: Annotated[float, typer.Option(help="0 to 2; 1 is what was trained and audited.")] = 1.0,
    genders: Annotated[
        Path | None,
        typer.Option(
            metavar="LABELS",
            help="CSV or Parquet with file and gender, for a model that cannot work without the true gender of every "
            "photo (method san-2018). No other model asks for it.",
        ),
    ] = None,
    hide: HideNames = None,
    code_size: Annotated[
        int | None,
        typer.Option(
            help="Values of the code that faces are drawn from, for a model trained with several (method erased-code). Fewer "
            "hide more and keep fewer matches."
        ),
    ] = None,
    draw: Annotated[
        int | None,
        typer.Option(
            metavar="SEED",
            help="Randomised protection, for a variational or denoising backbone: same seed, same output; another seed, "
            "another output. Keep one draw of a photo: who has several averages them (docs/methods.md).",
        ),
    ] = None,
    runtime: Annotated[
        Literal["auto", "torch", "onnx"],
        typer.Option(help="What runs the model; onnx turns a run folder into ONNX first, in memory."),
    ] = "auto",
    device: DeviceName = "auto",
    precision: PrecisionName = "fp32",
    to: Annotated[
        Layout,
        typer.Option(
            help="tree: a file for each face. webdataset: .tar shards. parquet: tables of file and image.",
            rich_help_panel=_OUTPUT,
        ),
    ] = ProtectOptions.layout,
    shard_size: Annotated[
        int, typer.Option(help="Inputs a shard; one shard is held in memory.", rich_help_panel=_OUTPUT)
    ] = ProtectOptions.shard_size,
    image_format: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="Write all as jpg, png or webp; by default as they came.",
            rich_help_panel=_OUTPUT,
        ),
    ] = ProtectOptions.image_format,
    quality: Annotated[
        int, typer.Option(help="JPEG and WebP quality, 1 to 100.", rich_help_panel=_OUTPUT)
    ] = ProtectOptions.quality,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite",
            help="Replace an output made with another model or settings.",
            rich_help_panel=_OUTPUT,
        ),
    ] = ProtectOptions.overwrite,
    csv: Annotated[
        bool, typer.Option("--csv", help="Also write manifest.csv.", rich_help_panel=_OUTPUT)
    ] = ProtectOptions.as_csv,
    times: Annotated[
        bool,
        typer.Option(
            "--times",
            help="Note in the manifest when each file was finished; it then differs from run to run.",
            rich_help_panel=_OUTPUT,
        ),
    ] = ProtectOptions.times,
    embeddings: Annotated[
        str | None,
        typer.Option(
            metavar="MATCHER[:ERASER]",
            help="Also write embeddings.parquet, a template of each photo's central face: of the protected face, or with the "
            "folder of an eraser (`privface erase fit`) of the original one, gender erased.",
            rich_help_panel=_TEMPLATES,
        ),
    ] = None,
    store: Annotated[
        str | None,
        typer.Option(
            metavar="lancedb:FOLDER",
            help="Put the templates of --embeddings into a LanceDB folder, too, which `privface match` searches. Extra [store].",
            rich_help_panel=_TEMPLATES,
        ),
    ] = None,
    batch_size: Annotated[
        int, typer.Option(help="Images a call of the model.", rich_help_panel=_SCALE)
    ] = ProtectOptions.batch_size,
    workers: Annotated[
        int, typer.Option(help="Threads that decode and encode.", rich_help_panel=_SCALE)
    ] = ProtectOptions.workers,
    engine: Annotated[
        Literal["local", "ray"],
        typer.Option(
            help="local: this machine. ray: the cluster of RAY_ADDRESS, else this machine (docs/scale.md). Extra [ray].",
            rich_help_panel=_SCALE,
        ),
    ] = "local",
    actors: Annotated[
        int | None,
        typer.Option(
            help="Copies of the model on the cluster; by default as many as fit.", rich_help_panel=_SCALE
        ),
    ] = None,
    cpus_per_actor: Annotated[int, typer.Option(help="CPUs a copy.", rich_help_panel=_SCALE)] = 1,
    gpus_per_actor: Annotated[
        float, typer.Option(help="GPUs a copy; with them it computes there.", rich_help_panel=_SCALE)
    ] = 0,
    json: AsJson = False,
) -> None:
    """Protect every photo of a folder, list, archive or table: same tree, no metadata, a manifest row for each file, resumable.

    Each face is written alone, aligned: the central one under the photo's name, others as NAME.face2.jpg and so on. Nothing is
    ever written for a photo that could not be protected. Run it again to go on after a stop.

    One photo gives one file, and OUT.face2.png and so on for further faces.

    Examples: `privface protect photos protected`, `privface protect photo.jpg face.png`
    """
    from privface.models import load_protector  # noqa: PLC0415
    from privface.protect import is_baseline, protect_folder  # noqa: PLC0415
    from privface.protect.folder import StoppedError  # noqa: PLC0415

    if output == "-":
        if json or not _is_photo(source):
            raise typer.BadParameter("OUTPUT - is for one photo, without --json.")
        Console.quiet = True  # nothing but the photo
    options = ProtectOptions(
        faces=faces,
        paste=paste,
        max_faces=max_faces,
        on_no_face=on_no_face,
        videos=video,
        sound=not no_sound,
        image_format=image_format,
        quality=quality,
        layout=to,
        shard_size=shard_size,
        overwrite=overwrite,
        as_csv=csv,
        times=times,
        batch_size=batch_size,
        workers=workers,
    )
    chosen: Engine | None = None
    if engine == "ray":
        from privface.protect.cluster import RayEngine  # noqa: PLC0415

        chosen = RayEngine(actors=actors, cpus=cpus_per_actor, gpus=gpus_per_actor)
        if device == "auto":
            device = "cuda" if gpus_per_actor else "cpu"
    if video:
        from privface.protect.video import require_av  # noqa: PLC0415

        require_av()
    labels = None
    if genders is not None:
        from privface.data import read_genders  # noqa: PLC0415

        labels = read_genders(genders)
    given: dict[str, Any] = {
        "strength": strength,
        "runtime": runtime,
        "genders": labels,
        "hide": attribute_names(hide),
        "draw": draw,
        "code_size": code_size,
        "device": device,
        "precision": precision,
    }
    baseline = is_baseline(str(model))
    protector = _baseline(str(model), given) if baseline else load_protector(model, **given)
    if _is_photo(source):
        unfit = {"--embeddings": embeddings, "--store": store, "--engine": chosen}
        _protect_photo(source, output, protector, options, [name for name, value in unfit.items() if value])
        return
    templates, sink = _templates(embeddings, store, device, precision)
    try:
        with progress_bars() as progress:
            summary = protect_folder(
                source,
                output,
                protector,
                options,
                templates=templates,
                store=sink,
                engine=chosen,
                progress=lambda done, total: progress("protect", done, total),
            )
    except StoppedError as stop:
        Console.error("Stopped; what was finished is kept.", "Run the same command again to go on.")
        raise typer.Exit(128 + stop.signal) from stop
    counts = ", ".join(f"{count} {status}" for status, count in summary.counts.items() if count)
    files = {"manifest": summary.manifest}
    if templates is not None:
        files["templates"] = Path(output) / "embeddings.parquet"
    fingerprint = protector.fingerprint if baseline else protector.fingerprint[:12]
    Console.say(
        f"{counts}; {summary.images_per_second:.1f} images/s\nModel: {model} ({fingerprint})"
        + "".join(f"\n{name.capitalize()}: {path}" for name, path in files.items())
        + (f"\nStore: {store}" if store is not None else "")
    )
    Console.document(
        "protect",
        model=model,
        fingerprint=protector.fingerprint,
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


def _baseline(spec: str, given: Mapping[str, object]) -> ImageProtector:
    """A baseline, which has none of the options of a trained model."""
    from privface.protect import load_baseline  # noqa: PLC0415

    usual = {"strength": 1.0, "runtime": "auto", "device": "auto", "precision": "fp32"}
    unfit = [f"--{name.replace('_', '-')}" for name, value in given.items() if value != usual.get(name)]
    if unfit:
        raise typer.BadParameter(
            f"{', '.join(unfit)}: {spec} is no trained model; change its own settings instead."
        )
    found = load_baseline(spec)
    Console.say(
        f"{spec}: a baseline to compare with. Who was trained on photos changed in the same way reads gender nearly as before."
    )
    return found


def _templates(
    embeddings: str | None, store: str | None, device: str, precision: str
) -> tuple[MatcherTemplates | None, TemplateSink | None]:
    """Who makes templates, and where else they go."""
    if embeddings is None:
        if store is not None:
            raise typer.BadParameter("--store keeps the templates of --embeddings; give that, too.")
        return None, None
    from privface.device import Device  # noqa: PLC0415
    from privface.protect.templates import template_maker  # noqa: PLC0415

    maker = template_maker(embeddings, Device.choose(device, precision))
    if store is None:
        return maker, None
    from privface.protect.store import TemplateStore, store_path  # noqa: PLC0415

    place = TemplateStore(store_path(store))

    def write(templates: Iterator[tuple[str, str]]) -> None:
        place.write(templates, fingerprint=maker.fingerprint)

    return maker, write


def match(
    probe: Annotated[Path, typer.Argument(help="A photo, or a folder of photos.")],
    templates: Annotated[
        str,
        typer.Option(
            metavar="MATCHER[:ERASER]", help="The matcher, and the eraser's folder, that made the gallery."
        ),
    ],
    gallery: Annotated[
        Path | None,
        typer.Option(
            help="Templates: embeddings.parquet of `protect --embeddings`, or any table of `erase apply`."
        ),
    ] = None,
    store: Annotated[
        str | None,
        typer.Option(metavar="lancedb:FOLDER", help="Or the store of `protect --store`."),
    ] = None,
    faces: Annotated[
        Literal["auto", "aligned", "landmarks", "detect"], typer.Option(help="How probes are aligned.")
    ] = "auto",
    top: Annotated[int, typer.Option(help="Candidates a probe.")] = 5,
    threshold: Annotated[
        float | None, typer.Option(help="Leave candidates below this similarity out.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Also write the candidates to this CSV file.")] = None,
    json: AsJson = False,
) -> None:
    """Search a protected gallery with a live photo: who of the gallery is this?

    Example: `privface match visitor.jpg --gallery protected/embeddings.parquet --templates onnx:m.onnx:erasers/transport`
    """
    from privface.pipeline.search import search, write_candidates  # noqa: PLC0415
    from privface.protect.store import TemplateStore, store_path  # noqa: PLC0415

    searched: Path | TemplateStore
    if store is not None and gallery is None:
        searched = TemplateStore(store_path(store))
    elif gallery is not None and store is None:
        searched = gallery
    else:
        raise typer.BadParameter("give either --gallery or --store.")
    with progress_bars() as progress:
        found = search(
            probe, searched, templates=templates, faces=faces, top=top, threshold=threshold, progress=progress
        )
    if out is not None:
        write_candidates(found.candidates, out)
    Console.table(
        ["probe", "rank", "gallery", "similarity"],
        [[c.probe, str(c.rank), c.file, f"{c.similarity:.4f}"] for c in found.candidates],
    )
    Console.say(f"{found.searched} templates searched")
    Console.document(
        "match",
        searched=found.searched,
        candidates=[vars(candidate) for candidate in found.candidates],
        failed=found.failed,
    )
    for name, reason in found.failed.items():
        Console.error(f"{name}: {reason}", None)
    if found.failed:
        raise typer.Exit(EXIT_SOME_FAILED)
