"""Who is audited and what an attacker may look at: photos or embeddings, before and after, row by row."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from privface.attributes import GENDER, MAX_CLASSES, Attribute, missing_column
from privface.audit.matching import enrolled
from privface.data.splits import person_bucket
from privface.errors import AuditError, LabelError
from privface.records import GENDERS, Embeddings

AGE_BANDS = ((18, "0-17"), (30, "18-29"), (45, "30-44"), (60, "45-59"), (math.inf, "60+"))
"""Upper end (exclusive) and name of the age bands that cohorts are reported in."""

SHARES = (0.5, 0.15, 0.35)
"""Shares of people that train attackers, choose their settings and are their victims."""

WHITE_BOX = "white-box"
"""What somebody reads who holds the model and inverts its decoder without loss: the code itself."""


@dataclass(frozen=True, kw_only=True)
class Subjects:
    """Labels of the audited photos or templates.

    Attributes:
        files: Keys of the photos.
        identities: Who is on each photo, shape ``(N,)``.
        genders: 0 (female) or 1 (male), shape ``(N,)``; -1 throughout where the set has no gender labels.
        cohorts: Further labels by column, each of shape ``(N,)``; an empty text is no label.
        name: Name in the report.
        attackers: Other people, whose photos or templates before and after the attackers have with labels; then nobody of the
            audited people trains an attacker.
    """

    files: tuple[str, ...]
    identities: NDArray[np.str_]
    genders: NDArray[np.int64]
    cohorts: Mapping[str, NDArray[np.str_]] = field(default_factory=dict)
    name: str = "faces"
    attackers: Self | None = None

    def __len__(self) -> int:
        return len(self.files)

    def check(self) -> None:
        """Refuse labels, or attackers, that do not fit together.

        Raises:
            AuditError: If a column has the wrong length, a gender is missing, or an attacker is among the audited people.
        """
        count = len(self.files)
        for title, column in self._columns():
            if np.shape(column) != (count,):
                raise AuditError(f"{title} has shape {np.shape(column)}; {count} files need ({count},).")
        found = sorted(set(np.asarray(self.genders).tolist()))
        if found not in ([0, 1], [-1]):
            raise AuditError(
                f"The genders are {found}; an audit of gender needs 0 (female) and 1 (male).",
                hint="Give a set with both genders.",
            )
        if self.attackers is None:
            return
        self.attackers.check()
        self._require_alike(self.attackers)
        if self.attackers.gendered != self.gendered:
            raise AuditError(
                "The audited people and the attackers' people do not both have gender labels.",
                hint="Give both sets a gender column, or neither.",
            )
        shared = sorted({*self.identities.tolist()} & {*self.attackers.identities.tolist()})
        if shared:
            raise AuditError(
                f"{len(shared)} audited people are among the attackers' people, none may be: {', '.join(shared[:5])}.",
                hint="Give the attackers other people.",
            )

    def _require_alike(self, others: Self) -> None:
        """Refuse attackers' people whose data are of another kind."""

    @property
    def gendered(self) -> bool:
        """Whether gender is labelled; else the audit speaks of other attributes alone."""
        return bool(np.max(self.genders) >= 0)

    def _columns(self) -> Iterator[tuple[str, NDArray[Any]]]:
        yield "identities", self.identities
        yield "genders", self.genders
        yield from self.cohorts.items()

    def digest(self, *arrays: NDArray[Any]) -> str:
        """Hash of the labels and of further arrays."""
        digest = hashlib.blake2b(digest_size=16)
        for array in (*arrays, np.asarray(self.genders, np.int64)):
            digest.update(np.ascontiguousarray(array).tobytes())
        names = np.asarray(self.identities).tolist()
        digest.update("\0".join([*self.files, *names]).encode("utf-8", "surrogateescape"))
        return digest.hexdigest()

    def attribute(self, given: Attribute) -> tuple[Attribute, NDArray[np.int64]]:
        """An attribute with its classes, and the class of each row, ``(N,)``, -1 where it has no label.

        Raises:
            AuditError: If there is no such column, or a class has too few rows.
        """
        words = self.cohorts.get(given.name)
        if given.name == GENDER and self.gendered:
            words = np.array(GENDERS)[self.genders]
        try:
            if words is None:
                raise missing_column(given.name, self.cohorts, where="The audited photos")
            return given.read(words)
        except LabelError as error:
            raise AuditError(error.message, hint=error.hint) from error

    def with_attackers(self) -> Self:
        """The audited rows, then those of the attackers' people."""
        others = self.attackers
        if others is None:
            return self
        cohorts = {
            name: np.concatenate([mine, others.cohorts.get(name, np.full(len(others), ""))])
            for name, mine in self.cohorts.items()
        }
        return replace(
            self,
            files=(*self.files, *others.files),
            cohorts=cohorts,
            attackers=None,
            **_stacked(self, others, ("identities", "genders")),
            **self._rows_with(others),
        )

    def _rows_with(self, others: Self) -> dict[str, Any]:
        """What :meth:`with_attackers` makes of the fields of a class that has more than labels."""
        return {}

    def groups(self) -> Iterator[tuple[str, str, NDArray[np.bool_]]]:
        """Cohorts as (column, value, rows): genders, labelled groups, and ages in bands."""
        columns: dict[str, NDArray[np.str_]] = {}
        if self.gendered:
            columns[GENDER] = np.array(GENDERS)[self.genders]
        for title, column in self.cohorts.items():
            values = np.array([_age_band(str(v)) for v in column]) if title == "age" else column
            if len(set(values.tolist()) - {""}) <= MAX_CLASSES:
                columns[title] = values
        for title, column in columns.items():
            for value in sorted(set(column.tolist()) - {""}):
                yield title, value, column == value


