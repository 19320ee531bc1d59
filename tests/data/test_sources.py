import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from privface.data import (
    from_celeba,
    from_folder,
    from_lfw,
    from_table,
    from_utkface,
    open_source,
    read_genders,
    require_both_genders,
)
from privface.errors import DataError, LabelError
from privface.images import encode_image
from privface.records import FaceRecord, FaceTable

PHOTO = encode_image(np.full((8, 8, 3), 90, np.uint8), ".png")
LANDMARK_COLUMNS = [
    f"{p}_{a}" for p in ("left_eye", "right_eye", "nose", "mouth_left", "mouth_right") for a in "xy"
]


def put(root: Path, *files: str) -> None:
    for file in files:
        path = root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(PHOTO)


def csv_at(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding))
    return path


def reasons(table: FaceTable) -> dict[str, str]:
    return {reject.file: reject.reason for reject in table.rejects}


# --- from_table: good tables ----------------------------------------------------------------------------


def test_table_reads_labels_cohorts_boxes_and_landmarks(tmp_path: Path) -> None:
    put(tmp_path, "a/1.png", "b/2.png", "c/3.png")
    header = "file,identity,gender,split,race,age,box_x1,box_y1,box_x2,box_y2," + ",".join(LANDMARK_COLUMNS)
    labels = csv_at(
        tmp_path / "labels.csv",
        header
        + "\na/1.png,Ann,Female,train,asian,31,1,-2,30,40.5,1,2,3,4,5,6,7,8,9,10"
        + "\nb/2.png,Ben, M ,val,,7,nan,nan,nan,nan,,,,,,,,,,"
        + "\nc/3.png,NA,,,white,,1,2,3,4,1,2,3,4,5,6,7,8,9,nan\n",
    )
    ann, ben, na = from_table(tmp_path, labels)
    assert (ann.file, ann.identity, ann.gender, ann.split) == ("a/1.png", "Ann", "female", "train")
    assert ann.path == tmp_path / "a/1.png"
    assert ann.cohorts == {"race": "asian", "age": "31"}
    assert ann.box == (1.0, -2.0, 30.0, 40.5)
    assert ann.landmarks == ((1, 2), (3, 4), (5, 6), (7, 8), (9, 10))
    assert (ben.gender, ben.box, ben.landmarks, ben.cohorts) == ("male", None, None, {"age": "7"})
    assert (na.identity, na.gender, na.split, na.landmarks) == ("NA", None, None, None)


def test_only_female_male_f_m_in_any_case_are_genders(tmp_path: Path) -> None:
    good = {"female": 0, "FEMALE": 0, "f": 0, "F": 0, "m": 1, "Male": 1}
    words = ["0", "1", "woman", "man", "unknown", "w"]
    put(tmp_path, *(f"{w}.png" for w in (*good, *words)))
    text = "file,gender\n" + "".join(f"{w}.png,{w}\n" for w in (*good, *words))
    table = from_table(tmp_path, csv_at(tmp_path / "l.csv", text))
    assert table.files == [f"{w}.png" for w in good]
    assert table.genders.tolist() == list(good.values())
    assert all(f"unknown label {w!r}" in reasons(table)[f"{w}.png"] for w in words)


def test_parquet_and_csv_agree(tmp_path: Path) -> None:
    put(tmp_path, "a.png", "b.png")
    text = "file,gender,age,box_x1,box_y1,box_x2,box_y2\na.png,f,31,0.5,1,2,3\nb.png,,,,,,\n"
    columns = {"file": ["a.png", "b.png"], "gender": ["f", None], "age": [31.0, None]}
    for name, value in {"box_x1": 0.5, "box_y1": 1.0, "box_x2": 2.0, "box_y2": 3.0}.items():
        columns[name] = [value, float("nan")]
    pq.write_table(pa.table(columns), tmp_path / "l.parquet")
    one = from_table(tmp_path, csv_at(tmp_path / "l.csv", text))
    two = from_table(tmp_path, tmp_path / "l.parquet")
    assert one.records == two.records
    assert two[0].cohorts == {"age": "31"}


