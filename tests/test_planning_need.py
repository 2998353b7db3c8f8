"""`need` and the commands `need` and `predict`: planted sizes, verdicts, collecting in rounds, errors."""

import json
import math
import re
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import hf_scaling as hs
from hf_scaling.cli import main
from hf_scaling.planning.need import Curves, _without_rise
from hf_scaling.planning.verdicts import NEED_VERDICTS

sys.path.insert(0, str(Path(__file__).parent / "support"))
from plans import planted

SIZES = np.geomspace(100, 100_000, 12).round()


def curve(floor=0.02, noise=0.01, seed=0, sizes=SIZES):
    """Fine-tuned rows whose error is floor + 3 n^-0.4."""
    error = floor + 3 * sizes**-0.4
    return {
        "n_finetune": sizes,
        "error": error * np.exp(noise * np.random.default_rng(seed).standard_normal(len(sizes))),
    }


def size_for(error, floor=0.02):
    return ((error - floor) / 3) ** (-1 / 0.4)


def fitted(law="power_law", **changes):
    return hs.fit_law(curve(**changes), law, "error", x="n_finetune", bootstrap=200)


@pytest.mark.parametrize(
    "error, verdict", [(0.2, "reached_inside"), (0.06, "reached_inside"), (0.045, "extrapolated")]
)
def test_planted_sizes_are_inside_the_interval(error, verdict):
    inside = 0
    for seed in range(6):
        found = hs.need(fitted(seed=seed), value=error)
        assert found.verdict == verdict
        assert found.value == pytest.approx(size_for(error), rel=0.3)
        inside += found.low <= size_for(error) <= found.high
    assert inside >= 5


def test_without_noise_the_size_is_exact():
    fit = planted("power_law", {"E": 0.02, "A": 3.0, "a": 0.4}, x="n_pretrain", draws=50)
    found = hs.need(fit, "loss", 0.12, "n_pretrain")
    assert found.value == pytest.approx((0.1 / 3) ** (-1 / 0.4), rel=2e-3)
    assert (found.low, found.high) == pytest.approx((found.value, found.value))


def test_a_band_that_widens_below_the_measured_sizes_keeps_its_interval():
    """The favourable end reaches the target again far below, where nothing was measured."""
    logs = np.linspace(-5, 10, 300)
    law = np.exp(-0.2 * logs)
    band = np.exp(np.where(logs < 0, -1.5 * logs, -np.log(0.9)))
    curves = Curves(logs, law, np.stack([law / band, law, law * 1.1] * 20))
    value = math.exp(-0.2 * 4)
    assert math.log(curves.reach(value)) == pytest.approx(4, abs=1e-3)
    assert math.log(curves.reach(value, 0.025)) == pytest.approx(4 + math.log(0.9) / 0.2, abs=1e-3)
    assert math.log(curves.reach(value, 0.975)) == pytest.approx(4 + math.log(1.1) / 0.2, abs=1e-3)


def test_draws_do_not_rise_beyond_the_data_and_keep_what_they_are_inside_and_on_the_favourable_side():
    logs = np.linspace(0, 10, 101)
    law = np.exp(-0.2 * logs)
    beyond = np.maximum(logs - 5, 0)
    offset, better, worse = law * 1.1, law * np.exp(-0.1 * beyond), law * np.exp(0.05 + 0.3 * beyond)
    one, two, three = _without_rise(logs, law, np.stack([offset, better, worse]), 5.0)
    assert one == pytest.approx(offset) and two == pytest.approx(better)
    assert three[logs <= 5] == pytest.approx(worse[logs <= 5])
    # The law gains .2 a unit, the draw loses .3: its slope is exp(-1.5) of the law's at first order.
    outside = -np.diff(np.log(three[logs >= 5])) / np.diff(logs[logs >= 5])
    assert (outside > 0).all() and outside == pytest.approx(0.2 * np.exp(-1.5), rel=1e-6)


def test_the_laws_of_a_mixture_leave_a_finite_upper_end():
    sizes = np.geomspace(100, 3000, 12).round()
    inside = 0
    for seed in range(3):
        fit = hs.fit_law(curve(seed=seed, sizes=sizes), "auto", "error", x="n_finetune", bootstrap=100)
        found = hs.need(fit, value=0.02 + 3 * 9000**-0.4)
        assert fit.law == "mixture" and 9000 / 3 < found.value < found.high < 100 * 3000
        inside += found.low <= 9000 <= found.high
    assert inside >= 2


