"""The console: a small web page about one running agent, on loopback, for a technician or the vehicle's own screen."""

from sentinel_sync.console.server import ConsoleAddress, running_console

__all__ = ["ConsoleAddress", "running_console"]
