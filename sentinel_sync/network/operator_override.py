"""What a technician said of the network on the command line: it counts until it is taken back, over restarts."""

from pydantic import TypeAdapter

from sentinel_sync.network.rules.traffic import Link, Metering, NetworkWord
from sentinel_sync.store.documents import Documents

_KIND = "network"
_KEY = "operator"
_SHAPE = TypeAdapter(NetworkWord)
_SPEAKER = "the command line"


async def load_operator_override(documents: Documents) -> NetworkWord | None:
    """The word in force, or None where there is none."""
    return await documents.load(_KIND, _KEY, _SHAPE)


async def save_operator_override(documents: Documents, metering: Metering, link: Link | None) -> None:
    """Write a word, or take it back (AUTO without a link); a running agent notices."""
    if metering is Metering.AUTO and link is None:
        await documents.delete(_KIND, _KEY)
    else:
        await documents.save(_KIND, _KEY, NetworkWord(_SPEAKER, metering, link), _SHAPE)
