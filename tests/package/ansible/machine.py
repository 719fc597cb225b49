# SPDX-License-Identifier: Apache-2.0
"""The connection `machine` of Ansible: into a machine of the tests, and nowhere else."""

import subprocess
from pathlib import Path
from typing import IO, Any

from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.connection import ConnectionBase

from package.entering import ELSEWHERE, NotTheMachineError, entering

DOCUMENTATION = """
name: machine
short_description: Enters a machine of the tests
description: By the namespaces of its first process, once that has been found to be a machine.
author: Twinbeat
options:
  first:
    description: Its first process, as the host numbers it.
    type: int
    required: true
    vars: [{name: machine_first}]
  mark:
    description: What only that machine has.
    type: str
    required: true
    vars: [{name: machine_mark}]
"""


class Connection(ConnectionBase):  # type: ignore[misc]
    """Commands and files for one machine."""

    transport = "machine"
    has_pipelining = True

    def _connect(self) -> "Connection":
        self._enter("true")
        self._connected = True
        return self

    def _enter(self, *command: str, stdin: bytes | IO[bytes] = b"") -> tuple[int, bytes, bytes]:
        given: dict[str, Any] = {"input": stdin} if isinstance(stdin, bytes) else {"stdin": stdin}
        try:
            way = entering(self.get_option("first"), self.get_option("mark"), *command)
        except NotTheMachineError as error:
            raise AnsibleConnectionFailure(f"{error}: nothing was run") from error
        done = subprocess.run(way, **given, capture_output=True, check=False)
        if done.returncode == ELSEWHERE:
            raise AnsibleConnectionFailure(done.stderr.decode())
        return done.returncode, done.stdout, done.stderr

    def exec_command(
        self, cmd: str, in_data: bytes | None = None, sudoable: bool = True
    ) -> tuple[int, bytes, bytes]:
        super().exec_command(cmd, in_data=in_data, sudoable=sudoable)
        return self._enter("sh", "-c", cmd, stdin=in_data or b"")

    def put_file(self, in_path: str, out_path: str) -> None:
        super().put_file(in_path, out_path)
        with Path(in_path).open("rb") as content:
            self._must("sh", "-c", 'cat >"$0"', out_path, stdin=content)

    def fetch_file(self, in_path: str, out_path: str) -> None:
        super().fetch_file(in_path, out_path)
        Path(out_path).write_bytes(self._must("cat", in_path))

    def _must(self, *command: str, stdin: bytes | IO[bytes] = b"") -> bytes:
        code, told, complaint = self._enter(*command, stdin=stdin)
        if code:
            raise AnsibleConnectionFailure(complaint.decode())
        return told

    def close(self) -> None:
        self._connected = False
