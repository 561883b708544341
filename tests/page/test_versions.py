"""Versions: what is stored, and how another one gets there."""

import re

import pytest
from playwright.sync_api import expect

from tests.pool import eventually

from .site import CHECKED_MS, LABELS

pytestmark = [pytest.mark.slow, pytest.mark.alone, pytest.mark.timeout(300)]


def test_a_bad_upload_is_explained_and_a_good_one_added_and_removed(site, visiting):
    with visiting() as visit:
        main = visit.show("versions")
        visit.log_in(site.token)
        form = main.locator("form.upload")
        form.get_by_label("Weights file").set_input_files(site.folder / "bad.pth")
        form.get_by_label("Name").fill("v9")
        form.get_by_role("button", name="Upload and check").click()
        expect(main.locator(".job.failed")).to_contain_text("It was not added", timeout=CHECKED_MS)
        expect(main.locator(".job.failed")).to_contain_text("bad.pth")
        print(main.locator(".job.failed").inner_text())
        fill_in(form, site)
        form.get_by_role("button", name="Upload and check").click()
        expect(main.locator(".job.checking progress")).to_be_visible()
        expect(main.locator(".job.added")).to_contain_text("added as v3", timeout=CHECKED_MS)
        assert visit.violations() == []
        card = main.locator(".version-card", has_text="v3")
        expect(card).to_contain_text("shufflenet_v2_x0_5, 5 classes")
        expect(card).to_contain_text("by Ada")
        visit.button("Remove v3").click()
        expect(visit.dialog()).to_contain_text("deleted from the store for good")
        visit.confirm("Remove", "never served")
        expect(card).to_have_count(0)
    assert [one["name"] for one in site.ask("versions")] == ["v1", "v2"]


def fill_in(form, site):
    """What is typed stays while the list above is brought up to date."""
    form.get_by_label("Weights file").set_input_files(site.folder / "v1.pth")
    form.get_by_label("Name").fill("v3")
    form.get_by_label("Architecture").fill("shufflenet_v2_x0_5")
    form.get_by_label("Labels").fill("\n".join(LABELS))
    form.get_by_label("Why").fill("the same in larger")


def test_an_upload_shows_how_much_is_sent_and_can_be_stopped(site, visiting):
    with visiting() as visit:
        main = visit.show("versions")
        visit.log_in(site.token)
        visit.slow_down(bytes_per_s=200_000)
        form = main.locator("form.upload")
        fill_in(form, site)
        visit.button("Upload and check").click()
        job = main.locator(".job.sending")
        expect(job).to_contain_text(re.compile(r"sending, [1-9][\d.]* KiB of \d[\d.]* MiB"))
        sent, size = job.locator("progress").evaluate("bar => [bar.value, bar.max]")
        assert 0 < sent < size
        assert visit.violations() == []
        visit.button("Stop").click()
        expect(main.locator(".job.failed")).to_contain_text("The upload was stopped")
        assert form.get_by_label("Name").input_value() == "v3", "for another try"
    eventually(lambda: list((site.hotpool.home.root / "uploads").iterdir()) == [], "nothing is left of the file")


def test_each_version_tells_what_it_is_and_how_it_is_used(site, visiting):
    with visiting() as visit:
        main = visit.show("versions")
        for stored in site.ask("versions"):
            card = main.locator(".version-card").filter(has=visit.page.get_by_role("heading", name=stored["name"]))
            for name in ("source", "precision", "added_by", "use"):
                expect(card).to_contain_text(stored[name])
            expect(card).to_contain_text(stored["digest"][:12])
