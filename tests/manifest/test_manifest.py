"""Each kind of mistake in a manifest is one precise error: what, where, got, expected, hint."""

# ruff: noqa: E501 - a mistake and its error stand side by side on one line

import re
from pathlib import Path

import pytest

from flops_fit.errors import ManifestError
from flops_fit.manifest.manifest import Manifest, SizeRange, parse_manifest, read_manifest

GOOD = """
name = "quick"
[model]
plugin = "gpt"
size_param = "d_model"
sizes = [16, 24, 32]
[data]
plugin = "stdlib-text"
[loss]
plugin = "cross-entropy"
[sweep]
budgets = [1e11, "3e11"]
"""


def parse(text: str):
    return parse_manifest(text, where="m.toml")


def test_only_model_data_loss_and_sweep_are_needed():
    manifest = parse(GOOD)
    assert manifest.sweep.budgets == [1e11, 3e11]
    assert manifest.flops.count == "counted"
    assert manifest.training.schedule == "linear"


def test_sizes_can_be_a_range_a_list_or_stated():
    ranged = GOOD.replace("[16, 24, 32]", "{ min = 16, max = 512, multiple_of = 8 }")
    assert parse(ranged).model.sizes == SizeRange(min=16, max=512, multiple_of=8)
    stated = GOOD.replace("[16, 24, 32]", "[{ size_value = 16, params = 1.5e4 }]")
    assert parse(stated).model.stated[0].params == 15_000
    assert parse(GOOD).model.stated is None


