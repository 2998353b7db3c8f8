"""The figures of the README and of docs/study.md: where distillation stops paying, as measured.

    python benchmarks/boundary_figure.py [RESULTS] [--data Fashion-MNIST] [--out docs/figures]
    python benchmarks/boundary_figure.py tests/data/cifar10_study --data CIFAR-10

Writes fashion_mnist_boundary_light and _dark (or the data's name) as .svg and .png, and prints the boundary. Of the
table's recipes, the one with the most runs of both arms is drawn.
"""

import argparse
from pathlib import Path

from hf_scaling.report import collect_findings
from hf_scaling.report.answers import answers, describe_boundary
from hf_scaling.report.figures import DARK, LIGHT, Drawing, difference_painter
from hf_scaling.report.findings import Findings, PartFindings
from hf_scaling.text import axis_label

ROOT = Path(__file__).resolve().parent.parent


def best_compared(findings: Findings) -> PartFindings:
    """The part with the most runs of the arm that has fewer."""
    arms = ("plain", "distilled")
    return max(
        findings.parts, key=lambda found: min(sum(len(arm.rows) for arm in found.part.arms_of(kind)) for kind in arms)
    )


def figure_of(found: PartFindings, target: str, data: str) -> Drawing:
    """The difference of the two arms with their boundary, as a wide panel."""
    boundary, noun = found.boundaries_of(target)[0].boundary, found.part.noun
    models = sorted({str(name) for arm in found.part.arms_of("distilled") for name in arm.rows["model"]})
    which = models[0] if len(models) == 1 else f"{len(models)} model sizes"
    return Drawing(
        f"{data.lower().replace('-', '_')}_boundary",
        heading=f"Where distillation stops paying: {data}, {which}",
        title=f"Where distillation stops paying on {data}",
        caption=describe_boundary(boundary, target, noun),
        x_label=f"{boundary.x}: {axis_label(boundary.x, noun)}",
        y_label=f"plain minus distilled: {axis_label(target)}",
        paint=difference_painter(boundary, target),
        width=640,
        height=380,
        scale=1.5,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", nargs="?", default=ROOT / "tests/data/fashion_mnist/results.parquet")
    parser.add_argument("--data", default="Fashion-MNIST", metavar="NAME", help="what the images are, for the heading")
    parser.add_argument("--target", default="loss")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/figures")
    arguments = parser.parse_args()
    findings = collect_findings(arguments.results, target=arguments.target)
    drawing = figure_of(best_compared(findings), arguments.target, arguments.data)
    for name, colours in (("light", LIGHT), ("dark", DARK)):
        drawing.save_svg(arguments.out / f"{drawing.name}_{name}.svg", colours)
        drawing.save_png(arguments.out / f"{drawing.name}_{name}.png", colours)
    for answer in answers(findings):
        for statement in answer.statements if answer.code == "boundary" else ():
            print("\n  ".join([statement.text, *statement.details]))


if __name__ == "__main__":
    main()
