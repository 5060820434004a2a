"""`install-service`: write a systemd unit that runs the agent."""

import argparse
import sys
from pathlib import Path

from sentinel_sync.cli.actions import load_settings, print_lines
from sentinel_sync.cli.arguments import DEFAULT_CONFIG, Subparsers
from sentinel_sync.cli.exit_codes import CommandError, ExitCode
from sentinel_sync.cli.ui.text import out
from sentinel_sync.settings import CloudSettings

_NAME = "sentinel-sync"
_UNITS = Path("/etc/systemd/system")
_DESCRIPTION = """\
Write a systemd unit that runs the agent: started with the machine, watched, started again after a crash, in a sandbox.

By default it runs as a user of its own that systemd makes (DynamicUser), with its folders below /var/lib/sentinel_sync:
relative paths in the settings begin there. The settings file and the key files that it names are handed over by systemd
(LoadCredential), so that nobody else can read them; a key that is rotated is taken up at the next start then. With
--user the files are read where they are, and taken up as soon as they change.
"""
#: What the settings call files that hold secrets, and that only root may be able to read.
_SECRET_FILES = ("api_key_file", "pseudonym_key_file", "profile_keys_file", "client_key_file")
_UNIT = """\
# Written by `sentinel-sync install-service`.
[Unit]
Description=Keeps this vehicle and its fleet backend in step
# Not network-online.target: the agent lives with outages, and a vehicle may start in one.
After=network.target time-sync.target

[Service]
Type=notify
ExecStart={python} -m sentinel_sync run --config {config}{console}
ExecReload=/bin/kill -HUP $MAINPID
# The event loop tells twice within it that it is alive.
WatchdogSec=60
# More is asked for where a damaged store is being saved.
TimeoutStartSec=60
TimeoutStopSec={stop_seconds}
Restart=always
RestartSec=5
StateDirectory=sentinel_sync
StateDirectoryMode=0700
WorkingDirectory=%S/sentinel_sync
{identity}
NoNewPrivileges=yes
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
PrivateDevices=yes
ProtectClock=yes
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
ProtectHostname=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM
CapabilityBoundingSet=
UMask=0077

[Install]
WantedBy=multi-user.target
"""


def add_parser(subparsers: Subparsers) -> None:
    """Add `install-service`."""
    parser = subparsers.add_parser(
        "install-service", help="write a systemd unit that runs the agent", description=_DESCRIPTION
    )
    parser.add_argument("--print", action="store_true", help="only print it")
    parser.add_argument(
        "--unit", type=Path, metavar="FILE", help=f"where to write it (default: {_UNITS}/{_NAME}.service)"
    )
    parser.add_argument("--user", metavar="NAME", help="run as this user, who can read the settings and the keys")
    parser.add_argument("--console", action="store_true", help="serve the console on its usual loopback address")
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> int:
    """Write it, or print it."""
    settings = load_settings(arguments).cloud
    config = Path(arguments.config or DEFAULT_CONFIG).absolute()
    if not config.is_file():
        raise CommandError(f"there is no settings file {config}: write one with `config init {config}`", ExitCode.USAGE)
    text = unit(settings, config, user=arguments.user, console=arguments.console)
    if arguments.print:
        out(text)
        return ExitCode.DONE
    path: Path = arguments.unit
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise CommandError(f"{path} cannot be written ({error.strerror}): run it as root, or say --print") from None
    print_lines(
        [f"{path} is written: `systemctl daemon-reload && systemctl enable --now {path.stem}` starts the agent"]
    )
    return ExitCode.DONE


def unit(settings: CloudSettings, config: Path, *, user: str | None, console: bool) -> str:
    """The text of the unit."""
    shown = config
    if user is not None:
        identity = [f"User={user}", *(f"ReadWritePaths={_quoted(path)}" for path in _outside(settings))]
    else:
        identity = ["DynamicUser=yes", f"LoadCredential={_quoted(config, 'settings.yaml:')}"]
        for name in _SECRET_FILES:
            file: Path | None = getattr(settings, name)
            if file is not None:
                identity.append(f"LoadCredential={_quoted(file.absolute(), f'{name}:')}")
                identity.append(f"Environment=SENTINEL_CLOUD__{name.upper()}=%d/{name}")
        shown = Path("${CREDENTIALS_DIRECTORY}/settings.yaml")
    return _UNIT.format(
        python=_quoted(Path(sys.executable)),
        config=shown if user is None else _quoted(shown),
        console=" --console" if console else "",
        # The agent stops within its own time-out; what is over it is a fault.
        stop_seconds=round(settings.shutdown_timeout + 10.0),
        identity="\n".join(identity),
    )


def _outside(settings: CloudSettings) -> list[Path]:
    """Folders that the agent writes to and that the settings place somewhere else."""
    folders = (settings.state_dir, settings.scenarios_dir, settings.profiles_dir, settings.models_dir)
    return sorted({folder for folder in folders if folder.is_absolute()})


def _quoted(path: Path, before: str = "") -> str:
    """A path as a unit file has it, behind what belongs to it: `%` begins a specifier, and a space ends a word."""
    text = before + str(path).replace("\\", "\\\\").replace("%", "%%")
    return f'"{text}"' if " " in text else text
