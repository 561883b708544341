"""Headless Chromium on the page of a running gateway. A visit fails at its end if the page complained or asked elsewhere."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]
from playwright.sync_api import (
    BrowserContext,
    ConsoleMessage,
    Locator,
    Page,
    Request,
    ViewportSize,
    expect,
    sync_playwright,
)

from tests.pool import PATIENCE_S

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
DESK, PHONE = ViewportSize(width=1280, height=900), ViewportSize(width=360, height=740)
REFUSED = "Failed to load resource"  # Chromium's own words for any answer above 399, whatever the page makes of it

expect.set_options(timeout=PATIENCE_S * 1000)


@contextmanager
def chromium(**options: Any) -> Iterator[BrowserContext]:
    """A context of a browser that knows nothing from before. options: as Playwright has them."""
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.fail("no Chromium here; install it with: make browser")
    with TemporaryDirectory() as profile, sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            profile, executable_path=path, args=list(FLAGS), viewport=DESK, color_scheme="light", **options
        )
        try:
            yield context
        finally:
            context.close()


@dataclass
class Visit:
    """One page. may_fail: paths whose failed answers are part of the test."""

    page: Page
    url: str
    may_fail: set[str] = field(default_factory=set)
    complaints: list[str] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.on("console", self._hear)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", self._see)

    def show(self, view: str) -> Locator:
        """Its main part, once it is there and live."""
        self.page.goto(f"{self.url}/#{view}")
        expect(self.page.locator(".live.on")).to_be_visible()
        return self.page.locator("main")

    def button(self, name: str) -> Locator:
        return self.page.get_by_role("button", name=name)

    def dialog(self) -> Locator:
        return self.page.get_by_role("dialog")

    def confirm(self, name: str, why: str = "") -> None:
        """Fills in why, and presses the button that orders."""
        self.dialog().get_by_label("Why").fill(why)
        self.dialog().get_by_role("button", name=name, exact=True).click()
        expect(self.dialog()).to_have_count(0)

    def log_in(self, token: str, operator: str = "Ada") -> None:
        self.button("Log in").click()
        self.fill_in_login(token, operator)
        expect(self.button("Log out")).to_be_visible()

    def fill_in_login(self, token: str, operator: str = "Ada") -> None:
        dialog = self.dialog().last
        dialog.get_by_label("Admin token").fill(token)
        dialog.get_by_label("Your name").fill(operator)
        dialog.get_by_role("button", name="Log in").click()

    def drop(self, file: Path, at: Locator) -> None:
        """Drags a file from the desktop over a part of the page, and lets it go there."""
        box = at.bounding_box()
        assert box
        place = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2}
        session = self.page.context.new_cdp_session(self.page)
        for kind in ("dragEnter", "dragOver", "drop"):
            dragged = {"items": [], "files": [str(file)], "dragOperationsMask": 1}
            session.send("Input.dispatchDragEvent", {"type": kind, "data": dragged, **place})
        session.detach()

    def slow_down(self, bytes_per_s: int) -> None:
        """What the page sends, from now on."""
        session = self.page.context.new_cdp_session(self.page)
        session.send("Network.enable")
        limits = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": bytes_per_s}
        session.send("Network.emulateNetworkConditions", limits)

    def violations(self) -> list[str]:
        """What axe-core finds against accessibility on the page as it is now. In the dark only its colours are others."""
        found = self._found_by_axe({})
        self.page.emulate_media(color_scheme="dark")
        found += self._found_by_axe({"runOnly": ["color-contrast"]})
        self.page.emulate_media(color_scheme="light")
        return found

    def _found_by_axe(self, options: dict[str, Any]) -> list[str]:
        found = Axe().run(self.page, options={"resultTypes": ["violations"], **options}).response["violations"]
        return [f"{one['id']}: {node['html'][:200]} {node['failureSummary']}" for one in found for node in one["nodes"]]

    def check(self) -> None:
        assert self.complaints == []
        assert self.elsewhere == []

    def _hear(self, message: ConsoleMessage) -> None:
        path = urlsplit(message.location["url"]).path
        if message.type in ("error", "warning") and not (REFUSED in message.text and path in self.may_fail):
            self.complaints.append(f"{message.type}: {message.text} ({message.location['url']})")

    def _see(self, request: Request) -> None:
        if not request.url.startswith((f"{self.url}/", "blob:", "data:")):
            self.elsewhere.append(request.url)


@contextmanager
def visit(context: BrowserContext, url: str, **media: Any) -> Iterator[Visit]:
    """A new page that nobody has logged in on, and that nothing moves on: without a graphics card that costs a third of a core.
    media: as for `Page.emulate_media`."""
    context.clear_cookies()
    page = context.new_page()
    page.emulate_media(**{"reduced_motion": "reduce", **media})
    one = Visit(page, url)
    try:
        yield one
        one.check()
    finally:
        page.close()
