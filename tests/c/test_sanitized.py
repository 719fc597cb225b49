# SPDX-License-Identifier: Apache-2.0
"""The C sources under AddressSanitizer, UndefinedBehaviorSanitizer and ThreadSanitizer.

Each program below is built anew with clang, with every warning an error, and has to end well. The
fuzzers run seeded and bounded here; for hours of libFuzzer on one of them:

    clang-14 -g -O1 -fsanitize=fuzzer,address,undefined -DWITH_LIBFUZZER -D_GNU_SOURCE \
        -Icsrc -Iebpf tests/c/fuzz_receive.c csrc/{plain,maps}.c -o /tmp/fuzz && /tmp/fuzz
"""

import os
import subprocess
from pathlib import Path

import pytest

from unit.namespace import fresh_namespace

HERE = Path(__file__).parent
ROOT = HERE.parents[1]

WARNINGS = ["-std=c11", "-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-Werror"]
# The tests' own arithmetic on seeds need not spell out every narrowing.
TEST_WARNINGS = ["-std=c11", "-Wall", "-Wextra", "-Wshadow", "-Werror"]
MEMORY = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
THREADS = ["-fsanitize=thread"]

SANITIZERS = {"memory": MEMORY, "threads": THREADS}

STEP = ["engine", "claims", "reign", "round", "watch", "witness"]

PROGRAMS = {
    "test_frames": ["frames"],
    "test_announce": ["announce", "frames"],
    "test_maps": ["maps"],
    "test_watchdog": ["watchdog"],
    "test_round": ["round"],
    "test_threads": ["ring", *STEP],
    "fuzz_receive": ["plain", "maps"],
    "fuzz_step": STEP,
}
THREADED = {"test_threads"}
"""Built for ThreadSanitizer as well."""


def build(name: str, sources: list[str], sanitizer: list[str], into: Path, *extra: str) -> Path:
    common = ["clang-14", "-g", "-O1", "-D_GNU_SOURCE", f"-I{ROOT}/csrc", f"-I{ROOT}/ebpf", *extra]
    objects = []
    for source in sources:
        out = into / f"{source}.o"
        path = ROOT / "csrc" / f"{source}.c"
        run([*common, *WARNINGS, *sanitizer, "-c", str(path), "-o", str(out)])
        objects.append(str(out))
    program = into / name
    test = str(HERE / f"{name}.c")
    run([*common, *TEST_WARNINGS, *sanitizer, test, *objects, "-lpthread", "-o", str(program)])
    return program


def run(command: list[str]) -> str:
    environment = {
        **os.environ,
        "ASAN_OPTIONS": "detect_stack_use_after_return=1:strict_string_checks=1",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "TSAN_OPTIONS": "halt_on_error=1",
    }
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=100, env=environment
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.mark.parametrize(
    ("name", "sanitizer"),
    [(name, "memory") for name in PROGRAMS] + [(name, "threads") for name in sorted(THREADED)],
)
def test_sanitized(name: str, sanitizer: str, tmp_path: Path) -> None:
    run([str(build(name, PROGRAMS[name], SANITIZERS[sanitizer], tmp_path))])


@pytest.mark.privileged
@pytest.mark.parametrize("sanitizer", SANITIZERS)
def test_whole_thread(sanitizer: str, tmp_path: Path) -> None:
    sources = sorted(path.stem for path in (ROOT / "csrc").glob("*.c"))
    with fresh_namespace():
        run([str(build("test_thread", sources, SANITIZERS[sanitizer], tmp_path))])


@pytest.mark.parametrize("name", [name for name in PROGRAMS if name.startswith("fuzz_")])
def test_coverage_guided_for_a_moment(name: str, tmp_path: Path) -> None:
    # libFuzzer finds in seconds what random programs rarely do.
    sanitizer = ["-fsanitize=fuzzer,address,undefined", "-fno-sanitize-recover=all"]
    program = build(name, PROGRAMS[name], sanitizer, tmp_path, "-DWITH_LIBFUZZER")
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    command = [str(program), "-seed=1", "-runs=20000", "-max_total_time=8", "-max_len=2048"]
    run([*command, f"-artifact_prefix={tmp_path}/", "-verbosity=0", str(corpus)])
