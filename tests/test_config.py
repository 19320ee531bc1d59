from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from privface.config import load_settings, parse_settings
from privface.errors import ConfigError

LEAST = {"data": {"source": "faces"}, "matchers": ["mini:m"]}


def write(tmp_path: Path, content: object) -> Path:
    path = tmp_path / "config.yaml"
    if not isinstance(content, bytes):
        content = (content if isinstance(content, str) else yaml.safe_dump(content)).encode()
    path.write_bytes(content)
    return path


def test_least_file_gives_defaults_and_survives_a_round_trip(tmp_path):
    settings = load_settings(write(tmp_path, LEAST))
    assert settings.loop.epochs == 10
    assert settings.matchers == ("mini:m",)
    again = load_settings(write(tmp_path, settings.model_dump(mode="json")))
    assert again == settings
    assert again.fingerprint() == settings.fingerprint()
    with pytest.raises(ValueError, match="frozen"):
        settings.seed = 3  # type: ignore[misc]


def test_fingerprint_changes_with_every_value_and_not_with_key_order():
    a = parse_settings({**LEAST, "seed": 1, "size": 64})
    b = parse_settings({"size": 64, "seed": 1, **LEAST})
    assert a.fingerprint() == b.fingerprint()
    changed = [
        {"seed": 1},
        {"start": "run"},
        {"losses": {"matching_views": True}},
        {"classifiers": [{"separable": True}]},
        {"adversaries": [{"separable": True}]},
    ]
    assert len({parse_settings({**LEAST, **c}).fingerprint() for c in [{}, *changed]}) == 6


def test_overrides_reach_sections_and_lists_and_exponents_need_no_point(tmp_path):
    text = (
        "data: {source: f}\nmatchers: [mini:m]\nloop: {clip: 1e-3}\nclassifiers: [{size: 32}, {size: 48}]\n"
    )
    settings = load_settings(
        write(tmp_path, text),
        ["loop.epochs=3", "classifiers.1.size=64", "loop.learning_rate=1e-4", "matchers=[onnx:a.onnx]"],
    )
    assert (settings.loop.epochs, settings.loop.learning_rate, settings.loop.clip) == (3, 1e-4, 1e-3)
    assert [c.size for c in settings.classifiers] == [32, 64]
    assert settings.matchers == ("onnx:a.onnx",)


def test_variables_are_expanded_everywhere(tmp_path, monkeypatch):
    monkeypatch.setenv("FACES_HERE", "somewhere")
    content = {"data": {"source": "${FACES_HERE}/lfw"}, "matchers": ["onnx:${FACES_HERE}/m.onnx"]}
    settings = load_settings(write(tmp_path, content))
    assert settings.data.source == "somewhere/lfw"
    assert settings.matchers == ("onnx:somewhere/m.onnx",)
    monkeypatch.setenv("OUTER", "${FACES_HERE}")
    once = load_settings(write(tmp_path, content), ["data.source=${OUTER}"])
    assert once.data.source == "${FACES_HERE}", "what a variable holds is not looked into"


@pytest.mark.parametrize(
    ("override", "fragment"),
    [
        ("seed.deep=3", "--set 'seed.deep=3': 'seed' holds no further settings"),
        ("classifiers.7.size=3", "'7' holds no further settings"),
        ("classifiers.x=3", "no position of a list of 1"),
        ("loop.epochs=[", "not readable YAML"),
        ("loop.learning_rate=.inf", "finite number"),
        ("size=50", "size 50 is not divisible by 8"),
        ("losses={reconstruction: 0, matching: 0, frozen: 0, adversary: 0}", "all loss weights are 0"),
        ("losses={l1: 0, ssim: 0, tone: 0}", "l1, l2, ssim and tone are all 0"),
    ],
)
def test_faulty_override_is_named(tmp_path, override, fragment):
    path = write(tmp_path, {**LEAST, "seed": 1, "classifiers": [{"size": 32}]})
    with pytest.raises(ConfigError) as caught:
        load_settings(path, [override])
    assert fragment in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("content", "fragment"),
    [
        ("data: {source: a, labels: b, source: c}\nmatchers: [mini:m]", "source is given twice"),
        ("seed: 1\nmatchers: [mini:m]\nseed: 2", "seed is given twice"),
        ("- 1\n- 2\n", "holds no settings"),
        (b"\xff\xfe\x00", "is not readable YAML"),
    ],
)
def test_faulty_file_is_named(tmp_path, content, fragment):
    with pytest.raises(ConfigError, match=fragment):
        load_settings(write(tmp_path, content))


def test_every_fault_is_named_at_once():
    with pytest.raises(ConfigError) as caught:
        parse_settings({**LEAST, "loop": {"epochs": 0, "clip": 0}, "colour": 1})
    assert all(key in str(caught.value) for key in ("loop.epochs", "loop.clip", "colour"))


def test_rules_between_settings():
    network = {"depth": 3, "stem": "full"}
    assert parse_settings({**LEAST, "size": 36, "autoencoder": network}).size == 36
    with pytest.raises(ConfigError, match="not divisible by 8"):
        parse_settings({**LEAST, "size": 36, "autoencoder": {**network, "stem": "unshuffle"}})


def test_options_of_no_variant_are_refused():
    with pytest.raises(ConfigError, match="are those of a variant"):
        parse_settings({**LEAST, "autoencoder": {"options": {"code": 512}}})
