"""Reports of tables that lack something, mix something, or hold what nobody expected."""

import json
import re
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

import hf_scaling as hs
from hf_scaling.cli import main
from hf_scaling.report import collect_findings, sections
from hf_scaling.report.answers import BOUNDARY_STATUSES, Statement, answers, describe_gap
from hf_scaling.report.gaps import Gap, find_gaps
from hf_scaling.report.grouping import groups_by_place
from hf_scaling.report.headlines import headlines
from hf_scaling.report.page import content_of
from hf_scaling.report.parts import split_table
from hf_scaling.report.sections import Section, Table
from hf_scaling.results import ResultsTable, new_row
from hf_scaling.runner import loop

sys.path.insert(0, str(Path(__file__).parent / "support"))
from studies import rows, study

HOSTILE = '<script>alert("x")</script> | ] $x_1$ & `*`'


def curve(**columns):
    x = np.array([100.0, 300, 1000, 3000, 10_000])
    return pd.DataFrame({"n_pretrain": x, "loss": 0.3 + 12 * x**-0.4, **columns})


def findings_of(table, **questions):
    return collect_findings(table, **{"bootstrap": 100, "target": "loss", **questions})


def gaps_of(table):
    return {gap.code: gap for gap in find_gaps(split_table(table if hasattr(table, "iloc") else table.to_pandas()))}


def pretrain(keep=lambda row: True, **settings):
    return hs.ResultsTable(row for row in rows(stages=("pretrain",), **settings) if keep(row))


@pytest.mark.parametrize(
    "table, code, values",
    [
        (lambda: pretrain(lambda r: r["arm"] == "plain"), "no_distilled", ("250, 1,000", "`arms`")),
        (lambda: pretrain(lambda r: r["arm"] == "distilled"), "no_plain", ("250, 1,000", "`plain`")),
        (lambda: pretrain(lambda r: r["model"] == "vit-200k"), "one_model_size", ("100k", "400k")),
        (lambda: pretrain(seeds=1), "one_seed", ("250, 4,000, 64,000",)),
        (lambda: pretrain(lambda r: r["n_pretrain"] < 2_000), "few_sizes", ("`n_pretrain`", "4,000, 16,000")),
        (pretrain, "no_finetunes", ("`n_finetune`", "4,000, 16,000, 64,000")),
        (lambda: curve(), "no_distilled", ("`plain`", "`distilled`", "`arm`")),
    ],
)
def test_a_gap_names_the_runs_that_would_close_it(table, code, values):
    runs = gaps_of(table())[code].runs
    assert [value for value in values if value not in runs] == []


def test_only_what_is_missing_is_named():
    gaps = gaps_of(study())
    assert {code: gap.place for code, gap in gaps.items()} == {"one_seed": "glyphs, then digits"}


def test_the_summary_includes_the_gaps():
    findings = findings_of(curve())
    text = " ".join(findings.summary().split())
    assert findings.gaps and all(" ".join(describe_gap(gap).split()) in text for gap in findings.gaps)


def test_a_csv_of_two_columns_gets_a_report(tmp_path, capsys):
    curve().rename(columns={"n_pretrain": "images"}).to_csv(tmp_path / "mine.csv", index=False)
    arguments = ["report", str(tmp_path / "mine.csv"), "--map", "n_pretrain=images", "--out", str(tmp_path / "r.html")]
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--bootstrap", "100"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert f"{curve()['loss'].min():.3g}" in said and str(tmp_path / "r.html") in said
    assert (tmp_path / "r.html").is_file() and (tmp_path / "r.md").is_file()
    assert list((tmp_path / "r_figures").glob("*loss-n_pretrain*.svg"))


@pytest.mark.parametrize("table", [curve()[:1], curve()[:2], pd.DataFrame({"loss": [1.0, 2.0]})])
def test_too_few_runs_for_a_law_are_a_finding(table, tmp_path):
    findings = hs.write_report(table, tmp_path / "r.html", bootstrap=100)
    law = findings.parts[0].laws[0]
    assert law.problem if law.fit is None else law.fit.status == "not_identifiable"
    assert (tmp_path / "r.html").is_file()


