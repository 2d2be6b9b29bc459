"""nginx answering an empty image and writing an access log: the yardstick of the intake."""

from __future__ import annotations

import contextlib
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from service.processes import die_with_parent

CONFIGURATION = """
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/nginx.err;
events {{ worker_connections 512; }}
http {{
  access_log {folder}/nginx.access combined buffer=64k flush=1s;
  client_body_temp_path {folder}/nginx.body; proxy_temp_path {folder}/nginx.proxy; fastcgi_temp_path {folder}/nginx.fcgi;
  uwsgi_temp_path {folder}/nginx.uwsgi; scgi_temp_path {folder}/nginx.scgi;
  keepalive_requests 1000000000;
  server {{ listen 127.0.0.1:{port}; location / {{ empty_gif; }} }}
}}
"""


@contextlib.contextmanager
def nginx(folder: Path, port: int) -> Iterator[None]:
    """A running nginx that is gone afterwards."""
    path = folder / "nginx.conf"
    path.write_text(CONFIGURATION.format(folder=folder, port=port))
    process = subprocess.Popen(
        ["nginx", "-c", str(path), "-e", str(folder / "nginx.err")],
        stderr=subprocess.DEVNULL,
        preexec_fn=die_with_parent,
    )
    try:
        _wait(process, port)
        yield
    finally:
        process.terminate()
        process.wait(10)


def _wait(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + 10
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=2).close()
            return
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise
            time.sleep(0.02)
