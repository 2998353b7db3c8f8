"""The results table: files read back, merges are unions, and a kill leaves the old or the new table."""

import datetime
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hf_scaling.errors import InputError
from hf_scaling.results import INCIDENTAL, MEANINGS, SCHEMA, ResultsTable, files, new_row, same_values

STORED = Path(__file__).parent / "data" / "results_v1"
DATA = Path(__file__).resolve().parents[1].parent / "shared" / "data"


def row(run_id="a" * 16, **values):
    return new_row({"run_id": run_id, "arm": "plain", "n_params": 31_114, "error": 0.25, "loss": 0.875} | values)


def test_the_schema_is_the_published_one():
    names = """run_id study task stage arm distillation recipe model n_params n_pretrain n_finetune image_size teacher
    teacher_n_params teacher_n_pretrain teacher_loss teacher_error agreement parent seed upstream classes
    downstream eval_split n_eval error loss class_errors samples_seen train_flops teacher_flops seconds
    device precision versions schema_version created_at"""
    assert list(SCHEMA) == names.split()
    assert ResultsTable().column_names == names.split()
    assert list(MEANINGS) == names.split()
    assert row()["schema_version"] == 2
    assert row()["created_at"].utcoffset() == datetime.timedelta(0)


@pytest.mark.parametrize("name", ["table.parquet", "table.csv"])
def test_a_file_reads_back_with_every_type(tmp_path, name):
    import pyarrow.csv
    import pyarrow.parquet

    rows = [row(), row("1234567890123456", teacher="org/name", n_pretrain=2**40, seconds=1.5)]
    table = ResultsTable(rows)
    write = pyarrow.csv.write_csv if name.endswith(".csv") else pyarrow.parquet.write_table
    write(table.to_dataset().data.table, str(tmp_path / name))
    assert ResultsTable.load(tmp_path / name).rows() == table.rows() == rows


def test_the_folder_of_a_run_is_read(tmp_path):
    written = row()
    for place in (tmp_path / "run" / "results", tmp_path / "parquet"):
        ResultsTable([written]).save(place)
    for where in ("run", "run/results", "parquet"):
        assert ResultsTable.load(str(tmp_path / where)).rows() == [written]


def test_append_writes_to_the_folder_or_the_file(tmp_path):
    ResultsTable([row()]).save(tmp_path / "folder")
    ResultsTable([row()]).save(tmp_path / "other")
    for where in (tmp_path / "folder", tmp_path / "other" / "results.parquet"):
        table = ResultsTable.load(where)
        table.append(row("b" * 16, error=0.5))
        assert len(table) == 2
        by_id = {item["run_id"]: item for item in ResultsTable.load(where).rows()}
        assert by_id == {item["run_id"]: item for item in table.rows()}


def test_appending_an_equal_row_changes_nothing(tmp_path):
    ResultsTable([row()]).save(tmp_path)
    table = ResultsTable.load(tmp_path)
    table.append(row(seconds=9.0, device="cuda"))
    assert len(table) == 1
    assert [item.name for item in tmp_path.iterdir()] == ["results.parquet"]


def test_merge_is_the_union_by_run_id():
    left = ResultsTable([row("a"), row("b", seconds=1.0)])
    right = ResultsTable([row("b", seconds=2.0, device="cuda", versions="{}"), row("c")])
    merged = left.merge(right)
    assert [item["run_id"] for item in merged.rows()] == ["a", "b", "c"]
    assert merged.rows()[1]["seconds"] == 1.0
    assert (len(left), len(right)) == (2, 2)


def test_one_run_id_with_two_values_is_refused_with_both():
    with pytest.raises(InputError, match=r"run_id b .*error.*0\.25.*0\.5"):
        ResultsTable([row("b")]).merge(ResultsTable([row("b", error=0.5)]))


def test_rows_are_equal_but_for_the_incidental_columns():
    full = row(classes='["a"]', class_errors='{"b": 0.5}')
    for name in SCHEMA:
        other = {**full, name: "something else"}
        assert same_values(full, other) == (name in INCIDENTAL)


@pytest.mark.parametrize("name", ["classes", "class_errors"])
def test_a_row_without_an_optional_column_is_the_same_run_and_the_row_that_has_it_is_kept(name):
    full, bare = row(**{name: '["a"]'}), row()
    for first, second in ((bare, full), (full, bare)):
        merged = ResultsTable([first, row("b")]).merge(ResultsTable([second]))
        assert [(item["run_id"], item[name]) for item in merged.rows()] == [("a" * 16, '["a"]'), ("b", None)]
    with pytest.raises(InputError, match=name):
        ResultsTable([full]).merge(ResultsTable([row(**{name: '["b"]'})]))


