# SPDX-License-Identifier: Apache-2.0
"""The programs, compiled once for all tests here and loaded with maps that nobody else sees."""

import os
from collections.abc import Iterator

import pytest

from bpf.world import World
from twinbeat.engine import compile as compiler
from twinbeat.engine.maps import SPECS


@pytest.fixture(scope="session")
def compiled() -> compiler.Compiled:
    return compiler.compile_programs(compiler.source_directory())


@pytest.fixture(scope="session")
def _instance(compiled: compiler.Compiled) -> Iterator[World]:
    descriptors = {spec.name: spec.create() for spec in SPECS}
    for name, program in compiled.programs.items():
        descriptors[name] = program.load(descriptors)
    yield World(descriptors)
    for fd in descriptors.values():
        os.close(fd)


@pytest.fixture
def world(_instance: World) -> World:
    _instance.reset()
    return _instance
