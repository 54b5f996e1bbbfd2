"""Numbers to text and back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flops_fit.units import format_bytes, format_count, format_duration, format_flops, parse_number


@pytest.mark.parametrize("value", [1e18, "1e18", " 1E18 ", 10**18])
def test_numbers_are_read_as_people_write_them(value):
    assert parse_number(value) == 1e18


@pytest.mark.parametrize("value", ["1e18 flop", "", "nan", "inf", -1, 0, "-1e3", True, None, [1]])
def test_what_is_no_positive_number_is_refused(value):
    with pytest.raises(ValueError, match="not a"):
        parse_number(value)


@given(st.floats(1e-3, 1e30))
def test_flops_as_text_read_back_to_three_digits(value):
    assert float(format_flops(value)) == pytest.approx(value, rel=6e-3)


def test_texts_carry_their_units():
    assert format_count(16200) == "16.2k"
    assert format_count(999_999) == "1M"
    assert format_count(3.2e9) == "3.2B"
    assert format_flops(1.5e11) == "1.5e11"
    assert format_flops(9.999e11) == "1e12"
    assert format_duration(0.84) == "0.8 s"
    assert format_duration(15_000) == "4 h 10 min"
    assert format_bytes(1.5 * 2**30) == "1.5 GiB"
