"""`hf-scaling import`: runs that other tools logged, and wide tables, as a results table."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from hf_scaling.cli._arguments import add_json_argument, add_names_arguments, arm_names, pairs, to_json
from hf_scaling.errors import InputError
from hf_scaling.results.foreign import ARMS
from hf_scaling.text import listing

if TYPE_CHECKING:
    from hf_scaling.results.imports import Imported

HELP = "Turn a Trainer's logs, a W&B export or a wide table into a results table."
EXAMPLE = "hf-scaling import outputs/ --map n_finetune=unique_samples --out results.csv"
# Laws for the sizes that vary; of the others the first is the x of a power law.
_LAWS = {
    ("n_params", "n_pretrain"): "chinchilla",
    ("n_pretrain", "n_finetune"): "transfer_gap",
    ("n_params", "n_pretrain", "n_finetune"): "transfer_gap_joint",
}
_ALONG = ("n_pretrain", "n_finetune", "n_params", "samples_seen", "train_flops", "step", "epoch")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    what_help = "trainer_state.json, a folder of run folders that hold one, a W&B CSV export, or a wide table"
    parser.add_argument("what", metavar="WHAT", help=what_help)
    add_names_arguments(parser)
    out_help = "a .csv or .parquet file, or a folder (default: NAME-results.csv in the current folder)"
    parser.add_argument("--out", metavar="FOLDER", help=out_help)
    add_json_argument(parser, "kind, mapping, unused, notes, n_rows, n_runs, path, next")


def run(arguments: argparse.Namespace) -> None:
    """Import, write the table, print the mapping and the next command."""
    from hf_scaling.results.files import write
    from hf_scaling.results.imports import KINDS, import_results

    imported = import_results(arguments.what, pairs(arguments.map, "--map"), arm_names(arguments.arm_names))
    source = Path(arguments.what).resolve()
    folder = source.parent.parent if source.parent.name.startswith("checkpoint-") else source.parent
    stem = folder.name if source.suffix == ".json" else source.name.split(".")[0]
    path = Path(arguments.out or f"{stem}-results.csv")
    if path.resolve() == source:
        raise InputError(f"--out {path}: this is the table to import; give another file")
    if path.suffix in (".csv", ".parquet"):
        write(imported.table.to_dataset().data.table, path)
    else:
        path = imported.table.save(path)
    frame = imported.table.to_pandas()
    n_runs = int(frame["run"].nunique()) if "run" in frame.columns else None
    following = _next_command(imported, path)
    if arguments.json:
        names = ("kind", "mapping", "unused", "notes")
        content = {name: getattr(imported, name) for name in names}
        print(to_json({**content, "n_rows": len(frame), "n_runs": n_runs, "path": str(path), "next": following}))
        return
    runs = f" of {n_runs} run{'s' * (n_runs != 1)}" if n_runs else ""
    print(f"{len(frame)} rows{runs} from {arguments.what}: {KINDS[imported.kind]}")
    print("columns, ours and theirs; correct one with --map OURS=THEIRS, leave one out with --map OURS=none:")
    width = max(map(len, imported.mapping), default=0)
    for ours, theirs in imported.mapping.items():
        print(f"  {ours:<{width}}  {theirs}")
    if imported.unused:
        print(f"columns kept unchanged: {listing(imported.unused, 20)}")
    for note in imported.notes:
        print(f"note    {note}")
    print(f"table   {path}")
    missing = "none yet: a fit needs a size and a loss or an error; name them with --map OURS=THEIRS"
    print(f"next    {following or missing}")


def _next_command(imported: "Imported", path: Path) -> str | None:
    """A fit of the table's sizes that vary, or the boundary of two arms; None without a size or a target."""
    import shlex

    frame = imported.table.to_pandas()
    varied = [name for name in _ALONG if name in frame.columns and frame[name].nunique() > 1]
    sizes = tuple(name for name in ("n_params", "n_pretrain", "n_finetune") if name in varied)
    law = ["--law", _LAWS.get(sizes, "power_law")]
    law += [] if sizes in _LAWS else ["--x", varied[0]] if varied else []
    targets = [name for name in ("loss", "error", "accuracy") if name in frame.columns]
    whole = [name for name in targets if frame[name].notna().all()]
    if not varied or not targets:
        return None
    has_both_arms = "arm" in frame and "n_pretrain" in frame and set(ARMS) <= set(frame["arm"].dropna().astype(str))
    command = ["boundary", str(path)] if has_both_arms else ["fit", str(path), *law]
    return shlex.join(["hf-scaling", *command, "--target", (whole or targets)[0]])
