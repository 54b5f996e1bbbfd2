"""What went wrong in public reports ends named with its fix, and never in a traceback."""

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from architectures import CONTEXT, VOCAB, Lstm, Text, sequences
from torch import nn
from torch.utils.data import TensorDataset

from flops_fit.errors import ManifestError, PluginError
from flops_fit.experiment.checks.examination import examine
from flops_fit.experiment.describing import describe
from flops_fit.experiment.loading import load_experiment
from flops_fit.manifest.manifest import parse_manifest, read_manifest
from flops_fit.sweep.opening import open_sweep
from flops_fit.sweep.provenance import default_run_dir
from flops_fit.training.data.batches import load_data

REPORTS = Path(__file__).parents[3] / "shared" / "data" / "bugs"
HERE = Path(__file__).parents[1] / "support"


@pytest.fixture
def case(tmp_path, monkeypatch):
    """A copy of one report, as the only place that its plugins are imported from."""

    def copy(number):
        found = sorted(REPORTS.glob(f"{number}-*"))
        if not found:
            pytest.skip("the public reports are not beside this checkout")
        folder = tmp_path / number
        shutil.copytree(found[0], folder)
        names = [path.stem for path in folder.glob("*.py")]
        for name in names:
            monkeypatch.delitem(sys.modules, name, raising=False)
        monkeypatch.syspath_prepend(str(folder))
        return folder

    before = set(sys.modules)
    yield copy
    for name in set(sys.modules) - before:
        if (file := getattr(sys.modules[name], "__file__", None)) and str(tmp_path) in file:
            del sys.modules[name]


def read(folder, word="", name="m.toml"):
    text = (folder / name).read_text(encoding="utf-8")
    for placeholder in ("MODEL", "DATA"):
        text = text.replace(placeholder, word)
    return parse_manifest(text, where=name)


def check(folder, word=""):
    return {each.check: each for each in examine(read(folder, word), search_path=[folder])}


def failed(found):
    return [each for each in found.values() if each.status == "failed"]


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("model", ["CachesOutput", "WeightNorm", "StatefulRnn", "HasLock"])
def test_a_model_that_cannot_be_copied_is_checked(case, model):
    found = check(case("23"), model)
    assert failed(found) == []
    odd = [each.check for each in found.values() if each.status == "warned"]
    assert odd == (["evaluation repeats itself"] if model == "StatefulRnn" else [])


@pytest.mark.parametrize(
    ("model", "says"), [("Lazy", "a lazy layer"), ("NeedsArgument", "needs the argument")]
)
def test_a_count_of_parameters_that_raises_is_named(case, model, says):
    folder = case("24")
    (finding,) = failed(check(folder, model))
    assert says in finding.detail
    assert finding.mend
    with pytest.raises(PluginError, match=says):
        describe(load_experiment(read(folder, model), search_path=[folder]))


def test_sparse_gradients_that_no_optimizer_takes_are_named_before_training(case):
    folder = case("25")
    (finding,) = failed(check(folder))
    assert "sparse" in finding.detail
    assert "sparse=False" in finding.mend
    with pytest.raises(PluginError, match="is sparse, which AdamW"):
        describe(load_experiment(read(folder), search_path=[folder]))


@pytest.mark.parametrize("data", ["with_validation", "with_test"])
def test_the_held_out_set_may_have_its_usual_name(case, data):
    folder = case("27")
    loaded = load_experiment(read(folder, data), search_path=[folder]).data
    assert len(loaded.heldout) == 256
    assert loaded.notes == ()


@pytest.mark.parametrize(
    ("data", "says", "hint"),
    [
        ("three_sets", "a tuple of 3 (`Text`, `Text`, `Text`)", "a third set"),
        ("two_tensors", "a tuple of 2 (`Tensor` of shape (6000, 17)", "TensorDataset"),
    ],
)
def test_what_is_no_pair_of_sets_is_refused_with_what_was_meant(case, data, says, hint):
    folder = case("27")
    with pytest.raises(PluginError) as caught:
        load_experiment(read(folder, data), search_path=[folder])
    assert says in caught.value.message
    assert hint in caught.value.hint


def test_a_loss_below_zero_is_explained_before_the_sweep(case):
    (finding,) = [f for f in check(case("29")).values() if f.status == "warned"]
    assert "below zero" in finding.detail
    assert "offset" in finding.mend


