"""The same faces one by one for a torch ``DataLoader``, for sets that do not fit into memory.

Apart from :mod:`privface.data.dataset`, because ``import privface.data`` must not load torch.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.data import Dataset

from privface.data.dataset import Prepare
from privface.errors import DataError, PrivfaceError
from privface.images import decode_image, to_unit
from privface.records import FaceTable


class FaceDataset(Dataset[tuple[int, Tensor]]):
    """Map-style data set that decodes a photo when it is asked for.

    Item ``i`` is ``(i, image)``: the position in ``table`` (to look labels up) and the prepared face,
    float32 RGB of shape ``(3, S, S)`` in [0, 1].

    Args:
        table: The set.
        prepare: Aligns one photo, as in :func:`privface.data.load_faces`.

    Raises:
        DataError: On access to a photo that cannot be decoded or prepared; it names the photo.
    """

    def __init__(self, table: FaceTable, prepare: Prepare) -> None:
        self.table = table
        self.prepare = prepare

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int) -> tuple[int, Tensor]:
        position = range(len(self.table))[index]  # IndexError past the end; negative counts from there
        record = self.table.records[position]
        try:
            face = self.prepare(decode_image(record.path), record)
        except PrivfaceError as error:
            raise DataError(
                f"{record.file}: {error.message}",
                hint="Leave the photo out; load_faces lists all such photos as rejects.",
            ) from error
        return position, torch.from_numpy(to_unit(face))
