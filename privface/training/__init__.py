"""Training: the semi-adversarial loop, and plain training of classifiers, matchers and autoencoders."""

from privface.config import LossWeights
from privface.training.checkpoint import RESUME_FILE
from privface.training.reconstruction import Epoch, FitSettings, UnitSource, evaluate, train_autoencoder
from privface.training.source import ArraySource, DecodingSource, ImageSource
from privface.training.step import EmbeddingAdversary, PixelAdversary, SemiAdversarialStep, TrainingStep
from privface.training.supervised import train_gender_classifier, train_matcher
from privface.training.trainer import FitSummary, LoopSettings, SemiAdversarialTrainer, embed_originals

__all__ = [
    "RESUME_FILE",
    "ArraySource",
    "DecodingSource",
    "EmbeddingAdversary",
    "Epoch",
    "FitSettings",
    "FitSummary",
    "ImageSource",
    "LoopSettings",
    "LossWeights",
    "PixelAdversary",
    "SemiAdversarialStep",
    "SemiAdversarialTrainer",
    "TrainingStep",
    "UnitSource",
    "embed_originals",
    "evaluate",
    "train_autoencoder",
    "train_gender_classifier",
    "train_matcher",
]