def test_a_target_below_the_floor_is_never_reached():
    found = hs.need(fitted(floor=0.08, noise=0.002), value=0.05)
    assert (found.verdict, found.value, found.collect) == ("never", math.inf, None)
    assert found.low > 100 * SIZES[-1]


def test_a_target_close_to_the_floor_is_not_judged():
    found = hs.need(fitted(noise=0.03), value=0.021)
    assert found.verdict == "cannot_tell"
    assert found.collect == 3 * SIZES[-1]
    assert "need_open" in [n["code"] for n in found.notes]


@pytest.mark.parametrize("sizes", [SIZES[[0, -1]], SIZES[[3]]])
def test_too_few_levels_give_the_levels_to_add(sizes):
    table = curve(sizes=np.repeat(sizes, 4))
    found = hs.need(table, value=0.045, law="power_law", bootstrap=100)
    assert found.verdict == "cannot_tell" and math.isnan(found.value)
    (few,) = [n for n in found.notes if n["code"] == "too_few_levels"]
    assert few["add"]["n_finetune"]


def test_a_mixture_and_a_score_that_rises_are_solved():
    table = curve()
    by_error = hs.need(table, value=0.1, bootstrap=100)
    assert by_error.fit.law == "mixture"
    assert by_error.value == pytest.approx(size_for(0.1), rel=0.1)
    rising = {"n_finetune": table["n_finetune"], "accuracy": 1 - table["error"]}
    found = hs.need(rising, "accuracy", 0.9, bootstrap=100)
    assert found.value == pytest.approx(by_error.value, rel=0.02)
    assert found.low <= size_for(0.1) <= found.high


def test_other_sizes_are_the_largest_measured_unless_given():
    fit = planted("transfer_gap", spread=0.01)
    far, near = hs.need(fit, "loss", 0.3), hs.need(fit, "loss", 0.3, n_pretrain=250)
    assert far.sizes == {"n_pretrain": 32_000.0} and near.sizes == {"n_pretrain": 250.0}
    assert near.value > far.value
    exact = fit.invert(0.3, "n_finetune", n_pretrain=250)
    assert near.value == pytest.approx(exact[0], rel=0.01)


def test_collecting_in_rounds_reaches_the_target():
    for seed, multiple in ((0, 2.0), (1, 5.0), (2, 20.0)):
        rows = curve(seed=seed, sizes=np.geomspace(100, 1e6, 60).round())
        truth, known, amounts = 2000 * multiple, 2000.0, []
        while known < truth:
            keep = rows["n_finetune"] <= known
            found = hs.need(
                {name: values[keep] for name, values in rows.items()},
                value=0.02 + 3 * truth**-0.4,
                law="power_law",
                bootstrap=100,
            )
            assert 1.25 * rows["n_finetune"][keep].max() <= found.collect <= 3 * known + 1
            known = found.collect
            amounts.append(known)
        assert len(amounts) <= 5 and known <= 2 * truth


@pytest.mark.parametrize(
    "arguments, named",
    [
        ({"target": "loss"}, "error, not loss"),
        ({"solve_for": "n_pretrain"}, "n_pretrain.*n_finetune"),
        ({"n_params": 1e6}, "n_params"),
        ({"n_finetune": 100}, "n_finetune"),
        ({"value": math.nan}, "value"),
    ],
)
def test_errors_name_the_argument(arguments, named):
    with pytest.raises(hs.InputError, match=named):
        hs.need(fitted(), **{"value": 0.05, **arguments})


@pytest.fixture
def run(capsys):
    def command(*argv):
        with pytest.raises(SystemExit) as ended:
            main([*map(str, argv)])
        captured = capsys.readouterr()
        return ended.value.code, captured.out, captured.err

    return command


@pytest.fixture
def csv(tmp_path):
    pd.DataFrame(curve()).to_csv(tmp_path / "runs.csv", index=False)
    return tmp_path / "runs.csv"


