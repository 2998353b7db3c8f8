"""Tables as people have them: delimiters, packed files, "1.3B", other names of columns and arms, one column a size."""

import gzip
import json
import re
import shlex
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest

import hf_scaling as hs
from hf_scaling.cli import main
from hf_scaling.errors import ColumnsError, InputError
from hf_scaling.results.foreign import arm_columns, parse_size, propose_arms, similar_columns, wide_headings

SIZES = np.array([1e6, 2e6, 4e6, 8e6, 1.6e7, 3.2e7, 6.4e7])
LOSS = 1.7 + 400 * SIZES**-0.35


@pytest.fixture
def run(capsys):
    def command(*argv):
        with pytest.raises(SystemExit) as ended:
            main([str(item) for item in argv])
        output = capsys.readouterr()
        return ended.value.code, output.out, output.err

    return command


def fit_law(path, **options):
    return hs.fit_law(str(path), "power_law", x="n_params", bootstrap=0, **options)


def delimited(separator, heads=("n_params", "loss"), decimal="."):
    rows = [(f"{size:.0f}", f"{loss:.12f}".replace(".", decimal)) for size, loss in zip(SIZES, LOSS)]
    return "\n".join(separator.join(cells) for cells in [heads, *rows]) + "\n"


@pytest.mark.parametrize(
    "text",
    [
        delimited(" , "),
        delimited(",", (" n_params ", '"loss "')),
        delimited(";"),
        delimited("; "),
        delimited(";", decimal=","),
        delimited("\t"),
        delimited(" \t "),
        delimited("|"),
        delimited("   "),
        delimited(",").replace("\n", ",\n"),
        "\n\n" + delimited(","),
        delimited(",").replace("\n", "\r\n"),
    ],
)
def test_any_usual_delimiter_is_read(tmp_path, text):
    path = tmp_path / "table.csv"
    path.write_bytes(text.encode())
    assert fit_law(path).params["a"] == pytest.approx(0.35, rel=1e-6)


@pytest.mark.parametrize("name", ["table.csv.gz", "table.tsv.gz", "table.csv", "table.tsv", "TABLE.CSV"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_packed_and_encoded_files_are_read(tmp_path, name, encoding):
    content = delimited("\t" if "tsv" in name else ",", ("n_params", "loss")).encode(encoding)
    path = tmp_path / name
    path.write_bytes(gzip.compress(content) if name != "table.csv" else content)
    assert hs.ResultsTable.load(path).column_names == ["n_params", "loss"]


def test_a_file_of_windows_1252_is_read_and_a_torn_gzip_is_refused(tmp_path):
    (tmp_path / "t.csv").write_bytes("n_params,größe,loss\n1,2,3\n".encode("cp1252"))
    assert hs.ResultsTable.load(tmp_path / "t.csv").column_names == ["n_params", "größe", "loss"]
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(delimited(",").encode())[:40])
    with pytest.raises(InputError, match=r"t\.csv\.gz"):
        hs.ResultsTable.load(tmp_path / "t.csv.gz")


def test_text_values_lose_their_spaces_and_columns_without_name_and_value_are_left_out(tmp_path):
    (tmp_path / "t.csv").write_text(",arm, loss,,\n0, KD, 0.5,,\n1,KD ,,,\n")
    frame = hs.ResultsTable.load(tmp_path / "t.csv").to_pandas()
    assert list(frame.columns) == ["column 1", "arm", "loss"]
    assert frame.arm.tolist() == ["KD", "KD"]
    assert frame.loss.tolist()[0] == 0.5 and np.isnan(frame.loss[1])


@pytest.mark.parametrize("heads", ["n_params,loss,loss", "loss;n_params; loss", "n_params\tn_params\tloss"])
def test_doubled_column_names_are_named_with_their_places(run, tmp_path, heads):
    path = tmp_path / "t.csv"
    separator = re.search(r"[,;\t]", heads)[0]
    path.write_text("\n".join([heads, *(separator.join(["1e6", "2", "3"]) for _ in range(4))]))
    status, _, err = run("fit", path, "--x", "n_params", "--law", "power_law")
    assert (status, err.count("\n")) == (2, 1)
    repeated = "n_params" if heads.startswith("n_params\t") else "loss"
    assert repr(repeated) in err and str(path) in err


def test_doubled_columns_of_a_frame_are_named():
    frame = pd.DataFrame([[1e6, 2.0, 3.0]] * 5, columns=["n_params", "loss", "loss"])
    for call in (
        lambda: hs.fit_law(frame, "power_law", x="n_params"),
        lambda: hs.ResultsTable(frame),
        lambda: hs.write_report(frame, "never.html", bootstrap=100),
    ):
        with pytest.raises(InputError, match="loss"):
            call()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1.3B", 1.3e9),
        ("368M", 368e6),
        ("12k", 12_000),
        ("1,024", 1024),
        ("1_000_000", 1e6),
        ("12 K", 12_000),
        ("5 million tokens", 5e6),
        ("70m", 70e6),
        ("1.5T", 1.5e12),
        ("2.5 bn", 2.5e9),
        ("300 images", 300),
        ("1,234,567.5", 1_234_567.5),
        ("3e8", 3e8),
        (7, 7),
    ],
)
def test_sizes_are_read_as_people_write_them(text, value):
    assert parse_size(text) == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize("text", ["", "vit-30k", "1.3X", "1,02", "large", "1.2.3", None, "12,34,56"])
