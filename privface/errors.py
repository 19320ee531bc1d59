"""Every error privface raises on purpose.

Each message names the value that was met and the limit it broke; ``hint`` names the cure. The command
line prints both on two lines and exits with code 2.
"""

from __future__ import annotations


class PrivfaceError(Exception):
    """Base of all errors that a user can cause and cure.

    Args:
        message: What was met and which limit it broke, in one sentence.
        hint: What to do about it, in one sentence.
    """

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message} {self.hint}"


class ConfigError(PrivfaceError):
    """A setting is unknown, malformed or out of range."""


class MissingExtraError(PrivfaceError):
    """An optional dependency is needed and not installed."""


class DataError(PrivfaceError):
    """A data source is missing, empty or inconsistent."""


class LabelError(DataError):
    """A label table lacks a column, repeats a row or holds a value outside its vocabulary."""


class SplitOverlapError(DataError):
    """The same person stands on both sides of a split that must be disjoint by person."""


class ImageError(PrivfaceError):
    """A file cannot be decoded as an image."""


class ImageTooLargeError(ImageError):
    """An image has more pixels than the decode limit."""


class InputRangeError(PrivfaceError):
    """A tensor has the wrong shape, type or value range for the model it was handed to."""


class ModelError(PrivfaceError):
    """A model specification, weight file or network does not fit."""


class CheckpointError(ModelError):
    """A run folder is incomplete, damaged or of another architecture."""


class TrainingError(PrivfaceError):
    """Training cannot start or has diverged."""


class ScoreError(PrivfaceError):
    """A score array is empty, not 1-D or not finite."""


class TooFewPairsError(ScoreError):
    """There are too few impostor scores to measure the false match rate asked for."""


class AuditError(PrivfaceError):
    """The audit cannot be carried out on the sets it was given."""


class ProtectError(PrivfaceError):
    """A protection job cannot start or go on."""


class OutputError(PrivfaceError):
    """An output location cannot be written, is locked or holds something else."""
