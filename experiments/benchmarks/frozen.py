"""Benchmark: a frozen matcher as converted from ONNX against `privface.models.frozen` in fp32 and in bf16.

One step is what training a generator does with a matcher: forward of a batch, and the gradient of the cosine similarities with
respect to the pixels. The variants take turns in one process; printed are the least seconds a step of each, medians, and the
median of the paired ratios, with the cosines of outputs and of gradients to the plain network's. The pixels are smooth noise:
speed does not depend on them, agreement on photos is in tests/models/test_frozen.py.

    python experiments/benchmarks/frozen.py onnx:FILE [onnx:FILE ...] [--threads 1]
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings

import torch
import torch.nn.functional as F
from torch import Tensor

from privface.models import Matcher, load_matcher
from privface.models.frozen import frozen_model

Result = tuple[float, Tensor, Tensor]


def step(matcher: Matcher, images: Tensor, target: Tensor) -> Result:
    """Seconds, outputs and gradients of one step."""
    images = images.clone().requires_grad_()
    began = time.perf_counter()
    out = matcher(images)
    (gradient,) = torch.autograd.grad(F.cosine_similarity(out, target).sum(), images)
    return time.perf_counter() - began, out.detach(), gradient.flatten(1)


def compare(spec: str, *, batch: int, rounds: int) -> None:
    plain = load_matcher(spec)
    dice = torch.Generator().manual_seed(0)
    coarse = torch.rand(2, batch, 3, 14, 14, generator=dice)
    images, others = (F.interpolate(c, size=(112, 112), mode="bilinear") for c in coarse)
    with torch.no_grad():
        target = plain(others)
    variants = {
        "plain fp32": plain,
        "frozen fp32": frozen_model(plain, precision="fp32"),
        "frozen bf16": frozen_model(plain, precision="bf16"),
    }
    for matcher in variants.values():
        step(matcher, images, target)  # first calls build kernels
    turns = [{name: step(m, images, target) for name, m in variants.items()} for _ in range(rounds)]
    _, out, gradient = turns[-1]["plain fp32"]
    for name in variants:
        times = [turn[name][0] for turn in turns]
        ratio = statistics.median(turn["plain fp32"][0] / turn[name][0] for turn in turns)
        alike = [
            float(F.cosine_similarity(found, known).mean())
            for found, known in zip(turns[-1][name][1:], (out, gradient), strict=True)
        ]
        print(
            f"{plain.name:<32} {name:<12} least {min(times):.3f} s  median {statistics.median(times):.3f} s  "
            f"{ratio:.2f} times as fast  cosine of outputs {alike[0]:.5f}, of gradients {alike[1]:.4f}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("matchers", nargs="+", help="specifications, such as onnx:FILE")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")  # onnx2torch warns while it converts
    torch.set_num_threads(arguments.threads)
    for spec in arguments.matchers:
        compare(spec, batch=arguments.batch, rounds=arguments.rounds)


if __name__ == "__main__":
    main()
