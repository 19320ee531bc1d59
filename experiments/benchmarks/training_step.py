"""Benchmark: privface's training loop against the same step written as a plain fp32 eager PyTorch loop.

Both train the same autoencoder against the same matcher, frozen classifiers and adversaries on the same random pixels, in
turn, in one process; the printed ratio is the median of the paired ratios. The plain loop is what one writes first: matcher
on originals and protected images in every step, adversaries run twice (once detached to train them, once for the protector),
default memory layout, batches made in the loop.

    python experiments/benchmarks/training_step.py [--matcher onnx:FILE] [--threads 2]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from privface.config import AdversarySettings
from privface.losses import AttributeLoss, MatchingLoss, ReconstructionLoss
from privface.models import CompactResNet, GenderProbe, Matcher, SemiAdversarialAutoencoder, load_matcher
from privface.models.face_model import network_sha256
from privface.pipeline.methods.base import classifier_spec
from privface.records import InputSpec
from privface.training import (
    ArraySource,
    LoopSettings,
    LossWeights,
    PixelAdversary,
    SemiAdversarialStep,
    SemiAdversarialTrainer,
)

BATCH = 32


def own_matcher() -> Matcher:
    network = CompactResNet(outputs=128, width=32, stages=4).eval().requires_grad_(False)
    return Matcher(
        network,
        spec=InputSpec(value_range=(-1.0, 1.0)),
        name="random",
        weights_sha256=network_sha256(network),
    )


def parts(matcher: Matcher) -> tuple[SemiAdversarialAutoencoder, list[GenderProbe], list[PixelAdversary]]:
    shapes = [AdversarySettings(width=16), AdversarySettings(size=64, crop="box", stages=3)]
    probes, adversaries = [], []
    for shape in shapes:
        spec = classifier_spec(size=shape.size, crop=shape.crop)
        network = {"width": shape.width, "stages": shape.stages}
        frozen = CompactResNet(**network).eval().requires_grad_(False)
        probes.append(GenderProbe(frozen, spec=spec, name="frozen", weights_sha256=network_sha256(frozen)))
        adversaries.append(PixelAdversary(spec=spec, network=network))
    return SemiAdversarialAutoencoder(width=24, depth=4, blocks=1), probes, adversaries


def plain_rate(
    matcher: Matcher, pixels: np.ndarray[Any, Any], genders: np.ndarray[Any, Any], steps: int
) -> float:
    """Images a second of the loop that one writes first."""
    autoencoder, probes, adversaries = parts(matcher)
    opponents = nn.ModuleList(adversaries)
    ours = torch.optim.Adam(autoencoder.parameters(), lr=1e-3)
    theirs = torch.optim.Adam(opponents.parameters(), lr=1e-3)
    reconstruction, coin = ReconstructionLoss(l1=1.0, ssim=0.2), torch.full((BATCH,), 0.5)
    began = time.perf_counter()
    for step in range(steps):
        rows = np.arange(step * BATCH, (step + 1) * BATCH) % len(pixels)
        images = torch.from_numpy(pixels[rows]).permute(0, 3, 1, 2).contiguous().float() / 255
        labels = torch.from_numpy(genders[rows]).float()
        protected = autoencoder(images)
        loss = sum(F.binary_cross_entropy_with_logits(a(protected.detach())[0], labels) for a in adversaries)
        theirs.zero_grad()
        loss.backward()
        theirs.step()
        with torch.no_grad():
            target = matcher(images)
        total = 0.5 * reconstruction(protected, images) + 3 * (
            1 - F.cosine_similarity(matcher(protected), target).mean()
        )
        for logits in [p.logit(protected) for p in probes] + [a(protected)[0] for a in adversaries]:
            total = total + F.binary_cross_entropy_with_logits(logits, coin)
        ours.zero_grad()
        total.backward()
        nn.utils.clip_grad_norm_(autoencoder.parameters(), 1.0)
        ours.step()
    return steps * BATCH / (time.perf_counter() - began)


def privface_rate(
    matcher: Matcher, pixels: np.ndarray[Any, Any], genders: np.ndarray[Any, Any], steps: int, share: float
) -> tuple[float, float, str]:
    """Images a second of privface's loop (embedding the originals once is not counted), share of waiting, precision."""
    autoencoder, probes, adversaries = parts(matcher)
    step = SemiAdversarialStep(
        autoencoder,
        matchers=[matcher],
        classifiers=probes,
        pixel_adversaries=adversaries,
        embedding_adversaries=[],
        weights=LossWeights(
            reconstruction=0.5, matching=3.0, frozen=1.0, adversary=1.0, matching_share=share
        ),
        reconstruction=ReconstructionLoss(l1=1.0, ssim=0.2),
        matching=MatchingLoss(),
        attribute=AttributeLoss("uninformative"),
    )
    trainer = SemiAdversarialTrainer(
        step, settings=LoopSettings(epochs=1, batch_size=BATCH, epoch_images=steps * BATCH)
    )
    with tempfile.TemporaryDirectory() as folder:
        summary = trainer.fit(ArraySource(pixels), genders, run=Path(folder), meta={})
    return summary.images_per_second, summary.data_wait_share, trainer.precision


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--matcher", help="specification; default: a random network of 0.6 M weights")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    matcher = load_matcher(arguments.matcher) if arguments.matcher else own_matcher()
    count = arguments.steps * BATCH
    pixels = np.random.default_rng(0).integers(0, 256, (count, 112, 112, 3), dtype=np.uint8)
    genders = np.arange(count) % 2
    plain_rate(matcher, pixels, genders, 2)  # warm-up: first calls build kernels and the converted matcher
    rows = []
    for _ in range(arguments.rounds):
        plain = plain_rate(matcher, pixels, genders, arguments.steps)
        full, waited, precision = privface_rate(matcher, pixels, genders, arguments.steps, 1.0)
        half, _, _ = privface_rate(matcher, pixels, genders, arguments.steps, 0.5)
        rows.append((plain, full, half, waited))
        print(
            f"plain {plain:.1f}  privface {full:.1f} ({precision})  matching_share=0.5 {half:.1f} images/s  waiting for data {waited:.1%}",
            flush=True,
        )
    print(f"ratio, same computation: {statistics.median(r[1] / r[0] for r in rows):.2f}")
    print(f"ratio, matching_share=0.5: {statistics.median(r[2] / r[0] for r in rows):.2f}")


if __name__ == "__main__":
    main()
