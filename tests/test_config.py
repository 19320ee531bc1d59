from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from privface.config import TrainSettings, load_settings, parse_settings
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


def test_fingerprint_changes_with_a_value_and_not_with_key_order():
    a = parse_settings({**LEAST, "seed": 1, "size": 64})
    b = parse_settings({"size": 64, "seed": 1, **LEAST})
    assert a.fingerprint() == b.fingerprint()
    assert parse_settings({**LEAST, "seed": 2, "size": 64}).fingerprint() != a.fingerprint()


def test_every_choice_changes_the_fingerprint():
    changed = [
        {"start": "run"},
        {"losses": {"matching_views": True}},
        {"classifiers": [{"separable": True}]},
        {"adversaries": [{"separable": True}]},
    ]
    assert len({parse_settings({**LEAST, **c}).fingerprint() for c in [{}, *changed]}) == 5


def test_settings_are_frozen():
    with pytest.raises(ValueError, match="frozen"):
        parse_settings(LEAST).seed = 3  # type: ignore[misc]


def test_overrides_reach_sections_lists_and_exponents(tmp_path):
    content = {**LEAST, "classifiers": [{"size": 32}, {"size": 48}]}
    settings = load_settings(
        write(tmp_path, content),
        [
            "loop.epochs=3",
            "classifiers.1.size=64",
            "loop.learning_rate=1e-4",
            "matchers=[onnx:a.onnx]",
            "data.split=train",
        ],
    )
    assert (settings.loop.epochs, settings.loop.learning_rate) == (3, 1e-4)
    assert [c.size for c in settings.classifiers] == [32, 64]
    assert settings.matchers == ("onnx:a.onnx",)
    assert settings.data.split == "train"


def test_exponent_without_a_point_is_a_number_in_the_file_too(tmp_path):
    path = write(tmp_path, "data: {source: f}\nmatchers: [mini:m]\nloop: {learning_rate: 1e-3}\n")
    assert load_settings(path).loop.learning_rate == 0.001


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
        ("=3", "no key=value form"),
        ("seed.deep=3", "--set 'seed.deep=3': 'seed' holds no further settings"),
        ("classifiers.7.size=3", "'7' holds no further settings"),
        ("classifiers.x=3", "no position of a list of 1"),
        ("loop.epochs=[", "not readable YAML"),
        ("loop.epochs=0", "loop.epochs: Input should be greater than or equal to 1 (got '0')"),
        ("loop.learning_rate=.inf", "finite number"),
        ("losses.objective=confuse", "'flip', 'uninformative' or 'align'"),
        ("size=50", "size 50 is not divisible by 8"),
        ("validation_share=0.5", "less than 0.5"),
        ("matchers=[]", "at least 1 item"),
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
        ("", "holds no settings"),
        (b"\xff\xfe\x00", "is not readable YAML"),
        ("data: {source: 3}\nmatchers: [mini:m]\n", "data.source: Input should be a valid string (got '3')"),
    ],
)
def test_faulty_file_is_named(tmp_path, content, fragment):
    with pytest.raises(ConfigError) as caught:
        load_settings(write(tmp_path, content))
    assert fragment in str(caught.value)


def test_every_fault_is_named_at_once():
    with pytest.raises(ConfigError) as caught:
        parse_settings({**LEAST, "loop": {"epochs": 0, "clip": 0}, "colour": 1})
    assert all(key in str(caught.value) for key in ("loop.epochs", "loop.clip", "colour"))


def test_size_rule_follows_the_stem():
    network = {"depth": 3, "stem": "full"}
    assert parse_settings({**LEAST, "size": 36, "autoencoder": network}).size == 36
    with pytest.raises(ConfigError, match="not divisible by 8"):
        parse_settings({**LEAST, "size": 36, "autoencoder": {**network, "stem": "unshuffle"}})


def test_only_our_own_method_starts_from_a_network():
    with pytest.raises(ConfigError, match="start is for the method san; flow-san makes"):
        parse_settings({**LEAST, "method": "flow-san", "start": "run"})


def test_settings_class_documents_itself():
    assert TrainSettings.model_json_schema()["properties"]["size"]["maximum"] == 448
