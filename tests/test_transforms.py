"""The torchvision transform: every kind of image comes back protected and of its kind, and no original ever does."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms import v2

from privface.data import generate_faces
from privface.errors import ConfigError, ImageError, InputRangeError, ModelError, ProtectError
from privface.faces import as_aligned
from privface.images import encode_image, to_pixels, to_unit
from privface.models import Protector, save_network
from privface.models.export import export_protector
from privface.models.onnx_models import OnnxProtector
from privface.protect import GaussianBlur, Pixelate
from privface.transforms import Protect
from tests.models.conftest import san
from tests.protect.conftest import Answering

SIZE = 48


@pytest.fixture(scope="module")
def faces() -> np.ndarray:
    """Four faces, uint8 (4, 112, 112, 3)."""
    return generate_faces(people=4, photos_per_person=1, seed=2).pixels


@pytest.fixture(scope="module")
def expected(faces: np.ndarray) -> np.ndarray:
    """What the blur alone makes of them, uint8 (4, 48, 48, 3)."""
    aligned = np.stack([as_aligned(face, size=SIZE) for face in faces])
    return to_pixels(blur()(to_unit(aligned)))


def blur() -> GaussianBlur:
    return GaussianBlur(2.0, size=SIZE)


def tensor(faces: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.moveaxis(faces, -1, -3).copy())


def channels_last(images: torch.Tensor) -> np.ndarray:
    return np.moveaxis(images.numpy(), -3, -1)


def test_pil_comes_back_as_pil_upright_in_rgb_at_the_protectors_size(tmp_path, faces, expected):
    given = Image.fromarray(faces[0])
    given.info["comment"] = "a secret"
    protected = Protect(blur())(given)
    assert type(protected) is Image.Image
    assert (protected.mode, protected.size, protected.info) == ("RGB", (SIZE, SIZE), {})
    np.testing.assert_array_equal(np.asarray(protected), expected[0])
    np.testing.assert_array_equal(np.asarray(given), faces[0])
    exif = Image.Exif()
    exif[0x0112] = 3  # lies upside down
    Image.fromarray(faces[0][::-1, ::-1]).save(tmp_path / "f.png", exif=exif)
    with Image.open(tmp_path / "f.png") as turned:
        np.testing.assert_array_equal(np.asarray(Protect(blur())(turned)), expected[0])
    grey = Protect(blur())(Image.fromarray(faces[0]).convert("L"))
    assert grey.mode == "RGB"
    assert np.ptp(np.asarray(grey), axis=-1).max() == 0


@pytest.mark.parametrize("wrap", [torch.Tensor.clone, tv_tensors.Image], ids=["tensor", "tv_tensor"])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.float32, torch.float64])
def test_tensors_keep_kind_type_and_number_of_axes(faces, expected, wrap, dtype):
    batch = v2.functional.to_dtype(tensor(faces), dtype, scale=True)
    before = batch.clone()
    several = Protect(blur())(wrap(batch))
    one = Protect(blur())(wrap(batch[1]))
    assert type(several) is type(one) is type(wrap(batch))
    assert several.dtype == one.dtype == dtype
    assert several.shape == (4, 3, SIZE, SIZE)
    assert one.shape == (3, SIZE, SIZE)
    assert several.is_contiguous()
    plain = several.as_subclass(torch.Tensor)
    seen = plain if dtype == torch.uint8 else torch.round(plain.double() * 255)
    slack = 1 if dtype == torch.float16 else 0  # its step near 1 is an eighth of an 8-bit step
    assert np.abs(channels_last(seen).astype(int) - expected.astype(int)).max() <= slack
    torch.testing.assert_close(one.as_subclass(torch.Tensor), plain[1])
    assert torch.equal(batch, before)


def test_floats_stay_in_range_and_pass_no_gradient(faces: np.ndarray) -> None:
    over = Answering(lambda images: np.where(images > 0.5, np.float32(1 + 5e-5), np.float32(-5e-5)), SIZE)
    given = (tensor(faces) / 255).requires_grad_()
    protected = Protect(over)(given)
    assert protected.unique().tolist() == [0.0, 1.0]
    assert not protected.requires_grad


def test_a_trained_model_and_its_export_are_taken(tmp_path: Path, faces: np.ndarray, one_registry: None):
    save_network(tmp_path, san(), kind="semi-adversarial-autoencoder", meta={"size": SIZE})
    export_protector(tmp_path, tmp_path / "m.onnx")
    ours = Protect(Protector.load(tmp_path))(tensor(faces))
    theirs = Protect(OnnxProtector.load(tmp_path / "m.onnx"))(tensor(faces))
    assert (ours.int() - theirs.int()).abs().max() <= 1
    with pytest.raises(ProtectError, match=r"Face 1 of 4 .* returned the original"):
        Protect(Protector.load(tmp_path, strength=0.0))(tensor(faces))


def test_samples_keep_their_form_and_what_is_no_image(faces: np.ndarray, expected: np.ndarray) -> None:
    compose = v2.Compose([Protect(blur()), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
    left, right = (Image.fromarray(face) for face in faces[:2])
    out = compose({"left": left, "right": right, "who": "p1", "age": 3})
    for key, place in (("left", 0), ("right", 1)):
        np.testing.assert_allclose(channels_last(out[key]) * 255, expected[place], atol=1e-3)
    assert (out["who"], out["age"]) == ("p1", 3)
    image, label, row = Protect(blur())(tensor(faces), torch.tensor([0, 1, 0, 1]), np.zeros(5))
    assert image.shape == (4, 3, SIZE, SIZE)
    assert label.tolist() == [0, 1, 0, 1]
    assert row.shape == (5,)
    transform = Protect(blur())
    assert repr(transform) == "Protect(GaussianBlur, size=48)"
    assert torch.equal(copy.deepcopy(transform)(tensor(faces)), transform(tensor(faces)))


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (torch.zeros(112, 112, 3, dtype=torch.uint8), r"\(112, 112, 3\) is no face; expected \(3, H, W\)"),
        (torch.zeros(1, 112, 112), r"\(1, 112, 112\) is no face"),
        (torch.zeros(112, 112), r"\(112, 112\) is no face"),
        (torch.zeros(2, 2, 3, 8, 8), r"\(2, 2, 3, 8, 8\) is no face"),
        (torch.zeros(0, 3, 8, 8), r"\(0, 3, 8, 8\) is no face"),
        (torch.full((3, 8, 8), torch.nan), r"span nan to nan"),
        (torch.zeros(3, 8, 8, dtype=torch.int64), r"have type torch.int64; expected floating point"),
        (np.zeros((8, 8, 3), np.uint8), r"holds no image, but ndarray"),
        ("photo.png", r"holds no image, but str"),
        ([], r"holds no image, but nothing"),
        (tv_tensors.Video(torch.zeros(2, 3, 8, 8)), r"holds a Video"),
    ],
)
def test_what_is_no_face_is_refused(given: object, told: str) -> None:
    with pytest.raises(InputRangeError, match=told) as caught:
        Protect(blur())(given)
    assert caught.value.hint


def test_what_is_not_square_or_damaged_is_refused(tmp_path: Path, faces: np.ndarray) -> None:
    for image in (Image.new("RGB", (100, 60)), torch.zeros(3, 60, 100)):
        with pytest.raises(ImageError, match="the sides differ by 67%"):
            Protect(blur())(image)
    with pytest.raises(ImageError, match=r"mode 'F' cannot be read"):
        Protect(blur())(Image.new("F", (16, 16)))
    (tmp_path / "cut.png").write_bytes(encode_image(faces[0], ".png")[:3000])
    with pytest.raises(ImageError), Image.open(tmp_path / "cut.png") as cut:
        Protect(blur())(cut)


@pytest.mark.parametrize(
    "beside",
    [
        torch.zeros(3, 8, 8),
        np.zeros((8, 8, 3), np.uint8),
        tv_tensors.Mask(torch.zeros(8, 8)),
        tv_tensors.BoundingBoxes(torch.zeros(1, 4), format="XYXY", canvas_size=(8, 8)),
    ],
)
@pytest.mark.parametrize("image", [Image.new("RGB", (8, 8)), torch.zeros(3, 8, 8)], ids=["pil", "tensor"])
def test_nothing_passes_unprotected_beside_the_image(image: object, beside: object) -> None:
    with pytest.raises(InputRangeError, match="holds a "):
        Protect(blur())((image, beside))


@pytest.mark.parametrize(
    ("answer", "error", "told"),
    [
        (lambda images: images, ProtectError, r"Face 1 of 4 .*returned the original"),
        (lambda images: np.full_like(images, np.nan), ProtectError, r"gave NaN or infinity"),
        (lambda images: images[:1], ModelError, r"gave float32 \(1, 3, 48, 48\) for 4 images"),
    ],
)
@pytest.mark.parametrize("scale", [None, 255.0], ids=["uint8", "float"])
def test_no_original_and_no_nonsense_comes_out(faces, answer, error, told, scale):
    images = tensor(faces) if scale is None else tensor(faces) / scale
    with pytest.raises(error, match=told):
        Protect(Answering(answer, SIZE))(images)


def test_one_face_that_fails_fails_its_batch_and_is_named(faces: np.ndarray) -> None:
    plain = faces.copy()
    plain[2] = 128  # a mosaic of one colour is the original
    with pytest.raises(ProtectError, match=r"Face 3 of 4 cannot be protected"):
        Protect(Pixelate(8, size=SIZE))(tensor(plain))


@pytest.mark.parametrize("given", ["runs/mine", Path("runs/mine"), None, np.flip])
def test_what_is_no_protector_is_refused(given: Any) -> None:
    with pytest.raises(ConfigError, match=r"is no protector.*Protector\.load"):
        Protect(given)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_tensors_come_back_to_their_device(faces: np.ndarray) -> None:
    assert Protect(blur())(tensor(faces).cuda()).device.type == "cuda"
