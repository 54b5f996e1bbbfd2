"""Every code that a message can carry is explained, in the command and in the document."""

import ast
import re
from pathlib import Path

import pytest

from flops_fit.reporting.codes import codes_page, explain_code, known_codes
from flops_fit.reporting.rules import RULES

PACKAGE = Path(__file__).parents[2] / "flops_fit"
DOCUMENT = PACKAGE.parent / "docs" / "codes.md"
OF_STUDIES = {"too_many", "no_such"}


def codes_in(tree):
    """Constants that stand where a Note or a FitError takes its code."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = getattr(node.func, "id", getattr(node.func, "attr", ""))
        places = [k.value for k in node.keywords if k.arg == "code"]
        places += node.args[:1] if name == "Note" else []
        for place in places:
            for part in ast.walk(place):
                if isinstance(part, ast.Constant) and isinstance(part.value, str):
                    yield part.value


def test_every_code_in_the_package_is_explained():
    found = {
        code
        for path in PACKAGE.rglob("*.py")
        for code in codes_in(ast.parse(path.read_text(encoding="utf-8")))
        if re.fullmatch(r"[a-z]+(_[a-z]+)*", code)
    }
    assert len(found) > 50
    assert sorted(code for code in found if explain_code(code) is None) == ["code"]


def test_the_document_holds_every_code():
    """To write it anew: python -c 'from flops_fit.reporting.codes import *; print(codes_page())'"""
    assert DOCUMENT.read_text(encoding="utf-8") == codes_page()
    assert all(f"`{code}`" in codes_page() for code in known_codes())


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.code)
def test_every_rule_states_its_source_and_what_to_do(rule):
    text = explain_code(rule.code)
    assert f"Source: {rule.source}" in " ".join(text.split())
    assert rule.action.endswith((".", "]", "?"))
    assert rule.statement.strip(".") == rule.statement


def test_every_command_of_a_rule_exists():
    from typer.main import get_command

    from flops_fit.cli.main import app

    commands = get_command(app).commands
    for rule in RULES:
        for text in filter(None, (rule.command, rule.table_command)):
            program, name, *words = text.split()
            assert program == "flops-fit"
            options = {option for param in commands[name].params for option in param.opts}
            assert {word for word in words if word.startswith("--")} <= options
