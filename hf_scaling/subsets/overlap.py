"""Images that two parts share: a model that saw a test image in pre-training is tested on less than it seems."""

import numpy as np

from hf_scaling.errors import InputError
from hf_scaling.subsets.sources import Split


def count_overlap(a: Split, b: Split) -> int:
    """Count the images of `b` whose pixels are also an image of `a`.

    Images are compared by a 64-bit hash of their pixels at their common size, so copies in other files and formats
    are found, but not crops or re-encodings.

    Raises:
        InputError: The parts have different image sizes.
    """
    sizes = a.store.image_size, b.store.image_size
    if sizes[0] != sizes[1]:
        raise InputError(
            f"images of {sizes[0]} px and of {sizes[1]} px cannot be compared: open both at one image_size"
        )
    return int(np.isin(b.pixel_hashes(), a.pixel_hashes()).sum())