def test_a_target_below_zero_is_reported_as_far_as_it_goes(tmp_path):
    table = curve().assign(score=lambda t: t["loss"] - 1.0).drop(columns="loss")
    findings = hs.write_report(table, tmp_path / "r.html", target="score", objective="mse", bootstrap=100)
    assert findings.parts[0].laws[0].fit is not None
    law = hs.write_report(table, tmp_path / "r.html", target="score", bootstrap=100).parts[0].laws[0]
    assert law.fit.settings["objective"] == "mse" and "not_positive" in law.fit.note_codes


def test_figures_of_an_earlier_report_are_removed(tmp_path):
    hs.write_report(curve(upstream="before"), tmp_path / "r.html", bootstrap=100)
    (tmp_path / "r_figures" / "mine.svg").write_text("<svg/>")
    hs.write_report(curve(upstream="after"), tmp_path / "r.html", bootstrap=100)
    names = {file.name for file in (tmp_path / "r_figures").iterdir()}
    assert "mine.svg" in names and not any("before" in name for name in names)


def test_names_are_text_and_nothing_else(tmp_path):
    table = curve(model=HOSTILE, upstream=HOSTILE, arm="plain", device="\x1b[1m")
    hs.write_report(table, tmp_path / "r.html", bootstrap=100, title=HOSTILE)
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert page.count("<script") == 1 and "&lt;script&gt;" in page
    for figure in re.findall(r"<figure>(<svg.*?</svg>)", page, re.S):
        ElementTree.fromstring(figure)
    card = (tmp_path / "r.md").read_text(encoding="utf-8")
    assert "<script" not in card and "\\|" in card
    for file in (tmp_path / "r_figures").iterdir():
        assert re.fullmatch(r"[\w-]+\.svg", file.name)


def test_recipes_and_sets_are_sections_of_their_own():
    table = hs.ResultsTable(
        {**row, "run_id": f"{i}{row['run_id']}", "recipe": recipe, "upstream": upstream}
        for i, (recipe, upstream) in enumerate([("short", "glyphs"), ("long", "glyphs"), ("short", "photos")])
        for row in rows(stages=("pretrain",), seeds=1)
    )
    findings = findings_of(table)
    titles = [found.part.title for found in findings.parts]
    # Two recipes of one set are distinguished by it.
    assert len(set(titles)) == 3 and sum("recipe" in title for title in titles) == 2
    assert [len(found.boundaries) for found in findings.parts] == [1, 1, 1]
    assert len(findings_of(table, upstream="photos").parts) == 1


def test_the_same_answer_is_said_once():
    sets = ("photos", "signs")
    generator = np.random.default_rng(0)
    table = hs.ResultsTable(
        {
            **row,
            "run_id": f"{i}{row['run_id'][1:]}",
            "downstream": name,
            "loss": row["loss"] * float(np.exp(0.2 * generator.standard_normal())),
        }
        for i, name in enumerate(sets)
        for row in rows(stages=("finetune",), seeds=1)
    )
    findings = findings_of(table)
    stated = {answer.code: answer.statements for answer in answers(findings)}
    statuses = {found.boundary.status for part in findings.parts for found in part.boundaries}
    assert statuses == {"not_resolved"} and len(stated["boundary"]) == 2
    (place, groups), *others = groups_by_place(stated["boundary"]).items()
    assert others == [] and len(groups) == 1 and all(name in place for name in sets)
    assert groups[0].key == BOUNDARY_STATUSES["not_resolved"]
    assert " ".join(findings.summary().split()).count(groups[0].text) == 1
    # What differs is a table: one row for each set and arm.
    gaps = [group for of in groups_by_place(stated["transfer"]).values() for group in of]
    assert sum(len(group.rows) or 1 for group in gaps) == len(stated["transfer"]) == 4
    lines = [line for line in headlines(findings) if line.code in ("boundary", "open")]
    assert [line.code for line in lines] == ["open"] and lines[0] == headlines(findings)[0]


def test_equal_facts_are_one_line_and_names_with_commas_stay_apart():
    facts = [("Compute", "10"), ("Share", "1 %")]
    of_place = {"a, then b": facts, "a, then c": facts, "d": [("Compute", "20"), ("Share", "2 %")]}
    statements = [
        Statement("no.", (f"Only {place[-1]}.",), place, "no", "loss", facts=tuple(values))
        for place, values in of_place.items()
    ]
    ((place, (group,)),) = groups_by_place(statements).items()
    assert place.split("; ") == list(of_place)
    lines = group.each()
    assert len(group.rows) == 3 and lines[0].startswith("a, then b; a, then c: ") and lines[1].startswith("d: ")
    assert [line for line in lines if "10" in line] == lines[:1]


