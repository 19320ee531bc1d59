"""The audit: two sets of images or embeddings with labels in, one frozen result out.

Nothing here knows how the data were protected, so any tool's output can be audited and the audit cannot
be tuned to our own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from privface.audit import quality
from privface.audit.attacks import Attacks, library_versions, set_attack
from privface.audit.averaging import Attackers, Averaging, averaging_rows
from privface.audit.cache import Cache
from privface.audit.cohorts import cohort_rows, match_cohorts
from privface.audit.image_probe import CNNProbe
from privface.audit.information import pic, privacy_gain, suppression_rate
from privface.audit.intervals import BootstrapParams, people_multiplicities, percentile_interval
from privface.audit.irreversibility import irreversibility_row
from privface.audit.matching import (
    MatchingResult,
    cosine_scores,
    enrolled,
    evaluate_matching,
    fold_accuracy,
)
from privface.audit.picture_probes import PixelProbe
from privface.audit.probes import PROBE_KINDS, EmbeddingProbe, ProbeKind, RetrainedProbe
from privface.audit.readings import (
    Reading,
    illusion_gap,
    leakage_difference,
    take_reading,
    worst_by_validation,
)
from privface.audit.recovery import Recoverer
from privface.audit.result import SCHEMA, AuditResult
from privface.audit.subjects import SHARES, WHITE_BOX, AuditData, EmbeddingData, People, Subjects, View
from privface.audit.unlinkability import unlinkability_row
from privface.audit.verdict import write_verdict
from privface.data.pairs import FoldedPairs
from privface.data.splits import person_key
from privface.errors import AuditError, ConfigError, SplitOverlapError
from privface.images import to_unit
from privface.records import Embeddings, Measured, Scores


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
        """Changes whenever its answers change; cached answers go by it."""

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
        """Changes whenever its answers change; cached answers go by it."""

    def male_scores(self, images: NDArray[np.float32]) -> NDArray[np.float64]:
        """Scores ``(N,)``, higher is more male, of float32 RGB ``(N, 3, H, W)`` in [0, 1]."""


class Auditor:
    """Measures what a protection hides and what it keeps.

    Each retrained probe is trained twice: on the originals of the attacker's people, to prove that it can
    read gender, and on their protected versions. Both are scored on people that neither has met. The worst
    probe, chosen on validation people, then attacks again: after a learned inversion of the protection, with
    several photos of a person, and with few labels. Where the protection is randomised, some attack the average of several draws.

    Args:
        matchers: Comparators of images; at least one should not have been seen in training.
        frozen_probes: Gender classifiers that do not adapt.
        image_probes: Attackers trained on the images; none to leave them out.
        embedding_probes: Attackers trained on every matcher's embeddings, or names of them.
        image_recoverers: Attackers who first learn to turn protected images back.
        embedding_recoverers: The same for embeddings.
        set_sizes: Photos of one person over which the worst probe's scores are averaged.
        label_budgets: Numbers of labelled people that the worst probe is given.
        averaging: How draws of a randomised protection are averaged, where the data have any.
        shares: Shares of people that train probes, choose settings and are scored; they sum to 1.
        seed: Seed of everything random.
        resamples: Bootstrap resamples of people.
        batch_size: Images handed to matchers and probes at a time.
        max_impostors: Impostor pairs up to which all scores are kept at once.
        max_leakage: Leakage above which the verdict is that gender leaks.
        max_tmr_loss: Loss of TMR at FMR 1e-2, P-P against O-O, above which matching counts as lost.
        pairs: A list of pairs of rows of the audited data in folds, for LFW's protocol.
        battery: Result of the battery's self-test, for the report.
        cache: Keeps embeddings and probe scores between audits.
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
        image_probes: Sequence[RetrainedProbe] = (PixelProbe(), CNNProbe()),
        embedding_probes: Sequence[ProbeKind | RetrainedProbe] = PROBE_KINDS,
        image_recoverers: Sequence[Recoverer] = (),
        embedding_recoverers: Sequence[Recoverer] = (),
        set_sizes: Sequence[int] = (2, 4, 8),
        label_budgets: Sequence[int] = (50, 200, 1000, 4000),
        averaging: Averaging | None = None,
        shares: tuple[float, float, float] = SHARES,
        seed: int = 0,
        resamples: int = 1000,
        batch_size: int = 64,
        max_impostors: int = 2_000_000,
        max_leakage: float = 0.60,
        max_tmr_loss: float = 0.10,
        pairs: FoldedPairs | None = None,
        battery: Mapping[str, Any] | None = None,
        cache: Cache | None = None,
        progress: Callable[[str, int, int], None] | None = None,
        exclude_people: Collection[str] = (),
    ) -> None:
        if len(shares) != 3 or min(shares) <= 0 or not math.isclose(sum(shares), 1.0, abs_tol=1e-6):
            raise ConfigError(f"shares are {shares}; they must be three positive numbers that sum to 1.")
        if batch_size < 1 or any(size < 2 for size in set_sizes) or any(b < 8 for b in label_budgets):
            raise ConfigError(
                f"batch_size {batch_size} must be 1 or more, set_sizes {tuple(set_sizes)} 2 or more,"
                f" label_budgets {tuple(label_budgets)} 8 or more."
            )
        trained = tuple(EmbeddingProbe(p) if isinstance(p, str) else p for p in embedding_probes)
        for title, parts in (
            ("matchers", matchers),
            ("frozen probes", frozen_probes),
            ("image probes", image_probes),
            ("embedding probes", trained),
        ):
            names = [part.name for part in parts]
            if len(set(names)) != len(names):
                raise ConfigError(f"Two {title} share a name: {names}.", hint="Name them apart.")
        self._matchers = tuple(matchers)
        self._frozen = tuple(frozen_probes)
        turning = tuple(embedding_recoverers)
        self._trained = {"image": tuple(image_probes), "embedding": trained, WHITE_BOX: trained}
        self._recoverers = {"image": tuple(image_recoverers), "embedding": turning, WHITE_BOX: turning}
        self._set_sizes = tuple(set_sizes)
        self._budgets = tuple(label_budgets)
        self._averaging = averaging or Averaging()
        self._shares = (float(shares[0]), float(shares[1]), float(shares[2]))
        self._seed = seed
        self._params = BootstrapParams(resamples=resamples, seed=seed)
        self._batch_size = batch_size
        self._max_impostors = max_impostors
        self._limits = (max_leakage, max_tmr_loss)
        self._pairs = pairs
        self._battery = battery
        self._cache = cache or Cache()
        self._progress = progress
        self._excluded = frozenset(person_key(person) for person in exclude_people)

    def run(self, data: AuditData | EmbeddingData) -> AuditResult:
        """Audit one pair of image sets or of embedding tables.

        On the CPU, the same data, settings and library versions give the same bytes.

        Raises:
            AuditError: If the sets do not fit together, or there are too few people to train an attacker.
            SplitOverlapError: If a person trained the protector.
        """
        data.check()
        whole, audited = data.with_attackers(), len(data)
        self._refuse_overlap(whole)
        people = People.split(whole, self._shares, seed=self._seed, audited=audited)
        templates = self._templates(whole)
        mine = {name: (a[:audited], b[:audited]) for name, (a, b) in templates.items()}
        views = [
            View.of_embeddings(name, *sides, seen=self._seen(data, name)) for name, sides in templates.items()
        ]
        codes = _codes(whole)
        views += [View(name, True, a, b, enrolled(a), enrolled(b)) for name, (a, b) in codes.items()]
        if isinstance(whole, AuditData) and self._trained["image"]:
            views.append(whole.view)
        matching, coded = self._match(data, mine), self._match(data, _codes(data))
        attacks = Attacks(
            whole, people, seed=self._seed, params=self._params, cache=self._cache, progress=self._progress
        )
        frozen = self._read_frozen(whole, people) if isinstance(whole, AuditData) else []
        sent = [(probe, view) for view in views for probe in self._trained[view.medium]]
        plain = []
        for number, (probe, view) in enumerate(sent):
            plain.append((attacks.retrained(probe, view), probe, view))
            self._report("train attackers", number + 1, len(sent))
        recovered, recovery, likeness = self._recover(attacks, whole, people, templates, plain, frozen)
        adaptive = [reading for reading, _, _ in plain] + recovered
        worst, worst_frozen = worst_by_validation(adaptive), worst_by_validation(frozen)
        gap = illusion_gap(worst, worst_frozen, whole.identities, whole.genders, self._params)
        document: dict[str, Any] = {
            "schema": SCHEMA,
            "mode": "images" if isinstance(data, AuditData) else "embeddings",
            "data": self._describe(data, whole, people),
            "provenance": self._provenance(data),
            "matching": [_matching_row(row) for row in (*matching, *coded)],
            "leakage": [self._leakage_row(r, (*matching, *coded)) for r in (*frozen, *adaptive)],
            "worst_retrained": _worst_row(worst, "retrained"),
            **_worst_white_box(adaptive, codes),
            "worst_upper": _upper_row(adaptive),
            "worst_frozen": _worst_row(worst_frozen, "frozen"),
            "illusion_gap": gap,
            "frozen_gaps": self._frozen_gaps(whole, frozen, worst),
            "recovery": recovery,
            **likeness,
            **self._link(data, mine),
            **self._more_data(attacks, whole, plain),
            **self._average(attacks, data, people, plain, frozen),
            "pairs_protocol": self._pairs_protocol(data, mine),
            "battery": self._battery,
            "quality": self._quality(data),
            "cohorts": self._cohorts(data, mine, worst),
            "curves": {
                "det": [_det_row(row) for row in matching if row.det is not None],
                "scores": [_histogram_row(row) for row in matching if row.histogram is not None],
            },
        }
        document["verdict"] = write_verdict(
            document, max_leakage=self._limits[0], max_tmr_loss=self._limits[1]
        )
        return AuditResult(document)

    def _report(self, stage: str, done: int, total: int) -> None:
        if self._progress is not None:
            self._progress(stage, done, total)

    def _refuse_overlap(self, data: Subjects) -> None:
        shared = sorted({str(i) for i in data.identities if person_key(str(i)) in self._excluded})
        if shared:
            raise SplitOverlapError(
                f"{len(shared)} audited people trained the protector, none may: {', '.join(shared[:5])}.",
                hint="Audit people that the protector has not met.",
            )

    def _seen(self, data: AuditData | EmbeddingData, name: str) -> bool | None:
        if isinstance(data, EmbeddingData):
            return data.seen.get(name)
        return next((m.seen for m in self._matchers if m.name == name), True)  # a code is the model's own

    def _templates(self, data: AuditData | EmbeddingData) -> dict[str, tuple[Embeddings, Embeddings]]:
        """Embeddings of both sides by matcher; rows that describe no face are NaN."""
        if isinstance(data, EmbeddingData):
            return {
                name: (_cleared(original), _cleared(protected))
                for name, (original, protected) in data.embeddings.items()
            }
        return {
            m.name: (
                self._embed(m, data.original, data.enrolled_original, "original"),
                self._embed(m, data.protected, data.enrolled_protected, "protected"),
            )
            for m in self._matchers
        }

    def _embed(
        self, matcher: Embedder, images: NDArray[np.uint8], ok: NDArray[np.bool_], side: str
    ) -> Embeddings:
        rows = np.flatnonzero(ok)
        if not rows.size:
            raise AuditError(
                f"No {side} photo is enrolled, so there is nothing to match.", hint="Check the faces."
            )

        def compute() -> dict[str, NDArray[Any]]:
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
            return {"embeddings": np.concatenate(parts)}

        key = ("embed", _answers(matcher), self._batch_size, images[rows], *library_versions().items())
        found = self._cache.arrays(key, compute)["embeddings"]
        out = np.full((len(images), found.shape[1]), np.nan, np.float32)
        out[rows] = found
        return _cleared(out)

    def _match(
        self, data: AuditData | EmbeddingData, templates: Mapping[str, tuple[Embeddings, Embeddings]]
    ) -> list[MatchingResult]:
        rows: list[MatchingResult] = []
        for name, (original, protected) in templates.items():
            rows += evaluate_matching(
                original,
                protected,
                data.identities,
                data.genders,
                matcher=name,
                seen=self._seen(data, name),
                params=self._params,
                max_impostors=self._max_impostors,
                seed=self._seed,
                progress=lambda done, total, name=name: self._report(f"match with {name}", done, total),  # type: ignore[misc]
            )
        return rows

    def _pairs_protocol(
        self, data: Subjects, templates: Mapping[str, tuple[Embeddings, Embeddings]]
    ) -> list[dict[str, Any]]:
        """Accuracy over the folds of a pairs list, in every mode."""
        rows: list[dict[str, Any]] = []
        if self._pairs is None:
            return rows
        for name, (original, protected) in templates.items():
            for mode, sides in (
                ("O-O", (original, original)),
                ("P-P", (protected, protected)),
                ("P-O", (protected, original)),
            ):
                if sides[0].shape[1] == sides[1].shape[1]:
                    scores = cosine_scores(*sides, self._pairs.pairs)
                    accuracy = fold_accuracy(scores, self._pairs.same, self._pairs.folds)
                    folds = len(np.unique(self._pairs.folds))
                    row = {"matcher": name, "mode": mode, "accuracy": accuracy, "folds": folds}
                    rows.append({**row, "pairs": len(scores)})
        return rows

    def _read_frozen(self, data: AuditData, people: People) -> list[Reading]:
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
        rows = np.flatnonzero(ok)

        def compute() -> dict[str, NDArray[Any]]:
            parts = [np.empty(0, np.float64)]
            for start in range(0, rows.size, self._batch_size):
                batch = rows[start : start + self._batch_size]
                scores = np.asarray(probe.male_scores(to_unit(images[batch])), np.float64)
                if scores.shape != (len(batch),):
                    raise AuditError(
                        f"Probe {probe.name} gave scores of shape {scores.shape} for {len(batch)} images.",
                        hint="male_scores must return one number per image.",
                    )
                parts.append(scores)
                self._report(f"read with {probe.name}", start + len(batch), rows.size)
            return {"scores": np.concatenate(parts)}

        key = ("read", _answers(probe), self._batch_size, images[rows], *library_versions().items())
        out = np.full(len(images), np.nan)
        out[rows] = self._cache.arrays(key, compute)["scores"]
        return out

    def _recover(
        self,
        attacks: Attacks,
        data: AuditData | EmbeddingData,
        people: People,
        templates: Mapping[str, tuple[Embeddings, Embeddings]],
        plain: Sequence[tuple[Reading, RetrainedProbe, View]],
        frozen: Sequence[Reading],
    ) -> tuple[list[Reading], list[dict[str, Any]], dict[str, Any]]:
        """Recover, then attack: on each view with the probe that is worst on it; and match what was recovered."""
        readings: list[Reading] = []
        rows: list[dict[str, Any]] = []
        likeness: list[dict[str, Any]] = []
        for reading, probe, view in _worst_by_view(plain):
            fixed = [
                (r, self._scorer(p))
                for r, p in zip(frozen, self._frozen, strict=True)
                if view.medium == "image"
            ]
            for recoverer in self._recoverers[view.medium]:
                if view.original.shape != view.protected.shape:
                    continue  # such templates are a space of their own; there is nothing to turn back into
                found, back = attacks.recovered(recoverer, view, probe, fixed)
                readings += found
                if back is not None:
                    likeness += self._compare_recovered(recoverer.name, view, back, data, people, templates)
                worst = worst_by_validation(found)
                none = Measured.undefined("no measurable probe after recovery")
                rows.append(
                    {
                        "input": view.source,
                        "recoverer": recoverer.name,
                        "probe": None if worst is None else worst.probe,
                        "plain": reading.leakage,
                        "recovered": none if worst is None else worst.leakage,
                        "gain": none
                        if worst is None
                        else leakage_difference(worst, reading, data.identities, data.genders, self._params),
                    }
                )
        return readings, rows, {"irreversibility": likeness} if likeness else {}

    def _compare_recovered(
        self,
        recoverer: str,
        view: View,
        back: NDArray[Any],
        data: AuditData | EmbeddingData,
        people: People,
        templates: Mapping[str, tuple[Embeddings, Embeddings]],
    ) -> list[dict[str, Any]]:
        """Recovered faces against originals: photos with every matcher, embeddings with their own; a code has no matcher."""
        ok = view.original_ok & view.protected_ok & people.test
        if not ok.any():
            return []
        if view.medium == "image":
            found = {m.name: self._embed(m, back, ok, "recovered") for m in self._matchers}
        elif view.medium == "embedding":
            found = {view.source.partition(":")[2]: np.where(ok[:, None], back, np.nan)}
        else:
            found = {}
        rows = []
        for number, (name, recovered) in enumerate(found.items()):
            names = {
                "input": view.source,
                "recoverer": recoverer,
                "matcher": name,
                "seen": self._seen(data, name),
            }
            row = irreversibility_row(
                *templates[name],
                recovered,
                data,
                people.test,
                names=names,
                params=self._params,
                max_impostors=self._max_impostors,
                seed=self._seed,
            )
            rows.append(row)
            self._report("match what was recovered", number + 1, len(found))
        return rows

    def _link(
        self, data: AuditData | EmbeddingData, templates: Mapping[str, tuple[Embeddings, Embeddings]]
    ) -> dict[str, Any]:
        """How surely a second protection of the same people is linked with the audited one; nothing where there is none."""
        if isinstance(data, EmbeddingData):
            second = {name: _cleared(table) for name, table in data.second.items()}
        elif data.second is not None:
            second = {m.name: self._embed(m, *data.second, "second protected") for m in self._matchers}
        else:
            second = {}
        rows = []
        for number, (name, other) in enumerate(second.items()):
            seen, first = self._seen(data, name), templates[name][1]
            rows.append(
                unlinkability_row(first, other, data.identities, matcher=name, seen=seen, params=self._params)
            )
            self._report("link two protections", number + 1, len(second))
        return {"unlinkability": rows} if rows else {}

    def _scorer(self, probe: FrozenProbe) -> Callable[[NDArray[np.uint8]], Scores]:
        return lambda images: self._frozen_scores(probe, images, np.ones(len(images), np.bool_))

    def _more_data(
        self,
        attacks: Attacks,
        data: AuditData | EmbeddingData,
        plain: Sequence[tuple[Reading, RetrainedProbe, View]],
    ) -> dict[str, Any]:
        """What more photos of a person, and fewer labels, do to the worst probe on images and on embeddings."""
        sets: list[dict[str, Any]] = []
        budget: list[dict[str, Any]] = []
        curve: list[dict[str, Any]] = []
        for medium in ("embedding", "image", WHITE_BOX):
            mine = [item for item in plain if item[2].medium == medium and item[0].measurable]
            if mine:
                reading, probe, view = max(mine, key=lambda item: item[0].val_leakage)
                sets += set_attack(reading, data, self._set_sizes, seed=self._seed, params=self._params)
                rows, last = attacks.label_budget(probe, view, self._budgets)
                budget, curve = budget + rows, curve + last
        return {"set_attack": sets, "label_budget": budget, "learning_curve": curve}

    def _average(
        self,
        attacks: Attacks,
        data: AuditData | EmbeddingData,
        people: People,
        plain: Sequence[tuple[Reading, RetrainedProbe, View]],
        frozen: Sequence[Reading],
    ) -> dict[str, Any]:
        """What several draws of a randomised protection tell; nothing where there is one draw."""
        if isinstance(data, EmbeddingData) or data.draws is None:
            return {}
        ok = data.enrolled_protected
        if data.draws.ok is not None:
            ok = ok & data.draws.ok

        def embedder(matcher: Embedder) -> Callable[[NDArray[np.uint8]], Embeddings]:
            return lambda images: self._embed(matcher, images, ok, "draw")

        def reader(probe: FrozenProbe) -> Callable[[NDArray[np.uint8]], Scores]:
            return lambda images: self._frozen_scores(probe, images, ok & ~people.train)

        attackers = Attackers(
            retrained=[  # there is one code of a photo, however many faces are drawn from it
                item
                for item in plain
                if item[1].name in self._averaging.probes and item[2].medium != WHITE_BOX
            ],
            frozen=[(r, reader(p)) for r, p in zip(frozen, self._frozen, strict=True)],
            embed={f"embedding:{m.name}": embedder(m) for m in self._matchers},
        )
        return {"averaging": averaging_rows(attacks, data, data.draws, attackers, self._averaging)}

    def _frozen_gaps(
        self, data: Subjects, frozen: Sequence[Reading], worst: Reading | None
    ) -> dict[str, Any]:
        """The illusion gap against probes that the protector met and against those it did not."""
        gaps: dict[str, Any] = {}
        for title, seen in (("seen", True), ("unseen", False)):
            mine = worst_by_validation([r for r in frozen if r.seen is seen])
            gaps[title] = mine and {
                "probe": mine.probe,
                "leakage": mine.leakage,
                "gap": illusion_gap(worst, mine, data.identities, data.genders, self._params),
            }
        return gaps

    def _leakage_row(self, reading: Reading, matching: Sequence[MatchingResult]) -> dict[str, Any]:
        """A reading's row with the ratios that papers give; on images, recognition is that of an unseen matcher."""
        on_code = bool(_white_box(reading.source))
        mine = [
            row
            for row in matching
            if row.impostors == "all"
            and bool(_white_box(row.matcher)) == on_code
            and reading.source in ("image", row.matcher, f"embedding:{row.matcher}")
        ]
        chosen = next((row.matcher for row in mine if row.seen is False), mine[0].matcher if mine else None)
        eers = {row.mode: row.eer for row in mine if row.matcher == chosen}
        none = Measured.undefined("no matcher was audited")
        gender = (reading.original_eer, reading.eer)
        return {
            **reading.row(),
            **_white_box(reading.source),
            "privacy_gain": privacy_gain(*gender),
            "pic": pic(gender, (eers["O-O"], eers["P-P"])) if eers else none,
            "suppression_rate": suppression_rate(reading.original_accuracy, reading.balanced_accuracy),
        }

    def _quality(self, data: AuditData | EmbeddingData) -> dict[str, Any]:
        if isinstance(data, EmbeddingData):
            none = Measured.undefined("templates were audited, not images")
            return {"psnr": none, "ssim": none, "identical_images": 0}
        sizes = self._file_sizes(data)
        both = np.flatnonzero(data.enrolled_original & data.enrolled_protected)
        if not both.size:
            none = Measured.undefined("no photo is enrolled on both sides")
            return {"psnr": none, "ssim": none, "identical_images": 0, **sizes}
        a, b = data.original[both], data.protected[both]
        same = np.array([np.array_equal(x, y) for x, y in zip(a, b, strict=True)])
        people = data.identities[both]
        decibels = self._mean(quality.psnr(a, b)[~same], people[~same], "no photo was changed")
        if min(a.shape[1:3]) < 11:
            similarity = Measured.undefined("the images are smaller than SSIM's window of 11 pixels")
        else:
            similarity = self._mean(quality.ssim(a, b), people, "no photos")
        # PSNR of an unchanged photo is infinite, so they are counted instead of averaged
        return {"psnr": decibels, "ssim": similarity, "identical_images": int(same.sum()), **sizes}

    def _file_sizes(self, data: AuditData) -> dict[str, Measured]:
        found = {}
        for title, sizes in (
            ("bytes_original", data.bytes_original),
            ("bytes_protected", data.bytes_protected),
        ):
            if sizes is not None:
                known = np.isfinite(sizes)
                found[title] = self._mean(sizes[known], data.identities[known], "no file")
        return found

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
        data: AuditData | EmbeddingData,
        templates: Mapping[str, tuple[Embeddings, Embeddings]],
        worst: Reading | None,
    ) -> list[dict[str, Any]]:
        unseen = [name for name in templates if self._seen(data, name) is False]
        name = next(iter([*unseen, *templates]), None)
        fnmr = match_cohorts(
            name,
            None if name is None else templates[name],
            data,
            max_impostors=self._max_impostors,
            seed=self._seed,
        )
        if worst is not None:  # of the audited people alone
            worst = replace(worst, scores=worst.scores[: len(data)])
        return cohort_rows(data, fnmr, worst, self._params)

    def _describe(self, data: AuditData | EmbeddingData, whole: Subjects, people: People) -> dict[str, Any]:
        names = data.identities
        sides: list[tuple[NDArray[Any], NDArray[Any]]]
        if isinstance(data, AuditData):
            sides = [(data.original, data.protected)]
            ok = (data.enrolled_original, data.enrolled_protected)
        else:
            sides = list(data.embeddings.values())
            first = next(iter(data.embeddings.values()))
            ok = (enrolled(first[0]), enrolled(first[1]))
        parts = {"train": people.train, "val": people.val, "test": people.test}
        return {
            "name": data.name,
            "images": len(data),
            "people": len(np.unique(names)),
            "female": int((data.genders == 0).sum()),
            "male": int((data.genders == 1).sum()),
            "female_people": len(np.unique(names[data.genders == 0])),
            "male_people": len(np.unique(names[data.genders == 1])),
            "enrolled_original": int(ok[0].sum()),
            "enrolled_protected": int(ok[1].sum()),
            "attacker_people": {
                title: len(np.unique(whole.identities[part])) for title, part in parts.items()
            },
            "original_fingerprint": data.digest(*(side[0] for side in sides)),
            "fingerprint": data.digest(*(array for side in sides for array in side)),
        }

    def _provenance(self, data: AuditData | EmbeddingData) -> dict[str, Any]:
        versions = library_versions()
        settings: dict[str, Any] = {
            "shares": list(self._shares),
            "resamples": self._params.resamples,
            "level": self._params.level,
            "image_probes": [probe.name for probe in self._trained["image"]],
            "embedding_probes": [probe.name for probe in self._trained["embedding"]],
            "image_recoverers": [r.name for r in self._recoverers["image"]],
            "embedding_recoverers": [r.name for r in self._recoverers["embedding"]],
            "set_sizes": list(self._set_sizes),
            "label_budgets": list(self._budgets),
            "batch_size": self._batch_size,
            "max_impostors": self._max_impostors,
            "max_leakage": self._limits[0],
            "max_tmr_loss": self._limits[1],
            "excluded_people": len(self._excluded),
        }
        if isinstance(data, AuditData) and data.draws is not None:
            settings["averaging"] = {
                "draws": list(self._averaging.of(data.draws.count)),
                "probes": list(self._averaging.probes),
            }
        matchers = [_model_row(matcher) for matcher in self._matchers]
        if isinstance(data, EmbeddingData):
            none = {"fingerprint": None, "weights_sha256": None}
            matchers = [{"name": n, "seen": data.seen.get(n), **none} for n in data.embeddings]
        return {
            "privface": versions.pop("privface"),
            "libraries": versions,
            "seed": self._seed,
            "settings": settings,
            "matchers": matchers,
            "probes": [_model_row(probe) for probe in self._frozen],
        }