def test_other_text_is_not_a_size(text):
    assert np.isnan(parse_size(text))


WRITTEN = [
    ["1M", "2M", "4M", "8M", "16M", "32M", "64M"],
    ["1,000,000", "2,000,000", "4,000,000", "8,000,000", "16,000,000", "32,000,000", "64,000,000"],
    ["1000k", "2 million", "4e6", "0.008B", "16M params", "32 M", "64000000"],
]


@pytest.mark.parametrize("sizes", WRITTEN)
def test_a_column_of_such_sizes_is_fitted(tmp_path, sizes):
    frame = pd.DataFrame({"n_params": sizes, "loss": LOSS})
    expected = fit_law_of(pd.DataFrame({"n_params": SIZES, "loss": LOSS}))
    assert fit_law_of(frame).params == pytest.approx(expected.params)
    frame.to_csv(tmp_path / "t.csv", index=False)
    assert fit_law(tmp_path / "t.csv").params == pytest.approx(expected.params)
    # Under a name of their own, mapped or named by x.
    other = frame.rename(columns={"n_params": "model_size"})
    other.to_csv(tmp_path / "t.csv", index=False)
    assert hs.ResultsTable.load(tmp_path / "t.csv").to_pandas()["model_size"].tolist() == SIZES.tolist()
    odd = frame.rename(columns={"n_params": "q"})
    assert hs.fit_law(odd, "power_law", x="q", bootstrap=0).params == pytest.approx(expected.params)
    assert hs.ResultsTable(odd, map={"n_params": "q"}).to_pandas().n_params.tolist() == SIZES.tolist()


def fit_law_of(frame):
    return hs.fit_law(frame, "power_law", x="n_params", bootstrap=0)


def test_a_percent_sign_divides_by_a_hundred(tmp_path):
    for texts in (["5.8%", "4.25%", ""], ["5.8 %", "4.25 %", "-"]):
        pd.DataFrame({"n_params": [1, 2, 3], "error": texts}).to_csv(tmp_path / "t.csv", index=False)
        error = hs.ResultsTable.load(tmp_path / "t.csv").to_pandas().error
        assert error.tolist()[:2] == pytest.approx([0.058, 0.0425])
        assert np.isnan(error[2])


@pytest.mark.parametrize("name", ["t.csv", "t.xlsx"])
def test_a_spreadsheet_is_refused_by_its_name(tmp_path, name):
    (tmp_path / name).write_bytes(b"PK\x03\x04" + bytes(40))
    with pytest.raises(InputError, match=rf"{name}.*CSV"):
        hs.ResultsTable.load(tmp_path / name)


