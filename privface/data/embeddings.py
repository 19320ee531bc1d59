"""Tables of face embeddings on disk, from privface or from a vendor: Parquet, NPZ or CSV."""

from __future__ import annotations

import math
import re
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from privface.data.sources import clean
from privface.errors import DataError, LabelError
from privface.records import Embeddings

if TYPE_CHECKING:
    import pandas as pd  # heavy, so it is imported where a table is read

TABLE_SUFFIXES: Final = (".parquet", ".npz", ".csv")
"""Files that :func:`read_embeddings` reads."""

_NUMBERED = re.compile(r"(?P<stem>.*?)_?(?P<number>\d+)")
_ALIASES: Final = {"files": "file", "identities": "identity", "genders": "gender", "matchers": "matcher"}
_GENDERS: Final = {"female": 0, "f": 0, "0": 0, "male": 1, "m": 1, "1": 1}
_VECTOR_NAMES: Final = ("embedding", "embeddings", "template", "vector", "feature")


@dataclass(frozen=True)
class EmbeddingTable:
    """Embeddings of one file with whatever labels it holds.

    Attributes:
        vectors: float32, shape ``(N, D)``; a row of NaN holds no embedding.
        labels: Text columns, one row each: ``file`` always; ``identity``, ``gender``, ``matcher`` and
            cohorts where the file has them. An empty text is no label.
        path: Where it came from.
    """

    vectors: Embeddings
    labels: pd.DataFrame
    path: Path

    def __len__(self) -> int:
        return len(self.vectors)

    def of_matcher(self, name: str) -> EmbeddingTable:
        """The rows of one matcher."""
        rows = (self.labels["matcher"] == name).to_numpy()
        return EmbeddingTable(self.vectors[rows], self.labels[rows].reset_index(drop=True), self.path)

    @property
    def matchers(self) -> tuple[str, ...]:
        """Names in the column ``matcher``; none where there is no such column."""
        if "matcher" not in self.labels:
            return ()
        return tuple(sorted(set(self.labels["matcher"])))


def read_embeddings(path: Path) -> EmbeddingTable:
    """Read a table of embeddings.

    - Parquet: a column ``embedding`` of lists, or numbered columns such as ``e0 .. e511``;
    - CSV: numbered columns, or a column ``embedding`` with numbers between spaces, commas or brackets;
    - NPZ (never pickled): an array ``embeddings`` ``(N, D)`` and arrays of length ``N``.

    Other columns are labels: ``file`` (the key; row numbers where it is missing), ``identity``, ``gender``,
    ``matcher``, cohorts.

    Raises:
        DataError: If the file is missing, of another format, or holds no embeddings of one length.
    """
    parts = list(stream_embeddings(path, rows=None))
    if not parts:
        raise DataError(f"{path} has no rows.", hint="It needs one row per photo.")
    table = parts[0] if len(parts) == 1 else _joined(parts)
    keys = ["file", "matcher"] if "matcher" in table.labels else ["file"]
    twice = table.labels[table.labels.duplicated(keys)]
    if len(twice):
        raise DataError(
            f"{path} has {len(twice)} rows whose file occurs before, the first is {twice['file'].iloc[0]!r}.",
            hint="Keep one row per photo (and matcher).",
        )
    return table


def stream_embeddings(path: Path, *, rows: int | None = 65_536) -> Iterator[EmbeddingTable]:
    """Read a table of embeddings in order and in parts of so many ``rows``, none of them empty, for tables larger than memory.

    Parquet is streamed; CSV and NPZ are read whole and then cut. That no file occurs twice is only checked by :func:`read_embeddings`.

    Raises:
        DataError: As for :func:`read_embeddings`.
    """
    suffix = path.suffix.lower()
    if suffix not in TABLE_SUFFIXES:
        raise DataError(
            f"{path} is no table of embeddings; its suffix is {path.suffix or 'missing'!r}.",
            hint=f"Give one of {', '.join(TABLE_SUFFIXES)}.",
        )
    if not path.is_file():
        raise DataError(f"The table {path} does not exist.", hint="Check the path.")
    whole = {".csv": _read_csv, ".npz": _read_npz}
    start = 0
    for vectors, labels in [whole[suffix](path)] if suffix in whole else _stream_parquet(path, rows):
        named = labels.rename(columns={old: new for old, new in _ALIASES.items() if new not in labels})
        named = named.drop(columns=["reason"], errors="ignore")  # what `privface embed` says of failed rows
        if "file" not in named:
            named.insert(0, "file", [f"row-{start + k}" for k in range(len(named))])
        step = rows or max(len(vectors), 1)
        for first in range(0, len(vectors), step):
            part = slice(first, first + step)
            yield EmbeddingTable(
                vectors[part], named.iloc[part].reset_index(drop=True).astype(object).map(_text), path
            )
        start += len(vectors)


