# SPDX-License-Identifier: Apache-2.0
"""What the interface says of a refusal: the option that gets past it, where there is one."""

import pytest

from twinbeat.api import schema
from twinbeat.core.reasons import Code
from twinbeat.runtime.node import override_of

ID = "test-0001"


@pytest.mark.parametrize(
    ("command", "code", "option"),
    [
        (schema.Failover(request_id=ID), Code.PEER_UNFIT, "--even-if-unfit"),
        (schema.Failover(request_id=ID), Code.SELF_UNFIT, "--even-if-unfit"),
        (schema.Failover(request_id=ID), Code.DIGEST_DIFFERS, "--even-if-unfit"),
        (schema.Failover(request_id=ID), Code.STAY_PRIMARY, "--even-if-unfit"),
        (schema.Failover(request_id=ID, even_if_unfit=True), Code.PEER_UNFIT, None),
        (schema.Failover(request_id=ID), Code.PEER_UNKNOWN, None),
        (schema.Failover(request_id=ID), Code.PEER_STARTING, None),
        (schema.Failover(request_id=ID), Code.PAUSED, None),
        (schema.Yield(request_id=ID), Code.NOT_PRIMARY, None),
        (
            schema.SetAdmin(request_id=ID, admin=schema.Admin.DISABLED),
            Code.PEER_UNKNOWN,
            "--even-if-unfit",
        ),
        (
            schema.SetAdmin(request_id=ID, admin=schema.Admin.DISABLED),
            Code.PAUSED,
            "--even-if-unfit",
        ),
        (schema.SetAdmin(request_id=ID, admin=schema.Admin.DISABLED), Code.BUSY, None),
        (schema.SetTimers(request_id=ID), Code.HOST_LATE, "--even-so"),
        (schema.SetTimers(request_id=ID), Code.PEER_LATE, "--even-so"),
        (schema.SetTimers(request_id=ID, even_so=True), Code.PEER_LATE, None),
        (schema.SetTimers(request_id=ID), Code.TIMERS_CONTRADICT, None),
    ],
)
def test_an_option_is_named_only_where_it_helps(
    command: schema.Command, code: Code, option: str | None
) -> None:
    assert override_of(command, code) == option
