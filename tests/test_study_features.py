"""Scores of checkpoints on labelled images, and their judgement by a study's own rows."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from hf_scaling import data, models
from hf_scaling.cli import main
from hf_scaling.errors import InputError
from hf_scaling.results import ResultsTable, new_row
from hf_scaling.scores import SCORES
from hf_scaling.scores.agreement import VARIED, constant_columns, describe_constants, judge_constants, judge_study
from hf_scaling.study import features
from hf_scaling.study.features import score_study, transferability


def exit_code(argv):
    with pytest.raises(SystemExit) as ended:
        main(argv)
    return ended.value.code


def write_checkpoint(folder, name, seed):
    model = models.build_student(name, 5, 16, 4, seed)
    model.save_pretrained(folder)
    models.build_processor(model, (0.5,) * 3, (0.5,) * 3).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return [write_checkpoint(root / str(seed), "vit-30k", seed) for seed in range(2)]


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return data.open_source("digits", image_size=16, cache_dir=tmp_path_factory.mktemp("cache"))


def test_every_score_of_every_checkpoint(checkpoints, digits, tmp_path):
    table = transferability(checkpoints, digits, n=100, cache_dir=tmp_path)
    assert list(table.index) == list(map(str, checkpoints)) and table.index.name == "checkpoint"
    assert list(table.columns) == ["n_params", "n_pretrain", "upstream_error", *SCORES, "knn", "linear_probe"]
    assert np.isfinite(table[[*SCORES, "knn", "linear_probe"]]).all().all()
    assert table["n_params"].isna().all()  # not trained by hf_scaling
    assert not table["logme"].duplicated().any()
    few = transferability(checkpoints[:1], digits, scores=["logme"], n=100, cache_dir=tmp_path)
    assert few["logme"].iloc[0] == table["logme"].iloc[0] and "leep" not in few


def test_features_are_what_the_head_gets(checkpoints, digits, tmp_path):
    transferability(checkpoints[:1], digits, scores=["nce"], n=50, cache_dir=tmp_path)
    (path,) = (tmp_path / "features").glob("*.npz")
    model = models.load_model(checkpoints[0]).eval()
    chosen = data.nested_subset(digits.train.labels, 50, 0)
    pixels = torch.from_numpy(digits.train.images(chosen)).permute(0, 3, 1, 2).float() / 127.5 - 1
    with np.load(path) as kept, torch.no_grad():
        pooled = model.timm_model.forward_head(model.timm_model.forward_features(pixels), pre_logits=True)
        assert np.allclose(kept["features"], pooled.numpy(), atol=1e-4)
        assert np.allclose(kept["probabilities"], model(pixel_values=pixels).logits.softmax(-1).numpy(), atol=1e-5)
        assert (kept["labels"] == digits.train.labels[chosen]).all()


def test_features_are_computed_once(checkpoints, digits, tmp_path, monkeypatch):
    first = transferability(checkpoints, digits, scores=["logme"], n=60, cache_dir=tmp_path)
    monkeypatch.setattr(features, "_compute", lambda *_: pytest.fail("computed again"))
    assert transferability(checkpoints, digits, scores=["logme"], n=60, cache_dir=tmp_path).equals(first)
    monkeypatch.undo()
    next((tmp_path / "features").glob("*.npz")).write_bytes(b"damaged")
    assert transferability(checkpoints, digits, scores=["logme"], n=60, cache_dir=tmp_path).equals(first)


@pytest.mark.parametrize(
    "options, named",
    [({"scores": ["logmee"]}, "logme"), ({"n": 3}, "n 3"), ({"checkpoints": []}, "checkpoints")],
)
def test_bad_requests_are_refused(checkpoints, digits, tmp_path, options, named):
    with pytest.raises(InputError, match=named):
        transferability(**{"checkpoints": checkpoints, "source": digits, "cache_dir": tmp_path, **options})


def test_a_text_checkpoint_is_refused(tmp_path, digits):
    folder = write_checkpoint(tmp_path / "text", "vit-30k", 0)
    ResultsTable([new_row({"run_id": "0" * 16, "task": "causal_lm", "stage": "pretrain"})]).save(folder / "results")
    with pytest.raises(InputError, match="causal_lm"):
        transferability([folder], digits, cache_dir=tmp_path)


@pytest.fixture
def study(tmp_path):
    """A study of 14 pretraining runs, each fine-tuned on digits; the better runs saw more images."""
    rows = []
    for number in range(14):
        run_id = f"{number:016x}"
        common = {
            "task": "image_classification",
            "arm": "plain",
            "model": f"vit-{number}",
            "n_params": 30_000,
            "seed": 0,
        }
        error = 0.5 - 0.02 * number
        up = {
            "run_id": run_id,
            "stage": "pretrain",
            "n_pretrain": 100 * (number + 1),
            "n_finetune": 0,
            "upstream": "up",
        }
        down = {
            "run_id": f"f{number:015x}",
            "stage": "finetune",
            "parent": run_id,
            "n_finetune": 50,
            "downstream": "digits",
        }
        scores = {"error": error, "loss": 4 * error}
        rows += [new_row({**common, **up, **scores}), new_row({**common, **up, **down, **scores})]
        if number < 2:
            write_checkpoint(tmp_path / "runs" / run_id, "vit-30k", number)
    ResultsTable(rows).save(tmp_path / "results")
    return tmp_path


def test_scores_are_judged_by_the_rows_of_their_set(study):
    frame = ResultsTable.load(study).to_pandas()
    pretrained = frame[frame["stage"] == "pretrain"]
    table = pd.DataFrame(
        {
            "run_id": pretrained["run_id"], "model": pretrained["model"], "arm": "plain", "seed": 0,
            "source": "digits", "n_pretrain": pretrained["n_pretrain"].astype(float), "logme": -pretrained["error"],
            "leep": pretrained["error"],
        }
    )  # fmt: skip
    judged = judge_study(frame, table)
    by_score = judged[judged["target"] == "error"].set_index("score")
    assert by_score.at["logme", "tau"] == pytest.approx(1) and by_score.at["leep", "tau"] == pytest.approx(-1)
    assert by_score.at["leep", "verdict"] == "not" and by_score.at["logme", "verdict"] == "cannot_tell"
    assert by_score.at["n_pretrain", "verdict"] == "trivial"
    assert len(judge_study(frame, table.assign(source="other"))) == 0


def test_the_judgement_says_how_far_transrate_depends_on_its_constant():
    accuracy = [0.5, 0.6, 0.7, 0.8]
    # At the second constant the last two change places: one pair of six.
    found = judge_constants(np.array([[1.0, 2, 3, 4], [1.0, 2, 4, 3]]), accuracy)
    assert found["flipped"] == pytest.approx(1 / 6)
    assert found["tau_most"] == pytest.approx(1) and found["tau_least"] < 0.9
    same = judge_constants(np.array([[1.0, 2, 3, 4], [10.0, 20, 30, 40]]), accuracy)
    assert same == {"flipped": 0, "tau_least": pytest.approx(1), "tau_most": pytest.approx(1)}


def test_a_study_stores_transrate_at_constants_over_five_decades(study):
    found = score_study(study, "digits", n=60)
    columns = constant_columns(pd.read_parquet(study / "scores.parquet"))
    constants = [float(name.removeprefix(VARIED)) for name in columns]
    assert max(constants) / min(constants) == pytest.approx(1e5)
    at_default = columns[constants.index(1e-4)]
    assert np.allclose(found.table[at_default], found.table["transrate"])
    # Two checkpoints of unknown size leave nothing to compare with.
    assert len(found.judged) == 0 and describe_constants(found.judged) == []


def test_an_order_that_depends_on_the_constant_is_stated_for_its_set(study):
    frame = ResultsTable.load(study).to_pandas()
    runs = frame[frame["stage"] == "pretrain"]
    table = runs[["run_id", "model", "arm", "seed"]].assign(
        source="digits", n_pretrain=runs["n_pretrain"].astype(float), transrate=-runs["error"]
    )
    by_constant = {f"{VARIED}1e-05": -runs["error"], f"{VARIED}0.1": runs["error"]}
    judged = judge_study(frame, table.assign(**by_constant), ("error",)).set_index("score")
    assert set(judged.index) == {"n_pretrain", "transrate"}
    own = judged.loc["transrate"]
    assert (own["flipped"], own["tau_least"], own["tau_most"]) == (1, pytest.approx(-1), pytest.approx(1))
    assert np.isnan(judged.at["n_pretrain", "flipped"])
    assert len(describe_constants(judged.reset_index())) == 1
    same = dict.fromkeys(by_constant, -runs["error"])
    assert describe_constants(judge_study(frame, table.assign(**same), ("error",))) == []
    assert judge_study(frame, table, ("error",))["flipped"].isna().all()


def test_the_command_keeps_the_scores_of_each_set(study, capsys):
    assert exit_code(["scores", str(study), "--source", "digits", "--n", "60", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["run_id"] for row in found["scores"]] == ["0" * 16, "0" * 15 + "1"]
    kept = pd.read_parquet(study / "scores.parquet")
    assert set(kept["source"]) == {"digits"} and len(kept) == 2
    score_study(study, "digits", n=80)
    assert len(pd.read_parquet(study / "scores.parquet")) == 2
    assert exit_code(["scores", str(study), "--source", "digits", "--n", "60"]) == 0
    assert "logme" in capsys.readouterr().out
    assert exit_code(["scores", str(study / "runs"), "--source", "digits"]) == 2


def test_a_set_is_scored_on_the_classes_that_the_study_fine_tunes_on(study):
    (study / "grid.yaml").write_text("downstream: [{source: digits, classes: 3}, other]\n")
    some = score_study(study, "digits", n=60).table
    (study / "grid.yaml").write_text("downstream: digits\nfinetune: {classes: 3}\n")
    assert score_study(study, "digits", n=60).table.equals(some)
    (study / "grid.yaml").write_text("downstream: [{source: digits}, {source: other, classes: 3}]\n")
    every = score_study(study, "digits", n=60).table
    assert (some["logme"] != every["logme"]).all()
