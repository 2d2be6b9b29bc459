"""One Chromium for all tests of a run, and the servers of the service."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from tests.browser.devtools import Chromium
from tests.browser.sites import Site
from tests.service.conftest import Servers, servers

__all__ = ["Servers", "servers"]


@pytest.fixture(scope="session")
def command() -> str:
    """Where Chromium is."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("there is no Chromium; install it with: apt-get install chromium")
    return found


@pytest.fixture(scope="session")
def chromium(command: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    """A browser."""
    browser = Chromium(command, tmp_path_factory.mktemp("chromium") / "profile")
    yield browser
    browser.close()


@pytest.fixture
def shop() -> Iterator[Site]:
    """The client's site: of another origin, and another site, than the intake."""
    with Site() as site:
        yield site
