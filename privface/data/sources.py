"""Labelled face sets on disk, read into a :class:`~privface.records.FaceTable`.

A source never drops anything silently: whatever cannot be used is a :class:`~privface.records.Reject` with
its reason. Only defects that leave the whole table in doubt raise.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Final

from privface.errors import DataError, LabelError
from privface.images import file_key, list_images, printable
from privface.records import Box, FaceRecord, FaceTable, Gender, Landmarks, Reject

SOURCE_KINDS: Final = ("lfw", "utkface", "celeba", "folder", "table")
"""Prefixes that :func:`open_source` understands, as in ``"lfw:PATH"``."""

_Row = dict[str, str | None]

_GENDER_WORDS: Final[dict[str, Gender]] = {"female": "female", "f": "female", "male": "male", "m": "male"}
_BOX: Final = ("box_x1", "box_y1", "box_x2", "box_y2")
_POINTS: Final = ("left_eye", "right_eye", "nose", "mouth_left", "mouth_right")
_LANDMARKS: Final = tuple(f"{point}_{axis}" for point in _POINTS for axis in "xy")
_NAMED: Final = frozenset({"file", "identity", "gender", "split", *_BOX, *_LANDMARKS})
_LABEL_FILES: Final = ("labels.csv", "labels.parquet")
_UTK_RACES: Final = {"0": "white", "1": "black", "2": "asian", "3": "indian", "4": "other"}
_UTK_GENDERS: Final[dict[str, Gender]] = {"0": "male", "1": "female"}
_UTK_NAME: Final = re.compile(r"(?P<age>[^_]*)_(?P<gender>[^_]*)_(?P<race>[^_]*)_(?P<date>\d+)")
_UTK_OLDEST: Final = 116
_LFW_NAME: Final = re.compile(r"(?P<person>\D+)_\d{4}\.[A-Za-z]+")  # nobody in LFW has a digit in the name
_CELEBA_GENDERS: Final[dict[str, Gender]] = {"1": "male", "-1": "female"}
_CELEBA_SPLITS: Final = {"0": "train", "1": "val", "2": "test"}


class _BadRowError(Exception):
    """A row that becomes a reject; the message is the reason."""


def from_folder(root: Path | str, *, labels: Path | str | None = None) -> FaceTable:
    """Read a folder that holds one sub-folder per person.

    The sub-folder's name is the person. Photos that lie directly in ``root`` are kept without an identity;
    photos more than one folder deep are rejected, because it is unclear which folder names the person.

    Args:
        root: Folder of ``PERSON/photo.jpg``.
        labels: CSV or Parquet file keyed by ``file`` or ``identity``, with the columns of :func:`from_table`. By default
            ``labels.csv`` or ``labels.parquet`` in ``root``, where there is one; else the photos have no gender.

    Raises:
        DataError: If ``root`` is no folder or no photo is usable.
        LabelError: If the label file cannot be read, lacks its key column or contradicts itself.
    """
    root = Path(root)

    def person(path: Path) -> str | None:
        folders = path.relative_to(root).parts[:-1]
        if len(folders) > 1:
            raise _BadRowError("more than one folder deep; expected PERSON/photo")
        return printable(folders[0]) if folders else None

    return _by_person(root, list_images(root), person, labels, name=root.name, key_of=_normal_key)


def from_table(root: Path | str, labels: Path | str) -> FaceTable:
    """Read the photos that a CSV or Parquet table lists.

    Columns: ``file`` (path below ``root``, required); ``identity``, ``gender`` (female, male, f or m in
    any case; empty = unlabelled) and ``split`` (optional); ``box_x1 .. box_y2`` and ``left_eye_x ..
    mouth_right_y`` in pixels of the file (optional; empty or ``nan`` = none). Every other column becomes
    a cohort, as text.

    Args:
        root: Folder that the ``file`` column is relative to.
        labels: CSV (UTF-8) or Parquet file.

    Returns:
        The usable rows in the table's order. Rows with an unknown gender, a missing file, a path that
        leaves ``root`` or an unreadable number, and identical repetitions of a row, are rejects.

    Raises:
        DataError: If ``root`` is no folder or no row is usable.
        LabelError: If the table cannot be read, has no ``file`` column, has incomplete box or landmark
            columns, or lists a file twice with different labels.
    """
    root, labels = Path(root), Path(labels)
    if not root.is_dir():
        raise DataError(
            f"{root} is not a folder.", hint="Give the folder that the file column is relative to."
        )
    _, _, rows, rejects = _read_rows(labels)
    unique, repeats = _by_key(rows, labels)
    return _table(
        unique,
        lambda key: _record(unique[key], key, _inside(root, key)),
        root,
        labels.stem,
        rejects=[*rejects, *repeats],
    )


def from_lfw(root: Path | str, *, labels: Path | str | None = None) -> FaceTable:
    """Read Labeled Faces in the Wild (Huang et al., 2007): ``First_Last/First_Last_0001.jpg``.

    Args:
        root: The folder of people, or the folder that holds it as ``lfw``, ``lfw-deepfunneled`` or
            ``lfw_funneled``.
        labels: CSV or Parquet file keyed by ``file`` (its last two path parts count) or by ``identity``;
            by default ``labels.csv`` or ``labels.parquet`` in ``root``. LFW itself has no gender labels.

    Raises:
        DataError: If ``root`` is no folder or holds no LFW photo.
        LabelError: See :func:`from_folder`.
    """
    root = Path(root)
    base = _inner(root, ("lfw", "lfw-deepfunneled", "lfw_funneled"))

    def person(path: Path) -> str:
        match = _LFW_NAME.fullmatch(path.name)
        if match is None or path.parent.parent != base or match["person"] != path.parent.name:
            raise _BadRowError("not of the form First_Last/First_Last_0001.jpg")
        return printable(path.parent.name)

    return _by_person(root, list_images(base), person, labels, name="lfw", key_of=_last_two)


def from_utkface(root: Path | str) -> FaceTable:
    """Read UTKFace (Zhang et al., CVPR 2017), whose labels are in the names ``AGE_GENDER_RACE_DATE``.

    Gender is 0 male and 1 female there; race 0 white, 1 black, 2 asian, 3 indian, 4 other. ``age`` and
    ``race`` become cohorts. People are not labelled. Malformed names are rejects.

    Args:
        root: The folder of photos, or the folder that holds it as ``utkface`` or ``UTKFace``.

    Raises:
        DataError: If ``root`` is no folder or holds no UTKFace photo.
    """
    root = Path(root)
    photos = {file_key(path, root): path for path in list_images(_inner(root, ("utkface", "UTKFace")))}

    def read(key: str) -> FaceRecord:
        match = _UTK_NAME.match(photos[key].name)
        if match is None:
            raise _BadRowError("the name is not of the form AGE_GENDER_RACE_DATE")
        age, gender, race = match["age"], match["gender"], match["race"]
        if not (age.isascii() and age.isdigit() and int(age) <= _UTK_OLDEST):
            raise _BadRowError(f"unknown age {age!r}; it is a number up to {_UTK_OLDEST}")
        if gender not in _UTK_GENDERS:
            raise _BadRowError(f"unknown gender {gender!r}; 0 is male and 1 female")
        if race not in _UTK_RACES:
            raise _BadRowError(f"unknown race {race!r}; it is 0 to 4")
        cohorts = {"age": str(int(age)), "race": _UTK_RACES[race]}
        return FaceRecord(key, photos[key], gender=_UTK_GENDERS[gender], cohorts=cohorts)

    return _table(photos, read, root, "utkface")


def from_celeba(root: Path | str) -> FaceTable:
    """Read CelebA (Liu et al., ICCV 2015) in its official layout.

    Gender is the ``Male`` column of ``list_attr_celeba.txt`` (1 male, -1 female); ``Young`` becomes the
    cohort ``young``. ``identity_CelebA.txt`` gives the people, ``list_eval_partition.txt`` the splits
    and ``list_landmarks_align_celeba.txt`` the landmarks, where present; each may lie in ``root``,
    ``Anno`` or ``Eval``. Keys are relative to ``root``.

    Args:
        root: Folder that holds ``img_align_celeba/`` (or ``Img/img_align_celeba/``) and the text files.

    Raises:
        DataError: If the image folder is missing or no photo is usable.
        LabelError: If ``list_attr_celeba.txt`` is missing or malformed.
    """
    root = Path(root)
    places = (root / "img_align_celeba", root / "Img" / "img_align_celeba")
    folder = next((place for place in places if place.is_dir()), None)
    if folder is None:
        raise DataError(
            f"{root} has no folder img_align_celeba.",
            hint="Unpack img_align_celeba.zip there and put list_attr_celeba.txt, identity_CelebA.txt and "
            "list_eval_partition.txt beside it.",
        )
    nested = folder / folder.name  # some archives repeat the folder
    folder = nested if nested.is_dir() else folder
    attributes = _celeba_attributes(root)
    people = _celeba_list(root, "identity_CelebA.txt")
    splits = _celeba_list(root, "list_eval_partition.txt")
    points = _celeba_list(root, "list_landmarks_align_celeba.txt")
    present = {path.name for path in list_images(folder)}
    names = {file_key(folder / name, root): name for name in sorted(attributes.keys() | present)}

    def read(key: str) -> FaceRecord:
        name = names[key]
        if name not in attributes:
            raise _BadRowError("not in list_attr_celeba.txt")
        male, young = (attributes[name].get(column, "") for column in ("Male", "Young"))
        if male not in _CELEBA_GENDERS:
            raise _BadRowError(f"unknown label {male!r}; Male is 1 or -1")
        path, split = _inside(folder, name), splits.get(name)
        return FaceRecord(
            key,
            path,
            identity=people[name][0] if name in people else None,
            gender=_CELEBA_GENDERS[male],
            cohorts={"young": "yes" if young == "1" else "no"} if young else {},
            split=_CELEBA_SPLITS.get(split[0], split[0]) if split else None,
            landmarks=_landmarks([_number(v, "landmark") for v in points.get(name, ())]),
        )

    return _table(names, read, root, "celeba")


def open_source(spec: str | Path, *, labels: Path | str | None = None) -> FaceTable:
    """Open a face set by a specification such as ``"lfw:PATH"`` or by a plain path.

    A plain path is recognised by its content: a ``.csv`` or ``.parquet`` file is a table relative to its
    own folder; a folder is CelebA, LFW or UTKFace by its files; with ``labels`` that have a ``file``
    column it is a table; else a folder per person (or a flat folder).

    Args:
        spec: ``lfw:``, ``utkface:``, ``celeba:``, ``folder:`` or ``table:`` and a path, or a plain path.
        labels: Label file for ``lfw``, ``folder`` and ``table``; the other sets carry their own labels.

    Raises:
        DataError: If the path is missing, or what lies there fits no layout.
        LabelError: If the labels cannot be read or do not belong to this kind of set.
    """
    kind, path = _parse_spec(spec, labels)
    if kind in {"utkface", "celeba"}:
        if labels is not None:
            raise LabelError(
                f"A {kind} set carries its own labels, so {labels} cannot be used with it.",
                hint="Leave the labels out, or open it as 'table:PATH' with a file column.",
            )
        return from_utkface(path) if kind == "utkface" else from_celeba(path)
    if kind == "lfw":
        return from_lfw(path, labels=labels)
    if kind == "folder":
        return from_folder(path, labels=labels)
    if path.is_file():
        if labels is not None:
            raise LabelError(
                f"Two label files were given: {path} and {labels}.", hint="Give 'table:FOLDER' and labels."
            )
        return from_table(path.parent, path)
    file = _label_file(path, labels)
    if file is None:
        raise LabelError(f"{path} has no {' or '.join(_LABEL_FILES)}.", hint="Give the label file as labels.")
    return from_table(path, file)


def read_genders(labels: Path | str) -> dict[str, Gender]:
    """Genders by key, from the columns ``file`` and ``gender`` of a CSV or Parquet table, whether the photos are there or not.

    Raises:
        LabelError: If the table cannot be read, lacks a column, lists a file twice with different labels or holds a
            word that is no gender.
    """
    labels = Path(labels)
    _, columns, rows, rejects = _read_rows(labels)
    if "gender" not in columns:
        raise LabelError(
            f"{labels} has no 'gender' column; it has {', '.join(columns)}.", hint="Name the column gender."
        )
    if rejects:
        raise LabelError(f"{labels}: {rejects[0].reason}.", hint="Correct the table.")
    genders: dict[str, Gender] = {}
    for file, row in _by_key(rows, labels)[0].items():
        try:
            gender = _gender(row["gender"])
        except _BadRowError as error:
            raise LabelError(
                f"{labels}: {file!r} has an {error}.", hint="Correct the word, or leave it empty."
            ) from error
        if gender is not None:
            genders[file] = gender
    return genders


def require_both_genders(table: FaceTable) -> None:
    """Refuse a set in which a gender has fewer than two labelled photos.

    Raises:
        LabelError: With the counts of both genders and of the unlabelled photos.
    """
    female = sum(record.gender == "female" for record in table)
    male = sum(record.gender == "male" for record in table)
    if min(female, male) < 2:
        raise LabelError(
            f"{table.name} has {female} female, {male} male and {len(table) - female - male} unlabelled "
            f"photos; at least 2 of each gender are needed.",
            hint="Check the gender column, or add photos of the rarer gender.",
        )


# --- label tables ---------------------------------------------------------------------------------------


def _read_rows(
    path: Path, keys: tuple[str, ...] = ("file",)
) -> tuple[str, list[str], list[_Row], list[Reject]]:
    """Which of ``keys`` is a column, all columns, the rows and the lines that are none."""
    if not path.is_file():
        raise LabelError(f"The label file {path} does not exist.", hint="Give a CSV or Parquet file.")
    columns, rows, rejects = _read_parquet(path) if path.suffix.lower() == ".parquet" else _read_csv(path)
    if not any(columns):
        raise LabelError(
            f"The label file {path} is empty.", hint="Give a table with named columns, 'file' among them."
        )
    twice = sorted({name for name in columns if columns.count(name) > 1})
    if twice:
        raise LabelError(f"{path} has the column {twice[0]!r} more than once.", hint="Remove one of them.")
    if not rows and not rejects:
        raise LabelError(f"The label file {path} has no rows.", hint="It needs one row per photo or person.")
    key = next((name for name in keys if name in columns), None)
    if key is None:
        raise LabelError(
            f"{path} has no {' or '.join(keys)!r} column; it has {', '.join(columns)}.",
            hint="Needed: file. Optional: identity, gender, split, box and landmark columns, cohorts. "
            "The separator is a comma.",
        )
    for group in (_BOX, _LANDMARKS):
        lacking = [name for name in group if name not in columns]
        if 0 < len(lacking) < len(group):
            raise LabelError(
                f"{path} has some of the columns {group[0]} .. {group[-1]} but lacks {', '.join(lacking)}.",
                hint="Give all of them or none.",
            )
    return key, columns, rows, rejects


def _read_csv(path: Path) -> tuple[list[str], list[_Row], list[Reject]]:
    rows: list[_Row] = []
    rejects: list[Reject] = []
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:  # -sig: spreadsheets write a mark first
            reader = csv.reader(file, strict=True)
            columns = [name.strip() for name in next(reader, [])]
            for cells in reader:
                if len(cells) == len(columns):
                    rows.append({c: clean(v) for c, v in zip(columns, cells, strict=True)})
                elif cells:  # a blank line holds nothing that could be lost
                    reason = f"line {reader.line_num} has {len(cells)} fields, the header {len(columns)}"
                    rejects.append(Reject(cells[0], reason))
    except (UnicodeDecodeError, csv.Error, OSError) as error:
        raise LabelError(
            f"{path} is not a CSV file that can be read ({error}).", hint="Save it as CSV in UTF-8."
        ) from error
    return columns, rows, rejects


def _read_parquet(path: Path) -> tuple[list[str], list[_Row], list[Reject]]:
    import pyarrow as pa  # noqa: PLC0415
    import pyarrow.parquet as pq  # noqa: PLC0415

    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise LabelError(f"{path} is not a readable Parquet file.", hint="Write it again.") from error
    columns = [str(name).strip() for name in table.column_names]
    rows = zip(*(column.to_pylist() for column in table.columns), strict=True)
    return columns, [dict(zip(columns, map(clean, cells), strict=True)) for cells in rows], []


def clean(value: Any) -> str | None:
    """A cell of a table as text; ``None`` where it is empty."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, float) and value.is_integer():
        return str(int(value))  # an integer column with gaps is stored as floats
    return str(value).strip() or None


