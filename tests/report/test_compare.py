from __future__ import annotations

import copy
import json
import re
from typing import Any

import pytest

from privface.errors import AuditError
from privface.report.compare import COLUMNS, comparison_markdown, write_comparison


def named(audit: dict[str, Any], **leakages: float) -> list[tuple[str, dict[str, Any]]]:
    out = []
    for name, leakage in leakages.items():
        document = copy.deepcopy(audit)
        document["data"]["original_fingerprint"] = "x"
        document["worst_retrained"]["leakage"] |= {"value": leakage, "low": leakage, "high": leakage}
        out.append((name, document))
    return out


def test_the_method_that_leaks_least_comes_first_and_the_beaten_are_marked(audit, tmp_path):
    page = write_comparison(named(audit, worse=0.9, better=0.7), tmp_path / "c.html").read_text()
    assert "better leaks least: the worst attacker still reads gender at 0.70" in page
    assert page.index(">better") < page.index(">worse")
    assert "beaten by better" in page
    assert "<svg" in page
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org", "")
    again = write_comparison(named(audit, worse=0.9, better=0.7), tmp_path / "d.html").read_text()
    assert again == page


def test_the_figures_are_in_the_page_for_programs(audit, tmp_path):
    hostile = named(audit, first=0.9, **{"</script><b>": 0.7})
    page = write_comparison(hostile, tmp_path / "c.html").read_text()
    (embedded,) = re.findall(r'<script type="application/json" id="comparison">(.*?)</script>', page)
    found = json.loads(embedded)
    assert found["schema"] == "privface.comparison/1"
    assert [row["name"] for row in found["methods"]] == ["</script><b>", "first"]
    assert found["methods"][0]["worst_retrained"]["value"] == 0.7
    assert {COLUMNS[k][0] for k in range(len(COLUMNS))} <= set(found["methods"][0])
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#(word-[^"]+)"', page)) <= set(ids)


def test_the_markdown_table_holds_every_column(audit):
    lines = comparison_markdown(named(audit, first=0.9, **{"a|b": 0.8})).splitlines()
    assert [cell.strip() for cell in lines[0].strip("|").split("|")] == [
        "method",
        *(heading for _, heading, _ in COLUMNS),
        "beaten by",
    ]
    assert lines[2].startswith("| a/b |")
    assert {line.count("|") for line in lines} == {len(COLUMNS) + 3}


def test_names_are_escaped_and_other_photos_refused(audit, tmp_path):
    pair = named(audit, first=0.9, **{"<b>": 0.8})
    assert "<b>" not in write_comparison(pair, tmp_path / "c.html").read_text()
    pair[1][1]["data"]["original_fingerprint"] = "y"
    with pytest.raises(AuditError, match="other photos"):
        write_comparison(pair, tmp_path / "e.html")
