"""``erased-code``: a narrow code from which gender is erased, and a decoder that draws the face anew from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from privface.attributes import GENDER, Attribute, column, parse_attributes
from privface.config import DataSettings, Settings, TrainSettings
from privface.data import LoadedFaces, require_both_genders
from privface.device import Device
from privface.erasers import RegionalTransport
from privface.erasers.base import unit_rows
from privface.errors import ConfigError, DataError, LabelError, ModelError
from privface.images import to_unit
from privface.losses import AttributeLoss
from privface.models import load_matcher
from privface.models.bundled import model_folder
from privface.models.checkpoint import build, load_network
from privface.models.decoder import FaceDecoder
from privface.models.erased_code import ErasedCode, FrozenReader
from privface.pipeline.faces import join, open_data
from privface.pipeline.methods.base import (
    Job,
    Method,
    Outcome,
    aligned,
    fit_network,
    loss_terms,
    seed_weights,
)
from privface.threads import map_parts
from privface.training.erased_code import ErasedCodeStep
from privface.training.trainer import training_device

_BATCH = 64
_GUESS = 4_000
"""Faces that the code of the model ``start`` is guessed from, at most."""
_ROUNDING = 1e-5
"""Singular values below this share of the largest are rounding."""
_PER_PERSON = 5
"""Photos of one person that the eraser is fitted on, at most."""


class ErasedCodeOptions(Settings):
    """What is asked of the method alone; docs/methods.md says what each setting means."""

    encoders: tuple[str, ...] = ()
    code_sizes: tuple[Annotated[int, Field(ge=2)], ...] = Field((80,), min_length=1)
    attributes: tuple[str, ...] = Field((GENDER,), min_length=1)
    drop: int = Field(48, ge=0)
    regions: int = Field(16, ge=1, le=256)
    rounds: int = Field(1, ge=1, le=10)
    bits: int = Field(0, ge=0, le=4096)
    more_data: tuple[DataSettings, ...] = ()
    channels: Annotated[tuple[int, ...], Field(min_length=5, max_length=5)] | None = None


# one long body: encoders, code, erasers, aims and decoder, in the order in which each needs those before it
def _train(job: Job, options: ErasedCodeOptions) -> Outcome:
    """Code, eraser and decoder, in this order; each needs the one before it."""
    _require_usable(job.settings)
    start, shape = _start(job, options)
    encoders = [load_matcher(spec, seen=True) for spec in options.encoders] or job.matchers
    faces, sets = _pooled(job, options)
    attributes, labels = _labels(options, faces, sets)
    readers = [FrozenReader.of(encoder) for encoder in encoders]
    seed_weights(job.settings.seed)
    network = ErasedCode(
        encoders=readers,
        sizes=options.code_sizes,
        drop=options.drop,
        regions=options.regions,
        bits=options.bits,
        decoder=lambda values: FaceDecoder(code=values, **shape),
        attributes=attributes,
        rounds=options.rounds,
    )
    usual = network.hidden
    embedded = {e.fingerprint: _embed(job, e.name, r, faces) for e, r in zip(encoders, readers, strict=True)}
    units = [embedded[encoder.fingerprint] for encoder in encoders]
    adopt_axes(network, units)
    rows = {}
    for name, codes_of in labels.items():  # of who has a label
        labelled = np.flatnonzero(codes_of >= 0)
        rows[name] = labelled[few_of_each(faces.table.identities[labelled], seed=job.settings.seed)]
    read = torch.from_numpy(np.concatenate(units, axis=1))
    choices = [(size, hidden) for size in network.sizes for hidden in network.combinations]
    codes, erasers = [], []
    for size, hidden in choices:
        network.choose(code_size=size, hide=hidden)
        codes.append(_erase(network, read, labels, rows, sets, job.settings.seed))
        erasers.append(network.eraser)
        if job.progress is not None:
            job.progress("fit erasers", len(codes), len(choices))
    told = [eraser.tell(torch.from_numpy(code)).numpy() for eraser, code in zip(erasers, codes, strict=True)]
    if start is not None:
        largest = [code for code, (size, _) in zip(told, choices, strict=True) if size == network.sizes[-1]]
        _begin(job, network, start, faces, largest)

    aims, centres = [], []
    for matcher in job.matchers:
        own = embedded.get(matcher.fingerprint)
        if own is None:
            own = _embed(job, matcher.name, FrozenReader.of(matcher), faces)
        centres.append(torch.from_numpy(own.mean(axis=0)))
        plain = unit_rows(own - own.mean(axis=0))
        without = plain
        if GENDER in rows:
            few = rows[GENDER]
            eraser = RegionalTransport(regions=1).fit(plain[few], labels[GENDER][few], sets=sets[few])
            without = np.asarray(eraser.transform(plain))
        wanted = [without if GENDER in hidden else plain for _, hidden in choices]
        # what it is to see of the code of each choice: rotated to its embeddings
        aims.append([torch.from_numpy(turn(*pair)) for pair in zip(told, wanted, strict=True)])
    step = ErasedCodeStep(
        network.decoder,
        erasers=erasers,
        aims=list(zip(*aims, strict=True)),
        centres=centres,
        precision=training_device(job.settings.loop).precision,
        matchers=job.matchers,
        attribute=AttributeLoss(job.settings.losses.objective),
        **loss_terms(job.settings),
    )

    def assembled(trained: FaceDecoder) -> ErasedCode:
        network.decoder = trained
        network.choose(code_size=network.sizes[-1], hide=usual)
        return network

    inputs = [torch.from_numpy(code) for code in codes]
    summary, _ = fit_network(
        replace(job, learn=faces), step, classifiers=(), whole=assembled, embeddings=inputs
    )
    met = [*job.matchers, *(e for e in encoders if e not in job.matchers)]
    return Outcome([summary], (), matchers=met, people=tuple(map(str, faces.table.identities)))


def _require_usable(settings: TrainSettings) -> None:
    losses, batch, matchers = settings.losses, settings.loop.batch_size, len(settings.matchers)
    if losses.matching_share != 1 or losses.matching_views:
        raise ConfigError(
            f"losses.matching_share is {losses.matching_share:g} and losses.matching_views {str(losses.matching_views).lower()}:"
            " method erased-code shows each face to one matcher, always under views.",
            hint="Leave both out.",
        )
    if batch < matchers:
        raise ConfigError(
            f"loop.batch_size is {batch} and there are {matchers} matchers; each sees its share of a batch.",
            hint="Give a batch at least one face for each matcher.",
        )


def _pooled(job: Job, options: ErasedCodeOptions) -> tuple[LoadedFaces, NDArray[np.int64]]:
    """All sets behind one another, and which set each face is of.

    Raises:
        LabelError: If a set lacks a gender that the first one has.
    """
    parts = [job.learn]
    for settings in options.more_data:
        table = open_data(settings)
        if job.learn.table.gendered:
            table = table.labelled()
            require_both_genders(table)
        else:  # the first set decides
            table = replace(table, records=tuple(replace(record, gender=None) for record in table))
        parts.append(aligned(job, settings, table, f"align {settings.labels or settings.source}"))
    return join(parts), np.repeat(np.arange(len(parts)), [len(part) for part in parts])


def _start(job: Job, options: ErasedCodeOptions) -> tuple[ErasedCode | None, dict[str, Any]]:
    """The model that the decoder begins as, if there is one, and the decoder's size and channels.

    Raises:
        CheckpointError: If ``start`` is no erased-code.
        ConfigError: If its decoder has another size or other channels than are asked for.
    """
    shape: dict[str, Any] = {"size": job.settings.size}
    if options.channels is not None:
        shape["channels"] = options.channels
    if job.settings.start is None:
        return None, shape
    where = Path(job.settings.start)
    found = build(ErasedCode, load_network(model_folder(where), kind=ErasedCode.kind), where=where)
    shape = {"channels": found.decoder.config["channels"], **shape}
    FaceDecoder(code=1, **shape).begin_as(found.decoder, torch.zeros(1, found.told), torch.zeros(found.told))
    return found, shape


def _begin(
    job: Job,
    network: ErasedCode,
    before: ErasedCode,
    faces: LoadedFaces,
    told: Sequence[NDArray[np.float32]],
) -> None:
    """Let the decoder begin as that of another model, whose code is guessed from ``told``, of every choice of what to hide, by least squares."""
    few = np.sort(np.random.default_rng(job.settings.seed).permutation(len(faces))[:_GUESS])
    known = faces.take(few)
    parts = [
        _embed(job, f"encoder {number + 1} of start", reader, known)  # type: ignore[arg-type]
        for number, reader in enumerate(before.encoders)
    ]
    with torch.inference_mode():
        wanted = before.eraser(before.project(torch.from_numpy(np.concatenate(parts, axis=1))))
    wanted = F.pad(wanted, (0, before.told - wanted.shape[1])).numpy()
    given = np.concatenate([np.pad(t[few], ((0, 0), (0, network.told - t.shape[1]))) for t in told])
    given = np.hstack([given, np.ones((len(given), 1), np.float32)])
    # what no choice leaves in the code is rounding, and would get weights of millions
    axes = np.linalg.lstsq(given, np.tile(wanted, (len(told), 1)), rcond=_ROUNDING)[0]
    axes /= np.linalg.norm(given @ axes, axis=1).mean()  # codes are of unit length
    network.decoder.begin_as(before.decoder, *map(torch.from_numpy, (axes[:-1], axes[-1])))


def _embed(job: Job, name: str, reader: FrozenReader, faces: LoadedFaces) -> NDArray[np.float32]:
    """Unit embeddings ``(N, D)`` of all faces."""
    exact = job.settings.loop.precision == "32-true"
    reader.device = Device() if exact else Device.choose("cpu")
    reader.prepare()

    def units_of(part: Tensor) -> Tensor:
        with torch.inference_mode():
            return F.normalize(reader(part.contiguous(memory_format=torch.channels_last)), dim=1)

    parts = []
    for start in range(0, len(faces), _BATCH):
        images = torch.from_numpy(to_unit(faces.pixels[start : start + _BATCH]))
        parts += map_parts(units_of, torch.split(images, reader.device.at_once))
        if job.progress is not None:
            job.progress(f"embed with {name}", start + len(images), len(faces))
    reader.device = Device()
    units = torch.cat(parts).numpy()
    bad = np.flatnonzero(~np.isfinite(units).all(axis=1))
    if len(bad):
        raise ModelError(
            f"{name} gave embeddings that are not finite for {len(bad)} of {len(units)} faces, the first is "
            f"{faces.table.files[bad[0]]}.",
            hint="Check its weights and the input range in its sidecar or input_spec.",
        )
    if len(units) > 1 and not np.ptp(units, axis=0).any():
        raise ModelError(
            f"{name} gives the same embedding for all {len(units)} faces.",
            hint="It has learnt nothing, or its code has collapsed (variational: a smaller penalty); train it anew.",
        )
    return units


def adopt_axes(network: ErasedCode, parts: Sequence[NDArray[np.float32]]) -> None:
    """Means and principal components of the encoders' unit embeddings, one array ``(N, D)`` each."""
    size = network.axes.shape[1]
    if len(parts[0]) < size:
        raise DataError(
            f"{len(parts[0])} faces do not give a code of {size} values.",
            hint="Give more photos, or smaller method_options.code_sizes.",
        )
    centres = [part.mean(axis=0) for part in parts]
    joined = np.concatenate([unit_rows(part - c) for part, c in zip(parts, centres, strict=True)], axis=1)
    joined = joined.astype(np.float64) / len(parts) ** 0.5
    middle = joined.mean(axis=0)
    _, axes = np.linalg.eigh(np.cov(joined - middle, rowvar=False))
    axes = axes[:, ::-1][:, :size]
    axes = axes * np.where(axes.sum(axis=0) < 0, -1.0, 1.0)  # an eigenvector's sign is free
    for buffer, values in (
        (network.centres, np.concatenate(centres)),
        (network.middle, middle),
        (network.axes, axes),
    ):
        buffer.copy_(torch.from_numpy(np.ascontiguousarray(values)))