def test_a_negative_loss_is_fitted_with_an_offset(case):
    folder = case("29")
    text = (folder / "m.toml").read_text()
    (folder / "m.toml").write_text(text.replace('density:nll"\n', 'density:nll"\noffset = 10.0\n'))
    assert {f.status for f in check(folder).values()} <= {"passed", "skipped"}


def test_a_summed_loss_is_called_a_sum(case):
    folder = case("30")
    (finding,) = failed(check(folder))
    assert "a sum, not a mean" in finding.detail
    assert "count(targets)" not in finding.mend
    notes = describe(load_experiment(read(folder), search_path=[folder])).notes
    assert [note.code for note in notes] == ["summed_loss"]


def test_a_manifest_may_begin_with_a_byte_order_mark(case):
    folder = case("31")
    text = (folder / "m.toml").read_text()
    (folder / "bom.toml").write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert read_manifest(folder / "bom.toml") == read_manifest(folder / "m.toml")
    (folder / "wide.toml").write_text(text, encoding="utf-16")
    with pytest.raises(ManifestError, match="not text in UTF-8"):
        read_manifest(folder / "wide.toml")


class Rows(Text):
    """Text whose labels are its inputs, as `transformers` wants them."""

    causal = False

    def pairs(self, rows):
        return TensorDataset(rows[:, :-1], rows[:, :-1])


def examined(tmp_path, monkeypatch, plugins, sizes="[16, 32]", loss="architectures:cross_entropy"):
    """The findings for a model and data of this file."""
    monkeypatch.setitem(sys.modules, "plugins_here", SimpleNamespace(**plugins))
    text = (
        f'[model]\nplugin = "plugins_here:model"\nsize_param = "width"\nsizes = {sizes}\n'
        f'[data]\nplugin = "plugins_here:data"\n[loss]\nplugin = "{loss}"\n'
        "[sweep]\nbudgets = [1e9]\n"
    )
    manifest = parse_manifest(text, where="m.toml")
    return manifest, {each.check: each for each in examine(manifest, search_path=[HERE, tmp_path])}


def test_labels_that_are_the_inputs_are_named_unasked(tmp_path, monkeypatch):
    manifest, found = examined(tmp_path, monkeypatch, {"model": Lstm, "data": Rows})
    (finding,) = [f for f in found.values() if f.status == "warned"]
    assert "the targets are the inputs themselves" in finding.detail
    assert '`[loss] plugin = "model"`' in finding.mend
    notes = describe(load_experiment(manifest, search_path=[HERE])).notes
    assert "unshifted_targets" in [note.code for note in notes]


class KeepsGraph(Lstm):
    """Carries its state, and the graph behind it, from batch to batch."""

    def __init__(self, width):
        super().__init__(width)
        self.state = None

    def forward(self, tokens):
        hidden, self.state = self.layers(self.embedding(tokens), self.state)
        return self.head(hidden)


class HasGenerator(Lstm):
    """Keeps a generator and a lock, neither of which can be copied."""

    def __init__(self, width):
        super().__init__(width)
        self.source, self.lock = (n for n in range(3)), threading.RLock()

    def forward(self, tokens):
        with self.lock:
            return super().forward(tokens)


class Leaves(Lstm):
    """Ends the interpreter in its forward pass."""

    def forward(self, tokens):
        sys.exit(4)


class RaisesInCount(Lstm):
    def num_params(self):
        return self.no_such_attribute


class SparseSgd(nn.Module):
    """A sparse table with an optimizer that takes it, and the clipping that does not."""

    def __init__(self, width):
        super().__init__()
        self.table = nn.Embedding(VOCAB, width, sparse=True)
        self.head = nn.Linear(width, VOCAB)

    def forward(self, tokens):
        return self.head(self.table(tokens))

    def configure_optimizers(self, lr):
        return torch.optim.SGD(self.parameters(), lr=lr)


def broken_length():
    class Set(torch.utils.data.Dataset):
        def __len__(self):
            raise RuntimeError("the index is not there")

        def __getitem__(self, index):
            return torch.zeros(3), torch.zeros(3)

    return Set(), Set()