def _age_band(text: str) -> str:
    try:
        age = float(text)
    except ValueError:
        return text
    return next((name for end, name in AGE_BANDS if age < end), "")  # NaN is below nothing: no label


@dataclass(frozen=True)
class Draws:
    """Draws of a randomised protection beside the first one, which is :attr:`AuditData.protected`.

    Attributes:
        images: Gives draw ``number``, 1 to ``count - 1``: all photos, uint8 of the shape of the first draw.
        count: How many draws there are, the first one among them; 2 or more.
        ok: Where every draw has a protected photo with a face in it, shape ``(N,)``; by default where the first one has.

    Raises:
        AuditError: If there are fewer than two.
    """

    images: Callable[[int], NDArray[np.uint8]]
    count: int
    ok: NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        if self.count < 2:
            raise AuditError(
                f"{self.count} draw of the protection, counting the first: nothing to average.",
                hint="Give at least one more, or leave draws out.",
            )

    @classmethod
    def of(cls, further: Sequence[NDArray[np.uint8]], *, ok: NDArray[np.bool_] | None = None) -> Draws:
        """Draws that are at hand: all but the first one, each uint8 ``(N, H, W, 3)``."""
        return cls(lambda number: further[number - 1], len(further) + 1, ok)


@dataclass(frozen=True, kw_only=True)
class AuditData(Subjects):
    """The photos before and after, row by row, with the labels of :class:`Subjects`.

    Attributes:
        original: uint8 RGB, shape ``(N, H, W, 3)``, aligned faces.
        protected: The same photos protected, same shape.
        enrolled_original: Where a face was found in the original, shape ``(N,)``; other rows are not read.
        enrolled_protected: Where there is a protected photo with a face in it, shape ``(N,)``.
        bytes_original: File sizes in bytes, shape ``(N,)``, where known.
        bytes_protected: The same of the protected files; NaN where there is none.
        draws: Where the protection is randomised, further draws of it, for an attacker who averages.
        codes: Where the model draws a face from a code alone, by name that code before and after its eraser, each ``(N, K)``; a
            row of NaN has none. A drawn face tells no more than the code, so who reads the code is the strongest attacker.
        second: Where linking is asked about, a second protection of the same photos, of the shape of ``protected``, and where it
            has a face, shape ``(N,)``.
    """

    original: NDArray[np.uint8]
    protected: NDArray[np.uint8]
    enrolled_original: NDArray[np.bool_]
    enrolled_protected: NDArray[np.bool_]
    bytes_original: NDArray[np.float64] | None = None
    bytes_protected: NDArray[np.float64] | None = None
    draws: Draws | None = None
    codes: Mapping[str, tuple[Embeddings, Embeddings]] = field(default_factory=dict)
    second: tuple[NDArray[np.uint8], NDArray[np.bool_]] | None = None

    def check(self) -> None:
        """Refuse sets that do not fit together.

        Raises:
            AuditError: If shapes, types or label values are wrong, or a gender is missing.
        """
        count = len(self.files)
        sides = [("original", self.original), ("protected", self.protected)]
        if self.second is not None:
            sides.append(("second protected", self.second[0]))
        for title, images in sides:
            if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3 or len(images) != count:
                raise AuditError(
                    f"The {title} images are {images.dtype} {images.shape}; {count} files need uint8"
                    f" ({count}, H, W, 3).",
                    hint="Give one aligned RGB crop per file.",
                )
            if self.original.shape != images.shape:
                raise AuditError(
                    f"Original images {self.original.shape} and {title} images {images.shape} differ.",
                    hint="Align all sets to the same size.",
                )
        _check_tables(self.codes, count, what="codes")
        super().check()

    def _require_alike(self, others: Self) -> None:
        if others.original.shape[1:] != self.original.shape[1:] or set(others.codes) != set(self.codes):
            raise AuditError(
                f"The attackers' photos are {others.original.shape[1:]} with codes {sorted(others.codes)}; audited are"
                f" {self.original.shape[1:]} with codes {sorted(self.codes)}.",
                hint="Prepare both sets in the same way.",
            )
        if self.draws is not None:
            raise AuditError(
                "Attackers with people of their own cannot average draws, which they do not have.",
                hint="Leave out the draws, or the attackers.",
            )

    def _rows_with(self, others: Self) -> dict[str, Any]:
        images = ("original", "protected", "enrolled_original", "enrolled_protected")
        none = dict.fromkeys(("bytes_original", "bytes_protected", "draws", "second"))
        return {**_stacked(self, others, images), **none, "codes": _joined(self.codes, others.codes)}

    def _columns(self) -> Iterator[tuple[str, NDArray[Any]]]:
        yield "enrolled_original", self.enrolled_original
        yield "enrolled_protected", self.enrolled_protected
        if self.draws is not None and self.draws.ok is not None:
            yield "draws.ok", self.draws.ok
        if self.second is not None:
            yield "enrolled_second", self.second[1]
        yield from super()._columns()

    @property
    def view(self) -> View:
        """What an attacker on images sees."""
        ok = (self.enrolled_original, self.enrolled_protected)
        return View("image", False, self.original, self.protected, *ok)


