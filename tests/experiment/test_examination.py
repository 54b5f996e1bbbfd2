"""`check` passes what keeps its contract, and names the fault in what does not."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import architectures
import pytest
import torch
from torch.utils.data import Dataset, TensorDataset

from flops_fit.experiment.checks import model as conformance
from flops_fit.experiment.checks.data import check_apart, overlap_notes
from flops_fit.experiment.checks.examination import examine
from flops_fit.experiment.describing import describe
from flops_fit.experiment.loading import load_experiment
from flops_fit.manifest.manifest import parse_manifest
from flops_fit.manifest.rules import settings
from flops_fit.training.data.batches import load_data
from flops_fit.training.optimizers import make_optimizer

HERE = Path(__file__).parents[1] / "support"
GOOD = {"model": "architectures:Lstm", "data": "Text", "loss": "cross_entropy"}


def manifest_of(model, data, loss, sizes="[16, 32, 48, 64]", rate=3e-3):
    names = [name if ":" in name else f"architectures:{name}" for name in (model, data, loss)]
    return (
        f'[model]\nplugin = "{names[0]}"\nsize_param = "width"\nsizes = {sizes}\n'
        f'[data]\nplugin = "{names[1]}"\n[loss]\nplugin = "{names[2]}"\n[sweep]\nbudgets = [1e9]\n'
        f"[training]\nlearning_rate = {rate}\n"
    )


def findings(folder=HERE, **plugins):
    manifest = parse_manifest(manifest_of(**GOOD | plugins), where="m.toml")
    return examine(manifest, search_path=[folder, HERE])


def by_status(found, status):
    return {finding.check: finding for finding in found if finding.status == status}


@pytest.mark.parametrize(
    ("model", "data"),
    [
        ("architectures:Lstm", "Text"),
        ("architectures:Moe", "Text"),
        ("architectures:Cnn", "Pictures"),
        ("architectures:Vit", "Pictures"),
        ("theirs:llama", "Text"),
    ],
)
def test_models_as_people_have_them_pass(tmp_path, model, data):
    (tmp_path / "theirs.py").write_text(
        "import architectures, flops_fit\nllama = flops_fit.counted(architectures.llama)\n"
    )
    found = findings(tmp_path, model=model, data=data)
    assert {finding.status for finding in found} <= {"passed", "skipped"}, found
    causal = by_status(found, "passed").get("no output sees its own target")
    assert (causal is not None) == (data == "Text")
    assert len(found) == 17


FAULTS = [
    # what is broken, the claim that fails, what is said of it, what the mend says
    ({"data": "broken_plugins:Unshifted"}, "sees its own target", "leaked", "row[1:]"),
    ({"model": "broken_plugins:Bidirectional"}, "own target", "sees future inputs", "is_causal"),
    (
        {"model": "broken_plugins:BidirectionalAtStart"},
        "own target",
        "sees future inputs",
        "is_causal",
    ),
    ({"loss": "broken_plugins:detached"}, "finite gradient", "without a gradient", "detach"),
    ({"data": "broken_plugins:ends_early"}, "stated length", "after 10 examples", "__iter__"),
    (
        {"data": "broken_plugins:loader_ends_early"},
        "stated length",
        "after 10 examples",
        "__iter__",
    ),
    ({"data": "broken_plugins:read_once"}, "stated length", "only once", "class"),
    ({"data": "broken_plugins:lying_length"}, "stated length", "number 100 raises", "__len__"),
    ({"model": "broken_plugins:same_width"}, "params grow", "do not grow", "size_param"),
    ({"model": "broken_plugins:shrinking"}, "params grow", "size 32 has", "num_params"),
    ({"model": "broken_plugins:refuses_48"}, "can be built", "no power of two", None),
    ({"model": "broken_plugins:Guessing"}, "can be built", "changes from call to call", "sum"),
    ({"loss": "broken_plugins:wants_a_tensor"}, "finite gradient", "a `dict`", "outputs"),
    ({"model": "broken_plugins:NanAtOnce"}, "finite gradient", "nan on the first", "logarithm"),
    ({"model": "broken_plugins:NanInTheGradient"}, "finite gradient", "not finite", "root"),
    ({"data": "broken_plugins:Shared"}, "trained on", "60 of 64 held-out", "split"),
    ({"data": "broken_plugins:one_set_twice"}, "trained on", "the same data set", "two sets"),
    ({"data": "broken_plugins:overlapping_subsets"}, "trained on", "10 numbers", "common index"),
    ({"data": "broken_plugins:restless_heldout"}, "stays the same", "of its first 64", "seed"),
    ({"loss": "broken_plugins:rewarding"}, "falls on one batch", "does not fall", "inputs"),
    ({"model": "raises_on_import:Net"}, "loads", "RuntimeError: no licence", "plugin"),
]


@pytest.mark.parametrize(("plugins", "claim", "says", "mend"), FAULTS)
def test_a_fault_is_named_where_it_lies_with_its_mend(tmp_path, plugins, claim, says, mend):
    (tmp_path / "raises_on_import.py").write_text("raise RuntimeError('no licence')\n")
    if plugins.get("data", "").endswith("Shared"):
        says = says.replace("of 64", "of 60")
    failed = by_status(findings(tmp_path, **plugins), "failed")
    assert len(failed) == 1, failed
    ((check, finding),) = failed.items()
    assert claim in check
    assert says in finding.detail
    assert finding.mend
    assert (mend or "") in finding.mend


@pytest.mark.parametrize(
    ("plugins", "claim", "says"),
    [
        ({"model": "broken_plugins:Understated"}, "num_params counts", "numbers are trained"),
        ({"model": "broken_plugins:Unused"}, "finite gradient", "`forgotten.weight`"),
        ({"loss": "broken_plugins:shifting_loss"}, "own target", "2 positions ahead"),
        (
            {"data": "broken_plugins:Undeclared", "model": "broken_plugins:Bidirectional"},
            "own target",
            "sees future inputs",
        ),
        ({"rate": 30.0}, "falls on one batch", "at 0.01 times the learning rate"),
    ],
)
def test_what_is_odd_but_may_be_meant_is_a_warning(plugins, claim, says):
    found = findings(**plugins)
    assert by_status(found, "failed") == {}
    ((check, finding),) = by_status(found, "warned").items()
    assert claim in check
    assert says in finding.detail
    assert finding.mend


def test_targets_that_the_loss_shifts_are_not_taken_for_a_leak():
    found = findings(data="broken_plugins:Rows", loss="broken_plugins:shifting_loss")
    passed = by_status(found, "passed")["no output sees its own target"]
    assert "each is scored on the next input" in passed.detail


def test_what_needs_a_broken_part_is_skipped_and_the_rest_is_checked():
    found = findings(loss="broken_plugins:none_such")
    assert list(by_status(found, "failed")) == ["loss plugin `broken_plugins:none_such` loads"]
    skipped = by_status(found, "skipped")
    assert set(skipped) == {
        "the loss gives a finite gradient", "the loss falls on one batch",
        "evaluation repeats itself",
        "a batch's loss is the mean of its parts'", "no output sees its own target",
    }  # fmt: skip
    assert all("none_such" in finding.detail for finding in skipped.values())


def check(folder, text, *options):
    (folder / "experiment.toml").write_text(text)
    return subprocess.run(
        [sys.executable, "-m", "flops_fit", "check", "experiment.toml", *options],
        capture_output=True, text=True, check=False, cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parents[1])])},
    )  # fmt: skip


def test_the_command_prints_every_check_and_leaves_with_the_exit_code(tmp_path):
    ended = check(tmp_path, manifest_of(**GOOD))
    assert ended.returncode == 0, ended.stderr
    assert "17 passed" in ended.stdout
    assert "failed" not in ended.stdout
    assert "next: flops-fit plan" in ended.stderr
    broken = manifest_of(**GOOD | {"data": "broken_plugins:Unshifted"})
    ended = check(tmp_path, broken, "--json")
    assert ended.returncode == 3
    told = json.loads(ended.stdout)
    assert told["passed"] is False
    (failed,) = [finding for finding in told["findings"] if finding["status"] == "failed"]
    assert set(failed) == {"check", "status", "detail", "mend"}
    assert "1 of 17 checks failed: no output sees its own target" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"experiment.toml"}


def test_a_plugin_that_ends_the_interpreter_and_a_broken_manifest_are_one_clear_error(tmp_path):
    (tmp_path / "ends.py").write_text("import os\nos._exit(7)\n")
    ended = check(tmp_path, manifest_of(**GOOD | {"model": "ends:Net"}))
    assert ended.returncode == 3
    assert "died (exit code 7)" in ended.stderr
    ended = check(tmp_path, manifest_of(**GOOD).replace("sizes", "sizs"))
    assert ended.returncode == 2
    assert "did you mean `sizes`?" in ended.stderr


@pytest.fixture
def learnt(monkeypatch):
    """(trial, its rate of weight matrices) of each time that learning was tried."""
    seen = []

    def remember(model, *, recipe, trial, **more):
        seen.append((trial, settings(
            recipe, size=trial.size, tokens=trial.tokens, batch_tokens=trial.batch_tokens
        ).matrix_rate))  # fmt: skip
        return make_optimizer(model, recipe=recipe, trial=trial, **more)

    monkeypatch.setattr(conformance, "make_optimizer", remember)
    return seen


@pytest.mark.parametrize("rule", ["steplaw", "deepseek", "powerlines"])
def test_learning_is_tried_at_the_rate_that_the_rules_give_to_a_sweep(learnt, rule):
    powerlines = 'learning_rate = 3e-3\nbatch_tokens = 1024\nweight_decay_rule = "powerlines"\n'
    training = (
        f'learning_rate_rule = "{rule}"\nbatch_rule = "{rule}"\n'
        + (powerlines if rule == "powerlines" else "")
    )  # fmt: skip
    text = manifest_of(**GOOD).partition("[training]")[0] + f"[training]\n{training}"
    found = examine(parse_manifest(text, where="m.toml"), search_path=[HERE])
    assert "the loss falls on one batch" in by_status(found, "passed")
    (trial, rate), *_ = learnt
    # Tokens, where eight examples once were counted as eight.
    units = architectures.CONTEXT
    assert trial.batch_tokens % units == 0
    assert trial.tokens == pytest.approx(20 * trial.size.params, rel=0.05)
    if rule == "steplaw":
        shape = trial.size.params_non_embedding**-0.713 * (20 * trial.size.params) ** 0.307
        assert rate == pytest.approx(1.79 * shape, rel=0.05)


@pytest.mark.parametrize("flops", ["", '[flops]\ncount = "6nd"\n', "stated", "broken"])
def test_learning_is_tried_at_the_flops_that_a_plan_counts(learnt, flops):
    text = manifest_of(**GOOD | {"model": "architectures:Vit", "data": "Pictures"})
    # Pictures a parameter so few that the default rate goes by how often each param is used.
    text = text.partition("[sweep]")[0]
    text += '[sweep]\ndesign = "ladder"\ntotal_flops = 1e13\ntokens_per_param = 0.3\n'
    if flops == "stated":
        one = "{ size_value = %d, params = %d, flops_per_token = 1e7 }"
        stated = ", ".join(one % (width, 1000 * width) for width in (16, 32))
        text = text.replace("[16, 32, 48, 64]", f"[{stated}]")
    elif flops == "broken":
        text += '[flops]\ncount = "model"\n'  # which has no `flops_per_token()`
    else:
        text += flops
    manifest = parse_manifest(text, where="m.toml")
    found = examine(manifest, search_path=[HERE])
    assert ("FLOPs are counted in full" in by_status(found, "failed")) == (flops == "broken")
    trial, rate = learnt[0]
    size = trial.size
    if flops == "broken":
        assert size.flops_per_token == 6 * size.params
        return
    experiment = load_experiment(manifest, search_path=[HERE])
    planned = min(describe(experiment).sizes, key=lambda size: size.size_value)
    assert size == planned
    positions = 0.3 * planned.flops_per_token / 6 / planned.params
    lowered = min(1, positions / 20) ** 0.307
    expected = 3e-3 * (planned.params / 1e6) ** (-1 / 3) * lowered
    assert rate == pytest.approx(expected, rel=0.02)
    if flops == "":
        assert planned.flops_per_token > 4 * 6 * planned.params


def described(data):
    text = manifest_of(**GOOD | {"data": data})
    return describe(load_experiment(parse_manifest(text, where="m.toml"), search_path=[HERE]))


def test_held_out_examples_among_those_of_training_are_a_warning_of_plan_and_run():
    (note,) = [n for n in described("broken_plugins:Shared").notes if n.code == "overlap"]
    assert "60 of 60 held-out" in note.message
    assert "split before" in note.message
    assert not described("Text").notes


def test_a_lent_set_is_not_read_unless_it_lies_in_memory():
    draws = []

    class Watched(Dataset):
        def __init__(self, count):
            self.inputs = torch.arange(count).float()

        def __len__(self):
            return len(self.inputs)

        def __getitem__(self, index):
            draws.append(index)
            return self.inputs[index], self.inputs[index]

    own = load_data((Watched(100), Watched(50)), seed=0)
    assert not overlap_notes(own, is_lent=True)
    assert not draws
    assert "50 of 50" in overlap_notes(own, is_lent=False)[0].message
    tensors = [TensorDataset(torch.arange(count).float()[:, None]) for count in (100, 50)]
    assert overlap_notes(load_data(tuple(tensors), seed=0), is_lent=True)


def test_it_is_said_what_share_of_a_set_was_compared():
    rows = torch.arange(200_000).float()[:, None]
    few = load_data((TensorDataset(rows), TensorDataset(-rows[1:129])), seed=0)
    assert re.search(r"0 of 128 .* among 62,\d+ of training, 31.\d+% of it", check_apart(few))
    one = torch.cat((rows[:1], -rows[1:128]))
    whole = load_data((TensorDataset(rows[:20_000]), TensorDataset(one)), seed=0)
    assert "1 of 128" in check_apart(whole)
    assert "20,000 of training, all of it" in check_apart(whole)
