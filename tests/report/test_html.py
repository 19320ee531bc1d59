"""The report: what a reader must find, and that nothing of an audit can break out of it."""

from __future__ import annotations

import base64
import copy
import hashlib
import json
import math
import re
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

from privface.audit.result import to_json_data
from privface.errors import AuditError, ImageError
from privface.images import encode_image
from privface.report import write_report
from tests.report.conftest import measured

HOSTILE = (
    "</script><img src=x onerror=alert(1)> & \"q\" 'p' $x^2$ {{ 7*7 }} \u202e\x07\udce9 http://evil.example"
)
BARE = {"schema": "privface.audit/2"}


class Page(HTMLParser):
    """Collects elements, addresses and the text of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.html = html
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text: list[str] = []
        self.raw: list[str] = []
        self.embedded = False
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.embedded = ("id", "audit") in attrs
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        if self.cdata_elem not in {"script", "style"}:
            self.text.append(data)
        elif self.embedded:
            self.raw.append(data)

    def values(self, *names: str) -> list[str]:
        """Values of all attributes of these names."""
        return [value for _, name, value in self.attributes if name in names]

    @property
    def words(self) -> str:
        return re.sub(r"\s+", " ", "".join(self.text))

    def part(self, pattern: str) -> str:
        """The words of what a pattern finds."""
        found = re.search(pattern, self.html, re.DOTALL)
        assert found is not None, pattern
        return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", found[0]))

    def section(self, name: str) -> str:
        return self.part(rf'<section class="[^"]*" id="{name}">.*?</section>')


@pytest.fixture
def render(tmp_path):
    """Writes the report of an audit and reads it."""

    def made(audit: dict[str, Any], **options: Any) -> Page:
        return Page(write_report(audit, tmp_path / "report.html", **options).read_text(encoding="utf-8"))

    return made


def test_the_verdict_comes_first_then_the_worst_figure_and_its_meaning(audit, render):
    page = render(audit)
    html = page.html
    assert html.index("Gender can be read.") < html.index("worst retrained leakage") < html.index("<table")
    assert page.tags.index("h1") < page.tags.index("h2")
    worst = page.section("worst")
    for words in (" 0.87 ", "95 % interval 0.85 to 0.89", "rbf-svm on embeddings of net-b", "87 of 100"):
        assert words in worst
    assert "+0.25" in page.section("gap")
    recognition = page.section("recognition")
    for words in ("92.2 %", "net-b (unseen), the worst matcher", "originals: 97.6 %"):
        assert words in recognition


@pytest.mark.parametrize(
    ("status", "tone"),
    [
        ("leaks", "bad"),
        ("no-leak-found", "good"),
        ("inconclusive", "fair"),
        ("matching-lost", "bad"),
        ("not-measurable", "none"),
        ("?", "none"),
    ],
)
def test_the_colour_says_what_the_status_says(render, status, tone):
    page = render({**BARE, "verdict": {"status": status}})
    assert f'<section class="verdict {tone}" id="verdict">' in page.html
    assert f"Verdict: {status.replace('-', ' ')}" in page.section("verdict")


def test_every_row_of_the_audit_is_in_the_tables(audit, render):
    page = render(audit)
    assert page.html.count('<tr><th scope="row">O-O') == page.html.count('<tr><th scope="row">P-O') == 4
    counts = {"same-gender impostors": 6, "79 impostors are too few": 12, "above 1.25": 1}
    counts |= dict.fromkeys(audit["verdict"]["sentences"], 1)
    assert {words: page.words.count(words) for words in counts} == counts
    for words in ("net-a (seen in training)", "net-b (unseen)", "2.50 2.40 to 2.60 above 1.25", "22.4"):
        assert words in page.words
    assert "1,650,000 pairs" in page.words
    worst = re.search(r'<tr class="worst"><th scope="row">rbf-svm.*?</tr>', page.html, re.DOTALL)
    assert '<data value="0.87">0.87</data>' in worst[0], "sorted by its number"


def test_parts_that_bring_their_own_words_are_shown(audit, render):
    page = render(audit)
    for words in (
        "net-b photos recovered by denoiser98.1 % 96.1 to 100.1 %41.2 %",
        "63.4 % 61.4 to 65.4 %",
        "too few strangers",
        "net-b 480 pairs of one person, 79000 of two0.874 0.854 to 0.8940.951",
        "linking across is wanted, and a high D_sys is no defect",
    ):
        assert words in page.words
    assert page.words.count("The verdict does not use th") == 2
    assert {"irreversibility", "unlinkability"} <= set(page.values("id"))
    audit["irreversibility"], audit["unlinkability"] = [{"recovered": "?"}], []
    page = render(audit)
    assert page.words.count("not part of this audit") >= 6
    assert "unlinkability" not in page.values("id")


def test_a_switch_shows_how_well_each_attribute_is_read(audit, render):
    row = {
        "attribute": "race", "classes": list("abcde"), "chance": 0.2, "medium": "any", "probe": "hog-svm", "input": "image",
        "original": {"value": 0.7}, "protected": {"value": 0.31, "low": 0.28, "high": 0.36},
    }  # fmt: skip
    audit["attributes"] = [row, {**row, "medium": "image"}]
    page = render(audit)
    assert page.html.count('type="radio"') == 2
    worst = page.section("worst")
    assert "How well gender can still be read" in worst
    assert "How well race can still be read balanced accuracy of the worst attacker, 5 classes 0.31" in worst
    assert "in 31 of 100 ; guessing gets 20, the same attacker on originals 70." in worst
    audit["data"].update(female=0, male=0)
    page = render(audit)
    assert 'type="radio"' not in page.html, "one attribute needs no switch"
    assert "How well race can still be read" in page.words
    assert "How well gender" not in page.words
    assert "labelled female" not in page.words


def test_words_that_promise_too_much_are_absent(audit, render):
    audit["verdict"]["status"] = "no-leak-found"
    promises = r"(?i)\b(safe|anonym\w*|guarante\w*|de-identif\w*)\b"
    assert not re.search(promises, render(audit).words)


def plant(value: Any, text: str) -> Any:
    """The audit with a text put into every name; words that steer the report are left."""
    if isinstance(value, dict):
        steering = {"schema", "kind", "mode", "impostors"}
        return {k: v if k in steering else plant(v, text) for k, v in value.items()}
    if isinstance(value, list):
        return [plant(item, text) for item in value]
    return f"{value} {text}" if isinstance(value, str) else value


def test_hostile_names_stay_text(full_audit, render):
    full_audit["leakage"][0] |= {"measurable": False, "reason": "why"}
    hostile = plant(full_audit, HOSTILE)
    page, plain = render(hostile), render(full_audit)
    drawn = {"g", "use", "text"}
    assert [t for t in page.tags if t not in drawn] == [t for t in plain.tags if t not in drawn]
    assert "img" not in page.tags
    assert not [a for a in page.attributes if a[1].startswith("on")]
    assert page.words.count("<img src=x onerror=alert(1)>") > 10
    assert "{{ 7*7 }} \\udce9" in page.words, "neither a template, nor a control character, nor bytes"
    assert json.loads("".join(page.raw)) == to_json_data(hostile)


def test_the_page_stands_alone(full_audit, render):
    page = render(full_audit, contact_sheet=encode_image(np.zeros((4, 4, 3), np.uint8), ".png"))
    addresses = page.values("src", "href", "xlink:href", "srcset", "data", "action")
    assert addresses
    assert all(address.startswith(("#", "data:image/png;base64,")) for address in addresses)
    assert not re.search(r"https?:|@import|url\((?!#)", page.html)
    assert "link" not in page.tags
    assert [v for t, n, v in page.attributes if t == "script" and n == "type"] == ["application/json"]
    (script,) = re.findall(r"<script>(.*?)</script>", page.html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    expected = f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-{digest}'"
    assert [value for value in page.values("content") if "default-src" in value] == [expected]
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    targets = [address[1:] for address in page.values("href", "xlink:href")]
    assert {*targets, *re.findall(r"url\(#([^)]+)\)", page.html)} <= set(ids)


def test_every_term_has_a_meaning_on_hover_and_in_writing(audit, render):
    page = render(audit)
    terms = re.findall(r'<a class="word" href="#word-([\w-]+)" title="([^"]*)">', page.html)
    assert {"leakage", "gap", "tmr", "interval", "eer", "fte", "bits"} <= {term for term, _ in terms}
    written = re.findall(r'<dt id="word-([\w-]+)">(.*?)</dt><dd>(.*?)</dd>', page.html)
    assert set(terms) <= {(term, f"{name}: {meaning}") for term, name, meaning in written}
    assert page.words.index("Words used here") < page.words.index("Method, threat model and limits")


def test_same_audit_same_bytes(audit, tmp_path):
    first = write_report(copy.deepcopy(audit), tmp_path / "a.html").read_bytes()
    (tmp_path / "audit.json").write_text(json.dumps(audit), encoding="utf-8")
    assert write_report(tmp_path / "audit.json", tmp_path / "b.html").read_bytes() == first


@pytest.mark.parametrize("value", [None, math.nan])
def test_missing_figures_say_so_with_the_reason(audit, render, value):
    for name in ("worst_retrained", "worst_frozen"):
        audit[name] = {"probe": None, "input": None, "leakage": {"value": value, "reason": f"{name} why"}}
    audit["illusion_gap"] = {"value": value, "reason": "gap why"}
    for row in audit["matching"]:
        row["tmr"]["0.01"] = {"value": value, "reason": "tmr why"}
    audit["quality"]["psnr"] = {"value": math.inf, "low": math.nan, "high": None, "reason": "identical"}
    page = render(audit)
    assert "not measurable worst_retrained why" in page.section("worst")
    assert "not measurable gap why" in page.section("gap")
    assert "not measurable tmr why" in page.section("recognition")
    assert "not measurable identical" in page.words
    assert not re.search(r"\b(nan|None|inf)\b", page.words)
    embedded = json.loads("".join(page.raw))
    assert embedded == to_json_data(audit)
    assert embedded["quality"]["psnr"]["value"] is None


def test_a_probe_that_cannot_read_originals_does_not_count_yet_is_shown(audit, render):
    audit["leakage"][1].update(measurable=False, reason="not measurable: AUC 0.84 on originals")
    page = render(audit)
    row = page.part(r'<th scope="row">cnn.*?</tr>')
    assert "not measurable AUC 0.84 on originals reads 0.78 (0.76 to 0.80)" in row
    assert "cnn (not measurable)" in page.html


@pytest.mark.parametrize(
    "part", ["matching", "leakage", "curves", "verdict", "data", "cohorts", "quality", "provenance"]
)
@pytest.mark.parametrize("value", [None, "text", 3, [None], {"det": 3}])
def test_malformed_parts_do_not_stop_the_report(render, part, value):
    assert "How well gender can still be read" in render({**BARE, part: value}).words


def test_an_audit_with_nothing_but_a_schema_gives_a_report_with_a_sheet_only_where_it_is_given(render):
    page = render(BARE)
    assert not {"svg", "img"} & set(page.tags)
    assert "contact-sheet" not in page.values("id")
    assert "not part of this audit" in page.section("worst")
    assert "This audit holds no matcher." in page.words
    for suffix, kind in ((".png", "png"), (".jpg", "jpeg")):
        sheet = encode_image(np.full((4, 8, 3), 200, np.uint8), suffix)
        (source,) = render(BARE, contact_sheet=sheet).values("src")
        lead, _, data = source.partition(",")
        assert (lead, base64.b64decode(data)) == (f"data:image/{kind};base64", sheet)
    with pytest.raises(ImageError, match="neither PNG nor JPEG"):
        render(BARE, contact_sheet=b"<svg onload=alert(1)>")


def test_what_is_no_audit_is_refused_and_nothing_written(tmp_path):
    (tmp_path / "audit.json").write_text('{"schema": "other/1"}', encoding="utf-8")
    with pytest.raises(AuditError, match="schema 'other/1'"):
        write_report(tmp_path / "audit.json", tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_readers_of_the_code_have_a_table_of_their_own(audit, render):
    assert "white-box" not in render(audit).html
    mark = {"white_box": True, "input": "white-box:code", "seen": True}
    audit["leakage"].append({**audit["leakage"][1], **mark, "probe": "reader-of-code"})
    audit["matching"].append({**audit["matching"][2], "white_box": True, "matcher": "white-box:code"})
    audit["worst_retrained"] |= {**mark, "probe": "reader-of-code"}
    shown = render(audit).html.partition('<script type="application/json"')[0]
    others, _, part = shown.partition('id="leakage"')[2].partition('id="white-box"')
    part = part.partition("<h2")[0]
    for words in (
        "can tell no more than this code",
        "reader-of-code",
        "on the code itself (white box), seen in training",
        'class="worst"',
        "of same-person pairs are recognised",
    ):
        assert words in part
    assert '<th scope="row">reader-of-code' not in others
    assert "white-box:code" not in shown.partition('id="matching"')[2], "faces decide who is recognised"
    assert "holds the model, turns photos back into their code" in shown


def test_draws_of_a_randomised_protection_have_a_table_of_their_own(audit, render):
    assert "averaging" not in render(audit).values("id")

    audit["averaging"] = [
        {
            "probe": probe, "kind": kind, "input": medium, "combined": combined, "draws": draws,
            "leakage": measured(leakage + 0.03 * draws), "gain": measured(0.03 * (draws - 1)),
            "measurable": kind == "retrained", "reason": None,
        }
        for probe, kind, medium, combined, leakage in (
            ("pixel-svm", "retrained", "image", "pixels", 0.6),
            ("stock", "frozen", "image", "scores", 0.5),
            ("rbf-svm", "retrained", "embedding:net-b", "embeddings", 0.7),
        )
        for draws in (1, 2, 4)
    ]  # fmt: skip
    page = render(audit)
    table = page.part(r'id="averaging".*?</table>(?=.*id="recovery")')
    assert "1 draw 2 draws 4 draws Gain" in table
    assert "rbf-svm on embeddings of net-b, embeddings averaged" in table
    assert "stock on photos, scores averaged, pretrained, does not count" in table
    assert re.search(r"pixel-svm on photos, pixels averaged 0.63 .* 0.66 .* 0.72 .* \+0.09", table)
