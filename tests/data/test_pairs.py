from pathlib import Path

import pytest

from privface.data import read_pairs_file
from privface.errors import DataError
from privface.records import FaceRecord, FaceTable

PAIRS = "2\t1\nAnn_Lee\t1\t2\nAnn_Lee\t1\tBen\t3\nBen\t3\t12\nBen\t12\tAnn_Lee\t2\n"


def lfw() -> FaceTable:
    files = ["Ann_Lee/Ann_Lee_0001.jpg", "Ben/Ben_0012.jpg", "Ann_Lee/Ann_Lee_0002.jpg", "Ben/Ben_0003.jpg"]
    return FaceTable(tuple(FaceRecord(f, Path(f), identity=f.split("/")[0]) for f in files))


def test_pairs_file(tmp_path: Path) -> None:
    (tmp_path / "pairs.txt").write_text(PAIRS)
    pairs, same, folds = read_pairs_file(tmp_path / "pairs.txt", lfw())
    assert pairs.tolist() == [[0, 2], [0, 3], [3, 1], [1, 2]]
    assert same.tolist() == [True, False, True, False]
    assert folds.tolist() == [0, 0, 1, 1]
    (tmp_path / "one.txt").write_text("1\nAnn_Lee 1 2\nBen 3 Ann_Lee 2\n")
    pairs, same, folds = read_pairs_file(tmp_path / "one.txt", lfw())
    assert (pairs.tolist(), same.tolist(), folds.tolist()) == ([[0, 2], [3, 2]], [True, False], [0, 0])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "does not begin with"),
        ("two folds\n", "does not begin with"),
        ("1 2 3\nAnn_Lee 1 2\n", "does not begin with"),
        ("2 1\nAnn_Lee 1 2\n", "announces 2 folds of 2 x 1 pairs but has 1"),
        ("1\nAnn_Lee 1 Ben 3\nAnn_Lee 1 2\n", "pair 1: .* is not of the form NAME I J"),
        ("1\nAnn_Lee 1 two\nAnn_Lee 1 Ben 3\n", "not of the form NAME I J"),
        ("1\nAnn_Lee 1 7\nAnn_Lee 1 Zoe 3\n", "2 photos of .* Ann_Lee_0007, Zoe_0003"),
    ],
)
def test_pairs_file_defects(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "pairs.txt").write_text(text)
    with pytest.raises(DataError, match=message):
        read_pairs_file(tmp_path / "pairs.txt", lfw())
    with pytest.raises(DataError, match="cannot be read"):
        read_pairs_file(tmp_path / "none.txt", lfw())
