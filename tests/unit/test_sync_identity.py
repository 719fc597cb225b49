# SPDX-License-Identifier: Apache-2.0
"""Identities: what a certificate must be, and files that are whole and private at every instant."""

import os
import random
import stat
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from twinbeat.sync import identity as identities
from twinbeat.sync.identity import Certificate, Folder, IdentityError, examine, generate

NOW = time.time()
DAY = 86400


def foreign(
    *,
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | None = None,
    names: tuple[str, ...] = ("a",),
    ca: bool = False,
    signed_by: ec.EllipticCurvePrivateKey | None = None,
    hash_: hashes.HashAlgorithm | None = None,
) -> bytes:
    """A certificate that differs in one respect from those that nodes make."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, each) for each in names])
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .sign(signed_by or key, hash_ or hashes.SHA256())
        .public_bytes(Encoding.DER)
    )


def refusal(call: Callable[[], object]) -> IdentityError:
    with pytest.raises(IdentityError) as caught:
        call()
    return caught.value


def test_a_certificate_says_whose_it_is_and_for_how_long() -> None:
    made = generate("a", NOW).certificate
    assert made == examine(made.der)
    assert made.name == "a"
    assert made.ends_s - int(NOW) == identities.LIFE_DAYS * DAY
    assert made.is_valid(NOW)
    assert made.is_valid(NOW - 20 * DAY), "the clock of a peer may be behind"
    assert not made.is_valid(made.ends_s + 1)
    assert not made.is_due(NOW + 600 * DAY)
    assert made.is_due(NOW + 800 * DAY)
    assert made.is_due(made.ends_s + DAY)


def test_two_identities_have_nothing_in_common() -> None:
    one, other = generate("a", NOW), generate("a", NOW)
    assert one.certificate.fingerprint != other.certificate.fingerprint
    assert not other.certificate.verifies(one.sign(b"said"), b"said")


def test_a_signature_is_of_one_key_over_one_text() -> None:
    made = generate("a", NOW)
    signature = made.sign(b"said")
    assert made.certificate.verifies(signature, b"said")
    assert not made.certificate.verifies(signature, b"unsaid")
    assert not made.certificate.verifies(b"", b"said")


def test_what_these_tests_forge_is_otherwise_in_order() -> None:
    assert examine(foreign()).name == "a"


@pytest.mark.parametrize(
    ("der", "words"),
    [
        (b"", "can't be read"),
        (b"\x30\x03\x02\x01\x01", "can't be read"),
        (b"0" * 5000, "4096"),
        (foreign(key=rsa.generate_private_key(65537, 2048)), "P-256"),
        (foreign(key=ec.generate_private_key(ec.SECP384R1())), "P-256"),
        (foreign(signed_by=ec.generate_private_key(ec.SECP256R1())), "not its own"),
        (foreign(hash_=hashes.SHA512()), "SHA-256"),
        (foreign(ca=True), "authority"),
        (foreign(names=()), "names no node"),
        (foreign(names=("a", "b")), "names no node"),
        (foreign(names=("a\x1b[2J",)), "names no node"),
        (foreign(names=("a" * 64,)), "names no node"),
    ],
    ids=lambda value: value[:24] if isinstance(value, str) else "der",
)
def test_other_certificates_are_refused(der: bytes, words: str) -> None:
    refused = refusal(lambda: examine(der))
    assert refused.code == "certificate"
    assert words in refused.sentence


def test_whatever_comes_in_place_of_a_certificate_is_refused() -> None:
    rng = random.Random(4)
    good = generate("a", NOW).certificate.der
    for _ in range(500):
        bad = bytearray(good)
        for _ in range(rng.randint(1, 4)):
            bad[rng.randrange(len(bad))] ^= rng.randint(1, 255)
        cut = bytes(bad[: rng.randint(0, len(bad))]) if rng.random() < 0.3 else bytes(bad)
        if cut != good:
            assert refusal(lambda der=cut: examine(der)).code == "certificate"
    assert refusal(lambda: examine(good + b"\0")).code == "certificate"


# -- Files ------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "identity")


def stranger(name: str = "b") -> Certificate:
    return generate(name, NOW).certificate


def test_an_empty_folder_knows_nobody(folder: Folder) -> None:
    assert folder.own() is None
    assert folder.successor() is None
    assert folder.trusted() == ()
    assert not folder.take_successor("0" * 64)
    assert not folder.was_used("0" * 64)


def test_files_are_private_from_their_first_instant(folder: Folder) -> None:
    previous = os.umask(0)
    try:
        folder.make_own("a", NOW)
        folder.trust(stranger())
        folder.expect(stranger())
        folder.make_successor(NOW)
    finally:
        os.umask(previous)
    assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700
    files = {file.name: stat.S_IMODE(file.stat().st_mode) for file in folder.path.iterdir()}
    assert files == dict.fromkeys(("own.pem", "next.pem", "peer.crt", "peer-next.crt"), 0o600)


def test_what_is_written_is_read_again(folder: Folder) -> None:
    made = folder.make_own("a", NOW)
    peer = stranger()
    folder.trust(peer)
    again = Folder(folder.path)
    found = again.own()
    assert found is not None
    assert found.certificate == made.certificate
    assert made.certificate.verifies(found.sign(b"said"), b"said")
    assert again.trusted() == (peer,)


def test_an_identity_is_never_replaced_by_accident(folder: Folder) -> None:
    made = folder.make_own("a", NOW)
    assert refusal(lambda: folder.make_own("a", NOW)).code == "file"
    found = folder.own()
    assert found is not None
    assert found.certificate == made.certificate


def test_a_successor_waits_until_the_peer_has_it(folder: Folder) -> None:
    old = folder.make_own("a", NOW).certificate
    new = folder.make_successor(NOW).certificate
    assert folder.make_successor(NOW).certificate == new, "a renewal goes on where it was"
    shown = folder.own()
    assert shown is not None
    assert shown.certificate == old
    assert not folder.take_successor(old.fingerprint)
    assert folder.take_successor(new.fingerprint)
    shown = folder.own()
    assert shown is not None
    assert shown.certificate == new
    assert folder.successor() is None


def test_a_successor_that_expired_meanwhile_is_made_anew(folder: Folder) -> None:
    folder.make_own("a", NOW)
    old = folder.make_successor(NOW - 2000 * DAY).certificate
    assert folder.make_successor(NOW).certificate != old


def test_the_peer_s_old_certificate_counts_until_the_new_one_was_used(folder: Folder) -> None:
    old, new = stranger(), stranger()
    folder.trust(old)
    folder.expect(new)
    assert folder.trusted() == (old, new)
    assert not folder.was_used(old.fingerprint)
    assert folder.trusted() == (old, new)
    assert folder.was_used(new.fingerprint)
    assert folder.trusted() == (new,)


def test_whoever_is_paired_anew_takes_all_trust_with_him(folder: Folder) -> None:
    folder.trust(stranger())
    folder.expect(stranger())
    newcomer = stranger("c")
    folder.trust(newcomer)
    assert folder.trusted() == (newcomer,)
    folder.distrust()
    assert folder.trusted() == ()


def test_every_change_of_a_file_shows(folder: Folder) -> None:
    seen = [folder.state()]
    for change in (
        lambda: folder.make_own("a", NOW),
        lambda: folder.trust(stranger()),
        lambda: folder.expect(stranger()),
        lambda: folder.trust(stranger()),
        folder.distrust,
        folder.remove_own,
    ):
        change()
        assert folder.state() not in seen[-1:]
        seen.append(folder.state())


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_a_key_that_others_could_read_is_refused(folder: Folder, mode: int) -> None:
    folder.make_own("a", NOW)
    folder.own_file.chmod(mode)
    refused = refusal(folder.own)
    assert refused.code == "exposed"
    assert "chmod 0600" in refused.sentence


def test_a_certificate_that_others_could_change_is_refused(folder: Folder) -> None:
    folder.trust(stranger())
    (folder.path / identities.PEER).chmod(0o644)
    assert len(folder.trusted()) == 1, "it is no secret"
    (folder.path / identities.PEER).chmod(0o664)
    assert refusal(folder.trusted).code == "exposed"


def test_links_and_pipes_are_not_followed(folder: Folder, tmp_path: Path) -> None:
    folder.make_own("a", NOW)
    folder.own_file.rename(tmp_path / "elsewhere")
    folder.own_file.symlink_to(tmp_path / "elsewhere")
    assert refusal(folder.own).code == "file"
    folder.own_file.unlink()
    os.mkfifo(folder.own_file)
    assert refusal(folder.own).code == "file"


@pytest.mark.parametrize("content", ["", "nothing of the kind", "cut", "mixed"])
def test_a_broken_file_is_named_and_never_quoted(folder: Folder, content: str) -> None:
    folder.make_own("a", NOW)
    good = folder.own_file.read_text()
    other = Folder(folder.path.with_name("other"))
    other.make_own("a", NOW)
    begin = "-----BEGIN CERT"
    mixed = good.partition(begin)[0] + begin + other.own_file.read_text().partition(begin)[2]
    text = {"cut": good[: len(good) // 2], "mixed": mixed}.get(content, content)
    folder.own_file.write_text(text)
    refused = refusal(folder.own)
    assert refused.code == "file"
    assert str(folder.own_file) in refused.sentence
    secret = good.splitlines()[1]
    assert secret not in repr(refused)
    assert refused.__suppress_context__ or refused.__context__ is None


def test_no_repr_shows_a_key(folder: Folder) -> None:
    made = folder.make_own("a", NOW)
    lines = folder.own_file.read_text().splitlines()
    private = lines[1 : lines.index("-----END PRIVATE KEY-----")]
    assert private
    assert not any(line in repr(made) for line in private)
    assert "BEGIN" not in repr(made)


def test_a_write_that_fails_leaves_what_was_there(folder: Folder) -> None:
    old = stranger()
    folder.trust(old)
    # A directory in the place of the new file: neither removed nor written.
    (folder.path / f".{identities.PEER}.new").mkdir()
    assert refusal(lambda: folder.trust(stranger())).code == "file"
    assert folder.trusted() == (old,)


def test_what_a_killed_write_left_is_no_hindrance(folder: Folder) -> None:
    folder.make_own("a", NOW)
    (folder.path / f".{identities.PEER}.new").write_text("half")
    peer = stranger()
    folder.trust(peer)
    assert folder.trusted() == (peer,)
    assert not (folder.path / f".{identities.PEER}.new").exists()


@pytest.mark.privileged
def test_what_root_makes_belongs_to_the_owner_of_the_directory(folder: Folder) -> None:
    above = folder.path.parent
    os.chown(above, 4242, 4242)
    deep = Folder(above / "worker" / "identity")
    deep.make_own("a", NOW)
    for made in (above / "worker", deep.path, deep.own_file):
        assert (made.stat().st_uid, made.stat().st_gid) == (4242, 4242)
    folder.path.mkdir(mode=0o700)
    folder.make_own("a", NOW)
    os.chown(above, 0, 0)
    os.chown(folder.own_file, 4343, 4343)
    assert refusal(folder.own).code == "exposed"
