"""Runs attackers on what they can see: trained on some people, tuned on others, scored on people they never met."""

from __future__ import annotations

import dataclasses
import logging
import os
import pickle
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from importlib import metadata
from operator import methodcaller
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from privface.audit.cache import digest_of
from privface.audit.learning_curve import learning_curve
from privface.audit.probes import FittedProbe, RetrainedProbe
from privface.audit.readings import (
    Attacker,
    Reading,
    measure_leakage,
    take_reading,
    undefined_reading,
)
from privface.audit.recovery import FittedRecoverer, Recoverer
from privface.audit.subjects import People, Subjects, View
from privface.records import Scores
from privface.threads import core_count, map_tasks, torch_threads

if TYPE_CHECKING:
    from privface.audit.auditor import Auditor

logger = logging.getLogger(__name__)

LIBRARIES = (
    "numpy",
    "scipy",
    "scikit-learn",
    "opencv-python-headless",
    "torch",
    "torchvision",
    "onnxruntime",
    "onnx2torch",
)
"""What attackers and models are built on; their versions are part of the provenance."""

_MANY = 300
"""Photos to learn from, from which on a process of its own is worth its start."""


@dataclass(frozen=True)
class Attack:
    """One attacker to be trained on the attacker's people, and to score all others.

    Attributes:
        probe: The attacker.
        features: What it learns from, of all rows, ``(N, ...)``.
        ok: Rows that have them, ``(N,)``.
        targets: What is scored, ``(N, ...)``; by default ``features``.
        target_ok: Rows that have that; by default ``ok``.
    """

    probe: RetrainedProbe
    features: NDArray[Any]
    ok: NDArray[np.bool_]
    targets: NDArray[Any] | None = None
    target_ok: NDArray[np.bool_] | None = None

    @property
    def rows(self) -> NDArray[np.bool_]:
        """Rows that can be scored."""
        return self.ok if self.target_ok is None else self.target_ok


@dataclass(frozen=True)
class _Task:
    """An attack with its rows taken out, as another process gets it."""

    probe: Any
    known: tuple[NDArray[Any], ...]
    targets: NDArray[Any]
    seed: int

    @cached_property
    def digest(self) -> str:
        """A hash of everything that the answer depends on."""
        return digest_of((*_key(self.probe), self.seed, *self.known, self.targets))

    def fit(self) -> Any:
        """The attacker after training. A network on the CPU has one thread, wherever it learns: the same bytes everywhere."""
        with torch_threads(1) if _is_network(self.probe) else nullcontext():
            return self.probe.fit(*self.known, seed=self.seed)

    def answer(self) -> dict[str, NDArray[Any]]:
        """Its scores of the targets, and the setting that won."""
        fitted: FittedProbe = self.fit()
        return {"scores": fitted.scores(self.targets), "setting": np.array(fitted.setting)}


