"""Splits that are disjoint by person and do not move when people are added."""

from __future__ import annotations

import hashlib
import math
import unicodedata
from collections.abc import Mapping

import numpy as np

from privface.errors import DataError, SplitOverlapError
from privface.records import FaceTable

_BITS = 53
"""Bits of a float64 mantissa: more would let the bucket round up to 1.0."""


def person_key(identity: str) -> str:
    """One spelling per person: Unicode NFKC, case folded, outer blanks removed."""
    folded = unicodedata.normalize("NFKC", identity).casefold()
    return unicodedata.normalize("NFKC", folded).strip()  # folding can leave a decomposed form


def person_bucket(identity: str, *, salt: str) -> float:
    """Place of a person on [0, 1): uniform, and the same on every machine and in every year.

    The first 53 bits of BLAKE2b (RFC 7693) over salt and :func:`person_key`; another salt gives an independent placing.
    """
    text = f"{salt}\0{person_key(identity)}".encode("utf-8", "surrogateescape")
    digest = hashlib.blake2b(text, digest_size=8).digest()
    return float((int.from_bytes(digest, "big") >> (64 - _BITS)) / 2.0**_BITS)


def split_people(
    table: FaceTable, *, shares: Mapping[str, float], salt: str = "privface"
) -> dict[str, FaceTable]:
    """Split a set so that no person stands on two sides.

    Each person's side depends on their name and ``salt`` alone, so adding people or photos moves nobody.
    The shares, such as ``{"train": 0.8, "val": 0.2}``, are each above 0, together 1, and hold in expectation over people, not
    exactly; their order counts. An unlabelled photo is a person of its own. A side may be empty.

    Raises:
        DataError: If the shares are not positive or do not add up to 1.
    """
    values = list(shares.values())
    if not values or not all(math.isfinite(v) and v > 0 for v in values) or abs(sum(values) - 1) > 1e-6:
        raise DataError(
            f"The shares {dict(shares)} are not all positive with the sum 1.", hint="Give train=0.8, val=0.2."
        )
    edges = np.cumsum(values)[:-1]
    people, inverse = np.unique(table.identities, return_inverse=True)
    buckets = np.array([person_bucket(str(person), salt=salt) for person in people], dtype=np.float64)
    side = np.searchsorted(edges, buckets, side="right")[inverse]
    parts = {name: table.take(np.flatnonzero(side == i)) for i, name in enumerate(shares)}
    return {name: FaceTable(p.records, p.rejects, f"{table.name}/{name}") for name, p in parts.items()}


def require_disjoint(a: FaceTable, b: FaceTable, *, names: tuple[str, str] = ("a", "b")) -> None:
    """Refuse two sets that share a person.

    People are compared by :func:`person_key`, so another case or Unicode form of a name does not hide an
    overlap. A photo without an identity is compared by its file key with all photos of the other set.

    Raises:
        SplitOverlapError: Naming up to five shared people and how many there are.
    """
    people_a, people_b = _people(a), _people(b)
    shared = [people_a[key] for key in people_a.keys() & people_b.keys()]
    loose = {r.file for r in a if r.identity is None} & set(b.files)
    loose |= {r.file for r in b if r.identity is None} & set(a.files)
    if not shared and not loose:
        return
    what = f"{len(shared)} people" if shared else f"{len(loose)} unlabelled photos"
    examples = ", ".join(repr(name) for name in sorted(shared or loose)[:5])
    raise SplitOverlapError(
        f"{names[0]} and {names[1]} share {what}: {examples}.",
        hint="Split by person, for example with split_people.",
    )


def _people(table: FaceTable) -> dict[str, str]:
    return {person_key(r.identity): r.identity for r in table if r.identity is not None}