def test_a_section_is_on_the_page_and_in_the_card(tmp_path, monkeypatch):
    table = Table("Means", ["arm", "loss"], [["plain", "0.5"], ["distilled", "0.4"]])
    section = Section("mine", "Mine & yours", "What it says.", (table,))
    monkeypatch.setattr(sections, "SECTIONS", [lambda findings: section, lambda findings: None])
    findings = hs.write_report(curve(), tmp_path / "r.html", bootstrap=100)
    page, card = ((tmp_path / f"r.{end}").read_text(encoding="utf-8") for end in ("html", "md"))
    assert '<section id="mine">' in page and "Mine &amp; yours" in page and '<a href="#mine">' in page
    assert "| distilled | 0.4 |" in card
    assert [one["code"] for one in content_of(findings)["sections"]] == ["mine"]


def test_two_ways_of_distilling_are_two_boundaries():
    other = [{**r, "run_id": "b" + r["run_id"], "teacher_n_params": 60_000} for r in rows(stages=("pretrain",))]
    table = hs.ResultsTable([*rows(stages=("pretrain",)), *(r for r in other if r["arm"] == "distilled")])
    found = findings_of(table).parts[0]
    assert [arm.label for arm in found.part.arms][1:] == [
        "distilled (teacher 30k parameters)",
        "distilled (teacher 60k parameters)",
    ]
    assert [each.boundary.status for each in found.boundaries] == ["crossing", "crossing"]


def test_without_a_budget_the_frontier_is_over_flops_and_the_report_shows_the_options():
    findings = findings_of(pretrain())
    plan = findings.parts[0].plans[0]
    assert not plan.asked and plan.plan.costs == {"flop": 1.0}
    text = next(answer for answer in answers(findings) if answer.code == "plan").statements[0]
    assert "FLOP" in text.text and any("--budget" in detail for detail in text.details)


