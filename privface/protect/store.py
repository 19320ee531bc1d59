"""Templates in LanceDB, a vector database of one folder (the extra ``store``); the only file that imports it."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from privface.errors import ConfigError, DataError, MissingExtraError, OutputError
from privface.protect.templates import unpack

TABLE = "templates"
_ROWS_AT_ONCE = 4096
_KIND = "lancedb:"


def store_path(text: str) -> Path:
    """The folder that ``lancedb:PATH`` names.

    Raises:
        ConfigError: If the text is not of that form.
    """
    if not text.startswith(_KIND) or not text[len(_KIND) :]:
        raise ConfigError(f"The store {text!r} is not known.", hint=f"Give {_KIND}FOLDER.")
    return Path(text[len(_KIND) :])


class TemplateStore:
    """Protected templates that can be searched.

    Args:
        path: Folder of the database.

    Raises:
        MissingExtraError: If lancedb is not installed.
    """

    def __init__(self, path: Path) -> None:
        os.environ.setdefault("LANCEDB_LOG", "error")  # it warns of every folder that it makes
        try:
            import lancedb  # noqa: PLC0415 - optional and heavy
        except ImportError as error:
            raise MissingExtraError(
                "A template store needs lancedb, which is not installed.",
                hint="Install the extra: pip install 'privface[store]'.",
            ) from error
        self.path = path
        self._lancedb: Any = lancedb

    def write(self, templates: Iterator[tuple[str, str]], *, fingerprint: str) -> int:
        """Replace what the store holds.

        Args:
            templates: Keys and packed templates; empty ones are left out.
            fingerprint: Names the models that made them; searches with others are refused.

        Returns:
            Templates written.

        Raises:
            DataError: If there is none.
            OutputError: If the folder cannot be written.
        """
        kept = ((key, unpack(text)) for key, text in templates if text)
        first = next(kept, None)
        if first is None:
            raise DataError("There is no template to store.", hint="The manifest says why.")
        schema = pa.schema(
            [("file", pa.string()), ("vector", pa.list_(pa.float32(), len(first[1])))],
            metadata={"privface.templates": fingerprint},
        )
        count = 0

        def batches() -> Iterator[pa.RecordBatch]:
            nonlocal count
            part = [first, *islice(kept, _ROWS_AT_ONCE - 1)]
            while part:
                values = np.concatenate([vector for _, vector in part])
                vectors = pa.FixedSizeListArray.from_arrays(pa.array(values), len(first[1]))
                yield pa.record_batch([pa.array([key for key, _ in part]), vectors], schema=schema)
                count += len(part)
                part = list(islice(kept, _ROWS_AT_ONCE))

        fresh = self.path.with_name(f".{secrets.token_hex(8)}.privface-tmp")
        try:
            self._require_ours()
            fresh.mkdir(mode=0o700, parents=True)  # templates are biometric data, protected or not
            base = self._lancedb.connect(str(fresh))
            base.create_table(TABLE, data=batches(), schema=schema)
            # A table that is overwritten in place keeps its former versions, less protected ones perhaps, on disk.
            shutil.rmtree(self.path, ignore_errors=True)
            fresh.replace(self.path)
        except (OSError, RuntimeError, ValueError) as error:
            raise OutputError(
                f"Cannot write templates to {self.path} ({error}).", hint="Check the folder and free space."
            ) from error
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
        return count

    def fingerprint(self) -> str:
        """Names the models that made the templates.

        Raises:
            DataError: If the folder holds no templates.
        """
        metadata = self._table().schema.metadata or {}
        return bytes(metadata.get(b"privface.templates", b"")).decode()

    def __len__(self) -> int:
        return int(self._table().count_rows())

    def nearest(self, template: NDArray[np.float32], *, top: int) -> list[tuple[str, float]]:
        """The most similar templates by cosine, best first: key and similarity in [-1, 1].

        Raises:
            DataError: If the store's templates have another size, or it holds none.
        """
        table = self._table()
        size = table.schema.field("vector").type.list_size
        if len(template) != size:
            raise DataError(
                f"The store's templates have {size} values, the probe's {len(template)}.",
                hint="Give the matcher and the eraser that made the store.",
            )
        found = table.search(template).distance_type("cosine").limit(top).to_arrow()
        return [
            (key, 1.0 - float(distance))
            for key, distance in zip(found["file"].to_pylist(), found["_distance"].to_pylist(), strict=True)
        ]

    def _require_ours(self) -> None:
        """Nothing but templates of ours is ever replaced."""
        if self.path.is_dir():
            others = sorted(p.name for p in self.path.iterdir() if p.name != f"{TABLE}.lance")
        else:
            others = [self.path.name] if self.path.exists() else []
        if others:
            raise OutputError(
                f"{self.path} holds other things ({', '.join(others[:3])}).", hint="Name a folder of its own."
            )

    def _table(self) -> Any:
        try:
            self.path.stat()  # connecting would make it
            return self._lancedb.connect(str(self.path)).open_table(TABLE)
        except (OSError, RuntimeError, ValueError) as error:
            raise DataError(
                f"{self.path} holds no templates ({str(error).splitlines()[0]}).",
                hint="Write them with `privface protect --embeddings ... --store lancedb:FOLDER`.",
            ) from error