def _answers(model: Embedder | FrozenProbe) -> str:
    """Names a model's answers: its fingerprint, and where it computes, if it knows."""
    return f"{model.fingerprint}{getattr(model, 'device', None) or ''}"


def _model_row(model: Embedder | FrozenProbe) -> dict[str, Any]:
    """What is said of a model; models of others need not know the hash of their weights."""
    return {
        "name": model.name,
        "seen": model.seen,
        "fingerprint": model.fingerprint,
        "weights_sha256": getattr(model, "weights_sha256", None),
    }


def _cleared(embeddings: Embeddings) -> Embeddings:
    """The same with NaN in rows that describe no face: infinite or null vectors do not either."""
    out = np.array(embeddings, np.float32)
    out[~enrolled(out)] = np.nan
    return out


def _worst_by_view(
    plain: Sequence[tuple[Reading, RetrainedProbe, View]],
) -> list[tuple[Reading, RetrainedProbe, View]]:
    found = []
    for source in dict.fromkeys(view.source for _, _, view in plain):
        mine = [item for item in plain if item[2].source == source and not math.isnan(item[0].val_leakage)]
        if mine:
            # a probe that reads originals poorly still attacks, but one that counts goes first
            found.append(max(mine, key=lambda item: (item[0].measurable, item[0].val_leakage)))
    return found