def test_a_text_in_a_column_of_sizes_is_refused_with_its_row():
    frame = pd.DataFrame({"n_params": [*WRITTEN[0][:-1], "huge"], "loss": LOSS})
    with pytest.raises(InputError, match=r"n_params.*row 6.*huge"):
        fit_law_of(frame)


@pytest.mark.parametrize(
    ("ours", "theirs", "mapped"),
    [
        ("n_params", "params", None),
        ("n_params", "N", None),
        ("n_params", "Num Parameters", None),
        ("n_params", "numParams", None),
        ("n_params", "model_size", None),
        ("n_params", "#params", None),
        ("n_params", "params (M)", "params (M)*1e6"),
        ("n_params", "params_B", "params_B*1e9"),
        ("n_params", "N_PARAMS", None),
        ("n_params", "n_param", None),
        ("n_pretrain", "tokens", None),
        ("n_pretrain", "D", None),
        ("n_pretrain", "dataset_size", None),
        ("n_pretrain", "num_train_samples", None),
        ("n_pretrain", "nImages", None),
        ("n_pretrain", "tokens [billions]", "tokens [billions]*1e9"),
        ("n_finetune", "shots", None),
        ("n_finetune", "n_labels", None),
        ("loss", "val_loss", None),
        ("loss", "eval/loss", None),
        ("loss", "Validation Loss", None),
        ("loss", "nll", None),
        ("error", "top1_error", None),
        ("error", "test_err", None),
        ("accuracy", "acc", None),
        ("accuracy", "top1 acc (%)", None),
        ("train_flops", "compute", None),
    ],
)
def test_usual_names_of_a_column_are_recognised(ours, theirs, mapped):
    columns = ["colour", theirs, "comment"]
    assert similar_columns([ours], columns) == {ours: mapped or theirs}


def test_a_column_is_proposed_once_and_others_never():
    assert similar_columns(["n_params", "n_pretrain"], ["N", "D", "L"]) == {"n_params": "N", "n_pretrain": "D"}
    assert similar_columns(["n_params", "n_pretrain", "loss"], ["size", "colour", "bleu"]) == {"n_params": "size"}
    assert similar_columns(["loss"], ["train_loss", "val_loss"]) == {"loss": "val_loss"}


LOSS_2D = [f"{0.2 + 0.1 * (n * 1e-6) ** -0.3 + 0.1 * (d * 1e-8) ** -0.3:.6f}" for n in SIZES for d in 100 * SIZES]
GRID = [(f"{n:.0f}", f"{d:.0f}") for n in SIZES for d in 100 * SIZES]


@pytest.mark.parametrize(
    ("heads", "command"),
    [
        (("params", "tokens", "val_loss"), ["fit"]),
        (("N", "D", "L"), ["fit", "--law", "chinchilla"]),
        (("model size", "dataset_size", "test loss"), ["compare"]),
        (("#params", "n_tokens", "eval/loss"), ["plan", "--budget", "1e15", "--cost", "pretrain_image=1"]),
        (("n_params", "Tokens", "loss"), ["fit", "--law", "chinchilla"]),
        (("params", "tokens", "error"), ["fit", "--target=loss"]),
        (("params", "tokens", "val_loss"), ["report", "--bootstrap", "100"]),
    ],
)
def test_the_first_error_contains_the_command_that_works(run, tmp_path, monkeypatch, heads, command):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "their table.csv"
    path.write_text("\n".join(map(",".join, [heads, *((*sizes, loss) for sizes, loss in zip(GRID, LOSS_2D))])))
    few = [] if command[0] in ("compare", "report") else ["--bootstrap", "0" if command[0] == "fit" else "20"]
    argv = [command[0], str(path), *command[1:], *few]
    status, _, err = run(*argv)
    assert (status, err.count("\n")) == (2, 1)
    words = shlex.split(err[err.index("hf-scaling ") :])
    assert words[1:3] == [command[0], str(path)]
    assert run(*words[1:])[0] == 0


