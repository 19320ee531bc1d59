from __future__ import annotations

import itertools
import re

import numpy as np

from privface.images import decode_image
from privface.report.figures import sweep_figure, sweep_picture
from privface.report.labels import place_labels

BOUNDS = (0.0, 0.0, 800.0, 600.0)


def boxes(anchors, sizes):
    places = place_labels(anchors, sizes, marks=anchors, bounds=BOUNDS)
    return [
        (x - w / 2, y - h / 2, x + w / 2, y + h / 2) for (x, y, _), (w, h) in zip(places, sizes, strict=True)
    ]


def shared(a, b) -> float:
    return max(min(a[2], b[2]) - max(a[0], b[0]), 0) * max(min(a[3], b[3]) - max(a[1], b[1]), 0)


def test_a_lone_point_has_its_name_on_its_right_without_a_line():
    ((x, y, far),) = place_labels([(100.0, 100.0)], [(60.0, 12.0)], marks=[(100.0, 100.0)], bounds=BOUNDS)
    assert (x, y, far) == (100 + 30 + 9, 100, False)


def test_names_of_a_crowd_cover_neither_each_other_nor_a_point_and_stay_inside():
    rng = np.random.default_rng(0)
    anchors = [*map(tuple, rng.normal((600, 480), 30, (16, 2)).tolist()), (798.0, 598.0), (2.0, 2.0)]
    sizes = [(110.0, 12.0)] * len(anchors)
    placed = boxes(anchors, sizes)
    assert max(shared(a, b) for a, b in itertools.combinations(placed, 2)) == 0
    marks = [(x - 5, y - 5, x + 5, y + 5) for x, y in anchors]
    assert sum(shared(a, b) for a in placed for b in marks) < 200
    assert all(min(b[:2]) >= 0 and b[2] <= 800 and b[3] <= 600 for b in placed)
    assert placed == boxes(anchors, sizes), "same input, same places"


def points(count: int) -> list[dict]:
    out = []
    for k in range(count):
        leak, match = 0.6 + 0.4 * k / count, 0.5 + 0.5 * k / count
        figures = {
            key: {"value": value, "low": value - 0.02, "high": value + 0.02}
            for key, value in (("leakage", leak), ("tmr", match))
        }
        method = ("trained", "blur", "originals")[k % 3]
        out.append({"name": f"p{k}<&", "method": method, "dominated_by": "x" if k % 2 else None, **figures})
    return out


def test_every_point_of_a_sweep_is_named_up_to_forty():
    svg = sweep_figure(points(9), title="T")
    assert [k for k in range(9) if f"p{k}&lt;&amp;" not in svg] == []
    assert svg == sweep_figure(points(9), title="T")
    assert len(set(re.findall(r"p\d+&lt;", sweep_figure(points(50), title="T")))) == 40
    unmeasured = {**points(1)[0], "tmr": {"value": None, "low": None, "high": None, "reason": "x"}}
    assert "p0" not in sweep_figure([unmeasured], title="T")


def test_a_picture_is_a_png_on_white_and_the_same_each_time():
    data = sweep_picture(points(5), title="T")
    assert data == sweep_picture(points(5), title="T")
    assert decode_image(data)[0, 0].tolist() == [255] * 3
