"""The README's figure: where distillation stops paying on Fashion-MNIST, as measured.

    python benchmarks/boundary_figure.py [RESULTS] [--out docs/figures]

Writes fashion_mnist_boundary_light and _dark as .svg and .png, and prints what they say. Of the table's recipes the
one with the most runs of both arms is taken.
"""

import argparse
from pathlib import Path

from hf_scaling.report import collect_findings
from hf_scaling.report.answers import answers, say_boundary
from hf_scaling.report.figures import DARK, LIGHT, Drawing, difference
from hf_scaling.report.findings import Findings, PartFindings

ROOT = Path(__file__).resolve().parent.parent
NAME = "fashion_mnist_boundary"


def best_compared(findings: Findings) -> PartFindings:
    """The part with the most runs of the arm that has fewer."""
    return max(findings.parts, key=lambda found: min(_runs(found, kind) for kind in ("plain", "distilled")))


def _runs(found: PartFindings, kind: str) -> int:
    return sum(len(arm.rows) for arm in found.part.arm(kind))


def figure_of(found: PartFindings, target: str) -> Drawing:
    boundary, noun = found.crossing(target)[0].boundary, found.part.noun
    models = sorted({str(name) for arm in found.part.arm("distilled") for name in arm.rows.to_pandas()["model"]})
    which = models[0] if len(models) == 1 else f"{len(models)} model sizes"
    return difference(
        NAME,
        f"Where distillation stops paying: Fashion-MNIST, {which}",
        boundary,
        target,
        noun,
        title="Where distillation stops paying on Fashion-MNIST",
        caption=say_boundary(boundary, target, noun),
        width=640,
        height=380,
        scale=1.5,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", nargs="?", default=ROOT / "tests/data/fashion_mnist/results.parquet")
    parser.add_argument("--target", default="loss")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/figures")
    arguments = parser.parse_args()
    findings = collect_findings(arguments.results, target=arguments.target)
    drawing = figure_of(best_compared(findings), arguments.target)
    for name, colours in (("light", LIGHT), ("dark", DARK)):
        drawing.save_svg(arguments.out / f"{NAME}_{name}.svg", colours)
        drawing.save_png(arguments.out / f"{NAME}_{name}.png", colours)
    for statement in (each for answer in answers(findings) if answer.code == "boundary" for each in answer.statements):
        print("\n  ".join([statement.text, *statement.details]))


if __name__ == "__main__":
    main()
