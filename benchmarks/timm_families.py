"""Try the smallest member of every family of timm's image classifiers: does it run here wherever timm runs it?

    python benchmarks/timm_families.py [--sizes 32 64 96 224 240 256] [--out families.json]

A family is a module of timm.models. For each size the architecture is built by timm alone (with `img_size` where it is
taken) and run forward and backward on two images; then by `build_student`, trained for one step and evaluated on
one image. Prints a line a family that differs, and a count at the end. About 20 minutes on one core.
"""

import argparse
import json
import warnings
from collections import defaultdict

import timm
import torch
from timm.models import model_entrypoint

from hf_scaling.models import build_student


def smallest_members() -> dict[str, str]:
    """Family (module of timm.models) to its architecture with the fewest parameters."""
    families = defaultdict(list)
    for name in timm.list_models():
        families[model_entrypoint(name).__module__.rpartition(".")[2]].append(name)
    smallest = {}
    for family, names in sorted(families.items()):
        sizes = {}
        for name in names:
            try:
                with torch.device("meta"):
                    model = timm.create_model(name)
                sizes[name] = sum(p.numel() for p in model.parameters())
            except Exception:
                continue
        if sizes:
            smallest[family] = min(sizes, key=sizes.get)
    return smallest


def timm_alone(name: str, size: int) -> str | None:
    """Why timm alone does not run it at that size; None where it does."""
    for arguments in ({"img_size": size}, {}):
        try:
            model = timm.create_model(name, num_classes=10, **arguments)
        except TypeError:
            continue
        except Exception as error:
            return f"timm does not build it: {first_line(error)}"
        try:
            logits = model(torch.randn(2, 3, size, size))
            logits = logits[0] if isinstance(logits, tuple) else logits
            if tuple(logits.shape) != (2, 10):
                return f"its output has the shape {tuple(logits.shape)}"
            logits.sum().backward()
            return None
        except Exception as error:
            return f"timm does not run it: {first_line(error)}"
    return "timm does not build it"


def here(name: str, size: int) -> str | None:
    """Why it does not run with us; None where it does."""
    try:
        model = build_student(name, 10, size)
        output = model(pixel_values=torch.randn(2, 3, size, size), labels=torch.tensor([0, 1]))
        output.loss.backward()
        model.eval()
        with torch.no_grad():
            logits = model(pixel_values=torch.randn(1, 3, size, size)).logits
        return None if logits.shape == (1, 10) else f"logits of shape {tuple(logits.shape)}"
    except Exception as error:
        return f"{type(error).__name__}: {first_line(error)}"


def first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]


def main() -> None:
    """Try all families at each size until one works with timm alone."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[32, 64, 96, 224, 240, 256])
    parser.add_argument("--out")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    found = {}
    for family, name in smallest_members().items():
        for size in options.sizes:
            reason = timm_alone(name, size)
            if reason is None:
                found[family] = {"name": name, "size": size, "timm": None, "here": here(name, size)}
                break
        else:
            found[family] = {"name": name, "size": None, "timm": reason, "here": None}
        entry = found[family]
        if entry["timm"] or entry["here"]:
            print(f"{family:28} {name:36} {entry['size']}  {entry['timm'] or entry['here']}", flush=True)
    runs = sum(entry["timm"] is None for entry in found.values())
    good = sum(entry["timm"] is None and entry["here"] is None for entry in found.values())
    print(f"{len(found)} families: timm runs {runs}, of which {good} run here")
    if options.out:
        with open(options.out, "w") as file:
            json.dump(found, file, indent=1)


if __name__ == "__main__":
    main()
