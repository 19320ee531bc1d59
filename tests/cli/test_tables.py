from __future__ import annotations

import json

import numpy as np
import pandas as pd
from typer.testing import CliRunner

from privface.cli.main import app
from privface.errors import DataError


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


def run(*parts: object):
    done = CliRunner().invoke(app, [str(part) for part in parts])
    assert done.exit_code == 0, done.output
    return done


def test_tables_are_audited_compared_and_held_against_a_baseline(tmp_path):
    for name, lean in (("before", 3.0), ("kept", 3.0), ("erased", 0.0)):
        write_table(tmp_path / f"{name}.parquet", lean=lean)

    common = ("audit", "--original", tmp_path / "before.parquet", "--effort", "quick", "--resamples", 50)
    common = (*common, "--cache", tmp_path / "cache")
    kept = run(*common, "--protected", tmp_path / "kept.parquet", "--out", tmp_path / "kept")
    assert "Gender can be read" in kept.output
    document = json.loads((tmp_path / "kept" / "audit.json").read_text())
    assert document["mode"] == "embeddings"
    assert document["battery"]["leaks"]
    erased = run(
        *common, "--protected", tmp_path / "erased.parquet", "--out", tmp_path / "erased",
        "--baseline", tmp_path / "kept" / "audit.json", "--fail-if", "worst_retrained>0.99",
    )  # fmt: skip
    assert "Against the baseline" in erased.output
    assert "Against the baseline" in (tmp_path / "erased" / "report.html").read_text()
    audits = [f"{name}={tmp_path}/{name}/audit.json" for name in ("kept", "erased")]
    run("compare", *audits, "--out", tmp_path / "c.html")
    assert "erased leaks least" in (tmp_path / "c.html").read_text()


def test_the_attackers_audit_themselves_and_a_report_quotes_it(tmp_path, monkeypatch):
    from privface.audit.selftest import Size
    from privface.pipeline import battery

    tiny = Size(
        people=(60, 30, 60), dimensions=8, image_people=(20, 12, 20), side=24, nulls=2, resamples=20,
        null_people=(30, 16, 30), null_image_people=(16, 12, 16), null_dimensions=8,
    )  # fmt: skip
    monkeypatch.setattr(battery, "Size", lambda: tiny)
    monkeypatch.setattr(battery, "PROBE_KINDS", ("logistic", "similarity"))
    told = run("audit", "--self-test", "--out", tmp_path / "s")
    assert "xor" in told.output
    assert "NOT FOUND" in told.output  # a straight line does not read an XOR
    found = json.loads((tmp_path / "s" / "selftest.json").read_text())
    assert {row["sets"] for row in found["nulls"]} == {2}
    assert next(row for row in found["leaks"] if row["leak"] == "xor")["found"] is False

    write_table(tmp_path / "a.parquet", lean=3.0)
    run(
        "audit", "--original", tmp_path / "a.parquet", "--protected", tmp_path / "a.parquet", "--effort", "quick",
        "--resamples", 20, "--battery", tmp_path / "s" / "selftest.json", "--out", tmp_path / "out",
    )  # fmt: skip
    sentences = json.loads((tmp_path / "out" / "audit.json").read_text())["verdict"]["sentences"]
    assert any("not" in s and "xor" in s for s in sentences if s.startswith("Self-test"))


def test_a_table_that_lists_photos_is_no_table_of_embeddings(tmp_path):
    parts = (
        "audit",
        "--original",
        f"table:{tmp_path}/labels.csv",
        "--protected",
        tmp_path,
        "--matcher",
        "bundled:matcher",
    )
    done = CliRunner().invoke(app, [str(part) for part in parts])
    assert isinstance(done.exception, DataError)
    assert "labels.csv does not exist" in str(done.exception)