@pytest.mark.parametrize(
    "arguments, name",
    [
        ({"target": "accuracy"}, "'accuracy'"),
        ({"arm": "soft"}, "arm='soft'"),
        ({"upstream": "photos"}, "'upstream'"),
        ({"bootstrap": 10}, "bootstrap"),
        ({"objective": "least"}, "'least'"),
        ({"level": 2.0}, "level"),
        ({"costs": {"label": 1.0}}, "budget="),
        ({"budget": -1.0, "costs": {"label": 1.0}}, "budget .*-1"),
        ({"budget": 5.0, "costs": {"euro": 1.0}}, "'euro'"),
        ({"budget": 5.0}, "price"),
    ],
)
def test_invalid_arguments_are_named(arguments, name, tmp_path):
    with pytest.raises(hs.InputError, match=name):
        hs.write_report(curve(arm="plain"), tmp_path / "r.html", **arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_table_without_rows_and_a_page_of_another_kind_are_refused(tmp_path):
    with pytest.raises(hs.InputError, match="no rows"):
        hs.write_report(curve()[:0], tmp_path / "r.html")
    with pytest.raises(hs.InputError, match=r"report\.pdf"):
        hs.write_report(curve(), tmp_path / "report.pdf")


@pytest.fixture
def finished(tmp_path, monkeypatch):
    """A study that is complete, so that `hf-scaling run` only has to say so."""
    pretrain(lambda r: r["n_pretrain"] < 20_000).save(tmp_path / "study" / "results")
    (tmp_path / "grid.yaml").write_text("models: [vit-30k]\nn_pretrain: [50]\npretrain: {source: glyphs}\n")
    monkeypatch.setattr(loop, "run_grid", lambda *given, **more: None)
    return ["run", str(tmp_path / "grid.yaml"), "--out", str(tmp_path / "study")], tmp_path / "study" / "report.html"


def ended(argv):
    with pytest.raises(SystemExit) as end:
        main(argv)
    return end.value.code


def test_a_run_ends_with_a_report_which_is_not_written_twice(finished, capsys):
    argv, page = finished
    assert ended(argv) == 0
    said = capsys.readouterr().out
    assert str(page) in said and [line.split()[0] for line in said.splitlines()[-3:]] == ["found", "found", "report"]
    before = page.stat().st_mtime_ns
    assert ended(argv) == 0 and page.stat().st_mtime_ns == before
    assert str(page) in capsys.readouterr().out


def test_a_report_that_fails_loses_neither_table_nor_status(finished, capsys, monkeypatch):
    def fail(*given, **more):
        raise ZeroDivisionError("nothing\nto divide by")

    argv, page = finished
    monkeypatch.setattr("hf_scaling.report.write_report", fail)
    assert ended(argv) == 0
    said = capsys.readouterr()
    assert "ZeroDivisionError: nothing to divide by" in said.err and "Traceback" not in said.err
    assert list((page.parent / "results").glob("*.parquet"))
    assert not page.exists()


def test_findings_are_json_even_of_odd_tables(tmp_path, capsys):
    curve(model=[None, "a", "a", "b", "b"], when=pd.Timestamp("2026-01-01")).to_parquet(tmp_path / "odd.parquet")
    status = ended(["report", str(tmp_path / "odd.parquet"), "--out", str(tmp_path / "r.html"), "--json"])
    assert status == 0
    assert len(json.loads(capsys.readouterr().out)["parts"]) == 3


def test_every_gap_is_in_the_docs():
    page = (Path(__file__).parents[1] / "docs" / "report.md").read_text(encoding="utf-8")
    codes = re.search(r"code: ([^.]+)\.", Gap.__doc__)[1].replace(" or ", ", ").split(", ")
    assert len(codes) == 8
    assert [code for code in codes if f"`{code.strip()}`" not in page] == []


def test_a_report_clusters_the_rows_of_laws_and_gaps_by_a_named_column():
    generator, rows = np.random.default_rng(0), []
    for batch, n_pretrain in enumerate(np.geomspace(1e3, 1e6, 8)):
        luck = 0.05 * generator.standard_normal()
        for seed in range(4):
            loss = (0.5 + 10 * n_pretrain**-0.3) * np.exp(luck + 0.005 * generator.standard_normal())
            rows.append({"n_pretrain": n_pretrain, "loss": loss, "seed": seed, "batch": f"b{batch}"})
    table = pd.DataFrame(rows)
    notes = {}
    for cluster in (None, "batch"):
        findings = collect_findings(table, target="loss", cluster=cluster, bootstrap=100)
        laws = [law for part in findings.parts for law in part.laws]
        notes[cluster] = {code for law in laws if law.fit for code in law.fit.note_codes}
    assert "clusters" in notes["batch"] and "clusters" not in notes[None]
    with pytest.raises(hs.InputError, match="nothing"):
        collect_findings(table, target="loss", cluster="nothing", bootstrap=100)


def test_the_report_compares_with_a_linear_probe(tmp_path):
    rows = []
    for n in (20, 80, 320):
        cells = [("scratch", 0, 0.8), ("full", 100, 0.4), ("full", 1000, 0.2), ("head", 1000, 0.3)]
        for recipe, n_pretrain, error in cells:
            run_id = f"{recipe}{n_pretrain}x{n}".ljust(16, "0")
            rows.append(
                new_row(
                    {"run_id": run_id, "stage": "finetune", "arm": "plain", "model": "vit-50k", "n_params": 50_000}
                    | {"recipe": "full" if recipe == "scratch" else recipe, "downstream": "digits", "seed": 0}
                    | {"upstream": None if n_pretrain == 0 else "glyphs", "n_pretrain": n_pretrain, "n_finetune": n}
                    | {"eval_split": "test", "loss": error * n**-0.1, "error": error * n**-0.1}
                    | {"task": "image_classification"}
                )
            )
            folder = tmp_path / "runs" / run_id
            folder.mkdir(parents=True)
            rule = {"train_part": "head"} if recipe == "head" else {}
            (folder / "run.yaml").write_text(yaml.safe_dump({"spec": {"rule": rule}}))
    ResultsTable(rows).save(tmp_path / "results")
    (tmp_path / "sources.json").write_text(json.dumps({"digits": {"train": 1297, "test": 500, "classes": 10}}))
    findings = collect_findings(tmp_path, target="error", bootstrap=100)
    (section,) = [section for section in sections.sections_of(findings) if section.code == "linear-probe"]
    (table,) = section.tables
    assert len(table.heads) == 3 and [row[0] for row in table.rows] == ["20", "80", "320"]
    last = [float(cell.split()[0]) for cell in table.rows[-1][1:]]
    assert last == pytest.approx([100 * error * 320**-0.1 for error in (0.3, 0.2)], rel=0.02)
