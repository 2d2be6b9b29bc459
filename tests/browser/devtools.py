"""Chromium without a window, driven over the DevTools protocol: https://chromedevtools.github.io/devtools-protocol/"""

from __future__ import annotations

import itertools
import json
import subprocess
from pathlib import Path
from typing import Any

import websocket

from tests.waiting import until

OPTIONS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
    "--no-default-browser-check", "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-extensions", "--no-proxy-server", "--remote-debugging-port=0",
)  # fmt: skip
TIMEOUT_S = 20


class Chromium:
    """A browser with a profile of its own. preferences: of the profile, as Chromium keeps them. heard: events so far."""

    def __init__(self, command: str, profile: Path, preferences: dict[str, Any] | None = None) -> None:
        (profile / "Default").mkdir(parents=True)
        (profile / "Default" / "Preferences").write_text(json.dumps(preferences or {}))
        self._log = (profile / "log").open("wb")
        self._process = subprocess.Popen(
            [command, *OPTIONS, f"--user-data-dir={profile}", "about:blank"],
            stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log,
        )  # fmt: skip
        place = profile / "DevToolsActivePort"
        until(lambda: place.exists() and "/" in place.read_text(), "Chromium's DevTools port")
        port, path = place.read_text().split()
        self._wire = websocket.create_connection(
            f"ws://127.0.0.1:{port}{path}", timeout=TIMEOUT_S, suppress_origin=True, http_no_proxy=["*"]
        )
        self._numbers = itertools.count(1)
        self.heard: list[dict[str, Any]] = []

    def call(self, method: str, session: str = "", **params: Any) -> Any:
        """One command and its result. Raises AssertionError for what the browser refuses."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": params} | ({"sessionId": session} if session else {})
        self._wire.send(json.dumps(message))
        while True:
            answer = json.loads(self._wire.recv())
            if answer.get("id") == number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]
            self.heard.append(answer)

    def page(self, private: bool = True) -> Page:
        """A fresh tab; private: with cookies and storage of its own, else with those of the profile."""
        context = {"browserContextId": self.call("Target.createBrowserContext")["browserContextId"]} if private else {}
        target = self.call("Target.createTarget", url="about:blank", **context)["targetId"]
        return Page(self, self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"])

    def close(self) -> None:
        """End it."""
        self._wire.close()
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(10)
        self._log.close()


class Page:
    """A tab."""

    def __init__(self, browser: Chromium, session: str) -> None:
        self._browser = browser
        self._session = session
        self.call("Page.enable")

    def call(self, method: str, **params: Any) -> Any:
        """One command of the protocol."""
        return self._browser.call(method, self._session, **params)

    def run_first(self, script: str) -> None:
        """Run a script in every document before its own ones."""
        self.call("Page.addScriptToEvaluateOnNewDocument", source=script)

    def go(self, url: str) -> None:
        """Open an address and wait until the page has loaded, wherever it led."""
        failed = self.call("Page.navigate", url=url).get("errorText", "")
        assert not failed, f"{url}: {failed}"
        self._loaded()

    def reload(self) -> None:
        """Load the page again."""
        self._leave("Page.reload")

    def back(self) -> None:
        """What the back button does."""
        history = self.call("Page.getNavigationHistory")
        entry = history["entries"][history["currentIndex"] - 1]["id"]
        self._leave("Page.navigateToHistoryEntry", entryId=entry)

    def run(self, script: str) -> Any:
        """The value of an expression; a promise is waited for. Raises AssertionError for an exception."""
        told = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in told, told["exceptionDetails"]
        return told["result"].get("value")

    def wait(self, condition: str) -> Any:
        """Wait until an expression is true, and its value."""
        return until(lambda: self.run(condition), condition)

    def _leave(self, method: str, **params: Any) -> None:
        self.run("window.leaving = true; addEventListener('pagehide', function () { leaving = false; left = true })")
        self.call(method, **params)
        # a page out of the back/forward cache comes with its variables, so only the page that is left says `leaving`
        until(lambda: self._says("!window.leaving"), "the page to be left")
        self._loaded()

    def _loaded(self) -> None:
        until(lambda: self._says("document.readyState === 'complete'"), "the page to load")

    def _says(self, condition: str) -> bool:
        told = self._browser.call(
            "Runtime.evaluate", self._session, expression=condition, returnByValue=True, silent=True
        )
        return told["result"].get("value") is True
