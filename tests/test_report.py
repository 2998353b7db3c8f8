"""The report of a whole study: its answers, its figures, and that its page loads nothing from elsewhere."""

import json
import re
import shlex
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
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
from hf_scaling.report.answers import BOUNDARY_STATUSES, LAW_STATUSES, answers, next_runs_statements, whole
from hf_scaling.report.figures import LIGHT, Drawing
from hf_scaling.report.grouping import groups_by_place
from hf_scaling.report.headlines import MOST, headlines
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
    assert any("100k parameters" in detail for detail in found["boundary"][0].details)
    text = " ".join(written[0].summary().split())
    groups = [group for each in found.values() for of in groups_by_place(each).values() for group in of]
    assert all(" ".join(group.text.split()) in text for group in groups)


def test_the_suggested_command_names_the_study_as_typed_below_its_folder(written, tmp_path, monkeypatch):
    part = written[0].parts[0]

    def named(study):
        details = [detail for one in next_runs_statements(part.next_runs, part.part, study) for detail in one.details]
        return next(shlex.split(detail.split("`")[1])[2] for detail in details if "`" in detail)

    (tmp_path / "studies" / "my photos").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert named(tmp_path / "studies" / "my photos") == named(Path("studies/my photos")) == "studies/my photos"
    # A page that travels must not show the folders of the machine that wrote it.
    assert named(tmp_path.parent) == named(None) == "RESULTS"


def test_the_first_screen_answers_in_few_sentences_beside_a_figure(written, page):
    lines = headlines(written[0])
    assert 3 <= len(lines) <= MOST == 6
    assert [line.code for line in lines][:1] == ["boundary"] and lines[0].key in page.split("<nav")[0]
    first = page[page.index('class="first"') : page.index("<nav")]
    assert first.count("<li>") == len(lines) and first.count("<figure>") == 1


def _with_statuses(findings, **statuses):
    """The findings with other statuses of the boundaries of the first part, by target."""
    part = findings.parts[0]
    boundaries = tuple(
        replace(one, boundary=replace(one.boundary, status=statuses[one.target]), by_size=())
        for one in part.boundaries
    )
    return replace(findings, parts=(replace(part, boundaries=boundaries), *findings.parts[1:]))


def test_a_first_sentence_names_the_target_where_targets_disagree(written):
    findings = _with_statuses(written[0], loss="distillation_always", error="not_resolved")
    of_code = {line.code: line.text for line in headlines(findings) if line.code in ("boundary", "open")}
    assert "by loss" in of_code["boundary"] and "error" not in of_code["boundary"]
    assert "glyphs (by error)" in of_code["open"]
    agreed = _with_statuses(written[0], loss="distillation_always", error="distillation_always")
    assert [line.text for line in headlines(agreed) if line.code == "boundary" and "by " in line.text] == []


@pytest.mark.parametrize(
    ("loss", "codes"), [("not_resolved", ["lead", "boundary"]), ("distillation_always", ["boundary", "boundary"])]
)
def test_who_is_ahead_comes_before_what_makes_no_difference(written, loss, codes):
    findings = _with_statuses(written[0], loss=loss, error="no_difference")
    own, part = findings.parts[0], replace(findings.parts[1], boundaries=())
    sizes = own.boundaries[0].boundary.difference.iloc[:3].assign(low=[0.1, -1, -2], high=[1, 1, -1])
    boundaries = tuple(replace(one, boundary=replace(one.boundary, difference=sizes)) for one in own.boundaries)
    lines = headlines(replace(findings, parts=(replace(own, boundaries=boundaries), part)))
    assert [line.code for line in lines][:2] == codes


def test_where_no_boundary_is_resolved_the_first_sentence_says_who_is_ahead_where(written):
    findings = _with_statuses(written[0], loss="not_resolved", error="not_resolved")
    own, part = findings.parts[0], replace(findings.parts[1], boundaries=())

    def lines(low, high):
        sizes = own.boundaries[0].boundary.difference.iloc[:3].assign(low=low, high=high)
        boundaries = tuple(replace(one, boundary=replace(one.boundary, difference=sizes)) for one in own.boundaries)
        return headlines(replace(findings, parts=(replace(own, boundaries=boundaries), part)))

    nothing = [line.code for line in lines([-1, -1, -1], [1, 1, 1])]
    assert nothing[0] == "open" and not {"boundary", "lead"} & set(nothing)
    lead, *others = lines([0.1, -1, -2], [1, 1, -1])
    first, _, last = own.boundaries[0].boundary.difference["n_pretrain"].iloc[:3]
    assert lead.code == "lead" and others[-1].code == "open"
    words = lead.text.replace(",", "").lower()
    assert f"distilled models are ahead at {first:.0f}" in words and f"plain models are ahead at {last:.0f}" in words
    leads = replace(
        own.boundaries[0].boundary,
        difference=own.boundaries[0].boundary.difference.iloc[:3].assign(low=[0.1, 0.1, -2], high=[1, 1, -1]),
    ).leads
    assert leads["distilled"][0][0] == first and leads["plain"] == [(last, last)]