@pytest.fixture(scope="module")
def law(tmp_path_factory):
    """A kept law of both sizes: its folder."""
    grid = np.meshgrid([250.0, 1000, 4000, 16_000], [20.0, 100, 500, 2500])
    sizes = {name: values.ravel() for name, values in zip(("n_pretrain", "n_finetune"), grid)}
    loss = hs.LAWS["transfer_gap"].predict({"A": 30.0, "alpha": 0.4, "G": 0.8, "beta": 0.3, "E": 0.05}, sizes)
    noise = np.exp(0.01 * np.random.default_rng(0).standard_normal(len(loss)))
    folder = tmp_path_factory.mktemp("kept") / "law"
    hs.fit_law({**sizes, "loss": loss * noise}, "transfer_gap", bootstrap=100).save_pretrained(folder)
    return folder


FAST = ("--law", "power_law", "--bootstrap", 100)


def test_the_need_command_has_the_keys_of_the_api(run, csv):
    argv = ("need", csv, "--target", "error=0.045", "--solve-for", "n_finetune", *FAST)
    status, out, err = run(*argv, "--json")
    content = json.loads(out)
    expected = hs.need(str(csv), value=0.045, law="power_law", bootstrap=100)
    assert (status, err) == (0, "")
    for name in ("value", "low", "high", "verdict", "collect"):
        assert content[name] == getattr(expected, name)
    status, out, _ = run(*argv)
    assert status == 0 and NEED_VERDICTS[expected.verdict] in out


def test_the_need_command_takes_a_kept_law(run, law):
    fit = hs.LawFit.from_pretrained(law)
    argv = ("need", law, "--target", "loss=0.3", "--solve_for", "n_finetune", "--at", "n_pretrain=250")
    status, out, _ = run(*argv, "--json")
    content = json.loads(out)
    assert (status, content["sizes"]) == (0, {"n_pretrain": 250.0})
    assert content["value"] == hs.need(fit, "loss", 0.3, n_pretrain=250).value


@pytest.mark.parametrize(
    "argv, named",
    [
        (("--solve-for", "n_finetune", "--target", "error"), "--target error"),
        (("--solve-for", "n_finetune"), "--target"),
        (("--target", "error=0.1", "--solve-for", "n_finetune", "--at", "n_finetune=5"), "n_finetune"),
        (("--target", "error=0.1", "--solve-for", "n_finetune", "--at", "n_params=5"), "n_params"),
    ],
)
def test_errors_of_the_need_command_are_one_line(run, csv, argv, named):
    status, out, err = run("need", csv, *argv, *FAST)
    assert (status, out, len(err.splitlines())) == (2, "", 1) and named in err


def test_the_predict_command_is_the_law(run, csv):
    at = ("--at", "n_finetune=1e4", "--at", "n_finetune=1e6")
    expected = fitted().predict({"n_finetune": [1e4, 1e6]})
    status, out, err = run(
        "predict", csv, "--target", "error", "--law", "power_law", "--bootstrap", 200, *at, "--json"
    )
    content = json.loads(out)
    assert (status, err, content["law"], content["target"]) == (0, "", "power_law", "error")
    rows = pd.DataFrame(content["predictions"])
    assert rows["n_finetune"].tolist() == [1e4, 1e6]
    assert np.allclose(rows[list(expected)], expected, rtol=1e-6)
    status, out, _ = run("predict", csv, "--target", "error", *FAST, *at)
    assert status == 0 and "10x" in out and "nan" not in out


def test_the_predict_command_reads_and_prints_csv(run, law, tmp_path):
    fit = hs.LawFit.from_pretrained(law)
    sizes = pd.DataFrame({"name": ["a", "b"], "n_pretrain": [1000, 32_000], "n_finetune": [500, 500]})
    sizes.to_csv(tmp_path / "sizes.csv", index=False)
    status, out, _ = run("predict", law, "--frame", tmp_path / "sizes.csv", "--csv")
    (tmp_path / "out.csv").write_text(out)
    read = pd.read_csv(tmp_path / "out.csv")
    assert status == 0 and read["name"].tolist() == ["a", "b"]
    assert np.allclose(read[["value", "low", "high"]], fit.predict(sizes)[["value", "low", "high"]])
    assert read["extrapolation"].tolist() == pytest.approx([0.0, math.log(2)])


def test_a_size_given_again_begins_another_set(run, law):
    at = ("n_pretrain=1000", "n_finetune=100", "n_finetune=500", "n_pretrain=2000", "n_finetune=50")
    status, out, _ = run("predict", law, *(word for size in at for word in ("--at", size)), "--json")
    rows = json.loads(out)["predictions"]
    assert status == 0
    assert [(row["n_pretrain"], row["n_finetune"]) for row in rows] == [(1000, 100), (2000, 500), (2000, 50)]


