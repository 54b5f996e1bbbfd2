import hashlib

import pytest
import torch

from flops_fit.training.data.batches import load_data
from flops_fit.zoo.stdlib_text import stdlib_text


@pytest.fixture(scope="module")
def text():
    return stdlib_text(context=64, heldout_windows=100)


def as_bytes(windows):
    return windows.text.numpy().tobytes()


def test_targets_are_the_bytes_after_the_inputs(text):
    example = text.train[1234]
    start = 1234 * 64
    raw = as_bytes(text.train)[start : start + 65]
    assert bytes(example["inputs"].tolist()) == raw[:-1]
    assert bytes(example["targets"].tolist()) == raw[1:]


def test_many_windows_at_once_are_the_same_as_one_by_one(text):
    for windows in (text.train, text.heldout):
        indices = torch.tensor([7, 0, 99])
        batch = windows.batch_of(indices)
        for row, index in enumerate(indices.tolist()):
            for key in ("inputs", "targets"):
                assert torch.equal(batch[key][row], windows[index][key])


def test_windows_do_not_overlap_and_cover_the_text(text):
    assert text.unique_units == len(text.train) * 64
    assert len(as_bytes(text.train)) - text.unique_units <= 65
    starts = text.heldout.starts
    assert len(starts) == 100
    gaps = starts.diff()
    assert gaps.min() >= 64
    assert gaps.max() < 2 * gaps.min()  # tables that are trained on too are left out


def test_held_out_text_is_not_trained_on(text):
    trained, heldout = as_bytes(text.train), as_bytes(text.heldout)
    probes = range(0, len(heldout) - 2000, len(heldout) // 50)
    found = sum(heldout[at : at + 400] in trained for at in probes)
    # The library repeats a few passages of its own in other files; whole files it does not.
    assert found <= 5


def test_a_held_out_window_that_is_trained_on_is_left_out(tmp_path):
    # The quickstart's own text has a few: tables that one program wrote, licences, rules of dashes.
    made = stdlib_text(heldout_windows=100_000)
    trained = {bytes(row["inputs"].tolist()) for row in made.train}
    shared = sum(bytes(row["inputs"].tolist()) in trained for row in made.heldout)
    assert shared <= 1e-3 * len(made.heldout)  # the byte after them may differ
    licence = b"# Copyright: nobody. All rights are given up, and nothing is warranted.\n" * 4
    for number in range(40):
        body = hashlib.sha512(b"%d" % number).hexdigest().encode() * 3
        (tmp_path / f"m{number}.py").write_bytes(licence[:256] + body)
    made = stdlib_text(context=32, folder=str(tmp_path))
    assert 0 < len(made.heldout) < len(as_bytes(made.heldout)) // 32
    for row in made.heldout:
        assert b"warranted" not in bytes(row["inputs"].tolist())
    (tmp_path / "same").mkdir()
    for number in range(40):
        (tmp_path / "same" / f"m{number}.py").write_bytes(b"\n" * (64 + number))
    with pytest.raises(ValueError, match="no window of text that is not trained on"):
        stdlib_text(context=16, folder=str(tmp_path / "same"))


def test_the_facts_are_read_and_the_text_is_named_by_its_hash(text):
    facts = load_data(text, seed=0).facts
    assert (facts.unit, facts.units_per_example, facts.loss_unit) == ("byte", 64, "nats per byte")
    assert facts.provenance == stdlib_text(context=32).provenance
    assert len(facts.provenance["sha256"]) == 64
    assert facts.provenance["bytes"] > 8e6


def test_files_are_deduplicated_and_tests_left_out(tmp_path):
    for name in ("a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n", "o", "p"):
        (tmp_path / f"{name}.py").write_bytes(name.encode() * 300)
    (tmp_path / "copy.py").write_bytes(b"a" * 300)
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "secret.py").write_bytes(b"z" * 300)
    sides = {
        name: hashlib.sha256(f"{name}.py".encode()).digest()[0] % 10 == 0
        for name in "abcdefghijklmnop"
    }
    assert any(sides.values())
    made = stdlib_text(context=16, heldout_windows=4, folder=str(tmp_path))
    assert made.provenance["files"] == 16
    trained, heldout = as_bytes(made.train), as_bytes(made.heldout)
    for name, is_heldout in sides.items():
        assert (name.encode() in heldout) == is_heldout
        assert (name.encode() in trained) == (not is_heldout)
    assert b"z" not in trained + heldout


def test_a_folder_with_too_little_text_is_refused(tmp_path):
    (tmp_path / "a.py").write_text("x = 1\n")
    with pytest.raises(ValueError, match="too little"):
        stdlib_text(folder=str(tmp_path))
