"""Results tables on the Hub: merged by every push, typed when loaded, and no row lost."""

import io
import json
import re

import pytest
from hub_commands import command, last_line, run, start
from planted_rows import planted_rows

from hf_scaling.results import SCHEMA, ResultsTable, new_row

pytestmark = pytest.mark.hub


def table_there(hub, repo_id, path="results/results.parquet"):
    """The rows that the Hub holds, by run_id."""
    import pyarrow.parquet

    rows = pyarrow.parquet.read_table(io.BytesIO(hub.repo("datasets", repo_id).files[path])).to_pylist()
    found = {row["run_id"]: row for row in rows}
    assert len(found) == len(rows)
    return found


def saved(folder, rows):
    """A folder with a table of these rows."""
    ResultsTable([new_row(row) for row in rows]).save(folder)
    return folder


def parquet(rows):
    """The bytes of a Parquet file of any columns."""
    import pyarrow
    import pyarrow.parquet

    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), buffer)
    return buffer.getvalue()


PUSH = """
import sys
from hf_scaling.results import ResultsTable
written = ResultsTable.load(sys.argv[1]).push_to_hub(*sys.argv[2:3])
print([change.path for change in written.changes])
"""


def test_a_pushed_table_loads_again_typed_and_streamed(hub, tmp_path):
    rows = planted_rows()
    home = saved(tmp_path / "table", rows)
    output = run(
        hub,
        tmp_path,
        """
        import sys
        import datasets
        from hf_scaling.results import SCHEMA, ResultsTable
        table = ResultsTable.load(sys.argv[1])
        assert table.push_to_hub("someone/typed").changes
        assert not table.push_to_hub("someone/typed").changes
        assert ResultsTable.load("someone/typed").rows() == table.rows()
        whole = datasets.load_dataset("someone/typed", split="train")
        assert {name: feature.dtype for name, feature in whole.features.items()} == SCHEMA
        assert whole["loss"][:] == [row["loss"] for row in table.rows()]
        streamed = datasets.load_dataset("someone/typed", split="train", streaming=True)
        assert [row["run_id"] for row in streamed] == [row["run_id"] for row in table.rows()]
        print(len(whole))
        """,
        home,
    )
    assert int(output) == len(rows)


def test_the_card_is_valid_and_its_lines_work(hub, tmp_path):
    home = saved(tmp_path / "table", planted_rows())
    card = run(
        hub,
        tmp_path,
        """
        import sys
        from huggingface_hub import DatasetCard
        from hf_scaling.results import ResultsTable
        ResultsTable.load(sys.argv[1]).push_to_hub("someone/carded")
        card = DatasetCard.load("someone/carded")
        card.validate(repo_type="dataset")
        assert card.data.license == "apache-2.0" and "scaling-laws" in card.data.tags
        assert card.data.task_categories == ["image-classification"] if card.data.task_categories else True
        print(card.text)
        """,
        home,
    )
    for value in ("32 runs", "30,000", "1,000,000", "@article", *SCHEMA):
        assert value in card
    figure = hub.repo("datasets", "someone/carded").files["figures/default.png"]
    assert figure.startswith(b"\x89PNG")
    assert "](figures/default.png)" in card
    for block in re.findall(r"```python\n(.*?)```", card, re.S):
        run(hub, tmp_path, block)


