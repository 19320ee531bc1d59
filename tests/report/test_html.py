"""The report: what a reader must find, and that nothing of an audit can break out of it."""

from __future__ import annotations

import base64
import copy
import hashlib
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from privface.audit.result import to_json_data
from privface.errors import AuditError, ImageError
from privface.images import encode_image
from privface.report import write_report

HOSTILE = "</script><img src=x onerror=alert(1)> & \"q\" 'p' $x^2$ {{ 7*7 }} \u202e\x07 http://evil.example"


class Page(HTMLParser):
    """Collects elements, addresses and the text of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text: list[str] = []
        self.raw: list[str] = []
        self.embedded = False
        self.stack: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.stack.append(tag)
        self.embedded = ("id", "audit") in attrs
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        while self.stack and self.stack.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if "script" in self.stack:
            if self.embedded:
                self.raw.append(data)
        elif "style" not in self.stack:
            self.text.append(data)

    @property
    def words(self) -> str:
        return re.sub(r"\s+", " ", "".join(self.text))


def render(audit: dict[str, Any], tmp_path: Path, **options: Any) -> tuple[str, Page]:
    html = write_report(audit, tmp_path / "report.html", **options).read_text(encoding="utf-8")
    return html, Page(html)


def section(page: str, name: str) -> str:
    found = re.search(rf'<section class="[^"]*" id="{name}">.*?</section>', page, re.DOTALL)
    assert found is not None
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", found[0]))


def test_the_verdict_comes_first_then_the_worst_figure_and_its_meaning(
    audit: dict[str, Any], tmp_path: Path
) -> None:
    html, page = render(audit, tmp_path)
    assert html.index("Gender can be read.") < html.index("worst retrained leakage") < html.index("<table")
    assert page.tags.index("h1") < page.tags.index("h2")
    assert '<section class="verdict bad" id="verdict">' in html
    worst = section(html, "worst")
    assert " 0.87 " in worst
    assert "95 % interval 0.85 to 0.89" in worst
    assert "rbf-svm on embeddings of net-b" in worst
    assert "87 of 100" in worst
    assert "+0.25" in section(html, "gap")
    recognition = section(html, "recognition")
    assert "92.2 %" in recognition
    assert "net-b (unseen), the worst matcher" in recognition
    assert "originals: 97.6 %" in recognition


@pytest.mark.parametrize(
    ("status", "tone"),
    [
        ("no-leak-found", "good"),
        ("inconclusive", "fair"),
        ("matching-lost", "bad"),
        ("not-measurable", "none"),
        ("?", "none"),
    ],
)
def test_the_colour_says_what_the_status_says(tmp_path: Path, status: str, tone: str) -> None:
    html, _ = render({"schema": "privface.audit/2", "verdict": {"status": status}}, tmp_path)
    assert f'class="verdict {tone}"' in html
    assert f"Verdict: {status.replace('-', ' ')}" in section(html, "verdict")


def test_every_row_of_the_audit_is_in_the_tables(audit: dict[str, Any], tmp_path: Path) -> None:
    html, page = render(audit, tmp_path)
    assert html.count('<tr><th scope="row">O-O') == html.count('<tr><th scope="row">P-O') == 4
    assert page.words.count("same-gender strangers") == 6
    assert page.words.count("79 impostors are too few") == 12
    assert "net-a (seen in training)" in page.words
    assert "net-b (unseen)" in page.words
    assert "2.50 2.40 to 2.60 above 1.25" in page.words
    assert page.words.count("above 1.25") == 1
    assert "22.4" in page.words
    for sentence in audit["verdict"]["sentences"]:
        assert page.words.count(sentence) == 1
    assert '<tr class="worst"><th scope="row">rbf-svm' in html


def test_parts_that_bring_their_own_words_are_shown(audit: dict[str, Any], tmp_path: Path) -> None:
    html, page = render(audit, tmp_path)
    assert "net-b photos recovered by denoiser98.1 % 96.1 to 100.1 %41.2 %" in page.words
    assert "63.4 % 61.4 to 65.4 %" in page.words
    assert "too few strangers" in page.words
    assert "net-b 480 pairs of one person, 79000 of two0.874 0.854 to 0.8940.951" in page.words
    assert "linking across is wanted, and a high D_sys is no defect" in page.words
    assert page.words.count("The verdict does not use th") == 2
    assert '<h2 id="irreversibility">' in html
    audit["irreversibility"], audit["unlinkability"] = [{"recovered": "?"}], []
    html, page = render(audit, tmp_path)
    assert page.words.count("not part of this audit") >= 6
    assert "unlinkability" not in re.sub(r"<script.*?</script>", "", html, flags=re.DOTALL)


def test_a_switch_shows_how_well_each_attribute_is_read(audit: dict[str, Any], tmp_path: Path) -> None:
    row = {
        "attribute": "race", "classes": list("abcde"), "chance": 0.2, "medium": "any", "probe": "hog-svm", "input": "image",
        "original": {"value": 0.7}, "protected": {"value": 0.31, "low": 0.28, "high": 0.36},
    }  # fmt: skip
    audit["attributes"] = [row, {**row, "medium": "image"}]
    html, _ = render(audit, tmp_path)
    assert html.count('type="radio"') == 2
    worst = section(html, "worst")
    assert "How well gender can still be read" in worst
    assert "How well race can still be read balanced accuracy of the worst attacker, 5 classes 0.31" in worst
    assert "in 31 of 100 ; guessing gets 20, the same attacker on originals 70." in worst
    audit["data"].update(female=0, male=0)
    html, page = render(audit, tmp_path)
    assert 'type="radio"' not in html, "one attribute needs no switch"
    assert "How well race can still be read" in page.words
    assert "How well gender" not in page.words
    assert "labelled female" not in page.words


def test_words_that_promise_too_much_are_absent(audit: dict[str, Any], tmp_path: Path) -> None:
    audit["verdict"]["status"] = "no-leak-found"
    _, page = render(audit, tmp_path)
    assert not re.search(r"\b(safe|anonym\w*|guarante\w*|de-identif\w*)\b", page.words, re.IGNORECASE)


def plant(value: Any, text: str) -> Any:
    """The audit with a text put into every name; words that steer the report are left."""
    if isinstance(value, dict):
        steering = {"schema", "kind", "mode", "impostors"}
        return {k: v if k in steering else plant(v, text) for k, v in value.items()}
    if isinstance(value, list):
        return [plant(item, text) for item in value]
    return f"{value} {text}" if isinstance(value, str) else value


def test_hostile_names_stay_text(full_audit: dict[str, Any], tmp_path: Path) -> None:
    full_audit["leakage"][0]["measurable"] = False
    full_audit["leakage"][0]["reason"] = "why"
    hostile = plant(full_audit, HOSTILE)
    html, page = render(hostile, tmp_path)
    _, plain = render(full_audit, tmp_path)
    assert [t for t in page.tags if t not in {"g", "use", "text"}] == [
        t for t in plain.tags if t not in {"g", "use", "text"}
    ]
    assert "img" not in page.tags
    assert not [a for a in page.attributes if a[1].startswith("on")]
    assert page.words.count("<img src=x onerror=alert(1)>") > 10
    assert "{{ 7*7 }}" in page.words
    assert "\u202e" not in html
    assert "\x07" not in html
    assert json.loads("".join(page.raw)) == to_json_data(hostile)


def test_names_that_are_not_utf8_do_not_stop_the_report(audit: dict[str, Any], tmp_path: Path) -> None:
    audit["data"]["name"] = "caf\udce9"
    _, page = render(audit, tmp_path)
    assert "caf\\udce9" in page.words


def test_the_page_asks_for_nothing_from_elsewhere(full_audit: dict[str, Any], tmp_path: Path) -> None:
    sheet = encode_image(np.zeros((4, 4, 3), np.uint8), ".png")
    html, page = render(full_audit, tmp_path, contact_sheet=sheet)
    addresses = [
        v for _, n, v in page.attributes if n in {"src", "href", "xlink:href", "srcset", "data", "action"}
    ]
    assert addresses
    assert all(address.startswith(("#", "data:image/png;base64,")) for address in addresses)
    assert "http:" not in html
    assert "https:" not in html
    assert not re.search(r"@import|url\((?!#)", html)
    policy = [v for t, n, v in page.attributes if t == "meta" and n == "content" and "default-src" in v]
    assert "link" not in page.tags
    assert [v for t, n, v in page.attributes if t == "script" and n == "type"] == ["application/json"]
    scripts = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    assert len(scripts) == 1, "its own script and the data, nothing else"
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    expected = f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-{digest}'"
    assert policy == [expected]


def test_ids_are_unique_and_references_resolve(full_audit: dict[str, Any], tmp_path: Path) -> None:
    html, page = render(full_audit, tmp_path)
    ids = [value for _, name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    targets = [v[1:] for _, n, v in page.attributes if n in {"href", "xlink:href"}]
    targets += re.findall(r"url\(#([^)]+)\)", html)
    assert set(targets) <= set(ids)


def test_every_term_has_a_meaning_on_hover_and_in_writing(audit: dict[str, Any], tmp_path: Path) -> None:
    html, page = render(audit, tmp_path)
    terms = re.findall(r'<a class="word" href="#word-([\w-]+)" title="([^"]*)">', html)
    assert {"leakage", "gap", "tmr", "interval", "eer", "fte", "bits"} <= {term for term, _ in terms}
    for term, meaning in terms:
        written = re.search(rf'<dt id="word-{term}">(.*?)</dt><dd>(.*?)</dd>', html)
        assert written is not None, term
        assert f"{written[1]}: {written[2]}" == meaning
    assert page.words.index("Words used here") < page.words.index("Method, threat model and limits")


def test_figures_in_tables_carry_their_number_for_sorting(audit: dict[str, Any], tmp_path: Path) -> None:
    html, _ = render(audit, tmp_path)
    row = re.search(r'<th scope="row">rbf-svm.*?</tr>', html, re.DOTALL)
    assert row is not None
    assert '<data value="0.87">0.87</data>' in row[0]
    assert "1,650,000 pairs" in html


def test_same_audit_same_bytes(audit: dict[str, Any], tmp_path: Path) -> None:
    first = write_report(copy.deepcopy(audit), tmp_path / "a.html").read_bytes()
    (tmp_path / "audit.json").write_text(json.dumps(audit), encoding="utf-8")
    assert write_report(tmp_path / "audit.json", tmp_path / "b.html").read_bytes() == first


def test_the_embedded_audit_comes_back_with_nan_as_null(audit: dict[str, Any], tmp_path: Path) -> None:
    audit["quality"]["psnr"] = {
        "value": math.inf,
        "low": math.nan,
        "high": None,
        "n": 3,
        "reason": "identical",
    }
    _, page = render(audit, tmp_path)
    embedded = json.loads("".join(page.raw))
    assert embedded == to_json_data(audit)
    assert embedded["quality"]["psnr"]["value"] is None
    assert "not measurable identical" in page.words


@pytest.mark.parametrize("value", [None, math.nan])
def test_missing_headline_figures_say_so_with_the_reason(
    audit: dict[str, Any], tmp_path: Path, value: float | None
) -> None:
    for name in ("worst_retrained", "worst_frozen"):
        audit[name] = {"probe": None, "input": None, "leakage": {"value": value, "reason": f"{name} why"}}
    audit["illusion_gap"] = {"value": value, "reason": "gap why"}
    for row in audit["matching"]:
        row["tmr"]["0.01"] = {"value": value, "reason": "tmr why"}
    html, page = render(audit, tmp_path)
    assert "not measurable worst_retrained why" in section(html, "worst")
    assert "not measurable gap why" in section(html, "gap")
    assert "not measurable tmr why" in section(html, "recognition")
    assert not re.search(r"\b(nan|None|inf)\b", page.words)


def test_a_probe_that_cannot_read_originals_does_not_count_yet_is_shown(
    audit: dict[str, Any], tmp_path: Path
) -> None:
    audit["leakage"][1].update(measurable=False, reason="not measurable: AUC 0.84 on originals")
    html, _ = render(audit, tmp_path)
    row = re.search(r'<th scope="row">cnn.*?</tr>', html, re.DOTALL)
    assert row is not None
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", row[0]))
    assert "not measurable AUC 0.84 on originals reads 0.78 (0.76 to 0.80)" in text
    assert "cnn (not measurable)" in html


def test_an_audit_with_nothing_but_a_schema_gives_a_report(tmp_path: Path) -> None:
    html, page = render({"schema": "privface.audit/2"}, tmp_path)
    assert "svg" not in page.tags
    assert "not part of this audit" in section(html, "worst")
    assert "This audit holds no matcher." in page.words


@pytest.mark.parametrize(
    "part", ["matching", "leakage", "curves", "verdict", "data", "cohorts", "quality", "provenance"]
)
@pytest.mark.parametrize("value", [None, "text", 3, [None], {"det": 3}])
def test_malformed_parts_do_not_stop_the_report(tmp_path: Path, part: str, value: object) -> None:
    _, page = render({"schema": "privface.audit/2", part: value}, tmp_path)
    assert "How well gender can still be read" in page.words


def test_the_contact_sheet_is_there_only_where_it_is_given(tmp_path: Path) -> None:
    audit = {"schema": "privface.audit/2"}
    html, page = render(audit, tmp_path)
    assert "img" not in page.tags
    assert 'id="contact-sheet"' not in html
    for suffix, kind in ((".png", "png"), (".jpg", "jpeg")):
        sheet = encode_image(np.full((4, 8, 3), 200, np.uint8), suffix)
        _, page = render(audit, tmp_path, contact_sheet=sheet)
        sources = [v for t, n, v in page.attributes if (t, n) == ("img", "src")]
        assert len(sources) == 1
        assert sources[0].startswith(f"data:image/{kind};base64,")
        assert base64.b64decode(sources[0].partition(",")[2]) == sheet


def test_a_contact_sheet_of_another_type_is_refused(audit: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"neither PNG nor JPEG"):
        write_report(audit, tmp_path / "report.html", contact_sheet=b"<svg onload=alert(1)>")


@pytest.mark.parametrize("content", [None, "{", "[]", '{"schema": "other/1"}', '"text"'])
def test_what_is_no_audit_is_refused(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "audit.json"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(AuditError, match=r"audit"):
        write_report(path, tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_readers_of_the_code_have_a_table_of_their_own(audit: dict[str, Any], tmp_path: Path) -> None:
    plain = write_report(audit, tmp_path / "plain.html").read_text("utf-8")
    assert "white-box" not in plain
    mark = {"white_box": True, "input": "white-box:code", "seen": True}
    row, kept = dict(audit["leakage"][1]), dict(audit["matching"][0])
    audit["leakage"].append({**row, **mark, "probe": "reader-of-code", "kind": "retrained"})
    audit["matching"].append({**kept, "white_box": True, "matcher": "white-box:code", "mode": "P-P"})
    audit["worst_retrained"] = {**audit["worst_retrained"], **mark, "probe": "reader-of-code"}
    html = write_report(audit, tmp_path / "r.html").read_text("utf-8")
    shown = html.partition('<script type="application/json"')[0]
    part = shown.partition('id="white-box"')[2].partition("<h2")[0]
    assert "can tell no more than this code" in part
    assert "reader-of-code" in part
    assert "on the code itself (white box), seen in training" in part
    assert 'class="worst"' in part
    assert "of same-person pairs are recognised" in part
    others = shown.partition('id="leakage"')[2].partition('id="white-box"')[0]
    assert '<th scope="row">reader-of-code' not in others
    assert (
        "white-box:code" not in shown.partition('id="matching"')[2]
    )  # faces decide how people are recognised
    assert "holds the model, turns photos back into their code" in shown


def test_draws_of_a_randomised_protection_have_a_table_of_their_own(
    audit: dict[str, Any], tmp_path: Path
) -> None:
    plain, _ = render(audit, tmp_path)
    assert 'id="averaging"' not in plain

    def measured(value: float) -> dict[str, Any]:
        return {"value": value, "low": value - 0.02, "high": value + 0.02, "n": 900}

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
    html, _ = render(audit, tmp_path)
    assert html.index('id="averaging"') < html.index('id="recovery"')
    table = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html.split('id="averaging"')[1].split("</table>")[0]))
    assert "1 draw 2 draws 4 draws Gain" in table
    assert "rbf-svm on embeddings of net-b, embeddings averaged" in table
    assert "stock on photos, scores averaged, pretrained, does not count" in table
    assert re.search(r"pixel-svm on photos, pixels averaged 0.63 .* 0.66 .* 0.72 .* \+0.09", table)
