"""Runs attackers on what they can see: trained on some people, tuned on others, scored on people they never met."""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from privface.audit.learning_curve import learning_curve
from privface.audit.probes import FittedProbe, RetrainedProbe
from privface.audit.readings import (
    Attacker,
    Reading,
    measure_leakage,
    take_reading,
    undefined_reading,
)
from privface.audit.recovery import Recoverer
from privface.audit.subjects import People, Subjects, View
from privface.records import Scores

if TYPE_CHECKING:
    from privface.audit.auditor import Auditor

LIBRARIES = ("numpy", "scipy", "scikit-learn", "opencv-python-headless", "torch", "torchvision")
"""What the attackers are built on; their versions are part of the provenance."""


class Attacks:
    """Trains attackers and takes their readings, each fit once and, with a cache, never again.

    Args:
        settings: Seed, bootstrap, cache and progress.
        subjects: Labels.
        people: Who trains the attacker, who chooses its settings, who is attacked.
    """

    def __init__(self, settings: Auditor, subjects: Subjects, people: People) -> None:
        self._subjects, self._people, self._params = subjects, people, settings.params
        self._seed, self._cache, self._progress = settings.seed, settings.cache, settings.progress
        self.reading = functools.partial(take_reading, subjects, people, self._params)

    def retrained(self, probe: RetrainedProbe, view: View) -> Reading:
        """The reading of a probe trained on each side of a view: on originals to prove itself, on protected to attack."""
        who = Attacker(probe.name, "retrained", view.source, view.seen)
        sides = (
            ("original", view.original, view.original_ok),
            ("protected", view.protected, view.protected_ok),
        )
        found = []
        for side, features, ok in sides:
            if lacking := self.lacking(ok):
                return undefined_reading(who, f"too few {side} photos enrolled: no {lacking}")
            title = f"{probe.name} on {view.source}, {side}"
            found.append(self._attack(probe, features, ok, title=title, start=view.original))
        (original, _), (protected, setting) = found
        return self.reading(who, original, protected, setting)

    def recovered(
        self,
        plain: Reading,
        probe: RetrainedProbe,
        view: View,
        back: NDArray[Any] | None,
        recoverer: str,
        frozen: Sequence[tuple[Reading, Callable[[NDArray[Any]], Scores]]] = (),
    ) -> list[Reading]:
        """Readings of what a recoverer of this name made of the protected side, as :meth:`recover` gives it.

        Attackers who read it: ``probe`` (the worst one on this view, whose reading is ``plain``) retrained on what was recovered of
        the attacker's people, and probes of originals: the frozen ones with what scores a whole array, or on embeddings ``probe``
        trained on originals.
        """
        both = view.original_ok & view.protected_ok

        def who(name: str) -> Attacker:
            return Attacker(f"recover+{name}", "recovered", view.source, view.seen)

        if back is None:
            reason = f"too few photos enrolled on both sides: no {self.lacking(both)}"
            return [undefined_reading(who(probe.name), reason)]
        attack = self._attack(probe, back, both, title=f"{probe.name} after recovery")
        found = [self.reading(who(probe.name), plain.original_scores, *attack)]
        if view.medium != "image":  # images have frozen probes that were trained on originals
            title = f"{probe.name} of originals after recovery"
            attack = self._attack(
                probe, view.original, view.original_ok, targets=back, target_ok=both, title=title
            )
            found.append(self.reading(who(f"original-{probe.name}"), plain.original_scores, *attack))
        rest = both & ~self._people.train
        for reading, scorer in frozen:
            scores = np.full(len(self._subjects), np.nan)
            scores[rest] = scorer(back[rest])
            found.append(self.reading(who(reading.probe), reading.original_scores, scores, recoverer))
        return found

    def recover(self, recoverer: Recoverer, view: View) -> NDArray[Any] | None:
        """What a recoverer fitted on pairs of the attacker's people makes of the protected side.

        Returns:
            Shape of ``view.original``, null where a side has no photo; ``None`` where too few photos are enrolled on both sides.
        """
        people, names, both = self._people, self._subjects.identities, view.original_ok & view.protected_ok
        if self.lacking(both):
            return None
        train, val, rest = both & people.train, both & people.val, both & ~people.train

        def compute() -> dict[str, NDArray[Any]]:
            pairs = (view.protected[train], view.original[train], names[train])
            judges = (view.protected[val], view.original[val])
            watched = self._watched(recoverer, f"learn to recover {view.source}")
            fitted = watched.fit(*pairs, *judges, seed=self._seed)
            return {"train": fitted.training, "rest": fitted.recover(view.protected[rest])}

        sides = (view.original[train | val], view.protected[both])
        key = (*_key(recoverer), self._seed, *sides, names[train], train, val)
        parts = self._cache.arrays(key, compute)
        back = np.zeros_like(view.original)
        back[train], back[rest] = parts["train"], parts["rest"]
        return back

    def label_budget(
        self, probe: RetrainedProbe, view: View, budgets: Sequence[int]
    ) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """What the probe reads from protected data when the attacker knows the gender of few people.

        Of a budget, some people train and some choose settings, in the proportion of the full attack. Budgets that the set does
        not have are left out, and the last row has everybody. Gives these rows, and the row of the learning curve through them.
        """
        subjects, people, ok = self._subjects, self._people, view.protected_ok
        if self.lacking(ok):
            return [], []
        every = len(np.unique(subjects.identities[ok & (people.train | people.val)]))
        share = len(np.unique(subjects.identities[ok & people.train])) / every
        rows, curve = [], []
        for budget in [*(b for b in budgets if b < every), every]:
            train = self._some_people(ok & people.train, max(round(budget * share), 4))
            val = self._some_people(ok & people.val, max(budget - round(budget * share), 4))
            title = f"{probe.name} with {budget} labelled people"
            scores, _ = self._attack(
                probe, view.protected, train | val, target_ok=ok, title=title, start=view.original
            )
            known, rest = len(np.unique(subjects.identities[train | val])), people.test & ~np.isnan(scores)
            victims = (scores[rest], subjects.genders[rest], subjects.identities[rest])
            row = {"probe": probe.name, "input": view.source, "people": known}
            leak = measure_leakage(*victims, self._params)
            rows.append({**row, "photos": int((train | val).sum()), "leakage": leak})
            curve.append((known, scores))
        exponent, later = learning_curve(curve, subjects, people.test, self._params)
        last = {key: value for key, value in rows[-1].items() if key != "photos"}
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

    # --- parts for attackers who combine scores by themselves

    def lacking(self, ok: NDArray[np.bool_]) -> str | None:
        """As of :meth:`People.lacking`, for the audited people."""
        return self._people.lacking(self._subjects.genders, ok)

    def scores_of(
        self, probe: RetrainedProbe, view: View, features: NDArray[Any], ok: NDArray[np.bool_], *, title: str
    ) -> Scores:
        """Scores ``(N,)`` of a probe trained on ``features`` of other people, in the place of the view's protected side."""
        if self.lacking(ok):
            return np.full(len(self._subjects), np.nan)
        return self._attack(probe, features, ok, title=title, start=view.original)[0]

    def fitted(
        self, probe: RetrainedProbe, view: View, features: NDArray[Any], ok: NDArray[np.bool_], *, title: str
    ) -> FittedProbe:
        """The probe trained on ``features`` of the attacker's people, to score more than one set of images."""
        train, val = ok & self._people.train, ok & self._people.val
        return self._fit(
            probe, features, train, val, title, _originals(probe, features, view.original, train)
        )

    def scored(self, fitted: FittedProbe, features: NDArray[Any], ok: NDArray[np.bool_]) -> Scores:
        """Scores ``(N,)`` of all but the attacker's own people; NaN where there are none."""
        rest = ok & ~self._people.train
        scores = np.full(len(self._subjects), np.nan)
        scores[rest] = fitted.scores(features[rest])
        return scores

    def _fit(
        self,
        probe: RetrainedProbe,
        features: NDArray[Any],
        train: NDArray[np.bool_],
        val: NDArray[np.bool_],
        title: str,
        more: Mapping[str, NDArray[Any]],
    ) -> FittedProbe:
        genders, names = self._subjects.genders, self._subjects.identities
        known = (features[train], genders[train], names[train], features[val], genders[val])
        fitted: FittedProbe = self._watched(probe, title).fit(*known, seed=self._seed, **more)
        return fitted

    def _attack(
        self,
        probe: RetrainedProbe,
        features: NDArray[Any],
        ok: NDArray[np.bool_],
        *,
        title: str,
        targets: NDArray[Any] | None = None,
        target_ok: NDArray[np.bool_] | None = None,
        start: NDArray[Any] | None = None,
    ) -> tuple[Scores, str]:
        """Scores ``(N,)`` of all but the training people by a probe trained on ``features``, and the setting that won.

        ``targets`` are scored, by default the ``features`` themselves; ``start`` holds the originals, for attackers who learn
        from them first.
        """
        subjects, people = self._subjects, self._people
        targets = features if targets is None else targets
        train, val = ok & people.train, ok & people.val
        rest = (ok if target_ok is None else target_ok) & ~people.train
        more = _originals(probe, features, start, train)

        def compute() -> dict[str, NDArray[Any]]:
            fitted = self._fit(probe, features, train, val, title, more)
            return {"scores": fitted.scores(targets[rest]), "setting": np.array(fitted.setting)}

        labels = (subjects.genders[train], subjects.identities[train], subjects.genders[val])
        examples = (features[train], features[val], *labels, targets[rest], *more.values())
        found = self._cache.arrays((*_key(probe), self._seed, *examples), compute)
        scores = np.full(len(subjects), np.nan)
        scores[rest] = found["scores"]
        return scores, str(found["setting"])

    def _watched(self, attacker: Any, title: str) -> Any:
        """The same attacker, its own progress shown under ``title`` where it reports any."""
        progress = self._progress
        if progress is None or not dataclasses.is_dataclass(attacker) or not hasattr(attacker, "progress"):
            return attacker
        return dataclasses.replace(attacker, progress=lambda done, total: progress(title, done, total))  # type: ignore[type-var]


def _originals(
    probe: RetrainedProbe, features: NDArray[Any], start: NDArray[Any] | None, train: NDArray[np.bool_]
) -> dict[str, NDArray[Any]]:
    """Originals of training people, for attackers who learn from them first."""
    if start is None or start is features or not getattr(probe, "wants_originals", False):
        return {}
    return {"originals": start[train]}


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
