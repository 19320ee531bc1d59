"""One photo without a folder: the same bytes as a job over a folder, or nothing and a reason."""

from __future__ import annotations

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from privface.cli.main import app
from privface.errors import OutputError, ProtectError
from privface.protect import GaussianBlur, ProtectOptions, protect_photo
from tests.protect.conftest import Finder

BLUR = ("--model", "baseline:blur,sigma=3", "--faces", "aligned")


def run(*parts: object):
    return CliRunner().invoke(app, ["protect", *map(str, parts)])


def test_a_photo_gives_what_its_folder_gives_or_a_reason(groups, crowd, tmp_path, protect):
    photo = groups / "day0" / "photo2.png"  # three faces
    data, protector = photo.read_bytes(), GaussianBlur(sigma=3)
    for other in groups.rglob("*.png"):
        if other != photo:
            other.unlink()
    protect(groups, "out", protector, detector=crowd, faces="auto")
    wanted = [tmp_path / "out" / "day0" / f"photo2{face}.png" for face in ("", ".face2", ".face3")]
    made = protect_photo(data, protector, detector=crowd)
    assert made == [path.read_bytes() for path in wanted]
    assert len(protect_photo(data, protector, ProtectOptions(paste=True), detector=crowd)) == 1
    with pytest.raises(ProtectError, match="no face was found"):
        protect_photo(data, protector, detector=Finder(lambda _: []))
    with pytest.raises(ProtectError, match="decoded"):
        protect_photo(b"no photo", protector, ProtectOptions(faces="aligned"))


def test_the_command_writes_one_file_and_replaces_none_by_accident(faces, tmp_path):
    photo, out = next(faces.rglob("*.jpg")), tmp_path / "face.png"
    before = photo.read_bytes()
    told = run(photo, out, *BLUR)
    assert told.exit_code == 0, told.output
    assert out.read_bytes().startswith(b"\x89PNG")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["face.png", "in"]
    again = run(photo, out, *BLUR)
    assert isinstance(again.exception, OutputError), "it is there already"
    assert run(photo, out, *BLUR, "--overwrite").exit_code == 0
    assert isinstance(run(photo, photo, *BLUR, "--overwrite").exception, OutputError)
    assert photo.read_bytes() == before
    (tmp_path / "broken.jpg").write_bytes(b"none")
    assert run(tmp_path / "broken.jpg", tmp_path / "no.png", *BLUR).exit_code == 1
    assert not (tmp_path / "no.png").exists()


@pytest.mark.parametrize(
    "wrong", [("out",), ("out.gif",), ("out.png", "--csv"), ("out.png", "--format", "jpg"), ("-", "--json")]
)
def test_wrong_use_is_refused(wrong, faces, tmp_path):
    out = wrong[0] if wrong[0] == "-" else tmp_path / wrong[0]
    assert run(next(faces.rglob("*.jpg")), out, *BLUR, *wrong[1:]).exit_code == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in"]


def test_standard_input_to_standard_output(faces, tmp_path):
    photo, out = next(faces.rglob("*.jpg")), tmp_path / "face.png"
    run(photo, out, *BLUR)
    command = [sys.executable, "-m", "privface", "protect", "-", "-", *BLUR]
    done = subprocess.run(command, input=photo.read_bytes(), capture_output=True, check=True)
    assert done.stdout == out.read_bytes()
    assert run(faces, "-", *BLUR).exit_code == 2, "a folder does not fit into a pipe"