def test_a_foreign_table_is_kept_as_it_is(tmp_path):
    path = tmp_path / "theirs.csv"
    path.write_text("n_params,n_pretrain,loss\n1000,20,3.5\n1000,20,3.25\n")
    table = ResultsTable.load(path)
    frame = table.to_pandas()
    assert list(frame.columns) == ["n_params", "n_pretrain", "loss"]
    assert frame.loss.tolist() == [3.5, 3.25]
    with pytest.raises(InputError, match="n_params, n_pretrain, loss"):
        table.append(row())


def test_a_published_table_loads():
    path = DATA / "chinchilla_figure4.csv"
    if not path.is_file():
        pytest.skip(f"{path} does not exist")
    assert {"n_params", "n_pretrain", "loss"} <= set(ResultsTable.load(path).column_names)


def test_a_table_of_the_first_version_stays_readable():
    """tests/data/results_v1 was written when schema_version was 1; expected.json holds its rows."""
    rows = ResultsTable.load(STORED).rows()
    expected = json.loads((STORED / "expected.json").read_text())
    new = {"classes": None, "class_errors": None, "schema_version": 2}
    expected = [item | new for item in expected]
    assert [json.loads(json.dumps(item, default=lambda value: value.isoformat())) for item in rows] == expected


def test_a_table_of_an_older_version_is_upgraded(monkeypatch, tmp_path):
    monkeypatch.setitem(SCHEMA, "energy", "float64")
    monkeypatch.setattr(files, "SCHEMA_VERSION", 3)
    old = ResultsTable.load(STORED)
    assert {(item["energy"], item["schema_version"]) for item in old.rows()} == {(None, 3)}
    merged = old.merge(ResultsTable([row(energy=1.5, schema_version=3)]))
    merged.save(tmp_path)
    assert [item["energy"] for item in ResultsTable.load(tmp_path).rows()] == [None] * len(old) + [1.5]


def test_a_table_without_some_columns_gets_them_as_null(tmp_path):
    import pyarrow.parquet

    old = ResultsTable([row()]).to_dataset().data.table.drop_columns(["agreement", "precision", "schema_version"])
    pyarrow.parquet.write_table(old, tmp_path / "old.parquet")
    loaded = ResultsTable.load(tmp_path / "old.parquet").rows()[0]
    assert (loaded["agreement"], loaded["error"], loaded["schema_version"]) == (None, 0.25, 2)


def test_smaller_types_are_widened_and_a_time_without_a_zone_is_utc(tmp_path):
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.table(
        {
            "run_id": ["a"],
            "n_params": pyarrow.array([5], pyarrow.int32()),
            "loss": pyarrow.array([0.5], pyarrow.float32()),
            "created_at": pyarrow.array([datetime.datetime(2025, 1, 2, 3)], pyarrow.timestamp("ms")),
        }
    )
    pyarrow.parquet.write_table(table, tmp_path / "theirs.parquet")
    (found,) = ResultsTable.load(tmp_path / "theirs.parquet").rows()
    assert (found["n_params"], found["loss"]) == (5, 0.5)
    assert found["created_at"] == datetime.datetime(2025, 1, 2, 3, tzinfo=datetime.UTC)


def test_a_table_of_a_newer_version_is_refused_with_the_version_to_install(tmp_path):
    ResultsTable([row(schema_version=3)]).save(tmp_path / "unnamed")
    with pytest.raises(InputError, match=r"unnamed.*schema 3"):
        ResultsTable.load(tmp_path / "unnamed")
    written_by = [{"hf_scaling": "0.9.12"}, {"hf_scaling": "0.10.2"}, "?"]
    rows = [row(str(i), schema_version=3, versions=json.dumps(item)) for i, item in enumerate(written_by)]
    ResultsTable(rows).save(tmp_path / "named")
    with pytest.raises(InputError, match=r"named.*schema 3.*0\.10\.2"):
        ResultsTable.load(tmp_path / "named")


