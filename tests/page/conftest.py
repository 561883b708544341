"""One pool and one browser for all tests of the page."""

from functools import partial

import pytest

from .browser import chromium, visit
from .site import running_site


@pytest.fixture(scope="package")
def site(tmp_path_factory):
    with running_site(tmp_path_factory.mktemp("page")) as site:
        yield site


@pytest.fixture(scope="package")
def browser():
    with chromium() as context:
        yield context


@pytest.fixture
def visiting(site, browser):
    return partial(visit, browser, site.url)
