"""The deciding loop of a study, on planted runs."""

import json

import numpy as np
import pandas as pd
import pytest

from hf_scaling.study.questions import Question, judge
from hf_scaling.study.rounds import run_rounds

LEVELS, N_PARAMS = [250, 500, 1000, 2000, 4000, 8000, 16000], 211_338
QUESTION = Question("boundary", "loss", N_PARAMS, (250.0, 16000.0))


def planted(ratio, noise=0.01, seeds=6, seed=0):
    """Runs of both arms; `ratio(n)` is log(distilled / plain)."""
    draw, rows = np.random.default_rng(seed), []
    for number in range(seeds):
        for n in LEVELS:
            plain = 0.3 + 30 * n**-0.35
            for arm, loss in (("plain", plain), ("distilled", plain * np.exp(ratio(n)))):
                loss *= np.exp(noise * draw.standard_normal())
                rows.append({"arm": arm, "n_pretrain": n, "seed": number, "loss": loss, "seconds": max(n, 1000) / 100})
    constants = {"stage": "pretrain", "model": "vit-200k", "n_params": N_PARAMS, "n_finetune": 0, "downstream": None}
    return pd.DataFrame(rows).assign(**constants)


def crossing_at(n):
    return lambda size: 0.1 * np.log(size / n)


class Pool:
    workers = 1

    def __init__(self, runs, seconds=1e5, dies_at=None):
        self.runs, self.left, self.done, self.dies_at = runs, seconds, [], dies_at

    def candidates(self):
        return self.runs.drop(index=self.done)

    def measure(self, cells):
        for cell in cells:
            if self.dies_at is not None and len(self.done) >= self.dies_at:
                raise KeyboardInterrupt
            assert cell not in self.done
            self.done.append(cell)
            self.left -= self.runs.at[cell, "seconds"]

    def table(self):
        return self.runs.loc[self.done]

    def seconds_left(self):
        return self.left


@pytest.mark.parametrize(
    "ratio, verdict",
    [
        (crossing_at(2000), "crossing"),
        (lambda n: -0.1, "distillation_always"),
        (lambda n: 0.1, "distillation_never"),
        (lambda n: 0.0, "no_difference"),
    ],
)
def test_the_judge_knows_each_answer(ratio, verdict):
    answer = judge(planted(ratio, noise=0.005), QUESTION)
    assert (answer.verdict, answer.answered, answer.distance) == (verdict, True, 0)
    if verdict == "crossing":
        assert answer.low < 2000 < answer.high < 2 * answer.low


def test_a_verdict_on_part_of_the_range_does_not_count():
    rows = planted(lambda n: -0.1)
    answer = judge(rows[rows["n_pretrain"].between(500, 8000)], QUESTION)
    assert answer.verdict == "distillation_always" and not answer.answered
    assert answer.missing == [250.0, 16000.0]
    four = judge(rows[rows["n_pretrain"].isin([250, 500, 4000, 16000])], QUESTION)
    assert four.verdict == "distillation_always" and not four.answered and not four.missing


def test_rows_that_cannot_be_fitted_are_no_answer():
    answer = judge(planted(crossing_at(2000)).iloc[:3], QUESTION)
    assert (answer.verdict, answer.answered, answer.distance) == ("too_few", False, np.inf)


def test_other_students_do_not_answer_for_the_middle_one():
    middle = planted(crossing_at(2000), noise=0.005)
    other = planted(lambda n: -0.2, noise=0.005).assign(model="vit-800k", n_params=815_882)
    answer = judge(pd.concat([middle, other], ignore_index=True), QUESTION)
    assert answer.verdict == "crossing" and answer.low < 2000 < answer.high


def test_a_crossing_is_answered_confirmed_and_costs_a_part_of_the_pool():
    pool, seen = Pool(planted(crossing_at(1500))), []
    outcome = run_rounds(pool, [QUESTION], report=seen.append)
    answer = outcome.answers["boundary"]
    assert outcome.status == "answered" and answer.verdict == "crossing" and answer.low < 1500 < answer.high
    assert seen[0].number == 0 and not seen[0].answers and len(seen[-1].cells) == 0
    assert [one.answers["boundary"].answered for one in seen[-2:]] == [True, True]
    assert pool.table()["seconds"].sum() < 0.5 * pool.runs["seconds"].sum()
    # Both arms of every pair, so that the comparison is paired.
    assert (pool.table().groupby(["n_pretrain", "seed"])["arm"].nunique() == 2).all()


