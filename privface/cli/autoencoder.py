"""Commands of ``privface autoencoder``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from privface.cli.show import AsJson, Console, progress_bars

if TYPE_CHECKING:
    from privface.pipeline.autoencoders import Applied

EXIT_SOME_FAILED = 1
_SHOWN = 5

app = typer.Typer(
    no_args_is_help=True,
    help=(
        "Autoencoders on their own: train one on any folder of images (or of speech), then reproduce, denoise, colour or "
        "draw. To use one as a protector, name it in a training config: `autoencoder: {variant: sparse}`."
    ),
)

Model = Annotated[Path, typer.Option(help="Model folder written by `privface autoencoder train`.")]
Source = Annotated[Path, typer.Argument(metavar="INPUT", help="Folder of images; never written to.")]
Output = Annotated[Path, typer.Argument(metavar="OUTPUT", help="Folder for the results.")]


@app.command()
def train(
    source: Annotated[
        Path, typer.Argument(metavar="INPUT", help="Folder of images, or of WAV files with --speech.")
    ],
    out: Annotated[Path, typer.Option(help="Model folder to write; new or empty.")],
    variant: Annotated[
        str,
        typer.Option(
            help="linear, fully-connected, convolutional, deconvolutional, dropout, denoising, sparse, variational or colourising."
        ),
    ] = "convolutional",
    size: Annotated[int, typer.Option(help="Side in pixels; images are cropped to the middle square.")] = 64,
    epochs: Annotated[int, typer.Option(help="Passes over the images.")] = 20,
    batch_size: Annotated[int, typer.Option(help="Images a step.")] = 32,
    learning_rate: Annotated[float, typer.Option(help="Highest rate of the schedule.")] = 2e-3,
    loss: Annotated[
        Literal["mse", "bce", "l1"],
        typer.Option(help="What differs: squares, binary cross-entropy, amounts."),
    ] = "mse",
    penalty: Annotated[
        float | None,
        typer.Option(help="Weight of the code's penalty; by default 0.04 (sparse) or 0.02 (variational)."),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="Change a setting of the network, such as code=128 or width=32. Repeatable."
        ),
    ] = None,
    speech: Annotated[
        bool, typer.Option("--speech", help="Learn to take noise out of speech: INPUT holds clean WAV files.")
    ] = False,
    noise: Annotated[
        Path | None, typer.Option(help="With --speech: WAV files of noise; else noises are generated.")
    ] = None,
    pieces: Annotated[int, typer.Option(help="With --speech: mixtures of two seconds to learn from.")] = 3000,
    seed: Annotated[int, typer.Option(help="Same seed, same weights on a CPU.")] = 0,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the last whole epoch, with the same options.")
    ] = False,
    json: AsJson = False,
) -> None:
    """Train an autoencoder; the best epoch so far always lies in the model folder.

    Example: `privface autoencoder train photos --variant denoising --out denoiser`
    """
    from privface.config import parse_values  # noqa: PLC0415
    from privface.models import variant as choose  # noqa: PLC0415
    from privface.models.parts import CODES  # noqa: PLC0415
    from privface.models.speech import SETTINGS  # noqa: PLC0415
    from privface.pipeline.autoencoders import train_images, train_speech  # noqa: PLC0415
    from privface.training import FitSettings  # noqa: PLC0415

    if noise is not None and not speech:
        raise typer.BadParameter("--noise goes with --speech.")
    usual = speech and variant in {"convolutional", "denoising"}
    start = (SETTINGS if usual else {}) if speech else {"shape": (3, size, size)}
    config = choose("denoising" if usual else variant, **{**start, **parse_values(set_ or ())})
    weight = CODES[config.kind].weight if penalty is None else penalty
    settings = FitSettings(
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        loss=loss,
        penalty=weight,
        seed=seed,
    )
    with progress_bars() as progress:
        found = (
            train_speech(
                source, out, config, settings, noise=noise, pieces=pieces, resume=resume, progress=progress
            )
            if speech
            else train_images(source, out, config, settings, resume=resume, progress=progress)
        )
    best = found.best
    Console.document(
        "autoencoder train",
        images=found.images,
        validation=found.validation,
        epochs=len(found.epochs),
        best={"epoch": best.number, "validation_loss": best.validation, "training_loss": best.training},
        unreadable=found.unreadable,
        files={"model": out},
    )
    Console.say(
        f"{found.images} {'pieces' if speech else 'images'}, {found.validation} for validation; best epoch {best.number} of"
        f" {len(found.epochs)}: loss {best.validation:.5f} on validation, {best.training:.5f} in training.\nModel: {out}"
    )
    if found.unreadable:
        Console.say(f"Not readable and left out: {_names(found.unreadable)}")
        raise typer.Exit(EXIT_SOME_FAILED)


@app.command()
def reconstruct(source: Source, output: Output, model: Model, json: AsJson = False) -> None:
    """Write what an autoencoder makes of each image. This protects nothing by itself: audit before you rely on it.

    Example: `privface autoencoder reconstruct photos reconstructed --model mymodel`
    """
    from privface.pipeline.autoencoders import apply_to_folder  # noqa: PLC0415

    with progress_bars() as progress:
        found = apply_to_folder(model, source, output, progress=progress)
    Console.document("autoencoder reconstruct", **_content(found, output))
    _report(found, output)


@app.command()
def denoise(
    source: Annotated[
        Path, typer.Argument(metavar="INPUT", help="Folder of images, or a WAV file with --speech.")
    ],
    output: Annotated[Path, typer.Argument(metavar="OUTPUT", help="Folder for the results, or a WAV file.")],
    model: Model,
    speech: Annotated[bool, typer.Option("--speech", help="INPUT and OUTPUT are WAV files.")] = False,
    json: AsJson = False,
) -> None:
    """Take noise out of images, or with --speech out of a recording.

    Example: `privface autoencoder denoise --speech in.wav out.wav --model voice`
    """
    from privface.pipeline.autoencoders import apply_to_folder, denoise_speech  # noqa: PLC0415

    if speech:
        seconds = denoise_speech(model, source, output)
        Console.document("autoencoder denoise", seconds=seconds, files={"speech": output})
        Console.say(f"{seconds:.1f} s of speech; {output}")
        return
    with progress_bars() as progress:
        found = apply_to_folder(model, source, output, progress=progress)
    Console.document("autoencoder denoise", **_content(found, output))
    _report(found, output)


@app.command()
def colorize(source: Source, output: Output, model: Model, json: AsJson = False) -> None:
    """Give grey images colours that a network finds likely (train it with --variant colourising).

    Example: `privface autoencoder colorize grey coloured --model colours`
    """
    from privface.pipeline.autoencoders import apply_to_folder  # noqa: PLC0415

    with progress_bars() as progress:
        found = apply_to_folder(model, source, output, colourise=True, progress=progress)
    Console.document("autoencoder colorize", **_content(found, output))
    _report(found, output)


@app.command()
def sample(
    output: Output,
    model: Model,
    count: Annotated[int, typer.Option(help="How many images.")] = 64,
    seed: Annotated[int, typer.Option(help="Same seed, same images.")] = 0,
    json: AsJson = False,
) -> None:
    """Draw images of nobody from a variational autoencoder, and one sheet of them all.

    Example: `privface autoencoder sample drawn --model variational --count 64`
    """
    from privface.pipeline.autoencoders import sample_images  # noqa: PLC0415

    written = sample_images(model, output, count=count, seed=seed)
    Console.document("autoencoder sample", images=count, files={"sheet": written[0], "images": output})
    Console.say(f"{count} images; {written[0]}")


def _content(found: Applied, output: Path) -> dict[str, Any]:
    """What ``--json`` says of a folder."""
    return {"written": found.written, "failed": dict(found.failed), "files": {"images": output}}


def _report(found: Applied, output: Path) -> None:
    Console.say(f"{found.written} images written, {len(found.failed)} failed; {output}")
    if found.failed:
        Console.say("Failed: " + "; ".join(f"{name} ({reason})" for name, reason in found.failed[:_SHOWN]))
        raise typer.Exit(EXIT_SOME_FAILED)


def _names(files: tuple[str, ...]) -> str:
    more = f" and {len(files) - _SHOWN} more" if len(files) > _SHOWN else ""
    return ", ".join(files[:_SHOWN]) + more