def _joined(parts: list[EmbeddingTable]) -> EmbeddingTable:
    """Parts of one file as one table; columns of categories come in a part for each row group."""
    import pandas as pd  # noqa: PLC0415

    labels = pd.concat([part.labels for part in parts], ignore_index=True)
    return EmbeddingTable(np.concatenate([part.vectors for part in parts]), labels, parts[0].path)


def has_embedding(vectors: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Rows that describe a face: finite and not zero, shape ``(N,)``."""
    # a sum is finite only if every value is; it costs a quarter of looking at each
    return np.asarray(np.isfinite(vectors.sum(axis=1)) & (np.abs(vectors).max(axis=1) > 0), np.bool_)


def read_templates(path: Path) -> tuple[Embeddings, list[str]]:
    """Templates that ``protect --embeddings`` wrote and their photos, ``(N, D)`` with rows of NaN where there is none; without pandas.

    Raises:
        DataError: If the file is damaged or holds no template.
    """
    if path.suffix.lower() == ".npz":
        arrays = _arrays(path)
        return arrays["embeddings"], arrays["files"].tolist()
    import pyarrow as pa  # noqa: PLC0415
    import pyarrow.parquet as pq  # noqa: PLC0415

    try:
        with pq.ParquetFile(path) as file:  # starts no thread that would outlive a short command
            table = file.read(["file", "embedding"], use_threads=False).combine_chunks()
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} is damaged ({error}).", hint="Write it again.") from error
    if not len(table):
        raise DataError(f"{path} holds no embeddings.", hint="Give a table with at least one row.")
    return _from_lists(table["embedding"].combine_chunks(), path, None), table["file"].to_pylist()


def templates_made_by(path: Path) -> str:
    """Which models a file of ``protect --embeddings`` says it was made with; other tables say nothing."""
    try:
        if path.suffix.lower() == ".npz":
            return str(_arrays(path).get("made_by", ""))
        if path.suffix.lower() == ".parquet":
            import pyarrow.parquet as pq  # noqa: PLC0415

            return bytes((pq.read_schema(path).metadata or {}).get(b"privface.templates", b"")).decode()
    except (DataError, OSError, ValueError):  # reading it will say what is wrong
        pass
    return ""


class LabelFile:
    """Labels of a CSV or Parquet file, to be joined to tables or parts of them by its ``file`` column.

    Raises:
        LabelError: If the file cannot be read, has no ``file`` column or repeats a file.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise LabelError(f"The label file {path} does not exist.", hint="Give a CSV or Parquet file.")
        try:
            frame = _label_frame(path)
        except Exception as error:  # pyarrow and pandas raise many kinds
            raise LabelError(
                f"{path} cannot be read ({error}).", hint="Save it as CSV or Parquet again."
            ) from error
        frame = frame.rename(columns=lambda name: str(name).strip()).astype(object).map(_text)
        if "file" not in frame:
            raise LabelError(
                f"{path} has no 'file' column; it has {', '.join(frame.columns)}.",
                hint="Name the key column file; its values are those of the embeddings' table.",
            )
        if frame["file"].duplicated().any():
            first = frame.loc[frame["file"].duplicated(), "file"].iloc[0]
            raise LabelError(f"{path} lists {first!r} more than once.", hint="Keep one row per photo.")
        self.path = path
        self._frame = frame.set_index("file")

    def join(self, table: EmbeddingTable, *, required: bool = True) -> EmbeddingTable:
        """The same embeddings with these labels; they win over columns of the table that have the same name.

        Raises:
            LabelError: If none of the table's files is known, where one is ``required``.
        """
        files = table.labels["file"]
        if required and not files.isin(self._frame.index).any():
            raise LabelError(
                f"None of the {len(table)} files of {table.path} is in {self.path}; looked for {files.iloc[0]!r}.",
                hint="Use the same keys in both files.",
            )
        labels = self._frame.reindex(files).fillna("").reset_index(drop=True)
        own = table.labels.drop(columns=[c for c in labels.columns if c in table.labels])
        return EmbeddingTable(table.vectors, own.join(labels), table.path)


def _label_frame(path: Path) -> pd.DataFrame:
    import pandas as pd  # noqa: PLC0415

    if path.suffix.lower() == ".parquet":
        import pyarrow.parquet as pq  # noqa: PLC0415

        with pq.ParquetFile(path) as file:
            return _columns(file.read())
    return _of_the_header(pd.read_csv(path, dtype=str))


def _columns(table: Any) -> pd.DataFrame:
    """An Arrow table's or batch's columns as they stand there: pandas would make an index of one, and floats of integers with gaps."""
    frame: pd.DataFrame = table.to_pandas(ignore_metadata=True, integer_object_nulls=True)
    return frame.drop(columns=[name for name in frame.columns if str(name).startswith("__index_level_")])


def _of_the_header(frame: pd.DataFrame) -> pd.DataFrame:
    """The same table.

    Raises:
        ValueError: If its rows have more values than the header has names: pandas would take the first ones for an index.
    """
    import pandas as pd  # noqa: PLC0415

    if len(frame) and not isinstance(frame.index, pd.RangeIndex):
        raise ValueError(
            f"rows have {len(frame.columns) + frame.index.nlevels} values, the header has {len(frame.columns)} names;"
            " name every column, end no row with a comma"
        )
    return frame


def gender_codes(labels: pd.DataFrame, path: Path) -> NDArray[np.int64]:
    """Genders as 0 (female) and 1 (male), -1 where there is no label, shape ``(N,)``.

    Raises:
        LabelError: If there is no gender column or a value is not understood.
    """
    if "gender" not in labels:
        raise LabelError(
            f"{path} has no 'gender' column; it has {', '.join(labels.columns)}.",
            hint="Give --labels with file, identity and gender.",
        )
    words = labels["gender"].str.lower()
    unknown = sorted(set(words) - set(_GENDERS) - {"", "nan", "-1"})
    if unknown:
        raise LabelError(
            f"{path} has the gender {unknown[0]!r}.", hint="Use female, male, f, m, 0 (female) or 1 (male)."
        )
    return words.map(lambda word: _GENDERS.get(word, -1)).to_numpy(np.int64)


def _stream_parquet(path: Path, rows: int | None) -> Iterator[tuple[Embeddings, pd.DataFrame]]:
    import pyarrow as pa  # noqa: PLC0415
    import pyarrow.parquet as pq  # noqa: PLC0415

    lists = (pa.ListType, pa.LargeListType, pa.FixedSizeListType)
    size: int | None = None
    waiting: list[pd.DataFrame] = []  # labels of the first rows, as long as none has an embedding
    try:
        # a buffer ahead would hold every row group of the file until the last is read
        with pq.ParquetFile(path, memory_map=False, pre_buffer=False) as file:
            for part in file.iter_batches(batch_size=rows or max(file.metadata.num_rows, 1)):
                names = [str(name).strip() for name in part.schema.names]
                name = next((n for n in _VECTOR_NAMES if n in names), None)
                if name is None:
                    yield _numbered(_columns(part), path)
                    continue
                column = part.column(names.index(name))
                if isinstance(column, pa.ExtensionArray):  # such as Arrow's tensors of one shape
                    column = column.storage
                if not isinstance(column.type, lists):
                    raise DataError(
                        f"{path}: the column {name!r} is of type {column.type}.",
                        hint="Write lists of floats.",
                    )
                labels = _columns(part.remove_column(names.index(name)))
                if size is None and column.null_count == len(column):
                    waiting.append(labels)
                    continue
                vectors = _from_lists(column, path, size)
                size = vectors.shape[1]
                for before in waiting:
                    yield np.full((len(before), size), np.nan, np.float32), before
                waiting.clear()
                yield vectors, labels
            if waiting:
                _one_length(set(), path)
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{path} is not a readable Parquet file ({error}).", hint="Write it again."
        ) from error


