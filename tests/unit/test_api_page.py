# SPDX-License-Identifier: Apache-2.0
"""The status page in a real Chromium, and what everybody who reads it can learn."""

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from twinbeat.api import page, schema
from unit.browser import Browser
from unit.memory_agent import Served, connections, counters, histogram, node, status, transition

SCRIPT = "<img src=x onerror=\"document.title='taken'\"><script>document.title='taken'</script>"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("browser")) as running:
        yield running


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with Served(tmp_path) as running:
        yield running


def kept() -> schema.Status:
    state = status(connections=connections(state="filling", sentence="/etc/twinbeat/x"))
    return replace(state, process=replace(state.process, worker=True))


@pytest.fixture
def opened(served: Served, browser: Browser) -> Browser:
    browser.requests.clear()
    browser.complaints.clear()
    browser.window(1000, 900)
    browser.open(address(served))
    browser.until("document.querySelectorAll('.node').length == 2")
    return browser


def address(served: Served) -> str:
    return f"http://127.0.0.1:{served.port}/"


def get(served: Served, path: str) -> Any:
    return urllib.request.urlopen(address(served) + path, timeout=60)


def text(browser: Browser, selector: str) -> str:
    return str(browser.value(f"document.querySelector({json.dumps(selector)}).innerText"))


def test_the_pair_at_a_glance(opened: Browser, served: Served) -> None:
    assert text(opened, "h1").startswith("PRIMARY since 12d 3h, peer SECONDARY healthy")
    own, other = (text(opened, f".node:nth-child({number})") for number in (1, 2))
    assert "a: this node" in own
    assert "open, 9 ms of 10 ms left" in own
    assert "alive, 100 µs ago" in other
    assert text(opened, "#failovers").count("secondary → primary") == 2
    assert "in all 1.03 ms" in text(opened, "#failovers")
    wide = "[...document.querySelectorAll('.phases i')].every(part => part.offsetWidth >= 2)"
    assert opened.value(wide)
    assert "ha0 up" in text(opened, "#links")
    assert opened.complaints == []
    assert opened.value("document.title") == "primary – a – Twinbeat"


def test_it_asks_nobody_but_its_own_server(opened: Browser, served: Served) -> None:
    opened.until("performance.getEntriesByType('resource').length >= 2")
    assert len(opened.requests) >= 3
    own = {url for url in opened.requests if not url.startswith("data:")}
    assert own == {address(served), f"{address(served)}page.json"}
    for forbidden in (
        "fetch('http://127.0.0.2:1/x').then(() => 'got', () => 'refused')",
        "new Promise(end => { const it = document.createElement('script'); it.onload = () => "
        "end('got'); it.onerror = () => end('refused'); it.src = 'http://127.0.0.2:1/x.js'; "
        "document.head.append(it); })",
    ):
        answer = opened.tell(
            "Runtime.evaluate", expression=forbidden, awaitPromise=True, returnByValue=True
        )
        assert answer["result"]["value"] == "refused"
    assert sum("Content Security Policy" in said for said in opened.complaints) >= 2


def test_what_is_said_is_shown_and_never_run(opened: Browser, served: Served) -> None:
    warned = schema.Warn(code="x", sentence=SCRIPT, severity=schema.Severity.CRITICAL)
    served.agent.state = status(warnings=[warned])
    served.agent.past = [transition(sentence=SCRIPT)]
    opened.until("document.querySelector('#warnings li') !== null")
    assert SCRIPT in text(opened, "#warnings")
    assert SCRIPT in text(opened, "#failovers")
    assert opened.value("document.title") != "taken"
    assert opened.value("document.querySelectorAll('img, li script').length") == 0


def test_what_outlasts_a_takeover_is_there_while_it_is_configured(
    opened: Browser, served: Served
) -> None:
    assert opened.value("document.getElementById('kept').hidden"), "no worker, no document"
    served.agent.state = kept()
    opened.until("!document.getElementById('kept').hidden")
    shown = text(opened, "#kept")
    for words in (
        "in-step: 7 entries, 1 on their way",
        "filling: 1,200 flows, 7 messages unconfirmed",
        "collecting: 20 records, 3 on this node only",
    ):
        assert words in shown
    good = "[...document.querySelectorAll('#kept dd')].map(one => one.className)"
    assert opened.value(good) == ["good", "warn", "good"]
    assert opened.complaints == []


