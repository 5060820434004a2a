"""Files like trained models: float32 weights, normally distributed, made fast without a numeric library."""

from array import array
from itertools import cycle
from operator import mul
from random import Random

_WIDTH = 4
#: So many different values are drawn; what tells two weights with the same one apart are their low 16 bits.
_POOL = 1 << 16


def weights(count: int, seed: int) -> bytes:
    """So many weights, normal(0, 0.02). zstd packs them to 93 %, as it does real ones."""
    rng = Random(seed)
    pool = array("f", (rng.gauss(0.0, 0.02) for _ in range(_POOL)))
    chosen = array("H", rng.randbytes(2 * count))
    content = bytearray(array("f", map(pool.__getitem__, chosen)).tobytes())
    low = rng.randbytes(2 * count)
    content[0::_WIDTH], content[1::_WIDTH] = low[:count], low[count:]
    return bytes(content)


def some_tensors_replaced(content: bytes, tensors: int, replaced: int, seed: int) -> bytes:
    """The model after so many of its equally large tensors were trained anew."""
    changed, length = bytearray(content), len(content) // tensors // _WIDTH * _WIDTH
    for tensor in Random(seed).sample(range(tensors), replaced):
        changed[tensor * length : (tensor + 1) * length] = weights(length // _WIDTH, seed + tensor)
    return bytes(changed)


def all_moved(content: bytes, seed: int, *, by: float = 1e-4) -> bytes:
    """The model after each of its weights has moved a little: times 1 + normal(0, `by`)."""
    rng = Random(seed)
    # A prime number of factors, so that no tensor sees them at the same places.
    factors = array("f", (1.0 + rng.gauss(0.0, by) for _ in range(65_521)))
    return array("f", map(mul, array("f", content), cycle(factors))).tobytes()
