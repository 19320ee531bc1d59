from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from privface.data import EmbeddingTable, LabelFile, gender_codes, read_embeddings, stream_embeddings
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


def frame(rows, **columns):
    return pd.DataFrame({"file": [f"{k}.jpg" for k in range(rows)], **columns})


def lists(rows):
    return list(np.arange(3 * rows, dtype=np.float32).reshape(rows, 3))


def test_a_column_of_categories_over_several_row_groups_is_read_to_its_end(tmp_path):
    genders = pd.Categorical(["female", "male"] * 30)
    path = tmp_path / "t.parquet"
    frame(60, gender=genders, embedding=lists(60)).to_parquet(path, row_group_size=20)
    table = read_embeddings(path)
    np.testing.assert_array_equal(table.vectors, np.stack(lists(60)))
    assert table.labels["file"].tolist() == [f"{k}.jpg" for k in range(60)]
    assert table.labels["gender"].tolist() == ["female", "male"] * 30


def test_a_stored_index_is_a_column(tmp_path):
    path, labels = tmp_path / "t.parquet", tmp_path / "labels.parquet"
    frame(3, embedding=lists(3)).set_index("file").to_parquet(path)
    frame(3, gender=["f", "m", "f"]).set_index("file").to_parquet(labels)
    table = LabelFile(labels).join(read_embeddings(path))
    assert table.labels.to_dict("list") == {"file": ["0.jpg", "1.jpg", "2.jpg"], "gender": ["f", "m", "f"]}
    frame(3, embedding=lists(3), keep=[True, False, True]).query("keep").to_parquet(
        path
    )  # an index without a name
    assert list(read_embeddings(path).labels.columns) == ["file", "keep"]


def test_large_numbers_of_people_stay_apart_where_one_is_missing(tmp_path):
    path, people = tmp_path / "t.parquet", [2**60, 2**60 + 1, None]
    table = pa.table({"file": ["a", "b", "c"], "identity": pa.array(people, pa.int64())})
    pq.write_table(table, tmp_path / "labels.parquet")
    pq.write_table(table.append_column("embedding", pa.array(lists(3))), path)
    told = [str(2**60), str(2**60 + 1), ""]
    assert read_embeddings(path).labels["identity"].tolist() == told
    bare = EmbeddingTable(np.zeros((3, 2), np.float32), pd.DataFrame({"file": ["a", "b", "c"]}), path)
    assert LabelFile(tmp_path / "labels.parquet").join(bare).labels["identity"].tolist() == told


def test_numbered_columns_of_integers_may_have_gaps(tmp_path):
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"file": ["a", "b"], "e0": pa.array([1, None]), "e1": pa.array([2, 3])}), path)
    np.testing.assert_array_equal(read_embeddings(path).vectors, [[1, 2], [np.nan, 3]])


def test_keys_of_a_csv_keep_their_zeros(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("file,identity,e0,e1\n0001,007,1,2\n0002,7,3,4\n")
    labels = read_embeddings(path).labels
    assert labels["file"].tolist() == ["0001", "0002"]
    assert labels["identity"].tolist() == ["007", "7"]


def test_rows_longer_than_the_header_are_refused(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("file,e0,e1\na.jpg,1,2,\nb.jpg,3,4,\n")
    with pytest.raises(DataError, match="4 values, the header has 3 names"):
        read_embeddings(path)
    path.write_text("file,gender\na.jpg,female,\nb.jpg,female,\n")
    with pytest.raises(LabelError, match="3 values, the header has 2 names"):
        LabelFile(path)


def test_labels_in_categories_need_not_name_every_row(tmp_path):
    path = tmp_path / "labels.parquet"
    frame(2, gender=pd.Categorical(["female", "male"])).to_parquet(path)
    bare = EmbeddingTable(np.zeros((3, 2), np.float32), frame(3), path)
    assert LabelFile(path).join(bare).labels["gender"].tolist() == ["female", "male", ""]


def test_a_table_may_begin_with_empty_rows(tmp_path):
    path = tmp_path / "t.parquet"
    vectors = [None, None, None, *lists(3)[1:]]
    frame(5, embedding=vectors).to_parquet(path)
    parts = list(stream_embeddings(path, rows=2))
    assert [len(part) for part in parts] == [2, 2, 1]
    rows = np.concatenate([part.vectors for part in parts])
    np.testing.assert_array_equal(rows, [*[[np.nan] * 3] * 3, *lists(3)[1:]])
    assert [name for part in parts for name in part.labels["file"]] == [f"{k}.jpg" for k in range(5)]
    pq.write_table(pa.table({"embedding": pa.array([None, None], pa.list_(pa.float32()))}), path)
    with pytest.raises(DataError, match="none at all"):
        list(stream_embeddings(path, rows=1))


def test_an_npz_of_bytes_has_texts_for_keys(tmp_path):
    path = tmp_path / "t.npz"
    np.savez(path, embeddings=VECTORS[:2], files=np.array([b"a.jpg", "é.jpg".encode()]))
    assert read_embeddings(path).labels["file"].tolist() == ["a.jpg", "é.jpg"]


def test_a_damaged_npz_is_refused(tmp_path):
    path = tmp_path / "t.npz"
    path.touch()
    with pytest.raises(DataError):
        read_embeddings(path)
    with path.open("wb") as file:
        np.save(file, VECTORS)
    with pytest.raises(DataError):
        read_embeddings(path)