def test_one_set_with_two_verdicts_on_its_gap_names_the_target_of_each(written):
    part = written[0].parts[1]
    verdicts = {"loss": "high", "error": "cannot_tell"}
    gaps = tuple(
        replace(gap, gaps=replace(gap.gaps, table=gap.gaps.table.assign(verdict=verdicts[gap.target])))
        for gap in part.transfer_gaps
    )
    lines = headlines(replace(written[0], parts=(written[0].parts[0], replace(part, transfer_gaps=gaps))))
    of_code = {line.code: line.text for line in lines if line.code in ("transfer", "open")}
    assert "digits (by loss" in of_code["transfer"] and "error" not in of_code["transfer"]
    assert "digits (by error" in of_code["open"]


@pytest.mark.parametrize("winner", ["labels", "cannot_tell"])
def test_where_the_gap_is_open_twice_the_data_may_still_say_where_to_go(written, winner):
    row = {"images_doubled": -0.05, "images_doubled_low": -0.1, "images_doubled_high": 0.01, "labels_doubled": -0.3}
    row |= {
        "labels_doubled_low": -0.4,
        "labels_doubled_high": -0.2,
        "helps_more": winner,
        "verdict": "cannot_tell",
        "over": "all",
    }
    part = written[0].parts[1]
    gaps = tuple(
        replace(gap, gaps=replace(gap.gaps, table=gap.gaps.table.assign(**row))) for gap in part.transfer_gaps
    )
    lines = headlines(replace(written[0], parts=(written[0].parts[0], replace(part, transfer_gaps=gaps))))
    of_code = {line.code: line.text for line in lines if line.code in ("transfer", "open")}
    assert ("transfer" in of_code) == (winner == "labels")
    assert ("label more" in of_code["open"]) == (winner == "cannot_tell")
    if winner == "labels":
        assert all(number in of_code["transfer"] for number in ("digits", "5 % (-1 to 10 %)", "30 % (20 to 40 %)"))


def test_the_worth_of_pretraining_is_that_of_the_largest_at_the_most_labels(written, monkeypatch):
    monkeypatch.setattr("hf_scaling.report.headlines.MOST", 12)
    gap = next(gap for gap in written[0].parts[1].transfer_gaps if (gap.target, gap.arm.label) == ("error", "plain"))
    worth = gap.gaps.worth.iloc[-1]
    text = next(line.text for line in headlines(written[0]) if line.code == "worth")
    names = ("n_finetune", "against", "worth", "worth_low", "worth_high")
    numbers = [format_count(whole(worth[name])) for name in names]
    assert [number for number in numbers if number not in text] == []


@pytest.mark.parametrize(("downstream", "codes"), [("digits", {"open"}), ("others", {"plan"})])
def test_no_plan_without_pretraining_is_said_first_where_there_is_one_with_it(written, monkeypatch, downstream, codes):
    monkeypatch.setattr("hf_scaling.report.headlines.MOST", 12)
    tuned = written[0].parts[1]

    def with_verdict(verdict):
        return tuple(replace(one, plan=replace(one.plan, verdict=verdict)) for one in tuned.plans if one.plan)

    values = {name: value for name, value in tuned.part.values.items() if name != "upstream"}
    scratch = replace(tuned.part, title="alone", values={**values, "downstream": downstream})
    parts = (
        replace(tuned, boundaries=(), transfer_gaps=(), plans=with_verdict("cannot_tell")),
        replace(tuned, part=scratch, boundaries=(), transfer_gaps=(), plans=with_verdict("clear")),
    )
    lines = headlines(replace(written[0], parts=parts))
    assert {line.code for line in lines} & {"open", "plan"} == codes


def test_a_mark_is_named_after_its_run(written, page):
    table = hs.ResultsTable(study().rows()).to_pandas()
    titles = re.findall(r"<use [^>]*><title>(.*?)</title>", page)
    named = {run_id for title in titles for run_id in re.findall(r"run (\w{16})", title)}
    assert named == set(table["run_id"])
    run = table.iloc[0]
    own = next(title for title in titles if run["run_id"] in title and "loss" in title)
    assert f"{run['loss']:.3g}" in own and run["model"] in own
    # Coordinates of figures are shortened, numbers of their texts are not.
    of_run = {title.rpartition("run ")[2]: title for title in titles if "loss" in title and "run " in title}
    losses = table.set_index("run_id")["loss"]
    assert [name for name, title in of_run.items() if f"loss {losses[name]:.3g}" not in title] == []