def test_without_time_or_runs_it_ends_and_says_why():
    assert run_rounds(Pool(planted(crossing_at(1500)), seconds=60), [QUESTION]).status == "spent"
    few = planted(lambda n: 0.01 * np.sin(n), noise=0.05, seeds=1)
    assert run_rounds(Pool(few), [QUESTION]).status == "exhausted"


@pytest.mark.parametrize("dies_at", [3, 9, 14])
def test_an_interrupted_study_measures_the_same_runs(dies_at):
    runs, rounds = planted(crossing_at(1500), noise=0.03), []
    undisturbed = Pool(runs)
    run_rounds(undisturbed, [QUESTION], report=rounds.append)
    killed, states = Pool(runs, dies_at=dies_at), []
    with pytest.raises(KeyboardInterrupt):
        run_rounds(killed, [QUESTION], report=lambda one: states.append(json.loads(json.dumps(one.state))))
    killed.dies_at = None
    outcome = run_rounds(killed, [QUESTION], state=states[-1])
    assert killed.done == undisturbed.done and outcome.status == "answered"


def test_more_time_continues_where_the_study_ended():
    runs = planted(crossing_at(1500), noise=0.03)
    pool = Pool(runs, seconds=200)
    first = run_rounds(pool, [QUESTION])
    assert first.status == "spent"
    done = list(pool.done)
    pool.left += 1e5
    second = run_rounds(pool, [QUESTION], state=first.state)
    assert second.status == "answered" and pool.done[: len(done)] == done and len(pool.done) > len(done)


def test_the_dearest_end_is_not_measured_where_the_arms_cross_inside():
    runs = planted(crossing_at(1000))
    runs["seconds"] = np.where(runs["n_pretrain"] == max(LEVELS), 500.0, runs["seconds"])
    pool = Pool(runs, seconds=2000)
    assert run_rounds(pool, [QUESTION]).answers["boundary"].verdict == "crossing"
    assert pool.table()["n_pretrain"].max() < max(LEVELS)


def test_pairs_are_spread_over_all_levels_where_no_crossing_shows():
    pool = Pool(planted(lambda n: 0.0, noise=0.03, seeds=12), seconds=1500)
    assert run_rounds(pool, [QUESTION]).answers["boundary"].verdict == "not_resolved"
    table = pool.table()
    pairs = table[table["arm"] == "plain"].groupby("n_pretrain").size()
    # Around a crossing that is noise, every seed of three levels would be measured, and the ends hardly.
    assert set(pairs.index) == set(LEVELS) and pairs.max() < 12 and pairs[8000] > 1


def test_runs_for_one_question_do_not_confirm_another():
    runs = pd.concat([planted(crossing_at(1500), noise=0.03), labelled(4.0)], ignore_index=True)
    rounds, gap = [], Question("gap", "loss", N_PARAMS, (250, 16000), "digits")
    assert run_rounds(Pool(runs), [QUESTION, gap], report=rounds.append).status == "answered"
    for question in ("boundary", "gap"):
        answered = [n for n, one in enumerate(rounds) if n and one.answers[question].answered]
        # The pilot is for both; after the first answer a round for this question comes before the end.
        assert any(one.question == question for one in rounds[answered[0] :])


def labelled(gap, n=6):
    """Fine-tuned runs of a planted transfer gap beside their pretraining runs."""
    draw, rows = np.random.default_rng(1), []
    for n_pretrain in [500, 2000, 8000, 32000, 128000][:n]:
        for n_finetune in [50, 200, 800, 3200]:
            for seed in range(2):
                loss = (200 * n_pretrain**-0.7 + gap) * n_finetune**-0.35 + 0.05
                loss *= np.exp(0.005 * draw.standard_normal())
                rows.append({"n_pretrain": n_pretrain, "n_finetune": n_finetune, "seed": seed, "loss": loss})
    constants = {
        "stage": "finetune",
        "model": "vit-200k",
        "n_params": N_PARAMS,
        "arm": "plain",
        "downstream": "digits",
    }
    return pd.DataFrame(rows).assign(seconds=5.0, **constants)