def test_spreadsheet_mark_quotes_and_newlines_are_read(tmp_path: Path) -> None:
    put(tmp_path, "a,b.png", "ü.png")
    labels = csv_at(tmp_path / "l.csv", '\ufefffile,note\r\n"a,b.png","two\nlines"\r\nü.png,x\r\n')
    table = from_table(tmp_path, labels)
    assert table.files == ["a,b.png", "ü.png"]
    assert table[0].cohorts == {"note": "two\nlines"}


# --- from_table: defects of a row are rejects -----------------------------------------------------------


def test_defective_rows_are_rejects_with_reasons(tmp_path: Path) -> None:
    put(tmp_path, "root/ok.png", "root/x.png", "root/n.png", "root/e.png", "root/w.png", "outside.png")
    good = "male,0,0,9,9"
    rows = {
        "x.png": ("xyz,0,0,9,9", "unknown label 'xyz'"),
        "n.png": ("male,zero,0,9,9", "box_x1 is not a number: 'zero'"),
        "e.png": ("male,9,0,9,9", "empty"),
        "gone.png": (good, "missing file"),
        "../outside.png": (good, "leaves the root"),
        f"{tmp_path}/outside.png": (good, "leaves the root"),
        "C:\\photos\\a.png": (good, "leaves the root"),
        "w.png": ("male", "2 fields, the header 6"),
        "": (good, "row 10 has no file"),
        "n" * 300 + ".png": (good, "impossible file name"),
    }
    text = "".join(f"{file},{cells}\n" for file, (cells, _) in rows.items())
    header = "file,gender,box_x1,box_y1,box_x2,box_y2\n"
    labels = csv_at(tmp_path / "l.csv", f"{header}ok.png,{good}\n./ok.png,{good}\n{text}")
    table = from_table(tmp_path / "root", labels)
    assert table.files == ["ok.png"]
    why = reasons(table)
    assert "identical" in why.pop("ok.png")
    assert why.keys() == rows.keys()
    assert all(reason in why[file] for file, (_, reason) in rows.items())


# --- from_table: defects of the table raise -------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (b"\n", "is empty"),
        (b"file,gender\n", "has no rows"),
        (b"path,gender\na.png,f\n", "no 'file' column; it has path, gender"),
        (b"file;gender\na.png;f\n", "no 'file' column"),
        ("file,name\na.png,Jos\u00e9\n".encode("latin-1"), "can't decode byte"),
        ("file,gender\na.png,f\n".encode("utf-16"), "can't decode byte"),
        (b'file,gender\n"a.png,f\n', "not a CSV file"),
        (b"file,gender,gender\na.png,f,m\n", "'gender' more than once"),
        (b"file,box_x1,box_y1\na.png,1,2\n", "lacks box_x2, box_y2"),
        (b"file,gender\na.png,f\na.png,m\n", "1 file values twice with different labels: 'a.png'"),
    ],
)
def test_tables_in_doubt_raise(tmp_path: Path, data: bytes, message: str) -> None:
    put(tmp_path, "a.png")
    (tmp_path / "l.csv").write_bytes(data)
    with pytest.raises(LabelError, match=message):
        from_table(tmp_path, tmp_path / "l.csv")


def test_damaged_parquet_missing_tables_and_no_usable_photo_raise(tmp_path: Path) -> None:
    (tmp_path / "l.parquet").write_bytes(b"PAR1 but not really")
    with pytest.raises(LabelError, match="not a readable Parquet"):
        from_table(tmp_path, tmp_path / "l.parquet")
    with pytest.raises(LabelError, match="does not exist"):
        from_table(tmp_path, tmp_path / "none.csv")
    with pytest.raises(DataError, match="is not a folder"):
        from_table(tmp_path / "none", tmp_path / "l.parquet")
    put(tmp_path, "set/a.png")
    labels = csv_at(tmp_path / "l.csv", "file\nset/a.png\n")
    with pytest.raises(DataError, match=r"1 rejected; 'set/a.png': missing file") as caught:
        from_table(tmp_path / "set", labels)
    assert str(tmp_path) in str(caught.value.hint)
    assert len(from_table(tmp_path, labels)) == 1