def test_two_tables_become_one_and_other_tables_stay(hub, tmp_path):
    rows = planted_rows()
    run(hub, tmp_path, PUSH, saved(tmp_path / "a", rows[:20]), "someone/merged")
    hub.add("datasets", "someone/merged", {"notes/theirs.parquet": parquet([{"a": 1, "b": 2}])})
    readme = hub.repo("datasets", "someone/merged").files["README.md"].decode()
    theirs = "- config_name: theirs\n  data_files: notes/theirs.parquet\n- config_name: default"
    readme = readme.replace("- config_name: default", theirs).replace("license: apache-2.0", "license: cc0-1.0")
    hub.add("datasets", "someone/merged", {"README.md": f"{readme}\nOur own words.\n".encode()})
    run(hub, tmp_path, PUSH, saved(tmp_path / "b", rows[10:]), "someone/merged")
    assert set(table_there(hub, "someone/merged")) == {row["run_id"] for row in rows}
    output = run(
        hub,
        tmp_path,
        """
        import sys
        from datasets import load_dataset
        from hf_scaling.results import ResultsTable
        few = ResultsTable(ResultsTable.load(sys.argv[1]).rows()[:3])
        few.push_to_hub("someone/merged", config_name="few")
        assert len(ResultsTable.load("someone/merged", config_name="few")) == 3
        assert len(ResultsTable.load("someone/merged")) == 32
        assert ResultsTable.load("someone/merged", config_name="theirs").rows() == [{"a": 1, "b": 2}]
        for name, count in (("default", 32), ("few", 3), ("theirs", 1)):
            assert len(load_dataset("someone/merged", name, split="train")) == count
        try:
            ResultsTable.load("someone/merged", config_name="fewer")
        except ValueError as error:
            print(error)
        """,
        tmp_path / "a",
    )
    assert all(name in output for name in ("'fewer'", "default", "few", "theirs"))
    card = hub.repo("datasets", "someone/merged").files["README.md"].decode()
    assert "Our own words." in card
    assert "license: cc0-1.0" in card
    assert "`few`" in card


def test_a_table_pushed_by_datasets_is_merged_and_moved(hub, tmp_path):
    rows = planted_rows()
    run(
        hub,
        tmp_path,
        """
        import sys
        from hf_scaling.results import ResultsTable
        table = ResultsTable.load(sys.argv[1])
        table.to_dataset().push_to_hub("someone/foreign-push")
        assert ResultsTable.load("someone/foreign-push").rows() == table.rows()
        """,
        saved(tmp_path / "a", rows[:16]),
    )
    run(hub, tmp_path, PUSH, saved(tmp_path / "b", rows[8:]), "someone/foreign-push")
    assert set(table_there(hub, "someone/foreign-push")) == {row["run_id"] for row in rows}
    names = [name for name in hub.repo("datasets", "someone/foreign-push").files if name.endswith(".parquet")]
    assert names == ["results/results.parquet"]
    load = "from datasets import load_dataset; print(len(load_dataset('someone/foreign-push', split='train')))"
    assert run(hub, tmp_path, load) == "32\n"


def test_different_values_of_one_run_id_are_refused_and_nothing_is_written(hub, tmp_path):
    rows = planted_rows()
    run(hub, tmp_path, PUSH, saved(tmp_path / "a", rows), "someone/contested")
    before = hub.repo("datasets", "someone/contested").head.id
    other = [rows[0] | {"error": 0.123, "seconds": 5.0}]
    status, _, err = command(hub, tmp_path, "push", saved(tmp_path / "b", other), "--repo", "someone/contested")
    assert status == 2
    assert all(value in last_line(err) for value in (rows[0]["run_id"], "0.123", str(rows[0]["error"])))
    assert hub.repo("datasets", "someone/contested").head.id == before
    same = [rows[0] | {"seconds": 5.0, "device": "cuda"}]
    status, _, err = command(hub, tmp_path, "push", saved(tmp_path / "c", same), "--repo", "someone/contested")
    assert status == 0, err
    assert hub.repo("datasets", "someone/contested").head.id == before


def test_ten_processes_push_at_once_and_every_row_is_there_once(hub, tmp_path):
    rows = planted_rows(seeds=range(4))
    code = """
    import pathlib, sys, time
    from hf_scaling.results import ResultsTable
    import huggingface_hub, matplotlib.figure, pandas
    table, go = ResultsTable.load(sys.argv[1]), pathlib.Path(sys.argv[2])
    pathlib.Path(sys.argv[1] + ".ready").touch()
    while not go.exists():
        time.sleep(0.01)
    table.push_to_hub("someone/crowded")
    """
    # Each pushes twelve rows of its own and eight that the next one pushes too.
    parts = [saved(tmp_path / f"part{i}", rows[12 * i : 12 * i + 20]) for i in range(10)]
    processes = [start(hub, tmp_path, code, part, tmp_path / "go") for part in parts]
    while len(list(tmp_path.glob("*.ready"))) < 10:
        assert all(process.poll() is None for process in processes)
    (tmp_path / "go").touch()
    ends = [(process.communicate(timeout=300)[1], process.returncode) for process in processes]
    assert [status for _, status in ends] == [0] * 10, ends
    there = table_there(hub, "someone/crowded")
    assert there.keys() == {row["run_id"] for row in rows[:128]}
    assert 412 in {each.status for each in hub.asked("POST", "/commit/")}


