"""`hf-scaling study`: from images and hours to answers."""

import argparse

from hf_scaling.cli._arguments import add_json_argument, add_pairs, numbers, to_json

HELP = "Measure your own images until a question is answered or the hours are spent."
EXAMPLE = "hf-scaling study path/to/images --downstream path/to/labelled --hours 2"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "upstream", metavar="UPSTREAM", help="labelled images to pre-train on: a folder, a Hub id, glyphs"
    )
    downstream_help = "labelled images to fine-tune on; repeat for several"
    parser.add_argument("--downstream", action="append", default=[], metavar="SET", help=downstream_help)
    hours_help = "wall-clock hours for the whole study; a larger number continues a finished one"
    parser.add_argument("--hours", type=float, required=True, metavar="H", help=hours_help)
    question_help = "boundary (when does distillation pay?), gap (pre-train or label more?), plan, or all (default)"
    parser.add_argument("--question", default="all", choices=("boundary", "gap", "plan", "all"), help=question_help)
    parser.add_argument("--target", default="loss", choices=("loss", "error"), help="what is compared (default: loss)")
    parser.add_argument(
        "--budget", type=float, metavar="B", help="amount to spend, for --question plan, in the unit of --cost"
    )
    add_pairs(parser, "--cost", "price of a label, pretrain_image, flop or hour: label=0.5; repeat", "NAME=VALUE")
    workers_help = "runs trained at once (default: one per GPU, else one per core)"
    parser.add_argument("--workers", type=int, metavar="N", help=workers_help)
    parser.add_argument("--engine", default="local", choices=("local", "ray"), help="local (default) or ray")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="first seed of its runs (default: 0)")
    parser.add_argument("--out", metavar="FOLDER", help="folder of the study (default: studies/NAME)")
    parser.add_argument("--dry-run", action="store_true", help="plan only, and write grid.yaml, which you may edit")
    add_json_argument(
        parser, "study, status, hours, report, answers: verdict, value, low, high, answered and text of each"
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the study and print its answers."""
    from hf_scaling.errors import InputError
    from hf_scaling.study.run import run_study

    if arguments.workers is not None and arguments.workers < 1:
        raise InputError(f"--workers {arguments.workers}: give at least 1")
    result = run_study(
        arguments.upstream,
        arguments.downstream,
        hours=arguments.hours,
        out=arguments.out,
        question=arguments.question,
        target=arguments.target,
        budget=arguments.budget,
        costs=numbers(arguments.cost, "--cost") or None,
        workers=arguments.workers,
        engine=arguments.engine,
        seed=arguments.seed,
        dry_run=arguments.dry_run,
    )
    if not arguments.json:
        print(result.summary(), flush=True)
        return 0
    answers = {
        name: {key: getattr(answer, key) for key in ("verdict", "value", "low", "high", "answered", "text")}
        for name, answer in result.answers.items()
    }
    content = {"study": str(result.study), "status": result.status, "hours": result.hours}
    report = None if result.report is None else str(result.report)
    print(to_json({**content, "report": report, "answers": answers}))
    return 0
