"""The adaptive attacker without a deep network: probes retrained on protected data of other people."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Protocol, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from privface.audit.curves import auc, by_label
from privface.audit.kernels import KernelSVM, SimilarityClassifier
from privface.errors import AuditError, ConfigError
from privface.records import Embeddings, Scores
from privface.threads import PartT, ResultT, map_parts

ProbeKind: TypeAlias = Literal[
    "logistic", "linear-svm", "rbf-svm", "quadratic", "knn", "mlp", "boosted-trees", "similarity"
]

PROBE_KINDS: tuple[ProbeKind, ...] = get_args(ProbeKind)

MAX_KERNEL_ROWS = 8_000
"""Training rows of the attackers that compare every row with every other."""


class FittedProbe(Protocol):
    """A probe after training."""

    @property
    def val_auc(self) -> float:
        """AUC on the validation people, by which settings and the worst probe are chosen."""

    @property
    def setting(self) -> str:
        """The hyper-parameters that won on validation people; empty if there were none to choose."""

    def scores(self, data: NDArray[Any]) -> Scores:
        """Male scores, shape ``(N,)``; higher is more male."""


class RetrainedProbe(Protocol):
    """An attacker who learns from labelled protected data of people other than the victims."""

    @property
    def name(self) -> str:
        """Name in the report."""

    def fit(
        self,
        train: NDArray[Any],
        train_genders: NDArray[np.int64],
        train_people: NDArray[np.str_],
        val: NDArray[Any],
        val_genders: NDArray[np.int64],
        *,
        seed: int,
    ) -> FittedProbe:
        """Train on some people and choose settings on others; the same seed gives the same probe.

        Args:
            train: Embeddings ``(N, D)`` or uint8 RGB ``(N, H, W, 3)``.
            train_genders: 0 (female) or 1 (male), shape ``(N,)``.
            train_people: Identities, shape ``(N,)``.
            val: The same of other people, ``(M, ...)``.
            val_genders: Shape ``(M,)``.
            seed: Of whatever is random.
        """


@dataclass(frozen=True)
class EmbeddingProbe:
    """A classifier of gender on embeddings, tuned on validation people.

    - ``"logistic"`` and ``"linear-svm"`` find a direction;
    - ``"rbf-svm"`` (Gaussian kernel) and ``"mlp"`` (one hidden layer) find curved borders;
    - ``"quadratic"`` (a discriminant with shrunk covariances, or logistic regression on coordinates and their
      squares) reads norms and covariances even where the means are equal;
    - ``"knn"`` asks the nearest labelled photos;
    - ``"boosted-trees"`` (histogram gradient boosting) works on single coordinates;
    - ``"similarity"`` needs nothing but the system's own comparator: the mean cosine similarity to the
      nearest labelled men minus that to the nearest labelled women (Osorio-Roig et al., TBIOM 2022).

    All but the last see standardised embeddings. Genders count equally: by class weights, by drawing the rarer
    gender again (mlp, boosted-trees), or by taking as many neighbours of each (similarity). The setting with the best
    validation AUC wins, the first of equals. Kernel machines and neighbours learn from at most
    :data:`MAX_KERNEL_ROWS` rows, a random choice where there are more, with a row of a class that it would miss.

    Attributes:
        kind: Which classifier.
    """

    kind: ProbeKind

    def __post_init__(self) -> None:
        if self.kind not in PROBE_KINDS:
            raise ConfigError(
                f"{self.kind!r} is no embedding probe.", hint=f"Choose among {', '.join(PROBE_KINDS)}."
            )

    @property
    def name(self) -> str:
        """Name in the report."""
        return self.kind

    def fit(
        self,
        train: Embeddings,
        train_genders: NDArray[np.int64],
        train_people: NDArray[np.str_],
        val: Embeddings,
        val_genders: NDArray[np.int64],
        *,
        seed: int,
    ) -> FittedEmbeddingProbe:
        """Train one classifier per setting and keep the best on validation people; see :meth:`RetrainedProbe.fit`.

        Raises:
            AuditError: If embeddings are not finite, a gender is missing, or there are fewer than two training people.
        """
        _check_part(train, train_genders, "training")
        _check_part(val, val_genders, "validation")
        if len(np.unique(train_people)) < 2:
            raise AuditError(
                "A probe needs at least two training people, there is one.", hint="Give more people."
            )
        x, y = np.asarray(train, np.float64), train_genders
        if self.kind in _KERNELS and len(x) > MAX_KERNEL_ROWS:
            order = np.random.default_rng([seed, 4]).permutation(len(x))
            each = order[np.unique(y[order], return_index=True)[1]]  # a rare class must not be missed
            kept = np.union1d(order[:MAX_KERNEL_ROWS], each)
            x, y = x[kept], y[kept]
        if self.kind in _DRAWN_AGAIN:
            again = _balance(y, seed)
            x, y = x[again], y[again]
        if self.kind == "mlp":  # learns from float32 in two thirds of the time, and scores in float64
            x = x.astype(np.float32)

        def tried(candidate: tuple[str, Any]) -> FittedEmbeddingProbe:
            setting, model = candidate
            model.fit(x, y)
            scores = FittedEmbeddingProbe(model, setting, np.nan).scores(val)
            return FittedEmbeddingProbe(model, setting, auc(*by_label(scores, val_genders)))

        candidates = list(_candidates(self.kind, x, y, seed).items())
        most = 2 if self.kind in _KERNELS else len(candidates)  # each kernel of 8,000 rows is half a gigabyte
        parts = [candidates[start : start + most] for start in range(0, len(candidates), most)]
        fitted = [probe for part in parts for probe in fit_side_by_side(tried, part)]
        return max(fitted, key=lambda probe: probe.val_auc)


def fit_side_by_side(fit: Callable[[PartT], ResultT], candidates: Sequence[PartT]) -> list[ResultT]:
    """``fit`` of every candidate, in order, each in a thread of its own with one thread of linear algebra.

    These matrices are small: two threads in one product gain little, and lose much where cores are shared. The result does
    not depend on how many threads there are.
    """
    from sklearn.exceptions import ConvergenceWarning  # noqa: PLC0415
    from threadpoolctl import threadpool_limits  # noqa: PLC0415

    with warnings.catch_warnings(), threadpool_limits(1, user_api="blas"):
        # a candidate that has not converged is a weaker attacker, and validation judges it
        warnings.simplefilter("ignore", ConvergenceWarning)
        # fewer photos than a batch: scikit-learn then takes them all, as it should
        warnings.filterwarnings("ignore", message="Got `batch_size` less than 1 or larger")
        return map_parts(fit, candidates)


@dataclass(frozen=True)
class FittedEmbeddingProbe:
    """A trained :class:`EmbeddingProbe`.

    Attributes:
        model: scikit-learn pipeline.
        setting: The hyper-parameters that won.
        val_auc: Their AUC on validation people.
    """

    model: Any
    setting: str
    val_auc: float

    def scores(self, data: Embeddings) -> Scores:
        """Male scores (log-odds or margin), shape ``(N,)``, of finite embeddings ``(N, D)``."""
        x = np.asarray(data, np.float64)
        if hasattr(self.model, "decision_function"):
            return np.asarray(self.model.decision_function(x), np.float64)
        chance = np.clip(self.model.predict_proba(x)[:, 1], 1e-15, 1.0 - 1e-15)
        return np.asarray(np.log(chance) - np.log1p(-chance), np.float64)


def _check_part(data: Embeddings, genders: NDArray[np.int64], part: str) -> None:
    if data.ndim != 2 or len(data) != len(genders):
        raise AuditError(f"The {part} part has embeddings {data.shape} and {len(genders)} genders.")
    if not np.isfinite(data).all():
        raise AuditError(
            f"{int((~np.isfinite(data)).any(axis=1).sum())} embeddings of the {part} part are not finite.",
            hint="Leave out photos that failed to enrol.",
        )
    if set(np.unique(genders).tolist()) != {0, 1}:
        raise AuditError(
            f"The {part} part has genders {sorted(set(np.asarray(genders).tolist()))}; both are needed.",
            hint="Give more people.",
        )


def _balance(genders: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    rng = np.random.default_rng([seed, 2])
    groups = [np.flatnonzero(genders == label) for label in (0, 1)]
    size = max(group.size for group in groups)
    parts = [np.concatenate([g, rng.choice(g, size - g.size)]) if g.size < size else g for g in groups]
    return np.sort(np.concatenate(parts))


def _candidates(kind: ProbeKind, x: NDArray[np.float64], y: NDArray[np.int64], seed: int) -> dict[str, Any]:
    """What is fitted to rows ``(N, D)`` of both genders, by its setting."""
    # scikit-learn takes seconds to import: each kind imports its own part
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415
    from sklearn.pipeline import make_pipeline  # noqa: PLC0415
    from sklearn.preprocessing import FunctionTransformer, StandardScaler  # noqa: PLC0415

    rows, dimensions = x.shape
    logistic = partial(LogisticRegression, class_weight="balanced", max_iter=1000)
    match kind:
        case "rbf-svm":
            return {
                f"C={c:g},gamma={factor:g}/D": KernelSVM(factor / dimensions, c)
                for factor in (0.25, 1.0, 4.0)
                for c in (1.0, 10.0)
            }
        case "similarity":
            return {f"k={k}": SimilarityClassifier(k) for k in (1, 5, 20, 60)}
        case "logistic":
            found = {f"C={c:g}": logistic(C=c) for c in (0.001, 0.01, 0.1, 1.0)}
        case "linear-svm":
            from sklearn.svm import LinearSVC  # noqa: PLC0415

            machine = partial(
                LinearSVC, class_weight="balanced", dual="auto", random_state=seed, max_iter=4000
            )
            found = {f"C={c:g}": machine(C=c) for c in (1e-4, 1e-3, 1e-2, 0.1)}
        case "quadratic":
            from sklearn.decomposition import PCA  # noqa: PLC0415
            from sklearn.discriminant_analysis import QuadraticDiscriminantAnalysis  # noqa: PLC0415

            most = min(dimensions, int(np.bincount(y, minlength=2).min()) - 1)
            found = {
                f"pca={kept},shrinkage={shrinkage:g}": make_pipeline(
                    PCA(kept, svd_solver="covariance_eigh"),
                    QuadraticDiscriminantAnalysis(priors=[0.5, 0.5], reg_param=shrinkage),
                )
                for kept in (min(most, k) for k in (16, 64, 256))
                if kept >= 1  # a covariance needs more rows than dimensions
                for shrinkage in (0.1, 0.5, 0.9, 0.99)
            }
            for c in (1e-4, 1e-3, 1e-2):
                squares = FunctionTransformer(_with_squares)
                found[f"squares,C={c:g}"] = make_pipeline(squares, StandardScaler(), logistic(C=c))
        case "knn":
            from sklearn.neighbors import KNeighborsClassifier  # noqa: PLC0415

            nearest = partial(KNeighborsClassifier, weights="distance", algorithm="brute")
            found = {f"k={k}": nearest(k) for k in (min(k, rows) for k in (5, 15, 45, 135))}
        case "mlp":
            from sklearn.neural_network import MLPClassifier  # noqa: PLC0415

            batch = int(np.clip(rows // 40, 64, 256))
            network = partial(MLPClassifier, (128,), batch_size=batch, random_state=seed, tol=0.0)
            found = {
                f"alpha={alpha:g},max_iter={rounds}": network(alpha=alpha, max_iter=rounds)
                for alpha in (0.01, 1.0)
                for rounds in (20, 80)
            }
        case "boosted-trees":
            from sklearn.ensemble import HistGradientBoostingClassifier  # noqa: PLC0415

            trees = partial(
                HistGradientBoostingClassifier,
                max_iter=100,
                max_bins=63,
                early_stopping=False,
                random_state=seed,
            )
            # wide tables cost in proportion to their width, so they get one setting
            depths = (2, 5) if dimensions <= 128 else (3,)
            found = {f"depth={depth}": trees(max_depth=depth) for depth in depths}
    return {setting: make_pipeline(StandardScaler(), model) for setting, model in found.items()}


def _with_squares(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.hstack([x, np.square(x)])


_KERNELS = frozenset({"rbf-svm", "knn", "similarity"})
_DRAWN_AGAIN = frozenset({"mlp", "boosted-trees"})
"""These take no weights, or become many times slower with them (scikit-learn 1.9 sorts every column by weight)."""