@pytest.mark.parametrize("gap, verdict", [(4.0, "high"), (0.0, "low")])
def test_a_transfer_gap_is_judged(gap, verdict):
    answer = judge(labelled(gap), Question("gap", "loss", N_PARAMS, (500, 32000), "digits"))
    assert (answer.verdict, answer.answered) == (verdict, True)


def test_all_questions_are_taken_in_turn():
    runs = pd.concat([planted(crossing_at(1500)), labelled(4.0)], ignore_index=True)
    pool, asked = Pool(runs), []
    gap = Question("gap", "loss", N_PARAMS, (250, 16000), "digits")
    outcome = run_rounds(pool, [QUESTION, gap], report=lambda one: asked.append(one.question))
    assert outcome.status == "answered" and {"boundary", "gap"} <= set(asked)
    assert outcome.answers["gap"].verdict == "high"


def test_a_question_that_no_run_brings_nearer_leaves_time_to_the_others():
    # Fine-tuned losses scatter too much to tell a gap; it is nearer to an answer than the boundary all the same.
    tuned = labelled(0.4, n=3)
    tuned["loss"] *= np.exp(0.3 * np.random.default_rng(0).standard_normal(len(tuned)))
    runs = pd.concat([planted(crossing_at(1500), noise=0.06, seeds=12), tuned], ignore_index=True)
    rounds, gap = [], Question("gap", "loss", N_PARAMS, (250, 16000), "digits")
    outcome = run_rounds(Pool(runs, seconds=900), [QUESTION, gap], report=rounds.append)
    asked = [one.question for one in rounds if one.question]
    assert not outcome.answers["gap"].answered and asked[:2] == ["gap", "boundary"]
    assert set(outcome.state["spent_on"]) == {"gap", "boundary"}


@pytest.mark.parametrize("workers", [1, 4])
def test_a_round_gives_every_worker_a_run(workers):
    runs = pd.concat([planted(crossing_at(1500)), labelled(0.4)], ignore_index=True)
    pool, rounds = Pool(runs, seconds=120), []
    pool.workers = workers
    run_rounds(pool, [Question("gap", "loss", N_PARAMS, (250, 16000), "digits")], report=rounds.append)
    fewest = min(len(one.cells) for one in rounds if one.question == "gap")
    assert fewest == workers


def test_distances_of_all_questions_have_one_scale():
    # By them the time is shared: a boundary of which nothing is known was once ten times as far as such a gap.
    boundary = judge(planted(lambda n: 0.0, noise=0.1), QUESTION)
    wide = judge(planted(crossing_at(1500), noise=0.03, seeds=1), QUESTION)
    gap = judge(labelled(0.4, n=2), Question("gap", "loss", N_PARAMS, (250, 16000), "digits"))
    assert not any(answer.answered for answer in (boundary, wide, gap))
    assert boundary.verdict == "not_resolved" and boundary.distance == pytest.approx(1.5)
    assert 0.5 <= gap.distance <= 1.5
    assert 0 < wide.distance < boundary.distance


def test_a_student_of_another_size_answers_nothing():
    # Of the middle student one seed of each size exists: its crossing stays open, and no other student is trained.
    other = planted(crossing_at(1500)).assign(model="vit-800k", n_params=815_882)
    pool = Pool(pd.concat([planted(crossing_at(1500), noise=0.05, seeds=1), other], ignore_index=True))
    outcome = run_rounds(pool, [QUESTION])
    assert outcome.status == "spent" and set(pool.table()["model"]) == {"vit-200k"}


def test_a_plan_is_judged():
    question = Question("plan", "loss", N_PARAMS, (500, 32000), "digits", budget=1000.0, costs={"label": 1.0})
    answer = judge(labelled(4.0), question)
    assert answer.verdict in ("clear", "hardly_matters", "cannot_tell") and answer.answered == (
        answer.verdict != "cannot_tell"
    )