# --- from_folder ----------------------------------------------------------------------------------------


def test_folder_of_people(tmp_path: Path) -> None:
    put(tmp_path, "Ann/1.png", "Ann/2.png", "Ben/1.png", "loose.png", "Ben/old/3.png", ".hidden/4.png")
    table = from_folder(tmp_path)
    assert {r.file: r.identity for r in table} == {
        "Ann/1.png": "Ann", "Ann/2.png": "Ann", "Ben/1.png": "Ben", "loose.png": None,
    }  # fmt: skip
    assert reasons(table) == {"Ben/old/3.png": "more than one folder deep; expected PERSON/photo"}
    assert all(r.gender is None for r in table)


def test_a_person_whose_folder_is_no_utf8_has_a_name_that_can_be_written(tmp_path: Path) -> None:
    put(tmp_path, os.fsdecode(b"Jos\xe9/1.png"))
    (record,) = from_folder(tmp_path)
    assert record.identity == r"Jos\xe9"
    assert record.file == r"Jos\xe9/1.png"


def test_folder_labels_by_identity_and_by_file(tmp_path: Path) -> None:
    put(tmp_path, "Ann/1.png", "Ben/1.png", "Cem/1.png", "Dan/1.png")
    people = csv_at(tmp_path / "p.csv", "identity,gender,race\nAnn,f,asian\nBen,x,\nDan,m,\nZoe,f,\n")
    table = from_folder(tmp_path, labels=people)
    assert {r.identity: r.gender for r in table} == {"Ann": "female", "Cem": None, "Dan": "male"}
    assert table[0].cohorts == {"race": "asian"}
    assert "unknown label 'x'" in reasons(table)["Ben/1.png"]
    assert reasons(table)["Zoe"] == "labelled identity has no photo"
    files = csv_at(tmp_path / "f.csv", "file,gender\nBen/1.png,m\nAnn/1.png,f\n")
    table = from_folder(tmp_path, labels=files)
    assert [r.gender for r in table] == ["female", "male", None, None]
    files.rename(tmp_path / "labels.csv")  # which is found there
    assert from_folder(tmp_path) == table


