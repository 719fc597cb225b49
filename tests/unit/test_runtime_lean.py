# SPDX-License-Identifier: Apache-2.0
"""The agent runs without what it never uses, and nobody who does use it is harmed."""

import gc
import subprocess
import sys

from twinbeat.runtime import lean


def said(program: str) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout.strip()


def test_the_daemon_loads_no_openssl_and_no_compiler() -> None:
    program = "import sys, twinbeat.runtime.main, twinbeat.runtime.app; print(*sys.modules)"
    loaded = said(program).split()
    assert "twinbeat.runtime.app" in loaded
    assert not {"_ssl", "_hashlib", "bcc", "cryptography"} & set(loaded)


def test_digests_are_the_same_without_it() -> None:
    program = (
        "import sys, {}hashlib, hmac, secrets; "
        "print(hashlib.sha256(b'x').hexdigest(), hashlib.blake2b(b'x').hexdigest(), "
        "hmac.new(b'k', b'x', 'sha256').hexdigest(), hmac.compare_digest('a', 'a'))"
    )
    assert said(program.format("twinbeat.runtime.main, ")) == said(program.format(""))


def test_whoever_needs_tls_gets_it() -> None:
    program = "import twinbeat.runtime.main, ssl; print(ssl.create_default_context().verify_mode)"
    assert said(program) == "2"


def test_what_stands_is_not_looked_through_again() -> None:
    thresholds = gc.get_threshold()
    try:
        lean.settle()
        assert gc.get_freeze_count() > 0
        assert gc.get_threshold() == lean.GC_THRESHOLDS
    finally:
        gc.unfreeze()
        gc.set_threshold(*thresholds)