@pytest.mark.parametrize(
    ("heads", "flags"),
    [
        (("params", "loss"), ["--law", "power_law", "--x", "n_params", "--map", "n_params=params"]),
        (("n_params", "loss"), ["--law", "power_law", "--x", "n_params"]),
        (("width", "loss"), ["--law", "power_law", "--x", "width"]),
        (("params", "acc"), ["--target", "accuracy", "--map", "accuracy=acc"]),
        (("params", "error"), ["--target", "error"]),
    ],
)
def test_other_laws_and_targets_are_proposed(run, tmp_path, heads, flags):
    path = tmp_path / "t.csv"
    path.write_text(delimited(",", heads))
    _, _, err = run("fit", path)
    words = shlex.split(err[err.index("hf-scaling ") :])
    for flag, value in zip(flags[::2], flags[1::2]):
        assert (flag, value) in list(pairwise(words))


def test_evaluations_of_one_run_are_fitted_over_what_grows(run, tmp_path):
    rows = [f"mine,3200,{320 * step},{step},{2 * step**-0.3:.4f}" for step in range(1, 9)]
    (tmp_path / "t.csv").write_text("\n".join(["run,n_pretrain,samples_seen,step,loss", *rows]))
    _, _, err = run("fit", tmp_path / "t.csv")
    assert ("--x", "samples_seen") in list(pairwise(shlex.split(err[err.index("hf-scaling ") :])))
    assert "(cluster)" not in err


def test_x_of_a_law_of_several_sizes_proposes_the_power_law(run, tmp_path):
    (tmp_path / "t.csv").write_text(delimited(","))
    status, _, err = run("fit", tmp_path / "t.csv", "--x", "n_params")
    words = shlex.split(err[err.index("hf-scaling ") :])
    assert status == 2
    assert run(*words[1:], "--bootstrap", 0)[0] == 0


def test_a_map_may_scale_or_invert(run, tmp_path):
    frame = pd.DataFrame({"params (M)": SIZES / 1e6, "acc": 1 - LOSS / 100})
    mapped = hs.ResultsTable(frame, map={"n_params": "params (M)*1e6", "error": "1-acc"}).to_pandas()
    assert mapped.n_params.tolist() == pytest.approx(SIZES)
    assert mapped.error.tolist() == pytest.approx(LOSS / 100)
    assert sorted(mapped.columns) == ["error", "n_params"]
    frame.to_csv(tmp_path / "t.csv", index=False)
    flags = ["--map", "n_params=params (M)*1e6", "--map", "error = 1 - acc", "--target", "error"]
    options = ["--law", "power_law", "--x", "n_params", "--bootstrap", 0, "--json"]
    status, out, _ = run("fit", tmp_path / "t.csv", *flags, *options)
    assert (status, json.loads(out)["params"]["a"]) == (0, pytest.approx(0.35, rel=1e-5))
    for wrong in ("n_params=parms (M)*1e6", "error=1-accuracy", "n_params=colour"):
        status, _, err = run("fit", tmp_path / "t.csv", "--map", wrong, *options)
        assert (status, err.count("\n")) == (2, 1)
        assert "params (M)" in err


def two_arms(plain, distilled, column="arm"):
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            column: arm,
            "n_pretrain": n,
            "seed": seed,
            "loss": (0.3 + 40 * n**-0.62 if arm == plain else 0.39 + 14 * n**-0.55) * np.exp(0.01 * rng.normal()),
        }
        for n in (250, 500, 1000, 2000, 4000, 8000)
        for seed in range(3)
        for arm in (plain, distilled)
    )


NAMES = [
    ("arm", "baseline", "KD"),
    ("arm", "student", "distill"),
    ("arm", "Plain", "Distilled"),
    ("arm", "from scratch", "with teacher"),
    ("arm", "no_kd", "kd"),
    ("arm", "plain", "KD"),
    ("method", "vanilla", "DKD, tau 4"),
    ("kd", False, True),
    ("distilled", 0, 1),
    ("setup", "CE", "CE+distillation"),
]


