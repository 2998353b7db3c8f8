"""How often the grid `demo` answers where distillation stops paying: ten lists of seeds, each judged alone.

    hf-scaling run demo --set "seeds=[0,1,2,3,4,5,6,7,8,9]" --only stage=pretrain --out studies/demo_pool
    python benchmarks/demo_seeds.py studies/demo_pool

The first takes ten times the upstream part of `demo`.

`demo` has one seed, so the rows of one seed are what one person's first study measures upstream. A list answers where
its boundary is a crossing or one of always, never and no difference, by loss or by error.
"""

import argparse
from collections import Counter

import hf_scaling as hs

TARGETS = ["loss", "error"]


def main() -> None:
    """Print a line a seed, and how many answer."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", help="a table or a study with rows of several seeds")
    rows = hs.ResultsTable.load(parser.parse_args().results).to_pandas()
    rows = rows[rows["stage"] == "pretrain"]
    statuses = []
    for seed, own in rows.groupby("seed"):
        found = {target: hs.find_boundary(own, target=target) for target in TARGETS}
        statuses.append({target: boundary.status for target, boundary in found.items()})
        shown = []
        for target, boundary in found.items():
            sizes = boundary.difference.set_index("n_pretrain")
            ends = [f"{n:,}: {sizes.loc[n, 'low']:+.3f} to {sizes.loc[n, 'high']:+.3f}" for n in sizes.index[[0, -1]]]
            shown.append(f"{target} {boundary.status} ({'; '.join(ends)})")
        print(f"seed {seed}: {len(own)} runs; {', '.join(shown)}", flush=True)
    for target in TARGETS:
        counts = Counter(status[target] for status in statuses)
        print(f"{target}: {', '.join(f'{status} {n}' for status, n in counts.most_common())}")
    answered = sum(any(status != "not_resolved" for status in of.values()) for of in statuses)
    print(f"answered by loss or by error: {answered} of {len(statuses)}")


if __name__ == "__main__":
    main()
