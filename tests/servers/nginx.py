"""nginx as it is shipped, between an agent and a server: 1 MB bodies, 60 s time-outs, request buffering on or off."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.fakes.cloud import closed_port

_SETTINGS = """
{user}
daemon on;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 256; }}
http {{
  access_log {folder}/access.log;
  client_body_temp_path {folder}/bodies;
  proxy_temp_path {folder}/answers;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass {target};
      proxy_http_version 1.1;
      proxy_request_buffering {buffering};
    }}
  }}
}}
"""


@contextmanager
def nginx(folder: Path, target: str, *, buffers_requests: bool) -> Iterator[str]:
    """Run it in front of a server; gives its URL. What Debian's package sets besides changes none of this."""
    program = shutil.which("nginx", path="/usr/sbin:/usr/bin:/sbin:/bin")
    if program is None:
        pytest.skip("no nginx: apt install nginx-light")
    folder.mkdir(parents=True)
    port, settings = closed_port(), folder / "nginx.conf"
    buffering = "on" if buffers_requests else "off"
    # Its worker is to be who we are: a test's folders are nobody else's.
    user = "user root;" if os.geteuid() == 0 else ""
    settings.write_text(_SETTINGS.format(user=user, folder=folder, port=port, target=target, buffering=buffering))
    command = [program, "-p", str(folder), "-c", str(settings), "-e", str(folder / "error.log")]
    # It listens when the command has ended.
    subprocess.run(command, check=True, capture_output=True, timeout=20)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        subprocess.run([*command, "-s", "stop"], check=True, capture_output=True, timeout=20)
