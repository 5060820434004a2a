"""Where a command's settings come from."""

import argparse

from sentinel_sync.settings import Settings


def load_settings(arguments: argparse.Namespace) -> Settings:
    """Read the settings that the command line names. Blocks: call it before the loop runs.

    Raises:
        ConfigurationError: They cannot be used.
    """
    return Settings.load(arguments.config)