class _Recovery(_Task):
    """A recoverer with its pairs; the targets are what it turns back."""

    def answer(self) -> dict[str, NDArray[Any]]:
        """What it makes of the training people's protected data, and of the targets."""
        fitted: FittedRecoverer = self.fit()
        return {"train": fitted.training, "rest": fitted.recover(self.targets)}


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
        self.reading = partial(take_reading, subjects, people, self._params)
        self._made: dict[str, Mapping[str, NDArray[Any]]] = {}

    def ahead(
        self,
        attacks: Sequence[Attack],
        recoveries: Sequence[tuple[Recoverer, View]] = (),
        *,
        stage: str = "train networks",
    ) -> None:
        """Train the networks among these attackers side by side, in processes; what they give is kept until it is asked for.

        A small network gains nothing from several cores, several networks do. All other attackers wait until they are asked for.
        """
        offered: list[tuple[Any, ...]] = [
            (partial(self._recovery, who, view), who, _both(view), _both(view), 2 * view.original.nbytes)
            for who, view in recoveries
        ]
        offered += [(partial(self._task, a), a.probe, a.ok, a.rows, a.features.nbytes) for a in attacks]
        long = [(make, size) for make, *who, size in offered if self._long(*who)]
        processes = min(len(long), core_count(), _fitting(max((size for _, size in long), default=0)))
        if processes < 2:
            return
        sent: list[str] = []
        done = 0

        def tasks() -> Iterator[_Task]:
            nonlocal done
            for make, _ in long:
                task = make()
                if (task.digest,) in self._cache or task.digest in {*self._made, *sent}:
                    done += 1
                else:
                    sent.append(task.digest)
                    yield replace(task, probe=_telling(task.probe, None))

        def tell() -> None:
            if self._progress is not None:
                self._progress(stage, done, len(long))

        tell()
        try:
            for number, answer in map_tasks(
                methodcaller("answer"), tasks(), processes=processes, waiting=tell
            ):
                self._made[sent[number]] = self._cache.arrays((sent[number],), partial(dict, answer))
                done += 1
        except BrokenProcessPool as error:
            logger.warning(
                "A process that trained an attacker ended (%s); the rest is trained one by one.", error
            )

    def _long(self, attacker: Any, ok: NDArray[np.bool_], rows: NDArray[np.bool_]) -> bool:
        """Whether a process of its own is worth its start; ``ok`` rows can be learnt from, ``rows`` asked about."""
        return bool(
            _is_network(attacker)
            and (ok & self._people.train).sum() >= _MANY
            and not self.lacking(ok | (rows & self._people.test))
            and _can_travel(attacker)
        )

    def retrained(self, probe: RetrainedProbe, view: View) -> Reading:
        """The reading of a probe trained on each side of a view: on originals to prove itself, on protected to attack."""
        who = Attacker(probe.name, "retrained", view.source, view.seen)
        found = []
        for side, attack in plain_attacks(probe, view).items():
            if lacking := self.lacking(attack.ok):
                return undefined_reading(who, f"too few {side} photos enrolled: no {lacking}")
            found.append(self._attack(attack, f"{probe.name} on {view.source}, {side}"))
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
        both = _both(view)

        def who(name: str) -> Attacker:
            return Attacker(f"recover+{name}", "recovered", view.source, view.seen)

        if back is None:
            reason = f"too few photos enrolled on both sides: no {self.lacking(both)}"
            return [undefined_reading(who(probe.name), reason)]
        scored = self._attack(Attack(probe, back, both), f"{probe.name} after recovery")
        found = [self.reading(who(probe.name), plain.original_scores, *scored)]
        if view.medium != "image":  # images have frozen probes that were trained on originals
            attack = Attack(probe, view.original, view.original_ok, back, both)
            scored = self._attack(attack, f"{probe.name} of originals after recovery")
            found.append(self.reading(who(f"original-{probe.name}"), plain.original_scores, *scored))
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
        people, both = self._people, _both(view)
        if self.lacking(both):
            return None
        parts = self._answer(self._recovery(recoverer, view), f"learn to recover {view.source}")
        back = np.zeros_like(view.original)
        back[both & people.train], back[both & ~people.train] = parts["train"], parts["rest"]
        return back

    def _recovery(self, recoverer: Recoverer, view: View) -> _Recovery:
        people, both = self._people, _both(view)
        train, val = both & people.train, both & people.val
        pairs = (view.protected[train], view.original[train], self._subjects.identities[train])
        known = (*pairs, view.protected[val], view.original[val])
        return _Recovery(recoverer, known, view.protected[both & ~people.train], self._seed)

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
        attacks = {}
        for budget in [*(b for b in budgets if b < every), every]:
            train = self._some_people(ok & people.train, max(round(budget * share), 4))
            val = self._some_people(ok & people.val, max(budget - round(budget * share), 4))
            attacks[budget] = Attack(probe, view.protected, train | val, target_ok=ok)
        self.ahead(list(attacks.values()))
        rows, curve = [], []
        for budget, attack in attacks.items():
            scores, _ = self._attack(attack, f"{probe.name} with {budget} labelled people")
            few = attack.ok
            labelled, rest = len(np.unique(subjects.identities[few])), people.test & ~np.isnan(scores)
            victims = (scores[rest], subjects.genders[rest], subjects.identities[rest])
            row = {"probe": probe.name, "input": view.source, "people": labelled}
            leak = measure_leakage(*victims, self._params)
            rows.append({**row, "photos": int(few.sum()), "leakage": leak})
            curve.append((labelled, scores))
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

    def scores_of(self, attack: Attack, *, title: str) -> Scores:
        """Scores ``(N,)`` of an attacker, in the place of the view's protected side; NaN where it has too few photos."""
        if self.lacking(attack.ok):
            return np.full(len(self._subjects), np.nan)
        return self._attack(attack, title)[0]

    def fitted(self, attack: Attack, *, title: str) -> FittedProbe:
        """The attacker after training, to score more than one set of images."""
        fitted: FittedProbe = self._watched(self._task(attack), title).fit()
        return fitted

    def scored(self, fitted: FittedProbe, features: NDArray[Any], ok: NDArray[np.bool_]) -> Scores:
        """Scores ``(N,)`` of all but the attacker's own people; NaN where there are none."""
        rest = ok & ~self._people.train
        scores = np.full(len(self._subjects), np.nan)
        scores[rest] = fitted.scores(features[rest])
        return scores

    def _task(self, attack: Attack) -> _Task:
        subjects, people = self._subjects, self._people
        train, val = attack.ok & people.train, attack.ok & people.val
        learnt, judged = attack.features[train], attack.features[val]
        labels = subjects.genders
        targets = (attack.features if attack.targets is None else attack.targets)[attack.rows & ~people.train]
        known = (learnt, labels[train], subjects.identities[train], judged, labels[val])
        return _Task(attack.probe, known, targets, self._seed)

    def _attack(self, attack: Attack, title: str) -> tuple[Scores, str]:
        """Scores ``(N,)`` of all but the training people, and the setting that won."""
        found = self._answer(self._task(attack), title)
        scores = np.full(len(self._subjects), np.nan)
        scores[attack.rows & ~self._people.train] = found["scores"]
        return scores, str(found["setting"])

    def _answer(self, task: _Task, title: str) -> Mapping[str, NDArray[Any]]:
        """What a task gives: made ahead, kept by the cache, or made now."""
        if task.digest not in self._made:
            self._made[task.digest] = self._cache.arrays((task.digest,), self._watched(task, title).answer)
        return self._made[task.digest]

    def _watched(self, task: _Task, title: str) -> _Task:
        """The task with its attacker's own progress shown under ``title``."""
        progress = self._progress
        if progress is None:
            return task
        probe = _telling(task.probe, lambda done, total: progress(title, done, total))
        return replace(task, probe=probe)


