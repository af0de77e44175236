"""Proxies to go through: microsocks, dante, tinyproxy, and a wraith session's own port."""

from __future__ import annotations

import contextlib
import getpass
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import psutil

from tests.support.polling import eventually
from tests.support.processes import Process, WraithClient, WraithServer
from tests.support.stock_servers import accepts, free_port
from tests.support.tools import need

USER = "someone"
PASSWORD = "p@ss:w0rd"
IN_URL = f"{USER}:{quote(PASSWORD, safe='')}@"
PLAIN_PASSWORD = "passw0rd"  # tinyproxy's configuration has letters and digits only


class StockProxy(Process):
    """A proxy on a loopback port; a subclass starts its program."""

    port: int
    scheme: str
    in_url = IN_URL

    def wait_ready(self) -> None:
        def up() -> bool:
            assert self.running, f"{self.name} ended:\n{self.out()}{self.log()}"
            return accepts(self.port)

        eventually(up, f"{self.name} accepts")

    def url(self, credentials: str = "") -> str:
        return f"{self.scheme}://{credentials}127.0.0.1:{self.port}"


class Microsocks(StockProxy):
    """SOCKS5, with or without a user."""

    scheme = "socks5"

    def __init__(self, tmp_path: Path, *, login: bool = False) -> None:
        (program,) = need("microsocks")
        self.port = free_port()
        flags = ("-u", USER, "-P", PASSWORD) if login else ()
        super().__init__([program, "-i", "127.0.0.1", "-p", str(self.port), *flags], tmp_path / f"proxy-{self.port}")


class Tinyproxy(StockProxy):
    """HTTP CONNECT, with or without a user."""

    scheme = "http"
    in_url = f"{USER}:{PLAIN_PASSWORD}@"

    def __init__(self, tmp_path: Path, *, login: bool = False) -> None:
        (program,) = need("tinyproxy")
        self.port = free_port()
        folder = tmp_path / f"proxy-{self.port}"
        folder.mkdir(parents=True)
        configuration = folder / "tinyproxy.conf"
        lines = [f"Port {self.port}", "Listen 127.0.0.1", "Allow 127.0.0.1", "Timeout 60", "LogLevel Connect"]
        if login:
            lines.append(f"BasicAuth {USER} {PLAIN_PASSWORD}")
        configuration.write_text("\n".join([*lines, ""]))
        super().__init__([program, "-d", "-c", configuration], folder)


class Dante(StockProxy):
    """SOCKS5 without a user, and with one port that its rules forbid."""

    scheme = "socks5h"

    def __init__(self, tmp_path: Path, *, forbidden_port: int = 9) -> None:
        (program,) = need("danted")
        self.port = free_port()
        folder = tmp_path / f"proxy-{self.port}"
        folder.mkdir(parents=True)
        configuration = folder / "danted.conf"
        configuration.write_text(
            f"""
            logoutput: stderr
            internal: 127.0.0.1 port = {self.port}
            external: 127.0.0.1
            user.privileged: {getpass.getuser()}
            user.unprivileged: {getpass.getuser()}
            clientmethod: none
            socksmethod: none
            client pass {{ from: 0.0.0.0/0 to: 0.0.0.0/0 }}
            socks block {{ from: 0.0.0.0/0 to: 0.0.0.0/0 port = {forbidden_port} }}
            socks pass {{ from: 0.0.0.0/0 to: 0.0.0.0/0 }}
            """
        )
        super().__init__([program, "-f", configuration, "-p", folder / "pid"], folder)


@contextlib.contextmanager
def wraith_port(tmp_path: Path, scheme: str, *, login: bool = False) -> Iterator[str]:
    """Run a wraith server and client; the URL of the client's port, which speaks both protocols."""
    flags: tuple[str, ...] = ()
    if login:
        users = tmp_path / "socks-users"
        tmp_path.mkdir(parents=True, exist_ok=True)
        users.write_text(f"{USER}:{PASSWORD}\n")
        users.chmod(0o600)
        flags = ("--socks5-auth-file", str(users))
    with WraithServer(tmp_path) as server, WraithClient(server, *flags) as client:
        yield f"{scheme}://{IN_URL if login else ''}127.0.0.1:{client.socks_port}"


@contextlib.contextmanager
def stock(proxy: StockProxy, *, login: bool = False) -> Iterator[str]:
    """Run a stock proxy; its URL."""
    with proxy:
        yield proxy.url(proxy.in_url if login else "")


PROXIES: dict[str, Callable[[Path], contextlib.AbstractContextManager[str]]] = {
    "microsocks": lambda tmp_path: stock(Microsocks(tmp_path)),
    "microsocks-login": lambda tmp_path: stock(Microsocks(tmp_path, login=True), login=True),
    "dante": lambda tmp_path: stock(Dante(tmp_path)),
    "tinyproxy": lambda tmp_path: stock(Tinyproxy(tmp_path)),
    "tinyproxy-login": lambda tmp_path: stock(Tinyproxy(tmp_path, login=True), login=True),
    "wraith-socks": lambda tmp_path: wraith_port(tmp_path, "socks5h"),
    "wraith-http": lambda tmp_path: wraith_port(tmp_path, "http"),
}


def connected_to(process: Process, port: int) -> bool:
    """Whether a process, or a child of its, has a connection to this port."""
    family = [psutil.Process(process.pid), *process.children()]
    found = [connection for each in family for connection in each.net_connections("tcp")]
    return any(each.raddr and each.raddr.port == port for each in found)
