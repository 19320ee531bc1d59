"""Training: the semi-adversarial loop, and plain training of classifiers and matchers."""

from privface.training.source import ArraySource, DecodingSource, ImageSource
from privface.training.step import EmbeddingAdversary, LossWeights, PixelAdversary, SemiAdversarialStep
from privface.training.supervised import train_gender_classifier, train_matcher
from privface.training.trainer import FitSummary, LoopSettings, SemiAdversarialTrainer

__all__ = [
    "ArraySource",
    "DecodingSource",
    "EmbeddingAdversary",
    "FitSummary",
    "ImageSource",
    "LoopSettings",
    "LossWeights",
    "PixelAdversary",
    "SemiAdversarialStep",
    "SemiAdversarialTrainer",
    "train_gender_classifier",
    "train_matcher",
]
