from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch

from privface.errors import CheckpointError
from privface.models import CompactResNet, Mlp, load_network, save_network
from privface.models.checkpoint import CARD, WEIGHTS, build


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    save_network(tmp_path / "m", Mlp(inputs=3, hidden=4), kind="mlp", meta={"note": "a"})
    return tmp_path / "m"


def test_round_trip(folder):
    saved = load_network(folder, kind="mlp")
    assert saved.kind == "mlp"
    assert saved.meta == {"note": "a"}
    with pytest.raises(CheckpointError, match="holds a 'mlp'; a 'matcher' is needed"):
        load_network(folder, kind="matcher")
    built = build(Mlp, saved, where=folder)
    torch.manual_seed(0)
    for name, tensor in Mlp(inputs=3, hidden=4).state_dict().items():
        assert torch.equal(built.state_dict()[name], tensor)


def test_same_network_gives_same_bytes_in_any_memory_format(tmp_path):
    torch.manual_seed(0)
    made = CompactResNet(width=8, stages=1)
    save_network(tmp_path / "a", made, kind="x")
    save_network(tmp_path / "b", made.to(memory_format=torch.channels_last), kind="x")
    assert (tmp_path / "a" / WEIGHTS).read_bytes() == (tmp_path / "b" / WEIGHTS).read_bytes()


def test_pickle_is_refused_unread(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "exploded",))

    torch.save(Bomb(), tmp_path / "model.pkl")
    with pytest.raises(CheckpointError, match="never loaded"):
        load_network(tmp_path / "model.pkl")
    assert not (tmp_path / "exploded").exists()


def test_truncated_weights_and_a_pickle_under_our_name_are_refused(folder):
    data = (folder / WEIGHTS).read_bytes()
    pickle = io.BytesIO()
    torch.save({"a": torch.zeros(1)}, pickle)
    for bad in (data[:0], data[:4], data[:40], data[:-1], pickle.getvalue()):
        (folder / WEIGHTS).write_bytes(bad)
        with pytest.raises(CheckpointError, match="not a safetensors file"):
            load_network(folder)


@pytest.mark.parametrize("text", ["kind: [", "3", "kind: mlp\n", "kind: mlp\nconfig: 3\n", ""])
def test_damaged_or_missing_card_is_refused(folder, text):
    (folder / CARD).write_text(text)
    with pytest.raises(CheckpointError, match="is damaged"):
        load_network(folder)
    (folder / CARD).unlink()
    with pytest.raises(CheckpointError, match=f"has no {CARD}"):
        load_network(folder)


def test_weights_that_are_not_finite_are_refused(folder):
    made = Mlp(inputs=3, hidden=4)
    with torch.no_grad():
        made.head.bias.fill_(float("nan"))
    save_network(folder, made, kind="mlp")
    with pytest.raises(CheckpointError, match=r"1 weights are not finite, the first is 'head\.bias'"):
        build(Mlp, load_network(folder), where=folder)


def test_stop_between_the_two_files_leaves_no_weights_without_a_card(tmp_path, monkeypatch):
    """Training takes weights as the sign that a classifier is finished, so they must come last."""
    from privface.models import checkpoint

    written: list[str] = []

    def stop_after_one(path: Path, data: bytes) -> None:
        if written:
            raise KeyboardInterrupt
        written.append(path.name)

    monkeypatch.setattr(checkpoint, "write_atomic", stop_after_one)
    with pytest.raises(KeyboardInterrupt):
        save_network(tmp_path, Mlp(inputs=3, hidden=4), kind="mlp")
    assert written == [CARD]