@dataclass(frozen=True, kw_only=True)
class EmbeddingData(Subjects):
    """Templates before and after, by matcher, with the labels of :class:`Subjects`.

    Attributes:
        embeddings: Original and protected embeddings by matcher, each ``(N, D)``; the two may differ in
            ``D``, then protected are not compared with originals. A row of NaN failed to enrol.
        seen: Whether the protection was fitted on this matcher's embeddings; ``None`` if unknown.
        second: Where linking is asked about, embeddings of a second protection by matcher, each ``(N, D)``.
    """

    embeddings: Mapping[str, tuple[Embeddings, Embeddings]]
    seen: Mapping[str, bool | None] = field(default_factory=dict)
    second: Mapping[str, Embeddings] = field(default_factory=dict)

    def check(self) -> None:
        """Refuse tables that do not fit together.

        Raises:
            AuditError: If there is no matcher, a table has the wrong shape, or a label is wrong.
        """
        count = len(self.files)
        if not self.embeddings:
            raise AuditError("There are no embeddings to audit.", hint="Give one table per matcher.")
        _check_tables(self.embeddings, count, what="embedding column")
        if unknown := sorted(set(self.second) - set(self.embeddings)):
            raise AuditError(
                f"The second protection has the matchers {unknown}; audited are {sorted(self.embeddings)}.",
                hint="Give the same matchers in both protections.",
            )
        second = {f"second {name}": (self.embeddings[name][0], table) for name, table in self.second.items()}
        _check_tables(second, count, what="embedding column of the second protection")
        super().check()

    def _require_alike(self, others: Self) -> None:
        mine, theirs = _sizes(self.embeddings), _sizes(others.embeddings)
        if mine != theirs:
            raise AuditError(
                f"The attackers' embeddings have these lengths before and after, by matcher: {theirs}; the audited ones: {mine}.",
                hint="Give tables of the same matchers and the same protection.",
            )

    def _rows_with(self, others: Self) -> dict[str, Any]:
        return {"embeddings": _joined(self.embeddings, others.embeddings), "second": {}}


_Tables: TypeAlias = Mapping[str, tuple[Embeddings, Embeddings]]


def _sizes(tables: _Tables) -> dict[str, tuple[int, int]]:
    """Lengths of a row before and after, by name."""
    return {name: (before.shape[1], after.shape[1]) for name, (before, after) in sorted(tables.items())}


def _stacked(mine: Subjects, others: Subjects, names: Sequence[str]) -> dict[str, Any]:
    return {name: np.concatenate([getattr(mine, name), getattr(others, name)]) for name in names}


def _joined(mine: _Tables, others: _Tables) -> dict[str, tuple[Embeddings, Embeddings]]:
    """The rows of both, by name."""
    return {
        name: (np.concatenate([a, others[name][0]]), np.concatenate([b, others[name][1]]))
        for name, (a, b) in mine.items()
    }


