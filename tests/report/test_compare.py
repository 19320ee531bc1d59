from __future__ import annotations

import copy
import json
import re
from typing import Any

import pytest

from privface.errors import AuditError
from privface.report.compare import COLUMNS, write_comparison


def named(audit: dict[str, Any], **leakages: float) -> list[tuple[str, dict[str, Any]]]:
    out = []
    for name, leakage in leakages.items():
        document = copy.deepcopy(audit)
        document["data"]["original_fingerprint"] = "x"
        document["worst_retrained"]["leakage"] |= {"value": leakage, "low": leakage, "high": leakage}
        out.append((name, document))
    return out


def test_the_method_that_leaks_least_comes_first_and_the_beaten_are_marked(audit, tmp_path):
    pair = named(audit, worse=0.9, better=0.7)
    page, again = (write_comparison(pair, tmp_path / name).read_text() for name in ("c.html", "d.html"))
    assert page == again
    assert "better leaks least: the worst attacker still reads gender at 0.70" in page
    assert page.index(">better") < page.index(">worse")
    assert "beaten by better" in page
    assert "<svg" in page
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org", "")
    pair[1][1]["data"]["original_fingerprint"] = "y"
    with pytest.raises(AuditError, match="other photos"):
        write_comparison(pair, tmp_path / "e.html")


def test_names_are_escaped_and_the_figures_are_in_the_page_for_programs(audit, tmp_path):
    hostile = named(audit, first=0.9, **{"</script><b>": 0.7})
    page = write_comparison(hostile, tmp_path / "c.html").read_text()
    assert "<b>" not in page
    (embedded,) = re.findall(r'<script type="application/json" id="comparison">(.*?)</script>', page)
    found = json.loads(embedded)
    assert found["schema"] == "privface.comparison/1"
    assert [row["name"] for row in found["methods"]] == ["</script><b>", "first"]
    assert found["methods"][0]["worst_retrained"]["value"] == 0.7
    assert {key for key, *_ in COLUMNS} <= set(found["methods"][0])
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#(word-[^"]+)"', page)) <= set(ids)
