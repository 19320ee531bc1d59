"""Runs attackers on what they can see: trained on some people, tuned on others, scored on people they never met."""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privface.audit.cache import Cache
from privface.audit.intervals import BootstrapParams
from privface.audit.learning_curve import learning_curve
from privface.audit.probes import FittedProbe, RetrainedProbe
from privface.audit.readings import (
    Reading,
    leakage_difference,
    measure_leakage,
    take_reading,
    undefined_reading,
)
from privface.audit.recovery import Recoverer
from privface.audit.subjects import People, Subjects, View
from privface.records import Measured, Scores

LIBRARIES = ("numpy", "scipy", "scikit-learn", "opencv-python-headless", "torch", "torchvision")
"""What the attackers are built on; their versions are part of the provenance."""

MIN_SET_PEOPLE = 5
"""People of each gender below which a set attack is not reported."""


@dataclasses.dataclass(frozen=True)
class Attack:
    """A probe's scores of one side of a view.

    Attributes:
        scores: Male scores, shape ``(N,)``; NaN where not scored.
        setting: The hyper-parameters that won on validation people.
    """

    scores: Scores
    setting: str


class Attacks:
    """Trains attackers and takes their readings, each fit once and, with a cache, never again.

    Args:
        subjects: Labels.
        people: Who trains the attacker, who chooses its settings, who is attacked.
        seed: Seed of every attacker.
        params: Bootstrap settings.
        cache: Keeps scores between audits.
        progress: Called with (stage, done, total).
    """

    def __init__(
        self,
        subjects: Subjects,
        people: People,
        *,
        seed: int,
        params: BootstrapParams,
        cache: Cache,
        progress: Callable[[str, int, int], None] | None = None,
    ) -> None:
        self._subjects, self._people, self._seed, self._params = subjects, people, seed, params
        self._cache, self._progress = cache, progress
        self.reading = functools.partial(take_reading, subjects, people, params)

    def retrained(self, probe: RetrainedProbe, view: View) -> Reading:
        """The reading of a probe trained on each side of a view: on originals to prove itself, on protected to attack."""
        people, genders = self._people, self._subjects.genders
        sides = (
            ("original", view.original, view.original_ok),
            ("protected", view.protected, view.protected_ok),
        )
        found = []
        for side, features, ok in sides:
            lacking = people.lacking(genders, ok)
            if lacking is not None:
                reason = f"too few {side} photos enrolled: no {lacking}"
                return undefined_reading(probe.name, "retrained", view.source, view.seen, reason=reason)
            title = f"{probe.name} on {view.source}, {side}"
            found.append(self._attack(probe, features, ok, features, ok, title=title, start=view.original))
        original, protected = found
        return self.reading(
            probe=probe.name,
            kind="retrained",
            source=view.source,
            seen=view.seen,
            original=original.scores,
            protected=protected.scores,
            setting=protected.setting,
        )

    def recovered(
        self,
        view: View,
        back: NDArray[Any] | None,
        probe: RetrainedProbe,
        recoverer: str,
        frozen: Sequence[tuple[Reading, Callable[[NDArray[Any]], Scores]]] = (),
    ) -> list[Reading]:
        """Readings of what a recoverer of this name made of the protected side, as :meth:`recover` gives it.

        Attackers who read it: ``probe`` (the worst one on this view) retrained on what was recovered of the attacker's people,
        and probes of originals: the frozen ones with what scores a whole array, or on embeddings ``probe`` trained on originals.
        """
        people, both = self._people, view.original_ok & view.protected_ok
        if back is None:
            reason = f"too few photos enrolled on both sides: no {self.lacking(both)}"
            name = f"recover+{probe.name}"
            return [undefined_reading(name, "recovered", view.source, view.seen, reason=reason)]
        on_recovered = self._attack(probe, back, both, back, both, title=f"{probe.name} after recovery")
        original = self._attack(
            probe, view.original, view.original_ok, view.original, view.original_ok, title=probe.name
        )
        found = [self._recovered_reading(f"recover+{probe.name}", view, original.scores, on_recovered)]
        if view.medium != "image":  # images have frozen probes that were trained on originals
            title = f"{probe.name} of originals after recovery"
            ok = view.original_ok
            on_original = self._attack(probe, view.original, ok, back, both, title=title)
            found.append(
                self._recovered_reading(f"recover+original-{probe.name}", view, original.scores, on_original)
            )
        rest = both & ~people.train
        for reading, scorer in frozen:
            scores = np.full(len(self._subjects), np.nan)
            scores[rest] = scorer(back[rest])
            attack = Attack(scores, recoverer)
            found.append(
                self._recovered_reading(f"recover+{reading.probe}", view, reading.original_scores, attack)
            )
        return found

    def _recovered_reading(self, name: str, view: View, original: Scores, attack: Attack) -> Reading:
        return self.reading(
            probe=name,
            kind="recovered",
            source=view.source,
            seen=view.seen,
            original=original,
            protected=attack.scores,
            setting=attack.setting,
        )

    def recover(self, recoverer: Recoverer, view: View) -> NDArray[Any] | None:
        """What a recoverer fitted on pairs of the attacker's people makes of the protected side.

        Returns:
            Shape of ``view.original``, null where a side has no photo; ``None`` where too few photos are enrolled on both sides.
        """
        people, names, both = self._people, self._subjects.identities, view.original_ok & view.protected_ok
        if self.lacking(both) is not None:
            return None
        train, val, rest = both & people.train, both & people.val, both & ~people.train

        def compute() -> dict[str, NDArray[Any]]:
            recoverer_ = self._watched(recoverer, f"learn to recover {view.source}")
            fitted = recoverer_.fit(
                view.protected[train],
                view.original[train],
                names[train],
                view.protected[val],
                view.original[val],
                seed=self._seed,
            )
            return {"train": fitted.training, "rest": fitted.recover(view.protected[rest])}

        key = (
            *_key(recoverer),
            self._seed,
            view.original[train | val],
            view.protected[both],
            names[train],
            train,
            val,
        )
        parts = self._cache.arrays(key, compute)
        back = np.zeros_like(view.original)
        back[train], back[rest] = parts["train"], parts["rest"]
        return back

    def sets(self, reading: Reading, sizes: Sequence[int]) -> list[dict[str, Any]]:
        """As :func:`set_attack`, of the audited people."""
        return set_attack(reading, self._subjects, sizes, seed=self._seed, params=self._params)

    def label_budget(
        self, probe: RetrainedProbe, view: View, budgets: Sequence[int]
    ) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """What the probe reads from protected data when the attacker knows the gender of few people.

        Of a budget, some people train and some choose settings, in the proportion of the full attack. Budgets that the set does
        not have are left out, and the last row has everybody. Gives these rows, and the row of the learning curve through them.
        """
        subjects, people, ok = self._subjects, self._people, view.protected_ok
        if people.lacking(subjects.genders, ok) is not None:
            return [], []
        every = len(np.unique(subjects.identities[ok & (people.train | people.val)]))
        share = len(np.unique(subjects.identities[ok & people.train])) / every
        rows, curve = [], []
        for budget in [*(b for b in budgets if b < every), every]:
            parts = []
            for part, count in (
                (people.train, round(budget * share)),
                (people.val, budget - round(budget * share)),
            ):
                kept = self._some_people(ok & part, max(count, 4))
                parts.append(kept)
            title = f"{probe.name} with {budget} labelled people"
            attack = self._attack(
                probe,
                view.protected,
                parts[0] | parts[1],
                view.protected,
                ok,
                title=title,
                start=view.original,
            )
            known = len(np.unique(subjects.identities[parts[0] | parts[1]]))
            rows.append(
                {
                    "probe": probe.name,
                    "input": view.source,
                    "people": known,
                    "photos": int((parts[0] | parts[1]).sum()),
                    "leakage": self._leakage(attack.scores),
                }
            )
            curve.append((known, attack.scores))
        exponent, later = learning_curve(curve, subjects, people.test, self._params)
        last = {key: rows[-1][key] for key in ("probe", "input", "people", "leakage")}
        return rows, [{**last, "ten_times": later, "exponent": exponent}]

    def _some_people(self, rows: NDArray[np.bool_], count: int) -> NDArray[np.bool_]:
        """Rows of ``count`` people, half of them women where there are enough, in a fixed random order."""
        names, first = np.unique(self._subjects.identities[rows], return_index=True)
        if count >= len(names):
            return rows
        genders = self._subjects.genders[rows][first]
        order = np.random.default_rng([self._seed, 3]).permutation(len(names))
        women, men = (order[genders[order] == label] for label in (0, 1))
        half = min(count // 2, len(women))
        taken = np.concatenate([women[: max(half, count - len(men))], men[: count - half]])
        return np.asarray(rows & np.isin(self._subjects.identities, names[taken]), np.bool_)

    def _leakage(self, scores: Scores) -> Measured:
        subjects = self._subjects
        rows = self._people.test & ~np.isnan(scores)
        if len(np.unique(subjects.genders[rows])) < 2:
            return Measured.undefined("a gender is missing among the scored test photos", n=int(rows.sum()))
        return measure_leakage(scores[rows], subjects.genders[rows], subjects.identities[rows], self._params)

    # --- parts for attackers who combine scores by themselves

    def lacking(self, ok: NDArray[np.bool_]) -> str | None:
        """As of :meth:`People.lacking`, for the audited people."""
        return self._people.lacking(self._subjects.genders, ok)

    def report(self, stage: str, done: int, total: int) -> None:
        """Tell the audit's progress."""
        if self._progress is not None:
            self._progress(stage, done, total)

    def scores_of(
        self, probe: RetrainedProbe, view: View, features: NDArray[Any], ok: NDArray[np.bool_], *, title: str
    ) -> Scores:
        """Scores ``(N,)`` of a probe trained on ``features`` of other people, in the place of the view's protected side."""
        if self.lacking(ok) is not None:
            return np.full(len(self._subjects), np.nan)
        return self._attack(probe, features, ok, features, ok, title=title, start=view.original).scores

    def fitted(
        self, probe: RetrainedProbe, view: View, features: NDArray[Any], ok: NDArray[np.bool_], *, title: str
    ) -> FittedProbe:
        """The probe trained on ``features`` of the attacker's people, to score more than one set of images."""
        train, val = ok & self._people.train, ok & self._people.val
        more = _originals(probe, features, view.original, train)
        return self._fit(probe, features, train, val, title, more)

    def scored(self, fitted: FittedProbe, features: NDArray[Any], ok: NDArray[np.bool_]) -> Scores:
        """Scores ``(N,)`` of all but the attacker's own people; NaN where there are none."""
        rest = ok & ~self._people.train
        scores = np.full(len(self._subjects), np.nan)
        scores[rest] = fitted.scores(features[rest])
        return scores

    def reading_like(self, plain: Reading, protected: Scores) -> Reading:
        """The reading of the same probe from other scores of the protected side; undefined where the plain one is."""
        if not plain.original_scores.size:
            return plain
        return self.reading(
            probe=plain.probe,
            kind=plain.kind,
            source=plain.source,
            seen=plain.seen,
            original=plain.original_scores,
            protected=protected,
        )

    def difference(self, one: Reading, other: Reading) -> Measured:
        """Leakage of one reading minus that of another, with an interval over the same people."""
        return leakage_difference(one, other, self._subjects, self._params)

    def _fit(
        self,
        probe: RetrainedProbe,
        features: NDArray[Any],
        train: NDArray[np.bool_],
        val: NDArray[np.bool_],
        title: str,
        more: Mapping[str, NDArray[Any]],
    ) -> FittedProbe:
        subjects = self._subjects
        fitted: FittedProbe = self._watched(probe, title).fit(
            features[train],
            subjects.genders[train],
            subjects.identities[train],
            features[val],
            subjects.genders[val],
            seed=self._seed,
            **more,
        )
        return fitted

    def _attack(
        self,
        probe: RetrainedProbe,
        features: NDArray[Any],
        fit_rows: NDArray[np.bool_],
        targets: NDArray[Any],
        target_rows: NDArray[np.bool_],
        *,
        title: str,
        start: NDArray[Any] | None = None,
    ) -> Attack:
        """Train on ``features`` of the training people, score ``targets`` of all others.

        ``start`` holds the originals, for attackers who learn from them first.
        """
        subjects, people = self._subjects, self._people
        train, val = fit_rows & people.train, fit_rows & people.val
        rest = target_rows & ~people.train

        more = _originals(probe, features, start, train)

        def compute() -> dict[str, NDArray[Any]]:
            fitted = self._fit(probe, features, train, val, title, more)
            return {"scores": fitted.scores(targets[rest]), "setting": np.array(fitted.setting)}

        labels = (subjects.genders[train], subjects.identities[train], subjects.genders[val])
        key = (
            *_key(probe),
            self._seed,
            features[train],
            features[val],
            *labels,
            targets[rest],
            *more.values(),
        )
        found = self._cache.arrays(key, compute)
        scores = np.full(len(subjects), np.nan)
        scores[rest] = found["scores"]
        return Attack(scores, str(found["setting"]))

    def _watched(self, attacker: Any, title: str) -> Any:
        """The same attacker, its own progress shown under ``title`` where it reports any."""
        names = (
            {f.name for f in dataclasses.fields(attacker)} if dataclasses.is_dataclass(attacker) else set()
        )
        if self._progress is None or "progress" not in names:
            return attacker
        progress = self._progress
        return dataclasses.replace(attacker, progress=lambda done, total: progress(title, done, total))


def _originals(
    probe: RetrainedProbe, features: NDArray[Any], start: NDArray[Any] | None, train: NDArray[np.bool_]
) -> dict[str, NDArray[Any]]:
    """Originals of training people, for attackers who learn from them first."""
    if start is None or start is features or not getattr(probe, "wants_originals", False):
        return {}
    return {"originals": start[train]}


def set_attack(
    reading: Reading, subjects: Subjects, sizes: Sequence[int], *, seed: int, params: BootstrapParams
) -> list[dict[str, Any]]:
    """Leakage when scores are averaged over several protected photos of one person.

    One set of photos (``sizes`` says of how many) is drawn for each test person who has enough of them; beside the leakage of
    sets stands that of the first photo of each set, so that the same people are compared.
    """
    rows = []
    scored = np.flatnonzero(~np.isnan(reading.scores))
    names, person = np.unique(subjects.identities[scored], return_inverse=True)
    groups = [scored[person == k] for k in range(len(names))]
    for size in sizes:
        rng = np.random.default_rng([seed, size])
        sets = [rng.permutation(group)[:size] for group in groups if group.size >= size]
        genders = np.array([subjects.genders[photos[0]] for photos in sets], np.int64)
        row: dict[str, Any] = {
            "probe": reading.probe,
            "input": reading.source,
            "photos": size,
            "people": len(sets),
        }
        counts = np.bincount(genders, minlength=2)
        if counts.min() < MIN_SET_PEOPLE:
            none = Measured.undefined(
                f"{counts[0]} women and {counts[1]} men among test people have {size} photos, fewer than {MIN_SET_PEOPLE}",
                n=len(sets),
            )
            rows.append({**row, "leakage": none, "single": none})
            continue
        pooled = np.array([reading.scores[photos].mean() for photos in sets])
        single = np.array([reading.scores[photos[0]] for photos in sets])
        people = np.arange(len(sets))
        together, alone = (measure_leakage(scores, genders, people, params) for scores in (pooled, single))
        rows.append({**row, "leakage": together, "single": alone})
    return rows


def library_versions() -> dict[str, str]:
    """Versions of what the attackers are built on."""
    return {name: _version(name) for name in ("privface", *LIBRARIES)}


@functools.cache
def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "not installed"


def _key(attacker: Any) -> tuple[object, ...]:
    """What identifies an attacker: its class, its code, its settings, its libraries."""
    module = sys.modules[type(attacker).__module__].__file__
    code = Path(module).read_bytes() if module is not None else b""
    fields = dataclasses.fields(attacker) if dataclasses.is_dataclass(attacker) else ()
    settings = [(f.name, getattr(attacker, f.name)) for f in fields if f.name != "progress" and f.repr]
    return (type(attacker).__qualname__, attacker.name, repr(settings), code, *library_versions().items())