def _codes(data: Subjects) -> dict[str, tuple[Embeddings, Embeddings]]:
    """Codes before and after the eraser, by the name that their rows have."""
    codes = data.codes if isinstance(data, AuditData) else {}
    return {f"{WHITE_BOX}:{name}": (_cleared(a), _cleared(b)) for name, (a, b) in codes.items()}


def _white_box(source: str) -> dict[str, bool]:
    """The mark of a row on a code; other rows have none, so audits without a code keep their bytes."""
    return {"white_box": True} if source.startswith(f"{WHITE_BOX}:") else {}


def _matching_row(row: MatchingResult) -> dict[str, Any]:
    return {
        "matcher": row.matcher,
        **_white_box(row.matcher),
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


def _histogram_row(row: MatchingResult) -> dict[str, Any]:
    histogram = row.histogram
    if histogram is None:
        return {}
    return {
        "matcher": row.matcher,
        "mode": row.mode,
        "impostors": row.impostors,
        "edges": histogram.edges,
        "genuine": histogram.genuine,
        "impostor": histogram.impostor,
    }


def _worst_row(reading: Reading | None, kind: str) -> dict[str, Any]:
    if reading is None:
        reason = f"no {kind} probe of this battery reads the originals at AUC 0.90 or more"
        return {"probe": None, "input": None, "seen": None, "leakage": Measured.undefined(reason)}
    return {
        "probe": reading.probe,
        "input": reading.source,
        **_white_box(reading.source),
        "seen": reading.seen,
        "leakage": reading.leakage,
        "auc": reading.auc,
        "chosen_by": "leakage on validation people",
    }


def _worst_white_box(readings: Sequence[Reading], codes: Collection[str]) -> dict[str, Any]:
    """Who reads most of what read a code, where there is one; the worst retrained probe may be the same."""
    worst = worst_by_validation([reading for reading in readings if reading.source in codes])
    return {"worst_white_box": _worst_row(worst, "white-box")} if codes else {}


def _upper_row(readings: Sequence[Reading]) -> dict[str, Any]:
    known = [r for r in readings if not math.isnan(r.leakage.high)]
    if not known or not any(r.measurable for r in readings):
        return _worst_row(None, "retrained")
    top = max(known, key=lambda r: r.leakage.high)
    figure = Measured(top.leakage.high, top.leakage.low, top.leakage.high, top.leakage.n)
    return {"probe": top.probe, "input": top.source, "seen": top.seen, "leakage": figure}
