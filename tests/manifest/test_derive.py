import pytest
from hypothesis import given
from hypothesis import strategies as st

from flops_fit.manifest.derive import evaluate, names_in


@pytest.mark.parametrize(
    ("formula", "value"),
    [
        ("size // 64", 8),
        ("max(2, round(size / 96))", 5),
        ("-size + 2 * (size - 1)", 510),
        ("size % 100", 12),
        ("ceil(size / 100)", 6),
        ("floor(size / 100)", 5),
        ("sqrt(size * 2)", 32.0),
        ("2 ** 9 - size", 0),
        ("min(size, 8, 16)", 8),
        ("round(size / 1000, 2)", 0.51),
        ("2.5e1", 25.0),
        ("abs(-size)", 512),
        ("1e-9 ** 40", 0.0),
    ],
)
def test_a_formula_has_its_value(formula, value):
    found = evaluate(formula, {"size": 512})
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("formula", "says"),
    [
        ("size //", "is not arithmetic"),
        ("size // 0", "divides by zero"),
        ("size % 0.0", "divides by zero"),
        ("width // 64", "no `width`; known are `size`"),
        ("__import__('os').system('true')", r"calls `__import__\('os'\).system`"),
        ("open('x')", "calls `open`"),
        ("round(size, ndigits=1)", "without keywords"),
        ("size if size else 1", "more than plain arithmetic"),
        ("[size][0]", "more than plain arithmetic"),
        ("'8' * 8", "more than plain arithmetic"),
        ("True + size", "more than plain arithmetic"),
        ("size.real", "more than plain arithmetic"),
        ("(lambda: size)()", "calls"),
        ("9 ** 9 ** 9", "too large"),
        ("2.0 ** 5000", "too large"),
        ("(-size) ** 0.5", "out of range"),
        ("sqrt(-size)", r"`sqrt\(-512\)` has no value"),
        ("size * 1e18", "out of range"),
        ("min(size)", "has no value"),
        ("(" * 5000 + "1" + ")" * 5000, "is not arithmetic"),
        ("1" + "0" * 5000, "is not arithmetic"),
    ],
)
def test_what_is_no_plain_arithmetic_is_refused_and_named(formula, says):
    with pytest.raises(ValueError, match=says):
        evaluate(formula, {"size": 512})


def test_the_names_of_a_formula_are_known_before_it_is_evaluated():
    assert names_in("max(2, size // head_size)") == {"size", "head_size"}


@given(st.text(alphabet="size0123456789+-*/%().,' \n[]:=\"", max_size=30))
def test_no_text_gives_anything_but_a_number_or_a_reason(formula):
    try:
        value = evaluate(formula, {"size": 3})
    except ValueError:
        return
    assert type(value) in (int, float)
