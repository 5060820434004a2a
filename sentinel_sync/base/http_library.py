"""httpx, imported in this one place, so that what succeeds it can take its name here."""

import sys

# httpx imports its command line wherever click and rich happen to be installed: 5 MB that no vehicle uses, of the 60
# that the agent may take. `None` makes that one import fail, which httpx expects: so it is without its extra `cli`.
_COMMAND_LINE = "httpx._main"
_is_ours = _COMMAND_LINE not in sys.modules
if _is_ours:
    sys.modules[_COMMAND_LINE] = None  # type: ignore[assignment]
try:
    import httpx
finally:
    if _is_ours:
        del sys.modules[_COMMAND_LINE]

__all__ = ["httpx"]
