"""Every method by configuration: it trains, resumes and protects; same seed same bytes, same photo same bytes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from typer.testing import CliRunner

from privface.cli.main import app
from privface.config import ClassifierSettings, parse_settings
from privface.data import read_genders
from privface.errors import CheckpointError, ConfigError, DataError, LabelError, ModelError
from privface.images import decode_image
from privface.models import (
    Autoencoder,
    LabelledProtector,
    Protector,
    San2018Protector,
    save_network,
    variant,
)
from privface.models.erased_code import ErasedCode
from privface.models.export import export_protector
from privface.models.protectors import load_protector
from privface.pipeline import read_provenance, train
from privface.pipeline.methods import METHODS, diverse
from privface.pipeline.methods.diverse import classifier_of
from privface.pipeline.methods.erased_code import turn
from privface.pipeline.methods.watching import _some_people
from privface.protect import ProtectOptions, protect_folder, read_manifest

pytestmark = pytest.mark.usefixtures("one_registry")

CODE = {"code_sizes": [6, 12], "drop": 2, "regions": 2, "bits": 24, "channels": [8, 8, 8, 8, 8]}
CRITIC = {"critic_size": 16, "critic_width": 8, "critic_stages": 1}
TINY: dict[str, dict[str, Any]] = {
    "erased-code": {"loop": {"epochs": 2, "learning_rate": 1e-3}, "method_options": CODE},
    "san": {},
    "san-2018": {
        "validation_share": 0.0,
        "loop": {"epochs": 1, "batch_size": 2, "epoch_images": 2},  # its network works at 224 pixels
        "method_options": {"reconstruction_epochs": 2},
    },
    "ensemble-san": {"loop": {"epochs": 1}, "method_options": {"networks": 2}},
    "flow-san": {"loop": {"epochs": 1}, "method_options": {"networks": 2}},
    "privacynet": {"loop": {"epochs": 1}, "method_options": CRITIC},
}
"""What makes a method's run short, on top of the toy world's settings."""


def settings(world: Any, method: str, **changes: Any) -> Any:
    content = copy.deepcopy(world.settings)
    for key, value in {**TINY[method], **changes}.items():
        content[key] = {**content.get(key, {}), **value} if isinstance(value, dict) else value
    return parse_settings({**content, "method": method})


def model_of(run: Path) -> dict[str, bytes]:
    """Everything that decides what a run folder's protector does, its parts' models among it."""
    kept = {".safetensors", ".yaml"}
    return {str(p.relative_to(run)): p.read_bytes() for p in run.rglob("*") if p.suffix in kept}


@pytest.fixture(scope="module", params=sorted(METHODS))
def method(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def runs(world: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A finished run of each method, made when first asked for; nobody writes into it."""
    root, made = tmp_path_factory.mktemp("methods"), dict[str, Path]()

    def run(name: str) -> Path:
        if name not in made:
            train(settings(world, name), root / name)
            made[name] = root / name
        return made[name]

    return run


def load(run: Path, world: Any, method: str) -> Any:
    genders = read_genders(world.audited / "labels.csv") if METHODS[method].needs_genders else None
    return load_protector(run, genders=genders)


def test_a_run_folder_says_what_it_is(world, runs, method):
    run = runs(method)
    written = yaml.safe_load((run / "config.yaml").read_text())
    assert written.get("method", "san") == method
    found = read_provenance(run)
    assert found.get("method", "san") == method
    assert found["steps"] > 0
    assert bool(found["classifiers"]) == (method != "erased-code"), "its opponents play on the code"
    assert parse_settings(written).fingerprint() == settings(world, method).fingerprint() == found["settings"]


AT_LENGTH = pytest.mark.parametrize(
    "method",
    [pytest.param(name, marks=pytest.mark.long) if name == "san-2018" else name for name in sorted(METHODS)],
)
"""The network of 2018 works at 224 pixels; the loops that it learns in are those of the others."""


@AT_LENGTH
def test_same_seed_same_bytes(world, runs, method, tmp_path):
    train(settings(world, method), tmp_path / "again")
    assert model_of(tmp_path / "again") == model_of(runs(method))
    train(settings(world, method, seed=4), tmp_path / "other")
    other = (tmp_path / "other" / "model.safetensors").read_bytes()
    assert other != (runs(method) / "model.safetensors").read_bytes()


LOOPS = {
    "ensemble-san": ["train 1/2", "train 2/2"],
    "flow-san": ["train 1/2", "train 2/2"],
    "san-2018": ["train 1/2: reconstruction", "train 2/2: all terms"],
}
"""Names of the training loops, in order, where there is not one alone."""


