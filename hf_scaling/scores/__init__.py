"""Transferability scores of a checkpoint's features on labelled images, and how far they can be trusted.

Each score is a function of arrays and gives a float; larger is better throughout.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from hf_scaling.scores.agreement import judge_scores
from hf_scaling.scores.h_score import h_score
from hf_scaling.scores.leep import leep, nce
from hf_scaling.scores.logme import logme
from hf_scaling.scores.n_leep import n_leep
from hf_scaling.scores.parc import parc
from hf_scaling.scores.probes import knn, linear_probe
from hf_scaling.scores.transrate import transrate

#: Name to score, called as score(features, labels, probabilities=None, seed=0, **constants): features (n, d) before
#: the head, labels (n,), probabilities (n, Z) of the source classes; an InputError names what cannot be scored.
SCORES: Mapping[str, Callable[..., float]] = MappingProxyType(
    {
        "transrate": transrate,
        "logme": logme,
        "leep": leep,
        "nce": nce,
        "h_score": h_score,
        "n_leep": n_leep,
        "parc": parc,
    }
)

__all__ = ["SCORES", "judge_scores", "knn", "linear_probe"]
