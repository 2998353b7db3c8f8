"""Fits, boundaries and plans of a study's folder, whose fine-tuned rows include linear probes of another recipe."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

import hf_scaling as hs
from hf_scaling.cli import main
from hf_scaling.report.sections import sections_of
from hf_scaling.results import ResultsTable, new_row
from hf_scaling.results.probes import PROBES, find_probes

LEVELS, LABELS = (200, 400, 800, 1600, 3200, 6400), (20, 80, 320, 1280)


def loss_of(n_pretrain, n_finetune):
    return (40 * n_pretrain**-0.6 + 1.2) * n_finetune**-0.35 + 0.05


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Both arms of one student upstream, crossing at 1,200 images; its plain arm fine-tuned; four linear probes."""
    folder, draw, rows = tmp_path_factory.mktemp("study"), np.random.default_rng(0), []

    def add(stage, arm, n_pretrain, n_finetune, seed, loss, recipe, **more):
        run_id = f"{len(rows):016x}"
        values = {"run_id": run_id, "task": "image_classification", "stage": stage, "arm": arm, "recipe": recipe}
        values |= {"model": "vit-100k", "n_params": 120_000, "n_pretrain": n_pretrain, "n_finetune": n_finetune}
        values |= {"upstream": "glyphs" if n_pretrain else None, "seed": seed, "eval_split": "test", "n_eval": 500}
        loss *= np.exp(0.003 * draw.standard_normal())
        rows.append(new_row(values | {"loss": loss, "error": min(0.9, loss / 3), "seconds": 10.0, **more}))
        rule = {"train_part": "head"} if recipe == "probe" else {"batch": 64}
        path = folder / "runs" / run_id / "run.yaml"
        path.parent.mkdir(parents=True)
        path.write_text(yaml.safe_dump({"spec": {"rule": rule}}))

    for seed in range(3):
        for n in LEVELS:
            plain = 0.3 + 30 * n**-0.35
            add("pretrain", "plain", n, 0, seed, plain, "upstream")
            distilled = plain * np.exp(0.08 * np.log(n / 1200))
            add("pretrain", "distilled", n, 0, seed, distilled, "upstream", distillation="soft")
    for seed in range(2):
        for n_finetune in LABELS:
            for n in LEVELS:
                loss = loss_of(n, n_finetune)
                add("finetune", "plain", n, n_finetune, seed, loss, "whole", downstream="digits")
            add("finetune", "plain", 0, n_finetune, seed, 4 * n_finetune**-0.2, "whole", downstream="digits")
        for n_finetune in (LABELS[0], LABELS[-1]):
            add("finetune", "plain", LEVELS[-1], n_finetune, seed, 2.0, "probe", downstream="digits")
    ResultsTable(rows).save(folder / "results")
    sources = {name: {"train": n, "test": 500, "classes": 10} for name, n in (("glyphs", 6400), ("digits", 1297))}
    (folder / "sources.json").write_text(json.dumps(sources))
    return folder


def printed(capsys, *argv):
    with pytest.raises(SystemExit) as ended:
        main([*map(str, argv), "--json"])
    captured = capsys.readouterr()
    assert ended.value.code == 0, captured.err
    return json.loads(captured.out)


def codes(notes):
    return [note["code"] for note in notes]


def test_a_study_names_its_probes_and_keeps_their_rows(study):
    frame = ResultsTable.load(study).to_pandas()
    assert frame.attrs[PROBES] == ["probe"] == find_probes(study, frame)
    assert (frame["recipe"] == "probe").sum() == 4
    assert PROBES not in ResultsTable(ResultsTable.load(study).rows()).to_pandas().attrs
    assert ResultsTable.load(study / "results").to_pandas().attrs[PROBES] == ["probe"]


@pytest.mark.parametrize("given", ["folder", "table", "frame"])
def test_a_law_leaves_probes_out_with_a_note(study, given):
    table = {"folder": study, "table": ResultsTable.load(study), "frame": ResultsTable.load(study).to_pandas()}[given]
    fit = hs.fit_law(table, law="transfer_gap", bootstrap=50, zeros="leave_out")
    assert codes(fit.notes).count("linear_probes") == 1 and fit.scores["n_rows"] == 48
    predicted = fit.predict({"n_pretrain": 1600, "n_finetune": 320})
    assert float(np.squeeze(predicted["value"])) == pytest.approx(loss_of(1600, 320), rel=0.02)