@AT_LENGTH
def test_resumed_equals_unbroken_wherever_it_was_stopped(world, runs, method, tmp_path):
    """One run, stopped once in each of its loops and at the end of the first, until nothing stops it."""
    loops = LOOPS.get(method, ["train"])
    stops = [(loops[0], 2), *((loop, 1) for loop in loops[1:])]
    chosen = settings(world, method, loop={**TINY[method].get("loop", {}), "checkpoint_minutes": 1e-9})
    seen: list[tuple[str, int]] = []

    def stop(stage: str, done: int, _total: int) -> None:
        seen.append((stage, done))
        if stops and (stage, done) == stops[0]:
            stops.pop(0)
            raise KeyboardInterrupt

    for attempt in range(len(loops)):
        with pytest.raises(KeyboardInterrupt):
            train(chosen, tmp_path / "r", resume=attempt > 0, progress=stop)
        assert not (tmp_path / "r" / "model.safetensors").exists()
    train(chosen, tmp_path / "r", resume=True, progress=stop)
    assert seen.count((loops[0], 1)) == 1, "it must go on, not begin again"
    resumed, unbroken = model_of(tmp_path / "r"), model_of(runs(method))
    weights = [name for name in unbroken if name.endswith(".safetensors")]
    assert {name: resumed[name] for name in weights} == {name: unbroken[name] for name in weights}


def test_protects_a_folder_and_a_rerun_changes_nothing(world, runs, method, tmp_path):
    protector = load(runs(method), world, method)
    source = subset(world, tmp_path / "in", 5)
    summary = protect_folder(source, tmp_path / "out", protector, ProtectOptions(batch_size=4))
    assert summary.counts["ok"] == 5
    assert protect_folder(source, tmp_path / "out", protector, ProtectOptions(batch_size=4)).reused == 5
    protect_folder(subset(world, tmp_path / "alone", 1), tmp_path / "out-alone", protector)
    (alone,) = (tmp_path / "out-alone").rglob("*.png")
    in_company = tmp_path / "out" / alone.relative_to(tmp_path / "out-alone")
    np.testing.assert_array_equal(decode_image(alone), decode_image(in_company))


def subset(world: Any, to: Path, count: int) -> Path:
    """A folder with the first of the audited people's photos."""
    for path in sorted(world.audited.rglob("*.png"))[:count]:
        place = to / path.relative_to(world.audited)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(path.read_bytes())
    return to


def test_an_image_gives_the_same_bytes_at_every_place_of_a_batch(world, runs, method, make_images):
    images = make_images(6, size=32)
    protector: Any = load(runs(method), world, method)
    if isinstance(protector, LabelledProtector):
        keys = sorted(read_genders(world.audited / "labels.csv"))[:6]
        once, again = protector(images, keys), protector(images[::-1], keys[::-1])
    else:
        once, again = protector(images), protector(images[::-1])
    np.testing.assert_array_equal(once, again[::-1])
    assert once.dtype == np.float32
    assert once.shape == images.shape
    assert float(np.abs(once - images).max()) > 1 / 255


def test_unknown_methods_and_options_are_refused_before_anything_is_written(world, tmp_path):
    with pytest.raises(ConfigError, match="no method 'sam'") as caught:
        train(parse_settings({**world.settings, "method": "sam"}), tmp_path / "r")
    assert all(name in str(caught.value.hint) for name in METHODS)
    with pytest.raises(ConfigError, match=r"method_options of san: target: there is no such setting"):
        train(settings(world, "san", method_options={"target": "same"}), tmp_path / "r")
    assert not (tmp_path / "r").exists()


def asked(**options: Any) -> dict[str, Any]:
    return {"method_options": options}


