"""The model card: an audit's own figures, FNMR in place of TMR, and nothing that breaks a table."""

from __future__ import annotations

import json

import numpy as np
import pytest

from privface.audit import Auditor, EmbeddingData
from privface.report.card import write_card


@pytest.fixture(scope="module")
def document() -> dict:
    rng, people = np.random.default_rng(0), np.repeat(np.arange(120), 3)
    before = (rng.normal(size=(120, 16))[people] + 0.3 * rng.normal(size=(360, 16))).astype(np.float32)
    before[:, 0] += 4 * (people % 2)
    after, again = before.copy(), before.copy()
    after[:, 0], again[:, 0] = 0, 0
    data = EmbeddingData(
        files=tuple(f"{row}.png" for row in range(360)),
        identities=people.astype(str),
        genders=people % 2,
        embeddings={"a|b": (before, after)},
        second={"a|b": again},
        name="<b>set</b>",
    )
    return Auditor(embedding_probes=["logistic"], label_budgets=(16, 40), resamples=40).run(data).to_dict()


def test_the_figures_are_those_of_the_audit(document, tmp_path):
    text = write_card(document, tmp_path / "card.md", model="ours").read_text()
    assert text.startswith("# Model card: ours\n")
    assert document["verdict"]["headline"] in text
    worst = document["worst_retrained"]["leakage"]
    assert f"| {worst['value']:.3f} [{worst['low']:.3f}, {worst['high']:.3f}] |" in text
    matching = next(r for r in document["matching"] if r["mode"] == "P-P" and r["impostors"] == "all")
    tmr = matching["tmr"]["0.01"]
    assert f"{1 - tmr['value']:.3f} [{1 - tmr['high']:.3f}, {1 - tmr['low']:.3f}]" in text
    assert f"{document['unlinkability'][0]['d_sys']['value']:.3f}" in text
    assert "120 people (60 women, 60 men)" in text
    assert "a\\|b" in text, "names break no table"
    assert "<b>" not in text


def test_what_was_not_measured_is_said(document, tmp_path):
    bare = {key: document[key] for key in ("verdict", "data", "matching")}
    path = write_card(json.loads(json.dumps(bare)), tmp_path / "card.md")
    assert path.read_text().count("Not measured.") == 4