@pytest.mark.parametrize(("column", "plain", "distilled"), NAMES)
def test_arms_under_other_names_are_proposed_and_the_proposal_works(run, tmp_path, column, plain, distilled):
    frame = two_arms(plain, distilled, column)
    assert propose_arms(frame) == (column, {"plain": str(plain), "distilled": str(distilled)})
    with pytest.raises(ColumnsError, match=re.escape(str(distilled))):
        hs.find_boundary(frame, bootstrap=100)
    expected = hs.find_boundary(two_arms("plain", "distilled"), bootstrap=100)
    mapped = hs.ResultsTable(
        frame,
        map={"arm": column} if column != "arm" else None,
        arm_names={"plain": str(plain), "distilled": [str(distilled)]},
    )
    assert hs.find_boundary(mapped, bootstrap=100).n_pretrain == expected.n_pretrain
    frame.to_csv(tmp_path / "t.csv", index=False)
    status, _, err = run("boundary", tmp_path / "t.csv", "--bootstrap", 100, "--json")
    assert (status, err.count("\n")) == (2, 1)
    words = shlex.split(err[err.index("hf-scaling ") :])
    status, out, _ = run(*words[1:])
    assert (status, json.loads(out)["n_pretrain"]) == (0, pytest.approx(expected.n_pretrain))


def test_a_boundary_maps_arms_sizes_and_target_at_once(run, tmp_path):
    frame = two_arms("baseline", "KD", "method").rename(columns={"n_pretrain": "dataset_size", "loss": "val_loss"})
    frame.to_csv(tmp_path / "t.csv", index=False)
    _, _, err = run("boundary", tmp_path / "t.csv", "--bootstrap", 100)
    words = shlex.split(err[err.index("hf-scaling ") :])
    assert {"arm=method", "n_pretrain=dataset_size", "loss=val_loss", "plain=baseline,distilled=KD"} <= set(words)
    assert run(*words[1:])[0] == 0


def test_a_boundary_of_a_table_without_arms_proposes_no_command(run, tmp_path):
    (tmp_path / "t.csv").write_text(delimited(",", ("tokens", "val_loss")))
    status, _, err = run("boundary", tmp_path / "t.csv")
    assert (status, err.count("\n")) == (2, 1)
    assert "'arm'" in err and "hf-scaling boundary" not in err


def test_an_arm_that_is_asked_for_by_our_name_is_proposed(run, tmp_path):
    two_arms("baseline", "KD").to_csv(tmp_path / "t.csv", index=False)
    options = ["--law", "power_law", "--bootstrap", 0]
    _, _, err = run("fit", tmp_path / "t.csv", "--arm", "distilled", *options)
    words = shlex.split(err[err.index("hf-scaling ") :])
    assert run(*words[1:])[0] == 0


@pytest.mark.parametrize(("column", "plain", "distilled"), NAMES[:2] + NAMES[6:7])
def test_a_report_names_the_arms_of_the_table_and_how_to_map_them(tmp_path, column, plain, distilled):
    frame = two_arms(plain, distilled, column)
    text = " ".join(hs.write_report(frame, tmp_path / "r.html", bootstrap=100).summary().split())
    assert "no column `arm`" not in text
    assert f"plain={plain},distilled={distilled}" in text
    if column == "arm":
        # Each arm has laws of its own.
        assert text.count("the last value carried forward") == 2


def test_a_report_of_unmapped_sizes_names_the_map(tmp_path):
    frame = pd.DataFrame({"params": 1e6, "tokens": SIZES, "loss": LOSS})
    text = " ".join(hs.write_report(frame, tmp_path / "r.html", bootstrap=100).summary().split())
    assert "--map n_params=params --map n_pretrain=tokens" in text
    assert "--law" not in text


def test_wrong_names_of_arms_are_refused(run, tmp_path):
    two_arms("baseline", "KD").to_csv(tmp_path / "t.csv", index=False)
    for given, word in (("plain=base,distilled=KD", "base"), ("teacher=KD", "teacher"), ("plain", "plain")):
        status, _, err = run("boundary", tmp_path / "t.csv", "--arm-names", given)
        assert (status, err.count("\n")) == (2, 1)
        assert word in err
    with pytest.raises(InputError, match="arm"):
        hs.ResultsTable(pd.DataFrame({"loss": [1.0]}), arm_names={"plain": "a"})


