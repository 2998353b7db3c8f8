"""The report of a whole study: its answers, its figures, and that its page loads nothing from elsewhere."""

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
from hf_scaling.boundary.find import VERDICTS as BOUNDARY_VERDICTS
from hf_scaling.cli import main
from hf_scaling.fitting.law_fit import VERDICTS as LAW_VERDICTS
from hf_scaling.hub.cards import escape_markdown
from hf_scaling.planning.verdicts import GAP_VERDICTS
from hf_scaling.report.answers import BOUNDARY_STATUSES, LAW_STATUSES, answers
from hf_scaling.report.page import content_of
from hf_scaling.text import format_count

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
    first = answers(written[0])[0]
    assert (first.code, first.statements[0].place) == ("boundary", "glyphs")
    # The number that a hurried reader should see.
    assert format_count(boundary["n_pretrain"]) in first.statements[0].key
    assert f"<b>{first.statements[0].key}</b>" in page.split('class="statement">')[1]


def test_every_question_is_answered(written):
    found = {answer.code: answer.statements for answer in answers(written[0])}
    assert list(found) == ["boundary", "performance", "transfer", "plan", "next"]
    assert found["transfer"][0].key == GAP_VERDICTS["low"]
    planned = [statement for statement in found["plan"] if statement.key]
    assert planned and all("500" in statement.text for statement in planned)
    assert any("`hf-scaling suggest" in detail for detail in found["next"][0].details)
    assert any("100,000 parameters" in detail for detail in found["boundary"][0].details)
    text = " ".join(written[0].summary().split())
    assert all(" ".join(statement.text.split()) in text for each in found.values() for statement in each)


def test_every_status_has_a_name_in_a_sentence():
    assert set(LAW_STATUSES) == set(LAW_VERDICTS)
    assert {"crossing", *BOUNDARY_STATUSES} == set(BOUNDARY_VERDICTS)


def test_the_page_loads_nothing_from_elsewhere(page):
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


def test_the_card_states_the_same(written):
    text = (written[1] / "report.md").read_text(encoding="utf-8")
    head, body = text.split("---\n", 2)[1:]
    assert yaml.safe_load(head)["tags"] == ["hf_scaling", "scaling-law"]
    for answer in answers(written[0]):
        assert all(escape_markdown(statement.text) in body for statement in answer.statements)
    figures = re.findall(r"\]\(([^)]+\.svg)\)", body)
    assert len(figures) > 20 and all((written[1] / path).is_file() for path in figures)
    assert "\n\n\n" not in body


def test_everything_that_a_report_must_state_is_stated(written, page):
    facts = dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", page))
    stated = {
        "runs",
        "models",
        "sizes",
        "evaluated on",
        "seeds",
        "devices",
        "versions",
        "how collected",
        "fit: objective",
    }
    assert stated | {"fit: algorithm", "fit: held out", "fit: versions"} <= set(facts)
    assert "torch 2.0" in facts["versions"] and "95" in page.split("<footer>")[1]
    assert all(f"{name}:" in facts["how collected"] for name in ("loss", "error", "n_params", "train_flops"))


def test_the_plan_keeps_within_its_budget(written):
    plans = [plan for part in written[0].parts for plan in part.plans if plan.plan is not None]
    assert plans and all(each.asked and each.plan.cost["total"] <= 500 * (1 + 1e-9) for each in plans)


def test_equal_tables_give_equal_files(tmp_path):
    table = study(stages=("pretrain",))
    for name in ("a", "b"):
        hs.write_report(table, tmp_path / name / "report.html", target="loss", bootstrap=100)
    pages = [(tmp_path / name / "report.html").read_bytes() for name in ("a", "b")]
    assert pages[0] == pages[1]


def test_the_command_prints_the_answers_as_json(tmp_path, capsys):
    study(stages=("pretrain",)).save(tmp_path)
    options = ["--target", "loss", "--bootstrap", "100", "--json"]
    with pytest.raises(SystemExit) as ended:
        main(["report", str(tmp_path), "--out", str(tmp_path / "r.html"), *options])
    assert ended.value.code == 0

    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    content = json.loads(capsys.readouterr().out, parse_constant=refuse)
    assert {"answers", "gaps", "parts", "facts", "files"} <= set(content)
    assert content["parts"][0]["boundaries"][0]["boundary"]["status"] == "crossing"
    assert all(Path(each).exists() for each in content["files"])
    assert np.isfinite(content["parts"][0]["laws"][0]["fit"]["scores"]["log_rmse"])
