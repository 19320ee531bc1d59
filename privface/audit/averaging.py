"""The attacker who averages: of each photo there are several draws of one randomised protection.

What a draw adds by chance shrinks with the square root of the number of draws, what it leaves of the photo stays. An audit of
one draw alone would call the difference privacy.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from privface.audit.attacks import Attack
from privface.audit.probes import FittedProbe
from privface.audit.readings import Reading, leakage_difference
from privface.audit.subjects import WHITE_BOX, AuditData
from privface.errors import AuditError, ConfigError
from privface.records import Measured, Scores

if TYPE_CHECKING:
    from privface.audit.context import Context, FrozenProbe

Images: TypeAlias = NDArray[np.uint8]

Combined: TypeAlias = Literal["pixels", "scores", "embeddings"]
"""What is averaged over the draws: the images, before a probe reads them; a probe's scores; a matcher's embeddings."""


@dataclass(frozen=True)
class Averaging:
    """How an audit averages.

    Attributes:
        counts: Numbers of draws; one draw, with which the others are compared, is always among them.
        probes: Names of the retrained probes that attack again, of those that the audit has.

    Raises:
        ConfigError: If a count is below 1.
    """

    counts: tuple[int, ...] = (1, 2, 4, 8)
    probes: tuple[str, ...] = ("pixel-svm", "hog-svm", "logistic", "rbf-svm")

    def __post_init__(self) -> None:
        if min(self.counts, default=0) < 1:
            raise ConfigError(
                f"Averaging over {self.counts} draws: every number must be 1 or more.", hint="1, 2, 4, 8."
            )

    def of(self, available: int) -> tuple[int, ...]:
        """The counts that can be taken where so many draws are there; their own number where that is below the largest."""
        within = {count for count in self.counts if count <= available}
        return tuple(sorted({1, min(available, max(self.counts))} | within))


class _Sums:
    """What all draws so far add up to, where every draw has a face (``ok``)."""

    def __init__(self, context: Context, data: AuditData, ok: NDArray[np.bool_]) -> None:
        self._context, self._attacks, self._data, self._ok = context, context.attacks, data, ok
        self._frozen = list(zip(context.frozen, context.settings.frozen_probes, strict=True))
        self._retrained = [  # there is one code of a photo, however many faces are drawn from it
            item
            for item in context.plain
            if item[1].name in context.settings.averaging.probes and item[2].medium != WHITE_BOX
        ]
        self._pixels = np.zeros(data.protected.shape, np.uint32)
        self._embeddings: dict[str, NDArray[np.float64]] = {}
        self._scores: dict[tuple[str, str], Scores] = {}

    @property
    def plain(self) -> list[Reading]:
        """What each attacker reads from the first draw."""
        return [*(reading for reading, _ in self._frozen), *(item[0] for item in self._retrained)]

    @cached_property
    def _fitted(self) -> dict[str, FittedProbe]:
        protected, ok = self._data.protected, self._ok
        return {
            probe.name: self._attacks.fitted(Attack(probe, protected, ok), title=f"{probe.name} on one draw")
            for _, probe, view in self._retrained
            if view.medium == "image"
        }

    def _read(self, probe: FrozenProbe, images: Images) -> Scores:
        return self._context.frozen_scores(probe, images, self._ok & ~self._context.people.train)

    def add(self, images: Images) -> None:
        """One more draw, uint8 ``(N, H, W, 3)``."""
        self._pixels += images
        for matcher in self._context.settings.matchers:
            source = f"embedding:{matcher.name}"
            found = self._context.embed(matcher, images, self._ok, "draw").astype(np.float64)
            self._embeddings[source] = self._embeddings.get(source, 0.0) + found
        scored = {
            ("retrained", n): self._attacks.scored(f, images, self._ok) for n, f in self._fitted.items()
        }
        scored |= {("frozen", r.probe): self._read(frozen, images) for r, frozen in self._frozen}
        for key, scores in scored.items():
            self._scores[key] = self._scores.get(key, 0.0) + scores

    def averages(self, count: int) -> list[tuple[Combined, Reading, Scores]]:
        """Scores of every attacker after ``count`` draws, with the plain reading of the same attacker."""
        found: list[tuple[Combined, Reading, Scores]] = []
        mean = np.rint(self._pixels / count).astype(np.uint8)
        for reading, frozen in self._frozen:
            found.append(("pixels", reading, np.where(self._ok, self._read(frozen, mean), np.nan)))
            found.append(("scores", reading, self._scores["frozen", reading.probe] / count))
        for reading, probe, view in self._retrained:
            title = f"{probe.name} on {view.source}, {count} draws averaged"
            if view.medium == "embedding":
                template = (self._embeddings[view.source] / count).astype(np.float32)
                ok = self._ok & np.isfinite(template).all(axis=1)
                scores = self._attacks.scores_of(Attack(probe, template, ok), title=title)
                found.append(("embeddings", reading, scores))
                continue
            scores = alone = self._scores["retrained", probe.name] / count
            if count > 1:  # one draw is its own average: the same probe on the same images
                attack = Attack(probe, mean, self._ok)
                alone = self._attacks.scores_of(attack, title=title)
            found += [("pixels", reading, alone), ("scores", reading, scores)]
        return found


def _row(reading: Reading, combined: Combined, draws: int, gain: Measured) -> dict[str, Any]:
    same = (
        "probe",
        "kind",
        "input",
        "leakage",
        "balanced_accuracy",
        "validation_leakage",
        "measurable",
        "reason",
    )
    said = reading.row()
    return {**{name: said[name] for name in same}, "combined": combined, "draws": draws, "gain": gain}


def run(context: Context) -> dict[str, Any]:
    """Section: what several draws of a randomised protection tell of gender, ``averaging`` rows; nothing where there is one draw.

    A retrained probe that reads averaged images or embeddings is trained on averages of as many draws of other people; one
    whose scores are averaged is trained on one draw of them. Draws are read one after the other and not kept.

    Raises:
        AuditError: If a draw has another shape than the first.
    """
    data, attacks = context.data, context.attacks
    if not isinstance(data, AuditData) or data.draws is None or not data.gendered:
        return {}
    draws, counts = data.draws, context.settings.averaging.of(data.draws.count)
    ok = data.enrolled_protected if draws.ok is None else data.enrolled_protected & draws.ok
    rows: list[dict[str, Any]] = []
    sums = _Sums(context, data, ok)
    if lacking := attacks.lacking(ok):
        reason = f"too few photos enrolled in every draw: no {lacking}"
        none = Measured.undefined(reason)
        for plain in sums.plain:
            combined: Combined = "pixels" if plain.source == "image" else "embeddings"
            lost = replace(plain, leakage=none, balanced_accuracy=none, measurable=False, reason=reason)
            rows.append(_row(lost, combined, counts[-1], none))
        return {"averaging": rows}
    first: dict[tuple[str, str, Combined], Reading] = {}
    for count in range(1, counts[-1] + 1):
        images = data.protected if count == 1 else draws.images(count - 1)
        if images.shape != data.protected.shape or images.dtype != np.uint8:
            raise AuditError(
                f"Draw {count} is {images.dtype} {images.shape}; the first is uint8 {data.protected.shape}.",
                hint="Give draws of the same photos, aligned to the same size.",
            )
        sums.add(images)
        context.report("average draws", count, counts[-1])
        if count not in counts:
            continue
        for combined, plain, scores in sums.averages(count):
            reading = plain  # undefined, so no other scores give figures either
            if plain.original_scores.size:
                reading = attacks.reading(plain, plain.original_scores, scores)
            one = first.setdefault((reading.probe, reading.source, combined), reading)
            gain = leakage_difference(reading, one, context.whole, context.params)
            rows.append(_row(reading, combined, count, gain))
    return {"averaging": rows}