def _normal_key(file: str) -> str:
    return PurePosixPath(file).as_posix()


def _by_key(
    rows: Iterable[_Row], path: Path, *, key: str = "file", normalise: Callable[[str], str] = _normal_key
) -> tuple[dict[str, _Row], list[Reject]]:
    unique: dict[str, _Row] = {}
    rejects: list[Reject] = []
    clashes: dict[str, None] = {}
    for number, row in enumerate(rows, start=1):
        value = row[key]
        if value is None:
            rejects.append(Reject("", f"row {number} has no {key}"))
            continue
        name = normalise(value)
        first = unique.setdefault(name, row)
        if {**first, key: value} != row:
            clashes[name] = None
        elif first is not row:
            rejects.append(Reject(name, "identical repetition of an earlier row"))
    if clashes:
        raise LabelError(
            f"{path} lists {len(clashes)} {key} values twice with different labels: "
            f"{', '.join(repr(name) for name in list(clashes)[:5])}.",
            hint="Keep one row of each.",
        )
    return unique, rejects


# --- rows to records ------------------------------------------------------------------------------------


def _record(
    row: Mapping[str, str | None], key: str, path: Path, *, identity: str | None = None
) -> FaceRecord:
    return FaceRecord(
        file=key,
        path=path,
        identity=row.get("identity") or identity,
        gender=_gender(row.get("gender")),
        cohorts={c: v for c, v in row.items() if c not in _NAMED and c and v is not None},
        split=row.get("split"),
        box=_box([_number(row.get(c), c) for c in _BOX]),
        landmarks=_landmarks([_number(row.get(c), c) for c in _LANDMARKS]),
    )