def few_of_each(people: NDArray[np.str_], *, seed: int) -> NDArray[np.int64]:
    """Rows that an eraser is fitted on: at most five photos a person."""
    order = np.random.default_rng(seed).permutation(len(people))
    number = pd.Series(order).groupby(people[order]).cumcount()
    return np.sort(order[number < _PER_PERSON])


def turn(codes: NDArray[np.float32], embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
    """The rotation ``(K, D)`` that brings codes ``(N, K)`` closest to embeddings ``(N, D)``.

    It keeps all angles between people, where ``K <= D`` (orthogonal Procrustes; Schoenemann, Psychometrika 1966). An aim
    that follows from the code is learnt much faster than the photo's own embedding, of which a narrow code says the half.
    """
    left, _, right = np.linalg.svd(codes.T.astype(np.float64) @ embeddings, full_matrices=False)
    return np.asarray(left @ right, np.float32)


def _labels(
    options: ErasedCodeOptions, faces: LoadedFaces, sets: NDArray[np.int64]
) -> tuple[tuple[Attribute, ...], dict[str, NDArray[np.int64]]]:
    """The attributes with their classes, and the code of each face by attribute, -1 where it has no label."""
    attributes, labels = [], {}
    for attribute in parse_attributes(options.attributes):
        known, codes = attribute.read(column(faces.table, attribute.name))
        attributes.append(known)
        labels[known.name] = codes
        for number in np.unique(sets[codes >= 0]):
            lacking = set(range(len(known.classes))) - set(codes[sets == number].tolist())
            if lacking:
                raise LabelError(
                    f"Set {number + 1} of {sets.max() + 1} has labels of {known.name!r}, but no photo of the class"
                    f" {known.classes[min(lacking)]!r}.",
                    hint="Give each set photos of every class, or no labels of this attribute at all.",
                )
    return tuple(attributes), labels


def kept_classes(labels: Mapping[str, NDArray[np.int64]], hidden: Sequence[str]) -> NDArray[np.int64]:
    """A number ``(N,)`` for each face's combination of classes that are kept; no label counts as a class."""
    first, *_ = labels.values()
    numbers = np.zeros(len(first), np.int64)
    for name, codes in labels.items():
        if name not in hidden:
            numbers = numbers * (codes.max() + 2) + codes + 1
    return numbers


def _erase(
    network: ErasedCode,
    read: Tensor,
    labels: Mapping[str, NDArray[np.int64]],
    rows: Mapping[str, NDArray[np.int64]],
    sets: NDArray[np.int64],
    seed: int,
) -> NDArray[np.float32]:
    """Fit the eraser in use, link by link, each on what the one before leaves; gives all moved codes ``(N, size)``."""
    with torch.inference_mode():
        code = network.project(read).numpy()
    strata = kept_classes(labels, network.hidden)
    links = getattr(network.eraser, "links", [network.eraser])
    for link, (attribute, drop) in zip(links, network.chain(network.hidden), strict=True):
        eraser = RegionalTransport(drop=drop, regions=network.regions, bits=network.bits, random_state=seed)
        kept = rows[attribute.name]
        eraser.fit(code[kept], labels[attribute.name][kept], sets=sets[kept], strata=strata[kept])
        link.adopt(eraser.state())
        code = eraser.transported(code).astype(np.float32)
    return np.asarray(code)


ERASED_CODE = Method("erased-code", _train, ErasedCodeOptions, can_start=True)
