"""Every key, command, option, public name and code is in the reference, as the code has it."""

import importlib.util
import re
from pathlib import Path

import pytest

import flops_fit
from flops_fit.errors import FlopsFitError
from flops_fit.fitting.points import Observation
from flops_fit.reporting.codes import known_codes
from flops_fit.reporting.result import Result

DOCS = Path(__file__).parents[2] / "docs"
REFERENCE = DOCS / "reference"


def generator():
    spec = importlib.util.spec_from_file_location("make_reference", DOCS / "make_reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


MAKE = generator()


@pytest.mark.parametrize("name", sorted(MAKE.PAGES))
def test_a_page_that_follows_from_the_code_is_as_the_code_has_it(name):
    """To write them anew: python docs/make_reference.py"""
    assert (REFERENCE / name).read_text(encoding="utf-8") == MAKE.PAGES[name]()


def test_every_manifest_key_is_in_the_reference_with_its_meaning():
    page = (REFERENCE / "manifest_keys.md").read_text(encoding="utf-8")
    for name, (_, schema) in MAKE.sections().items():
        section = page.partition(f"## [{name}]\n" if name not in ("", "sweep.goal") else "## ")[2]
        for key in schema["properties"]:
            if name == "" and key not in ("name", "seed"):
                assert f"## [{key}]" in page
            else:
                row = re.search(rf"^\| `{key}` \|.*$", section, re.MULTILINE)
                assert row, f"{name}.{key}"
                assert len(row[0].split(" | ")[-1]) > 8


def test_every_command_and_option_is_in_the_reference():
    page = (REFERENCE / "commands.md").read_text(encoding="utf-8")
    for name, command in MAKE.commands().items():
        section = page.partition(f"## flops-fit {name}".rstrip() + "\n")[2].partition("\n## ")[0]
        for param in command.params:
            if not getattr(param, "hidden", False) and param.param_type_name == "option":
                assert all(f"`{option}`" in section for option in param.opts), (name, param.name)


def test_every_public_name_is_in_the_reference_of_python():
    page = (REFERENCE / "python.md").read_text(encoding="utf-8")
    for name in flops_fit.__all__:
        assert re.search(rf"^(::: flops_fit[\w.]*\.|## `){name}\b", page, re.MULTILINE), name
    assert f"::: {Result.__module__}.Result" in page
    assert f"::: {FlopsFitError.__module__}.FlopsFitError" in page
    assert f"::: {Observation.__module__}.Observation" in page


def test_every_code_is_in_the_reference():
    page = (DOCS / "codes.md").read_text(encoding="utf-8")
    assert all(f"### `{code}`" in page or f"`{code}`" in page for code in known_codes())