def test_probes_alone_can_be_fitted(study):
    frame = ResultsTable.load(study).to_pandas()
    probes = frame[frame["recipe"] == "probe"]
    fit = hs.fit_law(probes, law="power_law", x="n_finetune", stage="finetune", fixed={"E": 0}, bootstrap=0)
    assert fit.scores["n_rows"] == 4 and "linear_probes" not in codes(fit.notes)
    assert fit.params["A"] == pytest.approx(2.0, rel=0.02)


def test_other_mixed_recipes_still_have_to_be_chosen(study):
    frame = ResultsTable.load(study).to_pandas()
    frame.loc[frame["n_finetune"] == 80, "recipe"] = "third"
    with pytest.raises(hs.InputError, match="third, whole"):
        hs.fit_law(frame, law="transfer_gap", zeros="leave_out")


def test_gaps_of_a_study_are_those_of_its_whole_models(study):
    gaps = hs.transfer_gaps(study, bootstrap=100)
    assert gaps.table["verdict"].tolist() == ["high"] and "linear_probes" in codes(gaps.notes)
    frame = ResultsTable.load(study).to_pandas()
    whole = hs.transfer_gaps(frame[frame["recipe"] != "probe"], bootstrap=100, study=study)
    pd.testing.assert_frame_equal(gaps.table, whole.table)
    pd.testing.assert_frame_equal(gaps.worth, whole.worth)


def test_the_first_commands_on_a_study_work(study, capsys):
    fit = printed(capsys, "fit", study, "--bootstrap", 50)
    assert fit["scores"]["n_rows"] == 48 and "linear_probes" in codes(fit["notes"])
    boundary = printed(capsys, "boundary", study)
    assert boundary["status"] == "crossing" and boundary["low"] < 1200 < boundary["high"] < 2 * boundary["low"]
    plan = printed(capsys, "plan", study, "--budget", 1000, "--cost", "label=1", "--bootstrap", 50)
    assert plan["allocation"]["n_finetune"] <= 1297 and "linear_probes" in codes(plan["notes"])
    need = printed(capsys, "need", study, "--target", "loss=0.3", "--solve-for", "n_finetune", "--bootstrap", 50)
    assert need["value"] > 0 and "linear_probes" in codes(need["notes"])
    runs = printed(capsys, "suggest", study, "--budget", 500, "--cost", "label=1", "--bootstrap", 50)
    assert runs["runs"]
    compared = printed(capsys, "compare", study, "--laws", "transfer_gap,transfer_gap_shifted")
    assert "linear_probes" in json.dumps(compared)


def test_a_report_of_a_study_judges_its_whole_models(study, tmp_path):
    findings = hs.write_report(study, tmp_path / "report.html")
    # By loss and by error.
    gaps = [found.gaps.table["verdict"].iloc[0] for found in findings.parts[1].transfer_gaps]
    assert gaps == ["high", "high"]
    assert not any((found.part.rows["recipe"] == "probe").any() for found in findings.parts)
    (section,) = [section for section in sections_of(findings) if section.code == "linear-probe"]
    assert [row[0] for row in section.tables[0].rows] == ["20", "1,280"]


def test_the_stored_hour_gives_the_answers_of_its_page():
    stored = Path(__file__).parent / "data" / "cifar10_study"
    line = hs.find_boundary(stored, target="loss")
    assert line.status == "crossing"
    assert (line.n_pretrain, line.low, line.high) == pytest.approx((4_710, 3_530, 11_300), rel=0.02)
    gap = hs.transfer_gaps(stored, "loss", downstream="gtsrb_32", arm="plain", bootstrap=50).table.iloc[0]
    assert gap["helps_more"] == "labels" and gap["over"] == "upper_half"
    assert (gap["images_doubled"], gap["labels_doubled"]) == pytest.approx((-0.056, -0.22), abs=0.005)