@pytest.mark.parametrize(
    ("method", "changes", "error", "words"),
    [
        ("flow-san", {"start": "anywhere"}, ConfigError, "flow-san makes its networks itself"),
        ("erased-code", asked(**CODE | {"code_sizes": [0]}), ConfigError, "greater than or equal to 2"),
        ("erased-code", asked(**CODE | {"code_sizes": [4096]}), ConfigError, "embeddings of"),
        ("erased-code", asked(**CODE, encoders=["mini:none"]), CheckpointError, "has no model.safetensors"),
        ("erased-code", asked(**CODE, more_data=[{"source": "folder:nowhere"}]), DataError, "nowhere"),
        (
            "erased-code",
            {"losses": {"matching_share": 0.5}},
            ConfigError,
            r"share is 0\.5 .* shows each face",
        ),
        ("san-2018", {"losses": {"reconstruction": 0.0}}, ConfigError, "reconstruction 0"),
        ("san-2018", {"losses": {"frozen": 0.0}}, ConfigError, "frozen 0"),
        ("san-2018", {"losses": {"matching": 0.0}}, ConfigError, "matching 0"),
        ("ensemble-san", {"losses": {"frozen": 0.0}}, ConfigError, "losses.frozen is 0"),
        ("flow-san", asked(networks=1), ConfigError, "networks"),
        ("privacynet", asked(**CRITIC, attributes=["gender", "hat"]), LabelError, "no column 'hat'"),
    ],
)
def test_what_a_method_cannot_work_with_is_refused(world, tmp_path, method, changes, error, words):
    with pytest.raises(error, match=words):
        train(settings(world, method, **changes), tmp_path / "r")
    left = tmp_path / "r"
    assert not left.exists() or list(left.iterdir()) == [], "the corrected settings may have the folder"


def test_a_batch_has_a_face_for_each_matcher(world, tmp_path):
    few = {"loop": {"batch_size": 2}, "matchers": [f"mini:{world.matcher}"] * 3}
    with pytest.raises(ConfigError, match="batch_size is 2 and there are 3 matchers"):
        train(settings(world, "erased-code", **few), tmp_path / "r")


def test_validation_looks_at_some_people_and_all_their_photos():
    people = np.repeat([f"p{k}" for k in range(600)], 3)
    rows = _some_people(people)
    assert 790 < len(rows) <= 800
    assert len(np.unique(people[rows])) * 3 == len(rows)
    assert np.diff(rows).max() > 3, "not the first ones"
    np.testing.assert_array_equal(_some_people(people[:800]), np.arange(800))


# --- erased-code ------------------------------------------------------------------------------------------


def test_a_face_is_drawn_from_the_erased_code_and_from_nothing_else(runs, make_images):
    protector = Protector.load(runs("erased-code"))
    network = protector.network
    assert isinstance(network, ErasedCode)
    images = make_images(4, size=32)
    erased = torch.from_numpy(protector.codes(images)[1])
    with torch.inference_mode():
        np.testing.assert_allclose(network.draw(erased).numpy(), protector(images), atol=1e-5)
    # other photos with the same erased code give the same faces
    network.encoders = torch.nn.ModuleList([_Fixed(network.encoders[0], torch.from_numpy(images))])
    np.testing.assert_array_equal(protector(images), protector(1 - images))


class _Fixed(torch.nn.Module):
    def __init__(self, encoder: Any, images: torch.Tensor) -> None:
        super().__init__()
        with torch.inference_mode():
            self.outputs, self.given = encoder.outputs, encoder(images)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.given[: len(images)]


def test_an_aim_keeps_the_angles_of_codes_and_lies_by_the_embeddings():
    rng = np.random.default_rng(0)
    codes = rng.normal(size=(500, 6)).astype(np.float32)
    codes /= np.linalg.norm(codes, axis=1, keepdims=True)
    hidden = np.linalg.qr(rng.normal(size=(20, 6)))[0].T
    embeddings = (codes @ hidden + rng.normal(size=(500, 20))).astype(np.float32)
    aims = codes @ turn(codes, embeddings)
    np.testing.assert_allclose(aims @ aims.T, codes @ codes.T, atol=1e-5)
    assert (aims * (codes @ hidden)).sum(1).mean() > 0.9


def test_its_run_folder_needs_no_other_file_and_its_widths_are_a_dial(world, runs, tmp_path, make_images):
    run = tmp_path / "moved"
    run.mkdir()
    for name in ("model.safetensors", "model.yaml"):
        (run / name).write_bytes((runs("erased-code") / name).read_bytes())
    images = make_images(3, size=32)
    wide, narrow = Protector.load(run), Protector.load(run, code_size=6)
    assert wide.fingerprint != narrow.fingerprint
    assert narrow.codes(images)[0].shape == (3, 6 + 2)
    assert narrow.codes(images)[1].shape == (3, 6)
    np.testing.assert_allclose(np.linalg.norm(wide.codes(images)[1], axis=1), 1, atol=1e-5)
    assert not np.array_equal(wide(images), narrow(images))
    with pytest.raises(ConfigError, match="codes of 6, 12 values"):
        Protector.load(run, code_size=7)
    with pytest.raises(ConfigError, match=r"strength=0.5: the network erased-code has one strength"):
        Protector.load(run, strength=0.5)
    with pytest.raises(ConfigError, match=r"code_size=6: .* no such choice"):
        Protector.load(world.run, code_size=6)
    with pytest.raises(ConfigError, match="has no code"):
        Protector.load(world.run).codes(images)


