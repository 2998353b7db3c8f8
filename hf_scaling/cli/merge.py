"""`hf-scaling merge`: several results tables as one."""

import argparse

HELP = "Merge results tables into one: the union by run_id."
EXAMPLE = "hf-scaling merge studies/here studies/there --out merged"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("results", nargs="+", metavar="RESULTS", help="file, folder, study or Hub id")
    parser.add_argument("--out", required=True, metavar="FOLDER", help="folder to write results.parquet to")


def run(arguments: argparse.Namespace) -> None:
    """Merge and save."""
    from hf_scaling.results import ResultsTable

    tables = [ResultsTable.load(where) for where in arguments.results]
    merged = tables[0]
    for table in tables[1:]:
        merged = merged.merge(table)
    path = merged.save(arguments.out)
    print(f"{len(merged)} rows ({sum(map(len, tables))} read) in {path}")
