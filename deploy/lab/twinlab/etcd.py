# SPDX-License-Identifier: Apache-2.0
"""A real etcd-server, of one member or several, for the witness: certificates and command lines.

The authority is made anew each time and lives as long as the directory; both sides show a
certificate, as a cluster in production would ask for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from twinlab.shell import run

SUBJECTS = {"server": "serverAuth,clientAuth", "node": "clientAuth"}
"""The JSON gateway is a client of its own server and shows it the server's certificate."""


@dataclass(frozen=True, slots=True)
class Papers:
    """Where the certificates of one authority lie."""

    directory: Path

    @property
    def ca(self) -> Path:
        return self.directory / "ca.crt"

    def certificate(self, subject: str) -> Path:
        return self.directory / f"{subject}.crt"

    def key(self, subject: str) -> Path:
        return self.directory / f"{subject}.key"


def make_papers(directory: Path, addresses: Sequence[str]) -> Papers:
    """An authority, a certificate for a server at these addresses and one for the nodes."""
    directory.mkdir(parents=True, exist_ok=True)
    papers = Papers(directory)
    fresh = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    authority = ["-x509", "-days", "30", "-subj", "/CN=lab witness authority"]
    ca_key = papers.key("ca")
    run(["openssl", "req", *fresh, *authority, "-keyout", str(ca_key), "-out", str(papers.ca)])
    for subject, usage in SUBJECTS.items():
        request = directory / f"{subject}.csr"
        extensions = directory / f"{subject}.ext"
        names = ",".join(f"IP:{address}" for address in addresses)
        extensions.write_text(
            f"extendedKeyUsage={usage}\n"
            + (f"subjectAltName={names}\n" if subject == "server" else "")
        )
        run(
            [
                *["openssl", "req", *fresh, "-subj", f"/CN={subject}"],
                *["-keyout", str(papers.key(subject)), "-out", str(request)],
            ]
        )
        run(
            [
                *["openssl", "x509", "-req", "-in", str(request), "-days", "30"],
                *["-CA", str(papers.ca), "-CAkey", str(ca_key), "-CAcreateserial"],
                *["-extfile", str(extensions), "-out", str(papers.certificate(subject))],
            ]
        )
    return papers


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One server of the cluster."""

    name: str
    address: str
    port: int
    peer_port: int
    """Where the other members reach it; without TLS, as these never leave the lab's namespace."""

    @property
    def url(self) -> str:
        return f"https://{self.address}:{self.port}"

    @property
    def peer_url(self) -> str:
        return f"http://{self.address}:{self.peer_port}"


def command(data: Path, papers: Papers, member: Member, cluster: Sequence[Member]) -> list[str]:
    """What starts a member; it answers once most of the cluster elected a leader, in a second."""
    return [
        "etcd",
        f"--data-dir={data}",
        f"--name={member.name}",
        "--logger=zap",
        "--log-level=warn",
        "--heartbeat-interval=50",
        "--election-timeout=500",
        f"--listen-client-urls={member.url}",
        f"--advertise-client-urls={member.url}",
        f"--listen-peer-urls={member.peer_url}",
        f"--initial-advertise-peer-urls={member.peer_url}",
        f"--initial-cluster={','.join(f'{each.name}={each.peer_url}' for each in cluster)}",
        f"--trusted-ca-file={papers.ca}",
        f"--cert-file={papers.certificate('server')}",
        f"--key-file={papers.key('server')}",
        "--client-cert-auth",
    ]
