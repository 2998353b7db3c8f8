"""Rows of different kinds under one size are not repeats of one run."""

import numpy as np
import pandas as pd
import pytest

import hf_scaling as hs
from hf_scaling.errors import InputError
from hf_scaling.runner import status

X = np.geomspace(1e3, 1e6, 8)


def kinds(column, gap, names=("a", "b", "c"), seeds=1, noise=0.01):
    """A curve for each kind; `gap` is the relative difference from one to the next."""
    generator = np.random.default_rng(3)
    rows = [
        {column: name, "n_pretrain": x, "seed": seed, "loss": (0.5 + 20 * x**-0.3) * (1 + gap) ** place}
        for place, name in enumerate(names)
        for x in X
        for seed in range(seeds)
    ]
    table = pd.DataFrame(rows)
    return table.assign(loss=table["loss"] * np.exp(noise * generator.standard_normal(len(table))))


@pytest.mark.parametrize(
    ("column", "names"),
    [
        ("model", ("vit-30k", "vit-200k")),
        ("optimizer", ("sgd", "adam", "lion")),
        ("dropout", (0.0, 0.1)),
        ("n_params", (1e5, 1e6)),
    ],
)
def test_kinds_that_differ_are_refused_by_name(column, names):
    table = kinds(column, 0.1, names)
    for law in ("power_law", "bnsl"):
        with pytest.raises(InputError, match=column):
            hs.fit_law(table, law)
    assert hs.fit_law(table[table[column] == names[0]], "power_law", bootstrap=50).status == "ok"


@pytest.mark.parametrize(
    ("column", "names"), [("model", ("x", "y", "z")), ("machine", ("one", "two")), ("width", (64, 65))]
)
def test_kinds_that_differ_by_chance_are_kept_and_are_no_seeds(column, names):
    fit = hs.fit_law(kinds(column, 0.0, names), "power_law", bootstrap=50)
    assert "mixed" in fit.note_codes and "replicates" not in fit.note_codes
    both = hs.fit_law(kinds(column, 0.0, names, seeds=2), "power_law", bootstrap=50)
    assert "mixed" in both.note_codes and "replicates" in both.note_codes


@pytest.mark.parametrize("column", ["seed", "run", "wandb_id", "device", "created_at"])
def test_columns_of_identity_are_no_kinds(column):
    table = kinds("other", 0.05, seeds=2).drop(columns=["seed"]).rename(columns={"other": column})
    assert "mixed" not in hs.fit_law(table, "power_law", bootstrap=0).note_codes


def test_each_size_with_a_model_of_its_own_is_no_mixture():
    table = kinds("model", 0.0, ("a",), seeds=3).assign(model=lambda t: t["n_pretrain"].map(lambda x: f"m{x:.0f}"))
    assert "mixed" not in hs.fit_law(table, "power_law", bootstrap=0).note_codes


def test_a_comparison_leaves_out_the_laws_that_would_mix():
    generator = np.random.default_rng(0)
    grid = np.meshgrid(np.geomspace(1e5, 1e7, 3), np.geomspace(1e3, 1e6, 5), np.geomspace(10, 1e4, 5))
    table = dict(zip(("n_params", "n_pretrain", "n_finetune"), map(np.ravel, grid)))
    truth = {"E": 0.3, "A": 60.0, "alpha": 0.3, "B": 10.0, "beta": 0.3, "C": 3.0, "gamma": 0.3}
    loss = hs.LAWS["joint_additive"].predict(truth, table) * np.exp(0.01 * generator.standard_normal(75))
    ranking = hs.compare_laws(table | {"loss": loss}, laws=["joint_additive", "transfer_gap", "transfer_gap_joint"])
    assert ranking.best == "joint_additive" and "transfer_gap" not in set(ranking.table["law"])
    assert any("transfer_gap" in n["text"] for n in ranking.notes if n["code"] == "laws_left_out")
    with pytest.raises(InputError, match="n_params"):
        hs.compare_laws(table | {"loss": loss}, laws=["transfer_gap"])


