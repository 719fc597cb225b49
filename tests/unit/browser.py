# SPDX-License-Identifier: Apache-2.0
"""A real headless Chromium, told what to do over its debugging pipe (no library, no port)."""

import base64
import contextlib
import json
import os
import select
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

START_S = 60.0
ANSWER_S = 45.0


class Browser:
    """One browser with one tab; use as a context. Everything that it asked for is in `requests`."""

    def __init__(self, directory: Path, *, enter: Sequence[str] = ()) -> None:
        """`enter` is the command that runs another one where the browser is to live."""
        to_read, self._write = os.pipe()
        self._read, to_write = os.pipe()
        # The browser speaks on its descriptors 3 and 4; a shell puts ours there.
        command = (
            f"exec chromium --headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage "
            f"--no-first-run --disable-extensions --disable-background-networking "
            f"--user-data-dir={directory / 'profile'} --remote-debugging-pipe about:blank "
            f"3<&{to_read} 4>&{to_write}"
        )
        self._log = (directory / "chromium.log").open("wb")
        self.process = subprocess.Popen(
            [*enter, "bash", "-c", command],
            pass_fds=(to_read, to_write),
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            env=os.environ | {"HOME": str(directory)},
            start_new_session=True,
        )
        os.close(to_read)
        os.close(to_write)
        self._number = 0
        self._data = b""
        self.requests: list[str] = []
        self.complaints: list[str] = []
        """What its console and its log held: errors, and what a policy forbade."""

    def __enter__(self) -> Self:
        targets = self._ask("Target.getTargets", timeout_s=START_S)["targetInfos"]
        tab = next(each["targetId"] for each in targets if each["type"] == "page")
        attached = self._ask("Target.attachToTarget", {"targetId": tab, "flatten": True})
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.tell(f"{domain}.enable")
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, 9)
        self.process.wait()
        os.close(self._read)
        os.close(self._write)
        self._log.close()

    def tell(self, method: str, **parameters: Any) -> dict[str, Any]:
        """A command for the tab, and its answer."""
        return self._ask(method, parameters, session=self._session)

    def open(self, address: str) -> None:
        self.tell("Page.navigate", url=address)

    def value(self, expression: str) -> Any:
        """What a JavaScript expression of the page is."""
        answer = self.tell("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def until(self, expression: str, timeout_s: float = ANSWER_S) -> Any:
        """Its value as soon as that is true."""
        deadline = time.monotonic() + timeout_s
        while not (value := self.value(expression)):
            assert time.monotonic() < deadline, (
                f"{expression} does not become true; the page says:\n"
                f"{self.value('document.body.innerText')}\n{self.complaints}"
            )
            self._take(0.05)
        return value

    def window(self, width: int, height: int, *, dark: bool = False, scale: float = 1) -> None:
        """A window, or the screen of a phone."""
        mobile = width < 600
        self.tell(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=scale,
            mobile=mobile,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.tell("Emulation.setEmulatedMedia", features=[scheme])

    def picture(self) -> bytes:
        """The window as PNG."""
        return base64.b64decode(self.tell("Page.captureScreenshot", format="png")["data"])

    # -- the pipe: JSON, each ended by a zero byte -----------------------------------------------

    def _ask(
        self,
        method: str,
        parameters: dict[str, Any] | None = None,
        *,
        session: str = "",
        timeout_s: float = ANSWER_S,
    ) -> dict[str, Any]:
        self._number += 1
        number = self._number
        message = {"id": number, "method": method, "params": parameters or {}}
        if session:
            message["sessionId"] = session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            for told in self._take(deadline - time.monotonic()):
                if told.get("id") == number:
                    assert "error" not in told, told["error"]
                    return dict(told["result"])
        raise AssertionError(f"chromium gives no answer to {method}")

    def _take(self, timeout_s: float) -> list[dict[str, Any]]:
        ready, _, _ = select.select([self._read], [], [], max(timeout_s, 0))
        if not ready:
            return []
        data = os.read(self._read, 1 << 20)
        assert data, "chromium ended"
        *messages, self._data = (self._data + data).split(b"\0")
        told = [json.loads(message) for message in messages]
        for each in told:
            self._heed(each)
        return told

    def _heed(self, told: dict[str, Any]) -> None:
        parameters = told.get("params", {})
        match told.get("method"):
            case "Network.requestWillBeSent":
                self.requests.append(parameters["request"]["url"])
            case "Runtime.exceptionThrown":
                self.complaints.append(json.dumps(parameters["exceptionDetails"]))
            case "Log.entryAdded":
                self.complaints.append(parameters["entry"]["text"])
