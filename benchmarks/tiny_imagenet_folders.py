"""The two sets of docs/tiny_imagenet.md from the original Tiny-ImageNet: 25 classes each, as folders of images.

    curl -O http://cs231n.stanford.edu/tiny-imagenet-200.zip && unzip -q tiny-imagenet-200.zip
    python benchmarks/tiny_imagenet_folders.py tiny-imagenet-200 data

Writes data/tiny_imagenet_32a and data/tiny_imagenet_32b, each with train/CLASS and test/CLASS (the official validation
images: the test images have no public labels). Images are linked where the file system allows, else copied.
"""

import argparse
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

CLASSES = {
    "tiny_imagenet_32a": "boa constrictor, albatross, golden retriever, German shepherd, cockroach, monarch, "
    "sulphur butterfly, orangutan, African elephant, convertible, crane, desk, dumbbell, flagpole, frying pan, "
    "kimono, magnetic compass, rocking chair, sewing machine, sports car, teapot, umbrella, volleyball, espresso, "
    "lakeside",
    "tiny_imagenet_32b": "goldfish, cougar, ladybug, walking stick, ox, birdhouse, bow tie, brass, broom, cannon, "
    "cash machine, cliff dwelling, dam, jinrikisha, miniskirt, nail, parking meter, picket fence, refrigerator, "
    "sock, space heater, suspension bridge, torch, orange, alp",
}


def images(original: Path) -> Iterator[tuple[str, str, Path]]:
    """Part, WordNet id and path of every labelled image."""
    for path in sorted(original.glob("train/*/images/*.JPEG")):
        yield "train", path.parts[-3], path
    for line in (original / "val" / "val_annotations.txt").read_text().splitlines():
        name, wordnet_id = line.split("\t")[:2]
        yield "test", wordnet_id, original / "val" / "images" / name


def write(original: Path, out: Path) -> dict[str, int]:
    """Write both sets; returns their numbers of images."""
    ids = set((original / "wnids.txt").read_text().split())
    words = dict(line.split("\t") for line in (original / "words.txt").read_text().splitlines())
    names = {wordnet_id: words[wordnet_id].split(",")[0] for wordnet_id in ids}
    sets = {name: set(classes.split(", ")) for name, classes in CLASSES.items()}
    missing = set.union(*sets.values()) - set(names.values())
    if missing:
        raise SystemExit(f"{original}: no class {sorted(missing)[0]!r} in words.txt and wnids.txt")
    counts = dict.fromkeys(sets, 0)
    for part, wordnet_id, path in images(original):
        for name, classes in sets.items():
            if names[wordnet_id] in classes:
                target = out / name / part / names[wordnet_id] / path.name
                target.parent.mkdir(parents=True, exist_ok=True)
                try:
                    os.link(path, target)
                except FileExistsError:
                    pass
                except OSError:
                    shutil.copy(path, target)
                counts[name] += 1
    return counts


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("original", type=Path, help="the unzipped folder tiny-imagenet-200")
    parser.add_argument("out", type=Path, help="folder to write the two sets to")
    arguments = parser.parse_args()
    for name, count in write(arguments.original, arguments.out).items():
        print(f"{count:,} images in {arguments.out / name}")