@pytest.mark.parametrize(
    ("change", "message", "hint"),
    [
        (("plugin = \"gpt\"", "plugn = \"gpt\""), "`model.plugn` in `m.toml` is not a known key", "`plugin`"),
        (("[sweep]", "[sweeep]"), "`sweeep` in `m.toml` is not a known key", "`sweep`"),
        (("[sweep]", "[training]\nlearning_rat = 1e-3\n[sweep]"), "`training.learning_rat`", "`learning_rate`"),
        (("[16, 24, 32]", "{ min = 16, mx = 32 }"), "`model.sizes.mx`", "`max`"),
        (("name = \"quick\"", "seed = \"zero\""), "`seed` in `m.toml`: expected a valid integer, got `'zero'`", None),
        (("[1e11, \"3e11\"]", "[1e11, -3e11]"), "`sweep.budgets[1]` in `m.toml`: not a positive", "1e18"),
        (("[1e11, \"3e11\"]", "[1e11, \"1e18 flop\"]"), "`sweep.budgets[1]` in `m.toml`: not a number: `1e18 flop`", "1e18"),
        (("[1e11, \"3e11\"]", "[]"), "`sweep.budgets`", "1e18"),
        (("[1e11, \"3e11\"]", "[1e11, \"1e11\"]"), "`sweep.budgets` in `m.toml`: 1e+11 is stated twice", "`sweep.replicates`"),
        (("[16, 24, 32]", "[16, 24, 16]"), "the size `16` is stated twice", "sizes ="),
        (("[16, 24, 32]", "\"many\""), "`model.sizes` in `m.toml`: expected a list", "sizes ="),
        (("[16, 24, 32]", "[16, \"x\"]"), "`model.sizes` in `m.toml`: expected numbers alone, names alone", "sizes ="),
        (("[16, 24, 32]", "[16, 0]"), "expected positive sizes, got `0`", "sizes ="),
        (("[16, 24, 32]", "{ min = 64, max = 32 }"), "`max` (32) is below `min` (64)", None),
        (("[sweep]", "[flops]\ncount = \"guess\"\n[sweep]"), "`flops.count` in `m.toml`: expected \"counted\", \"6nd\", \"model\", \"plugin\" or \"module:function\", got `'guess'`", None),
        (("[sweep]", "[training]\nschedule = \"step\"\n[sweep]"), "schedule", None),
        (("[sweep]", "[training]\nlearning_rate = -1.0\n[sweep]"), "learning_rate", None),
        (("[loss]\nplugin = \"cross-entropy\"", ""), "`loss` is missing in `m.toml`", "section"),
        (("size_param = \"d_model\"", ""), "`size_param` is missing: the argument that sets the size", None),
        (("name = \"quick\"", "name = \"a/b\""), "`name` in `m.toml`: expected a name", None),
        (("[model]", "[model"), "`m.toml` is not TOML", "line 3"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_precise_error(change, message, hint):
    text = GOOD.replace(*change)
    assert text != GOOD
    with pytest.raises(ManifestError) as caught:
        parse(text)
    assert message in caught.value.message
    if hint is not None:
        assert hint in f"{caught.value.hint} {caught.value.message}"
    assert "pydantic" not in str(caught.value)


def test_a_missing_file_says_how_to_begin(tmp_path):
    with pytest.raises(ManifestError, match="cannot be read") as caught:
        read_manifest(tmp_path / "none.toml")
    assert "init" in caught.value.hint


def test_the_template_is_a_manifest(tmp_path):
    from importlib.resources import files

    text = files("flops_fit.cli").joinpath("template.toml").read_text(encoding="utf-8")
    manifest = parse(text)
    assert manifest.name == "my-experiment"
    # What it shows as a default is the default.
    shown = dict(re.findall(r"^# (\w+) = ([^#\n]+?) *(?:#.*)?$", text, re.M))
    assert shown["tokens_per_param"] == f"{manifest.sweep.tokens_per_param:g}"
    assert manifest.sweep.levels == 5
    assert shown["replicates"] == str(manifest.sweep.replicates)
    assert shown["schedule"] == f'"{manifest.training.schedule}"'
    assert shown["warmup_fraction"] == f"{manifest.training.warmup_fraction:g}"
    assert shown["weight_decay"] == f"{manifest.training.weight_decay:g}"
    assert shown["bootstrap"] == str(manifest.report.bootstrap)


def test_identity_is_what_numbers_depend_on():
    manifest = parse(GOOD)
    other = parse(
        GOOD.replace("quick", "slow")
        + "[execution]\nworkers = 7\nkeep_checkpoints = true\ncheckpoint_minutes = 0.5\n"
    )
    assert manifest.identity == other.identity
    assert parse(GOOD.replace("3e11", "4e11")).identity != manifest.identity


def test_the_reference_names_every_key_with_its_default():
    page = Path(__file__).parents[2] / "docs" / "reference" / "manifest_keys.md"
    text = page.read_text(encoding="utf-8")
    for name, section in Manifest.model_fields.items():
        fields = getattr(section.annotation, "model_fields", None)
        if fields is None:
            continue
        body = text.split(f"## [{name}]")[1].split("\n## ")[0]
        for key, field in fields.items():
            (row,) = re.findall(rf"^\| `{key}` \| .*? \| (.*?) \|", body, re.M)
            if isinstance(field.default, str):
                assert row == f'`"{field.default}"`'
            elif isinstance(field.default, bool):
                assert row == f"`{str(field.default).lower()}`"
            elif isinstance(field.default, int | float):
                assert row == f"`{field.default:g}`"


DERIVED = GOOD.replace(
    "[data]",
    '[model.derive]\nnum_heads = "size // 64"\nhead_size = "d_model // num_heads"\n\n[data]',
    1,
)


def test_arguments_follow_from_the_size_and_from_those_above():
    model = parse(DERIVED).model
    assert model.arguments(256) == {"d_model": 256, "num_heads": 4, "head_size": 64}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("size // 64", "size // heads"), "`derive.num_heads` needs `heads`; known there are"),
        (("size // 64", "head_size"), "`derive.num_heads` needs `head_size`"),
        (("size // 64", "exit(0)"), "`exit(0)` calls `exit`"),
        (("num_heads =", "d_model ="), "`derive.d_model` is already set by `size_param`"),
        (('"size // 64"', "64"), "`model.derive.num_heads` in `m.toml`: expected a valid string"),
    ],
)
def test_a_formula_that_cannot_be_is_refused_with_the_manifest(change, message):
    with pytest.raises(ManifestError) as caught:
        parse(DERIVED.replace(*change, 1))
    assert message in caught.value.message


def test_a_list_is_asked_for_as_a_list_and_other_mistakes_are_counted(tmp_path, write_manifest):
    path = write_manifest()
    text = path.read_text()
    start = text.index("budgets")
    line = text[start : text.index("\n", start)]
    path.write_text(text.replace(line, "budgets = []"))
    with pytest.raises(ManifestError) as caught:
        read_manifest(path)
    assert "expected a list of 1 or more, got `[]`" in caught.value.message
    assert caught.value.hint == "write a list, as `budgets = [1e16, 3e16, 1e17, 3e17, 1e18]`"
    path.write_text(text.replace(line, 'budgets = "lots"\nreplicates = -1'))
    with pytest.raises(ManifestError, match=r"expected a list, got `'lots'`.*1 more wrong: `sweep"):
        read_manifest(path)
