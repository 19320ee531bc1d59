"""What the sections of an audit share: the data, the people, and whatever more than one of them needs, computed once."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from privface.audit.attacks import Attacks, library_versions, plain_attacks
from privface.audit.matching import MatchingResult, enrolled, evaluate_matching
from privface.audit.probes import RetrainedProbe
from privface.audit.readings import Attacker, Reading, worst_by_validation
from privface.audit.recovery import Recoverer
from privface.audit.subjects import WHITE_BOX, AuditData, EmbeddingData, People, View
from privface.data.splits import person_key
from privface.errors import AuditError, SplitOverlapError
from privface.images import to_unit
from privface.records import Embeddings, Scores

if TYPE_CHECKING:
    from privface.audit.auditor import Auditor

Sides: TypeAlias = Mapping[str, tuple[Embeddings, Embeddings]]
"""Original and protected rows by name; a row of NaN describes no face."""

Attacked: TypeAlias = tuple[Reading, RetrainedProbe, View]
"""What a probe reads from a view."""


class Named(Protocol):
    """A model of anybody, as the audit names it."""

    @property
    def name(self) -> str:
        """Name in the report."""

    @property
    def seen(self) -> bool | None:
        """Whether the protector trained against it; ``None`` if unknown."""

    @property
    def fingerprint(self) -> str:
        """Changes whenever its answers change; cached answers go by it."""


class Embedder(Named, Protocol):
    """A matcher, as the audit sees it."""

    def embed(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Embeddings ``(N, D)`` of float32 RGB ``(N, 3, H, W)`` in [0, 1]; a row of NaN failed to enrol."""


class FrozenProbe(Named, Protocol):
    """A pretrained gender classifier, as the audit sees it."""

    def male_scores(self, images: NDArray[np.float32]) -> NDArray[np.float64]:
        """Scores ``(N,)``, higher is more male, of float32 RGB ``(N, 3, H, W)`` in [0, 1]."""