def test_it_is_one_onnx_file_from_photo_to_drawn_face(runs, tmp_path, make_images):
    summary = export_protector(runs("erased-code"), tmp_path / "p.onnx", code_size=6)
    assert summary.difference < 1e-4
    images = make_images(3, size=32)
    exported, narrow = load_protector(tmp_path / "p.onnx"), Protector.load(runs("erased-code"), code_size=6)
    np.testing.assert_allclose(exported(images), narrow(images), atol=1e-4)
    with pytest.raises(ConfigError, match=r"code_size=6: p\.onnx has .* built in"):
        load_protector(tmp_path / "p.onnx", code_size=6)


@pytest.mark.parametrize("beside", [False, True])
def test_an_autoencoder_makes_the_code_alone_or_beside_matchers(world, tmp_path, make_images, beside):
    torch.manual_seed(0)
    network = Autoencoder(variant("variational", shape=(3, 16, 16), code=14, width=4, depth=2))
    save_network(tmp_path / "a", network, kind=network.kind)
    encoders = [*(world.settings["matchers"] if beside else []), f"autoencoder:{tmp_path / 'a'}"]
    run, options = tmp_path / "r", {**CODE, "encoders": encoders}
    train(settings(world, "erased-code", loop={"epochs": 1}, method_options=options), run)
    (tmp_path / "a").rename(tmp_path / "gone")  # the run folder needs nothing else
    images = make_images(3, size=32)
    protector = Protector.load(run)
    assert protector.codes(images)[1].shape == (3, 12)
    if beside:  # with both kinds of encoders in one graph
        assert export_protector(run, tmp_path / "p.onnx").difference < 1e-4
        np.testing.assert_allclose(load_protector(tmp_path / "p.onnx")(images), protector(images), atol=1e-4)


def test_an_autoencoder_whose_code_has_collapsed_is_refused(world, tmp_path):
    network = Autoencoder(variant("fully-connected", shape=(3, 16, 16), code=14, hidden=()))
    torch.nn.init.zeros_(network.encoder[1].weight)
    save_network(tmp_path / "a", network, kind=network.kind)
    options = {**CODE, "encoders": [f"autoencoder:{tmp_path / 'a'}"]}
    with pytest.raises(ModelError, match=r"autoencoder:a gives the same embedding for all \d+ faces"):
        train(settings(world, "erased-code", method_options=options), tmp_path / "r")


def more_data(world: Any, labels: Path) -> Any:
    """Settings with the audited people as a further set."""
    more = {"source": f"folder:{world.audited}", "labels": str(labels), "faces": "aligned"}
    return settings(world, "erased-code", method_options={**CODE, "more_data": [more]})


def test_other_sets_are_learnt_from_and_their_people_refused_in_audits(world, tmp_path):
    train(more_data(world, world.audited / "labels.csv"), tmp_path / "r")
    assert len(read_provenance(tmp_path / "r")["people"]) == 24 + 64


def test_another_set_needs_both_genders(world, tmp_path):
    rows = (world.audited / "labels.csv").read_text().splitlines()
    women = [rows[0], *(row for row in rows if "female" in row)]
    (tmp_path / "women.csv").write_text("\n".join(women))
    with pytest.raises(LabelError, match=" 0 male"):
        train(more_data(world, tmp_path / "women.csv"), tmp_path / "r")


def test_a_decoder_begins_as_that_of_a_trained_model(world, tmp_path, make_images):
    options = {**CODE, "bits": 0}  # a sign may fall either way
    first, second = tmp_path / "first", tmp_path / "second"
    train(settings(world, "erased-code", method_options=options), first)
    still = {"epochs": 1, "learning_rate": 1e-12, "ema": 0.0}
    del options["channels"]  # they are those of the other model
    train(settings(world, "erased-code", start=str(first), loop=still, method_options=options), second)
    # the same people and settings make the same code, so it is guessed without a fault
    before, after = (Protector.load(run)(make_images(3, size=32)) for run in (first, second))
    np.testing.assert_allclose(after, before, atol=1e-4)
    assert read_provenance(second)["start"]["steps"] == read_provenance(first)["steps"]


