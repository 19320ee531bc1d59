"""Suppressors of a soft-biometric attribute in face embeddings, with scikit-learn's transformer interface."""

from privface.erasers.leace import LEACE

__all__ = ["LEACE"]
