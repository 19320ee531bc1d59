"""Suppressors of a soft-biometric attribute in face embeddings, with scikit-learn's transformer interface."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from privface.lazy import on_demand

if TYPE_CHECKING:
    from privface.erasers.adversarial import AdversarialEraser
    from privface.erasers.base import Eraser, Promise
    from privface.erasers.elimination import IVE, MultiIVE
    from privface.erasers.inlp import INLP
    from privface.erasers.leace import LEACE
    from privface.erasers.pfrnet import PFRNet
    from privface.erasers.projection import MeanProjection
    from privface.erasers.regional import RegionalTransport
    from privface.erasers.rlace import RLACE
    from privface.erasers.storage import CARD, SavedEraser, load_eraser, save_eraser
    from privface.erasers.transport import GaussianTransport
    from privface.erasers.vleed import VLEED
else:
    __getattr__, __dir__ = on_demand(__name__, __file__)


_CLASSES = {
    "leace": "LEACE",
    "mean-projection": "MeanProjection",
    "inlp": "INLP",
    "rlace": "RLACE",
    "ive": "IVE",
    "multi-ive": "MultiIVE",
    "pfrnet": "PFRNet",
    "vleed": "VLEED",
    "transport": "GaussianTransport",
    "regional": "RegionalTransport",
    "adversarial": "AdversarialEraser",
}


class _Methods(Mapping[str, "type[Eraser]"]):
    """Classes by name, each loaded when it is asked for: some need torch, which takes seconds to load."""

    def __getitem__(self, name: str) -> type[Eraser]:
        found: type[Eraser] = getattr(sys.modules[__name__], _CLASSES[name])
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(_CLASSES)

    def __len__(self) -> int:
        return len(_CLASSES)


METHODS: Mapping[str, type[Eraser]] = _Methods()
"""Every eraser by its name on the command line."""


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
