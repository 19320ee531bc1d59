"""One training step of `erased-code`: as privface takes it, and as a plain loop in fp32 would, side by side in one run.

    PRIVFACE_MODELS=... python experiments/benchmarks/erased_step.py [--rounds 5]

Three matchers as ONNX, batches of 32 drawn images, forward, backward and optimiser step of the decoder. CPU seconds of one process with one
thread, rounds alternating; the ratio is the median of the rounds' ratios. Plain: matchers as onnx2torch converts them, no autocast.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from pathlib import Path

import torch
from torch import nn

from privface.device import has_bf16
from privface.losses import AttributeLoss, MatchingLoss, ReconstructionLoss
from privface.models import load_matcher
from privface.models.decoder import FaceDecoder
from privface.models.erased_code import CodeEraser
from privface.training.erased_code import ErasedCodeStep
from privface.training.step import LossWeights

NAMES = ("matcher_mobilefacenet_a", "matcher_facefeature", "matcher_dlib_resnet")
BATCH, CODE = 32, 64


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    ours, plain = _step(plain=False), _step(plain=True)
    optimizers = [torch.optim.Adam(step.autoencoder.parameters(), lr=1e-4) for step in (ours, plain)]
    seconds: list[tuple[float, float]] = []
    for number in range(rounds + 1):
        pair = [
            _seconds(step, optimizer, number, low=low)
            for step, optimizer, low in zip((ours, plain), optimizers, (has_bf16(), False), strict=True)
        ]
        if number:  # the first round warms up
            seconds.append((pair[0], pair[1]))
    ratio = statistics.median(slow / fast for fast, slow in seconds)
    fast, slow = (statistics.median(column) for column in zip(*seconds, strict=True))
    print(
        f"bf16 units: {has_bf16()}; a step of {BATCH}: {fast:.2f} s, plain fp32 {slow:.2f} s, ratio {ratio:.2f}"
    )


def _step(*, plain: bool) -> ErasedCodeStep:
    matchers = [load_matcher(f"onnx:{Path(os.environ['PRIVFACE_MODELS']) / name}.onnx") for name in NAMES]
    sizes = [matcher(torch.rand(1, 3, 112, 112)).shape[1] for matcher in matchers]
    torch.manual_seed(0)
    step = ErasedCodeStep(
        FaceDecoder(code=CODE).to(memory_format=torch.channels_last),
        erasers=[CodeEraser(size=CODE, keep=CODE, regions=1, bits=0)],
        aims=[[torch.eye(CODE, size) for size in sizes]],
        centres=[torch.zeros(size) for size in sizes],
        matchers=matchers,
        weights=LossWeights(reconstruction=1.0, matching=16.0),
        reconstruction=ReconstructionLoss(l1=1.0),
        matching=MatchingLoss(),
        attribute=AttributeLoss(),
    )
    if plain:
        step.fast = nn.ModuleList(matchers)
    return step


def _seconds(step: ErasedCodeStep, optimizer: torch.optim.Optimizer, number: int, *, low: bool) -> float:
    generator = torch.Generator().manual_seed(number)
    images = torch.rand(BATCH, 3, 112, 112, generator=generator)
    codes = nn.functional.normalize(torch.randn(BATCH, CODE, generator=generator))
    began = time.process_time()
    with torch.autocast("cpu", torch.bfloat16, enabled=low):
        losses = step(images, torch.zeros(BATCH), [codes], generator=generator)
    optimizer.zero_grad()
    losses.protector.backward()
    optimizer.step()
    return time.process_time() - began


if __name__ == "__main__":
    main()
