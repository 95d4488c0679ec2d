"""TLS certificate of the Dask processes of a run, created for each run.

Dask processes execute the code that they receive. All processes of a run therefore accept TLS connections only, and
only with the certificate of the run. On one machine key and certificate stay in memory: workers get them through the
pipe by which they are started. Slurm jobs read them from the private folder of the workspace.
"""

import datetime
import os
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from distributed.security import Security

VALID = datetime.timedelta(days=366)
CLOCKS_DIFFER = datetime.timedelta(days=1)


def new_certificate() -> tuple[str, str]:
    """Return a self-signed certificate and its private key (elliptic curve P-256), as PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a run of hypermm")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCKS_DIFFER)
        .not_valid_after(now + VALID)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return certificate.public_bytes(pem).decode(), secret.decode()


def security_of(certificate: str, key: str) -> Security:
    """Return security settings for Dask: encrypt all, trust this certificate only; Dask's configuration is ignored.

    Args:
        certificate: PEM, or the path of a file with it.
        key: the same.
    """
    roles = ("client", "scheduler", "worker")
    certificates = {f"tls_{role}_cert": certificate for role in roles}
    keys = {f"tls_{role}_key": key for role in roles}
    return Security(
        require_encryption=True, tls_ca_file=certificate, tls_ciphers=None, tls_max_version=None, **certificates, **keys
    )


def certificate_files(folder: Path) -> tuple[Path, Path]:
    """Return the paths of certificate and key for jobs on other machines."""
    return folder / "certificate.pem", folder / "key.pem"


def write_certificate(folder: Path) -> Security:
    """Write a certificate and its key to a private folder, for their owner only; return the security settings."""
    paths = certificate_files(folder)
    for path, text in zip(paths, new_certificate(), strict=True):
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(handle, "w", encoding="ascii") as stream:
            stream.write(text)
    return security_of(*map(str, paths))