def test_gaps_of_the_last_turns_become_bars(opened: Browser, served: Served) -> None:
    for beats in (200, 400):
        link = replace(counters().links[0], gaps=histogram({8: beats}))
        served.agent.counted = counters(links=[link])
        opened.until(f"gaps.get('ha0').counts[8] === {beats}")
    opened.until("document.querySelectorAll('#links rect').length >= 1")
    assert "now p99 255 µs" in text(opened, "#links")


def test_an_agent_that_goes_is_said_and_comes_back(
    browser: Browser, served: Served, opened: Browser
) -> None:
    served.call(lambda: setattr(served.agent, "status", broken))
    opened.until("!document.getElementById('lost').hidden")
    assert "No answer since" in text(opened, "#lost")
    served.call(lambda: delattr(served.agent, "status"))
    served.agent.state = status(node=node(role=schema.Role.SECONDARY))
    opened.until("document.getElementById('lost').hidden")
    assert text(opened, ".node:nth-child(1) .role") == "secondary"


def broken() -> schema.Status:
    raise RuntimeError("the agent is no more")


@pytest.mark.parametrize("width", [320, 375, 1400])
def test_it_fits_the_screen(opened: Browser, width: int) -> None:
    opened.window(width, 800)
    opened.until(f"innerWidth === {width}")
    assert opened.value("document.documentElement.scrollWidth <= innerWidth")
    small = "parseFloat(getComputedStyle(one).fontSize) >= 13"
    assert opened.value(f"[...document.querySelectorAll('body *')].every(one => {small})")


def test_dark_and_light_have_contrast(opened: Browser) -> None:
    seen = set()
    for dark in (False, True):
        opened.window(1000, 900, dark=dark)
        colours = opened.value(
            "['body', '.node', 'dt', '.good', '.primary'].map(name => {"
            " const made = getComputedStyle(document.querySelector(name));"
            " return [made.color, made.backgroundColor]; })"
        )
        paper = luminance(colours[1][1])
        for ink, _ in colours:
            low, high = sorted((luminance(ink), paper))
            # Readable for everybody: level AA of WCAG 2, for text of this size.
            assert (high + 0.05) / (low + 0.05) >= 4.5, (dark, ink)
        seen.add(colours[0][1])
    assert len(seen) == 2


def luminance(colour: str) -> float:
    """Relative luminance of `rgb(r, g, b)`, as WCAG defines it."""
    parts = [int(part) / 255 for part in colour[4:-1].split(",")[:3]]
    linear = [p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


# ------------------------------------------------------------------- what it gives away ----------


def test_headers_hold_the_page_to_itself(served: Served) -> None:
    for path in ("", "page.json"):
        with get(served, path) as answer:
            policy = answer.headers["Content-Security-Policy"]
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert "Access-Control-Allow-Origin" not in answer.headers
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
    body, _ = page.file()
    assert b"http://" not in body.replace(b"http://www.w3.org/2000/svg", b"")
    assert b"innerHTML" not in body


def test_what_belongs_to_the_socket_is_not_in_the_page(served: Served) -> None:
    state = kept()
    secret = "only for the socket"
    hook = replace(state.hooks[0], last_output=secret, exec="/hidden/hook")
    served.agent.state = replace(state, hooks=[hook])
    with get(served, "page.json") as answer:
        told = answer.read().decode()
    for hidden in (secret, "/hidden/hook", "disk full", "/etc/twinbeat", "send_key"):
        assert hidden not in told, hidden
    assert json.loads(told)["schema"] == 1


def test_many_who_look_cost_no_more_than_one(served: Served) -> None:
    asked = []
    real = served.agent.status
    served.agent.status = lambda: asked.append(1) or real()
    for _ in range(20):
        get(served, "page.json").read()
    assert 1 <= len(asked) <= 3


def test_only_reading_is_answered(served: Served) -> None:
    for path in ("", "page.json"):
        request = urllib.request.Request(address(served) + path, data=b"{}", method="POST")
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(request, timeout=60)
        assert refused.value.code == 405
        refused.value.close()
