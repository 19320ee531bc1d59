"""Irreversibility (ISO/IEC 24745, 30136): is a recovered face taken for an original of the same person?

The audit's recovery attackers learn the way back from pairs of other people. What they give for their victims is compared
here with *other* original photos of the same person, the field's mated comparison: an attacker would show the recovered face
to a system that stores an original (type-II attack of Mai et al., IEEE TPAMI 2019). Nothing is trained here.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from privface.audit.intervals import BootstrapParams
from privface.audit.matching import evaluate_matching
from privface.audit.part import Line, Part
from privface.audit.subjects import Subjects
from privface.records import Embeddings

if TYPE_CHECKING:
    from privface.audit.context import Context

FMRS: Final = (1e-2, 1e-3)
_SIDES: Final = ("original", "protected", "recovered")


def irreversibility_row(
    original: Embeddings,
    protected: Embeddings,
    recovered: Embeddings,
    subjects: Subjects,
    victims: NDArray[np.bool_],
    *,
    names: Mapping[str, Any],
    params: BootstrapParams,
    max_impostors: int = 2_000_000,
) -> dict[str, Any]:
    """TMR of recovered faces against originals, beside protected and original faces against the same originals.

    Every side is compared over the same pairs of the same people, each at its own threshold for the FMR. Intervals draw
    people, as in :func:`~privface.audit.matching.evaluate_matching`. A side that tells nobody apart has a TMR of about the
    FMR; one that is as good as the original has the TMR of originals.

    Args:
        original: Embeddings of the originals, shape ``(N, D)``; rows of NaN failed to enrol.
        protected: Of the protected photos, same order; of another dimension where they cannot be compared.
        recovered: Of what was recovered of them, shape ``(N, D)``; rows of NaN where nothing was.
        subjects: Labels.
        victims: People whom the recovery attacker has not met, shape ``(N,)``.
        names: What else the row says: who recovered what, and which matcher compares.
        params: Bootstrap settings.
        max_impostors: As of :func:`~privface.audit.matching.evaluate_matching`.

    Returns:
        ``names``; ``people``, ``genuine_pairs``, ``impostor_pairs``; ``original``, ``protected`` and ``recovered``, each the
        TMR in [0, 1] by FMR, undefined with a reason where too few pairs support it (rule of 30).

    Raises:
        AuditError: If shapes do not fit.
    """
    people = subjects.identities[victims]
    match = partial(
        evaluate_matching,
        original[victims],
        identities=people,
        genders=subjects.genders[victims],
        matcher=str(names.get("matcher")),
        params=params,
        max_impostors=max_impostors,
        impostors=("all",),
    )
    rows = [*match(protected[victims], modes=("O-O", "P-O")), *match(recovered[victims], modes=("P-O",))]
    return {
        **names,
        "people": len(np.unique(people)),
        "genuine_pairs": rows[-1].genuine_pairs,
        "impostor_pairs": rows[-1].impostor_pairs,
        **{side: {f"{fmr:g}": row.tmr[fmr] for fmr in FMRS} for side, row in zip(_SIDES, rows, strict=True)},
    }


def _line(row: Mapping[str, Any]) -> Line:
    source = str(row.get("input", "image"))
    what = "photos" if source == "image" else "embeddings"
    figures = [
        part.get(f"{fmr:g}") if isinstance(part := row.get(side), Mapping) else None
        for fmr in FMRS
        for side in _SIDES
    ]
    return str(row.get("matcher")), f"{what} recovered by {row.get('recoverer')}", figures


PART: Final = Part(
    key="irreversibility",
    title="Does a recovered face match the person\u2019s originals?",
    lead=(
        "Irreversibility, in the words of ISO/IEC 24745. The attacker who learned to turn the protection back shows each"
        " recovered face to a matcher that knows another original photo of the same person. If R-O is as high as O-O, the"
        " recovery is as good as the original. If it is as low as the false match rate, nothing came back. P-O is the"
        " protected face as it is: what R-O has above P-O is what the recovery adds. Many protections keep P-O high on"
        " purpose, so that people are still recognised; then a high R-O alone is no defect. The verdict does not use these figures."
    ),
    caption="TMR against other original photos of the same person, on people the attacker has not met",
    first="Matcher",
    columns=tuple(
        (mode, f"{title}, at FMR {100 * fmr:g} %")
        for fmr in FMRS
        for mode, title in (("O-O", "original"), ("P-O", "protected"), ("R-O", "recovered"))
    ),
    line=_line,
    percent=True,
)
"""The part of the report."""


def run(context: Context) -> dict[str, Any]:
    """Section: ``irreversibility`` rows, one for each recovery and matcher; nothing where nothing was recovered.

    Recovered photos are compared with every matcher, embeddings with their own; a code has no matcher.
    """
    rows, victims = [], context.people.test
    for view, recoverer, back in context.backs:
        ok = view.original_ok & view.protected_ok & victims
        if back is None or not ok.any():
            continue
        found: dict[str, Embeddings] = {}
        if view.medium == "image":
            found = {m.name: context.embed(m, back, ok, "recovered") for m in context.settings.matchers}
        elif view.medium == "embedding":
            found = {view.source.partition(":")[2]: np.where(ok[:, None], back, np.nan)}
        for number, (name, recovered) in enumerate(found.items()):
            names = {
                "input": view.source,
                "recoverer": recoverer.name,
                "matcher": name,
                "seen": context.seen(name),
            }
            row = irreversibility_row(
                *context.templates[name],
                recovered,
                context.whole,
                victims,
                names=names,
                params=context.params,
                max_impostors=context.settings.max_impostors,
            )
            rows.append(row)
            context.report("match what was recovered", number + 1, len(found))
    return {"irreversibility": rows} if rows else {}