def _gender(value: str | None) -> Gender | None:
    if value is None or value.lower() == "nan":
        return None
    gender = _GENDER_WORDS.get(value.lower())
    if gender is None:
        raise _BadRowError(f"unknown label {value!r}; gender is one of {', '.join(_GENDER_WORDS)}")
    return gender


def _number(value: str | None, column: str) -> float:
    if value is None:
        return math.nan
    try:
        return float(value)
    except ValueError:
        raise _BadRowError(f"{column} is not a number: {value!r}") from None


def _box(values: list[float]) -> Box | None:
    if not all(math.isfinite(v) for v in values):
        return None
    x1, y1, x2, y2 = values
    if x2 <= x1 or y2 <= y1:
        raise _BadRowError(f"the box ({x1:g}, {y1:g}, {x2:g}, {y2:g}) is empty")
    return x1, y1, x2, y2


def _landmarks(values: list[float]) -> Landmarks | None:
    if len(values) != len(_LANDMARKS) or not all(math.isfinite(v) for v in values):
        return None
    a, b, c, d, e = zip(values[::2], values[1::2], strict=True)
    return a, b, c, d, e


def _last_two(file: str) -> str:
    return "/".join(PurePosixPath(file).parts[-2:])


def _inside(root: Path, key: str) -> Path:
    absolute = PurePosixPath(key).is_absolute() or bool(PureWindowsPath(key).drive)
    if absolute or ".." in PurePosixPath(key).parts or ".." in PureWindowsPath(key).parts or "\0" in key:
        raise _BadRowError("the path is absolute or leaves the root")
    path = root / key
    try:
        is_there = path.is_file()
    except OSError as error:  # a name longer than the file system allows
        raise _BadRowError(f"impossible file name ({error.strerror})") from error
    if not is_there:
        raise _BadRowError("missing file")
    return path