@pytest.mark.slow
def test_with_a_fifth_of_all_requests_failing_fifty_pushes_arrive_or_say_so(hub, tmp_path):
    rows = planted_rows(seeds=range(4))[:100]
    for i in range(50):
        saved(tmp_path / f"part{i}", rows[2 * i : 2 * i + 2])
    code = """
    import json, sys
    from hf_scaling.cli import main
    failed = []
    for name in sys.argv[1:]:
        try:
            main(["push", name, "--repo", "someone/stormy"])
        except SystemExit as end:
            assert end.code in (0, 1), end.code
            failed += [name] if end.code else []
    print(json.dumps(failed))
    """
    # Five at a time: they get into each other's way as well.
    parts = [[f"part{i}" for i in range(first, 50, 5)] for first in range(5)]
    hub.fail_at_random(0.2, seed=6)
    processes = [start(hub, tmp_path, code, *each) for each in parts]
    ends = [process.communicate(timeout=500) for process in processes]
    assert [process.returncode for process in processes] == [0] * 5, ends
    failed = [name for out, _ in ends for name in json.loads(out.splitlines()[-1])]
    assert len([each for each in hub.asked() if each.fault]) > 50
    assert sum(err.count("error: ") for _, err in ends) == len(failed)
    lost = {row["run_id"] for name in failed for row in ResultsTable.load(tmp_path / name).rows()}
    everything = {row["run_id"] for row in rows}
    assert everything - set(table_there(hub, "someone/stormy")) <= lost
    hub.calm()
    out = run(hub, tmp_path, code, *(name for each in parts for name in each))
    assert json.loads(out.splitlines()[-1]) == []
    assert set(table_there(hub, "someone/stormy")) == everything


def test_a_revision_holds_the_rows_of_its_time(hub, tmp_path):
    rows = planted_rows()
    run(hub, tmp_path, PUSH, saved(tmp_path / "a", rows[:10]), "someone/versions")
    first = hub.repo("datasets", "someone/versions").head.id
    hub.repo("datasets", "someone/versions").tags["v1"] = hub.repo("datasets", "someone/versions").head
    run(hub, tmp_path, PUSH, saved(tmp_path / "b", rows), "someone/versions")
    output = run(
        hub,
        tmp_path,
        """
        import sys
        from hf_scaling.results import ResultsTable
        load = ResultsTable.load
        print(len(load("someone/versions")), len(load("someone/versions", revision=sys.argv[1])),
              len(load("someone/versions", "v1")), len(load("someone/versions@v1")))
        try:
            load("someone/versions@v2")
        except ValueError as error:
            print(error)
        """,
        first,
    )
    counts, error = output.strip().split("\n")
    assert counts == "32 10 10 10"
    assert "someone/versions" in error


def test_the_commands_take_a_hub_id_for_a_table(hub, tmp_path):
    rows = planted_rows()
    run(hub, tmp_path, PUSH, saved(tmp_path / "a", rows), "someone/commands")
    for argv in (
        ["fit", "someone/commands", "--law", "chinchilla", "--arm", "plain", "--bootstrap", "20"],
        ["boundary", "someone/commands"],
        ["merge", "someone/commands", "a", "--out", "both"],
    ):
        status, out, err = command(hub, tmp_path, *argv)
        assert (status, bool(out)) == (0, True), err
    assert len(ResultsTable.load(tmp_path / "both")) == 32