def test_columns_without_arms_propose_none():
    for column, values in (("seed", ["0", "1"]), ("model", ["small", "large"]), ("split", ["val", "test"])):
        assert propose_arms(pd.DataFrame({column: values, "loss": [1.0, 2.0]})) is None


def test_a_table_with_names_mapped_is_not_pushed_or_appended_to(tmp_path):
    hs.ResultsTable([{"run_id": "a" * 16, "loss": 0.5}]).save(tmp_path)
    table = hs.ResultsTable.load(tmp_path, map={"x": "loss"})
    assert table.is_foreign
    with pytest.raises(InputError):
        table.append({"run_id": "b" * 16})


@pytest.mark.parametrize(
    ("names", "wide"),
    [
        (["model", "1000", "2000", "4000"], ["1000", "2000", "4000"]),
        (["params", "loss_10k", "loss_100k", "loss_1M"], ["loss_10k", "loss_100k", "loss_1M"]),
        (["n", "1B tokens", "2B tokens", "8B tokens", "note"], ["1B tokens", "2B tokens", "8B tokens"]),
        (["size", "n=100", "n=200", "n=400"], ["n=100", "n=200", "n=400"]),
        (["n_params", "n_pretrain", "loss"], []),
        (["top1", "top5", "loss"], []),
    ],
)
def test_wide_tables_are_recognised_and_the_import_is_named(run, tmp_path, names, wide):
    assert wide_headings(names) == wide
    if wide:
        path = tmp_path / "t.csv"
        path.write_text(",".join(names) + "\n" + ",".join("1" for _ in names) + "\n")
        status, _, err = run("fit", path, "--law", "chinchilla")
        assert (status, err.count("\n")) == (2, 1)
        assert f"hf-scaling import {path}" in err
        with pytest.raises(InputError, match="hf-scaling import"):
            hs.fit_law(str(path), "chinchilla")


def column(tmp_path, text, name="n_pretrain"):
    path = tmp_path / "runs.csv"
    path.write_text(text)
    return hs.ResultsTable.load(path).to_pandas()[name].tolist()


@pytest.mark.parametrize(
    ("sizes", "losses", "separator"),
    [
        (["1.000", "30.000", "100.000"], ["0,5", "0,4", "0,3"], ";"),
        (["500", "1.000", "10.000"], ["0,5", "0,4", "0,3"], ";"),
        (["1.000", "10.000", "1.000.000"], ["0.5", "0.4", "0.3"], ","),
        (["10.000.000", "30.000.000", "100.000.000"], ["0.5", "0.4", "0.3"], "\t"),
    ],
)
def test_points_that_separate_thousands_are_read(sizes, losses, separator, tmp_path):
    rows = [separator.join(("n_pretrain", "loss")), *map(separator.join, zip(sizes, losses))]
    assert column(tmp_path, "\n".join(rows)) == [float(size.replace(".", "")) for size in sizes]


@pytest.mark.parametrize("separator", [",", ";"])
@pytest.mark.parametrize("name", ["n_pretrain", "tokens"])
def test_points_that_may_separate_thousands_are_refused(separator, name, tmp_path):
    rows = [f"{size}{separator}{loss}" for size, loss in zip(("1.000", "3.000", "10.000"), (0.5, 0.4, 0.3))]
    with pytest.raises(InputError, match=rf"'{name}': '1\.000' may be 1 or 1,000"):
        column(tmp_path, "\n".join([f"{name}{separator}loss", *rows]))


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("n_params", ["2.407", "5.380", "9.532"]),
        ("n_pretrain", ["100.000", "1000.000", "10000.000"]),
        ("params (M)", ["2.000", "5.000", "10.000"]),
        ("dose", ["1.000", "3.000", "10.000"]),
    ],
)
def test_other_points_are_decimal(name, sizes, tmp_path):
    rows = [f"{name},loss", *(f"{size},0.5" for size in sizes)]
    assert column(tmp_path, "\n".join(rows), name) == list(map(float, sizes))


