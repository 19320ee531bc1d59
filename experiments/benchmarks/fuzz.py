"""Mutated images through `protect`: nothing crashes or hangs, every file is accounted for, no original byte gets out.

    python experiments/benchmarks/fuzz.py [--count 2400] [--seed 0] [--faces aligned] [--out FOLDER]

Drawn photos in six formats, each with a marker in its metadata, are cut short, flipped bit by bit, spliced, renamed, given other
sizes in their headers, and joined by decompression bombs. The job runs in a process of its own with a time limit.
Checked afterwards: one manifest row a file, an output for `ok` and for nothing else, no temporary file, and in no
output a marker or any 48 consecutive bytes of an input.
"""

from __future__ import annotations

import argparse
import io
import json
import re
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin

from privface.protect import ManifestRow, read_manifest

MARKER = b"ORIGINAL-METADATA"
WINDOW = 48
_UNFORESEEN = re.compile(r"damaged image \(\w+\)")
FORMATS = {".jpg": "JPEG", ".png": "PNG", ".webp": "WEBP", ".tif": "TIFF", ".bmp": "BMP", ".gif": "GIF"}

JOB = """
import json, resource, sys
from pathlib import Path
from privface.protect import Pixelate, ProtectOptions, protect_folder
more = {"faces": sys.argv[3]} if sys.argv[3] == "aligned" else {"faces": "detect", "batch_size": 8}
options = ProtectOptions(max_pixels=20_000_000, **more)
found = protect_folder(Path(sys.argv[1]), Path(sys.argv[2]), Pixelate(cells=8, size=112), options)
print(json.dumps({"counts": dict(found.counts), "peak_kb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}))
"""


def photo(rng: np.random.Generator) -> Image.Image:
    small = Image.fromarray(rng.integers(0, 255, (7, 7, 3), dtype=np.uint8))
    size = int(rng.integers(40, 180))
    noise = rng.normal(0, 12, (size, size, 3))
    pixels = np.asarray(small.resize((size, size), Image.Resampling.BICUBIC), np.float64) + noise
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def encode(image: Image.Image, suffix: str) -> bytes:
    buffer, form = io.BytesIO(), FORMATS[suffix]
    exif = Image.Exif()
    exif[0x010E] = MARKER.decode()
    options: dict[str, object] = {"exif": exif} if form in {"JPEG", "PNG", "WEBP", "TIFF"} else {}
    if form == "PNG":
        info = PngImagePlugin.PngInfo()
        info.add_text("Comment", MARKER.decode())
        options["pnginfo"] = info
    if form in {"JPEG", "GIF"}:
        options["comment"] = MARKER
    image.save(buffer, form, **options)
    return buffer.getvalue()


Mutation = Callable[[bytes, np.random.Generator, bytes], bytes]


def cut(data: bytes, rng: np.random.Generator, _: bytes) -> bytes:
    return data[: int(rng.integers(0, len(data)))]


def flip(data: bytes, rng: np.random.Generator, _: bytes) -> bytes:
    changed = bytearray(data)
    for place in rng.integers(0, len(data), int(rng.integers(1, 40))):
        changed[place] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def flip_head(data: bytes, rng: np.random.Generator, _: bytes) -> bytes:
    changed = bytearray(data)
    for place in rng.integers(0, min(64, len(data)), int(rng.integers(1, 6))):
        changed[place] = int(rng.integers(256))
    return bytes(changed)


def splice(data: bytes, rng: np.random.Generator, other: bytes) -> bytes:
    return data[: int(rng.integers(len(data)))] + other[int(rng.integers(len(other))) :]


def insert(data: bytes, rng: np.random.Generator, _: bytes) -> bytes:
    place = int(rng.integers(len(data)))
    return data[:place] + rng.bytes(int(rng.integers(1, 400))) + data[place:]


def repeat(data: bytes, rng: np.random.Generator, _: bytes) -> bytes:
    place = int(rng.integers(len(data)))
    return data[:place] + data[place : place + 64] * int(rng.integers(2, 50)) + data[place:]


def append(data: bytes, rng: np.random.Generator, other: bytes) -> bytes:
    return data + MARKER + other


def blank(data: bytes, rng: np.random.Generator, _: bytes) -> bytes:
    first, last = sorted(int(v) for v in rng.integers(0, len(data), 2))
    return data[:first] + bytes(last - first) + data[last:]


MUTATIONS: list[Mutation] = [cut, flip, flip_head, splice, insert, repeat, append, blank]


def png(width: int, height: int, payload: bytes) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", payload) + chunk(b"IEND", b"")