def _table(
    keys: Iterable[str],
    read: Callable[[str], FaceRecord],
    root: Path,
    name: str,
    *,
    rejects: Iterable[Reject] = (),
    unused: Iterable[Reject] = (),
) -> FaceTable:
    """The records that can be read; each of the others is among the rejects with its reason, between ``rejects`` and ``unused``."""
    records: list[FaceRecord] = []
    refused = [*rejects]
    for key in keys:
        try:
            records.append(read(key))
        except _BadRowError as error:
            refused.append(Reject(key, str(error)))
    refused += unused
    if records:
        return FaceTable(tuple(records), tuple(refused), name)
    reasons = "; ".join(f"{reject.file!r}: {reject.reason}" for reject in refused[:3])
    hint = "Check the path and the layout."
    missing = [r.file for r in refused if r.reason == "missing file"]
    if missing and (root.parent / missing[0]).is_file():
        hint = f"The files are relative to the folder above: use {root.parent} as the root."
    raise DataError(
        f"{root} holds no usable photo" + (f" ({len(refused)} rejected; {reasons})." if reasons else "."),
        hint=hint,
    )


def _by_person(
    root: Path,
    images: Iterable[Path],
    person_of: Callable[[Path], str | None],
    labels: Path | str | None,
    *,
    name: str,
    key_of: Callable[[str], str],
) -> FaceTable:
    """Photos that lie by person, with the labels that a table has for the file or the person."""
    people: dict[str, str | None] = {}
    rejects: list[Reject] = []
    photos = {file_key(path, root): path for path in images}
    for file, path in photos.items():
        try:
            people[file] = person_of(path)
        except _BadRowError as error:
            rejects.append(Reject(file, str(error)))
    key, table, label_file = "file", dict[str, _Row](), _label_file(root, labels)
    if label_file is not None:
        key, _, rows, unread = _read_rows(label_file, ("file", "identity"))
        table, repeats = _by_key(rows, label_file, key=key, normalise=key_of if key == "file" else str)
        rejects += [*unread, *repeats]
    label_of = {file: key_of(file) if key == "file" else person or "" for file, person in people.items()}
    used = set(label_of.values())
    return _table(
        people,
        lambda file: _record(table.get(label_of[file], {}), file, photos[file], identity=people[file]),
        root,
        name,
        rejects=rejects,
        unused=[Reject(label, f"labelled {key} has no photo") for label in table if label not in used],
    )


