"""Suppressors of a soft-biometric attribute in face embeddings, with scikit-learn's transformer interface."""

from privface.erasers.inlp import INLP
from privface.erasers.leace import LEACE
from privface.erasers.projection import MeanProjection

__all__ = ["INLP", "LEACE", "MeanProjection"]
