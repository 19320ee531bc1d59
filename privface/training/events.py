"""What a run writes down while it trains: one CSV, and TensorBoard events on request."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from privface.errors import MissingExtraError

LOG_FILE = "log.csv"


class TrainingLog:
    """Rows ``step,name,value`` in ``log.csv``: long form, so that new figures need no new columns; also TensorBoard events, on request.

    Only the ``active`` process writes.

    Raises:
        MissingExtraError: If TensorBoard is asked for and not installed.
    """

    def __init__(self, run: Path, *, tensorboard: bool = False, active: bool = True) -> None:
        self._path = run / LOG_FILE
        self._rows: list[tuple[int, str, float]] = []
        self._active = active
        self._board: Any = None
        if active:
            run.mkdir(parents=True, exist_ok=True)
        if active and tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 - optional
            except ImportError as error:
                raise MissingExtraError(
                    "TensorBoard is not installed.", hint="pip install 'privface[track]'"
                ) from error
            self._board = SummaryWriter(str(run / "tensorboard"))

    def keep_until(self, step: int) -> None:
        """Drop rows of an earlier attempt after ``step`` (0 starts a new log)."""
        if not self._active:
            return
        kept: list[list[str]] = []
        if step and self._path.is_file():
            with self._path.open(newline="") as file:
                kept = [
                    row
                    for row in csv.reader(file)
                    if len(row) == 3 and row[0].isdigit() and int(row[0]) <= step
                ]
        with self._path.open("w", newline="") as file:
            csv.writer(file).writerows([["step", "name", "value"], *kept])

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        """Add one row a figure; rows reach the file at the next :meth:`flush`."""
        if self._active:
            self._rows.extend((step, name, float(value)) for name, value in figures.items())

    def flush(self) -> None:
        """Append waiting rows to the file."""
        if not self._rows:
            return
        with self._path.open("a", newline="") as file:
            csv.writer(file).writerows((step, name, f"{value:.6g}") for step, name, value in self._rows)
        if self._board is not None:
            for step, name, value in self._rows:
                self._board.add_scalar(name, value, step)
            self._board.flush()
        self._rows.clear()

    def close(self) -> None:
        """Flush and release the files."""
        self.flush()
        if self._board is not None:
            self._board.close()