@pytest.mark.parametrize(
    ("columns", "names"),
    [
        ({"run_id": ["a"], "error": ["high"]}, "error.*string.*float64"),
        ({"run_id": ["a"], "schema_version": ["2"]}, "schema_version.*string"),
        ({"run_id": ["a"], "loss": [[0.5]]}, "loss.*list"),
        ({"run_id": ["a", None], "loss": [0.5, 0.6]}, "run_id"),
        ({"run_id": ["a"], "schema_version": [1], "colour": ["red"]}, "colour"),
    ],
)
def test_a_results_table_with_a_wrong_schema_is_refused(tmp_path, columns, names):
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "wrong.parquet")
    with pytest.raises(InputError, match=f"wrong.parquet.*{names}"):
        ResultsTable.load(tmp_path)


def test_a_repeated_column_is_refused(tmp_path):
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.Table.from_arrays([["a"], [0.5], [0.6]], names=["run_id", "loss", "loss"])
    pyarrow.parquet.write_table(table, tmp_path / "twice.parquet")
    with pytest.raises(InputError, match=r"twice\.parquet.*loss"):
        ResultsTable.load(tmp_path / "twice.parquet")


def test_files_that_do_not_fit_together_are_refused(tmp_path):
    import pyarrow
    import pyarrow.parquet

    for name, value in (("a", 5), ("b", "many")):
        pyarrow.parquet.write_table(pyarrow.table({"images": [value]}), tmp_path / f"{name}.parquet")
    with pytest.raises(InputError, match=r"a\.parquet.*b\.parquet"):
        ResultsTable.load(tmp_path)


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"colour": 1}, "colour"),
        ({"error": "high"}, "high"),
        ({"run_id": None}, "run_id"),
        ({"run_id": "../a"}, "run_id"),
    ],
)
def test_a_faulty_row_is_refused(values, word):
    with pytest.raises(InputError, match=word):
        ResultsTable().append({**row(), **values})


@pytest.mark.parametrize(
    ("name", "content"),
    [("absent folder", None), ("empty", ""), ("rows.txt", "a\n1"), ("torn.parquet", "PAR1"), ("empty.csv", "")],
)
def test_an_unreadable_table_is_refused_by_its_name(tmp_path, name, content):
    path = tmp_path / name
    if name == "empty":
        path.mkdir()
    elif content is not None:
        path.write_text(content)
    with pytest.raises(InputError) as caught:
        ResultsTable.load(path)
    assert str(path) in str(caught.value)


def test_a_hub_id_without_a_network_is_offline(tmp_path):
    code = "from hf_scaling.results import ResultsTable; ResultsTable.load('someone/something')"
    for setting in ({"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:9"}):
        environment = os.environ | {"HF_HOME": str(tmp_path)} | setting
        result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
        assert "InputError: offline" in result.stderr


@pytest.mark.parametrize("name", ["table.parquet", "table.csv"])
def test_a_process_that_ends_right_after_reading_does_not_abort(tmp_path, name):
    """Arrow's threads may outlive the interpreter, so they must hold no Python object."""
    table = ResultsTable([row()])
    files.write(table.to_dataset().data.table, tmp_path / name)
    code = """
import collections, os, sys
import pyarrow.compute, pyarrow.csv, pyarrow.parquet
from pathlib import Path
from hf_scaling.results import files

path, statuses = Path(sys.argv[1]), collections.Counter()
for _ in range(15):
    child = os.fork()
    if child == 0:
        files.read_path(path)
        sys.exit(2)
    statuses[os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])] += 1
print(dict(statuses))
"""
    command = [sys.executable, "-c", code, str(tmp_path / name)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.stdout.strip() == "{2: 15}", result.stderr


def _append_many(folder, letter, count):
    table = ResultsTable.load(folder)
    for number in range(count):
        table.append(row(f"{letter}{number}", seed=number))


def test_two_processes_append_to_one_folder(tmp_path):
    ResultsTable([row()]).save(tmp_path)
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_append_many, args=(tmp_path, letter, 20)) for letter in "xy"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert len(ResultsTable.load(tmp_path)) == 41


def test_a_kill_leaves_the_old_or_the_new_table(tmp_path):
    path = ResultsTable([row()]).save(tmp_path)
    context = multiprocessing.get_context("spawn")
    writer = context.Process(target=_append_many, args=(path, "x", 10_000))
    writer.start()
    while len(ResultsTable.load(path)) < 3:
        time.sleep(0.01)
    os.kill(writer.pid, signal.SIGKILL)
    writer.join()
    seeds = [each["seed"] for each in ResultsTable.load(path).rows()[1:]]
    assert seeds == list(range(len(seeds)))
    assert len(seeds) >= 2
