"""Unlinkability (ISO/IEC 24745, 30136): can two protections of one person be told to belong together?

After Gomez-Barrero, Galbally, Rathgeb and Busch, "General framework to evaluate unlinkability in biometric template
protection systems", IEEE TIFS 13(6), 2018, with equal priors (their omega = 1). A score ``s`` compares a face of one protection
with a face of the other; *mated* scores are of one person, *non-mated* of two. With their densities ``m`` and ``n``

    D(s) = max(0, (m(s) - n(s)) / (m(s) + n(s)))        D_sys = integral of D(s) m(s) ds

so D is 0 where a score speaks for two people or for neither, and 1 where only one person gives it.

**Densities.** Their program counts both kinds of scores in 100 bins of equal width and puts the counts into the formulas.
Chance alone then makes D_sys positive: 1,000 scores of each kind from one normal distribution give 0.09 on average. Here

- bins hold equal shares of the scores (both kinds weighing the same), ``2 n^(1/3)`` of them for the smaller kind's ``n``, so that a
  rising map of the scores changes nothing and no bin is nearly empty;
- bins are filled from one half of the people and D_sys is estimated on the other, then the other way round. D_sys is an
  f-divergence, ``f(r) = r max(0, (r - 1) / (r + 1))`` of ``r = m / n``, so with the posterior ``q = m / (m + n)`` of *any* bins

      D_sys >= E_m[1 - 2 (1 - q)^2 where q > 1/2] - E_n[2 q^2 where q > 1/2]

  and the two are equal where ``q`` is right (the variational form of Nguyen, Wainwright and Jordan, IEEE T-IT 2010). On people
  who did not fill the bins the right side is unbiased, so chance adds nothing; 1,000 scores of each kind give 0.001. With few scores
  the bins are poor and the figure is low, by 0.02 with 300 mated scores: judge by the upper end of the interval.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix

from privface.audit.context import cleared
from privface.audit.curves import check_scores
from privface.audit.intervals import (
    BootstrapParams,
    PairSample,
    drawn_means,
    people_multiplicities,
    percentile_interval,
    rate_interval,
)
from privface.audit.matching import choose_pairs
from privface.audit.part import Line, Part
from privface.audit.streaming import cosine_scores
from privface.audit.subjects import EmbeddingData
from privface.records import Embeddings, Measured, Scores

if TYPE_CHECKING:
    from privface.audit.context import Context

MIN_PAIRS = 20
"""Mated, and non-mated, pairs in each half of the people below which nothing is said."""

MAX_NON_MATED = 500_000
"""Non-mated pairs that are compared at most; the mated ones decide how sure the figure is."""


@dataclass(frozen=True)
class LocalMeasure:
    """D(s), constant between cuts.

    Attributes:
        cuts: Where bins meet, halfway between two scores, rising, shape ``(K - 1,)``.
        posterior: Chance that a score of the bin is mated, at equal priors, shape ``(K,)``.
    """

    cuts: NDArray[np.float64]
    posterior: NDArray[np.float64]

    @classmethod
    def fit(cls, mated: Scores, non_mated: Scores) -> LocalMeasure:
        """Count scores in bins of equal shares.

        Args:
            mated: Finite scores of one person across the two protections, shape ``(M,)``.
            non_mated: Finite scores of two people, shape ``(N,)``.

        Raises:
            ScoreError: If an array is empty, not 1-D or has NaN.
        """
        mated, non_mated = check_scores(mated, name="mated"), check_scores(non_mated, name="non_mated")
        # an even number, so that a cut lies between the kinds where they are apart
        bins = 2 * max(1, round(min(mated.size, non_mated.size) ** (1 / 3)))
        scores = np.concatenate([mated, non_mated])
        weights = np.repeat([0.5 / mated.size, 0.5 / non_mated.size], [mated.size, non_mated.size])
        order = np.argsort(scores, kind="stable")
        ranks = np.searchsorted(np.cumsum(weights[order]), np.arange(1, bins) / bins - 1e-9)
        values = np.unique(scores)
        places = np.unique(np.searchsorted(values, scores[order][ranks]))
        places = places[places < values.size - 1]
        cuts = (values[places] + values[places + 1]) / 2.0
        m, n = (
            np.bincount(np.searchsorted(cuts, s), minlength=cuts.size + 1) / s.size
            for s in (mated, non_mated)
        )
        return cls(cuts, m / (m + n))

    @property
    def levels(self) -> NDArray[np.float64]:
        """D of each bin, in [0, 1], shape ``(K,)``."""
        return np.asarray(np.maximum(2.0 * self.posterior - 1.0, 0.0), np.float64)

    def bound(self, mated: Scores, non_mated: Scores) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """What each score of other people adds to D_sys and takes from it, shapes ``(M,)`` and ``(N,)``."""
        m, n = (self.posterior[np.searchsorted(self.cuts, s)] for s in (mated, non_mated))
        return np.where(m > 0.5, 1.0 - 2.0 * np.square(1.0 - m), 0.0), np.where(n > 0.5, 2.0 * n * n, 0.0)


def d_sys(mated: Scores, non_mated: Scores, *, seed: int = 0) -> float:
    """Global unlinkability measure of two lists of scores, each score a person's of its own.

    Args:
        mated: Scores of one person across the two protections, shape ``(M,)``; comparisons that failed (``-inf``) are left out.
        non_mated: Scores of two people, shape ``(N,)``.
        seed: Seed of the halves; the same seed gives the same value.

    Returns:
        0 (nothing links) to 1 (everything does); NaN if a half has fewer than 20 scores of a kind.

    Raises:
        ScoreError: If an array is empty, not 1-D or has NaN.
    """
    mated, non_mated = check_scores(mated, name="mated"), check_scores(non_mated, name="non_mated")
    own = np.arange(mated.size + non_mated.size)
    others = np.repeat(own[mated.size :, None], 2, axis=1)
    pairs = PairSample(mated, own[: mated.size], non_mated, others, own.size)
    return measure_d_sys(pairs, BootstrapParams(resamples=2, seed=seed)).value


def measure_d_sys(pairs: PairSample, params: BootstrapParams) -> Measured:
    """D_sys with an interval over people.

    A resample counts a mated pair as often as its person was drawn, and a non-mated pair as often as the product of its two
    people's draws. The bins stay those of the point estimate.

    Args:
        pairs: Mated (``genuine``) and non-mated (``impostor``) scores and who is in them; scores of ``-inf`` are left out.
        params: Resamples, and the seed of the halves.

    Returns:
        A figure in [0, 1] that rests on ``n`` mated pairs, or why there is none.
    """
    half = np.random.default_rng([params.seed, 9]).permutation(pairs.n_people) % 2
    draws = people_multiplicities(pairs.n_people, params)
    kept_m, kept_n = np.isfinite(pairs.genuine), np.isfinite(pairs.impostor)
    mated_in = [kept_m & (half[pairs.genuine_people] == k) for k in (0, 1)]
    non_mated_in = [kept_n & (half[pairs.impostor_people] == k).all(axis=1) for k in (0, 1)]
    count = int(kept_m.sum())
    fewest = min(int(rows.sum()) for rows in (*mated_in, *non_mated_in))
    if fewest < MIN_PAIRS:
        reason = f"a half of the people has {fewest} pairs of a kind, fewer than {MIN_PAIRS}; give more people or photos"
        return Measured.undefined(reason, n=count)
    values, spread = [], []
    for k in (0, 1):
        local = LocalMeasure.fit(pairs.genuine[mated_in[1 - k]], pairs.impostor[non_mated_in[1 - k]])
        rows, others = mated_in[k], non_mated_in[k]
        gain, loss = local.bound(pairs.genuine[rows], pairs.impostor[others])
        values.append(float(gain.mean() - loss.mean()))
        spread.append(
            drawn_means(gain, pairs.genuine_people[rows], draws)
            - _pair_means(loss, pairs.impostor_people[others], draws)
        )
    value = float(np.clip(np.mean(values), 0.0, 1.0))
    drawn = np.clip(np.mean(spread, axis=0), 0.0, 1.0)
    ends = percentile_interval(drawn, params.level)
    if ends.low == ends.high:  # all scores of a kind in one bin: as much doubt as half a person makes
        ends = rate_interval(value, drawn, pairs.n_people, level=params.level)
    return Measured(value, min(ends.low, value), max(ends.high, value), count)


def _pair_means(
    values: NDArray[np.float64], people: NDArray[np.int64], draws: NDArray[np.int64]
) -> NDArray[np.float64]:
    """As :func:`drawn_means`, of values of pairs of people ``(K, 2)``."""
    shape = (draws.shape[1], draws.shape[1])
    sums = [
        np.asarray((draws * (coo_matrix((v, people.T), shape).tocsr() @ draws.T).T).sum(axis=1))
        for v in (values, np.ones(values.size))
    ]
    with np.errstate(invalid="ignore"):  # a draw without any of them is undefined
        return np.asarray(sums[0] / sums[1], np.float64)


def unlinkability_row(
    first: Embeddings,
    second: Embeddings,
    identities: NDArray[np.str_],
    *,
    matcher: str,
    seen: bool | None = None,
    params: BootstrapParams | None = None,
) -> dict[str, Any]:
    """D_sys between two protections of the same people, as one matcher sees it.

    Args:
        first: Embeddings of the first protection, shape ``(N, D)``; rows of NaN failed to enrol and are compared with nothing.
        second: Of the second protection, same photos in the same order; of another dimension, nothing can be compared.
        identities: Who is on each photo, shape ``(N,)``.
        matcher: Name for the row.
        seen: Whether the protector trained against this matcher.
        params: Bootstrap settings.

    Returns:
        ``d_sys`` of two different photos of a person, ``d_sys_same_photo`` of one photo protected twice, how many
        ``mated_pairs`` and ``non_mated_pairs`` were compared, and ``local``: ``cuts`` between bins of scores and D of each bin.
    """
    params = params or BootstrapParams()
    row: dict[str, Any] = {"matcher": matcher, "seen": seen}
    if first.shape[1] != second.shape[1]:
        none = Measured.undefined(
            f"the two protections have {first.shape[1]} and {second.shape[1]} dimensions"
        )
        return {**row, "d_sys": none, "d_sys_same_photo": none, "mated_pairs": 0, "non_mated_pairs": 0}
    names, person = np.unique(identities, return_inverse=True)
    pairs = choose_pairs(identities, max_impostors=MAX_NON_MATED, seed=params.seed)
    same = np.repeat(np.arange(len(person))[:, None], 2, axis=1)
    mated, non_mated, again = (
        np.nan_to_num(cosine_scores(first, second, chosen), nan=-np.inf)
        for chosen in (pairs.genuine, pairs.impostor, same)
    )
    figures = {
        title: measure_d_sys(PairSample(scores, whose, non_mated, person[pairs.impostor], len(names)), params)
        if scores.size and non_mated.size
        else Measured.undefined("no person has two photos, or there is one person only")
        for title, scores, whose in (
            ("d_sys", mated, person[pairs.genuine[:, 0]]),
            ("d_sys_same_photo", again, person),
        )
    }
    made = mated[np.isfinite(mated)], non_mated[np.isfinite(non_mated)]
    row |= {**figures, "mated_pairs": made[0].size, "non_mated_pairs": made[1].size}
    if made[0].size and made[1].size:
        local = LocalMeasure.fit(*made)
        row["local"] = {"cuts": local.cuts, "d": local.levels}
    return row


def _line(row: Mapping[str, Any]) -> Line:
    compared = f"{row.get('mated_pairs')} pairs of one person, {row.get('non_mated_pairs')} of two"
    return str(row.get("matcher")), compared, [row.get("d_sys"), row.get("d_sys_same_photo")]


PART: Final = Part(
    key="unlinkability",
    title="Can two protections of one person be linked?",
    lead=(
        "Unlinkability, in the words of ISO/IEC 24745. Faces of one protection are compared with faces of a second protection"
        " of the same people. D_sys says how surely the score tells that two faces are of one person: 0 is never, 1 is always"
        " (Gomez-Barrero et al., 2018). For face images that are made to be matched, linking across is wanted, and a high D_sys"
        " is no defect. It is a defect of stored templates that should be revocable: if one data base is lost, new templates"
        " must not be linked with the lost ones. The verdict does not use this figure."
    ),
    caption="D_sys between the first and the second protection",
    first="Matcher",
    columns=(("D_sys", "two photos of a person"), ("D_sys", "one photo, protected twice")),
    line=_line,
    percent=False,
)
"""The part of the report."""


def run(context: Context) -> dict[str, Any]:
    """Section: ``unlinkability`` rows, one a matcher; nothing where there is no second protection."""
    data = context.data
    second: dict[str, Embeddings] = {}
    if isinstance(data, EmbeddingData):
        second = {name: cleared(table) for name, table in data.second.items()}
    elif data.second is not None:
        matchers = context.settings.matchers
        second = {m.name: context.embed(m, *data.second, "second protected") for m in matchers}
    rows, first = [], context.audited(context.templates)
    for number, (name, other) in enumerate(second.items()):
        row = unlinkability_row(
            first[name][1],
            other,
            data.identities,
            matcher=name,
            seen=context.seen(name),
            params=context.params,
        )
        rows.append(row)
        context.report("link two protections", number + 1, len(second))
    return {"unlinkability": rows} if rows else {}