@pytest.mark.parametrize(
    ("name", "rows", "values"),
    [
        ("text", [{"run_id": "a", "error": "high", "schema_version": 1}], ["error", "string", "float64"]),
        ("unknown", [{"run_id": "a", "colour": "red", "schema_version": 1}], ["colour"]),
        ("nobody", [{"run_id": None, "error": 0.5, "schema_version": 1}], ["run_id"]),
        ("foreign", [{"images": 5, "loss": 0.5}], ["images", "loss"]),
        ("newer", [{"run_id": "a", "schema_version": 7, "versions": '{"hf_scaling": "0.9.2"}'}], ["7", "0.9.2"]),
    ],
)
def test_a_table_with_a_wrong_schema_is_refused_and_not_changed(hub, tmp_path, name, rows, values):
    repo = hub.add("datasets", f"someone/{name}", {"results/results.parquet": parquet(rows)})
    before = repo.head.id
    status, _, err = command(hub, tmp_path, "push", saved(tmp_path / "a", planted_rows()), "--repo", repo.id)
    assert status == 2, err
    assert all(value in last_line(err) for value in values), err
    assert hub.repo("datasets", repo.id).head.id == before
    if name != "foreign":
        status, _, err = command(hub, tmp_path, "merge", repo.id, "--out", "merged")
        assert status == 2, err
        assert all(value in last_line(err) for value in [*values, repo.id]), err


@pytest.mark.parametrize(
    ("name", "readme", "value"),
    [
        (
            "climbing",
            "---\nconfigs:\n- config_name: default\n  data_files: ../../etc/*.parquet\n---\n",
            "../../etc/*.parquet",
        ),
        ("odd", "---\nconfigs: 7\n---\n", "configs"),
    ],
)
def test_a_card_that_names_outside_files_or_is_invalid_is_refused(hub, tmp_path, name, readme, value):
    repo = hub.add("datasets", f"someone/{name}", {"README.md": readme.encode(), "results/results.parquet": b"PAR1"})
    for argv in (
        ["merge", repo.id, "--out", "merged"],
        ["push", saved(tmp_path / "a", planted_rows()), "--repo", repo.id],
    ):
        status, _, err = command(hub, tmp_path, *argv)
        assert (status, value in last_line(err), "Traceback" in err) == (2, True, False), err


def test_a_dry_run_writes_nothing_and_a_private_table_is_private(hub, tmp_path):
    home = saved(tmp_path / "a", planted_rows())
    status, out, err = command(hub, tmp_path, "push", home, "--repo", "someone/quiet", "--private", "--dry-run")
    assert status == 0, err
    assert "someone/quiet" in out and "results/results.parquet" in out and "private" in out
    assert ("datasets", "someone/quiet") not in hub.storage.repos
    status, _, err = command(hub, tmp_path, "push", home, "--repo", "someone/quiet", "--private")
    assert (status, hub.repo("datasets", "someone/quiet").private) == (0, True), err
    assert {each.status for each in hub.asked("POST", "/commit/")} == {200}


def test_offline_and_refused_pushes_end_with_one_line_and_their_status(hub, tmp_path):
    home = saved(tmp_path / "a", planted_rows())
    for setting in ({"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:9"}):
        status, _, err = command(hub, tmp_path, "push", home, "--repo", "someone/far", **setting)
        assert (status, "error: offline" in err, "someone/far" in last_line(err)) == (1, True, True), err
        status, _, err = command(hub, tmp_path, "fit", "someone/far", **setting)
        assert (status, "offline" in last_line(err)) == (2, True), err
    from hub_server import User

    hub.users["hf_readerOnly123"] = User("reader", may_write=False)
    run(hub, tmp_path, PUSH, home, "someone/closed")
    status, _, err = command(
        hub, tmp_path, "push", saved(tmp_path / "b", planted_rows(seeds=[1])), "--repo", "someone/closed",
        HF_TOKEN="hf_readerOnly123",
    )  # fmt: skip
    assert (status, "403" in last_line(err), "someone/closed" in last_line(err)) == (2, True, True), err
    assert "hf_readerOnly123" not in err
