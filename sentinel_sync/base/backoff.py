"""When to try again: full jitter.

Full jitter: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015: of the variants compared there
it finishes a contended job with the least work, and it spreads a fleet that lost its backend at the same instant.
"""

from random import Random

#: The first ceiling, seconds: a lost packet is forgotten within it.
BASE = 1.0
#: The last ceiling, seconds: longer would leave a vehicle idle after a short outage, shorter hammer a dead backend.
CAP = 300.0
#: Whoever was told when to come back comes within so large a part of the wait after it (wire contract, Return).
RETURN_SPREAD = 0.1
#: 2^9 s is already above CAP; more would only overflow.
_MAX_EXPONENT = 16


def full_jitter(attempt: int, rng: Random, *, base: float = BASE, cap: float = CAP) -> float:
    """Seconds to wait after failed attempt number n (1 is the first): uniform in [0, min(cap, base·2^(n-1)))."""
    ceiling = min(cap, base * 2.0 ** min(max(attempt - 1, 0), _MAX_EXPONENT))
    return rng.uniform(0.0, ceiling)