def _check_tables(tables: _Tables, count: int, *, what: str) -> None:
    for name, sides in tables.items():
        for title, side in zip(("original", "protected"), sides, strict=True):
            if side.ndim != 2 or len(side) != count or side.shape[1] < 1:
                raise AuditError(
                    f"{name}: the {title} embeddings have shape {side.shape}; {count} files need ({count}, D).",
                    hint="Give one row per file.",
                )
            if not enrolled(side).any():
                raise AuditError(
                    f"{name}: no {title} row holds an embedding; all are empty, infinite or zero.",
                    hint=f"Check the {what}.",
                )


@dataclass(frozen=True)
class View:
    """One thing an attacker can look at, before and after protection.

    Attributes:
        source: ``"image"``, ``"embedding:MATCHER"`` or ``"white-box:CODE"``.
        seen: Whether the protector trained against it.
        original: What there was, shape ``(N, ...)``.
        protected: What is stored, shape ``(N, ...)``.
        original_ok: Rows of ``original`` that hold something, shape ``(N,)``.
        protected_ok: Rows of ``protected`` that hold something, shape ``(N,)``.
    """

    source: str
    seen: bool | None
    original: NDArray[Any]
    protected: NDArray[Any]
    original_ok: NDArray[np.bool_]
    protected_ok: NDArray[np.bool_]

    @classmethod
    def of_rows(cls, source: str, seen: bool | None, original: Embeddings, protected: Embeddings) -> View:
        """The view of an attacker on embeddings or codes; rows that hold none are left out."""
        return cls(source, seen, original, protected, enrolled(original), enrolled(protected))

    @property
    def medium(self) -> str:
        """``"image"``, ``"embedding"`` or ``"white-box"``."""
        return self.source.partition(":")[0]


@dataclass(frozen=True)
class People:
    """Which rows train the attacker, choose its settings and are its victims.

    Attributes:
        train: Shape ``(N,)``.
        val: Shape ``(N,)``.
        test: Shape ``(N,)``.
    """

    train: NDArray[np.bool_]
    val: NDArray[np.bool_]
    test: NDArray[np.bool_]

    @classmethod
    def split(
        cls,
        subjects: Subjects,
        shares: tuple[float, float, float] = SHARES,
        *,
        seed: int,
        audited: int | None = None,
    ) -> People:
        """Assign people by a hash of their identity, so that no person is on two sides.

        Args:
            subjects: Labels.
            shares: Shares of people that train, choose and are scored.
            seed: Of the hash.
            audited: Rows that are audited, the first ones; all that follow are the attackers', where any do: then all
                audited people are scored, and the attackers' are shared out among training and choosing.

        Raises:
            AuditError: If a part has fewer than two people, or than two of a gender.
        """
        salt = f"privface.audit/{seed}"
        names, inverse = np.unique(subjects.identities, return_inverse=True)
        bucket = np.array([person_bucket(str(name), salt=salt) for name in names])[inverse]
        first, second = shares[0], shares[0] + shares[1]
        people = cls(bucket < first, (bucket >= first) & (bucket < second), bucket >= second)
        if audited is not None and audited < len(subjects):
            test = np.arange(len(subjects)) < audited
            train = ~test & (bucket < first / second)
            people = cls(train, ~test & ~train, test)
        for title, part in people.parts().items():
            for label, gender in _kinds(subjects.genders):
                count = len(np.unique(subjects.identities[part & (subjects.genders == label)]))
                if count < 2:
                    raise AuditError(
                        f"The attacker's {title} part has {count} {gender}people, {len(names)} people"
                        f" are in the set; it needs two{' of each gender' if gender else ''}.",
                        hint="Audit more people, or change the seed or the shares.",
                    )
        return people

    def parts(self) -> dict[str, NDArray[np.bool_]]:
        """The three parts by name."""
        return {"training": self.train, "validation": self.val, "test": self.test}

    def lacking(self, genders: NDArray[np.int64], ok: NDArray[np.bool_]) -> str | None:
        """The first gender, where there are genders, and part of which no row is left among ``ok``, in words."""
        for title, part in self.parts().items():
            for label, gender in _kinds(genders):
                if not (ok & part & (genders == label)).any():
                    return f"{gender}{title} photo"
        return None


def _kinds(genders: NDArray[np.int64]) -> list[tuple[int, str]]:
    """Labels of gender with the word that goes before a noun; one without a word where nobody has a gender."""
    return [(-1, "")] if np.max(genders) < 0 else [(label, f"{word} ") for label, word in enumerate(GENDERS)]
