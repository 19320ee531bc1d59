"""The erased code itself under attack: the eraser knows one half of the people, attackers have all others."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from attackers import READ, Progress, attack, embeddings, prepare
from numpy.typing import NDArray

from privface.audit import tmr_at_fmr
from privface.audit.matching import choose_pairs, cosine_scores
from privface.erasers import GaussianTransport, RegionalTransport
from privface.erasers.base import unit_rows
from privface.images import write_atomic
from privface.pipeline.methods.erased_code import few_of_each


@dataclass(frozen=True)
class Variant:
    """A code: how many encoders, what the eraser learns from, and its settings; ``rounds``: GaussianTransport so many times."""

    encoders: int = 3
    size: int = 64
    drop: int = 32
    bits: int = 256
    pooled: bool = True
    rounds: int = 0

    @property
    def name(self) -> str:
        """Words for tables and ``--only``."""
        eraser = f"transport x{self.rounds}" if self.rounds else f"drop {self.drop}, bits {self.bits}"
        people = "pooled" if self.pooled else "LFW alone"
        return f"encoders {self.encoders}, size {self.size}, {eraser}, {people}"


BEST = Variant()
VARIANTS = (
    *(replace(BEST, size=size) for size in (64, 80, 48, 96, 128)),
    *(replace(BEST, encoders=count, size=size) for count in (1, 2) for size in (64, 80)),
    *(
        replace(BEST, drop=48),
        *(replace(BEST, size=80, drop=48, bits=bits) for bits in (0, 512)),
        replace(BEST, encoders=1, drop=8, bits=0),
    ),
    *(replace(BEST, size=size, bits=0) for size in (64, 80, 96)),
    *(replace(BEST, drop=0), replace(BEST, drop=0, bits=0), replace(BEST, pooled=False)),
    *(replace(BEST, drop=0, bits=0, rounds=n, pooled=p) for n in (1, 3) for p in (True, False)),
)


def white_box(
    specs: Sequence[str], path: Path, *, seeds: Sequence[int], only: str, progress: Progress
) -> None:
    """Measure every variant that the encoders allow and the file lacks; the file is written after each."""
    rows = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    people = pd.concat([prepare(name, progress)[1] for name in READ], ignore_index=True)
    seen = [np.concatenate([embeddings(name, spec, progress) for name in READ]) for spec in specs]
    for seed in seeds:
        for variant in VARIANTS:
            made_by = [Path(spec).stem for spec in specs[: variant.encoders]]
            key = {"name": variant.name, "made_by": made_by, "seed": seed, **asdict(variant)}
            fits = variant.size + variant.drop <= sum(e.shape[1] for e in seen[: variant.encoders])
            done = any(key.items() <= row.items() for row in rows)
            if done or only not in variant.name or variant.encoders != len(made_by) or not fits:
                continue
            found = measure(variant, people, seen[: variant.encoders], seed)
            rows.append({**key, **found})
            write_atomic(path, (json.dumps(rows, indent=1) + "\n").encode())
            print(f"{variant.name}, seed {seed}: {found['tmr']}, {found['label_budget']}", flush=True)


def measure(
    variant: Variant, people: pd.DataFrame, seen: Sequence[NDArray[np.float32]], seed: int
) -> dict[str, Any]:
    """One eraser, and everybody who reads its code."""
    fit, others = halves(people, seed)
    lfw = others[people["set"][others] == "lfw"]
    fit = fit if variant.pooled else fit[people["set"][fit] == "lfw"]
    code, male = erase(variant, people, seen, fit, seed), people["male"].to_numpy()
    shown = {READ[name]: np.flatnonzero(people["read"] & (people["set"] == name)) for name in READ}

    def read(rows: NDArray[np.int64], names: Sequence[str], **options: Any) -> dict[str, Any]:
        parts = {name: (code[shown[name]], male[shown[name]]) for name in names}
        return attack((code[rows], male[rows]), parts, seed=seed, **options)

    names = np.random.default_rng([seed, 101]).permutation(people["identity"][lfw].unique())
    budget = {}
    for count in (250, 500, 1_000):  # people of LFW alone; then all of them, then everybody of all sets
        few = lfw[people["identity"][lfw].isin(names[:count])]
        budget[str(count)] = read(few, ["lfw"], count=2)["lfw"]["worst"]
    alone, everyone = read(lfw, ["lfw"]), read(others, list(shown))
    budget |= {str(len(names)): alone["lfw"]["worst"], "all": everyone["lfw"]["worst"]}
    counts = {"eraser_photos": len(fit), "attack_people": len(names), "attack_photos": len(others)}
    matched = tmr(code[shown["lfw"]], people["identity"][shown["lfw"]].to_numpy(str))
    return {**counts, "tmr": matched, "lfw_alone": alone, "all": everyone, "label_budget": budget}


def halves(people: pd.DataFrame, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Photos of the eraser's half of each set's people and of the attackers' half, at most five of a person."""
    rows = np.flatnonzero(people["learn"])
    rows = rows[few_of_each(people["identity"][rows].to_numpy(str), seed=seed)]
    rng, first = np.random.default_rng([seed, 100]), []
    for name in READ:
        names = people["identity"][rows[people["set"][rows] == name]].unique()
        first += list(rng.permutation(names)[: len(names) // 2])
    inside = people["identity"][rows].isin(first).to_numpy()
    return rows[inside], rows[~inside]


def erase(
    variant: Variant, people: pd.DataFrame, seen: Sequence[Any], fit: NDArray[np.int64], seed: int
) -> NDArray[np.float32]:
    """Everybody's erased code: components and an eraser, fitted on some rows."""
    code = components(seen, fit, variant.size + variant.drop)
    male, sets = people["male"].to_numpy(), people["set"].to_numpy(str)
    for _ in range(variant.rounds):
        code = GaussianTransport().fit(code[fit], male[fit]).transform(code)
    if not variant.rounds:
        eraser = RegionalTransport(drop=variant.drop, bits=variant.bits, random_state=seed)
        code = eraser.fit(code[fit], male[fit], sets=sets[fit]).transform(code)
    return np.asarray(code, np.float32)


def components(seen: Sequence[Any], fit: NDArray[np.int64], width: int) -> NDArray[np.float64]:
    """Principal components of all encoders' embeddings as the method makes them, fitted on some rows: unit rows ``(N, width)``."""
    units = [unit_rows(part.astype(np.float64)) for part in seen]
    joined = np.concatenate([unit_rows(part - part[fit].mean(axis=0)) for part in units], axis=1)
    joined -= joined[fit].mean(axis=0)
    axes = np.linalg.eigh(np.cov(joined[fit], rowvar=False))[1][:, ::-1]
    return np.asarray(unit_rows(joined @ axes[:, :width]))


def tmr(code: NDArray[np.float32], people: NDArray[np.str_]) -> dict[str, float]:
    """P-P true match rates of a code by cosine, all impostor pairs."""
    pairs = choose_pairs(people, max_impostors=len(people) ** 2)
    genuine, impostor = (cosine_scores(code, code, part) for part in (pairs.genuine, pairs.impostor))
    return {str(fmr): round(tmr_at_fmr(genuine, impostor, fmr=fmr).tmr, 4) for fmr in (1e-2, 1e-3)}