def _from_lists(column: Any, path: Path, size: int | None) -> Embeddings:
    """An Arrow column of lists as ``(N, D)`` without a Python object a row; rows of NaN where there is none."""
    import pyarrow as pa  # noqa: PLC0415
    import pyarrow.compute as pc  # noqa: PLC0415

    lengths = pc.fill_null(pc.list_value_length(column), -1).to_numpy(zero_copy_only=False)
    given = lengths >= 0
    known = _one_length({*np.unique(lengths[given]).tolist(), *([] if size is None else [size])}, path)
    lists = column if given.all() else column.filter(pa.array(given))
    try:
        values = pc.cast(lists.flatten(), pa.float32())
    except pa.ArrowException as error:
        raise DataError(f"{path}: the embeddings are no numbers ({error}).", hint="Write floats.") from error
    rows = values.to_numpy(zero_copy_only=False).reshape(-1, known)
    if len(rows) == len(column):
        return np.asarray(rows, np.float32)
    out = np.full((len(column), known), np.nan, np.float32)
    out[given] = rows
    return out


def _read_csv(path: Path) -> tuple[Embeddings, pd.DataFrame]:
    import pandas as pd  # noqa: PLC0415

    try:
        names = pd.read_csv(path, encoding="utf-8-sig", nrows=0).columns
        # 007 is not 7
        keys = {
            name: str for name in names if _ALIASES.get(name.strip(), name.strip()) in {"file", "identity"}
        }
        frame = _of_the_header(pd.read_csv(path, encoding="utf-8-sig", dtype=keys))
    except (ValueError, OSError) as error:
        raise DataError(
            f"{path} is not a readable CSV file ({error}).", hint="Save it again as UTF-8."
        ) from error
    frame = frame.rename(columns=lambda name: str(name).strip())
    name = next((n for n in _VECTOR_NAMES if n in frame), None)
    if name is None:
        return _numbered(frame, path)
    vectors = [_parse_vector(value, path, number) for number, value in enumerate(frame[name], start=1)]
    length = _one_length({len(vector) for vector in vectors if vector is not None}, path)
    missing = [math.nan] * length
    rows = np.array([missing if vector is None else vector for vector in vectors], np.float32)
    return rows, frame.drop(columns=name)


