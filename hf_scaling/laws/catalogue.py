"""The published laws, and their list as text (`hf-scaling laws`) and as Markdown (docs/laws.md)."""

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from hf_scaling.errors import InputError
from hf_scaling.laws.law import Law
from hf_scaling.text import COLUMNS, did_you_mean, wrap

_HOFFMANN = "Hoffmann et al. 2022, Training Compute-Optimal Large Language Models (arXiv 2203.15556)"
_BUSBRIDGE = "Busbridge et al. 2025, Distillation Scaling Laws (arXiv 2502.08606)"
_ZHANG = "Zhang et al. 2024, When Scaling Meets LLM Finetuning (arXiv 2402.17193)"
_BARNETT = "Barnett 2024, An Empirical Study of Scaling Laws for Transfer (arXiv 2408.16947)"
_LIN = "Lin et al. 2024, Selecting Large Language Model to Fine-tune via Rectified Scaling Law (arXiv 2402.02314)"
_HERNANDEZ = "Hernandez et al. 2021, Scaling Laws for Transfer (arXiv 2102.01293)"

_DECLARATIONS = (
    {
        "name": "power_law",
        "expression": "E + A*x**-a",
        "paper": "Hestness et al. 2017, Deep Learning Scaling is Predictable, Empirically (arXiv 1712.00409)",
        "summary": "One variable, falling along a straight line in logarithms to a floor; the first law to try.",
    },
    {
        "name": "shifted_power_law",
        "expression": "E + A*(x + x0)**-a",
        "parameters": ("E", "A", "a", "x0"),
        "paper": "Rosenfeld et al. 2020, A Constructive Prediction of the Generalization Error (arXiv 1909.12673)",
        "summary": "A power law that starts slowly: x0 is what the model already has before the first example.",
    },
    {
        "name": "m4",
        "expression": "(L - E)/(L0 - L)**a = b*x**-c",
        "kinds": {"L0": "scale"},
        "starts": {"a": (0.05, 0.3, 1.0, 2.0)},
        "paper": "Alabdulmohsin et al. 2022, Revisiting Neural Scaling Laws (arXiv 2209.06640)",
        "summary": "A curve that leaves random guessing, L0, slowly and ends as a power law over its floor.",
    },
    {
        "name": "bnsl",
        "expression": "E + b*x**-c0*(1 + (x/d1)**(1/f1))**(-c1*f1)",
        "parameters": ("E", "b", "c0", "c1", "d1", "f1"),
        "bounds": {"c0": (0, 5), "c1": (-5, 5), "f1": (0.01, 10)},
        "kinds": {"f1": "shape"},
        "starts": {"c0": (0.0, 0.05, 0.2, 0.6, 1.5), "c1": (-0.3, 0.1, 0.3, 0.8, 2.0), "f1": (0.1, 0.4, 1.5)},
        "paper": "Caballero et al. 2023, Broken Neural Scaling Laws (arXiv 2210.14891)",
        "summary": "A power law whose slope bends once, from c0 to c0 + c1 near x = d1; a small f1 is a sharp bend.",
    },
    {
        "name": "chinchilla",
        "expression": "E + A*n_params**-alpha + B*n_pretrain**-beta",
        "paper": _HOFFMANN,
        "summary": "Model and data each close their own gap; for pre-training on unrepeated data.",
    },
    {
        "name": "chinchilla_coupled",
        "expression": "E + (A*n_params**-alpha + B*n_pretrain**-beta)**gamma",
        "paper": _BUSBRIDGE,
        "summary": "As chinchilla, with the two gaps in one power: more data helps less where the model is the limit.",
    },
    {
        "name": "joint_additive",
        "expression": "E + A*n_params**-alpha + B*n_pretrain**-beta + C*n_finetune**-gamma",
        "paper": "Hoffmann et al. 2022 (arXiv 2203.15556), with a third term for fine-tuning data",
        "summary": "Model, upstream and downstream data each close their own gap, whatever the others are.",
    },
    {
        "name": "joint_multiplicative",
        "expression": "E + A*n_params**-alpha*n_finetune**-beta",
        "paper": _ZHANG,
        "summary": "Model and fine-tuning data multiply: a larger model makes each labelled image worth more.",
    },
    {
        "name": "joint_multiplicative_data",
        "expression": "E + A*n_pretrain**-alpha*n_finetune**-beta",
        "paper": _ZHANG,
        "summary": "Upstream and fine-tuning data multiply, for one model size.",
    },
    {
        "name": "joint_multiplicative_full",
        "expression": "E + A*n_params**-alpha*n_pretrain**-gamma*n_finetune**-beta",
        "paper": _ZHANG + ", with all three variables",
        "summary": "Model, upstream and fine-tuning data all multiply.",
    },
    {
        "name": "transfer_gap",
        "expression": "(A*n_pretrain**-alpha + G)*n_finetune**-beta + E",
        "paper": _BARNETT,
        "summary": "G is the gap that no upstream data closes: if it is small pre-train more, if large label more.",
    },
    {
        "name": "transfer_gap_shifted",
        "expression": "(A*n_pretrain**-alpha + G)*(n_finetune + D0)**-beta + E",
        "paper": _BARNETT + ", with a shift in the fine-tuning data",
        "summary": "transfer_gap where the first labelled images change little: D0 is the worth of pre-training.",
    },
    {
        "name": "transfer_gap_joint",
        "expression": "(A*n_pretrain**-alpha + G + H*n_params**-delta)*n_finetune**-beta + E",
        "paper": _BARNETT + ", with a term for the model's size",
        "summary": "The transfer gap over several model sizes.",
    },
    {
        "name": "rectified",
        "expression": "B/(Dl + n_finetune**beta) + E",
        "paper": _LIN,
        "summary": "Fine-tuning data, with a loss that is flat at first: Dl is what pre-training is worth.",
    },
    {
        "name": "rectified_joint",
        "expression": "B/(D0 + k*n_pretrain**b + n_finetune**beta) + E",
        "paper": _LIN + ", with the worth of pre-training growing in n_pretrain",
        "summary": "The rectified law as a function of upstream data too; allows n_pretrain = 0, no pre-training.",
    },
    {
        "name": "effective_data",
        "expression": "B*(n_finetune + k*n_finetune**a*n_pretrain**b)**-beta + E",
        "parameters": ("k", "a", "b", "B", "beta", "E"),
        "bounds": {"a": (0, 2), "b": (0, 2)},
        "paper": _HERNANDEZ,
        "summary": "Upstream data is worth k*Df^a*Dp^b labelled images; allows n_pretrain = 0, no pre-training.",
    },
    {
        "name": "effective_data_shifted",
        "expression": "B*(n_finetune + D0 + k*n_finetune**a*n_pretrain**b)**-beta + E",
        "parameters": ("k", "a", "b", "D0", "B", "beta", "E"),
        "bounds": {"a": (0, 2), "b": (0, 2)},
        "paper": _HERNANDEZ + ", with a shift",
        "summary": "As effective_data, with a start worth D0 labelled images.",
    },
    {
        "name": "effective_data_model",
        "expression": "B*(n_finetune + k*n_finetune**a*n_params**b)**-beta + E",
        "parameters": ("k", "a", "b", "B", "beta", "E"),
        "bounds": {"a": (0, 2), "b": (0, 2)},
        "paper": _HERNANDEZ,
        "summary": "Pre-training is worth k*Df^a*M^b labelled examples to a model of M parameters.",
    },
    {
        "name": "distillation",
        "expression": (
            "teacher_loss + teacher_loss**-c0*(1 + (teacher_loss/(supervised_loss*d1))**(1/f1))**(-c1*f1)"
            "*(A*n_params**-alpha + B*n_pretrain**-beta)**gamma"
        ),
        "parameters": ("A", "alpha", "B", "beta", "gamma", "c0", "c1", "d1", "f1"),
        "where": {"supervised_loss": None},
        "bounds": {"c0": (0, 20), "c1": (0, 1e5), "d1": (0.01, 100), "f1": (0.01, 10)},
        "kinds": {"c0": "exponent", "c1": "shape", "d1": "shape", "f1": "shape"},
        "starts": {
            "c0": (0.5, 2.0, 5.0),
            "c1": (1.0, 10.0, 100.0, 500.0),
            "d1": (0.8, 1.0, 1.3, 2.0),
            "f1": (0.05, 0.15, 0.5),
        },
        "paper": _BUSBRIDGE,
        "summary": "A distilled student, by its teacher's loss: it gains until the teacher is much better than it.",
    },
    {
        "name": "data_constrained",
        "expression": "E + A*N_eff**-alpha + B*D_eff**-beta",
        "where": {
            "G": "(alpha*A/(beta*B))**(1/(alpha + beta))",
            "U_N": "min(n_params, G*(n_pretrain*G)**(beta/alpha))",
            "r_D": "max(samples_seen/n_pretrain - 1, 0)",
            "r_N": "n_params/U_N - 1",
            "D_eff": "n_pretrain + n_pretrain*R_D*(1 - exp(-r_D/R_D))",
            "N_eff": "U_N + U_N*R_N*(1 - exp(-r_N/R_N))",
        },
        "bounds": {"A": (1e-12, None), "B": (1e-12, None), "R_D": (0.01, 1e4), "R_N": (0.01, 1e4)},
        "kinds": {"R_D": "shape", "R_N": "shape"},
        "starts": {"R_D": (2.0, 8.0, 30.0), "R_N": (1.0, 4.0, 15.0)},
        "paper": "Muennighoff et al. 2023, Scaling Data-Constrained Language Models (arXiv 2305.16264)",
        "summary": "Repeated data: samples_seen counts every pass over n_pretrain; R_D sets how long repeats help.",
    },
    {
        "name": "sparse",
        "expression": "(a_S*(1 - sparsity)**b_S + c_S)*n_params**-b_N + (a_D/n_pretrain)**b_D + c",
        "parameters": ("a_S", "b_S", "c_S", "b_N", "a_D", "b_D", "c"),
        "kinds": {"c": "floor"},
        "paper": "Frantar et al. 2023, Scaling Laws for Sparsely-Connected Foundation Models (arXiv 2309.08520)",
        "summary": "Sparse models: n_params counts the nonzero weights, sparsity is the share that is zero.",
    },
    {
        "name": "downstream_log",
        "expression": "log(A*n_pretrain**alpha)**beta",
        "bounds": {"A": (1e-12, None)},
        "paper": "Isik et al. 2024, Scaling Laws for Downstream Task Performance (arXiv 2402.04177)",
        "summary": "A score (BLEU, accuracy) that rises with upstream data; defined where A*Dp^alpha > 1; no floor.",
    },
)


