"""The picture of the front page: a public-domain portrait (NASA, ships with scikit-image) and what `protect` writes for it.

python experiments/06_erased_code/picture.py docs/figures/portrait.png [--model RUN]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt
from skimage import data

from privface.faces import MTCNNDetector, align_face, choose_face
from privface.images import to_pixels, to_unit
from privface.models import Protector


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", default="bundled:erased")
    arguments = parser.parse_args()
    mpl.use("Agg")
    photo = np.asarray(data.astronaut())
    face = choose_face(MTCNNDetector().detect([photo])[0], photo.shape)
    if face is None:
        raise SystemExit("No face was found.")
    protector = Protector.load(arguments.model)
    crop = align_face(photo, face.landmarks, size=protector.size)
    protected = to_pixels(protector(to_unit(crop[None])))[0]
    figure, axes = plt.subplots(1, 3, figsize=(8.4, 3.1), width_ratios=(1, 1, 1))
    titles = ("a photo", "its face, as matchers see it", "what privface writes")
    for ax, image, title in zip(axes, (photo[:300, 60:360], crop, protected), titles, strict=True):
        ax.imshow(image, interpolation="lanczos")
        ax.set_title(title, fontsize=11)
        ax.axis("off")
    figure.tight_layout()
    figure.savefig(arguments.out, dpi=110)


if __name__ == "__main__":
    main()
