"""Autoencoders as encoders: what is read is the code, the folder is all that is needed, what does not fit is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from privface.errors import CheckpointError, ModelError
from privface.models import VARIANTS, Autoencoder, load_matcher, save_network, variant
from privface.models.erased_code import FrozenReader
from privface.models.family import LONGEST
from privface.models.speech import KIND as SPEECH

SMALL = {"shape": (3, 16, 16), "code": 5, "hidden": (7,), "width": 2, "depth": 2}


def saved(folder, name="convolutional", kind=Autoencoder.kind, **changes):
    torch.manual_seed(0)
    network = Autoencoder(variant(name, **{**SMALL, **changes})).eval()
    save_network(folder, network, kind=kind)
    return network


@pytest.mark.parametrize("name", VARIANTS)
def test_the_embedding_is_the_code_of_any_of_the_family(name, tmp_path, make_images):
    network, images = saved(tmp_path / "a", name), make_images(3, size=16)
    with torch.inference_mode():
        wanted = network.encode(torch.from_numpy(images)).flatten(1).numpy()
    matcher = load_matcher(f"autoencoder:{tmp_path / 'a'}")
    np.testing.assert_allclose(matcher.embed(images), wanted, atol=1e-6)
    np.testing.assert_array_equal(matcher.embed(images), matcher.embed(images), err_msg="nothing is drawn")
    assert matcher.name == "autoencoder:a"
    assert matcher.embed(make_images(2, size=32)).shape == (2, wanted.shape[1]), "any size of photo"

    reader = FrozenReader.of(matcher)
    again = FrozenReader(**reader.config)
    again.load_state_dict(reader.state_dict())
    np.testing.assert_allclose(again(torch.from_numpy(images)).numpy(), wanted, atol=1e-5)
    assert not any("decoder" in weight for weight in reader.state_dict()), "what decodes is not kept"


def test_a_grey_one_is_shown_grey_and_the_fingerprint_is_that_of_the_weights(tmp_path, make_images):
    network = saved(tmp_path / "a", shape=(1, 16, 16))
    first = load_matcher(f"autoencoder:{tmp_path / 'a'}")
    assert first.embed(make_images(2, size=16)).shape == (2, 5)
    for change in (0, 1):
        with torch.no_grad():
            network.encoder[0].bias += change  # type: ignore[operator]
        save_network(tmp_path / "b", network, kind=Autoencoder.kind)
        other = load_matcher(f"autoencoder:{tmp_path / 'b'}")
        assert (other.fingerprint == first.fingerprint) == (change == 0)


@pytest.mark.parametrize(
    ("what", "error", "words"),
    [
        ("nowhere", ModelError, "there is no such folder"),
        ("speech", CheckpointError, "'autoencoder' is needed"),
        ("two channels", ModelError, "reads 2 channels"),
        ("a long code", ModelError, f"8192 values .*at most {LONGEST}.*"),
    ],
)
def test_what_does_not_fit_is_refused(what, error, words, tmp_path):
    folder = tmp_path / "a"
    if what == "speech":
        saved(folder, kind=SPEECH)
    elif what == "two channels":
        saved(folder, shape=(2, 16, 16))
    elif what == "a long code":
        saved(folder, "denoising", code=32, shape=(3, 64, 64))
    with pytest.raises(error, match=words):
        load_matcher(f"autoencoder:{folder}")