def test_start_of_another_architecture_is_refused(world, runs, tmp_path):
    options = {**CODE, "channels": [8, 8, 8, 8, 16]}
    chosen = settings(world, "erased-code", start=str(runs("erased-code")), method_options=options)
    with pytest.raises(ConfigError, match="cannot begin as one with"):
        train(chosen, tmp_path / "r")
    assert list((tmp_path / "r").iterdir()) == [], "the corrected settings may have the folder"


# --- san-2018: the label ----------------------------------------------------------------------------------


def test_the_san_of_2018_learns_its_two_stages(runs):
    run = runs("san-2018")
    first, second = ((run / name).read_text() for name in ("reconstruction/log.csv", "log.csv"))
    assert ",reconstruction," in first
    assert ",frozen," not in first
    assert ",matching," not in first
    assert all(f",{name}," in second for name in ("reconstruction", "frozen", "matching"))


def test_without_genders_it_is_not_loaded_and_the_error_says_why(world, runs):
    run = runs("san-2018")
    for attempt in (lambda: load_protector(run), lambda: Protector.load(run)):
        with pytest.raises(LabelError, match="prototype of each photo's own gender") as caught:
            attempt()
        assert "--genders" in str(caught.value.hint)
    with pytest.raises(LabelError, match="prototype of each photo's own gender"):
        San2018Protector.load(run)(np.zeros((1, 3, 32, 32), np.float32))
    with pytest.raises(ConfigError, match="has one strength"):
        load_protector(run, genders={}, strength=0.5)
    with pytest.raises(ConfigError, match="asks for no gender"):
        load_protector(world.run, genders={})


def test_a_photo_without_a_label_gets_a_row_and_no_output(world, runs, tmp_path):
    source = subset(world, tmp_path / "in", 3)
    genders = read_genders(world.audited / "labels.csv")
    lost = sorted(p.relative_to(source).as_posix() for p in source.rglob("*.png"))[1]
    del genders[lost]
    protector = load_protector(runs("san-2018"), genders=genders)
    counts = protect_folder(source, tmp_path / "out", protector).counts
    assert {status: count for status, count in counts.items() if count} == {"ok": 2, "failed": 1}
    rows = {row.input: row for row in read_manifest(tmp_path / "out")}
    assert "no gender label for this photo" in str(rows[lost].reason)
    assert not (tmp_path / "out" / lost).exists()


def test_the_label_decides_and_a_corrected_table_is_another_model(world, runs, tmp_path):
    run = runs("san-2018")
    genders = read_genders(world.audited / "labels.csv")
    turned = {key: "male" if gender == "female" else "female" for key, gender in genders.items()}
    a, b = (load_protector(run, genders=table) for table in (genders, turned))
    assert a.fingerprint != b.fingerprint
    key, image = next(iter(genders)), np.full((1, 3, 32, 32), 0.5, np.float32)
    assert not np.array_equal(a(image, [key]), b(image, [key]))
    with pytest.raises(LabelError, match="1 of 2 photos have no gender label, the first is 'nobody'"):
        a(np.repeat(image, 2, 0), [key, "nobody"])
    with pytest.raises(LabelError, match="images without keys"):
        a(image)


def test_the_command_line_takes_the_table(world, runs, tmp_path):
    source, run = subset(world, tmp_path / "in", 2), str(runs("san-2018"))
    command = ["protect", str(source), str(tmp_path / "out"), "--model", run]
    without = CliRunner().invoke(app, command)
    assert isinstance(without.exception, LabelError)
    assert not (tmp_path / "out").exists()
    done = CliRunner().invoke(app, [*command, "--genders", str(world.audited / "labels.csv")])
    assert done.exit_code == 0, done.output
    assert len(list((tmp_path / "out").rglob("*.png"))) == 2


# --- ensemble-san and flow-san ----------------------------------------------------------------------------


def test_every_network_faces_a_classifier_of_its_own():
    entries = (ClassifierSettings(width=24), ClassifierSettings(size=48, width=16, crop="box"))
    found = [classifier_of(entries, k) for k in range(5)]
    assert [(c.size, c.crop, c.width) for c in found] == [
        (80, "frame", 24), (48, "box", 16), (80, "box", 36), (48, "frame", 24), (80, "frame", 54),
    ]  # fmt: skip
    given = ClassifierSettings(spec="onnx:a.onnx")
    assert classifier_of([given], 3) == given
    with pytest.raises(ConfigError, match="no classifier"):
        classifier_of([], 0)


