"""The text layer: numbers, amounts, columns and suggestions as they are printed everywhere."""

import math

import pytest

from hf_scaling import text


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (50, "50"),
        (813, "813"),
        (12_800, "12,800"),
        (116_890, "117,000"),
        (999_999, "1M"),
        (3_200_000, "3.2M"),
        (2e10, "20B"),
        (1.5e12, "1.5T"),
        (11_250, "11,250"),
        (3_125.0, "3,125"),
        (3_125.4, "3,130"),
        (51_468, "51,500"),
        (1_234_567, "1.23M"),
        (2.1e18, "2.1e+18"),
        (math.inf, "infinitely many"),
        (None, text.MISSING),
        (math.nan, text.MISSING),
    ],
)
def test_counts_have_three_digits_or_four_where_those_are_all_and_a_suffix(value, written):
    assert text.format_count(value) == written


@pytest.mark.parametrize(
    ("call", "written"),
    [
        (lambda: text.format_amount("n_pretrain", 12_800), "12,800 upstream images"),
        (lambda: text.format_amount("n_finetune", 500, "tokens"), "500 labelled tokens"),
        (lambda: text.format_amount("width", 64), "64 width"),
        (lambda: text.format_amount("n_params", 28_000), "28k parameters"),
        (lambda: text.format_amount("n_params", 999_999), "1M parameters"),
        (lambda: text.format_amount("train_flops", 1.3e12), "1.3 TFLOP"),
        (lambda: text.format_flops(0.0), "0 FLOP"),
        (lambda: text.format_flops(9.999e20), "1 ZFLOP"),
        (lambda: text.format_flops(math.nan), text.MISSING),
        (lambda: text.joined(["a"]), "a"),
        (lambda: text.joined("abc"), "a, b and c"),
        (lambda: text.joined("abcd", most=3), "a, b and 2 more"),
        (lambda: text.format_value("error", 0.0583), "5.83 %"),
        (lambda: text.format_value("loss", math.nan), text.MISSING),
        (lambda: text.format_value("loss", 2_213.0), "2,210"),
        (lambda: text.format_value("error", 12.3), "1,230 %"),
        (lambda: text.format_interval("error", 0.038, 0.1), "3.8 to 10 %"),
        (lambda: text.format_percent(0.95), "95 %"),
        (lambda: text.format_percent(0.999), "99.9 %"),
        (lambda: text.format_percent(0.0123, 2), "1.2 %"),
        (lambda: text.format_span(250, 250), "250"),
        (lambda: text.format_span(250, 64_000), "250 to 64,000"),
        (lambda: text.format_tick(2_000), "2k"),
        (lambda: text.format_tick(11_250), "11.25k"),
        (lambda: text.format_tick(124_321), "124k"),
        (lambda: text.format_whole(1_234_567), "1,234,567"),
        (lambda: text.listing(range(4), most=2), "0, 1 and 2 more"),
        (lambda: text.did_you_mean("chinchila", ["chinchilla", "broken"]), "; did you mean chinchilla?"),
        (lambda: text.did_you_mean("xyz", ["chinchilla"]), ""),
        (lambda: text.sentence("n_params grew"), "n_params grew."),
        (lambda: text.one_line(" a\n b"), "a b"),
    ],
)
def test_each_kind_of_value_has_one_form(call, written):
    assert call() == written


def test_wrapping_keeps_a_number_and_its_per_cent_sign_together():
    lines = text.wrap("x" * 10 + " 95 % of it", indent="  ", width=16)
    assert lines == ["  xxxxxxxxxx", "  95 % of it"]


def test_axis_labels_count_what_the_rows_count():
    assert text.axis_label("n_pretrain", "tokens") == "unique upstream tokens"
    assert text.axis_label("score") == "score"
