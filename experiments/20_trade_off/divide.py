"""Divide the people of LFW `val` in two: half of them to choose on, half to report on.

python experiments/20_trade_off/divide.py runs/20-labels.csv
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pandas as pd

from privface.data.splits import person_bucket


def main() -> None:
    labels = pd.read_csv(Path(os.environ["PRIVFACE_DATA"]) / "lfw.csv")
    held = labels["split"] == "val"
    first = labels["identity"].map(lambda name: person_bucket(str(name), salt="experiment 20") < 0.5)
    labels.loc[held & first, "split"] = "val-choose"
    labels.loc[held & ~first, "split"] = "val-report"
    out = Path(sys.argv[1])
    out.parent.mkdir(parents=True, exist_ok=True)
    labels.to_csv(out, index=False)
    print(labels.groupby("split")["identity"].agg(photos="size", people="nunique"))


if __name__ == "__main__":
    main()
