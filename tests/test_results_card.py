"""The card and the figure of a results table: of whatever rows there are, and the same for the same rows."""

import pytest
import yaml
from planted_rows import planted_rows

from hf_scaling.errors import InputError
from hf_scaling.hub import cards
from hf_scaling.results import ResultsTable, new_row
from hf_scaling.results.card import draw, in_words, write_card

CONFIGS = [{"config_name": "default", "data_files": "results/results.parquet"}]


def frame_of(rows):
    return ResultsTable([new_row(row) for row in rows]).to_pandas()


def card_of(rows, grid=False):
    return write_card(
        "org/study", "default", {"default": frame_of(rows)}, {"default": "figures/default.png"}, CONFIGS, grid
    )


def tuned(**columns):
    """A fine-tuned row."""
    row = planted_rows()[0] | {"run_id": "tuned", "stage": "finetune", "n_finetune": 50, "downstream": "digits"}
    return row | columns


def test_the_same_rows_give_the_same_figure():
    frame = frame_of([*planted_rows(), tuned()])
    first = draw(frame)
    assert first.startswith(b"\x89PNG")
    assert draw(frame) == first
    assert draw(frame_of(planted_rows()[:5])) != first


@pytest.mark.parametrize(
    ("rows", "has_figure"),
    [
        ([], False),
        ([{"run_id": "a"}], False),
        ([{"run_id": "a", "error": 0.0, "n_pretrain": 10}], False),
        ([{"run_id": "a", "loss": 2.5, "n_pretrain": 10}], True),
        ([tuned()], True),
        ([tuned(n_pretrain=None, model=None, n_params=None, upstream=None, n_eval=None)], True),
        ([{"run_id": "a", "stage": "pretrain", "error": float("nan"), "loss": 1.0, "n_pretrain": 10}], True),
    ],
    ids=["none", "bare", "zero", "loss", "tuned", "unknown", "nan"],
)
def test_odd_tables_get_a_card_too(rows, has_figure):
    assert (draw(frame_of(rows)) is not None) == has_figure
    assert f"{len(rows)} runs" in card_of(rows)


def test_the_card_sums_up_its_rows():
    card = card_of([*planted_rows(seeds=(0, 1)), tuned(recipe="ffff0000")], grid=True)
    head = yaml.safe_load(card.split("---\n")[1])
    assert (head["configs"], head["size_categories"]) == (CONFIGS, ["n<1K"])
    for words in (
        "65 runs of vit-30k, vit-100k, vit-300k, vit-1000k, 30,000 to 1,000,000 parameters",
        "pretrained on glyphs (n_pretrain 500 to 32,000)",
        "fine-tuned on digits (n_finetune 50)",
        "| pretrain | distilled | glyphs | – | 32 | 4 | 500 to 32,000 | 0 |",
        "standard error of 0.0067",
        "2 seeds",
        "hf-scaling pull org/study",
    ):
        assert words in card
    assert "training rules" not in card
    assert "Up to 2 training rules" in card_of(
        [*planted_rows(), planted_rows()[0] | {"run_id": "x", "recipe": "other"}]
    )


def test_a_name_with_a_bar_or_a_line_break_stays_in_its_cell():
    assert cards.markdown_table(["a"], [["x|y\nz"], [None], [0.123456]]).splitlines()[2:] == [
        "| x\\|y z |",
        "| – |",
        "| 0.1235 |",
    ]


def test_a_card_made_anew_keeps_what_people_wrote():
    first = cards.renew_card("", card_of(planted_rows()), "org/study")
    edited = first.replace("license: apache-2.0", "license: cc0-1.0\nown_key: 7").replace("tags:\n", "tags:\n- ours\n")
    begin = edited.index("<!--")
    edited = f"{edited[:begin]}Before.\n\n{edited[begin:]}\nAfter.\n"
    second = cards.renew_card(edited, card_of(planted_rows()[:3]), "org/study")
    assert "3 runs" in second and "32 runs" not in second
    assert second.index("Before.") < second.index("# study") < second.index("After.")
    head = yaml.safe_load(second.split("---\n")[1])
    assert (head["license"], head["own_key"]) == ("cc0-1.0", 7)
    assert "ours" in head["tags"]
    assert cards.renew_card(second, card_of(planted_rows()[:3]), "org/study") == second
    assert cards.renew_card("# Theirs\n", card_of([]), "org/study").rstrip().endswith("# Theirs")


@pytest.mark.parametrize("head", ["a: !!python/object/apply:os.system ['true']", "- a", "a: [", "just text"])
def test_a_card_whose_head_is_no_plain_mapping_is_refused(head):
    with pytest.raises(InputError, match=r"org/study: the head of README\.md"):
        cards.read_card(f"---\n{head}\n---\nBody\n", "org/study")


def test_sizes_read_as_people_write_them():
    sizes = {50: "50", 12_800: "12,800", 116_890: "117,000", 3_200_000: "3.2M", 2e10: "20B", 1.5e12: "1.5T"}
    assert {size: in_words(size) for size in sizes} == sizes
