"""Faces drawn from erased codes after a short training, and what a matcher that was never met recognises of them."""

from __future__ import annotations

import json
import os
import time
from typing import Any

import autoencoders
import numpy as np
import pandas as pd
import torch
from attackers import READ, Progress, embeddings, in_parts, prepare
from measure import DROP, RESULTS, erased, seen
from numpy.typing import NDArray
from torch import Tensor
from white_box import halves, tmr

from privface.descent import moving_average
from privface.device import Device
from privface.erasers import RegionalTransport
from privface.erasers.base import unit_rows
from privface.images import encode_image, to_pixels, to_unit, write_atomic
from privface.losses import AttributeLoss, MatchingLoss, ReconstructionLoss
from privface.models import load_matcher
from privface.models.decoder import FaceDecoder
from privface.models.erased_code import CodeEraser
from privface.pipeline.methods.erased_code import turn
from privface.training import LossWeights
from privface.training.erased_code import ErasedCodeStep
from privface.training.loop import descend

MATCHERS = ("onnx:{models}/matcher_mobilefacenet_a.onnx", "bundled:matcher")
"""What decoders are trained against, for every kind of code the same."""

UNSEEN = "onnx:{models}/matcher_mobilefacenet_b.onnx"
BATCH, RATE, MATCHING = 16, 8e-4, 8.0


def draw(kind: str, *, width: int, faces: int, seed: int, progress: Progress) -> None:
    """Train a decoder on the eraser's half of the people, draw LFW `val`, measure; done once."""
    path = RESULTS / "drawn.json"
    rows = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    key = {"kind": kind, "width": width, "faces": faces, "seed": seed}
    if any(key.items() <= row.items() for row in rows):
        return
    began, both = time.process_time(), [prepare(name, progress) for name in READ]
    people = pd.concat([table for _, table in both], ignore_index=True)
    fit, _ = halves(people, seed)
    code = erased(width, people, seen(kind, progress), fit, seed)
    decoder = _train(_Photos([pixels for pixels, _ in both], fit), code, people, fit, faces, seed, progress)
    read = np.flatnonzero(people["read"] & (people["set"] == "lfw"))  # the first set, so rows of its photos
    drawn = in_parts_of(decoder, code[read])
    figures = _judged(drawn, both[0][0][read], people["identity"][read].to_numpy(str), progress)
    rows.append({**key, **figures, "cpu_seconds": round(time.process_time() - began)})
    write_atomic(path, (json.dumps(rows, indent=1) + "\n").encode())
    print(json.dumps(rows[-1]), flush=True)
    shown = np.linspace(0, len(read) - 1, 10).astype(int)
    sheet = np.concatenate([np.concatenate(list(part[shown]), 1) for part in (both[0][0][read], drawn)])
    write_atomic(autoencoders.FOLDER / "sheets" / f"{kind}.png", encode_image(sheet, ".png"))


class _Photos:
    """Some rows of several sets behind one another, read when they are asked for."""

    def __init__(self, sets: list[NDArray[np.uint8]], rows: NDArray[np.int64]) -> None:
        self._sets, self._rows = sets, rows
        self._ends = np.cumsum([len(part) for part in sets])

    def __len__(self) -> int:
        return len(self._rows)

    def batch(self, index: NDArray[np.int64]) -> NDArray[np.float32]:
        """Images at ``index``."""
        rows = self._rows[index]
        places = np.searchsorted(self._ends, rows, side="right")
        return to_unit(
            np.stack([self._sets[k][row - self._ends[k]] for k, row in zip(places, rows, strict=True)])
        )


def _train(
    photos: _Photos,
    code: NDArray[np.float32],
    people: pd.DataFrame,
    fit: NDArray[np.int64],
    faces: int,
    seed: int,
    progress: Progress,
) -> FaceDecoder:
    """What method `erased-code` does for its decoder, on embeddings that are kept."""
    torch.manual_seed(seed)
    models = os.environ["PRIVFACE_MODELS"]
    matchers = [load_matcher(spec.format(models=models), seen=True) for spec in MATCHERS]
    aims, centres, told = [], [], torch.from_numpy(code[fit])
    male, sets = people["male"].to_numpy()[fit], people["set"].to_numpy(str)[fit]
    for spec in MATCHERS:
        units = unit_rows(_kept(spec.format(models=models), progress)[fit])
        centres.append(torch.from_numpy(units.mean(axis=0)))
        plain = RegionalTransport(regions=1).fit(units - units.mean(axis=0), male, sets=sets)
        wanted = np.asarray(plain.transform(units - units.mean(axis=0)), np.float32)
        aims.append(torch.from_numpy(turn(code[fit], wanted)))
    width = code.shape[1]
    decoder = FaceDecoder(code=width, size=112, channels=(128, 128, 96, 48, 16))
    step = ErasedCodeStep(
        decoder.train().to(memory_format=torch.channels_last),
        erasers=[CodeEraser(size=width + DROP, keep=width, regions=1)],  # it tells codes as they are
        aims=[aims],
        centres=centres,
        matchers=matchers,
        attribute=AttributeLoss("uninformative"),
        weights=LossWeights(reconstruction=1.0, matching=MATCHING),
        reconstruction=ReconstructionLoss(ssim=0.0, tone=0.0),
        matching=MatchingLoss(),
    )
    rng, count = np.random.default_rng(seed), faces // BATCH
    order = np.concatenate([rng.permutation(len(fit)) for _ in range(-(-faces // len(fit)))])
    batches = np.split(order[: count * BATCH], count)
    optimizer = torch.optim.Adam(decoder.parameters(), lr=RATE, betas=(0.5, 0.99))
    average, generator = moving_average(decoder, 0.995), torch.Generator().manual_seed(seed)

    def loss(done: int, index: NDArray[np.int64], images: Tensor) -> Tensor:
        step.done_share = done / count
        with torch.autocast("cpu", torch.bfloat16):
            found = step(
                images, torch.zeros(len(images)), [told[torch.from_numpy(index)]], generator=generator
            )
        return found.protector

    for done, last in descend(optimizer, photos, batches, loss, rise=50, floor=0.1, clip=1.0):
        average.update_parameters(decoder)
        progress(f"train (loss {last:.2f})", done, count)
    decoder.load_state_dict(average.module.state_dict())
    return decoder.eval()


def _kept(spec: str, progress: Progress) -> NDArray[np.float32]:
    return np.concatenate([embeddings(name, spec, progress) for name in READ])


def in_parts_of(decoder: FaceDecoder, code: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Drawn faces as they would be stored, ``(N, 112, 112, 3)``."""
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        return np.concatenate(
            [to_pixels(decoder(part).float().numpy()) for part in torch.split(torch.from_numpy(code), 64)]
        )


def _judged(
    drawn: NDArray[np.uint8], photos: NDArray[np.uint8], names: NDArray[np.str_], progress: Progress
) -> dict[str, Any]:
    """What *b* recognises, drawn against drawn, and how far drawn faces are from the photos, whole and a quarter as fine."""
    unseen = load_matcher(UNSEEN.format(models=os.environ["PRIVFACE_MODELS"])).on(Device("cpu", "bf16"))
    given = in_parts(unseen.embed, drawn, "b on drawn faces", progress)
    errors = []
    for side in (112, 28):
        a, b = (torch.from_numpy(to_unit(x)) for x in (drawn, photos))
        apart = torch.nn.functional.adaptive_avg_pool2d(a - b, side).square().mean((1, 2, 3))
        errors.append(round(float((-10 * torch.log10(apart)).mean()), 2))
    return {"tmr": tmr(given, names), "psnr": errors[0], "psnr_coarse": errors[1]}
