"""Cards: templates and their values, cards of other people, and the card and figure of a results table."""

import pytest
import yaml
from planted_rows import planted_rows

from hf_scaling.errors import InputError
from hf_scaling.files import shipped_folder
from hf_scaling.hub import cards
from hf_scaling.results import ResultsTable, new_row
from hf_scaling.results.card import draw, write_card

CONFIGS = [{"config_name": "default", "data_files": "results/results.parquet"}]


def frame_of(rows):
    return ResultsTable([new_row(row) for row in rows]).to_pandas()


def card_of(rows, grid=False, config_name="default"):
    figures = {config_name: f"figures/{config_name}.png"}
    return write_card("org/study", config_name, {config_name: frame_of(rows)}, figures, CONFIGS, grid)


def head_of(card):
    return yaml.safe_load(card.split("---\n")[1])


def tuned(**columns):
    """A fine-tuned row."""
    row = planted_rows()[0] | {"run_id": "tuned", "stage": "finetune", "n_finetune": 50, "downstream": "digits"}
    return row | columns


def test_a_template_is_filled_and_escaped_by_its_kind(tmp_path):
    (tmp_path / "note.md").write_text(
        "# {{ title }}\n{% for line in lines %}\n- {{ line | markdown }}\n{% endfor %}\n"
    )
    (tmp_path / "page.html").write_text("<p>{{ title }}</p>")
    values = {"title": "a & <b>", "lines": ["x|y", "{{ title }}"]}
    assert cards.render_template(tmp_path / "note.md", values) == "# a & <b>\n- x\\|y\n- {{ title }}\n"
    assert cards.render_template(tmp_path / "page.html", values) == "<p>a &amp; &lt;b&gt;</p>"


@pytest.mark.parametrize("name", ["student", "language_model", "scaling_law", "results_dataset", "report_space"])
def test_a_missing_value_is_one_line_with_card_and_value(name):
    with pytest.raises(InputError) as error:
        cards.render_card(name, {}, {})
    missing = "'law'" if name == "scaling_law" else "'title'"
    assert name in str(error.value) and missing in str(error.value) and "\n" not in str(error.value)


def test_a_template_that_does_not_exist_is_named():
    with pytest.raises(InputError, match="absent"):
        cards.render_card("absent", {}, {})


def test_templates_use_no_other_placeholders():
    templates = sorted(shipped_folder("model_cards").glob("*.md"))
    assert len(templates) >= 5
    assert not [path.name for path in templates if "${" in path.read_text(encoding="utf-8")]


def test_card_data_of_the_hub_is_a_head():
    from huggingface_hub import ModelCardData

    text = cards.with_head(ModelCardData(license="apache-2.0", tags=["a"]), "# Body\n")
    assert cards.read_card(text, "org/x") == ({"license": "apache-2.0", "tags": ["a"]}, "# Body\n")


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
    assert f"## Table `default`: {len(rows)} " in card_of(rows)


def test_the_card_sums_up_its_rows():
    card = card_of([*planted_rows(seeds=(0, 1)), tuned(recipe="ffff0000")], grid=True)
    head = head_of(card)
    assert (head["configs"], head["size_categories"]) == (CONFIGS, ["n<1K"])
    assert (head["license"], head["pretty_name"]) == ("apache-2.0", "study")
    summary = card.split("# study\n\n")[1].split("\n\n")[0]
    for value in (
        "65",
        "vit-30k, vit-100k, vit-300k, vit-1000k",
        "30,000",
        "1,000,000",
        "500 to 32,000",
        "digits",
        "50",
    ):
        assert value in summary
    assert "| pretrain | distilled | glyphs | – | 32 | 4 | 500 to 32,000 | 0 |" in card
    limits = card.split("## Limitations\n")[1]
    assert "0.0067" in limits and "2 seeds" in limits


def test_the_card_warns_where_a_stage_has_several_recipes():
    other = planted_rows()[0] | {"run_id": "x", "recipe": "other"}
    limits = [card_of(rows).split("## Limitations\n")[1] for rows in (planted_rows(), [*planted_rows(), other])]
    assert ["recipe" in text for text in limits] == [False, True]


def test_examples_name_repository_and_table():
    default, other = card_of(planted_rows(), grid=True), card_of(planted_rows(), config_name="own")
    assert 'ResultsTable.load("org/study")' in default and 'load_dataset("org/study", "default"' in default
    assert "hf-scaling pull org/study --out studies/study" in default and "hf-scaling pull" not in other
    assert 'ResultsTable.load("org/study", config_name="own")' in other
    assert "hf-scaling push studies/mine/results --repo org/study --config own\n```" in other


def test_a_name_with_a_bar_or_a_line_break_stays_in_its_cell():
    assert cards.markdown_table(["a"], [["x|y\nz"], [None], [0.123456]]).splitlines()[2:] == [
        "| x\\|y z |",
        "| – |",
        "| 0.1235 |",
    ]


def test_a_renewed_card_preserves_what_people_wrote():
    first = cards.renew_card("", card_of(planted_rows()), "org/study")
    edited = first.replace("license: apache-2.0", "license: cc0-1.0\nown_key: 7").replace("tags:\n", "tags:\n- ours\n")
    begin = edited.index("<!--")
    edited = f"{edited[:begin]}Before.\n\n{edited[begin:]}\nAfter.\n"
    second = cards.renew_card(edited, card_of(planted_rows()[:3]), "org/study")
    assert "`: 3 runs" in second and "`: 32 runs" not in second
    assert second.index("Before.") < second.index("# study") < second.index("After.")
    head = head_of(second)
    assert (head["license"], head["own_key"]) == ("cc0-1.0", 7)
    assert "ours" in head["tags"]
    assert cards.renew_card(second, card_of(planted_rows()[:3]), "org/study") == second
    assert cards.renew_card("# Theirs\n", card_of([]), "org/study").rstrip().endswith("# Theirs")


def test_a_card_of_an_earlier_version_is_renewed_in_its_place():
    begin, end = "<!-- made by hf_scaling, made anew with each push -->", "<!-- end of what hf_scaling made -->"
    earlier = f"Mine.\n\n{begin}\n\nold\n\n{end}\n"
    renewed = cards.renew_card(earlier, cards.with_head({}, "new\n"), "org/study")
    assert "old" not in renewed and renewed.index("Mine.") < renewed.index("new") and renewed.count("<!--") == 2


@pytest.mark.parametrize("head", ["a: !!python/object/apply:os.system ['true']", "- a", "a: [", "just text"])
def test_a_card_whose_head_is_no_plain_mapping_is_refused(head):
    with pytest.raises(InputError, match=r"org/study: .*README\.md"):
        cards.read_card(f"---\n{head}\n---\nBody\n", "org/study")
