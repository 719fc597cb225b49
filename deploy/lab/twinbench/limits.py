# SPDX-License-Identifier: Apache-2.0
"""What keeps a figure from being better, as far as it was traced.  For the report only."""

LIMITS = {
    "silent_death_outage": (
        "the timers: a verdict needs dead + verify = 1.0 ms of silence, counted from a heartbeat "
        "that is up to 200 us old at the death; then come some 20 us to the first frame and the "
        "client's next probe with its round trip; a late wake-up adds its lateness"
    ),
    "verdict_to_first_answer": (
        "the pause until the client's next probe (up to 100 us), ARP for a server or client that "
        "the new primary has not met, and the round trip through NAT and a server process"
    ),
    "agent_cpu_fast": (
        "waking up: the engine's own rounds take about 7.5 us each; the rest is what the machine "
        "takes for any timed sleep, and over veth the peer's receive path runs in the sender"
    ),
    "false_failovers_fast": (
        "a virtual processor that is taken away for longer than the peer waits for a stalled agent"
    ),
    "flood_rate": (
        "sender, switch, victim and everything that watches share the machine's processors"
    ),
    "hog_outage": (
        "whatever else ran on the hog's processor, the client and the observers included"
    ),
}
