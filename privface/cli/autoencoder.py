"""Commands of ``privface autoencoder``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from privface.cli.fields import command_options
from privface.cli.show import EXIT_SOME_FAILED, AsJson, Console, progress_bars

if TYPE_CHECKING:
    from privface.models import AutoencoderConfig
    from privface.training import FitSettings

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


@dataclass(frozen=True)
class Learning:
    """How an autoencoder is trained.

    Attributes:
        variant: linear, fully-connected, convolutional, deconvolutional, dropout, denoising, sparse, variational or
            colourising.
        size: Side in pixels; images are cropped to the middle square.
        epochs: Passes over the images.
        batch_size: Images a step.
        learning_rate: Highest rate of the schedule.
        loss: Squared error, binary cross-entropy or absolute error.
        penalty: Weight of the code's penalty; by default 0.04 (sparse) or 0.02 (variational).
        changes: Change a setting of the network, such as code=128 or width=32. Repeatable.
        speech: Learn to take noise out of speech: INPUT holds clean WAV files.
        noise: With --speech: WAV files of noise; else noises are generated.
        pieces: With --speech: mixtures of two seconds to learn from.
        seed: Same seed, same weights on a CPU.
        resume: Go on from the last whole epoch, with the same options.
    """

    variant: str = "convolutional"
    size: int = 64
    epochs: int = 20
    batch_size: int = 32
    learning_rate: float = 2e-3
    loss: Literal["mse", "bce", "l1"] = "mse"
    penalty: float | None = None
    changes: tuple[str, ...] = ()
    speech: bool = False
    noise: Path | None = None
    pieces: int = 3000
    seed: int = 0
    resume: bool = False

    def network(self) -> AutoencoderConfig:
        """The network; speech has settings of its own unless another variant is asked for."""
        from privface.config import parse_values  # noqa: PLC0415
        from privface.models import variant  # noqa: PLC0415
        from privface.models.speech import SETTINGS  # noqa: PLC0415

        usual = self.speech and self.variant in {"convolutional", "denoising"}
        start = (SETTINGS if usual else {}) if self.speech else {"shape": (3, self.size, self.size)}
        return variant("denoising" if usual else self.variant, **{**start, **parse_values(self.changes)})

    def schedule(self, penalty: float) -> FitSettings:
        """The schedule; the penalty is that of the network's code where none is asked for."""
        from privface.training import FitSettings  # noqa: PLC0415

        own = {name: getattr(self, name) for name in FitSettings.model_fields if hasattr(self, name)}
        return FitSettings(**{**own, "penalty": penalty if self.penalty is None else self.penalty})


@app.command()
@command_options(flags={"source": "INPUT", "changes": "--set"})
def train(source: Path, *, out: Path, learning: Learning, json: AsJson = False) -> None:
    """Train an autoencoder; the best epoch so far always lies in the model folder.

    Example: `privface autoencoder train photos --variant denoising --out denoiser`

    Options:
        source: Folder of images, or of WAV files with --speech.
        out: Model folder to write; new or empty.
    """
    from privface.models.parts import CODES  # noqa: PLC0415
    from privface.pipeline.autoencoders import train_images, train_speech  # noqa: PLC0415

    if learning.noise is not None and not learning.speech:
        raise typer.BadParameter("--noise goes with --speech.")
    network = learning.network()
    settings = learning.schedule(CODES[network.kind].weight)
    with progress_bars() as progress:
        chosen: dict[str, Any] = {"resume": learning.resume, "progress": progress}
        if learning.speech:
            chosen |= {"noise": learning.noise, "pieces": learning.pieces}
        trained = (train_speech if learning.speech else train_images)(
            source, out, network, settings, **chosen
        )
    best = trained.best
    Console.document(
        "autoencoder train",
        images=trained.images,
        validation=trained.validation,
        epochs=len(trained.epochs),
        best={"epoch": best.number, "validation_loss": best.validation, "training_loss": best.training},
        unreadable=trained.unreadable,
        files={"model": out},
    )
    Console.say(
        f"{trained.images} {'pieces' if learning.speech else 'images'}, {trained.validation} for validation; best epoch"
        f" {best.number} of {len(trained.epochs)}: loss {best.validation:.5f} on validation, {best.training:.5f} in training."
        f"\nModel: {out}"
    )
    if trained.unreadable:
        Console.say(f"Not readable and left out: {_names(trained.unreadable)}")
        raise typer.Exit(EXIT_SOME_FAILED)


@app.command()
def reconstruct(source: Source, output: Output, model: Model, json: AsJson = False) -> None:
    """Write what an autoencoder makes of each image. This protects nothing by itself: audit before you rely on it.

    Example: `privface autoencoder reconstruct photos reconstructed --model mymodel`
    """
    _apply("reconstruct", model, source, output)


@app.command()
@command_options(flags={"source": "INPUT", "output": "OUTPUT"})
def denoise(source: Path, output: Path, *, model: Model, speech: bool = False, json: AsJson = False) -> None:
    """Take noise out of images, or with --speech out of a recording.

    Example: `privface autoencoder denoise --speech in.wav out.wav --model voice`

    Options:
        source: Folder of images, or a WAV file with --speech.
        output: Folder for the results, or a WAV file.
        speech: INPUT and OUTPUT are WAV files.
    """
    if speech:
        from privface.pipeline.autoencoders import denoise_speech  # noqa: PLC0415

        seconds = denoise_speech(model, source, output)
        Console.document("autoencoder denoise", seconds=seconds, files={"speech": output})
        Console.say(f"{seconds:.1f} s of speech; {output}")
        return
    _apply("denoise", model, source, output)


@app.command()
def colourise(source: Source, output: Output, model: Model, json: AsJson = False) -> None:
    """Give grey images colours that a network finds likely (train it with --variant colourising).

    Example: `privface autoencoder colourise grey coloured --model colours`
    """
    _apply("colourise", model, source, output)


@app.command()
@command_options()
def sample(output: Output, *, model: Model, count: int = 64, seed: int = 0, json: AsJson = False) -> None:
    """Draw images of nobody from a variational autoencoder, and one sheet of them all.

    Example: `privface autoencoder sample drawn --model variational --count 64`

    Options:
        count: How many images.
        seed: Same seed, same images.
    """
    from privface.pipeline.autoencoders import sample_images  # noqa: PLC0415

    written = sample_images(model, output, count=count, seed=seed)
    Console.document("autoencoder sample", images=count, files={"sheet": written[0], "images": output})
    Console.say(f"{count} images; {written[0]}")


def _apply(command: str, model: Path, source: Path, output: Path) -> None:
    """Pass a folder of images through a model and say what became of it."""
    from privface.pipeline.autoencoders import apply_to_folder  # noqa: PLC0415

    with progress_bars() as progress:
        applied = apply_to_folder(model, source, output, colourise=command == "colourise", progress=progress)
    Console.document(
        f"autoencoder {command}",
        written=applied.written,
        failed=dict(applied.failed),
        files={"images": output},
    )
    Console.say(f"{applied.written} images written, {len(applied.failed)} failed; {output}")
    if applied.failed:
        Console.say("Failed: " + "; ".join(f"{name} ({reason})" for name, reason in applied.failed[:_SHOWN]))
        raise typer.Exit(EXIT_SOME_FAILED)


def _names(files: tuple[str, ...]) -> str:
    more = f" and {len(files) - _SHOWN} more" if len(files) > _SHOWN else ""
    return ", ".join(files[:_SHOWN]) + more