def test_a_missing_size_is_named_with_what_to_add(run, law):
    at = ["--at", "n_pretrain=1000"]
    status, _, err = run("predict", law, *at)
    added = re.findall(r"--at n_finetune=\S+", err)
    assert (status, len(added), len(err.splitlines())) == (2, 1, 1)
    assert run("predict", law, *at, *added[0].split())[0] == 0


@pytest.mark.parametrize(
    "argv, named",
    [
        ((), "--at"),
        (("--at", "n_finetune=10", "--frame", "sizes.csv"), "--frame"),
        (("--at", "n_finetun=10"), "n_finetune"),
        (("--at", "n_finetune=ten"), "ten"),
        (("--frame", "no.csv"), "no.csv"),
        (("--at", "n_finetune=10", "--csv", "--json"), "--csv"),
    ],
)
def test_errors_of_the_predict_command_are_one_line(run, csv, argv, named):
    status, out, err = run("predict", csv, "--target", "error", "--x", "n_finetune", *FAST, *argv)
    assert (status, out, len(err.splitlines())) == (2, "", 1) and named in err


@pytest.mark.parametrize(("value", "named"), [(5, "5 % is 0.05"), (-0.1, "0 to 1"), (120, "0 to 1")])
def test_a_value_that_the_target_cannot_have_is_refused(value, named):
    with pytest.raises(ValueError, match=named):
        hs.need(fitted(), "error", value, "n_finetune")


@pytest.mark.parametrize("value", [0.99, 0.8])
def test_a_target_that_every_size_reaches_is_reported(value):
    found = hs.need(fitted(), "error", value, "n_finetune")
    assert found.verdict == "reached_inside" and "below_measured" in [n["code"] for n in found.notes]


@pytest.mark.parametrize(("written", "value"), [("10k", 1e4), ("1,000", 1e3), ("0.001M", 1e3), ("1e5", 1e5)])
def test_sizes_of_the_command_line_are_read_as_those_of_a_table(written, value, tmp_path, capsys):
    fitted().save_pretrained(tmp_path / "law")
    with pytest.raises(SystemExit) as ended:
        main(["predict", str(tmp_path / "law"), "--at", f"n_finetune={written}", "--json"])
    assert ended.value.code == 0
    assert json.loads(capsys.readouterr().out)["predictions"][0]["n_finetune"] == value


@pytest.mark.parametrize("written", ["5%", "0.05"])
def test_a_target_can_be_written_in_percent(written, tmp_path, capsys):
    fitted().save_pretrained(tmp_path / "law")
    with pytest.raises(SystemExit):
        main(["need", str(tmp_path / "law"), "--target", f"error={written}", "--solve-for", "n_finetune", "--json"])
    assert json.loads(capsys.readouterr().out)["target_value"] == pytest.approx(0.05)


def test_a_share_of_a_score_in_percent_is_refused():
    x = np.geomspace(1000, 1e6, 10)
    table = {"n_pretrain": x, "accuracy": 100 * (0.8 - 10 * x**-0.4)}
    with pytest.raises(hs.InputError, match="78"):
        hs.need(table, "accuracy", 0.78, "n_pretrain")
    assert hs.need(table, "accuracy", 75, "n_pretrain").verdict == "reached_inside"


@pytest.mark.parametrize(
    ("sizes", "named"), [([10, -5], "row 1: -5 is negative"), (["many"], "row 0: 'many' is not a number")]
)
def test_sizes_that_cannot_be_are_refused_with_their_row(sizes, named):
    with pytest.raises(ValueError, match=f"^n_finetune, {named}"):
        fitted().predict({"n_finetune": sizes})


@pytest.mark.parametrize("sizes", [(100, 3_000, 100_000), (500, 900, 2_000)])
def test_as_many_sizes_as_parameters_give_no_answer(sizes):
    fit = hs.fit_law(curve(sizes=np.array(sizes, dtype=float)), "power_law", "error", x="n_finetune", bootstrap=100)
    found = hs.need(fit, "error", 0.2, "n_finetune")
    assert found.verdict == "cannot_tell" and math.isnan(found.low) and math.isnan(found.high)
    assert "no_draws" in [n["code"] for n in found.notes]
