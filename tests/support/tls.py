"""A certificate authority for tests, and the TLS settings of ZooKeeper servers."""

from datetime import datetime
from pathlib import Path

import trustme
from cryptography.hazmat.primitives import serialization


class CertificateAuthority:
    """A certificate authority. It writes certificates to files in its directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._ca = trustme.CA()
        self.file = directory / "ca.pem"
        self._ca.cert_pem.write_to_path(self.file)

    def sign(self, name: str, *, password: bytes | None = None, end: datetime | None = None) -> Path:
        """Write a PEM file (mode 0600) with a key and a certificate for a host name or address.

        The key is PKCS #8, which Java requires.

        Args:
            name: the host name or address.
            password: of the key.
            end: of the certificate's validity.
        """
        issued = self._ca.issue_cert(name, not_after=end)
        key = serialization.load_pem_private_key(issued.private_key_pem.bytes(), None)
        encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
        if password is not None:
            encryption = serialization.BestAvailableEncryption(password)
        pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
        file = self._directory / f"{name}{'-locked' if password else ''}.pem"
        file.touch(0o600)
        file.write_bytes(pem + b"".join(part.bytes() for part in issued.cert_chain_pems))
        return file

    def settings_for(self, certificate: Path, *, clients: bool) -> dict[str, str]:
        """The settings of a ZooKeeper server. With `clients`, clients need a certificate too."""
        return {
            "ssl.keyStore.location": str(certificate),
            "ssl.keyStore.type": "PEM",
            "ssl.trustStore.location": str(self.file),
            "ssl.trustStore.type": "PEM",
            "ssl.clientAuth": "need" if clients else "none",
            "ssl.hostnameVerification": "false",
        }