def test_a_slider_has_every_budget_of_the_frontier(written, page):
    boxes = re.findall(r'class="budgets" data-start="(\d+)"(.*?)</ol>', page, re.S)
    plans = [plan.plan for part in written[0].parts for plan in part.plans if plan.plan is not None]
    assert len(boxes) == len(plans) > 0
    for (start, box), plan in zip(boxes, plans):
        assert box.count("<li>") == len(plan.frontier)
        assert plan.frontier["budget"].iloc[int(start)] == pytest.approx(plan.budget)


def test_the_contents_list_leads_to_sections_of_the_page(page):
    contents = re.findall(r'<a href="#([^"]+)"', page[page.index("<nav") : page.index("</nav>")])
    assert len(contents) >= 6 and set(contents) <= set(re.findall(r'<section id="([^"]+)"', page))


def test_every_figure_says_what_to_see(page):
    figures = re.findall(r"<figure>.*?</figure>", page, re.S)
    assert all(re.search(r"</svg>\s*<figcaption>\w[^<]+", figure) for figure in figures)


def test_every_status_has_a_name_in_a_sentence():
    assert set(LAW_STATUSES) == set(LAW_VERDICTS)
    assert {"crossing", *BOUNDARY_STATUSES} == set(BOUNDARY_VERDICTS)


def test_the_page_loads_nothing_from_elsewhere(page):
    elements = Elements(page).found
    assert not {"link", "iframe", "img", "object"} & {name for name, _ in elements}
    scripts = [attributes for name, attributes in elements if name == "script"]
    assert scripts == [{}]
    assert not re.search(r"fetch\(|XMLHttpRequest|https?://(?!www.w3.org)", page.split("<script>")[1])
    addresses = [value for _, attributes in elements for name, value in attributes.items() if name in ("src", "href")]
    assert all(each.startswith("#") for each in addresses)
    assert not re.search(r"@import|url\((?!#)", page)
    assert len(page) < 3_000_000


def test_ids_that_figures_refer_to_are_there(page):
    referred = set(re.findall(r'(?:url\(#|href="#)([^")]+)', page))
    ids = re.findall(r' id="([^"]+)"', page)
    assert referred and referred <= set(ids)
    assert len(re.findall(r'<section id="([^"]+)"', page)) == len(set(re.findall(r'<section id="([^"]+)"', page)))


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


def test_names_that_do_not_fit_beside_each_other_are_below_each_other():
    heights = []
    for names in (("plain", "distilled"), ("plain, 11,250 upstream images", "distilled, 11,250 upstream images")):

        def paint(axes, colours, names=names):
            for name in names:
                axes.plot([1, 2], [1, 2], label=name)

        drawing = Drawing("name", "title", "heading", "", "x", "y", paint, n_series=2)
        heights.append(float(re.search(r'viewBox="0 0 [\d.]+ ([\d.]+)"', drawing.svg(LIGHT))[1]))
    assert heights[0] < heights[1]


def test_the_card_states_the_same(written):
    text = (written[1] / "report.md").read_text(encoding="utf-8")
    head, body = text.split("---\n", 2)[1:]
    assert yaml.safe_load(head)["tags"] == ["hf_scaling", "scaling-law"]
    for answer in answers(written[0]):
        groups = [group for of in groups_by_place(answer.statements).values() for group in of]
        assert all(escape_markdown(group.text) in body for group in groups)
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
    table = study(stages=("pretrain",))
    table.save(tmp_path)
    most = int(table.to_pandas()["n_pretrain"].max())
    counts = {name: {"train": most, "test": 100, "classes": 10} for name in set(table.to_pandas()["upstream"])}
    (tmp_path / "sources.json").write_text(json.dumps(counts))
    options = ["--target", "loss", "--bootstrap", "100", "--json"]
    with pytest.raises(SystemExit) as ended:
        main(["report", str(tmp_path), "--out", str(tmp_path / "r.html"), *options])
    assert ended.value.code == 0

    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    content = json.loads(capsys.readouterr().out, parse_constant=refuse)
    assert {"answers", "gaps", "parts", "facts", "files"} <= set(content)
    assert content["parts"][0]["boundaries"][0]["boundary"]["status"] == "crossing"
    plan = next(one for one in content["parts"][0]["plans"] if one.get("allocation"))
    assert plan["allocation"]["n_pretrain"] <= most
    assert "sizes_not_limited" not in {note["code"] for note in plan["notes"]}
    assert all(Path(each).exists() for each in content["files"])
    assert np.isfinite(content["parts"][0]["laws"][0]["fit"]["scores"]["log_rmse"])