@pytest.mark.parametrize(
    ("plugins", "says"),
    [
        ({"model": KeepsGraph}, "second time"),
        ({"model": HasGenerator}, None),
        ({"model": Leaves}, "SystemExit: 4"),
        ({"model": RaisesInCount}, "no_such_attribute"),
        ({"model": SparseSgd}, "gradient clipping does not take"),
        ({"data": broken_length}, "the index is not there"),
    ],
    ids=["graph", "file", "exit", "count", "sparse", "length"],
)
def test_check_names_whatever_a_plugin_raises(tmp_path, monkeypatch, plugins, says):
    _, found = examined(tmp_path, monkeypatch, {"model": Lstm, "data": Text} | plugins)
    details = [finding.detail for finding in failed(found)]
    if says is None:
        assert details == []
    else:
        assert any(says in detail for detail in details), found
        assert all(finding.mend for finding in failed(found))


@pytest.mark.parametrize("name", ["valid", "val", "dev", "eval", "test", "validation"])
def test_objects_and_mappings_name_their_held_out_set(name):
    train, held = TensorDataset(sequences(9)), TensorDataset(sequences(5))
    for made in ({"train": train, name: held}, SimpleNamespace(**{"train": train, name: held})):
        loaded = load_data(made, seed=0)
        assert loaded.heldout is held
        assert loaded.notes == ()


@pytest.mark.parametrize(
    ("made", "says"),
    [
        ({"train": sequences(4)}, "the data's `train` is a `Tensor` of shape (4, 33)"),
        ({"validation": []}, "without `train`: it has `validation`"),
        ((TensorDataset(sequences(3)),) * 4, "a tuple of 4"),
        (nn.Linear(2, 2), "neither a data set"),
        (SimpleNamespace(train=print), "`train` is a method"),
        ([], "a list of 0"),
    ],
)
def test_containers_without_two_sets_are_refused_by_name(made, says):
    with pytest.raises(PluginError) as caught:
        load_data(made, seed=0)
    assert says in caught.value.message
    assert caught.value.hint


def test_a_containers_own_collator_makes_its_batches():
    rows = [{"input_ids": [1] * count, "labels": [2] * count} for count in (2, 3, 4, 5)]

    def pad(batch):
        return {
            key: nn.utils.rnn.pad_sequence([torch.tensor(r[key]) for r in batch], batch_first=True)
            for key in batch[0]
        }

    loaded = load_data({"train": rows, "validation": rows, "collate_fn": pad}, seed=0)
    from flops_fit.training.data.batches import first_examples

    assert first_examples(loaded.train, 4)["labels"].shape == (4, 5)
    with pytest.raises(PluginError, match="cannot be joined to a batch") as caught:
        first_examples(load_data((rows, rows), seed=0).train, 4)
    assert "collate_fn" in caught.value.hint


assert CONTEXT == 32, "the shapes above are written out"


def run(folder):
    return subprocess.run(
        [sys.executable, "-m", "flops_fit", "run", "m.toml"],
        capture_output=True, text=True, check=False, cwd=folder,
        env={**os.environ, "PYTHONPATH": str(HERE.parents[1])},
    )  # fmt: skip


def test_a_sweep_stops_at_its_first_loss_below_zero(case):
    folder = case("29")
    first = run(folder)
    assert first.returncode == 3
    assert "fitted to positive losses" in first.stderr
    assert "`offset = 10.0` in [loss]" in first.stderr
    ended = len(list(folder.glob("runs/*/trials/*/outcome.json")))
    assert 1 <= ended <= 4
    assert run(folder).returncode == 3
    assert len(list(folder.glob("runs/*/trials/*/outcome.json"))) <= ended + 2


def test_a_sweep_is_found_from_every_working_directory(case, monkeypatch, tmp_path):
    folder = case("32")
    manifest, elsewhere = folder / "m.toml", tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert default_run_dir(manifest, "cwd") == folder / "runs" / "cwd"
    monkeypatch.chdir(tmp_path)  # the manifest is inside: a project's root
    assert default_run_dir(manifest, "cwd") == Path("runs/cwd")
    with open_sweep(manifest, simulated=True) as sweep:
        assert sweep.run.path == Path("runs/cwd")
    for place in (elsewhere, folder):
        monkeypatch.chdir(place)
        assert default_run_dir(manifest, "cwd").resolve() == tmp_path / "runs" / "cwd"
    other = tmp_path / "other"
    other.mkdir()
    (other / "m.toml").write_text(manifest.read_text())
    monkeypatch.chdir(elsewhere)
    assert default_run_dir(other / "m.toml", "cwd") == other / "runs" / "cwd"
