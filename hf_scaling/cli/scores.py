"""`hf-scaling scores`: which checkpoint of a study will do best on my labels?"""

import argparse
from typing import TYPE_CHECKING

from hf_scaling.cli._arguments import add_json_argument, to_json

if TYPE_CHECKING:
    from hf_scaling.study.features import StudyScores

HELP = "Score the checkpoints of a study on labelled images, and check the scores against its fine-tuned runs."
EXAMPLE = "hf-scaling scores studies/demo --source digits"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("study", metavar="STUDY", help="folder of the study, with its checkpoints")
    parser.add_argument("--source", required=True, metavar="SET", help="labelled images: a folder, a Hub id, digits")
    parser.add_argument(
        "--n", type=int, default=1000, metavar="N", help="number of labelled images to use (default: 1000)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="S", help="random seed that draws the images (default: 0)"
    )
    add_json_argument(parser, "study, source, path, scores (a row a checkpoint) and judged (a row a score and set)")


def run(arguments: argparse.Namespace) -> int:
    """Score, judge and print."""
    from hf_scaling.study.features import score_study

    found = score_study(arguments.study, arguments.source, arguments.n, arguments.seed)
    if arguments.json:
        rows = {name: getattr(found, attribute).to_dict("records") for name, attribute in _TABLES}
        print(to_json({"study": arguments.study, "source": arguments.source, "path": str(found.path), **rows}))
    else:
        print("\n".join(_describe(found)), flush=True)
    return 0


_TABLES = (("scores", "table"), ("judged", "judged"))


def _describe(found: "StudyScores") -> list[str]:
    """The checkpoints by LogME, and how far each score was right."""
    from hf_scaling.scores.agreement import constant_columns, describe_constants
    from hf_scaling.text import format_number, sentence, text_table, wrap

    table = found.table.sort_values("logme", ascending=False)
    varied = constant_columns(table)
    numbers = [name for name in table if table[name].dtype.kind == "f" and name not in varied]
    heads = ["run_id", "model", "arm", *numbers]
    lines = text_table(
        heads,
        [
            [str(row[name]) if name in heads[:3] else format_number(row[name]) for name in heads]
            for _, row in table.iterrows()
        ],
    )
    lines += ["", f"saved in {found.path}", ""]
    if not len(found.judged):
        return [*lines, "nothing was fine-tuned in this study: how far the scores are right is not known"]
    for (downstream, n_finetune), judged in found.judged[found.judged["target"] == "error"].groupby(
        ["downstream", "n_finetune"]
    ):
        lines.append(f"agreement with the fine-tuned error on {downstream} at n_finetune {n_finetune:,}:")
        rows = [
            [row.score, *map(format_number, (row.tau, row.low, row.high, row.regret)), row.verdict]
            for row in judged.itertuples()
        ]
        lines += [*text_table(["score", "weighted tau", "low", "high", "regret", "verdict"], rows), ""]
    of_error = found.judged[found.judged["target"] == "error"]
    return [*lines, *(line for text in describe_constants(of_error) for line in wrap(sentence(text)))]