# --- the layout of each set -----------------------------------------------------------------------------


def _label_file(root: Path, labels: Path | str | None) -> Path | None:
    if labels is not None:
        return Path(labels)
    return next((root / name for name in _LABEL_FILES if (root / name).is_file()), None)


def _inner(root: Path, names: tuple[str, ...]) -> Path:
    """``root`` itself, or the one known sub-folder that holds the photos."""
    return next((root / name for name in names if (root / name).is_dir()), root)


def _celeba_file(root: Path, name: str) -> Path | None:
    return next((p for p in (root / name, root / "Anno" / name, root / "Eval" / name) if p.is_file()), None)


def _celeba_lines(path: Path) -> list[list[str]]:
    try:
        return [line.split() for line in path.read_text(encoding="utf-8").splitlines()]
    except (UnicodeDecodeError, OSError) as error:
        raise LabelError(f"{path} cannot be read as text.", hint="Download it again.") from error


def _celeba_list(root: Path, name: str) -> dict[str, list[str]]:
    path = _celeba_file(root, name)
    if path is None:
        return {}
    return {cells[0]: cells[1:] for cells in _celeba_lines(path) if len(cells) > 1 and "." in cells[0]}


def _celeba_attributes(root: Path) -> dict[str, dict[str, str]]:
    path = _celeba_file(root, "list_attr_celeba.txt")
    if path is None:
        raise LabelError(f"{root} has no list_attr_celeba.txt.", hint="Put it beside img_align_celeba.")
    lines = _celeba_lines(path)
    header = lines[1] if len(lines) > 1 else []
    if "Male" not in header:
        raise LabelError(f"{path} has no Male column in its second line.", hint="Use the official list.")
    return {cells[0]: dict(zip(header, cells[1:], strict=False)) for cells in lines[2:] if cells}


