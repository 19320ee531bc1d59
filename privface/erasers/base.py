"""What every eraser is: a scikit-learn transformer that states its promise and can be kept as plain arrays."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils import ClassifierTags
from sklearn.utils.validation import check_is_fitted, validate_data

BLOCK = 16_384
"""Rows whose sums are taken at once; more cost memory and gain no time."""


@dataclass(frozen=True)
class Promise:
    """What may be expected of an eraser, before any audit, and the same in a sentence, with the paper that breaks it.

    ``"linear"``: on the fitting data no linear probe can read the label, provably; ``"empirical"``: nothing but what an audit finds;
    ``"broken"``: a published attack reads the label.
    """

    kind: Literal["linear", "empirical", "broken"]
    text: str


class Eraser(TransformerMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Base of all erasers: ``fit(X, y)`` on labelled embeddings, ``transform(X)`` without any label.

    A fitted eraser is its parameters and the arrays of :meth:`state`; :func:`privface.erasers.save_eraser` writes
    them to safetensors. No array holds a row of the fitting data.

    Attributes:
        classes_: The labels.
        n_features_in_: ``D``, values of a row.
    """

    method: ClassVar[str]
    """Name on the command line."""

    promise: ClassVar[Promise]
    """What it promises while ``normalize`` is off, where it has that parameter."""

    arrays: ClassVar[tuple[str, ...]]
    """Fitted attributes that ``transform`` needs."""

    several: ClassVar[bool] = False
    """Whether it takes labels of more than two classes."""

    @abstractmethod
    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Fit on embeddings ``(N, D)`` with labels ``(N,)`` of two classes, or of more where :attr:`several` says so.

        Raises:
            ValueError: If shapes do not fit, values are not finite, there is one label alone or more than the eraser takes,
                or a setting is out of range.
        """

    def _labelled(self, X: ArrayLike, y: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Checked rows ``(N, D)`` and labels as 0 and 1; sets ``classes_``."""
        rows, labels = validate_data(self, X, y, dtype=np.float64)
        self.classes_, codes = label_codes(labels, several=False)
        return rows, codes

    @abstractmethod
    def _erase(self, rows: NDArray[Any]) -> NDArray[Any]:
        """Erase finite rows ``(N, D)`` of float32 or float64."""

    def transform(self, X: ArrayLike) -> NDArray[Any]:
        """Erase: embeddings ``(N, D)`` to ``(N, E)``; float32 stays float32, and no row depends on another.

        Raises:
            ValueError: If the dimension differs from that of the fit, or values are not finite.
        """
        check_is_fitted(self)
        rows: NDArray[Any] = validate_data(self, X, dtype=[np.float64, np.float32], reset=False)
        return self._erase(rows)

    def stated(self) -> Promise:
        """The promise under the settings in use."""
        if self.promise.kind == "linear" and getattr(self, "normalize", False):
            return Promise(
                "empirical",
                "Bringing rows back to unit length after a linear erasure breaks its certificate; only an audit tells.",
            )
        return self.promise

    def state(self) -> dict[str, NDArray[Any]]:
        """Everything fitted that :meth:`transform` needs, as arrays by name."""
        check_is_fitted(self)
        return {name: np.asarray(getattr(self, name)) for name in self.arrays if hasattr(self, name)}

    def restore(self, state: Mapping[str, NDArray[Any]], *, dimensions: int) -> Self:
        """Become the fitted eraser that :meth:`state` described, for embeddings of ``dimensions`` values."""
        for name, array in state.items():
            setattr(self, name, array)
        self.n_features_in_ = dimensions
        return self

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        tags.classifier_tags = ClassifierTags(multi_class=self.several)
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


class StreamingEraser(Eraser):
    """An eraser of two labels or more that is fitted from exact running sums, so that a table may be larger than memory."""

    several: ClassVar[bool] = True

    @abstractmethod
    def _begin(self, dimensions: int) -> None:
        """Start the sums for the labels ``classes_``."""

    @abstractmethod
    def _add(self, rows: NDArray[np.float64], codes: NDArray[np.int64]) -> None:
        """Add rows ``(B, D)`` with places in ``classes_``, ``(B,)``; ``_count`` rows came before."""

    @abstractmethod
    def _solve(self) -> None:
        """Set the fitted arrays from the sums."""

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Fit on embeddings ``(N, D)`` with labels ``(N,)`` of two classes or more; errors as for :meth:`Eraser.fit`."""
        if hasattr(self, "_count"):
            del self._count
        return self.partial_fit(X, y, classes=np.unique(np.asarray(y)))

    def partial_fit(self, X: ArrayLike, y: ArrayLike, classes: ArrayLike | None = None) -> Self:
        """Add rows; the first call names all labels in ``classes``, as a part may lack some. Errors as for :meth:`Eraser.fit`."""
        first = not hasattr(self, "_count")
        rows, labels = validate_data(self, X, y, dtype=[np.float64, np.float32], reset=first)
        if first:
            self.classes_, _ = label_codes(np.asarray(labels if classes is None else classes), several=True)
            self._begin(rows.shape[1])
            self._count = 0
        codes = known_codes(labels, self.classes_)
        for start in range(0, len(rows), BLOCK):  # float32 rows are widened block by block, not all at once
            part = slice(start, start + BLOCK)
            self._add(rows[part].astype(np.float64), codes[part])
            self._count += len(rows[part])
        self._solve()
        return self


def label_codes(labels: NDArray[Any], *, several: bool) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """The labels, two or with ``several`` more, and each row's place among them."""
    classes, codes = np.unique(labels, return_inverse=True)
    if several and len(classes) < 2:
        raise ValueError(
            f"y holds {len(classes)} class: {classes.tolist()}. Give labels of 2 classes or more."
        )
    if not several and len(classes) != 2:
        raise ValueError(
            f"Only 2 classes can be erased, y holds {len(classes)} classes: {classes[:5].tolist()}."
            " Give labels with both."
        )
    return classes, codes.astype(np.int64)


def known_codes(labels: NDArray[Any], classes: NDArray[Any]) -> NDArray[np.int64]:
    """Labels as their places in the sorted ``classes``."""
    unknown = np.setdiff1d(labels, classes).tolist()
    if unknown:
        raise ValueError(f"y holds {unknown[0]!r}; the labels are {classes.tolist()}.")
    return np.searchsorted(classes, labels).astype(np.int64)


def require_range(name: str, value: float, low: float, high: float) -> None:
    """Refuse a setting outside ``[low, high]``."""
    if not low <= value <= high:
        raise ValueError(f"{name}={value!r} is out of range; it lies in [{low:g}, {high:g}].")


def unit_rows(rows: NDArray[Any]) -> NDArray[Any]:
    """Rows at length 1; a null row stays null, as it has no direction."""
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.where(length > 0, length, 1.0))
