"""The report of a whole study: what it answers, what it draws, and that it stands alone."""

import json
import re
import sys
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import yaml

import hf_scaling as hs
from hf_scaling.cli import main
from hf_scaling.report.page import content_of

sys.path.insert(0, str(Path(__file__).parent / "support"))
from studies import crossing, study


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    findings = hs.write_report(study(), folder / "report.html", bootstrap=200, budget=500, costs={"label": 0.5})
    return findings, folder


@pytest.fixture(scope="module")
def page(written):
    return (written[1] / "report.html").read_text(encoding="utf-8")


class Elements(HTMLParser):
    """Every element's name and attributes; refuses a page whose elements do not close."""

    VOID = frozenset({"meta", "br", "img", "link", "hr", "input"})

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.found, self.open = [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_planted_boundary_is_the_first_answer(written, page):
    part = content_of(written[0])["parts"][0]
    boundary = next(each["boundary"] for each in part["boundaries"] if each["target"] == "loss")
    assert boundary["status"] == "crossing"
    assert boundary["low"] < crossing() < boundary["high"]
    first = re.search(r'class="say">(.*?)</p>', page).group(1)
    assert "By loss, distillation stops paying at" in first


def test_every_question_is_answered_in_words(written):
    text = written[0].summary()
    for words in (
        "Where does distillation stop paying?",
        "How good does it get?",
        "What is pre-training worth?",
        "By loss, plain: pre-train more.",
        "What should the next unit of budget buy?",
        "For 500:",
        "Which runs next?",
        "To narrow the boundary by loss:",
        "fitted to the smaller scales",
        "By size: 100,000 parameters",
    ):
        assert words in text


def test_the_page_stands_alone(page):
    elements = Elements(page).found
    assert not {"script", "link", "iframe", "img", "object"} & {name for name, _ in elements}
    addresses = [value for _, attributes in elements for name, value in attributes.items() if name in ("src", "href")]
    assert all(each.startswith("#") for each in addresses)
    assert not re.search(r"@import|url\((?!#)", page)
    assert len(page) < 3_000_000


def test_ids_that_figures_refer_to_are_there(page):
    referred = set(re.findall(r'(?:url\(#|href="#)([^")]+)', page))
    assert referred and referred <= set(re.findall(r' id="([^"]+)"', page))


def test_every_figure_is_named_and_its_text_is_large_enough_for_a_phone(page):
    figures = re.findall(r"<figure>(<svg.*?</svg>)", page, re.S)
    assert len(figures) > 20
    for figure in figures:
        root = ElementTree.fromstring(figure)
        assert root.get("role") == "img" and root.get("aria-label")
        width = float(root.get("viewBox").split()[2])
        sizes = [float(size) for size in re.findall(r"font-size: ([\d.]+)px", figure)]
        # A phone's column is 358 pixels wide.
        assert min(sizes) * 358 / width >= 11


def test_figures_follow_the_page_and_files_do_not(written, page):
    assert "var(--accent)" in page and "prefers-color-scheme: dark" in page
    files = list((written[1] / "report_figures").glob("*.svg"))
    assert len(files) == page.count("<figure>")
    for file in files:
        assert "var(--" not in file.read_text(encoding="utf-8")
        assert ElementTree.parse(file).getroot().tag.endswith("svg")


def test_each_kind_of_figure_is_drawn(written):
    names = " ".join(sorted(file.stem for file in (written[1] / "report_figures").glob("*.svg")))
    for kind in ("difference-loss", "error-n_pretrain", "loss-n_finetune", "predicted-", "residuals-", "frontier-"):
        assert kind in names


def test_the_card_says_the_same(written):
    text = (written[1] / "report.md").read_text(encoding="utf-8")
    head, body = text.split("---\n", 2)[1:]
    assert yaml.safe_load(head)["tags"] == ["hf_scaling", "scaling-law"]
    assert "By loss, distillation stops paying at" in body
    for path in re.findall(r"\]\(([^)]+\.svg)\)", body):
        assert (written[1] / path).is_file()


def test_everything_that_a_report_must_state_is_stated(page):
    for words in ("how collected", "objective", "algorithm", "held out", "versions", "devices", "seeds", "starts"):
        assert words in page
    assert "top-1 error rate over the evaluation split" in page and "torch 2.0" in page


def test_the_plan_keeps_within_its_budget(written):
    plans = [plan for part in written[0].parts for plan in part.spending if plan.plan is not None]
    assert plans and all(each.asked and each.plan.cost["total"] <= 500 * (1 + 1e-9) for each in plans)


def test_equal_tables_give_equal_files(tmp_path):
    table = study(stages=("pretrain",))
    for name in ("a", "b"):
        hs.write_report(table, tmp_path / name / "report.html", target="loss", bootstrap=100)
    pages = [(tmp_path / name / "report.html").read_bytes() for name in ("a", "b")]
    assert pages[0] == pages[1]


def test_the_command_prints_the_answers_as_json(tmp_path, capsys):
    study(stages=("pretrain",)).save(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(
            [
                "report",
                str(tmp_path),
                "--out",
                str(tmp_path / "r.html"),
                "--target",
                "loss",
                "--bootstrap",
                "100",
                "--json",
            ]
        )
    assert ended.value.code == 0

    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    said = json.loads(capsys.readouterr().out, parse_constant=refuse)
    assert {"answers", "gaps", "parts", "facts", "files"} <= set(said)
    assert said["parts"][0]["boundaries"][0]["boundary"]["status"] == "crossing"
    assert all(Path(each).exists() for each in said["files"])
    assert np.isfinite(said["parts"][0]["laws"][0]["fit"]["scores"]["log_rmse"])