@pytest.mark.parametrize("name", ["ensemble-san", "flow-san"])
def test_classifiers_and_networks_differ(runs, name):
    run = runs(name)
    cards = [yaml.safe_load((run / "classifiers" / k / "model.yaml").read_text()) for k in "01"]
    assert cards[0]["config"]["width"] != cards[1]["config"]["width"]
    assert cards[0]["meta"]["crop"] != cards[1]["meta"]["crop"]
    members = Protector.load(run).network.members
    assert not torch.equal(members[0].head.weight, members[1].head.weight)


def test_resampling_changes_what_a_classifier_learns_from(world, runs, tmp_path):
    plain = settings(world, "flow-san", method_options={"networks": 2, "resample": False})
    train(plain, tmp_path / "r")
    weights = "classifiers/0/model.safetensors"
    assert (tmp_path / "r" / weights).read_bytes() == (world.run / weights).read_bytes(), "as san's own"
    assert (tmp_path / "r" / weights).read_bytes() != (runs("flow-san") / weights).read_bytes()


def test_the_ensemble_is_made_of_its_members(runs, make_images):
    run, images = runs("ensemble-san"), make_images(8, size=32)
    outputs = [Protector.load(run / "members" / k)(images) for k in "01"]
    chosen = Protector.load(run)(images)
    of = [[np.allclose(chosen[i], out[i], atol=1e-6) for out in outputs] for i in range(8)]
    assert all(sum(one) == 1 for one in of)
    assert len({one.index(True) for one in of}) == 2, "both members get a say"


def test_an_undecided_ensemble_carries_its_classifiers(world, tmp_path, make_images):
    undecided = {"networks": 2, "rule": "undecided"}
    train(settings(world, "ensemble-san", method_options=undecided), tmp_path / "r")
    protector = Protector.load(tmp_path / "r")
    assert len(protector.network.readers) == 2
    assert protector(make_images(2, size=32)).shape == (2, 3, 32, 32)


def test_a_classifier_that_an_undecided_ensemble_cannot_keep_is_refused_before_anything_is_embedded(
    world, tmp_path, monkeypatch
):
    code = "from torch import nn\nmake = lambda: nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 1))\n"
    (tmp_path / "classifier_of_a_user.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(diverse, "embed_originals", None)
    options = {"method_options": {"networks": 2, "rule": "undecided"}}
    given = {"classifiers": [{"spec": "module:classifier_of_a_user.make"}] * 2}
    with pytest.raises(ConfigError, match="rule 'undecided' needs"):
        train(settings(world, "ensemble-san", **options, **given), tmp_path / "r")


def test_a_stage_learns_no_more_once_there_is_another_behind_it(runs):
    run = runs("flow-san")
    first, whole = (Protector.load(folder).network.members for folder in (run / "stages" / "0", run))
    assert (len(first), len(whole)) == (1, 2)
    assert torch.equal(first[0].head.weight, whole[0].head.weight)


# --- privacynet -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two_attributes(world: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that can hide gender and an attribute that half of the people have; some photos have no label for it."""
    root = tmp_path_factory.mktemp("attributes")
    header, *lines = (world.learners / "labels.csv").read_text().splitlines()
    marks = ["", *(["yes", "no"][k // 3 % 2] for k in range(1, len(lines)))]
    rows = [f"{line},{mark}" for line, mark in zip(lines, marks, strict=True)]
    (root / "labels.csv").write_text("\n".join([f"{header},glasses", *rows]))
    options = {**CRITIC, "attributes": ["gender", "glasses"]}
    data = {"source": f"table:{world.learners}", "labels": str(root / "labels.csv"), "faces": "aligned"}
    train(settings(world, "privacynet", data=data, method_options=options), root / "run")
    return root / "run"


def test_what_is_hidden_is_chosen_at_protection_time(world, two_attributes, make_images):
    images = make_images(3, size=32)
    choices = (("gender",), ("glasses",), ("gender", "glasses"))
    gender, *others = (load_protector(two_attributes, hide=hide) for hide in choices)
    assert load_protector(two_attributes).fingerprint == gender.fingerprint
    assert len({p.fingerprint for p in (gender, *others)}) == 3
    for other in others:
        assert not np.array_equal(gender(images), other(images))
    assert len(list((two_attributes / "classifiers").iterdir())) == 2
    with pytest.raises(ConfigError, match="hide age: this model hides gender, glasses"):
        load_protector(two_attributes, hide=["age"])
    with pytest.raises(ConfigError, match=r"hide=.*gender.* no such choice"):
        load_protector(world.run, hide=["gender"])