def test_folder_defects(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not a folder"):
        from_folder(tmp_path / "none")
    with pytest.raises(DataError, match="holds no usable photo"):
        from_folder(tmp_path)
    put(tmp_path, "Ann/1.png")
    with pytest.raises(LabelError, match="no 'file or identity' column; it has name"):
        from_folder(tmp_path, labels=csv_at(tmp_path / "l.csv", "name\nAnn\n"))
    with pytest.raises(LabelError, match="identity values twice"):
        from_folder(tmp_path, labels=csv_at(tmp_path / "l.csv", "identity,gender\nAnn,f\nAnn,m\n"))


# --- the benchmarks' layouts ----------------------------------------------------------------------------


def test_lfw_layout_with_labels_relative_to_the_folder_above(tmp_path: Path) -> None:
    put(tmp_path, "lfw/Ann_Lee/Ann_Lee_0001.jpg", "lfw/Ben/Ben_0001.jpg", "lfw/Ben/Ann_0002.jpg", "lfw/x.jpg")
    labels = csv_at(
        tmp_path / "l.csv",
        "file,identity,gender,split\n"
        "lfw/Ann_Lee/Ann_Lee_0001.jpg,Ann_Lee,female,train\n"
        "lfw/Ben/Ben_0001.jpg,Ben,male,val\n",
    )
    table = from_lfw(tmp_path / "lfw", labels=labels)
    assert table.files == ["Ann_Lee/Ann_Lee_0001.jpg", "Ben/Ben_0001.jpg"]
    assert table.identities.tolist() == ["Ann_Lee", "Ben"]
    assert table.genders.tolist() == [0, 1]
    assert [r.split for r in table] == ["train", "val"]
    assert set(reasons(table)) == {"Ben/Ann_0002.jpg", "x.jpg"}
    assert from_lfw(tmp_path, labels=labels).files[0] == "lfw/Ann_Lee/Ann_Lee_0001.jpg"


def test_utkface_names(tmp_path: Path) -> None:
    good = {
        "1_0_0_20161219140623097.jpg.chip.jpg": ("male", "1", "white"),
        "31_1_2_20161219140623098.jpg": ("female", "31", "asian"),
        "80_1_4_20161219140623099.jpg": ("female", "80", "other"),
        "080_0_3_20161219140623099.jpg": ("male", "80", "indian"),
        "8_0_1_20161219140623099.jpg": ("male", "8", "black"),
    }
    bad = {
        "39_1_20170116174525125.jpg": "not of the form",
        "53__0_20170116184028385.jpg": "unknown gender ''",
        "44_3_4_20170116.jpg": "unknown gender '3'",
        "44_1_5_20170116.jpg": "unknown race '5'",
        "abc_1_4_20170116.jpg": "unknown age 'abc'",
        "900_1_4_20170116.jpg": "unknown age '900'",
        "portrait.jpg": "not of the form",
    }
    put(tmp_path, *good, *bad)
    table = from_utkface(tmp_path)
    assert {r.file: (r.gender, r.cohorts["age"], r.cohorts["race"]) for r in table} == good
    assert all(r.identity is None for r in table)
    why = reasons(table)
    assert why.keys() == bad.keys()
    assert all(part in why[name] for name, part in bad.items())


def celeba(root: Path, attributes: str) -> None:
    put(root, "img_align_celeba/000001.jpg", "img_align_celeba/000002.jpg", "img_align_celeba/000009.jpg")
    csv_at(root / "Anno/list_attr_celeba.txt", attributes)
    csv_at(root / "Anno/identity_CelebA.txt", "000001.jpg 2880\n000002.jpg 17\n")
    csv_at(root / "Eval/list_eval_partition.txt", "000001.jpg 0\n000002.jpg 2\n")


def test_celeba(tmp_path: Path) -> None:
    celeba(
        tmp_path,
        "4\nMale Young \n000001.jpg -1  1\n000002.jpg  1 -1\n000003.jpg  1 1\n000004.jpg  0 1\n",
    )
    csv_at(tmp_path / "Anno/list_landmarks_align_celeba.txt",
           "1\nlefteye_x lefteye_y\n000001.jpg 69 109 106 113 77 142 73 152 108 154\n")  # fmt: skip
    one, two = table = from_celeba(tmp_path)
    assert (one.file, one.identity, one.gender, one.split) == (
        "img_align_celeba/000001.jpg", "2880", "female", "train",
    )  # fmt: skip
    assert (two.identity, two.gender, two.split, two.cohorts) == ("17", "male", "test", {"young": "no"})
    assert one.landmarks is not None
    assert one.landmarks[4] == (108.0, 154.0)
    assert two.landmarks is None
    assert {k[-10:]: v for k, v in reasons(table).items()} == {
        "000003.jpg": "missing file",
        "000004.jpg": "unknown label '0'; Male is 1 or -1",
        "000009.jpg": "not in list_attr_celeba.txt",
    }


def test_celeba_says_what_to_put_where(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no folder img_align_celeba") as caught:
        from_celeba(tmp_path)
    assert "list_attr_celeba.txt" in str(caught.value.hint)
    (tmp_path / "img_align_celeba").mkdir()
    with pytest.raises(LabelError, match="no list_attr_celeba"):
        from_celeba(tmp_path)
    celeba(tmp_path, "1\nYoung\n000001.jpg 1\n")
    with pytest.raises(LabelError, match="no Male column"):
        from_celeba(tmp_path)


# --- open_source ----------------------------------------------------------------------------------------


def test_open_source_by_prefix_and_by_content(tmp_path: Path) -> None:
    put(tmp_path, "lfw/Ann/Ann_0001.jpg", "utk/1_0_0_2016.jpg")
    put(tmp_path, "people/Ann/1.png", "flat/1.png", "drawn/p01/p01_0001.png")
    celeba(tmp_path / "celeba", "1\nMale\n000001.jpg 1\n")
    labels = csv_at(tmp_path / "t.csv", "file,gender\npeople/Ann/1.png,f\n")
    kinds = {
        "lfw": "lfw",
        "utk": "utkface",
        "celeba": "celeba",
        "people": "folder",
        "flat": "folder",
        "drawn": "folder",
    }
    for folder, kind in kinds.items():
        explicit, guessed = open_source(f"{kind}:{tmp_path / folder}"), open_source(tmp_path / folder)
        assert explicit == guessed
        assert explicit.name == (folder if kind == "folder" else kind)
    tables = [
        open_source(labels),
        open_source(f"table:{labels}"),
        open_source(tmp_path, labels=labels),
        open_source(f"table:{tmp_path}", labels=labels),
    ]
    assert all(t.files == ["people/Ann/1.png"] and t.genders.tolist() == [0] for t in tables)


def test_open_source_refuses_what_it_cannot_name(tmp_path: Path) -> None:
    put(tmp_path, "a/b/c/1.png", "a/2.png", "utk/1_0_0_2016.jpg")
    csv_at(tmp_path / "notes.txt", "hello")
    with pytest.raises(DataError, match="fits no known layout: 1 of 3") as caught:
        open_source(tmp_path)
    assert "lfw:PATH, utkface:PATH, celeba:PATH, folder:PATH" in str(caught.value)
    with pytest.raises(DataError, match="does not exist"):
        open_source("vggface:somewhere")
    with pytest.raises(DataError, match="names no path"):
        open_source("lfw:")
    with pytest.raises(DataError, match=r"neither \.csv nor \.parquet"):
        open_source(tmp_path / "notes.txt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no image"):
        open_source(tmp_path / "empty")
    with pytest.raises(LabelError, match="carries its own labels"):
        open_source(f"utkface:{tmp_path / 'utk'}", labels=tmp_path / "x.csv")
    with pytest.raises(LabelError, match=r"has no labels\.csv"):
        open_source(f"table:{tmp_path}")


# --- genders ---


def test_read_genders_asks_for_no_photo(tmp_path: Path) -> None:
    path = csv_at(tmp_path / "l.csv", "file,gender,age\na.jpg,F,3\n./b/c.jpg,male,\nd.jpg,,9\n")
    assert read_genders(path) == {"a.jpg": "female", "b/c.jpg": "male"}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("file,sex\na.jpg,f\n", "no 'gender' column"),
        ("file,gender\na.jpg,f\na.jpg,m\n", "twice with different labels"),
        ("file,gender\na.jpg,woman\n", "'a.jpg' has an unknown label 'woman'"),
        ("file,gender\na.jpg\n", "line 2 has 1 fields"),
    ],
)
def test_tables_of_genders_in_doubt_are_refused(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(LabelError, match=told):
        read_genders(csv_at(tmp_path / "l.csv", text))


def test_require_both_genders_counts() -> None:
    def table(*genders: str | None) -> FaceTable:
        return FaceTable(tuple(FaceRecord(str(i), Path(str(i)), gender=g) for i, g in enumerate(genders)))

    require_both_genders(table("female", "female", "male", "male"))
    with pytest.raises(LabelError, match="1 female, 2 male and 1 unlabelled photos; at least 2"):
        require_both_genders(table("female", "male", "male", None))


# --- real photos ----------------------------------------------------------------------------------------


@pytest.mark.realdata
def test_tables_and_layouts_agree(real_data: Path) -> None:
    root = real_data
    table = from_table(root, root / "lfw.csv")
    assert (len(table), len(table.rejects), len(set(table.identities))) == (10_349, 0, 4_936)
    assert all(r.box is not None and r.landmarks is not None for r in table)
    layout = from_lfw(root / "lfw", labels=root / "lfw.csv")
    by_path = {r.path: r for r in layout}
    for r in table:
        same = by_path[r.path]
        assert (same.gender, same.box, same.identity) == (r.gender, r.box, r.identity)
    table = from_table(root, root / "utkface.csv")
    named = {r.path: (r.gender, dict(r.cohorts)) for r in from_utkface(root / "utkface")}
    assert len(table) == 9_827
    assert all(named[r.path] == (r.gender, dict(r.cohorts)) for r in table)
