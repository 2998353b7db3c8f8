"""Random numbers by counter: number i depends on the seed, the stream and i alone, never on how many are drawn.

A generator with a state gives image 7 other noise when images 0 to 6 are drawn elsewhere; a mixed counter does not.
The mixer is the finaliser of SplitMix64 (Steele et al. 2014).
"""

import hashlib

import numpy as np

_GOLDEN = 0x9E3779B97F4A7C15


def seeded_keys(seed: int, stream: str, indices: np.ndarray) -> np.ndarray:
    """Give one 64-bit key an index.

    Args:
        seed: Any integer.
        stream: What the keys are for; streams of one seed are unrelated.
        indices: Integers, any shape.

    Returns:
        uint64 array of the shape of `indices`.
    """
    base = int.from_bytes(hashlib.sha256(f"{stream}:{int(seed)}".encode()).digest()[:8], "little")
    return numbered(np.full(np.shape(indices), base, np.uint64), np.asarray(indices))


def numbered(keys: np.ndarray, numbers: np.ndarray | int) -> np.ndarray:
    """Give the 64-bit words `numbers` of the sequences that `keys` begin (both broadcast against each other)."""
    words = keys + np.asarray(numbers).astype(np.int64).view(np.uint64) * np.uint64(_GOLDEN) + np.uint64(_GOLDEN)
    words ^= words >> np.uint64(30)
    words *= np.uint64(0xBF58476D1CE4E5B9)
    words ^= words >> np.uint64(27)
    words *= np.uint64(0x94D049BB133111EB)
    words ^= words >> np.uint64(31)
    return words


def uniforms(keys: np.ndarray, n: int) -> np.ndarray:
    """Draw `n` numbers in [0, 1) from each of `keys`: float64 array (len(keys), n)."""
    return (numbered(keys[:, None], np.arange(n)) >> np.uint64(11)) * 2.0**-53
