"""Numbers and lines as people read them."""

import pytest

from ddrnet_jax import text


@pytest.mark.parametrize(("share", "digits", "expected"), [(0.604, 0, "60%"), (0.6041, 2, "60.41%"), (None, 2, "-")])
def test_percent(share, digits, expected):
    assert text.percent(share, digits) == expected


@pytest.mark.parametrize(("value", "expected"), [(0.5, "0.50"), (9.99, "9.99"), (12.34, "12.3"), (1234.5, "1234")])
def test_three_digits(value, expected):
    assert text.three_digits(value) == expected


def test_long_lists_are_counted_and_long_names_cut():
    assert text.first_few("abc") == "a, b, c"
    assert text.first_few(range(1004), 2) == "0, 1 and 1,002 more"
    assert text.first_few([]) == ""
    assert text.cut("a long name", 11) == "a long name"
    assert text.cut("a long name", 10) == "a long ..."
    assert text.cut("a long name", 10, "…") == "a long na…"


def test_paragraphs_keep_flags_whole_and_spell_out_what_is_no_text():
    lines = text.wrapped(f"{'word ' * 14}--batch_sizes-of-a-flag \udcff.png", "  ", hanging=4)
    assert lines[0] == ("  " + "word " * 14).rstrip()
    assert lines[1] == "      --batch_sizes-of-a-flag \\udcff.png"
    assert all(len(line) <= text.WIDTH for line in text.wrapped(300 * "x", "a: "))


def test_sizes_and_versions():
    assert text.size((1024, 2048)) == text.size([1024, 2048]) == "1024x2048"
    assert text.versions({"jax": "0.10.2", "numpy": "2.1"}) == "jax 0.10.2, numpy 2.1"


def test_what_is_no_text_is_spelt_out():
    assert text.printable("a b\tgrün 日本\n") == "a b\tgrün 日本\n"
    assert text.printable("\udcff\x1b[31m\u202egnp.\x00") == r"\udcff\x1b[31m\u202egnp.\x00"
