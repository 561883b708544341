"""Pure: where everything is under one folder (`HOTPOOL_HOME`, default `./var`)."""

from dataclasses import dataclass
from pathlib import Path

from .errors import BadInput, ConfigError

# A Unix socket's path must fit sockaddr_un: 108 bytes with the final zero on Linux, 104 on macOS.
MAX_SOCKET_PATH_BYTES = 103
_SCHEME = "ipc://"  # ZeroMQ's name for Unix sockets


@dataclass(frozen=True, slots=True)
class Home:
    """Paths of one pool. Nothing here touches the disk."""

    root: Path

    @property
    def run(self) -> Path:
        """Sockets, locks and process ids: meaningless after a reboot."""
        return self.root / "run"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def database(self) -> Path:
        return self.root / "hotpool.db"

    @property
    def versions(self) -> Path:
        """One folder a version, named by its digest."""
        return self.root / "versions"

    @property
    def uploads(self) -> Path:
        """Weights that came by HTTP, each file in a folder of its own, until it is known what becomes of them."""
        return self.root / "uploads"

    def stable_pointer(self, model: str) -> Path:
        """A file with the digest of the version that workers of this model boot."""
        return self.root / "models" / model / "stable"

    def lock(self, service: str) -> Path:
        """Held (flock) by the one running process of a service; contains its process id."""
        return self.run / f"{service}.lock"

    def endpoint(self, name: str) -> str:
        """The address of the `clients`, `workers`, `admin` or `control` socket. Raises ConfigError, as `socket`."""
        return _SCHEME + self.socket(name)

    def socket(self, name: str) -> str:
        """The path of a Unix socket: one of these, or `scratch`, which has nothing to do with ZeroMQ.

        Raises:
            ConfigError: it is too long for one.
        """
        path = str((self.run / f"{name}.sock").absolute())
        if len(path.encode()) > MAX_SOCKET_PATH_BYTES:
            raise ConfigError(
                f"{path} is too long for a Unix socket ({len(path.encode())} bytes, allowed are "
                f"{MAX_SOCKET_PATH_BYTES}); set HOTPOOL_HOME to a shorter folder"
            )
        return path


def socket_path(endpoint: str) -> str:
    """The Unix socket of an address as `Home.endpoint` makes them.

    Raises:
        BadInput: it is none.
    """
    path = endpoint.removeprefix(_SCHEME)
    if path == endpoint or not path:
        why = "it is not that of a Unix socket"
    elif len(path.encode(errors="surrogateescape")) > MAX_SOCKET_PATH_BYTES:
        why = f"a Unix socket's path has at most {MAX_SOCKET_PATH_BYTES} bytes"
    else:
        return path
    raise BadInput(f"endpoint {endpoint!r} can't be used: {why}; expected something like ipc:///path")