def _telling(attacker: Any, progress: Callable[[int, int], None] | None) -> Any:
    """The same attacker with ``progress`` in place of its own, if it has a field of that name.

    ``None`` for one that goes to another process: a callback cannot be sent there.
    """
    if not dataclasses.is_dataclass(attacker) or not hasattr(attacker, "progress"):
        return attacker
    # mypy: is_dataclass() is true of classes as well; an attacker is an instance
    return replace(attacker, progress=progress)  # type: ignore[type-var]


def _is_network(attacker: Any) -> bool:
    """Whether it learns with torch on the CPU."""
    return getattr(attacker, "place", None) == "cpu"


def _fitting(size: int) -> int:
    """How many tasks on sets of so many bytes half of the memory holds; one takes some six times as much, in both processes and between."""
    try:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # a system that does not say
        memory = 8 * 2**30
    return memory // 2 // max(6 * size, 1)


def _can_travel(attacker: Any) -> bool:
    try:
        pickle.dumps(_telling(attacker, None))
    except Exception:  # models of others fail in many ways
        return False
    return True


def _both(view: View) -> NDArray[np.bool_]:
    """Rows with both sides."""
    return np.asarray(view.original_ok & view.protected_ok, np.bool_)


def plain_attacks(probe: RetrainedProbe, view: View) -> dict[str, Attack]:
    """An attacker on the original and on the protected side of a view."""
    return {
        "original": Attack(probe, view.original, view.original_ok),
        "protected": Attack(probe, view.protected, view.protected_ok),
    }


def library_versions() -> dict[str, str]:
    """Versions of what the attackers are built on."""
    return {name: _version(name) for name in ("privface", *LIBRARIES)}


@cache
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
