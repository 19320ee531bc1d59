"""The options of a protection job: what is refused, and what of them the journal keeps."""

from __future__ import annotations

from dataclasses import fields, replace
from inspect import cleandoc
from typing import Any

import pytest

from privface.errors import ConfigError
from privface.options import DEFAULT_OPTIONS, AuditOptions, ProtectOptions


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"faces": "all"}, "faces is 'all'. Choose 'auto', 'aligned' or 'detect'."),
        ({"on_no_face": "stop"}, "on_no_face is 'stop'. Choose 'skip' or 'fail'."),
        ({"layout": "zip"}, "layout is 'zip'. Choose 'tree', 'webdataset' or 'parquet'."),
        ({"max_faces": 0}, "max_faces is 0; it must be at least 1."),
        ({"workers": 0}, "workers is 0; it must be at least 1. Give workers >= 1."),
        ({"quality": 101}, "quality is 101; it must be from 1 to 100. 95 is a good choice."),
    ],
)
def test_a_value_out_of_range_is_named_with_its_limit_and_a_cure(values: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        ProtectOptions(**values)


@pytest.mark.parametrize("options", [ProtectOptions, AuditOptions])
def test_each_option_is_documented(options: type[ProtectOptions | AuditOptions]) -> None:
    """Those that are no flag, too: ``max_pixels`` and ``size``."""
    _, _, text = cleandoc(str(options.__doc__)).partition("\nAttributes:\n")
    assert [f.name for f in fields(options) if f"\n    {f.name}: " not in f"\n{text}"] == []


def test_the_journal_keeps_what_changes_an_output() -> None:
    kept = DEFAULT_OPTIONS.output_settings()
    other = replace(
        DEFAULT_OPTIONS, batch_size=1, workers=9, times=True, as_csv=True, overwrite=True, shard_size=7
    )
    assert other.output_settings() == kept  # shards of files in a tree have no size
    for changed in (
        replace(DEFAULT_OPTIONS, quality=80),
        replace(DEFAULT_OPTIONS, image_format="png"),
        replace(DEFAULT_OPTIONS, paste=True),
        replace(DEFAULT_OPTIONS, layout="parquet"),
    ):
        assert changed.output_settings() != kept
    spellings = [ProtectOptions(image_format=name).output_settings() for name in ("PNG", ".png", "png")]
    assert spellings[0] == spellings[1] == spellings[2]
