"""Do outputs of `protect` tell anything but their pixels? Planted and looked for by ExifTool, which is not ours.

    python experiments/benchmarks/metadata.py        (needs exiftool: libimage-exiftool-perl on Debian)

Drawn photos in JPEG, PNG, WebP and TIFF get GPS, camera, XMP, IPTC, comments, a colour profile's text, a thumbnail and bytes behind the
end. After `protect` in every mode that writes files, ExifTool may find nothing but the structure of the image.
"""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageCms

from privface.protect import GaussianBlur, ProtectOptions, protect_folder

MARKER = "PLANTED"
SUFFIXES = (".jpg", ".png", ".webp", ".tif")
STRUCTURE = {
    "SourceFile", "ExifTool:ExifToolVersion", "File:FileSize", "File:FileType", "File:FileTypeExtension", "File:MIMEType",
    "File:ImageWidth", "File:ImageHeight", "File:EncodingProcess", "File:BitsPerSample", "File:ColorComponents",
    "File:YCbCrSubSampling", "File:ExifByteOrder", "JFIF:JFIFVersion", "JFIF:ResolutionUnit", "JFIF:XResolution", "JFIF:YResolution",
    "PNG:ImageWidth", "PNG:ImageHeight", "PNG:BitDepth", "PNG:ColorType", "PNG:Compression", "PNG:Filter", "PNG:Interlace",
    "RIFF:ImageWidth", "RIFF:ImageHeight", "RIFF:VP8Version", "RIFF:HorizontalScale", "RIFF:VerticalScale",
    "EXIF:ImageWidth", "EXIF:ImageHeight", "EXIF:BitsPerSample", "EXIF:Compression", "EXIF:PhotometricInterpretation",
    "EXIF:StripOffsets", "EXIF:SamplesPerPixel", "EXIF:RowsPerStrip", "EXIF:StripByteCounts", "EXIF:PlanarConfiguration",
    "EXIF:SampleFormat", "Composite:ImageSize", "Composite:Megapixels",
}  # fmt: skip


def plant(path: Path, rng: np.random.Generator) -> None:
    pixels = np.asarray(Image.fromarray(rng.integers(0, 255, (6, 6, 3), dtype=np.uint8)).resize((112, 112)))
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(pixels).save(path, icc_profile=profile)
    thumbnail = path.with_suffix(".thumb")
    Image.fromarray(pixels).resize((40, 40)).save(thumbnail, "JPEG")
    tags = [
        "-GPSLatitude=52.5", "-GPSLatitudeRef=N", "-GPSLongitude=13.4", "-GPSLongitudeRef=E", f"-Artist={MARKER}",
        f"-ImageDescription={MARKER}", f"-UserComment={MARKER}", f"-XMP:Creator={MARKER}", f"-XMP:Description={MARKER}",
        "-Model=Camera", "-SerialNumber=12345", f"-Comment={MARKER}",
    ]  # fmt: skip
    if path.suffix == ".jpg":
        tags += [f"-IPTC:Keywords={MARKER}", f"-ThumbnailImage<={thumbnail}"]
    if path.suffix == ".tif":
        tags += [f"-IPTC:Keywords={MARKER}"]
    subprocess.run(["exiftool", "-q", "-m", "-overwrite_original", *tags, str(path)], check=True)
    thumbnail.unlink()
    with path.open("ab") as file:
        file.write(MARKER.encode() * 4)


def scan(folder: Path) -> dict[str, dict[str, Any]]:
    """ExifTool's tags of each image by relative path, without times and places of the file system."""
    said = subprocess.run(
        ["exiftool", "-j", "-G", "-a", "-u", "-ee", "-r", str(folder)],
        capture_output=True,
        text=True,
        check=True,
    )
    found = {}
    for entry in json.loads(said.stdout):
        name = Path(entry["SourceFile"]).relative_to(folder).as_posix()
        system = ("File:File", "File:Directory")
        found[name] = {k: v for k, v in entry.items() if not k.startswith(system) or k in STRUCTURE}
    return found


def main() -> int:
    if shutil.which("exiftool") is None:
        print("exiftool is not installed (libimage-exiftool-perl on Debian)")
        return 2
    rng, bad = np.random.default_rng(0), 0
    with tempfile.TemporaryDirectory() as place:
        source = Path(place) / "in"
        source.mkdir()
        for suffix in SUFFIXES:
            plant(source / f"face{suffix}", rng)
        before = scan(source)
        for name, tags in sorted(before.items()):
            planted = sorted(k for k in tags if k not in STRUCTURE)
            print(f"{name}: {len(planted)} tags planted, among them {[k for k in planted if 'GPS' in k][:2]}")
        blur = GaussianBlur(sigma=2.0)
        runs = {
            "tree": ProtectOptions(),
            "png": ProtectOptions(image_format="png"),
            "webp": ProtectOptions(image_format="webp"),
            "shards": ProtectOptions(layout="webdataset"),
        }
        for name, options in runs.items():
            out = Path(place) / name
            protect_folder(source, out, blur, options)
            for shard in out.glob("*.tar"):
                with tarfile.open(shard) as tar:
                    tar.extractall(out / "unpacked", filter="data")
                shard.unlink()
            after = scan(out)
            for file, tags in sorted(after.items()):
                if file.endswith(".parquet"):
                    continue
                extra = sorted(set(tags) - STRUCTURE)
                data = (out / file).read_bytes()
                with Image.open(io.BytesIO(data)) as image:
                    kept = sorted(image.info.keys() & {"exif", "xmp", "icc_profile", "comment", "photoshop"})
                hidden = MARKER.encode() in data
                bad += bool(extra or hidden or kept)
                print(
                    f"{name}/{file}: {len(extra)} tags beyond structure {extra[:5]}, marker {'found' if hidden else 'absent'}"
                )
    print(f"{bad} outputs tell something" if bad else "no output tells anything but its pixels")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
