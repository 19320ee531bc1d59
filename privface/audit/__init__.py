"""Honest measurement of what a protection hides (leakage) and what it keeps (matching, quality)."""

from privface.audit.auditor import Auditor
from privface.audit.averaging import Averaging
from privface.audit.cache import Cache
from privface.audit.context import Embedder, FrozenProbe
from privface.audit.curves import (
    DetCurve,
    OperatingPoint,
    auc,
    balanced_accuracy,
    best_threshold,
    d_prime,
    det_curve,
    eer,
    leakage,
    tmr_at_fmr,
)
from privface.audit.image_probe import CNNProbe
from privface.audit.intervals import (
    BootstrapParams,
    Interval,
    PairSample,
    draw_pairs,
    people_multiplicities,
    probe_interval,
)
from privface.audit.matching import MatchingResult, evaluate_matching
from privface.audit.picture_probes import PixelProbe
from privface.audit.probes import EmbeddingProbe, RetrainedProbe
from privface.audit.quality import psnr, ssim
from privface.audit.result import AuditResult, GateOutcome
from privface.audit.subjects import AuditData, Draws, EmbeddingData

__all__ = [
    "AuditData",
    "AuditResult",
    "Auditor",
    "Averaging",
    "BootstrapParams",
    "CNNProbe",
    "Cache",
    "DetCurve",
    "Draws",
    "Embedder",
    "EmbeddingData",
    "EmbeddingProbe",
    "FrozenProbe",
    "GateOutcome",
    "Interval",
    "MatchingResult",
    "OperatingPoint",
    "PairSample",
    "PixelProbe",
    "RetrainedProbe",
    "auc",
    "balanced_accuracy",
    "best_threshold",
    "d_prime",
    "det_curve",
    "draw_pairs",
    "eer",
    "evaluate_matching",
    "leakage",
    "people_multiplicities",
    "probe_interval",
    "psnr",
    "ssim",
    "tmr_at_fmr",
]
