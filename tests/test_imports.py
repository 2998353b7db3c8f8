"""`hf-scaling import`: logs of a Trainer, exports of W&B and wide tables become rows with a mapping to correct."""

import json
import shlex

import numpy as np
import pandas as pd
import pytest

import hf_scaling as hs
from hf_scaling.cli import main
from hf_scaling.errors import InputError


@pytest.fixture
def run(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def command(*argv):
        with pytest.raises(SystemExit) as ended:
            main([str(item) for item in argv])
        output = capsys.readouterr()
        return ended.value.code, output.out, output.err

    return command


def state(n_train, batch, epochs, finished=True, accuracy=True, **extra):
    """A trainer_state.json as transformers 5 writes it, evaluated after each epoch."""
    steps = -(-n_train // batch)
    history = []
    for epoch in range(1, epochs + 1):
        step = steps * epoch
        loss = 0.3 + 5 * (n_train * epoch) ** -0.3
        history.append(
            {"epoch": float(epoch), "grad_norm": 1.0, "learning_rate": 1e-3, "loss": loss - 0.1, "step": step}
        )
        scores = {"eval_loss": loss, **({"eval_accuracy": 1 - loss / 10} if accuracy else {})}
        speed = {"eval_runtime": 0.5, "eval_samples_per_second": 400.0, "eval_steps_per_second": 50.0}
        history.append({"epoch": float(epoch), **scores, **speed, "step": step})
    if finished:
        runtime = 12.3456
        total = {"train_loss": 0.9, "train_runtime": runtime, "total_flos": 1e9 * epochs}
        total["train_samples_per_second"] = round(n_train * epochs / runtime, 3)
        total["train_steps_per_second"] = round(steps * epochs / runtime, 3)
        history.append({"epoch": float(epochs), "step": steps * epochs, **total})
    numbers = {"global_step": steps * epochs, "max_steps": steps * epochs, "num_train_epochs": epochs}
    return {"log_history": history, "train_batch_size": batch, "total_flos": 1e9 * epochs, **numbers, **extra}


def write_run(folder, content, tensors=None):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "trainer_state.json").write_text(json.dumps(content))
    if tensors:
        from safetensors.numpy import save_file

        save_file({name: np.zeros(shape, np.float32) for name, shape in tensors.items()}, folder / "model.safetensors")


def test_a_folder_of_trainer_runs_becomes_a_row_an_evaluation(tmp_path):
    runs = tmp_path / "runs"
    for n_train in (100, 400, 1600):
        write_run(runs / f"n{n_train}", state(n_train, 8, 3), {"a.weight": (4, 8), "a.bias": (8,)})
        # A checkpoint holds the beginning of the same log.
        write_run(runs / f"n{n_train}" / "checkpoint-13", state(n_train, 8, 1, finished=False))
    imported = hs.import_results(runs)
    frame = imported.table.to_pandas()
    assert imported.kind == "trainer"
    assert frame.run.tolist() == [f"n{n}" for n in (100, 1600, 400) for _ in range(3)]
    assert set(frame.n_params) == {40}
    assert sorted(set(frame.n_pretrain)) == [100, 400, 1600]
    assert frame[frame.run == "n400"].samples_seen.tolist() == [400, 800, 1200]
    assert frame[frame.run == "n400"].train_flops.tolist() == pytest.approx([1e9, 2e9, 3e9])
    assert frame[frame.run == "n100"].loss[0] == pytest.approx(0.3 + 5 * 100**-0.3)
    assert frame.error.tolist() == pytest.approx((frame.loss / 10).tolist())
    assert imported.mapping["error"] == "1-eval_accuracy"
    assert not imported.notes


def test_a_state_without_its_end_counts_batches_and_says_so(tmp_path):
    write_run(tmp_path / "mine" / "checkpoint-39", state(100, 8, 3, finished=False, accuracy=False))
    for what in (tmp_path / "mine" / "checkpoint-39" / "trainer_state.json", tmp_path / "mine"):
        imported = hs.import_results(what)
        frame = imported.table.to_pandas()
        assert set(frame.run) == {"mine"} if what.is_dir() else len(set(frame.run)) == 1
        assert frame.samples_seen.tolist() == [104, 208, 312]
        assert "train_batch_size" in imported.notes[0]
        assert "error" not in frame.columns


def test_the_saved_size_of_the_training_set_is_used(tmp_path):
    write_run(tmp_path / "a", state(1000, 32, 2))
    (tmp_path / "a" / "all_results.json").write_text(json.dumps({"train_samples": 1000, "epoch": 2.0}))
    frame = hs.import_results(tmp_path / "a").table.to_pandas()
    assert frame.n_pretrain.tolist() == [1000, 1000]
    assert frame.samples_seen.tolist() == [1000, 2000]


def test_tokens_seen_in_less_than_an_epoch_are_unique(tmp_path):
    log = [
        {"epoch": share, "eval_loss": 5 - share, "step": int(100 * share), "num_input_tokens_seen": int(1e6 * share)}
        for share in (0.25, 0.5, 1.0)
    ]
    write_run(tmp_path / "lm", {"log_history": log, "global_step": 100, "max_steps": 100, "train_batch_size": 4})
    frame = hs.import_results(tmp_path / "lm").table.to_pandas()
    assert frame.n_pretrain.tolist() == frame.samples_seen.tolist() == [250_000, 500_000, 1_000_000]


def test_several_evaluation_sets_are_kept_and_mapped(tmp_path):
    log = [
        {"epoch": 1.0, "step": 10, "eval_near_loss": 1.0, "eval_near_runtime": 3.0},
        {"epoch": 1.0, "step": 10, "eval_far_loss": 2.0, "eval_far_runtime": 3.0},
    ]
    write_run(tmp_path / "a", {"log_history": log, "global_step": 10, "train_batch_size": 4})
    frame = hs.import_results(tmp_path / "a").table.to_pandas()
    assert (frame.loss.tolist(), frame.eval_far_loss.tolist()) == ([1.0], [2.0])
    assert not [name for name in frame.columns if "runtime" in name]
    assert hs.import_results(tmp_path / "a", map={"loss": "eval_far_loss"}).table.to_pandas().loss.tolist() == [2.0]


def test_without_an_evaluation_the_training_loss_is_used_with_a_note(tmp_path):
    log = [{"epoch": step / 10, "loss": 5.0 / step, "step": step} for step in (10, 20)]
    write_run(tmp_path / "a", {"log_history": log, "global_step": 20, "train_batch_size": 4})
    imported = hs.import_results(tmp_path / "a")
    assert imported.table.to_pandas().loss.tolist() == [0.5, 0.25]
    assert imported.mapping["loss"] == "train_loss"
    assert imported.notes


def test_the_mapping_is_printed_and_corrected(run, tmp_path):
    for n_train in (100, 200, 400, 800, 1600):
        write_run(tmp_path / "runs" / str(n_train), state(n_train, 8, 1))
    status, out, err = run("import", "runs")
    assert (status, err) == (0, "")
    assert {("loss", "eval_loss"), ("n_pretrain", "unique_samples")} <= {
        tuple(line.split()) for line in out.splitlines()
    }
    following = shlex.split(out[out.index("hf-scaling fit") :])
    assert run(*following[1:], "--bootstrap", 0)[0] == 0
    flags = ["--map", "n_finetune=unique_samples", "--map", "n_pretrain=1,000", "--map", "error=none"]
    status, out, _ = run("import", "runs", *flags, "--out", "fine", "--json")
    content = json.loads(out)
    assert set(content) == {"kind", "mapping", "unused", "notes", "n_rows", "n_runs", "path", "next"}
    assert (status, content["n_rows"], content["n_runs"]) == (0, 5, 5)
    frame = hs.ResultsTable.load(tmp_path / "fine").to_pandas()
    assert sorted(frame.n_finetune) == [100, 200, 400, 800, 1600]
    assert set(frame.n_pretrain) == {1000}
    assert "error" not in frame.columns


@pytest.mark.parametrize(
    ("content", "word"), [("{", "JSON"), ("[]", "log_history"), ('{"log_history": 3}', "log_history")]
)
def test_a_file_that_is_no_state_is_refused_by_name(run, tmp_path, content, word):
    (tmp_path / "trainer_state.json").write_text(content)
    status, _, err = run("import", "trainer_state.json")
    assert (status, err.count("\n")) == (2, 1)
    assert "trainer_state.json" in err and word in err


# --- W&B


def test_a_chart_of_wandb_becomes_a_row_a_point(tmp_path):
    lines = ['"Step","small - eval/loss","small - eval/loss__MIN","small - eval/loss__MAX","large-2 - eval/loss"']
    lines += ['"100","0.9","0.9","0.9",""', '"200","0.8","0.8","0.8","0.7"', '"300","","","","0.6"']
    (tmp_path / "chart.csv").write_text("\n".join(lines) + "\n")
    imported = hs.import_results(tmp_path / "chart.csv")
    frame = imported.table.to_pandas()
    assert imported.kind == "wandb_chart"
    assert frame.run.tolist() == ["small", "small", "large-2", "large-2"]
    assert frame.step.tolist() == [100, 200, 200, 300]
    assert frame.loss.tolist() == [0.9, 0.8, 0.7, 0.6]


def test_grouped_curves_of_wandb_give_their_groups_as_columns(tmp_path):
    heads = [
        "train/global_step",
        *(f"n_params: {n}, arm: {arm} - val/acc" for n in ("31k", "1.2M") for arm in ("KD", "base")),
    ]
    rows = [[10, 0.5, 0.4, 0.6, 0.5], [20, 0.6, 0.5, 0.7, 0.6]]
    pd.DataFrame(rows, columns=heads).to_csv(tmp_path / "chart.csv", index=False)
    frame = hs.import_results(tmp_path / "chart.csv", arm_names={"plain": "base", "distilled": "KD"}).table.to_pandas()
    assert sorted(set(frame.n_params)) == [31_000, 1_200_000]
    assert frame.arm.tolist() == ["distilled"] * 2 + ["plain"] * 2 + ["distilled"] * 2 + ["plain"] * 2
    assert frame.error.tolist()[:2] == pytest.approx([0.5, 0.4])


def test_the_runs_of_wandb_become_a_row_a_run_without_unfinished_ones(run, tmp_path):
    n = np.array([1000, 2000, 4000, 8000, 16000, 32000])
    frame = pd.DataFrame(
        {
            "Name": ["vit"] * 6,
            "State": ["finished"] * 5 + ["crashed"],
            "Notes": "-",
            "User": "somebody",
            "Tags": "",
            "Created": "2025-01-02T03:04:05.000Z",
            "Runtime": 100.5,
            "Sweep": "",
            "params": "31k",
            "train_samples": n,
            "eval/loss": 0.3 + 20 * n**-0.5,
            "eval/accuracy": 1 - (0.03 + 2 * n**-0.5),
        }
    )
    frame.to_csv(tmp_path / "runs.csv", index=False)
    imported = hs.import_results(tmp_path / "runs.csv")
    table = imported.table.to_pandas()
    assert imported.kind == "wandb_runs"
    assert table.run.nunique() == len(table) == 5
    assert table.n_pretrain.tolist() == n[:5].tolist()
    assert set(table.n_params) == {31_000}
    assert table.error.tolist() == pytest.approx((0.03 + 2 * n[:5] ** -0.5).tolist())
    assert imported.mapping["loss"] == "eval/loss"
    assert "crashed" in imported.notes[0]
    status, out, _ = run("import", "runs.csv", "--json")
    following = shlex.split(json.loads(out)["next"])
    assert (status, run(*following[1:], "--bootstrap", 0)[0]) == (0, 0)


def test_a_history_of_wandb_is_one_run(tmp_path):
    frame = pd.DataFrame(
        {"_step": [1, 2], "_runtime": [3.5, 4.5], "_timestamp": [1e9, 1e9 + 1], "val_loss": [0.5, 0.4]}
    )
    frame.to_csv(tmp_path / "mine.csv", index=False)
    table = hs.import_results(tmp_path / "mine.csv").table.to_pandas()
    assert (set(table.run), table.step.tolist(), table.loss.tolist()) == ({"mine"}, [1, 2], [0.5, 0.4])


# --- Wide tables


@pytest.mark.parametrize(
    ("heads", "sizes", "ours"),
    [
        (["params", "1000", "2000", "4000"], [1000, 2000, 4000], {"n_pretrain": "heading", "loss": "value"}),
        (["params", "1k tokens", "2k tokens", "4k tokens"], [1000, 2000, 4000], {"n_pretrain": "heading"}),
        (["params", "err_10k", "err_100k", "err_1M"], [1e4, 1e5, 1e6], {"n_pretrain": "heading", "error": "value"}),
        (
            ["tokens", "loss 70M", "loss 160M", "loss 1.4B"],
            [7e7, 1.6e8, 1.4e9],
            {"n_params": "heading", "loss": "value"},
        ),
        (["params", "5 shots", "10 shots", "20 shots"], [5, 10, 20], {"n_finetune": "heading"}),
        (["params", "n=100", "n=200", "n=400"], [100, 200, 400], {"n_pretrain": "heading"}),
        (["n_pretrain", "seed_0", "seed_1", "seed_2"], [0, 1, 2], {"seed": "heading", "loss": "value"}),
    ],
)
def test_a_wide_table_becomes_a_row_a_cell(tmp_path, heads, sizes, ours):
    cells = [[1000, 0.9, 0.8, 0.7], [2000, 0.6, 0.5, np.nan]]
    pd.DataFrame(cells, columns=heads).to_csv(tmp_path / "wide.csv", index=False)
    imported = hs.import_results(tmp_path / "wide.csv")
    table = imported.table.to_pandas()
    assert imported.kind == "wide"
    assert ours.items() <= imported.mapping.items()
    (of_heading,) = [name for name, theirs in imported.mapping.items() if theirs == "heading"]
    (of_value,) = [name for name, theirs in imported.mapping.items() if theirs == "value"]
    assert table[of_heading].tolist() == [*sizes, *sizes[:2]]
    assert table[of_value].tolist() == [0.9, 0.8, 0.7, 0.6, 0.5]
    assert "run" not in table.columns


def test_wide_checkpoints_of_a_run_keep_their_run(tmp_path):
    frame = pd.DataFrame({"model": ["a", "b"], "step 100": [0.9, 0.8], "step 200": [0.7, 0.6], "step 400": [0.5, 0.4]})
    frame.to_csv(tmp_path / "wide.csv", index=False)
    table = hs.import_results(tmp_path / "wide.csv").table.to_pandas()
    assert table.run.tolist() == ["a"] * 3 + ["b"] * 3
    assert table.step.tolist() == [100, 200, 400] * 2


def test_a_wide_table_of_two_targets_has_a_column_for_each(tmp_path):
    frame = pd.DataFrame([[1e6, 0.9, 0.8, 0.7, 0.3, 0.2, 0.1]])
    frame.columns = ["params", "loss_1k", "loss_2k", "loss_4k", "err_1k", "err_2k", "err_4k"]
    frame.to_csv(tmp_path / "wide.csv", index=False)
    table = hs.import_results(tmp_path / "wide.csv").table.to_pandas()
    assert (table.loss.tolist(), table.error.tolist()) == ([0.9, 0.8, 0.7], [0.3, 0.2, 0.1])


def test_the_headings_of_a_wide_table_are_mapped_otherwise(run, tmp_path):
    n = [1000, 2000, 4000, 8000, 16000]
    frame = pd.DataFrame([["x", *(0.1 + 5 * size**-0.5 for size in n)]], columns=["note", *map(str, n)])
    frame.to_csv("wide.csv", index=False)
    _, _, err = run("fit", "wide.csv")
    words = shlex.split(err[err.index("hf-scaling import") :])
    flags = ["--map", "n_finetune=heading", "--map", "error=value", "--out", "long.csv", "--json"]
    status, out, _ = run(*words[1:], *flags)
    content = json.loads(out)
    assert (status, content["mapping"]) == (0, {"n_finetune": "heading", "error": "value"})
    assert run(*shlex.split(content["next"])[1:], "--bootstrap", 0)[0] == 0


def test_an_import_never_writes_over_its_source(run, tmp_path):
    (tmp_path / "t.csv").write_text("a,1,2,3\n1,2,3,4\n")
    assert run("import", "t.csv", "--out", "t.csv")[0] == 2
    assert (tmp_path / "t.csv").read_text() == "a,1,2,3\n1,2,3,4\n"


def test_a_results_table_is_not_imported(run, tmp_path):
    hs.ResultsTable([{"run_id": "a" * 16, "loss": 0.5}]).save(tmp_path / "mine")
    status, _, err = run("import", "mine")
    assert (status, err.count("\n")) == (2, 1)


@pytest.mark.parametrize("what", ["absent.csv", "empty"])
def test_what_cannot_be_imported_is_named(run, tmp_path, what):
    (tmp_path / "empty").mkdir()
    status, _, err = run("import", what)
    assert (status, err.count("\n")) == (2, 1)
    assert what in err
    with pytest.raises(InputError):
        hs.import_results(tmp_path / "empty")


def history(tmp_path, *entries):
    steps = [{"step": step, "epoch": step / 100, "loss": 2 / step**0.3} for step in (20, 50, 100)]
    folder = tmp_path / "run1"
    folder.mkdir()
    content = {"log_history": [*steps, *entries], "train_batch_size": 8, "global_step": 100, "max_steps": 100}
    (folder / "trainer_state.json").write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize("name", ["eval_accuracy", "eval_test_accuracy"])
def test_an_accuracy_in_percent_is_no_share(name, tmp_path):
    folder = history(tmp_path, *({"step": s, "eval_loss": 1.0, name: 50 + s / 3} for s in (50, 100)))
    imported = hs.import_results(folder)
    assert imported.mapping["accuracy"] == name and "error" not in imported.mapping
    assert imported.table.to_pandas()["accuracy"].max() == pytest.approx(50 + 100 / 3)


@pytest.mark.parametrize("name", ["eval_f1", "eval_accuracy"])
def test_evaluations_without_a_loss_are_reported(name, tmp_path):
    imported = hs.import_results(history(tmp_path, *({"step": s, name: 0.5 + s / 300} for s in (50, 100))))
    assert imported.mapping["loss"] == "train_loss"
    assert sum("the loss is that of training" in note for note in imported.notes) == 1


@pytest.mark.parametrize("sets", [("a", "b"), ("dev", "test", "web")])
def test_several_evaluation_losses_are_reported(sets, tmp_path):
    entries = [{"step": s, **{f"eval_{one}_loss": 0.5 + s for one in sets}} for s in (50, 100)]
    notes = hs.import_results(history(tmp_path, *entries)).notes
    assert sum(all(f"eval_{one}_loss" in note for one in sets) for note in notes) == 1


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_rows_without_a_finite_target_are_left_out(value, tmp_path, run):
    folder = history(tmp_path, *({"step": s, "eval_loss": loss} for s, loss in ((20, 2.0), (50, 1.0), (100, value))))
    imported = hs.import_results(folder)
    assert imported.table.to_pandas()["loss"].tolist() == [2.0, 1.0]
    assert any("1 of 3 rows left out" in note for note in imported.notes)


@pytest.mark.parametrize("given", [["--map", "loss=none"], ["--map", "n_pretrain=none", "--map", "samples_seen=none"]])
def test_no_next_command_without_a_target_or_a_size(given, tmp_path, run):
    folder = history(tmp_path, *({"step": 100, "eval_loss": 1.0} for _ in range(1)))
    assert json.loads(run("import", folder, "--out", "o.csv", "--json", *given)[1])["next"] is None