class Catalogue(Mapping[str, Law]):
    """Law name to `Law`, in the order of the documentation; a law is created when it is first used."""

    def __init__(self, declarations: Iterable[dict[str, Any]]):
        self._declarations = {declaration["name"]: declaration for declaration in declarations}
        self._laws: dict[str, Law] = {}

    def __getitem__(self, name: str) -> Law:
        if name not in self._declarations:
            hint = did_you_mean(name, self, cutoff=0.4) or f"; the laws are {', '.join(self)}"
            raise UnknownLaw(f"unknown law {name!r}{hint}")
        if name not in self._laws:
            self._laws[name] = Law(**self._declarations[name])
        return self._laws[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._declarations)

    def __len__(self) -> int:
        return len(self._declarations)

    def __repr__(self) -> str:
        return f"<laws: {', '.join(self)}>"


class UnknownLaw(InputError, KeyError):
    """There is no law of this name; also a KeyError, so that `in` and `get` work as for any mapping."""

    __str__ = InputError.__str__


LAWS = Catalogue(_DECLARATIONS)


def list_laws(names: Iterable[str] = (), width: int = 100) -> str:
    """Name, summary, formula, variables and paper of laws.

    Args:
        names: Names of the laws; by default all.
        width: Characters in a line.

    Raises:
        InputError: There is no law of that name.
    """
    entries = []
    for law in map(LAWS.__getitem__, tuple(names) or LAWS):
        lines = [law.name, *wrap(law.summary, "  ", width=width)]
        for field, text in (("formula", law.formula), ("variables", ", ".join(law.variables)), ("paper", law.paper)):
            lines += wrap(f"{field:<10} {text}", "  ", " " * 13, width)
        entries.append("\n".join(lines))
    return "\n\n".join(entries) + "\n"


def markdown() -> str:
    """Every law as a section of docs/laws.md."""
    parts: list[str] = []
    for law in LAWS.values():
        variables = [f"`{name}` (${COLUMNS[name].symbol}$), {COLUMNS[name].unit}" for name in law.variables]
        linear = ", ".join(f"`{name}`" for name in law.linear) or "none"
        parts += [f"### `{law.name}`", "", law.summary, "", f"$$ {law.latex} $$", "", f"    {law.formula}", ""]
        parts += [f"- Variables: {'; '.join(variables)}."]
        if law.unbound:
            parts += [
                f"- Needs `{law.unbound[0]}`, from `supervised=`: a fit of `chinchilla_coupled` or its parameters."
            ]
        parts += [f"- Linear once the others are fixed: {linear}.", f"- Paper: {law.paper}.", ""]
        parts += ["| parameter | kind | bounds |", "|---|---|---|"]
        for p in law.parameters:
            unit = f", in the units of `{p.variable}`" if p.variable else ""
            high = f"to {p.high:g}" if math.isfinite(p.high) else "or more"
            parts.append(f"| `{p.name}` | {p.kind}{unit} | {p.low:g} {high} |")
        parts.append("")
    return "\n".join(parts)
