"""From a manifest's words to models and counts."""

import architectures as people
import pytest

import flops_fit
from flops_fit.errors import PluginError
from flops_fit.experiment.describing import describe
from flops_fit.experiment.loading import load_experiment
from flops_fit.manifest.manifest import parse_manifest

MANIFEST = """
[model]
plugin = "plugins:build"
size_param = "width"
sizes = [16, 32, 64]
[model.derive]
heads = "size // 16 * 2"
[data]
plugin = "architectures:Text"
[loss]
plugin = "architectures:cross_entropy"
[flops]
count = "counted"
[sweep]
budgets = [1e8, 1e9]
"""
PLUGINS = """
import architectures
import flops_fit

build = flops_fit.counted(architectures.llama)

def count_flops(model, batch):
    return 6.0 * model.num_params() * batch[0].numel()
"""


@pytest.fixture
def load(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))

    def load(change=("", ""), plugins=PLUGINS):
        (tmp_path / "plugins.py").write_text(plugins)
        monkeypatch.delitem(__import__("sys").modules, "plugins", raising=False)
        manifest = parse_manifest(MANIFEST.replace(*change), where="m.toml")
        return load_experiment(manifest, search_path=[tmp_path])

    return load


def test_derived_arguments_reach_the_constructor_at_every_size(load):
    experiment = load()
    heads = [experiment.build(size).config.num_attention_heads for size in (16, 32, 64)]
    assert heads == [2, 4, 8]
    assert experiment.data.facts.causal


def test_a_transformers_model_is_described_without_a_word_of_ours_in_it(load):
    sizes = describe(load()).sizes
    by_hand = [3 * people.llama_forward_flops(width) / people.CONTEXT for width in (16, 32, 64)]
    assert [size.flops_per_token for size in sizes] == by_hand
    assert [size.params_non_embedding for size in sizes] == [
        size.params - people.VOCAB * size.size_value for size in sizes
    ]


def test_a_formula_without_a_value_and_a_model_that_refuses_it_are_named(load):
    with pytest.raises(PluginError, match=r"`\[model.derive\]` at `width = 16`: .*by zero"):
        load(("size // 16 * 2", "64 // (size - 16)")).build(16)
    with pytest.raises(PluginError, match=r"plugins:build` at `width = 16, heads = 0` raised"):
        load(("size // 16 * 2", "size // 64")).build(16)
    with pytest.raises(PluginError, match=r"takes no argument `depth`, which `model\.derive`"):
        load(("heads =", "depth ="))


@pytest.mark.parametrize("count", ["plugin", "plugins:count_flops"])
def test_a_plugin_may_count_flops_itself(load, count):
    [size, *_] = describe(load(('"counted"', f'"{count}"'))).sizes
    assert size.flops_per_token == 6 * size.params


def test_a_count_that_is_not_there_is_named(load):
    without = PLUGINS.split("def count")[0]
    with pytest.raises(PluginError, match="has no `count_flops`") as caught:
        load(('"counted"', '"plugin"'), without)
    assert "count_flops(model, batch)" in caught.value.hint


def test_live_objects_may_derive_arguments_and_count_flops_with_a_function():
    plan = flops_fit.plan(
        people.Vit,
        "width",
        {},
        people.Pictures(),
        people.cross_entropy,
        [1e10, 1e11],
        sizes=[16, 24, 32, 48, 64],
        derive={"depth": "size // 8"},
        count=lambda model, batch: 10.0 * model.num_params(),
        unit="image",
        tokens_per_param=5,
    )
    sizes = {trial.size.size_value: trial.size for trial in plan.trials}
    assert len(sizes) >= 4
    for value, size in sizes.items():
        assert size.params == people.Vit(value, value // 8).num_params()
        assert size.flops_per_token == 10.0 * size.params
