"""docs/guides/attributes.md, "A set without genders": typed from top to bottom by a reader who has nothing but the page."""

from __future__ import annotations

import json
import re
import runpy
import shlex
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from privface.audit import PixelProbe
from privface.erasers import transport
from privface.pipeline import battery

PAGE = Path(__file__).parents[2] / "docs" / "guides" / "attributes.md"
BLOCK = re.compile(r'^```\w+(?: title="(?P<title>[\w.]+)")?\n(?P<code>.*?)^```', re.MULTILINE | re.DOTALL)

SMALLER = {"privface audit": "--resamples 20", "privface train": "--set loop.epochs=1"}
"""A command that starts with the key is typed with the value behind it: the same work, less of it."""


@pytest.mark.slow
def test_a_set_without_genders_goes_through(tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(battery, "image_probes", lambda *_, **__: [PixelProbe()])  # the quickest
    # near enough here; the fixed point takes half a minute in 512 dimensions, and tests/erasers holds it to its definition
    monkeypatch.setattr(transport, "barycentre", lambda covariances: np.mean(covariances, axis=0))
    section = PAGE.read_text(encoding="utf-8").split("## A set without genders")[1].partition("\n## ")[0]
    for block in BLOCK.finditer(section):
        if block["title"]:
            Path(block["title"]).write_text(block["code"], encoding="utf-8")
        else:
            for line in block["code"].splitlines():
                more = next((extra for start, extra in SMALLER.items() if line.startswith(start)), "")
                program, *words = shlex.split(f"{line} {more}")
                if program == "python":
                    runpy.run_path(words[0])
                else:
                    code, *said = command(*words)
                    assert (program, code) == ("privface", 0), (line, said)
    assert "gender" not in pd.read_csv("animals/labels.csv")
    for name, media in (("audit-templates", {"embedding"}), ("audit-species", {"image", "white-box"})):
        found = json.loads(Path(name, "audit.json").read_text(encoding="utf-8"))
        rows = {row["medium"]: row for row in found["attributes"]}
        assert media <= set(rows)
        assert rows["any"]["original"]["value"] > 0.8
        assert rows["any"]["highest"]["value"] < rows["any"]["original"]["value"] - 0.1
        assert found["leakage"] == found["recovery"] == []
        assert found["worst_retrained"]["leakage"]["reason"] == "the set has no gender labels"
        reasons = {row["eer"].get("reason") for row in found["matching"] if row["impostors"] != "all"}
        assert reasons == {"the set has no gender labels"}
        assert any("worst attacker on species" in sentence for sentence in found["verdict"]["sentences"])
        report = Path(name, "report.html").read_text(encoding="utf-8")
        assert "How well species can still be read" in report
        assert "How well gender can still be read" not in report
