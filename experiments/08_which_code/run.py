"""Experiment 08: which code? What an autoencoder's code keeps and tells, beside the code of three matchers.

Claim under test: a code that gender was erased from needs matchers: autoencoders' codes, erased alike, do not recognise people.

    python experiments/08_which_code/run.py train       # the autoencoders, into runs/08
    python experiments/08_which_code/run.py measure     # leakage and matches of all erased codes
    python experiments/08_which_code/run.py draw matchers linear variational
    python experiments/08_which_code/run.py table
    python experiments/08_which_code/run.py plot

All but the last two need PRIVFACE_DATA and PRIVFACE_MODELS. Each can be stopped and goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "06_erased_code"))
sys.path.insert(0, str(Path(__file__).parent))

RESULTS = Path(__file__).parent / "results"
COLOURS = ("#d62728", "#7f7f7f", "#8c564b", "#1f77b4", "#17becf", "#2ca02c", "#bcbd22", "#9467bd", "#ff7f0e")


def say(stage: str, done: int, total: int) -> None:
    """Progress, a line for each tenth."""
    if total < 10 or done % max(1, total // 10) == 0:
        print(f"{stage}: {done} of {total}", file=sys.stderr, flush=True)


def read(name: str) -> list[dict[str, Any]]:
    path = RESULTS / f"{name}.json"
    found: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    return found


def table() -> str:
    """All figures, as in the README."""
    drawn = {(row["kind"], row["width"], row["seed"]): row for row in read("drawn")}
    lines = [
        "| code | width | half | TMR@1e-2 before | erased | erased, learnt metric | read before | read after | by | drawn: *b* P-P | PSNR, coarse |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in read("codes"):
        face = drawn.get((row["kind"], row["width"], row["seed"]))
        seen = (
            ("", "")
            if face is None
            else (f"{face['tmr']['0.01']:.3f}", f"{face['psnr']:.1f}, {face['psnr_coarse']:.1f} dB")
        )
        rates = [f"{row[k]['0.01']:.3f}" for k in ("tmr_before", "tmr", "tmr_learnt_metric")]
        leaks = [f"{row[k]['balanced_accuracy']:.3f}" for k in ("leakage_before", "leakage")]
        cells = [row["kind"], row["width"], row["seed"], *rates, *leaks, row["leakage"]["attacker"], *seen]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def plot(path: Path) -> None:
    """Leakage against recognition, of the erased codes and of the faces drawn from them."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    codes, drawn = [row for row in read("codes") if row["seed"] == 0], read("drawn")
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.6), sharey=True)
    for colour, kind in zip(COLOURS, dict.fromkeys(row["kind"] for row in codes), strict=False):
        rows = sorted((row for row in codes if row["kind"] == kind), key=lambda row: row["width"])
        leaks = {row["width"]: row["leakage"]["balanced_accuracy"] for row in rows}
        axes[0].plot(
            [row["tmr"]["0.01"] for row in rows], list(leaks.values()), "o-", color=colour, label=kind, ms=4
        )
        for face in drawn:
            if face["kind"] == kind and face["width"] in leaks:
                axes[1].plot(face["tmr"]["0.01"], leaks[face["width"]], "s", color=colour, label=kind)
    widths = ", ".join(str(width) for width in sorted({row["width"] for row in codes}))
    axes[0].set(
        xlabel="TMR at FMR 1e-2 of the erased code, by cosine", title=f"Erased codes of {widths} values"
    )
    axes[0].set_ylabel("worst attacker on the erased code\n(balanced accuracy, chance 0.5)")
    faces = ", ".join(f"{n:,}" for n in sorted({face["faces"] for face in drawn}))
    axes[1].set(
        xlabel="P-P TMR at FMR 1e-2 of unseen matcher b",
        title=f"Faces drawn from 96 values ({faces} faces of training)",
    )
    for axis in axes:
        axis.set_xlim(-0.02, 1.02)
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=110, metadata={"Software": None})


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("train", "measure", "draw", "table", "plot"))
    parser.add_argument("kinds", nargs="*", help="Kinds of code; by default all.")
    parser.add_argument("--seed", type=int, default=0, help="Which half of the people the eraser knows.")
    parser.add_argument("--faces", type=int, default=6400, help="Faces that a decoder is shown.")
    chosen = parser.parse_args()
    if chosen.what == "table":
        print(table())
        return
    if chosen.what == "plot":
        plot(RESULTS / "which_code.png")
        return
    import autoencoders
    import measure

    known = autoencoders.KINDS if chosen.what == "train" else measure.KINDS
    for kind in chosen.kinds or known:
        if kind not in known:
            parser.error(f"There is no kind {kind!r}; choose among {', '.join(known)}.")
        if chosen.what == "train":
            autoencoders.train(kind, say)
        elif chosen.what == "measure":
            measure.measure([kind], seed=chosen.seed, progress=say)
        else:
            import drawing

            drawing.draw(kind, width=96, faces=chosen.faces, seed=chosen.seed, progress=say)


if __name__ == "__main__":
    main()