class FakeStudy:
    """A study of plain rows."""

    def __init__(self, rows):
        same = {
            "arm": "plain",
            "downstream": None,
            "upstream": "glyphs",
            "n_finetune": 0,
            "recipe": "r",
            "image_size": 28,
        }
        self._rows = [same | {"n_params": 1, "n_pretrain": 1} | row for row in rows]

    def table(self):
        return self

    def rows(self):
        return self._rows


def product(**columns):
    names, values = list(columns), np.array(np.meshgrid(*columns.values())).reshape(len(columns), -1).T
    return [dict(zip(names, row)) for row in values.tolist()]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (product(n_pretrain=[1, 2, 3]), ["fit", "power_law"]),
        (product(n_params=[1, 2, 3]), ["fit", "power_law --x n_params"]),
        (product(n_params=[1, 2, 3], n_pretrain=[1, 2, 3]), ["fit", "chinchilla"]),
        ([row | {"downstream": "digits"} for row in product(n_pretrain=[1, 2], n_finetune=[5, 9])], ["transfer_gap"]),
        (
            [
                row | {"downstream": name}
                for name in ("digits", "faces")
                for row in product(n_params=[1, 2], n_pretrain=[1, 2], n_finetune=[5, 9])
            ],
            ["transfer_gap_joint", "--downstream digits"],
        ),
        (product(n_pretrain=[1]), ["report"]),
        ([row | {"recipe": str(i)} for i, row in enumerate(product(n_pretrain=[1, 2, 3]))], ["report"]),
    ],
)
def test_the_next_command_of_a_study_takes_every_size_that_varies(rows, words, monkeypatch):
    monkeypatch.setattr(status, "Study", lambda folder: FakeStudy(rows))
    command = status.next_command("studies/x")
    assert all(word in command for word in words)
    law = command.partition("--law ")[2].split(" ")[0]
    for name in ("n_params", "n_pretrain", "n_finetune") if law else ():
        varies = len({row.get(name) for row in rows}) > 1
        assert not varies or name in hs.LAWS[law].variables or hs.LAWS[law].variables == ("x",)


def test_runs_without_pretraining_start_the_line_of_their_student(monkeypatch):
    tuned = {
        "stage": "finetune",
        "downstream": "digits",
        "model": "vit-30k",
        "teacher_n_params": None,
        "n_finetune": 9,
    }
    cells = [(0, None, 0.5), (10, "glyphs", 0.25), (10, "faces", 0.125)]
    rows = [
        tuned
        | {"arm": "plain", "n_params": 1, "n_pretrain": n, "upstream": upstream, "error": error, "loss": 2 * error}
        for n, upstream, error in cells
    ]

    def lines(rows):
        monkeypatch.setattr(status, "Study", lambda folder: FakeStudy(rows))
        return [line.split() for line in status.summarise("studies/x").splitlines()]

    assert lines(rows[:2])[2] == ["vit-30k", "plain", "0.500", "(1.00)", "0.250", "(0.50)"]
    assert [line[2:] for line in lines(rows)[2:4]] == [
        ["faces", "0.500", "(1.00)", "0.125", "(0.25)"],
        ["glyphs", "0.500", "(1.00)", "0.250", "(0.50)"],
    ]
    assert lines(rows[:1])[2] == ["vit-30k", "plain", "0.500", "(1.00)"]


@pytest.mark.parametrize("column", ["acc", "grade"])
def test_another_measurement_is_no_kind(column):
    table = kinds("other", 0.0, seeds=4, noise=0.05).drop(columns="other")
    rounded = table.assign(**{column: np.round(1 - table["loss"] / 4, 1)})
    assert rounded[column].nunique() <= 12
    assert "mixed" not in hs.fit_law(rounded, "power_law", bootstrap=0).note_codes
