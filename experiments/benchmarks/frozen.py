"""Benchmark: a frozen matcher as converted from ONNX against `privface.models.frozen` in fp32 and in bf16.

One step is what training a generator does with a matcher: forward of a batch, and the gradient of the cosine similarities with
respect to the pixels. The variants take turns in one process; printed are the least seconds a step of each by the clock and of
CPU time (which other work on the same cores disturbs less), the median of the paired ratios of CPU time, and the cosines of
outputs and of gradients to the plain network's. The pixels are smooth noise: speed does not depend on them, and agreement on
photos is in tests/models/test_frozen.py.

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

from privface.device import Device
from privface.models import Matcher, load_matcher

Result = tuple[float, float, Tensor, Tensor]


def step(matcher: Matcher, images: Tensor, target: Tensor) -> Result:
    """Seconds by the clock, seconds of CPU time, outputs and gradients of one step."""
    images = images.clone().requires_grad_()
    began, busy = time.perf_counter(), time.process_time()
    out = matcher(images)
    (gradient,) = torch.autograd.grad(F.cosine_similarity(out, target).sum(), images)
    return time.perf_counter() - began, time.process_time() - busy, out.detach(), gradient.flatten(1)


def compare(spec: str, *, batch: int, rounds: int) -> None:
    plain = load_matcher(spec)
    dice = torch.Generator().manual_seed(0)
    coarse = torch.rand(2, batch, 3, 14, 14, generator=dice)
    images, others = (F.interpolate(c, size=(112, 112), mode="bilinear") for c in coarse)
    with torch.no_grad():
        target = plain(others)
    variants = {
        "plain fp32": plain,
        "frozen fp32": plain.frozen(Device()),
        "frozen bf16": plain.frozen(Device("cpu", "bf16")),
    }
    for matcher in variants.values():
        step(matcher, images, target)  # first calls build kernels
    turns = [{name: step(m, images, target) for name, m in variants.items()} for _ in range(rounds)]
    known = turns[-1]["plain fp32"][2:]
    for name in variants:
        clock, busy = (min(turn[name][i] for turn in turns) for i in (0, 1))
        ratio = statistics.median(turn["plain fp32"][1] / turn[name][1] for turn in turns)
        out, gradient = (
            float(F.cosine_similarity(*pair).mean()) for pair in zip(turns[-1][name][2:], known, strict=True)
        )
        print(
            f"{plain.name:<30} {name:<11} clock {clock:.3f} s  CPU {busy:.3f} s  {ratio:.2f} times as fast  "
            f"cosine of outputs {out:.5f}, of gradients {gradient:.4f}",
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
