"""`digits`: the 1,797 scans of handwritten digits, 8x8 pixels, that scikit-learn ships (Alpaydin and Kaynak, UCI)."""

import functools
import gzip
import hashlib
import importlib.util
import string
from pathlib import Path

import numpy as np
from PIL import Image

from hf_scaling.data.cache import Block
from hf_scaling.data.images import ImagePacker, fit_image
from hf_scaling.data.sampling import nested_subset
from hf_scaling.errors import InputError

N_TEST = 500


@functools.cache
def _scans() -> tuple[np.ndarray, np.ndarray]:
    # The file itself: importing scikit-learn takes longer than fine-tuning a small model on it.
    package = importlib.util.find_spec("sklearn")
    if package is None or package.origin is None:
        raise InputError("digits: scikit-learn, which ships the scans, is not installed: pip install scikit-learn")
    with gzip.open(Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz", "rt") as file:
        table = np.loadtxt(file, delimiter=",")
    # 17 grey levels, 0 to 16, in sixteenths of white; the last column is the label.
    return np.rint(table[:, :-1].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8), table[:, -1].astype(np.int64)


class DigitOrigin:
    """The digits as an `Origin`. The test part is 500 scans, balanced over the classes, the same in every run."""

    name = "digits"
    class_names = tuple(string.digits)
    has_test = True
    is_generated = True

    def identity(self) -> dict:
        """What determines the images: the content of the scans."""
        scans, labels = _scans()
        return {"scans": hashlib.sha256(scans.tobytes() + labels.tobytes()).hexdigest(), "n_test": N_TEST}

    def reader(self, part: str, class_ids: np.ndarray, packer: ImagePacker, skip_corrupt: bool) -> "DigitReader":
        """Open a part; no scan is corrupt."""
        return DigitReader(part, class_ids, packer)


class DigitReader:
    """Reads the scans of the selected classes."""

    sequential = False

    def __init__(self, part: str, class_ids: np.ndarray, packer: ImagePacker):
        scans, labels = _scans()
        in_test = np.isin(np.arange(len(labels)), nested_subset(labels, N_TEST, seed=0))
        selection = np.isin(labels, class_ids) & (in_test if part == "test" else ~in_test)
        self._scans, self._labels = scans[selection], np.searchsorted(class_ids, labels[selection])
        self.n_rows = self.n_images = len(self._labels)
        self._packer = packer

    def read(self, start: int, stop: int, state: dict | None) -> Block:
        """Enlarge the scans `start` to `stop`."""
        images = [fit_image(Image.fromarray(scan), self._packer.image_size) for scan in self._scans[start:stop]]
        block = Block()
        block.append_pixels(map(np.asarray, images), self._labels[start:stop], self._packer)
        return block
