from __future__ import annotations

import json

import numpy as np
import pandas as pd
from typer.testing import CliRunner

from privface.cli.main import app


def write_table(path, *, lean: float, seed: int = 0) -> None:
    rng = np.random.default_rng(seed)
    person = np.repeat(np.arange(80), 3)
    own = rng.normal(size=(80, 8))
    own[:, 0] += np.where(np.arange(80) % 2, lean, -lean)
    pd.DataFrame(
        {
            "file": [f"{k}.png" for k in range(person.size)],
            "identity": [f"p{k}" for k in person],
            "gender": ["female" if k % 2 else "male" for k in person],
            "embedding": list((own[person] + 0.3 * rng.normal(size=(person.size, 8))).astype(np.float32)),
        }
    ).to_parquet(path)


def test_tables_are_audited_compared_and_held_against_a_baseline(tmp_path):
    for name, lean in (("before", 3.0), ("kept", 3.0), ("erased", 0.0)):
        write_table(tmp_path / f"{name}.parquet", lean=lean)

    def run(*parts: object):
        return CliRunner().invoke(app, [str(part) for part in parts])

    common = ("audit", "--original", tmp_path / "before.parquet", "--effort", "quick", "--resamples", 50)
    common = (*common, "--cache", tmp_path / "cache")
    kept = run(*common, "--protected", tmp_path / "kept.parquet", "--out", tmp_path / "kept")
    assert kept.exit_code == 0, kept.output
    assert "Gender can be read" in kept.output
    document = json.loads((tmp_path / "kept" / "audit.json").read_text())
    assert document["mode"] == "embeddings"
    assert document["battery"]["leaks"]
    erased = run(
        *common, "--protected", tmp_path / "erased.parquet", "--out", tmp_path / "erased",
        "--baseline", tmp_path / "kept" / "audit.json", "--fail-if", "worst_retrained>0.99",
    )  # fmt: skip
    assert erased.exit_code == 0, erased.output
    assert "Against the baseline" in erased.output
    assert "Against the baseline" in (tmp_path / "erased" / "report.html").read_text()
    compared = run(
        "compare", f"kept={tmp_path}/kept/audit.json", f"erased={tmp_path}/erased/audit.json",
        "--out", tmp_path / "c.html",
    )  # fmt: skip
    assert compared.exit_code == 0, compared.output
    assert "erased leaks least" in (tmp_path / "c.html").read_text()
