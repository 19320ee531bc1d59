"""Suppressors of a soft-biometric attribute in face embeddings, with scikit-learn's transformer interface."""

from pathlib import Path

from privface.erasers.adversarial import AdversarialEraser
from privface.erasers.base import Eraser, Promise
from privface.erasers.elimination import IVE, MultiIVE
from privface.erasers.inlp import INLP
from privface.erasers.leace import LEACE
from privface.erasers.pfrnet import PFRNet
from privface.erasers.projection import MeanProjection
from privface.erasers.regional import RegionalTransport
from privface.erasers.rlace import RLACE
from privface.erasers.storage import CARD, SavedEraser, save_eraser
from privface.erasers.storage import load_eraser as _load
from privface.erasers.transport import GaussianTransport
from privface.erasers.vleed import VLEED

METHODS: dict[str, type[Eraser]] = {
    eraser.method: eraser
    for eraser in (
        LEACE,
        MeanProjection,
        INLP,
        RLACE,
        IVE,
        MultiIVE,
        PFRNet,
        VLEED,
        GaussianTransport,
        RegionalTransport,
        AdversarialEraser,
    )
}
"""Every eraser by its name on the command line."""


def load_eraser(folder: Path) -> SavedEraser:
    """Read the folder of a fitted eraser.

    Raises:
        CheckpointError: If a file is missing, damaged, a pickle, or of an unknown method.
    """
    return _load(folder, METHODS)


__all__ = [
    "CARD",
    "INLP",
    "IVE",
    "LEACE",
    "METHODS",
    "RLACE",
    "VLEED",
    "AdversarialEraser",
    "Eraser",
    "GaussianTransport",
    "MeanProjection",
    "MultiIVE",
    "PFRNet",
    "Promise",
    "RegionalTransport",
    "SavedEraser",
    "load_eraser",
    "save_eraser",
]
