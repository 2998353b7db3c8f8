"""Image data sets whose pixels encode number and class: red and green hold the number, blue the class."""

import io
from pathlib import Path

import datasets
import numpy as np
from PIL import Image


def pixels(number: int, label: int, side: int = 8) -> np.ndarray:
    """One image, uint8 (side, side, 3); its pixels differ, so that a resize would show."""
    image = np.empty((side, side, 3), np.uint8)
    image[...] = number % 256, number // 256, label
    image[1::2, 1::2] = 255
    return image


def png(number: int, label: int, side: int = 8) -> bytes:
    """One image as the bytes of a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels(number, label, side)).save(buffer, "PNG")
    return buffer.getvalue()


def numbers_of(images: np.ndarray) -> np.ndarray:
    """The numbers that images encode."""
    return images[:, 0, 0, 0].astype(int) + 256 * images[:, 0, 0, 1].astype(int)


def write_parquet(path: Path, n: int, names=("a", "b", "c"), first: int = 0, side: int = 8, **columns) -> Path:
    """Write `n` images; `columns` (values, feature) replace the default column `label`."""
    rows = {"image": [{"bytes": png(first + at, at % len(names), side), "path": None} for at in range(n)]}
    features = {"image": datasets.Image()}
    for name, (values, feature) in (columns or {"label": (None, datasets.ClassLabel(names=list(names)))}).items():
        rows[name] = [at % len(names) for at in range(n)] if values is None else values
        features[name] = datasets.Value(feature) if isinstance(feature, str) else feature
    path.parent.mkdir(parents=True, exist_ok=True)
    datasets.Dataset.from_dict(rows, features=datasets.Features(features)).to_parquet(path)
    return path


def write_folder(folder: Path, n: int, names=("cat", "dog"), side: int = 8) -> Path:
    """Write `n` PNG files into one folder a class."""
    for number in range(n):
        label = number % len(names)
        (folder / names[label]).mkdir(parents=True, exist_ok=True)
        (folder / names[label] / f"{number:04d}.png").write_bytes(png(number, label, side))
    return folder
