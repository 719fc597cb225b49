# SPDX-License-Identifier: Apache-2.0
"""What `doctor` says of members of the witness."""

from pathlib import Path

from msgspec.structs import replace

from twinbeat.config.arbiters import WitnessSection
from twinbeat.runtime.checkup.arbiters import third_parties
from unit.test_config_compare import A
from unit.test_witness_etcd import hang
from unit.witness_servers import etcd as lab_etcd
from unit.witness_servers import faulty_server


def test_a_member_that_hangs_is_told_as_what_it_is(tmp_path: Path) -> None:
    """And not as one that a second question found busy with the first."""
    papers = lab_etcd.make_papers(tmp_path, ["127.0.0.1"])
    with faulty_server(papers, hang) as server:
        section = WitnessSection(
            kind="etcd",
            endpoints=(server.url,),
            ca_file=str(papers.ca),
            cert_file=str(papers.certificate("node")),
            key_file=str(papers.key("node")),
            lease_ms=200,
        )
        (found,) = third_parties(replace(A, witness=section))
    assert found.level == "error"
    assert found.finding.startswith(f"{server.url}: no answer within")