def bombs() -> dict[str, bytes]:
    """Files that promise or unpack to far more than they weigh."""
    zeros = zlib.compress(bytes(40_000_000), 9)
    wide = io.BytesIO()
    Image.new("1", (30_000, 30_000)).save(wide, "TIFF", compression="group4")
    text = zlib.compress(b"A" * 80_000_000, 9)
    body = b"Comment\x00\x00" + text
    with_text = png(32, 32, zlib.compress(bytes(32 * 97)))
    chunk = struct.pack(">I", len(body)) + b"zTXt" + body + struct.pack(">I", zlib.crc32(b"zTXt" + body))
    frames = io.BytesIO()
    still = [Image.new("P", (64, 64), k % 255) for k in range(3000)]
    still[0].save(frames, "GIF", save_all=True, append_images=still[1:])
    return {
        "30000x30000.png": png(30_000, 30_000, zeros),
        "promises_more.png": png(4000, 4000, zlib.compress(bytes(1000))),
        "unpacks_more.png": png(64, 64, zeros),
        "2e9x2e9.png": png(2**31 - 1, 2**31 - 1, zeros[:1000]),
        "group4.tif": wide.getvalue(),
        "text.png": with_text[:33] + chunk + with_text[33:],
        "frames.gif": frames.getvalue(),
        "frames.webp": frames.getvalue(),
    }


def make_inputs(folder: Path, count: int, seed: int) -> Counter[str]:
    rng = np.random.default_rng(seed)
    pool = [(suffix, encode(photo(rng), suffix)) for suffix in FORMATS for _ in range(12)]
    made: Counter[str] = Counter()
    bad = bombs()
    for name, data in bad.items():
        (folder / name).write_bytes(data)
        made["bomb"] += 1
    for number in range(count - len(bad)):
        suffix, data = pool[int(rng.integers(len(pool)))]
        other = pool[int(rng.integers(len(pool)))][1]
        mutation = MUTATIONS[number % len(MUTATIONS)]
        for _ in range(int(rng.integers(1, 3))):
            data = mutation(data, rng, other) or b"x"
        if number % 7 == 0:
            suffix = list(FORMATS)[int(rng.integers(len(FORMATS)))]
            made["renamed"] += 1
        sub = folder / f"{number % 20:02d}"
        sub.mkdir(exist_ok=True)
        (sub / f"{mutation.__name__}{number:05d}{suffix}").write_bytes(data)
        made[mutation.__name__] += 1
    return made


def windows(data: bytes) -> set[bytes]:
    """All runs of WINDOW bytes but plain ones."""
    found = {data[k : k + WINDOW] for k in range(max(0, len(data) - WINDOW + 1))}
    return {run for run in found if len(set(run)) > 8}


def leaks(source: Path, output: Path, rows: Sequence[ManifestRow]) -> list[str]:
    """Outputs with a marker, or with 48 bytes in a row of their own input."""
    common: set[bytes] = set()  # tables that every encoder writes alike are no original's bytes
    rng = np.random.default_rng(9)
    for suffix, form in FORMATS.items():
        for _ in range(3):
            buffer = io.BytesIO()
            options = {"quality": 95, "subsampling": 0} if form == "JPEG" else {}
            photo(rng).resize((112, 112)).save(buffer, form, **options)
            common |= windows(buffer.getvalue())
            common |= windows(encode(photo(rng), suffix))
    found = []
    for row in rows:
        if row.output is not None:
            data = (output / row.output).read_bytes()
            if MARKER in data or windows(data) & windows((source / row.input).read_bytes()) - common:
                found.append(row.output)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--count", type=int, default=2400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--faces", choices=["aligned", "detect"], default="aligned")
    parser.add_argument("--limit", type=float, default=900, help="seconds")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        source, output = Path(folder) / "in", Path(folder) / "out"
        source.mkdir()
        made = make_inputs(source, args.count, args.seed)
        start = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", JOB, str(source), str(output), args.faces],
            capture_output=True, text=True, timeout=args.limit, check=False,
        )  # fmt: skip
        seconds = time.monotonic() - start
        if done.returncode:
            print(done.stderr[-3000:])
            print(f"the job ended with {done.returncode}")
            return 1
        said = json.loads(done.stdout)
        rows = read_manifest(output)
        inputs = {p.relative_to(source).as_posix() for p in source.rglob("*.*") if p.is_file()}
        written = {p.relative_to(output).as_posix() for p in output.rglob("*.*") if p.suffix in FORMATS}
        wrong = {
            "files without a row": sorted(inputs - {row.input for row in rows}),
            "rows without a file": sorted({row.input for row in rows} - inputs),
            "outputs that are not ok": sorted(written - {row.output for row in rows if row.status == "ok"}),
            "ok without an output": sorted({str(row.output) for row in rows if row.status == "ok"} - written),
            "rows without a reason": [row.input for row in rows if row.status != "ok" and not row.reason],
            "left over": [p.name for p in output.rglob("*privface-tmp")],
            "original bytes": leaks(source, output, rows),
        }
        unforeseen = Counter(row.reason for row in rows if _UNFORESEEN.fullmatch(row.reason or ""))
    result = {
        "files": len(inputs), "mutations": dict(made), "counts": said["counts"], "seconds": round(seconds, 1),
        "peak_mb": round(said["peak_kb"] / 1024), "decoder_exceptions": dict(unforeseen),
        "wrong": {name: found[:10] for name, found in wrong.items()},
    }  # fmt: skip
    print(json.dumps(result, indent=1))
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "fuzz.json").write_text(json.dumps(result, indent=1) + "\n")
    return int(any(wrong.values()))


if __name__ == "__main__":
    sys.exit(main())