class Context:
    """One audit under way.

    Attributes:
        settings: Whom and what it was asked for.
        data: What is audited.
        whole: The audited rows, then those of the attackers' own people, if they have any. Readings are of these rows.
        attributes: Further attributes that attackers read, each with the class of every row, ``(N,)``.
        people: Who of them trains attackers, chooses settings and is attacked.
        params: Bootstrap settings.

    Raises:
        AuditError: If the data do not fit together, an attribute cannot be attacked, or there are too few people.
        SplitOverlapError: If somebody trained the protector.
    """

    def __init__(self, settings: Auditor, data: AuditData | EmbeddingData) -> None:
        data.check()
        if not data.gendered and not settings.attributes:
            raise AuditError(
                "The audited photos have no gender labels, and no other attribute is asked for.",
                hint="Give labels with a gender column, or name another one (--attribute).",
            )
        self.settings, self.data, self.params = settings, data, settings.params
        self.whole = data.with_attackers()
        self.attributes = [self.whole.attribute(given) for given in settings.attributes]
        self._refuse_overlap()
        self.people = People.split(self.whole, settings.shares, seed=settings.seed, audited=len(data))
        self._require_classes()
        self.attacks = Attacks(settings, self.whole, self.people)

    def _require_classes(self) -> None:
        for attribute, codes in self.attributes:
            for title, part in self.people.parts().items():
                if lacking := set(range(len(attribute.classes))) - set(codes[part].tolist()):
                    raise AuditError(
                        f"The attacker's {title} part has no photo of the class {attribute.classes[min(lacking)]!r}"
                        f" ({attribute.name}).",
                        hint="Give more people of it, or put small classes together.",
                    )

    def report(self, stage: str, done: int, total: int) -> None:
        """Tell the progress."""
        if self.settings.progress is not None:
            self.settings.progress(stage, done, total)

    def _refuse_overlap(self) -> None:
        excluded = {person_key(person) for person in self.settings.exclude_people}
        shared = sorted({str(i) for i in self.whole.identities if person_key(str(i)) in excluded})
        if shared:
            raise SplitOverlapError(
                f"{len(shared)} audited people trained the protector, none may: {', '.join(shared[:5])}.",
                hint="Audit people that the protector has not met.",
            )

    def seen(self, name: str) -> bool | None:
        """Whether the protection was made with this matcher, or code, at hand."""
        if isinstance(self.data, EmbeddingData):
            return self.data.seen.get(name)
        # a code is the model's own
        return next((m.seen for m in self.settings.matchers if m.name == name), True)

    # --- what models say

    def embed(
        self, matcher: Embedder, images: NDArray[np.uint8], ok: NDArray[np.bool_], side: str
    ) -> Embeddings:
        """A matcher's embeddings ``(N, D)`` of the rows in ``ok``; the others are NaN.

        Raises:
            AuditError: If no row is in ``ok`` or the matcher breaks its contract.
        """
        if not ok.any():
            raise AuditError(
                f"No {side} photo is enrolled, so there is nothing to match.", hint="Check the faces."
            )
        stage = f"embed {side} with {matcher.name}"
        return cleared(self._answers("embeddings", matcher, matcher.embed, images, ok, stage))

    def frozen_scores(
        self, probe: FrozenProbe, images: NDArray[np.uint8], ok: NDArray[np.bool_] | None = None
    ) -> Scores:
        """A pretrained classifier's scores ``(N,)`` of the rows in ``ok``, by default all; the others are NaN.

        Raises:
            AuditError: If the classifier breaks its contract.
        """
        ok = np.ones(len(images), np.bool_) if ok is None else ok
        return self._answers("scores", probe, probe.male_scores, images, ok, f"read with {probe.name}")

    def _answers(
        self,
        kind: Literal["embeddings", "scores"],
        model: Named,
        ask: Callable[[NDArray[np.float32]], NDArray[Any]],
        images: NDArray[np.uint8],
        ok: NDArray[np.bool_],
        stage: str,
    ) -> NDArray[Any]:
        """What a model says of the rows in ``ok``, asked in batches or kept from an earlier audit; the others are NaN."""
        shown = images[ok]
        size = self.settings.batch_size
        rows = kind == "embeddings"
        verb, dtype, ndim = ("embed", np.float32, 2) if rows else ("read", np.float64, 1)

        def compute() -> dict[str, NDArray[Any]]:
            parts = []
            for start in range(0, len(shown), size):
                batch = shown[start : start + size]
                parts.append(np.asarray(ask(to_unit(batch)), dtype))
                if parts[-1].ndim != ndim or len(parts[-1]) != len(batch):
                    raise AuditError(
                        f"{model.name} gave {kind} of shape {parts[-1].shape} for {len(batch)} images.",
                        hint=f"Its {'embed must give one row' if rows else 'male_scores must give one number'} per image.",
                    )
                self.report(stage, start + len(batch), len(shown))
            return {kind: np.concatenate(parts)}

        # its answers depend on where it computes, too, if it knows
        answers = f"{model.fingerprint}{getattr(model, 'device', None) or ''}"
        key = (verb, answers, size, shown, *library_versions().items())
        found = self.settings.cache.arrays(key, compute)[kind] if len(shown) else np.empty(0, dtype)
        out = np.full((len(images), *found.shape[1:]), np.nan, dtype)
        out[ok] = found
        return out

    # --- what is matched

    @cached_property
    def templates(self) -> Sides:
        """Embeddings of all rows by matcher."""
        whole = self.whole
        if isinstance(whole, EmbeddingData):
            return {name: (cleared(a), cleared(b)) for name, (a, b) in whole.embeddings.items()}
        before = (whole.original, whole.enrolled_original, "original")
        after = (whole.protected, whole.enrolled_protected, "protected")
        return {m.name: (self.embed(m, *before), self.embed(m, *after)) for m in self.settings.matchers}

    @cached_property
    def codes(self) -> Sides:
        """Codes of all rows before and after the eraser, by the name that their rows have."""
        codes = self.whole.codes if isinstance(self.whole, AuditData) else {}
        return {f"{WHITE_BOX}:{name}": (cleared(a), cleared(b)) for name, (a, b) in codes.items()}

    def audited(self, sides: Sides) -> Sides:
        """The audited rows alone."""
        count = len(self.data)
        return {name: (a[:count], b[:count]) for name, (a, b) in sides.items()}

    @cached_property
    def matching(self) -> list[MatchingResult]:
        """How well the audited people are recognised, by matcher and by code."""
        rows: list[MatchingResult] = []
        labels = (self.data.identities, self.data.genders)
        for name, sides in self.audited({**self.templates, **self.codes}).items():
            rows += evaluate_matching(
                *sides,
                *labels,
                matcher=name,
                seen=self.seen(name),
                params=self.params,
                max_impostors=self.settings.max_impostors,
                progress=partial(self.report, f"match with {name}"),
            )
        return rows

    # --- what is read

    @cached_property
    def views(self) -> list[View]:
        """What attackers look at."""
        views = [View.of_rows(f"embedding:{n}", self.seen(n), *rows) for n, rows in self.templates.items()]
        views += [View.of_rows(name, True, *rows) for name, rows in self.codes.items()]
        if isinstance(self.whole, AuditData) and self.settings.attackers("image"):
            views.append(self.whole.view)
        return views

    @cached_property
    def plain(self) -> list[Attacked]:
        """Every attacker of gender on every view; none where the set has no gender labels."""
        if not self.whole.gendered:
            return []
        sent = [(probe, view) for view in self.views for probe in self.settings.attackers(view.medium)]
        ways = [(recoverer, view) for view, recoverer in self._ways_back]
        self.attacks.ahead([attack for pair in sent for attack in plain_attacks(*pair).values()], ways)
        found = []
        for number, (probe, view) in enumerate(sent):
            found.append((self.attacks.retrained(probe, view), probe, view))
            self.report("train attackers", number + 1, len(sent))
        return found

    @cached_property
    def frozen(self) -> list[Reading]:
        """What pretrained classifiers read of gender, in their order."""
        whole, rest = self.whole, ~self.people.train
        if not isinstance(whole, AuditData) or not whole.gendered:
            return []
        return [
            self.attacks.reading(
                Attacker(probe.name, "frozen", "image", probe.seen),
                self.frozen_scores(probe, whole.original, whole.enrolled_original & rest),
                self.frozen_scores(probe, whole.protected, whole.enrolled_protected & rest),
            )
            for probe in self.settings.frozen_probes
        ]

    @cached_property
    def backs(self) -> list[tuple[View, Recoverer, NDArray[Any] | None]]:
        """What each recoverer made of the protected rows of each view that has attackers, as :meth:`Attacks.recover` gives it."""
        return [(view, who, self.attacks.recover(who, view)) for view, who in self._ways_back]

    @property
    def _ways_back(self) -> list[tuple[View, Recoverer]]:
        return [
            (view, recoverer)
            for view in self.views
            if self.settings.attackers(view.medium)
            and view.original.shape == view.protected.shape  # others are a space of their own: no way back
            for recoverer in self.settings.recoverers(view.medium)
        ]

    @cached_property
    def recovered(self) -> list[tuple[Attacked, Recoverer, list[Reading]]]:
        """On each view the worst attacker of gender, who recovered the protected rows, and what is read from that."""
        worst = {item[2].source: item for item in _worst_by_view(self.plain)}
        if not worst:
            return []
        fixed = [
            (r, partial(self.frozen_scores, p))
            for r, p in zip(self.frozen, self.settings.frozen_probes, strict=True)
        ]
        found = []
        for view, recoverer, back in self.backs:
            if view.source in worst:
                frozen = fixed if view.medium == "image" else []
                readings = self.attacks.recovered(*worst[view.source], back, recoverer.name, frozen)
                found.append((worst[view.source], recoverer, readings))
        return found

    @property
    def adaptive(self) -> list[Reading]:
        """What all attackers read who learn from protected data."""
        back = [reading for _, _, readings in self.recovered for reading in readings]
        return [reading for reading, _, _ in self.plain] + back

    @property
    def worst(self) -> Reading | None:
        """The attacker that learns and reads most of validation people."""
        return worst_by_validation(self.adaptive)


def cleared(embeddings: Embeddings) -> Embeddings:
    """The same with NaN in rows that describe no face: infinite or null vectors do not either."""
    out = np.array(embeddings, np.float32)
    out[~enrolled(out)] = np.nan
    return out


def white_box_mark(source: str) -> dict[str, bool]:
    """The mark of a row on a code; other rows have none, so audits without a code keep their bytes."""
    return {"white_box": True} if source.startswith(f"{WHITE_BOX}:") else {}


def _worst_by_view(plain: Sequence[Attacked]) -> list[Attacked]:
    found = []
    for source in dict.fromkeys(view.source for _, _, view in plain):
        mine = [item for item in plain if item[2].source == source and not math.isnan(item[0].val_leakage)]
        if mine:
            # a probe that reads originals poorly still attacks, but one that counts goes first
            found.append(max(mine, key=lambda item: (item[0].measurable, item[0].val_leakage)))
    return found
