"""The columns a law may take as variables: how each is written, and in which unit it is counted."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Column:
    """A variable's LaTeX symbol, its unit, and the range in which an inverse is sought."""

    symbol: str
    unit: str
    low: float = 1e-9
    high: float = 1e45


COLUMNS = {
    "n_params": Column("M", "parameters, counted"),
    "n_pretrain": Column("D_p", "unique upstream images (or tokens)"),
    "n_finetune": Column("D_f", "unique labelled downstream images (or tokens)"),
    "x": Column("x", "the unit of whichever column takes its place"),
    "samples_seen": Column("D", "images (or tokens) seen in training, repeats counted"),
    "train_flops": Column("C", "floating-point operations of the student, forward and backward"),
    "teacher_flops": Column("C_T", "floating-point operations of the teacher"),
    "teacher_loss": Column("L_T", "nats", low=1e-6, high=1e6),
    "teacher_n_params": Column("M_T", "parameters of the teacher, counted"),
    "teacher_n_pretrain": Column("D_T", "unique upstream images (or tokens) of the teacher"),
    "image_size": Column("r", "pixels a side"),
    "seconds": Column("t", "seconds of training"),
    "sparsity": Column("S", "share of weights that are zero, at least 0 and below 1", low=1e-9, high=1 - 1e-12),
}