@pytest.mark.parametrize("name", ["n_pretrain", "n_finetune"])
def test_a_share_is_no_size(name, tmp_path):
    path = tmp_path / "runs.csv"
    path.write_text(
        f"{name},loss\n" + "".join(f"{share}%,{loss}\n" for share, loss in ((1, 0.5), (10, 0.4), (100, 0.3)))
    )
    with pytest.raises(InputError, match="'1%' is not a number"):
        hs.fit_law(path, "power_law", x=name, bootstrap=0)


@pytest.mark.parametrize("line", ["# exported", "My runs"])
def test_lines_above_the_names_are_refused(line, tmp_path):
    with pytest.raises(InputError, match=f"first line, '{line}'.*delete"):
        column(tmp_path, f"{line}\n" + delimited(","))


@pytest.mark.parametrize("name", ["perplexity", "bits per byte"])
def test_the_only_other_column_of_numbers_is_proposed_as_the_target(name, tmp_path, run):
    path = tmp_path / "runs.csv"
    pd.DataFrame({"n_params": SIZES, "seed": 0, name: LOSS}).to_csv(path, index=False)
    status, _, error = run("fit", path, "--bootstrap", 0)
    command = shlex.split(error.rpartition("try: ")[2])
    assert status == 2 and command[command.index("--target") + 1] == name
    assert run(*command[1:])[0] == 0


@pytest.mark.parametrize(
    ("values", "named"),
    [(("none", "resnet50"), "plain=none,distilled=resnet50"), (("No", "vit-30k"), "plain=No,distilled=vit-30k")],
)
def test_a_column_of_teachers_tells_the_arms(values, named):
    table = pd.DataFrame({"n_pretrain": [1e3, 1e4] * 2, "loss": 1.0, "teacher": np.repeat(values, 2)})
    with pytest.raises(ColumnsError) as caught:
        hs.find_boundary(table, bootstrap=100)
    assert caught.value.remedy == {"map": ["arm=teacher"], "arm_names": [named]}


@pytest.mark.parametrize("empty", [None, np.nan])
def test_rows_without_an_arm_are_counted(empty):
    table = pd.DataFrame(
        {"n_pretrain": [1e3, 1e4] * 2, "loss": 1.0, "arm": pd.Series([empty] * 2 + ["distilled"] * 2, dtype=object)}
    )
    with pytest.raises(InputError, match="2 rows have none"):
        hs.find_boundary(table, bootstrap=100)


@pytest.mark.parametrize(
    ("columns", "known"),
    [(("loss_plain", "loss_distilled"), "loss"), (("baseline", "KD"), "value"), (("vanilla err", "KD err"), "err")],
)
def test_a_table_with_a_column_an_arm_becomes_long(columns, known, tmp_path, run):
    sizes = np.geomspace(1e3, 1e6, 6)
    table = pd.DataFrame({"n_pretrain": sizes, columns[0]: sizes**-0.3, columns[1]: 0.8 * sizes**-0.2})
    path, out = tmp_path / "wide.csv", tmp_path / "long.csv"
    table.to_csv(path, index=False)
    assert "hf-scaling import" in run("boundary", path, "--bootstrap", 100)[2]
    status, printed, _ = run("import", path, "--out", out, "--json")
    content = json.loads(printed)
    assert status == 0 and content["kind"] == "arms" and known in content["mapping"].values()
    frame = pd.read_csv(out)
    target = "error" if known == "err" else "loss"
    assert frame[frame["arm"] == "distilled"][target].tolist() == pytest.approx(table[columns[1]].tolist())
    assert run(*shlex.split(content["next"])[1:], "--bootstrap", 100)[0] == 0


@pytest.mark.parametrize("columns", [("train_loss", "val_loss"), ("loss_seed0", "loss_seed1"), ("loss", "loss_KD")])
def test_other_columns_are_no_arms(columns):
    assert arm_columns(["n_pretrain", *columns]) == {}
