"""The options of a library call: every key of a section is one, and a slip is named."""

import inspect

import pytest

import flops_fit
from flops_fit.experiment.prepared import (
    DataOptions,
    ExecutionOptions,
    ModelOptions,
    Options,
    SweepOptions,
    refuse_unknown,
)
from flops_fit.manifest.manifest import DataSection, ExecutionSection, ModelSection
from flops_fit.manifest.sweep_section import SweepSection


@pytest.mark.parametrize(
    ("options", "section", "otherwise"),
    [
        (SweepOptions, SweepSection, {"budgets"}),
        (DataOptions, DataSection, {"plugin", "kwargs"}),
    ],
)
def test_every_key_of_a_section_is_an_option(options, section, otherwise):
    assert set(options.__annotations__) == set(section.model_fields) - otherwise


@pytest.mark.parametrize(
    ("options", "section"), [(ModelOptions, ModelSection), (ExecutionOptions, ExecutionSection)]
)
def test_an_option_is_a_key_of_its_section(options, section):
    assert set(options.__annotations__) <= set(section.model_fields)


@pytest.mark.parametrize("door", [flops_fit.find_optimal, flops_fit.plan, flops_fit.estimate])
def test_the_doors_take_the_named_options_and_no_others(door):
    annotation = inspect.signature(door).parameters["options"].annotation
    assert annotation == "Unpack[Options]"
    with pytest.raises(TypeError, match="did you mean `total_flops`"):
        door(object, "width", total_flop=1e12)


def test_an_unknown_option_lists_the_known_ones():
    with pytest.raises(TypeError, match=r"unexpected argument `zzz`\. Known: .*heldout_dataset"):
        refuse_unknown({"zzz": 1})
    refuse_unknown(dict.fromkeys(Options.__annotations__))