def names_kind(spec: str) -> bool:
    """Whether a specification begins with a kind of face set, as in ``"lfw:PATH"``."""
    prefix, colon, _ = spec.partition(":")
    return bool(colon) and prefix in SOURCE_KINDS


def _parse_spec(spec: str | Path, labels: Path | str | None) -> tuple[str, Path]:
    prefix, _, rest = str(spec).partition(":")
    named = isinstance(spec, str) and names_kind(spec)
    if named and not rest:
        raise DataError(f"{spec!r} names no path.", hint=f"Write {prefix}:PATH.")
    path = Path(rest if named else spec).expanduser()
    if not path.exists():
        raise DataError(f"{path} does not exist.", hint=_CHOICES)
    return (prefix if named else _detect_kind(path, labels)), path


_CHOICES = f"Give a path, or one of {', '.join(f'{kind}:PATH' for kind in SOURCE_KINDS)}."


def _detect_kind(path: Path, labels: Path | str | None) -> str:
    if path.is_file():
        if path.suffix.lower() in {".csv", ".parquet"}:
            return "table"
        raise DataError(f"{path} is a file, and neither .csv nor .parquet.", hint=_CHOICES)
    if _celeba_file(path, "list_attr_celeba.txt") is not None:
        return "celeba"
    keys = [PurePosixPath(file_key(photo, path)) for photo in list_images(path)]
    if not keys:
        raise DataError(f"{path} holds no image.", hint=_CHOICES)
    lfw = sum(
        (m := _LFW_NAME.fullmatch(k.name)) is not None and m["person"] == k.parent.as_posix() for k in keys
    )
    utk = sum(len(k.parts) == 1 and _UTK_NAME.match(k.name) is not None for k in keys)
    if lfw * 2 > len(keys):
        return "lfw"
    if utk * 2 > len(keys):
        return "utkface"
    if labels is not None and _read_rows(Path(labels), ("file", "identity"))[0] == "file":
        return "table"
    deep = sum(len(k.parts) > 2 for k in keys)
    if deep:
        raise DataError(
            f"{path} fits no known layout: {deep} of {len(keys)} images lie more than one folder deep.",
            hint=_CHOICES,
        )
    return "folder"
