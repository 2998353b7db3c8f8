"""Transferability scores: each equals a direct formula, refuses what cannot be scored, and ranks planted features."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr, weightedtau

from hf_scaling.errors import InputError
from hf_scaling.scores import SCORES, judge_scores, knn, linear_probe
from hf_scaling.scores.agreement import regret, weighted_taus


def planted(n=240, d=12, n_classes=4, spread=1.5, seed=0, rank=None, weights=None):
    """Features of separable classes, labels, and probabilities of six source classes."""
    random = np.random.default_rng(seed)
    labels = random.choice(n_classes, n, p=weights)
    centres = spread * random.normal(size=(n_classes, d))
    features = centres[labels] + random.normal(size=(n, d))
    if rank is not None:
        features = features @ random.normal(size=(d, rank)) @ random.normal(size=(rank, d))
    logits = features @ random.normal(size=(d, 6)) / 3
    theta = np.exp(logits - logits.max(1, keepdims=True))
    return features, labels, theta / theta.sum(1, keepdims=True)


CASES = {
    "full rank": {},
    "rank deficient": {"rank": 4},
    "unbalanced": {"weights": [0.7, 0.2, 0.06, 0.04]},
    "one class missing": {"weights": [0.5, 0.0, 0.3, 0.2]},
    "more dimensions than rows": {"n": 30, "d": 80},
}


def direct_transrate(features, labels, _, epsilon=1e-4):
    def rate(rows):
        n, d = rows.shape
        return 0.5 * np.linalg.slogdet(np.eye(d) + rows.T @ rows / (n * epsilon))[1]

    rows = features - features.mean(0)
    classes = np.unique(labels)
    return rate(rows) - sum((labels == c).mean() * rate(rows[labels == c]) for c in classes)


def direct_logme(features, labels, _):
    n, d = features.shape
    evidences = []
    for label in np.unique(labels):
        y, alpha, beta = (labels == label).astype(float), 1.0, 1.0
        singular = np.linalg.svd(features, compute_uv=False) ** 2
        for _ in range(11):
            inverse = np.linalg.inv(alpha * np.eye(d) + beta * features.T @ features)
            m = beta * inverse @ features.T @ y
            gamma = (beta * singular / (alpha + beta * singular)).sum()
            alpha, beta = gamma / (m @ m), (n - gamma) / ((features @ m - y) ** 2).sum()
        a = alpha * np.eye(d) + beta * features.T @ features
        m = beta * np.linalg.solve(a, features.T @ y)
        evidence = n / 2 * np.log(beta) + d / 2 * np.log(alpha) - n / 2 * np.log(2 * np.pi)
        evidence -= beta / 2 * ((features @ m - y) ** 2).sum() + alpha / 2 * m @ m + np.linalg.slogdet(a)[1] / 2
        evidences.append(evidence / n)
    return np.mean(evidences)


def direct_leep(_, labels, theta):
    total = 0.0
    for i in range(len(labels)):
        likelihood = 0.0
        for z in range(theta.shape[1]):
            mass = theta[:, z].sum()
            if mass > 0:
                likelihood += theta[labels == labels[i], z].sum() / mass * theta[i, z]
        total += np.log(likelihood)
    return total / len(labels)


def direct_nce(_, labels, theta):
    predicted, total = theta.argmax(1), 0.0
    for y in np.unique(labels):
        for z in np.unique(predicted):
            both = ((labels == y) & (predicted == z)).mean()
            total += both * np.log(both / (predicted == z).mean()) if both else 0.0
    return total


def direct_h_score(features, labels, _):
    from sklearn.covariance import LedoitWolf

    conditional = np.stack([features[labels == label].mean(0) for label in labels])
    between = np.cov(conditional.T, bias=True)
    return np.trace(np.linalg.inv(LedoitWolf().fit(features).covariance_) @ between)


def direct_parc(features, labels, _):
    from sklearn.decomposition import PCA

    # The correlation of two rows depends on the signs of the components, so they are sklearn's here as there.
    reduced = PCA(min(32, *features.shape)).fit_transform(features)
    one_hot = np.stack([labels == c for c in np.unique(labels)], 1).astype(float)
    first, second = [], []
    for i in range(len(labels)):
        for j in range(i):
            first.append(1 - np.corrcoef(reduced[i], reduced[j])[0, 1])
            # Rounded: equal distances are ties, whatever their last digit.
            second.append(round(1 - np.corrcoef(one_hot[i], one_hot[j])[0, 1], 9))
    return 100 * spearmanr(first, second).statistic


DIRECT = {
    "transrate": direct_transrate,
    "logme": direct_logme,
    "leep": direct_leep,
    "nce": direct_nce,
    "h_score": direct_h_score,
    "parc": direct_parc,
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", DIRECT)
def test_a_score_equals_its_direct_formula(name, case):
    given = planted(**({"n": 60} | CASES[case]))
    assert SCORES[name](*given) == pytest.approx(DIRECT[name](*given), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_n_leep_is_leep_of_the_mixture(case):
    from sklearn.decomposition import PCA
    from sklearn.mixture import GaussianMixture

    features, labels, _ = planted(**({"n": 60} | CASES[case]))
    reduced = PCA(0.8, svd_solver="full").fit_transform(features)
    mixture = GaussianMixture(5 * len(np.unique(labels)), random_state=3).fit(reduced)
    expected = direct_leep(None, labels, mixture.predict_proba(reduced))
    assert SCORES["n_leep"](features, labels, seed=3) == pytest.approx(expected, rel=1e-6)


def test_a_source_class_without_mass_is_skipped():
    features, labels, theta = planted(n=50)
    padded = np.concatenate([theta, np.zeros((len(theta), 2))], axis=1)
    assert SCORES["leep"](features, labels, padded) == pytest.approx(SCORES["leep"](features, labels, theta))


@pytest.mark.parametrize("name", [*SCORES, "knn", "linear_probe"])
@pytest.mark.parametrize("fault", ["constant", "nan", "one class", "lengths"])
def test_what_cannot_be_scored_is_refused(name, fault):
    features, labels, theta = planted(n=30)
    if fault == "constant":
        features = np.ones_like(features)
        theta = np.full_like(theta, np.nan)
    elif fault == "nan":
        features, theta = features.copy(), theta.copy()
        features[3, 1] = theta[3, 1] = np.nan
    elif fault == "one class":
        labels = np.zeros_like(labels)
    else:
        labels = labels[:-1]
    score = {"knn": knn, "linear_probe": linear_probe}.get(name) or SCORES[name]
    arguments = (features, labels) if name in ("knn", "linear_probe") else (features, labels, theta)
    with pytest.raises(InputError, match=name):
        score(*arguments)


@pytest.mark.parametrize("name", ["leep", "nce"])
def test_a_checkpoint_without_a_head_is_refused(name):
    features, labels, _ = planted(n=30)
    with pytest.raises(InputError, match=name):
        SCORES[name](features, labels)


def test_labels_may_be_names():
    features, labels, theta = planted(n=60)
    for name, score in SCORES.items():
        assert score(features, np.array(["a", "b", "c", "d"])[labels], theta) == score(features, labels, theta), name


@pytest.mark.parametrize("name", [name for name in SCORES if name != "transrate"] + ["knn", "linear_probe"])
def test_separability_is_ranked_right(name):
    levels = np.linspace(0.05, 1.5, 20)
    values = []
    for level in levels:
        random = np.random.default_rng(5)
        labels = np.repeat(np.arange(4), 60)
        features = level * random.normal(size=(4, 16))[labels] + random.normal(size=(240, 16))
        logits = 2 * level * np.eye(4)[labels] @ random.normal(size=(4, 8)) + random.normal(size=(240, 8))
        theta = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        if name in SCORES:
            values.append(SCORES[name](features, labels, theta))
        else:
            values.append((knn if name == "knn" else linear_probe)(features, labels))
    from scipy.stats import kendalltau

    assert kendalltau(levels, values).statistic >= 0.9


def test_the_order_of_transrate_depends_on_epsilon():
    """Two checkpoints whose features differ in scale change places between 1e-5 and 1e-1."""
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(5), 40)
    clear = 0.03 * (3 * np.eye(5)[labels] @ random.normal(size=(5, 8)) + 0.1 * random.normal(size=(200, 8)))
    large = np.eye(5)[labels] @ random.normal(size=(5, 8)) + random.normal(size=(200, 8))
    transrate = SCORES["transrate"]
    ahead = {e: transrate(clear, labels, epsilon=e) > transrate(large, labels, epsilon=e) for e in (1e-5, 1e-1)}
    assert ahead == {1e-5: True, 1e-1: False}


def study(n=24, seed=0, signal=3.0):
    random = np.random.default_rng(seed)
    accuracy = random.uniform(0.5, 0.9, n)
    frame = pd.DataFrame(
        {
            "n_params": random.permutation(n).astype(float),
            "n_pretrain": random.permutation(n).astype(float),
            "good": accuracy + 0.01 * random.normal(size=n),
            "noise": random.normal(size=n),
        }
    )
    frame["n_params"] += signal * n * accuracy
    return frame, accuracy


def test_the_weighted_tau_of_resampled_rows_is_scipys():
    draw = np.random.default_rng(0)
    for n, levels in ((5, 100), (30, 100), (30, 4)):
        rankings, truth = draw.integers(levels, size=(3, n)) / 7, draw.integers(levels, size=n) / 3
        times = draw.multinomial(n, np.full(n, 1 / n), size=20)
        found = weighted_taus(rankings, truth, times)
        for sample, of in zip(times, found):
            rows = np.repeat(np.arange(n), sample)
            expected = [weightedtau(ranking[rows], truth[rows]).statistic for ranking in rankings]
            assert of == pytest.approx(expected, abs=1e-9, nan_ok=True)
    assert np.isnan(weighted_taus(np.ones((1, 4)), np.arange(4.0), np.ones((1, 4), int))).all()


def test_a_score_is_judged_by_the_best_trivial_ranking():
    frame, accuracy = study(signal=0.3)
    table = judge_scores(frame, accuracy, draws=400).set_index("score")
    assert table.loc["good", "verdict"] == "better" and table.loc["noise", "verdict"] != "better"
    assert set(table.loc[["n_params", "n_pretrain"], "verdict"]) == {"trivial"}
    assert table.loc["good", "tau"] == pytest.approx(weightedtau(frame["good"], accuracy).statistic)
    assert (table["low"] <= table["tau"] + 1e-9).all() and (table["tau"] <= table["high"] + 1e-9).all()


def test_a_score_worse_than_size_is_not_better():
    frame, accuracy = study(signal=50.0, n=30)
    assert judge_scores(frame, accuracy, draws=400).set_index("score").loc["noise", "verdict"] == "not"


def test_few_configurations_tell_nothing():
    frame, accuracy = study(n=24)
    few = judge_scores(frame, accuracy, configuration=np.arange(24) % 11, draws=200)
    assert set(few["verdict"]) == {"cannot_tell", "trivial"}


def test_scores_of_noise_are_seldom_called_better():
    called = 0
    for seed in range(60):
        random = np.random.default_rng(seed)
        frame = pd.DataFrame(random.normal(size=(16, 5)), columns=["n_params", "a", "b", "c", "d"])
        verdicts = judge_scores(frame, random.uniform(size=16), draws=100)["verdict"]
        called += (verdicts == "better").any()
    assert called <= 9


def test_regret_is_what_the_choice_loses():
    accuracy = np.array([0.9, 0.8, 0.5])
    assert regret(np.array([1.0, 2.0, 0.0]), accuracy) == pytest.approx(0.1)
    assert regret(np.array([2.0, 2.0, 0.0]), accuracy) == pytest.approx(0.05)


def test_scores_that_cannot_be_judged_are_refused():
    frame, accuracy = study()
    with pytest.raises(InputError, match="n_params"):
        judge_scores(frame[["good"]], accuracy)
    with pytest.raises(InputError, match="good"):
        judge_scores(frame.assign(good=np.nan), accuracy)
    with pytest.raises(InputError):
        judge_scores(frame, accuracy[:-1])
