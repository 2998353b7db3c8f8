"""`digits`: the 1,797 scans of handwritten digits, 8x8 pixels, that scikit-learn ships (Alpaydin and Kaynak, UCI)."""

import functools
import hashlib
import string

import numpy as np

from hf_scaling.data.images import fit_picture
from hf_scaling.data.sampling import nested_subset

CLASS_NAMES = tuple(string.digits)
N_TEST = 500


def identity() -> dict:
    """Say what determines the images, for the fingerprint: the scans' content."""
    scans, labels = _scans()
    return {"scans": hashlib.sha256(scans.tobytes() + labels.tobytes()).hexdigest(), "n_test": N_TEST}


def part(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Give the scans of "train" or "test": grey levels uint8 (n, 8, 8) and class ids int64 (n,).

    The test part is 500 scans, balanced over the classes, chosen by key once and for all.
    """
    scans, labels = _scans()
    is_test = np.zeros(len(labels), bool)
    is_test[nested_subset(labels, N_TEST, seed=0)] = True
    chosen = is_test if name == "test" else ~is_test
    return scans[chosen], labels[chosen]


def enlarge(scan: np.ndarray, image_size: int) -> np.ndarray:
    """Fit one scan into the square, as pictures are: uint8 array (image_size, image_size, 3)."""
    from PIL import Image

    return np.asarray(fit_picture(Image.fromarray(scan), image_size))


@functools.cache
def _scans() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    # 17 levels, 0 to 16, each a whole number of sixteenths of white.
    return np.rint(digits.images * (255 / 16)).astype(np.uint8), digits.target.astype(np.int64)
