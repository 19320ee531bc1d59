"""The audit: two image sets with labels in, one frozen result out.

Nothing here knows how the images were protected, so any tool's output can be audited and the audit cannot
be tuned to our own.
"""

from __future__ import annotations

import hashlib
import math
import unicodedata
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from privface.audit import quality
from privface.audit.image_probe import CNNProbe
from privface.audit.intervals import BootstrapParams, people_multiplicities, percentile_interval
from privface.audit.matching import MatchingResult, choose_pairs, cohort_fnmr, enrolled, evaluate_matching
from privface.audit.probes import EmbeddingProbe, PixelProbe, ProbeKind, RetrainedProbe
from privface.audit.readings import (
    Reading,
    illusion_gap,
    leakage_within,
    take_reading,
    undefined_reading,
    worst_by_validation,
)
from privface.audit.result import SCHEMA, AuditResult
from privface.audit.verdict import write_verdict
from privface.data.splits import person_bucket
from privface.errors import AuditError, ConfigError, SplitOverlapError
from privface.images import to_unit
from privface.records import GENDERS, Embeddings, Measured, Scores

MIN_COHORT = 30
"""Photos below which a cohort is not reported."""

COHORT_FMR = 1e-2


class Embedder(Protocol):
    """A matcher, as the audit sees it."""

    @property
    def name(self) -> str:
        """Name in the report."""

    @property
    def seen(self) -> bool | None:
        """Whether the protector trained against it; ``None`` if unknown."""

    @property
    def fingerprint(self) -> str:
        """Hash of its weights."""

    def embed(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Embeddings ``(N, D)`` of float32 RGB ``(N, 3, H, W)`` in [0, 1]; a row of NaN failed to enrol."""


class FrozenProbe(Protocol):
    """A gender classifier off the shelf, as the audit sees it."""

    @property
    def name(self) -> str:
        """Name in the report."""

    @property
    def seen(self) -> bool | None:
        """Whether the protector trained against it; ``None`` if unknown."""

    @property
    def fingerprint(self) -> str:
        """Hash of its weights."""

    def male_scores(self, images: NDArray[np.float32]) -> NDArray[np.float64]:
        """Scores ``(N,)``, higher is more male, of float32 RGB ``(N, 3, H, W)`` in [0, 1]."""


@dataclass(frozen=True)
class AuditData:
    """The photos before and after, row by row.

    Attributes:
        original: uint8 RGB, shape ``(N, H, W, 3)``, aligned faces.
        protected: The same photos protected, same shape.
        enrolled_original: Where a face was found in the original, shape ``(N,)``; other rows are not read.
        enrolled_protected: Where there is a protected photo with a face in it, shape ``(N,)``.
        files: Keys of the photos.
        identities: Who is on each photo, shape ``(N,)``.
        genders: 0 (female) or 1 (male), shape ``(N,)``.
        cohorts: Further labels by column, each of shape ``(N,)``; an empty text is no label.
        name: Name in the report.
    """

    original: NDArray[np.uint8]
    protected: NDArray[np.uint8]
    enrolled_original: NDArray[np.bool_]
    enrolled_protected: NDArray[np.bool_]
    files: tuple[str, ...]
    identities: NDArray[np.str_]
    genders: NDArray[np.int64]
    cohorts: Mapping[str, NDArray[np.str_]] = field(default_factory=dict)
    name: str = "faces"

    def __len__(self) -> int:
        return len(self.files)

    def check(self) -> None:
        """Refuse sets that do not fit together.

        Raises:
            AuditError: If shapes, types or label values are wrong, or a gender is missing.
        """
        count = len(self.files)
        for title, images in (("original", self.original), ("protected", self.protected)):
            if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3 or len(images) != count:
                raise AuditError(
                    f"The {title} images are {images.dtype} {images.shape}; {count} files need uint8"
                    f" ({count}, H, W, 3).",
                    hint="Give one aligned RGB crop per file.",
                )
        if self.original.shape != self.protected.shape:
            raise AuditError(
                f"Original images {self.original.shape} and protected images {self.protected.shape} differ.",
                hint="Align both sets to the same size.",
            )
        columns: dict[str, NDArray[Any]] = {
            "enrolled_original": self.enrolled_original,
            "enrolled_protected": self.enrolled_protected,
            "identities": self.identities,
            "genders": self.genders,
            **self.cohorts,
        }
        for title, column in columns.items():
            if np.shape(column) != (count,):
                raise AuditError(f"{title} has shape {np.shape(column)}; {count} files need ({count},).")
        found = sorted(set(np.asarray(self.genders).tolist()))
        if found != [0, 1]:
            raise AuditError(
                f"The genders are {found}; an audit of gender needs 0 (female) and 1 (male).",
                hint="Give a set with both genders.",
            )


@dataclass(frozen=True)
class _People:
    """Which rows train the attacker, choose its settings and are its victims."""

    train: NDArray[np.bool_]
    val: NDArray[np.bool_]
    test: NDArray[np.bool_]


class Auditor:
    """Measures what a protection hides and what it keeps.

    Each retrained probe is trained twice: on the originals of the attacker's people, to prove that it can
    read gender, and on their protected photos. Both are scored on people that neither has met.

    Args:
        matchers: Comparators; at least one should not have been seen in training.
        frozen_probes: Gender classifiers that do not adapt.
        image_probes: Whether to train a CNN and a pixel SVM on the images.
        embedding_probes: Probes to train on every matcher's embeddings.
        shares: Shares of people that train probes, choose settings and are scored; they sum to 1.
        seed: Seed of everything random.
        resamples: Bootstrap resamples of people.
        cnn_epochs: Epochs of the CNN probe.
        cnn_width: Width of the CNN probe.
        batch_size: Images handed to matchers and probes at a time.
        max_impostors: Cap of impostor pairs.
        max_leakage: Leakage above which the verdict is that gender leaks.
        max_tmr_loss: Loss of TMR at FMR 1e-2, P-P against O-O, above which matching counts as lost.
        progress: Called with (stage, done, total).
        exclude_people: Identities that trained the protector; meeting one is an error.

    Raises:
        ConfigError: If a setting is out of range or two parts have the same name.
    """

    def __init__(
        self,
        *,
        matchers: Sequence[Embedder] = (),
        frozen_probes: Sequence[FrozenProbe] = (),
        image_probes: bool = True,
        embedding_probes: Sequence[ProbeKind] = ("logistic", "rbf-svm", "mlp"),
        shares: tuple[float, float, float] = (0.5, 0.15, 0.35),
        seed: int = 0,
        resamples: int = 1000,
        cnn_epochs: int = 14,
        cnn_width: int = 8,
        batch_size: int = 64,
        max_impostors: int = 2_000_000,
        max_leakage: float = 0.60,
        max_tmr_loss: float = 0.10,
        progress: Callable[[str, int, int], None] | None = None,
        exclude_people: Collection[str] = (),
    ) -> None:
        if len(shares) != 3 or min(shares) <= 0 or not math.isclose(sum(shares), 1.0, abs_tol=1e-6):
            raise ConfigError(f"shares are {shares}; they must be three positive numbers that sum to 1.")
        if batch_size < 1 or cnn_epochs < 1 or cnn_width < 1:
            raise ConfigError(
                f"batch_size {batch_size}, cnn_epochs {cnn_epochs} or cnn_width {cnn_width} is below 1."
            )
        for title, parts in (("matchers", matchers), ("frozen probes", frozen_probes)):
            names = [part.name for part in parts]
            if len(set(names)) != len(names):
                raise ConfigError(f"Two {title} share a name: {names}.", hint="Name them apart.")
        self._matchers = tuple(matchers)
        self._frozen = tuple(frozen_probes)
        self._image_probes = image_probes
        self._embedding_probes = tuple(EmbeddingProbe(kind) for kind in embedding_probes)
        self._shares = tuple(float(share) for share in shares)
        self._seed = seed
        self._params = BootstrapParams(resamples=resamples, seed=seed)
        self._cnn = (cnn_epochs, cnn_width)
        self._batch_size = batch_size
        self._max_impostors = max_impostors
        self._limits = (max_leakage, max_tmr_loss)
        self._progress = progress
        self._excluded = frozenset(_person_key(person) for person in exclude_people)

    def run(self, data: AuditData) -> AuditResult:
        """Audit one pair of image sets.

        On the CPU, the same data, settings and library versions give the same bytes.

        Raises:
            AuditError: If the sets do not fit together, or there are too few people to train an attacker.
            SplitOverlapError: If a person trained the protector.
        """
        data.check()
        self._refuse_overlap(data)
        people = self._split(data)
        embeddings = {
            m.name: (self._embed(m, data, "original"), self._embed(m, data, "protected"))
            for m in self._matchers
        }
        matching = self._match(data, embeddings)
        readings = self._read_frozen(data, people) + self._read_retrained(data, people, embeddings)
        retrained = [r for r in readings if r.kind == "retrained"]
        worst = worst_by_validation(retrained)
        worst_frozen = worst_by_validation([r for r in readings if r.kind == "frozen"])
        document: dict[str, Any] = {
            "schema": SCHEMA,
            "data": self._describe(data, people),
            "provenance": self._provenance(),
            "matching": [_matching_row(row) for row in matching],
            "leakage": [reading.row() for reading in readings],
            "worst_retrained": _worst_row(worst, "retrained"),
            "worst_upper": _upper_row(retrained),
            "worst_frozen": _worst_row(worst_frozen, "frozen"),
            "illusion_gap": illusion_gap(worst, worst_frozen, data.identities, data.genders, self._params),
            "quality": self._quality(data),
            "cohorts": self._cohorts(data, embeddings, worst),
            "curves": {"det": [_det_row(row) for row in matching if row.det is not None]},
        }
        document["verdict"] = write_verdict(
            document, max_leakage=self._limits[0], max_tmr_loss=self._limits[1]
        )
        return AuditResult(document)

    def _report(self, stage: str, done: int, total: int) -> None:
        if self._progress is not None:
            self._progress(stage, done, total)

    def _refuse_overlap(self, data: AuditData) -> None:
        shared = sorted({str(i) for i in data.identities if _person_key(str(i)) in self._excluded})
        if shared:
            raise SplitOverlapError(
                f"{len(shared)} audited people trained the protector, none may: {', '.join(shared[:5])}.",
                hint="Audit people that the protector has not met.",
            )

    def _split(self, data: AuditData) -> _People:
        salt = f"privface.audit/{self._seed}"
        names, inverse = np.unique(data.identities, return_inverse=True)
        bucket = np.array([person_bucket(str(name), salt=salt) for name in names])[inverse]
        first, second = self._shares[0], self._shares[0] + self._shares[1]
        people = _People(bucket < first, (bucket >= first) & (bucket < second), bucket >= second)
        for title, part in (("train", people.train), ("validation", people.val), ("test", people.test)):
            for label, gender in enumerate(GENDERS):
                count = len(np.unique(data.identities[part & (data.genders == label)]))
                if count < 2:
                    raise AuditError(
                        f"The attacker's {title} part has {count} {gender} people, {len(names)} people"
                        " are in the set; it needs two of each gender.",
                        hint="Audit more people, or change the seed or the shares.",
                    )
        return people

    def _embed(self, matcher: Embedder, data: AuditData, side: str) -> Embeddings:
        images = data.original if side == "original" else data.protected
        ok = data.enrolled_original if side == "original" else data.enrolled_protected
        rows = np.flatnonzero(ok)
        parts = []
        for start in range(0, rows.size, self._batch_size):
            batch = rows[start : start + self._batch_size]
            part = np.asarray(matcher.embed(to_unit(images[batch])), np.float32)
            if part.ndim != 2 or len(part) != len(batch):
                raise AuditError(
                    f"Matcher {matcher.name} gave embeddings of shape {part.shape} for {len(batch)} images.",
                    hint="embed must return one row per image.",
                )
            parts.append(part)
            self._report(f"embed {side} with {matcher.name}", start + len(batch), rows.size)
        if not parts:
            raise AuditError(
                f"No {side} photo is enrolled, so there is nothing to match.", hint="Check the faces."
            )
        found = np.concatenate(parts)
        out = np.full((len(data), found.shape[1]), np.nan, np.float32)
        out[rows] = found
        out[~enrolled(out)] = np.nan  # an infinite or null vector describes no face either
        return out

    def _match(
        self, data: AuditData, embeddings: Mapping[str, tuple[Embeddings, Embeddings]]
    ) -> list[MatchingResult]:
        rows: list[MatchingResult] = []
        for matcher in self._matchers:
            original, protected = embeddings[matcher.name]
            rows += evaluate_matching(
                original,
                protected,
                data.identities,
                data.genders,
                matcher=matcher.name,
                seen=matcher.seen,
                params=self._params,
                max_impostors=self._max_impostors,
                seed=self._seed,
                progress=lambda done, total, name=matcher.name: self._report(
                    f"match with {name}", done, total
                ),  # type: ignore[misc]
            )
        return rows

    def _read_frozen(self, data: AuditData, people: _People) -> list[Reading]:
        readings = []
        for probe in self._frozen:
            original = self._frozen_scores(probe, data.original, data.enrolled_original & ~people.train)
            protected = self._frozen_scores(probe, data.protected, data.enrolled_protected & ~people.train)
            readings.append(
                take_reading(
                    probe=probe.name,
                    kind="frozen",
                    source="image",
                    seen=probe.seen,
                    original=original,
                    protected=protected,
                    val=people.val,
                    test=people.test,
                    identities=data.identities,
                    genders=data.genders,
                    params=self._params,
                )
            )
        return readings

    def _frozen_scores(self, probe: FrozenProbe, images: NDArray[np.uint8], ok: NDArray[np.bool_]) -> Scores:
        out = np.full(len(images), np.nan)
        rows = np.flatnonzero(ok)
        for start in range(0, rows.size, self._batch_size):
            batch = rows[start : start + self._batch_size]
            scores = np.asarray(probe.male_scores(to_unit(images[batch])), np.float64)
            if scores.shape != (len(batch),):
                raise AuditError(
                    f"Probe {probe.name} gave scores of shape {scores.shape} for {len(batch)} images.",
                    hint="male_scores must return one number per image.",
                )
            out[batch] = scores
            self._report(f"read with {probe.name}", start + len(batch), rows.size)
        return out

    def _read_retrained(
        self, data: AuditData, people: _People, embeddings: Mapping[str, tuple[Embeddings, Embeddings]]
    ) -> list[Reading]:
        readings = []
        for matcher in self._matchers:
            original, protected = embeddings[matcher.name]
            sides = ((original, enrolled(original)), (protected, enrolled(protected)))
            for number, probe in enumerate(self._embedding_probes):
                source = f"embedding:{matcher.name}"
                readings.append(self._retrain(probe, sides, data, people, source=source, seen=matcher.seen))
                self._report(f"train probes on {matcher.name}", number + 1, len(self._embedding_probes))
        if self._image_probes:
            sides_ = ((data.original, data.enrolled_original), (data.protected, data.enrolled_protected))
            epochs, width = self._cnn
            cnn = CNNProbe(
                epochs=epochs,
                width=width,
                progress=lambda done, total: self._report("train CNN", done, total),
            )
            readings += [
                self._retrain(image_probe, sides_, data, people, source="image", seen=False)
                for image_probe in (PixelProbe(), cnn)
            ]
        return readings

    def _retrain(
        self,
        probe: RetrainedProbe,
        sides: tuple[tuple[NDArray[Any], NDArray[np.bool_]], tuple[NDArray[Any], NDArray[np.bool_]]],
        data: AuditData,
        people: _People,
        *,
        source: str,
        seen: bool | None,
    ) -> Reading:
        scored = []
        for (features, ok), side in zip(sides, ("original", "protected"), strict=True):
            lacking = _lacking(data.genders, ok, people)
            if lacking is not None:
                reason = f"too few {side} photos enrolled: no {lacking}"
                return undefined_reading(
                    probe=probe.name, kind="retrained", source=source, seen=seen, reason=reason
                )
            train, val, rest = ok & people.train, ok & people.val, ok & ~people.train
            fitted = probe.fit(
                features[train],
                data.genders[train],
                data.identities[train],
                features[val],
                data.genders[val],
                seed=self._seed,
            )
            scores = np.full(len(data), np.nan)
            scores[rest] = fitted.scores(features[rest])
            scored.append(scores)
        return take_reading(
            probe=probe.name,
            kind="retrained",
            source=source,
            seen=seen,
            original=scored[0],
            protected=scored[1],
            val=people.val,
            test=people.test,
            identities=data.identities,
            genders=data.genders,
            params=self._params,
        )

    def _quality(self, data: AuditData) -> dict[str, Any]:
        both = np.flatnonzero(data.enrolled_original & data.enrolled_protected)
        if not both.size:
            none = Measured.undefined("no photo is enrolled on both sides")
            return {"psnr": none, "ssim": none, "identical_images": 0}
        a, b = data.original[both], data.protected[both]
        same = np.array([np.array_equal(x, y) for x, y in zip(a, b, strict=True)])
        people = data.identities[both]
        decibels = self._mean(quality.psnr(a, b)[~same], people[~same], "no photo was changed")
        if min(a.shape[1:3]) < 11:
            similarity = Measured.undefined("the images are smaller than SSIM's window of 11 pixels")
        else:
            similarity = self._mean(quality.ssim(a, b), people, "no photos")
        # PSNR of an unchanged photo is infinite, so they are counted instead of averaged
        return {"psnr": decibels, "ssim": similarity, "identical_images": int(same.sum())}

    def _mean(self, values: NDArray[np.float64], people: NDArray[np.str_], reason: str) -> Measured:
        if not values.size:
            return Measured.undefined(reason)
        _, person = np.unique(people, return_inverse=True)
        draws = people_multiplicities(int(person.max()) + 1, self._params)
        means = (draws @ np.bincount(person, values)) / (draws @ np.bincount(person))
        interval = percentile_interval(means, self._params.level)
        return Measured(float(values.mean()), interval.low, interval.high, int(values.size))

    def _cohorts(
        self,
        data: AuditData,
        embeddings: Mapping[str, tuple[Embeddings, Embeddings]],
        worst: Reading | None,
    ) -> list[dict[str, Any]]:
        columns = {"gender": np.array(GENDERS)[data.genders], **data.cohorts}
        fnmr = self._cohort_matching(data, embeddings)
        rows = []
        for cohort, column in columns.items():
            for value in sorted(set(column.tolist()) - {""}):
                inside = column == value
                if inside.sum() < MIN_COHORT:
                    continue
                row: dict[str, Any] = {"cohort": cohort, "value": value, "n": int(inside.sum())}
                row.update(fnmr.row(inside, self._params))
                row["leakage"] = leakage_within(
                    worst,
                    inside,
                    data.identities,
                    data.genders,
                    self._params,
                    gender_cohort=cohort == "gender",
                )
                rows.append(row)
        return rows

    def _cohort_matching(
        self, data: AuditData, embeddings: Mapping[str, tuple[Embeddings, Embeddings]]
    ) -> _CohortMatching:
        if not self._matchers:
            return _CohortMatching(None, None, None, None, None, "no matcher was audited")
        matcher = next((m for m in self._matchers if m.seen is False), self._matchers[0])
        original, protected = embeddings[matcher.name]
        pairs = choose_pairs(data.identities, max_impostors=self._max_impostors, seed=self._seed)
        _, person = np.unique(data.identities, return_inverse=True)
        before = cohort_fnmr(original, original, pairs, person, fmr=COHORT_FMR)
        after = cohort_fnmr(protected, protected, pairs, person, fmr=COHORT_FMR)
        if before is None or after is None:
            reason = f"too few genuine or impostor pairs for FMR {COHORT_FMR:g}"
            return _CohortMatching(matcher.name, None, None, None, None, reason)
        return _CohortMatching(
            matcher.name, pairs.genuine, person[pairs.genuine[:, 0]], before[0], after[0], None
        )

    def _describe(self, data: AuditData, people: _People) -> dict[str, Any]:
        names = data.identities
        digest = hashlib.blake2b(digest_size=16)
        for array in (data.original, data.protected, data.genders.astype(np.int64)):
            digest.update(np.ascontiguousarray(array).tobytes())
        digest.update("\0".join([*data.files, *names.tolist()]).encode("utf-8", "surrogateescape"))
        parts = {"train": people.train, "val": people.val, "test": people.test}
        return {
            "name": data.name,
            "images": len(data),
            "people": len(np.unique(names)),
            "female": int((data.genders == 0).sum()),
            "male": int((data.genders == 1).sum()),
            "female_people": len(np.unique(names[data.genders == 0])),
            "male_people": len(np.unique(names[data.genders == 1])),
            "enrolled_original": int(data.enrolled_original.sum()),
            "enrolled_protected": int(data.enrolled_protected.sum()),
            "attacker_people": {title: len(np.unique(names[part])) for title, part in parts.items()},
            "fingerprint": digest.hexdigest(),
        }

    def _provenance(self) -> dict[str, Any]:
        libraries = ("numpy", "scipy", "scikit-learn", "opencv-python-headless", "torch")
        settings = {
            "shares": list(self._shares),
            "resamples": self._params.resamples,
            "level": self._params.level,
            "image_probes": self._image_probes,
            "embedding_probes": [probe.name for probe in self._embedding_probes],
            "cnn_epochs": self._cnn[0],
            "cnn_width": self._cnn[1],
            "batch_size": self._batch_size,
            "max_impostors": self._max_impostors,
            "max_leakage": self._limits[0],
            "max_tmr_loss": self._limits[1],
            "excluded_people": len(self._excluded),
        }
        return {
            "privface": _version("privface"),
            "libraries": {name: _version(name) for name in libraries},
            "seed": self._seed,
            "settings": settings,
            "matchers": [
                {"name": m.name, "seen": m.seen, "fingerprint": m.fingerprint} for m in self._matchers
            ],
            "probes": [{"name": p.name, "seen": p.seen, "fingerprint": p.fingerprint} for p in self._frozen],
        }


@dataclass(frozen=True)
class _CohortMatching:
    """Which genuine pairs fail before and after protection, at one threshold each for everybody."""

    matcher: str | None
    pairs: NDArray[np.int64] | None
    person: NDArray[np.int64] | None
    before: NDArray[np.bool_] | None
    after: NDArray[np.bool_] | None
    reason: str | None

    def row(self, inside: NDArray[np.bool_], params: BootstrapParams) -> dict[str, Any]:
        """FNMR before, after and their ratio for the genuine pairs whose both photos are in a cohort."""
        base = {"matcher": self.matcher, "fmr": COHORT_FMR}
        if self.pairs is None or self.person is None or self.before is None or self.after is None:
            none = Measured.undefined(self.reason or "not measured")
            return {**base, "fnmr_before": none, "fnmr_after": none, "ratio": none}
        kept = inside[self.pairs].all(axis=1)
        if not kept.any():
            none = Measured.undefined("no genuine pair in this cohort")
            return {**base, "fnmr_before": none, "fnmr_after": none, "ratio": none}
        names, person = np.unique(self.person[kept], return_inverse=True)
        draws = people_multiplicities(len(names), params)
        total = draws @ np.bincount(person)
        lost = [draws @ np.bincount(person, side[kept]) for side in (self.before, self.after)]
        n = int(kept.sum())

        def figure(value: float, draw: NDArray[np.float64]) -> Measured:
            interval = percentile_interval(draw, params.level)
            return Measured(value, interval.low, interval.high, n)

        before, after = (float(side[kept].mean()) for side in (self.before, self.after))
        with np.errstate(divide="ignore", invalid="ignore"):
            ratios = lost[1] / lost[0]
        ratio = Measured.undefined("no false non-match before protection", n=n)
        if before > 0:
            ratio = figure(after / before, np.where(np.isfinite(ratios), ratios, np.nan))
            if math.isnan(ratio.low):
                ratio = Measured(ratio.value, n=n, reason="too few false non-matches before for an interval")
        return {
            **base,
            "fnmr_before": figure(before, lost[0] / total),
            "fnmr_after": figure(after, lost[1] / total),
            "ratio": ratio,
        }


def _person_key(identity: str) -> str:
    return unicodedata.normalize("NFKC", identity).casefold().strip()


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "not installed"


def _lacking(genders: NDArray[np.int64], ok: NDArray[np.bool_], people: _People) -> str | None:
    for title, part in (("training", people.train), ("validation", people.val), ("test", people.test)):
        for label, gender in enumerate(GENDERS):
            if not (ok & part & (genders == label)).any():
                return f"{gender} {title} photo"
    return None


def _matching_row(row: MatchingResult) -> dict[str, Any]:
    return {
        "matcher": row.matcher,
        "seen": row.seen,
        "mode": row.mode,
        "impostors": row.impostors,
        "genuine_pairs": row.genuine_pairs,
        "impostor_pairs": row.impostor_pairs,
        "impostors_possible": row.impostors_possible,
        "eer": row.eer,
        "auc": row.auc,
        "d_prime": row.d_prime,
        "tmr": {f"{fmr:.4f}".rstrip("0"): figure for fmr, figure in row.tmr.items()},
        "fte": row.fte,
    }


def _det_row(row: MatchingResult) -> dict[str, Any]:
    curve = row.det
    return {
        "matcher": row.matcher,
        "mode": row.mode,
        "impostors": row.impostors,
        "fmr": [] if curve is None else curve.fmr,
        "fnmr": [] if curve is None else curve.fnmr,
    }


def _worst_row(reading: Reading | None, kind: str) -> dict[str, Any]:
    if reading is None:
        reason = f"no {kind} probe of this battery reads the originals at AUC 0.90 or more"
        return {"probe": None, "input": None, "seen": None, "leakage": Measured.undefined(reason)}
    return {
        "probe": reading.probe,
        "input": reading.source,
        "seen": reading.seen,
        "leakage": reading.leakage,
        "auc": reading.auc,
        "chosen_by": "leakage on validation people",
    }


def _upper_row(readings: Sequence[Reading]) -> dict[str, Any]:
    known = [r for r in readings if not math.isnan(r.leakage.high)]
    if not known or not any(r.measurable for r in readings):
        return _worst_row(None, "retrained")
    top = max(known, key=lambda r: r.leakage.high)
    figure = Measured(top.leakage.high, top.leakage.low, top.leakage.high, top.leakage.n)
    return {"probe": top.probe, "input": top.source, "seen": top.seen, "leakage": figure}
