"""Convert Debian's package dataset-fashion-mnist (70,000 real images) to Parquet that `load_dataset` reads.

    apt install dataset-fashion-mnist
    python tests/support/fashion_mnist.py OUT_DIR

writes OUT_DIR/train.parquet (60,000 images) and OUT_DIR/test.parquet (10,000), with columns image (PNG, 28 x 28 grey
levels) and label (ClassLabel).
"""

import argparse
import gzip
import io
from pathlib import Path

import datasets
import numpy as np
from PIL import Image

from hf_scaling.files import replacing

PACKAGE_FOLDER = Path("/usr/share/datasets/fashion-mnist")
CLASS_NAMES = [
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
]


def read_idx(path: Path) -> np.ndarray:
    """Read a gzipped IDX file of bytes (LeCun's format: two zeros, type 8, number of axes, lengths, values)."""
    content = gzip.decompress(path.read_bytes())
    if content[:3] != b"\x00\x00\x08":
        raise ValueError(f"{path} is not an IDX file of bytes")
    n_axes = content[3]
    shape = np.frombuffer(content, ">u4", n_axes, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * n_axes).reshape(shape)


def convert(out: Path, folder: Path = PACKAGE_FOLDER) -> None:
    """Write train.parquet and test.parquet to `out`."""
    for part, prefix in (("train", "train"), ("test", "t10k")):
        images = read_idx(folder / f"{prefix}-images-idx3-ubyte.gz")
        labels = read_idx(folder / f"{prefix}-labels-idx1-ubyte.gz")
        features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=CLASS_NAMES)})
        rows = {"image": [{"bytes": _png(image), "path": None} for image in images], "label": labels.astype(int)}
        with replacing(out / f"{part}.parquet") as temporary:
            datasets.Dataset.from_dict(rows, features=features).to_parquet(temporary)


def _png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Convert Debian's dataset-fashion-mnist to Parquet.")
    parser.add_argument("out", type=Path, metavar="OUT_DIR")
    convert(parser.parse_args().out)
