"""The semi-adversarial training loop. The only file that imports Fabric."""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning_fabric as lf
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from privface.config import LoopOptions, MadeSettings
from privface.data.sampling import balanced_indices
from privface.descent import moving_average, set_rate
from privface.device import Device
from privface.errors import ConfigError, MissingExtraError, TrainingError
from privface.models import Matcher, Protector, save_network
from privface.training.checkpoint import RESUME_FILE, read_checkpoint, write_checkpoint
from privface.training.source import ImageSource, Prefetcher, step_generator
from privface.training.step import StepLosses, TrainingStep


class LoopSettings(MadeSettings, LoopOptions):
    """The schedule, and the seed of order, views and initial weights.

    Raises:
        ConfigError: If a value is out of range.
    """

    seed: int = 0


@dataclass(frozen=True)
class FitSummary:
    """What training did.

    Attributes:
        steps: Optimiser steps in total, resumed ones included.
        images_per_second: Rate of this process's part.
        data_wait_share: Share of the loop's time spent waiting for images.
        precision: Arithmetic, as Fabric names it.
        minutes: Time that it took, this time.
        validation: Figures of the last validation.
    """

    steps: int
    images_per_second: float
    data_wait_share: float
    precision: str
    minutes: float
    validation: Mapping[str, float] = field(default_factory=dict)


def training_device(loop: LoopOptions) -> Device:
    """Where a training computes, and in which numbers."""
    return Device.choose(loop.device, {"32-true": "fp32", "bf16-mixed": "bf16"}.get(loop.precision, "auto"))


