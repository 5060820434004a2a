"""What `doctor` looks at of where models come from."""

from collections.abc import Iterator
from importlib.util import find_spec

from sentinel_sync.base.errors import ConfigurationError
from sentinel_sync.cli.findings import Finding, fail, ok
from sentinel_sync.settings import CloudSettings

_CHECK = "models"


def check_model_source(cloud: CloudSettings) -> Iterator[Finding]:
    """Whether a TUF repository can be verified; nothing where models come from the backend's listing."""
    source = cloud.models
    if source.source != "tuf" or source.root_file is None:
        return
    if find_spec("tuf") is None:
        yield fail(_CHECK, "source tuf needs python-tuf", "pip install 'sentinel-sync[tuf]'")
        return
    # It loads python-tuf, which most vehicles do without.
    from sentinel_sync.models.tuf.refresh import root_version  # noqa: PLC0415 - see above

    try:
        version = root_version(source.root_file)
    except ConfigurationError as error:
        yield fail(_CHECK, str(error), "deliver the repository's root.json with the vehicle (docs/tuf.md)")
    else:
        yield ok(_CHECK, f"from a TUF repository; trust begins with version {version} of its root")
