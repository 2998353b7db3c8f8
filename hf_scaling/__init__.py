"""Scaling laws of visual transfer learning and distillation: measure, fit, decide.

The names below load their modules on first use, so `import hf_scaling` costs next to nothing and the deciding half
(laws, fits, plans) never loads torch.
"""

import importlib

__version__ = "0.1.0"

_HOMES = {
    "ResultsTable": "results",
    "Grid": "grid",
    "RunSpec": "grid",
    "run_grid": "runner",
    "run_study": "study.run",
    "transferability": "study.features",
    "LAWS": "laws",
    "Law": "laws",
    "LawFit": "fitting",
    "class_influence": "scores.influence",
    "compare_laws": "fitting",
    "find_boundary": "boundary",
    "fit_law": "fitting",
    "import_results": "results",
    "need": "planning",
    "plan": "planning",
    "suggest_runs": "planning",
    "transfer_gaps": "planning",
    "write_report": "report",
    "DistillationArguments": "distillation",
    "DistillationTrainer": "distillation",
    "push_checkpoint": "publishing",
    "push_study": "publishing",
    "pull_study": "publishing",
    "InputError": "errors",
    "PushError": "errors",
    "RunError": "errors",
}
__all__ = ["__version__", *_HOMES]


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module 'hf_scaling' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"hf_scaling.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