class SemiAdversarialTrainer:
    """Trains an autoencoder that keeps matchers working and leaves gender classifiers guessing.

    Args:
        step: The losses and all networks that take part.
        settings: Schedule.
        progress: Called as ``progress(done_steps, all_steps, figures)``.
        validate: Called with a protector after each epoch; its figures go to the log.
        on_epoch: Called as ``on_epoch(epoch, protector)`` after each epoch (contact sheets).
        tensorboard: Also write TensorBoard event files.
        protector: Makes the protector that those two are shown of the network as it stands.
        whole: Makes of what is trained the network that is kept, where it is a part of one.
    """

    def __init__(
        self,
        step: TrainingStep[Any],
        *,
        settings: LoopSettings,
        progress: Callable[[int, int, Mapping[str, float]], None] | None = None,
        validate: Callable[[Any], Mapping[str, float]] | None = None,
        on_epoch: Callable[[int, Any], None] | None = None,
        tensorboard: bool = False,
        protector: Callable[[Any], Any] = Protector,
        whole: Callable[[Any], Any] | None = None,
    ) -> None:
        self.step, self.settings = step, settings
        self._progress, self._validate, self._on_epoch = progress, validate, on_epoch
        self._tensorboard, self._protector, self._whole = tensorboard, protector, whole
        device = training_device(settings)
        self.precision = "bf16-mixed" if device.precision == "bf16" else "32-true"
        self._fabric = lf.Fabric(
            accelerator=device.name,
            devices=settings.devices,
            precision=self.precision,  # type: ignore[arg-type]
        )
        self._fabric.launch()
        self._fabric.to_device(step)
        step.to(memory_format=torch.channels_last)
        self._learned = [p for p in step.autoencoder.parameters() if p.requires_grad]
        if not self._learned:
            raise TrainingError(
                f"{type(step.autoencoder).__name__} has no weight that learns.",
                hint="What needs no training is no method of `privface train`; docs/extend/method.md begins with one.",
            )
        opponents = [*step.pixel_adversaries, *step.embedding_adversaries]
        self._chasing = [p for opponent in opponents for p in opponent.parameters()]
        # foreach: the same bits, with one call for all the small tensors
        optimizers = [
            torch.optim.Adam(self._learned, lr=settings.learning_rate, betas=(0.5, 0.99), foreach=True)
        ]
        if self._chasing:
            optimizers.append(
                torch.optim.Adam(self._chasing, lr=settings.adversary_rate, betas=(0.5, 0.99), foreach=True)
            )
        ready = self._fabric.setup_optimizers(*optimizers)
        self._optimizers: list[Any] = list(ready) if isinstance(ready, tuple | list) else [ready]
        self._average = moving_average(step.autoencoder, settings.ema)
        self._parts = {
            "autoencoder": step.autoencoder,
            "average": self._average,
            "opponents": nn.ModuleList(opponents),
            "alignments": step.alignments,
            **{f"optimizer_{k}": optimizer for k, optimizer in enumerate(self._optimizers)},
        }

    # long: the whole course of a training, to be read in one sitting
    def fit(
        self,
        source: ImageSource,
        genders: NDArray[np.int64],
        *,
        identities: NDArray[np.str_] | None = None,
        run: Path,
        meta: Mapping[str, Any],
        resume: bool = False,
        embeddings: Sequence[Tensor] | None = None,
        labels: NDArray[np.int64] | None = None,
    ) -> FitSummary:
        """Train and write ``model.safetensors``, ``model.yaml`` and ``log.csv`` into ``run``.

        Args:
            source: Aligned originals.
            genders: 0 female, 1 male, ``(N,)``.
            identities: People, ``(N,)``; given, people are drawn evenly.
            run: Run folder.
            meta: Kept in ``model.yaml`` (``size`` is read back by :class:`Protector`).
            resume: Go on from the run's last checkpoint; the result is bit for bit that of an unbroken run.
            embeddings: What :func:`embed_originals` gave for this source, where it is known already.
            labels: What the step is told of each image instead of its gender, ``(N, ...)``.

        Raises:
            TrainingError: If the loss stops being finite.
            CheckpointError: If there is nothing to resume, or it was made with other settings.
        """
        settings, started = self.settings, time.monotonic()
        told = genders if labels is None else labels
        if embeddings is None:
            matchers: Any = self.step.matchers if self.step.weights.matching else ()
            embeddings = embed_originals(matchers, source)
        log = TrainingLog(run, tensorboard=self._tensorboard, active=self._fabric.is_global_zero)
        done = 0
        if resume:
            file, device = run / RESUME_FILE, self._fabric.device
            done = read_checkpoint(file, self._key(), self._parts, device=device)["done"]
        validation: Mapping[str, float] = {}
        log.keep_until(done)
        began, first, waited, saved = time.perf_counter(), done, 0.0, time.monotonic()
        for epoch in range(settings.epochs):
            batches = self._batches(genders, identities, epoch)
            total = len(batches) * settings.epochs
            if done >= (epoch + 1) * len(batches):
                if epoch + 1 == settings.epochs:  # stopped in the last validation
                    validation = self._after_epoch(epoch, done, log)
                continue
            self._refresh(epoch, at_start=done == epoch * len(batches))
            feed = Prefetcher(source, batches, start=done - epoch * len(batches))
            for position, index, images in feed:
                # the adversaries' rate stays
                set_rate(self._optimizers[0], done, total, rise=settings.warmup_steps, floor=0.1)
                self.step.done_share = done / total
                figures = self._one_step(
                    images,
                    torch.from_numpy(told[index]),
                    [known[torch.from_numpy(index)] for known in embeddings],
                    step_generator(seed=settings.seed, epoch=epoch, step=position),
                )
                if not np.isfinite(figures["total"]):
                    raise TrainingError(
                        f"The loss is {figures['total']} in epoch {epoch + 1}, step {position + 1}.",
                        hint="Lower learning_rate or the loss weights; the last checkpoint is kept.",
                    )
                done += 1
                log.write(done, figures)
                if self._progress is not None and self._fabric.is_global_zero:
                    self._progress(done, total, figures)
                if time.monotonic() - saved > 60 * settings.checkpoint_minutes:
                    self._save(run, done, log)
                    saved = time.monotonic()
            waited += feed.waited
            self._save(run, done, log)
            saved = time.monotonic()
            validation = self._after_epoch(epoch, done, log)
        elapsed = time.perf_counter() - began
        if self._fabric.is_global_zero:
            network = self.averaged()
            save_network(run, network, kind=network.kind, meta=meta)
        log.close()
        rate = (done - first) * settings.batch_size * self._fabric.world_size / max(elapsed, 1e-9)
        wait, minutes = waited / max(elapsed, 1e-9), (time.monotonic() - started) / 60
        return FitSummary(done, rate, wait, self.precision, minutes, dict(validation))

    # one step ---------------------------------------------------------------------------------------

    def _one_step(
        self, images: Tensor, labels: Tensor, embeddings: list[Tensor], generator: torch.Generator
    ) -> dict[str, float]:
        device = self._fabric.device
        images = images.to(device, memory_format=torch.channels_last)
        with torch.random.fork_rng(devices=[]), self._fabric.autocast():
            # noise and dropout of a resumed run are those of an unbroken one
            torch.manual_seed(generator.initial_seed())
            losses = self.step(
                images, labels.to(device), [e.to(device) for e in embeddings], generator=generator
            )
        self._update(losses)
        return {name: float(value) for name, value in losses.figures.items()}  # a step's one CPU-GPU sync

    def _update(self, losses: StepLosses) -> None:
        """Both sides differentiate one graph: each backward pass touches its own side's weights alone."""
        for optimizer in self._optimizers:
            optimizer.zero_grad(set_to_none=True)
        if losses.adversaries is not None:
            self._fabric.backward(losses.adversaries, inputs=self._chasing, retain_graph=True)
        self._fabric.backward(losses.protector, inputs=self._learned)
        self._share_gradients()
        self._fabric.clip_gradients(
            self.step.autoencoder, self._optimizers[0], max_norm=self.settings.clip, error_if_nonfinite=False
        )
        for optimizer in self._optimizers[: 1 if losses.adversaries is None else None]:
            optimizer.step()
        self._average.update_parameters(self.step.autoencoder)

    def _share_gradients(self) -> None:
        # two losses on one graph rule out DDP's backward hooks; averaging by hand is the same arithmetic
        if self._fabric.world_size == 1:
            return
        for parameter in [*self._learned, *self._chasing]:
            if parameter.grad is not None:
                parameter.grad = self._fabric.all_reduce(parameter.grad, reduce_op="mean")

    # schedule ---------------------------------------------------------------------------------------

    def _batches(
        self, genders: NDArray[np.int64], identities: NDArray[np.str_] | None, epoch: int
    ) -> list[NDArray[np.int64]]:
        settings = self.settings
        order = balanced_indices(genders, seed=settings.seed, epoch=epoch, identities=identities)[
            : settings.epoch_images
        ]
        whole = settings.batch_size * self._fabric.world_size
        if len(order) < whole:
            raise ConfigError(
                f"{len(order)} images an epoch do not fill one batch of {whole}.",
                hint="Lower batch_size or give more photos.",
            )
        steps = len(order) // whole
        rank, size = self._fabric.global_rank, settings.batch_size
        return [order[s * whole + rank * size : s * whole + (rank + 1) * size] for s in range(steps)]

    def _refresh(self, epoch: int, *, at_start: bool) -> None:
        """Start the pixel adversaries afresh in turn: a protector must not settle on one opponent's blind spots."""
        every, adversaries = self.settings.refresh_epochs, self.step.pixel_adversaries
        if not every or epoch == 0 or epoch % every or not len(adversaries) or not at_start:
            return
        chosen = adversaries[(epoch // every - 1) % len(adversaries)]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(np.random.SeedSequence([self.settings.seed, epoch]).generate_state(1)[0]))
            for module in chosen.modules():
                reset = getattr(module, "reset_parameters", None)
                if callable(reset):
                    reset()
        for parameter in chosen.parameters():
            self._optimizers[1].state.pop(parameter, None)

    def _after_epoch(self, epoch: int, done: int, log: TrainingLog) -> Mapping[str, float]:
        figures: Mapping[str, float] = {}
        if self._fabric.is_global_zero and (self._validate is not None or self._on_epoch is not None):
            protector = self._protector(self.averaged())
            if self._validate is not None:
                figures = self._validate(protector)
                log.write(done, {f"validation_{name}": value for name, value in figures.items()})
            if self._on_epoch is not None:
                self._on_epoch(epoch, protector)
            log.flush()
        self._fabric.barrier()
        return figures

    def averaged(self) -> Any:
        """The network with averaged weights, on the CPU: what :meth:`fit` saves."""
        network = type(self.step.autoencoder)(**self.step.autoencoder.config)
        network.load_state_dict(self._average.module.state_dict())
        return network if self._whole is None else self._whole(network)

    # checkpoints ------------------------------------------------------------------------------------

    def _key(self) -> str:
        """What must be equal for a checkpoint to go on exactly."""
        settings = self.settings.model_dump(exclude={"device", "devices", "checkpoint_minutes"})
        step, config = self.step, self.step.autoencoder.config
        said = [settings, vars(step.weights), config, len(self._chasing), step.attribute.objective]
        return json.dumps(said, sort_keys=True)

    def _save(self, run: Path, done: int, log: TrainingLog) -> None:
        log.flush()
        if self._fabric.is_global_zero:
            write_checkpoint(run / RESUME_FILE, self._key(), self._parts, done=done)
        self._fabric.barrier()


def embed_originals(matchers: Sequence[Matcher], source: ImageSource) -> list[Tensor]:
    """Each matcher's embeddings of all originals, ``(N, D)``.

    The originals never change, so each matcher reads them once instead of once an epoch.
    """
    chunks = np.array_split(np.arange(len(source)), max(1, len(source) // 64)) if matchers else []
    read: list[list[Tensor]] = [[] for _ in matchers]
    for _, _, images in Prefetcher(source, chunks):
        for rows, matcher in zip(read, matchers, strict=True):
            rows.append(torch.from_numpy(matcher.embed(images.numpy())))
    return [torch.cat(rows) for rows in read]


class TrainingLog:
    """Rows ``step,name,value`` in ``log.csv``: long form, so that new figures need no new columns; also TensorBoard events, on request.

    Only the ``active`` process writes.

    Raises:
        MissingExtraError: If TensorBoard is asked for and not installed.
    """

    def __init__(self, run: Path, *, tensorboard: bool = False, active: bool = True) -> None:
        self._path = run / "log.csv"
        self._rows: list[tuple[int, str, float]] = []
        self._active = active
        self._board: Any = None
        if active:
            run.mkdir(parents=True, exist_ok=True)
        if active and tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 - optional
            except ImportError as error:
                raise MissingExtraError(
                    "TensorBoard is not installed.", hint="pip install 'privface[track]'"
                ) from error
            self._board = SummaryWriter(str(run / "tensorboard"))

    def keep_until(self, step: int) -> None:
        """Drop rows of an earlier attempt after ``step`` (0 starts a new log)."""
        if not self._active:
            return
        kept: list[list[str]] = []
        if step and self._path.is_file():
            with self._path.open(newline="") as file:
                kept = [
                    row
                    for row in csv.reader(file)
                    if len(row) == 3 and row[0].isdigit() and int(row[0]) <= step
                ]
        with self._path.open("w", newline="") as file:
            csv.writer(file).writerows([["step", "name", "value"], *kept])

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        """Add one row a figure; rows reach the file at the next :meth:`flush`."""
        if self._active:
            self._rows.extend((step, name, float(value)) for name, value in figures.items())

    def flush(self) -> None:
        """Append waiting rows to the file."""
        if not self._rows:
            return
        with self._path.open("a", newline="") as file:
            csv.writer(file).writerows((step, name, f"{value:.6g}") for step, name, value in self._rows)
        if self._board is not None:
            for step, name, value in self._rows:
                self._board.add_scalar(name, value, step)
            self._board.flush()
        self._rows.clear()

    def close(self) -> None:
        """Flush and release the files."""
        self.flush()
        if self._board is not None:
            self._board.close()
