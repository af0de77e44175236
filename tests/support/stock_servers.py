"""Stock servers on loopback, each with configuration, keys and logs in the test's own folder: sshd, nginx."""

from __future__ import annotations

import getpass
import hashlib
import os
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.support.polling import eventually
from tests.support.processes import Process, authorize, environment, make_key, run_program
from tests.support.tools import need


def free_port() -> int:
    """Find a port that is free on IPv4 and IPv6 loopback, for servers that cannot choose one themselves."""
    for _ in range(50):
        with socket.socket() as four, socket.socket(socket.AF_INET6) as six:
            four.bind(("127.0.0.1", 0))
            try:
                six.bind(("::1", four.getsockname()[1]))
            except OSError:
                continue
            return int(four.getsockname()[1])
    raise AssertionError("no port is free on both address families")


def accepts(port: int, host: str = "127.0.0.1") -> bool:
    try:
        socket.create_connection((host, port), timeout=5).close()
    except OSError:
        return False
    return True


class Sshd(Process):
    """OpenSSH's sshd on 127.0.0.1, where the user who runs the tests may log in with `client_key`.

    `lines` go to the top of its configuration, where they win over those below.
    """

    def __init__(self, tmp_path: Path, *lines: str) -> None:
        (sshd,) = need("sshd")
        self.user = getpass.getuser()
        self.port = free_port()
        folder = tmp_path / f"sshd-{self.port}"
        self.host_key_path = make_key(folder / "host_key")
        self.client_key = make_key(folder / "client_key")
        self.authorized_keys = folder / "authorized_keys"
        authorize(self.authorized_keys, self.client_key)
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # its empty root for unprivileged children
        configuration = folder / "sshd_config"
        configuration.write_text(
            "\n".join(
                (
                    *lines,
                    "ListenAddress 127.0.0.1",
                    f"Port {self.port}",
                    f"HostKey {self.host_key_path}",
                    f"PidFile {folder / 'sshd.pid'}",
                    f"AuthorizedKeysFile {self.authorized_keys}",
                    "StrictModes no",  # folders above this one may be writable to others
                    "UsePAM no",
                    "PasswordAuthentication no",
                    "KbdInteractiveAuthentication no",
                    "PermitRootLogin prohibit-password",
                    "LogLevel VERBOSE",
                    "",
                )
            )
        )
        super().__init__([sshd, "-D", "-e", "-f", configuration], folder, name="sshd")

    def wait_ready(self) -> None:
        self.eventually_logs(r"Server listening on 127\.0\.0\.1")

    @property
    def host_key(self) -> str:
        """The fingerprint of its host key."""
        (ssh_keygen,) = need("ssh-keygen")
        return run_program(ssh_keygen, "-l", "-f", self.host_key_path, folder=self.folder).out.split()[1]

    @property
    def reached_by(self) -> Sequence[str]:
        return (f"{self.user}@127.0.0.1:{self.port}", "--host-key", self.host_key, "-i", str(self.client_key))


class Nginx(Process):
    """nginx on 127.0.0.1, ::1 and a unix socket, with a folder of generated files: name to size."""

    def __init__(self, tmp_path: Path, files: Mapping[str, int]) -> None:
        (nginx,) = need("nginx")
        self.port = free_port()
        folder = tmp_path / f"nginx-{self.port}"
        self.socket = folder / "nginx.sock"
        self.site = folder / "site"
        self.site.mkdir(parents=True)
        self.sha256 = {name: _generate(self.site / name, size) for name, size in files.items()}
        configuration = folder / "nginx.conf"
        # One process, so that it is the one that is ended, with the rights of the user who runs the tests.
        configuration.write_text(
            f"""
            daemon off;
            master_process off;
            pid {folder}/nginx.pid;
            error_log stderr;
            events {{ worker_connections 2048; }}
            http {{
                access_log off;
                sendfile on;
                client_body_temp_path {folder}/body;
                proxy_temp_path {folder}/proxy;
                fastcgi_temp_path {folder}/fastcgi;
                uwsgi_temp_path {folder}/uwsgi;
                scgi_temp_path {folder}/scgi;
                server {{
                    listen 127.0.0.1:{self.port} backlog=1024;
                    listen [::1]:{self.port} backlog=1024;
                    listen unix:{self.socket} backlog=1024;
                    root {self.site};
                }}
            }}
            """
        )
        super().__init__(
            [nginx, "-p", folder, "-e", "stderr", "-c", configuration], folder, name="nginx", env=environment(folder)
        )

    def wait_ready(self) -> None:
        def up() -> bool:
            assert self.running, f"nginx ended:\n{self.log()}"
            return accepts(self.port) and accepts(self.port, "::1")

        eventually(up, "nginx accepts")

    def url(self, name: str, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}/{name}"


def _generate(path: Path, size: int) -> str:
    """Write `size` bytes that no block repeats, and return their SHA-256."""
    digest = hashlib.sha256()
    with path.open("wb") as file:
        written = 0
        while written < size:
            block = hashlib.shake_128(f"{path.name} {written}".encode()).digest(min(1 << 20, size - written))
            file.write(block)
            digest.update(block)
            written += len(block)
    return digest.hexdigest()
