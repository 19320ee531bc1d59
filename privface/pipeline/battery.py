"""Which attackers an audit sends, by effort: the one place where the audit's parts and the models meet."""

from __future__ import annotations

import copy
import json
from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from privface.attributes import parse_attributes
from privface.audit import Auditor, Averaging, Cache, CNNProbe, EmbeddingProbe, PixelProbe, RetrainedProbe
from privface.audit.image_probe import FineTunedProbe
from privface.audit.image_recovery import ImageRecoverer
from privface.audit.picture_probes import HOGProbe
from privface.audit.probes import PROBE_KINDS, ProbeKind
from privface.audit.recovery import EmbeddingRecoverer, Recoverer
from privface.audit.selftest import Size, load_selftest, run_selftest
from privface.data import FoldedPairs
from privface.device import Device
from privface.images import write_atomic
from privface.models import Autoencoder, AutoencoderConfig, GenderProbe, Matcher, load_gender_probe, variant
from privface.options import AuditOptions
from privface.pipeline.faces import Progress
from privface.records import FRAME

_FEW_PROBES: dict[str, tuple[ProbeKind, ...]] = {
    "demo": ("logistic", "rbf-svm", "mlp"),
    "quick": ("logistic", "rbf-svm"),
}
"""Attackers on embeddings, where the effort does not send all of them."""


def build_auditor(
    options: AuditOptions,
    *,
    matchers: Sequence[Matcher] = (),
    probes: Sequence[GenderProbe] = (),
    exclude_people: Collection[str] = (),
    pairs: FoldedPairs | None = None,
    progress: Progress | None = None,
) -> Auditor:
    """The auditor with the attackers that an effort sends, for comparators of images and frozen gender classifiers.

    ``exclude_people`` have met the protector; ``pairs`` are over the audited rows.
    """
    device = Device.choose(options.device, options.precision)
    return Auditor(
        matchers=[matcher.on(device) for matcher in matchers],
        frozen_probes=[probe.on(device) for probe in probes],
        image_probes=image_probes(options, matchers, probes, place=device.name),
        embedding_probes=_FEW_PROBES.get(options.effort, PROBE_KINDS),
        image_recoverers=image_recoverers(options, device=device),
        embedding_recoverers=[EmbeddingRecoverer()] if options.effort in {"standard", "full"} else [],
        attributes=parse_attributes(options.attributes),
        averaging=averaging(options),
        seed=options.seed,
        resamples=options.resamples,
        battery=load_selftest(options.battery),
        cache=Cache(options.cache),
        exclude_people=exclude_people,
        pairs=pairs,
        progress=progress,
    )


def image_probes(
    options: AuditOptions, matchers: Sequence[Matcher], probes: Sequence[GenderProbe], *, place: str = "cpu"
) -> list[RetrainedProbe]:
    """Attackers on images: shallow ones, a CNN, and with full effort pretrained networks that are taught anew.

    These are always the classifier of the package, and the given ones, or the first matcher where none is given. Networks learn at ``place``.
    """
    sent: list[RetrainedProbe] = [PixelProbe()]
    if options.effort != "demo":
        sent.append(HOGProbe())
    if options.effort != "quick":
        sent.append(CNNProbe(epochs=options.cnn_epochs, place=place))
    if options.effort == "full":
        given = {m.fingerprint: m for m in (load_gender_probe("bundled:gender"), *(probes or matchers[:1]))}
        sent += [
            FineTunedProbe(m.name, partial(_trainable, m), m.fingerprint, place=place) for m in given.values()
        ]
    return sent


def _trainable(model: GenderProbe | Matcher) -> nn.Module:
    """A fresh copy of a model, which starts from its pretrained weights."""
    fresh = copy.deepcopy(model)
    return _MaleLogit(fresh) if isinstance(fresh, GenderProbe) else fresh


class _MaleLogit(nn.Module):
    """A gender classifier as one number an image."""

    def __init__(self, classifier: GenderProbe) -> None:
        super().__init__()
        classifier(torch.zeros(1, 3, FRAME, FRAME))  # an ONNX file becomes a torch network on first use
        self.classifier = classifier

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.classifier.logit(images)[:, None]


def image_recoverers(options: AuditOptions, *, device: Device | None = None) -> list[Recoverer]:
    """Attackers who turn protected images back first."""
    if options.effort != "full":
        return []
    if options.recoverer is None:
        return [ImageRecoverer(device=device)]
    config = variant(options.recoverer)  # refused here and not after an hour
    name = f"{options.recoverer} autoencoder"
    return [ImageRecoverer(make=partial(_FamilyRecoverer, config), name=name, device=device)]


class _FamilyRecoverer(nn.Module):
    """An autoencoder of the family that learns the way from protected to original photos."""

    def __init__(self, config: AutoencoderConfig, side: int) -> None:
        super().__init__()
        multiple = 2**config.depth if config.architecture == "convolutional" else 1
        self._side = side + -side % multiple
        self.network = Autoencoder(config.changed(shape=(3, self._side, self._side), output="sigmoid"))
        self.penalty: torch.Tensor | float = 0.0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        height, width = images.shape[2:]
        padded = nn.functional.pad(images, (0, self._side - width, 0, self._side - height), mode="replicate")
        passed = self.network.learn(padded)
        self.penalty = self.network.code.weight * self.network.cost(passed)
        return passed.output[..., :height, :width]


def averaging(options: AuditOptions) -> Averaging:
    """Who averages the draws of a randomised protection: the shallow attackers, and with full effort the CNN."""
    shallow = Averaging()
    return replace(shallow, probes=(*shallow.probes, "cnn")) if options.effort == "full" else shallow


def self_test(out: Path, *, seed: int, made: str, progress: Progress | None = None) -> dict[str, Any]:
    """Let the attackers of a standard audit look for planted leaks; writes ``selftest.json`` into ``out``.

    ``seed`` is of data and attackers, ``made`` the date for the reports that quote the result; ``progress`` is told about every stage.
    """
    out.mkdir(parents=True, exist_ok=True)
    reached = run_selftest(
        [EmbeddingProbe(kind) for kind in PROBE_KINDS],
        [PixelProbe(), HOGProbe(), CNNProbe(epochs=8)],
        size=Size(),  # takes about twenty minutes of one core
        seed=seed,
        made=made,
        progress=progress,
    )
    write_atomic(out / "selftest.json", (json.dumps(reached, indent=1, sort_keys=True) + "\n").encode())
    return reached
