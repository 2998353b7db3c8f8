"""`hf-scaling merge`: several results tables as one."""

import argparse

from hf_scaling.cli._arguments import add_json_argument, to_json

HELP = "Merge results tables into one, with each run once."
EXAMPLE = "hf-scaling merge studies/here studies/there --out merged"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("results", nargs="+", metavar="RESULTS", help="file, folder, study or Hub id")
    parser.add_argument("--out", required=True, metavar="FOLDER", help="folder to write results.parquet to")
    add_json_argument(parser, "path, n_rows (of the merged table), n_read (of all tables)")


def run(arguments: argparse.Namespace) -> None:
    """Merge and save."""
    from hf_scaling.results import ResultsTable

    tables = [ResultsTable.load(where) for where in arguments.results]
    merged = tables[0]
    for table in tables[1:]:
        merged = merged.merge(table)
    path = merged.save(arguments.out)
    n_read = sum(map(len, tables))
    if arguments.json:
        print(to_json({"path": str(path), "n_rows": len(merged), "n_read": n_read}))
    else:
        print(f"{len(merged)} rows ({n_read} read) in {path}")
