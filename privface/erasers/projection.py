"""Mean projection: the direction between the two means is taken out of every embedding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike

from privface.erasers.base import Promise
from privface.erasers.linear import LinearEraser


@dataclass(kw_only=True, eq=False, repr=False)  # scikit-learn has its own
class MeanProjection(LinearEraser):
    """Projects embeddings onto the complement of the difference of the class means.

    The simplest of the erasers (Bolukbasi et al., NeurIPS 2016, for words). Promise: see :attr:`promise`; embeddings are moved
    further than need be.

    Args:
        normalize: Bring erased rows back to unit length; this breaks the linear guarantee.

    Attributes:
        left_: The direction in unit length, shape ``(D, 1)``; zeros if the means agree. ``right_`` is the same.
    """

    method: ClassVar[str] = "mean-projection"
    promise: ClassVar[Promise] = Promise(
        "linear",
        "On the fitting data both labels have one mean, so no linear classifier reads the label; curved probes still do.",
    )

    normalize: bool = False

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Fit on embeddings ``(N, D)`` with two labels ``(N,)``; errors as for :meth:`Eraser.fit`."""
        rows, codes = self._labelled(X, y)
        self.mean_ = rows.mean(axis=0)
        gap = rows[codes == 1].mean(axis=0) - rows[codes == 0].mean(axis=0)
        norm = float(np.linalg.norm(gap))
        self.left_ = self.right_ = (gap / norm if norm > 0 else np.zeros_like(gap))[:, None]
        return self
