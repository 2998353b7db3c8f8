"""The metrics of a run as metrics of `evaluate`, for a Trainer's compute_metrics or `evaluate.combine`.

    from hf_scaling.tasks.metrics import TopOneError

    TopOneError().compute(predictions=logits, references=labels)        # {"error": 0.1}

A run calls the functions beneath them: `evaluate` takes as long to import as a fifth of torch.
"""

import datasets
import evaluate
import numpy as np

from hf_scaling.tasks.base import cross_entropy, top_one_error

_LOGITS = datasets.Features(
    {"predictions": datasets.Sequence(datasets.Value("float32")), "references": datasets.Value("int64")}
)


class _LogitMetric(evaluate.Metric):
    """Takes logits, shape (n, classes), and labels, shape (n,)."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(description=type(self).__doc__, citation="", features=_LOGITS)


class TopOneError(_LogitMetric):
    """Top-1 error rate, 0 to 1."""

    def _compute(self, predictions, references) -> dict[str, float]:
        return {"error": top_one_error(np.asarray(predictions), np.asarray(references))}


class CrossEntropy(_LogitMetric):
    """Cross-entropy, nats per example."""

    def _compute(self, predictions, references) -> dict[str, float]:
        return {"loss": cross_entropy(np.asarray(predictions), np.asarray(references))}
