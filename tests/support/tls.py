"""Certificates for a test, made with the `openssl` program: an authority and what it signs."""

import itertools
import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

LEAF = """
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth
subjectAltName = DNS:localhost, IP:127.0.0.1
"""
MIDDLE = """
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign
"""
EC = ("-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256")
RSA = ("-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048")


def openssl(*args: str | Path) -> None:
    """Runs the program to its end."""
    done = subprocess.run(
        ["openssl", *map(str, args)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, f"openssl {args}: {done.stderr}"


@dataclass(frozen=True)
class Pair:
    """A certificate and its key."""

    cert: Path
    key: Path

    @property
    def flags(self) -> list[str]:
        """The flags by which a server takes the pair."""
        return ["--tls-cert", str(self.cert), "--tls-key", str(self.key)]

    def copy_to(self, other: "Pair") -> None:
        """Puts this pair where another lies, each file at once."""
        for source, target in ((self.key, other.key), (self.cert, other.cert)):
            temporary = target.with_suffix(".new")
            temporary.write_bytes(source.read_bytes())
            temporary.rename(target)


class Authority:
    """A private authority whose files lie in one folder."""

    def __init__(self, folder: Path, name: str = "test authority") -> None:
        self.folder = folder
        self._names = itertools.count()
        folder.mkdir(parents=True, exist_ok=True)
        self.own = Pair(folder / "ca.pem", folder / "ca.key")
        openssl("genpkey", *EC, "-out", self.own.key)
        subject = ("-subj", f"/CN={name}", "-days", "2")
        openssl("req", "-x509", "-new", "-key", self.own.key, *subject, "-out", self.own.cert)

    @property
    def roots(self) -> bytes:
        """The authority's certificate."""
        return self.own.cert.read_bytes()

    def context(self, *protocols: str) -> ssl.SSLContext:
        """A client's view: this authority is trusted and no other."""
        context = ssl.create_default_context(cafile=str(self.own.cert))
        if protocols:
            context.set_alpn_protocols(list(protocols))
        return context

    def _sign(self, extensions: str, algorithm: tuple[str, ...], by: Pair) -> Pair:
        stem = self.folder / f"{next(self._names)}"
        made = Pair(stem.with_suffix(".pem"), stem.with_suffix(".key"))
        request, more = stem.with_suffix(".csr"), stem.with_suffix(".ext")
        more.write_text(extensions)
        openssl("genpkey", *algorithm, "-out", made.key)
        openssl(
            "req", "-new", "-key", made.key, "-subj", f"/CN=lakebed {stem.name}", "-out", request
        )
        signer = ("-CA", by.cert, "-CAkey", by.key, "-CAcreateserial", "-days", "2")
        openssl("x509", "-req", "-in", request, *signer, "-extfile", more, "-out", made.cert)
        return made

    def pair(self, algorithm: tuple[str, ...] = EC) -> Pair:
        """A server's certificate for this machine; its key in PKCS#8."""
        return self._sign(LEAF, algorithm, self.own)

    def chained_pair(self) -> Pair:
        """A server's certificate and, in the same file, that of the one who signed it."""
        middle = self._sign(MIDDLE, EC, self.own)
        pair = self._sign(LEAF, EC, middle)
        pair.cert.write_bytes(pair.cert.read_bytes() + middle.cert.read_bytes())
        return pair


def in_traditional_form(pair: Pair, kind: str) -> Pair:
    """The same pair with its key as `ec` (SEC1) or `rsa` (PKCS#1) instead of PKCS#8."""
    key = pair.key.with_suffix(f".{kind}")
    openssl(kind, "-in", pair.key, *(["-traditional"] if kind == "rsa" else []), "-out", key)
    return Pair(pair.cert, key)
