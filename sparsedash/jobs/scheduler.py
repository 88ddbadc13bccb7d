"""Which scheduler of a cluster is named, and whether one may talk to it: who reaches a scheduler can run code on it."""

import ipaddress
import os
import re
from dataclasses import dataclass
from pathlib import Path

from sparsedash.schema.errors import SettingsError

SCHEDULER = "SPARSEDASH_SCHEDULER"
CA, CERTIFICATE, KEY = "SPARSEDASH_TLS_CA", "SPARSEDASH_TLS_CERT", "SPARSEDASH_TLS_KEY"

SLOT = "SLOT"
"""The resource that a Dask worker must have for it to be given a part: one each, so that it has one at a time."""

_ADDRESS = re.compile(r"(?P<way>tcp|tls)://(?P<host>\[[0-9a-fA-F:.]+\]|[\w.-]+):(?P<port>\d{1,5})")


@dataclass(frozen=True, kw_only=True)
class Scheduler:
    """address: as Dask takes it. ca, certificate, key: files in PEM; empty where Dask's configuration names them."""

    address: str
    ca: str = ""
    certificate: str = ""
    key: str = ""

    def __post_init__(self) -> None:
        found = _ADDRESS.fullmatch(self.address)
        if found is None or not 0 < int(found["port"]) < 2**16:
            raise SettingsError(SCHEDULER, self.address, "tls and a host and a port, as in tls://127.0.0.1:8786")
        if not self.encrypted and not _is_loopback(found["host"]):
            raise SettingsError(
                SCHEDULER,
                self.address,
                "tls where the scheduler is not on this machine: whoever reaches one without certificates runs code on"
                " every machine of the cluster",
            )
        for name, path in ((CA, self.ca), (CERTIFICATE, self.certificate), (KEY, self.key)):
            if path and not os.access(path, os.R_OK):
                raise SettingsError(name, path, "a file in PEM that can be read")

    @property
    def encrypted(self) -> bool:
        """Whether both ends show a certificate, and nobody between them can read along."""
        return self.address.startswith("tls:")


def named_scheduler() -> Scheduler | None:
    """The scheduler that the environment names, or None. Raises SettingsError for one that must not be talked to."""
    address = os.environ.get(SCHEDULER, "").strip()
    if not address:
        return None
    ca, certificate, key = (_path(name) for name in (CA, CERTIFICATE, KEY))
    return Scheduler(address=address, ca=ca, certificate=certificate, key=key)


def _path(name: str) -> str:
    asked = os.environ.get(name, "")
    return str(Path(asked).expanduser()) if asked else ""


def _is_loopback(host: str) -> bool:
    """Whether nobody else can listen under this name; one that has to be looked up may be anybody's."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