def _parse_vector(value: object, path: Path, row: int) -> list[float] | None:
    if not isinstance(value, str):
        return None
    try:
        return [float(part) for part in re.split(r"[\s,;]+", value.strip(" []()\n")) if part]
    except ValueError:
        raise DataError(
            f"{path}, row {row}: the embedding {value[:40]!r} is not a list of numbers.",
            hint="Write numbers between spaces or commas.",
        ) from None


def _numbered(frame: pd.DataFrame, path: Path) -> tuple[Embeddings, pd.DataFrame]:
    """The longest run of numeric columns that share a stem and end in a number, in the order of the numbers; and the others."""
    frame = frame.rename(columns=lambda name: str(name).strip())
    stems: dict[str, list[tuple[int, str]]] = {}
    for name in frame.columns:
        match = _NUMBERED.fullmatch(name)
        if match and _of_numbers(frame[name]):
            stems.setdefault(match["stem"], []).append((int(match["number"]), name))
    longest: list[tuple[int, str]] = max(stems.values(), key=len, default=[])
    columns = [name for _, name in sorted(longest)]
    if len(columns) < 2:
        raise DataError(
            f"{path} has no embeddings; its columns are {', '.join(map(str, frame.columns[:12]))}.",
            hint="Name a column of lists 'embedding', or number the columns: e0, e1, ...",
        )
    return frame[columns].to_numpy(np.float32), frame.drop(columns=columns)


def _of_numbers(column: pd.Series[Any]) -> bool:
    """Integers with gaps are objects, see :func:`_columns`."""
    if column.dtype.kind != "O":
        return column.dtype.kind in "iuf"
    return all(value is None or type(value) is int for value in column)


def _one_length(lengths: set[int], path: Path) -> int:
    if len(lengths) != 1 or min(lengths) < 1:
        which = f"lengths {sorted(lengths)[:5]}" if lengths else "none at all"
        raise DataError(
            f"{path} holds embeddings of {which}; one length is needed.",
            hint="Write the embeddings of one matcher per file, or add a column 'matcher' and files of one length.",
        )
    return lengths.pop()


def _read_npz(path: Path) -> tuple[Embeddings, pd.DataFrame]:
    import pandas as pd  # noqa: PLC0415

    # arrays without rows are notes, not columns
    arrays = {key: array for key, array in _arrays(path).items() if array.ndim}
    name = next((n for n in _VECTOR_NAMES if n in arrays), None)
    if name is None or arrays[name].ndim != 2:
        shapes = ", ".join(f"{key} {array.shape}" for key, array in arrays.items())
        raise DataError(
            f"{path} has no array 'embeddings' (N, D); it has {shapes}.", hint="Save it under that name."
        )
    vectors = np.asarray(arrays.pop(name), np.float32)
    for key, array in arrays.items():
        if array.shape != (len(vectors),):
            raise DataError(
                f"{path}: {key} has shape {array.shape}, the embeddings have {len(vectors)} rows.",
                hint="Give one label per row.",
            )
    texts = {
        key: np.char.decode(array, "utf-8", "replace") if array.dtype.kind == "S" else array
        for key, array in arrays.items()
    }
    labels = pd.DataFrame({key: array.tolist() for key, array in texts.items()}, index=range(len(vectors)))
    return vectors, labels


def _arrays(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, EOFError, TypeError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(
            f"{path} is not a readable NPZ file of plain arrays ({error}).",
            hint="Save it with numpy.savez and no Python objects.",
        ) from error


def _text(value: object) -> str:
    return "" if str(value) == "<NA>" else clean(value) or ""
