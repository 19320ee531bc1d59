from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from privface.data import LabelFile, gender_codes, read_embeddings
from privface.errors import DataError, LabelError

VECTORS = np.arange(12, dtype=np.float32).reshape(4, 3) / 7
LABELS = pd.DataFrame(
    {
        "file": ["a/1.jpg", "a/2.jpg", "b/1.jpg", "c/1.jpg"],
        "identity": ["a", "a", "b", "c"],
        "gender": ["female", "female", "male", "male"],
        "age": [30.0, 31.0, np.nan, 40.0],
    }
)


def as_lists(path):
    LABELS.assign(embedding=list(VECTORS)).to_parquet(path)


def as_tensors(path):
    column = pa.FixedShapeTensorArray.from_numpy_ndarray(VECTORS)
    pq.write_table(pa.Table.from_pandas(LABELS).append_column("embedding", column), path)


def as_columns(path):
    # out of order and twelve, so that e10 does not come before e2
    LABELS.assign(**{f"e{k}": VECTORS[:, k] for k in (2, 0, 1)}).to_parquet(path)


def as_csv(path):
    LABELS.assign(**{f"dim_{k}": VECTORS[:, k] for k in range(3)}).to_csv(path, index=False)


def as_text(path):
    LABELS.assign(embedding=[str(list(map(float, v))) for v in VECTORS]).to_csv(path, index=False)


def as_npz(path):
    np.savez(
        path,
        embeddings=VECTORS,
        files=LABELS["file"].to_numpy(str),
        identities=LABELS["identity"].to_numpy(str),
        genders=np.array([0, 0, 1, 1]),
        age=LABELS["age"].to_numpy(),
    )


@pytest.mark.parametrize(
    ("write", "suffix"),
    [
        (as_lists, "parquet"),
        (as_tensors, "parquet"),
        (as_columns, "parquet"),
        (as_csv, "csv"),
        (as_text, "csv"),
        (as_npz, "npz"),
    ],
)
def test_every_form_gives_the_same_table(tmp_path, write, suffix):
    path = tmp_path / f"t.{suffix}"
    write(path)
    table = read_embeddings(path)
    np.testing.assert_allclose(table.vectors, VECTORS, rtol=1e-6)
    assert table.vectors.dtype == np.float32
    assert table.labels["file"].tolist() == LABELS["file"].tolist()
    assert table.labels["age"].tolist() == ["30", "31", "", "40"]
    assert gender_codes(table.labels, path).tolist() == [0, 0, 1, 1]


def test_columns_are_ordered_by_number(tmp_path):
    wide = pd.DataFrame({f"v{k}": [float(k)] for k in range(11, -1, -1)})
    wide.to_csv(tmp_path / "w.csv", index=False)
    assert read_embeddings(tmp_path / "w.csv").vectors.tolist() == [list(map(float, range(12)))]


def test_a_failed_row_is_nan(tmp_path):
    LABELS.assign(embedding=[*VECTORS[:3], None], reason=[None, None, None, "no face"]).to_parquet(
        tmp_path / "t.parquet"
    )
    table = read_embeddings(tmp_path / "t.parquet")
    assert np.isnan(table.vectors).all(axis=1).tolist() == [False, False, False, True]
    assert "reason" not in table.labels


def test_matchers_are_kept_apart(tmp_path):
    both = pd.concat([LABELS.assign(matcher=m, embedding=list(VECTORS * k)) for k, m in ((1, "x"), (2, "y"))])
    both.to_parquet(tmp_path / "t.parquet")
    table = read_embeddings(tmp_path / "t.parquet")
    assert table.matchers == ("x", "y")
    np.testing.assert_array_equal(table.of_matcher("y").vectors, VECTORS * 2)


def test_labels_are_joined_by_file(tmp_path):
    np.savez(tmp_path / "t.npz", embeddings=VECTORS, files=LABELS["file"].to_numpy(str))
    LABELS.iloc[::-1].iloc[1:].to_csv(tmp_path / "l.csv", index=False)
    joined = LabelFile(tmp_path / "l.csv").join(read_embeddings(tmp_path / "t.npz"))
    assert joined.labels["identity"].tolist() == ["a", "a", "b", ""]
    assert gender_codes(joined.labels, tmp_path).tolist() == [0, 0, 1, -1]
    np.testing.assert_array_equal(joined.vectors, VECTORS)


def test_bad_tables_and_labels_are_refused(tmp_path):
    """More of them are in the table of tests/e2e/bad_inputs.py."""
    with pytest.raises(DataError, match="suffix"):
        read_embeddings(tmp_path / "x.pkl")
    LABELS.assign(embedding=1.5).to_parquet(tmp_path / "s.parquet")
    with pytest.raises(DataError, match="'embedding' is of type double"):
        read_embeddings(tmp_path / "s.parquet")
    as_lists(tmp_path / "t.parquet")
    table = read_embeddings(tmp_path / "t.parquet")
    pd.DataFrame({"name": ["x"]}).to_csv(tmp_path / "n.csv", index=False)
    with pytest.raises(LabelError, match="no 'file' column"):
        LabelFile(tmp_path / "n.csv").join(table)
    pd.DataFrame({"file": ["x"], "gender": ["male"]}).to_csv(tmp_path / "o.csv", index=False)
    with pytest.raises(LabelError, match="None of the 4 files"):
        LabelFile(tmp_path / "o.csv").join(table)
