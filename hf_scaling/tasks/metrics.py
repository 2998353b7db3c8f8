"""Metrics of `evaluate` that need no network: classes of its Metric rather than names that it would download."""

import datasets
import evaluate
import numpy as np

_LOGITS = datasets.Features(
    {"predictions": datasets.Sequence(datasets.Value("float32")), "references": datasets.Value("int64")}
)


class _LogitMetric(evaluate.Metric):
    """Takes logits, shape (n, classes), and labels, shape (n,)."""

    description = ""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(description=self.description, citation="", features=_LOGITS)


class TopOneError(_LogitMetric):
    """Share of the images whose largest logit is not the label's: 0..1."""

    description = "top-1 error rate, 0..1"

    def _compute(self, predictions, references) -> dict[str, float]:
        guesses = np.argmax(np.asarray(predictions), axis=1)
        return {"error": float(np.mean(guesses != np.asarray(references)))}


class CrossEntropy(_LogitMetric):
    """Cross-entropy in nats an image, summed in float64."""

    description = "cross-entropy, nats an image"

    def _compute(self, predictions, references) -> dict[str, float]:
        logits = np.asarray(predictions, dtype=np.float64)
        logits = logits - logits.max(axis=1, keepdims=True)
        labels = np.asarray(references)
        of_label = np.take_along_axis(logits, labels[:, None], axis=1)[:, 0]
        return {"loss": float(np.mean(np.log(np.exp(logits).sum(axis=1)) - of_label))}


def score(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Error (0..1) and loss (nats an image) of `logits` (n, classes) against `labels` (n,)."""
    metrics = evaluate.combine([TopOneError(keep_in_memory=True), CrossEntropy(keep_in_memory=True)])
    return metrics.compute(predictions=logits, references=labels)


def agreement(logits: np.ndarray, others: np.ndarray) -> float:
    """Share of the images to which two models, by their logits (n, classes), give the same class: 0..1."""
    metric = TopOneError(keep_in_memory=True)
    return 1 - metric.compute(predictions=logits, references=np.argmax(others, axis=1))["error"]
