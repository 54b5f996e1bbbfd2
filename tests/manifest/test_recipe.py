import pytest
from pydantic import BaseModel, ValidationError

from flops_fit.manifest.recipe import Recipe


class Section(BaseModel):
    training: Recipe = Recipe()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("optimizer", "adam"),
        ("learning_rate", 0.0),
        ("learning_rate", float("nan")),
        ("learning_rate", True),
        ("weight_decay", -0.1),
        ("betas", (0.9, 1.0)),
        ("betas", (0.9,)),
        ("eps", 0),
        ("clip_norm", -1),
        ("schedule", "step"),
        ("warmup_fraction", 1.5),
        ("cooldown_fraction", -0.1),
        ("batch_tokens", 0),
        ("batch_tokens", 1.5),
        ("micro_batch_examples", 0),
        ("precision", "int8"),
        ("heldout_batch", 0),
        ("curve_points", -1),
        ("cuda_graphs", True),
    ],
)
def test_a_bad_value_is_refused_with_the_name_of_its_field(field, value):
    with pytest.raises(ValueError, match=f"`{field}`.*expected"):
        Recipe(**{field: value})


def test_the_width_rule_asks_for_its_reference():
    with pytest.raises(ValueError, match="`reference_size` is missing"):
        Recipe(learning_rate_rule="width")
    assert Recipe(learning_rate_rule="width", reference_size=64).reference_size == 64


def test_warm_up_and_cool_down_cannot_overlap():
    with pytest.raises(ValueError, match="`cooldown_fraction` is too large"):
        Recipe(schedule="wsd", warmup_fraction=0.6, cooldown_fraction=0.5)


def test_a_manifest_section_reads_it_and_refuses_an_unknown_key():
    read = Section.model_validate({"training": {"betas": [0.8, 0.9], "batch_tokens": 64}})
    assert read.training == Recipe(betas=(0.8, 0.9), batch_tokens=64)
    with pytest.raises(ValidationError, match="learning_rat"):
        Section.model_validate({"training": {"learning_rat": 1e-3}})


def test_the_record_of_a_recipe_makes_the_same_recipe():
    recipe = Recipe(schedule="wsd", learning_rate_rule="width", reference_size=32, compile=True)
    recorded = recipe.to_dict()
    assert Recipe(**{**recorded, "betas": tuple(recorded["betas"])}) == recipe


def test_a_schedule_that_holds_the_peak_has_half_of_it_by_default():
    assert Recipe().bare_learning_rate == 3e-3
    for schedule in ("wsd", "constant"):
        assert Recipe(schedule=schedule).bare_learning_rate == 1.5e-3
        assert Recipe(schedule=schedule, learning_rate=0.01).bare_learning_rate == 0.01
