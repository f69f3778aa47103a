"""A certificate authority of a test's own, and certificates for 127.0.0.1, made by openssl; valid for a day."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.support.servers import program

DAYS = "1"
KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")
OPENSSL_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Certificate:
    """A certificate and its key, as PEM files, and `both` in one file as Kafka's PEM key stores want them."""

    cert: Path
    key: Path
    both: Path


class Authority:
    """A new authority in `folder`; `ca` is its certificate. Raises MissingServer without openssl."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.ca, self._ca_key = folder / "ca.pem", folder / "ca.key"
        _openssl("req", "-x509", *KEY, "-nodes", "-days", DAYS, "-subj", "/CN=touchstream test authority",
                 "-keyout", self._ca_key, "-out", self.ca)  # fmt: skip

    def server(self, name: str) -> Certificate:
        """A certificate that is good for 127.0.0.1 and localhost, with an open key."""
        return self._signed(name, "subjectAltName=IP:127.0.0.1,DNS:localhost", "-nodes")

    def client(self, name: str, key_password: str) -> Certificate:
        """A certificate of a client, whose subject is `CN=<name>`; the password opens its key."""
        return self._signed(name, "extendedKeyUsage=clientAuth", "-passout", f"pass:{key_password}")

    def _signed(self, name: str, extension: str, *of_key: str) -> Certificate:
        cert, key, both = (self._folder / f"{name}.{kind}" for kind in ("pem", "key", "both.pem"))
        _openssl("req", "-x509", *KEY, *of_key, "-days", DAYS, "-subj", f"/CN={name}", "-addext", extension,
                 "-addext", "basicConstraints=critical,CA:FALSE", "-CA", self.ca, "-CAkey", self._ca_key,
                 "-keyout", key, "-out", cert)  # fmt: skip
        both.write_text(key.read_text() + cert.read_text())
        return Certificate(cert, key, both)


def _openssl(*arguments: object) -> None:
    command = [str(program("openssl", "openssl")), *map(str, arguments)]
    subprocess.run(command, check=True, capture_output=True, timeout=OPENSSL_TIMEOUT_S)
