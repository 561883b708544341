"""Classify: pictures that are chosen, dropped or pasted."""

import re

import pytest
from playwright.sync_api import expect

from gateway.failures import UnsupportedType
from hotpool import Client
from hotpool.errors import BY_CODE

pytestmark = [pytest.mark.slow, pytest.mark.alone, pytest.mark.timeout(300)]

MANY = 70


def test_pictures_are_classified_each_with_its_own_card(site, visiting):
    with Client(site.hotpool.home.endpoint("clients")) as client:
        expected = client.classify((site.folder / "one.png").read_bytes(), top=3)
    with visiting() as visit:
        main = visit.show("classify")
        main.locator("input[type=file]").set_input_files([site.folder / "one.png", site.folder / "two.jpg"])
        cards = main.locator("li.picture.answered")
        expect(cards).to_have_count(2)
        card = cards.filter(has_text="one.png")
        assert card.locator(".label").all_inner_texts() == [one.label for one in expected.classes]
        shown = [float(text.strip("<> %")) / 100 for text in card.locator(".share").all_inner_texts()]
        assert shown == pytest.approx([one.probability for one in expected.classes], abs=0.001)
        bars = [float(value) for value in card.locator(".scores progress").evaluate_all("all => all.map(e => e.value)")]
        assert bars == pytest.approx([one.probability for one in expected.classes], abs=1e-6)
        assert expected.version in card.locator(".by").inner_text()
        assert re.search(r"\d ms, computing \d.* ms", card.locator(".by").inner_text())
        assert card.locator(".preview img").evaluate("image => image.naturalWidth") == 48


def test_what_is_no_picture_is_explained_and_the_others_are_answered(site, visiting):
    with visiting() as visit:
        visit.may_fail = {"/predict"}
        main = visit.show("classify")
        main.locator("input[type=file]").set_input_files([site.folder / "bad.png", site.folder / "one.png"])
        expect(main.locator("li.picture.answered")).to_have_count(1)
        card = main.locator("li.picture.failed")
        expect(card).to_contain_text("This picture can't be read")
        expect(card.get_by_role("button", name="Try again")).to_be_visible()
        assert visit.violations() == []


def test_of_many_pictures_all_are_answered(site, visiting):
    picture = (site.folder / "one.png").read_bytes()
    chosen = [{"name": f"{n}.png", "mimeType": "image/png", "buffer": picture} for n in range(MANY)]
    with visiting() as visit:
        main = visit.show("classify")
        main.locator("input[type=file]").set_input_files(chosen)
        expect(main.locator("li.picture.answered")).to_have_count(MANY)
        assert main.locator(".file").all_inner_texts() == [one["name"] for one in chosen]


def test_a_picture_is_taken_wherever_on_the_view_it_is_dropped(site, visiting):
    with visiting() as visit:
        main = visit.show("classify")
        visit.drop(site.folder / "one.png", main.locator("h1"))
        expect(main.locator("li.picture.answered")).to_contain_text("one.png")


def test_what_is_dropped_on_another_view_neither_opens_nor_goes_anywhere(site, visiting):
    with visiting() as visit:
        main = visit.show("pool")
        visit.drop(site.folder / "one.png", main.locator("h1"))
        visit.page.get_by_role("link", name="Classify").click()
        expect(main.get_by_role("button", name="Choose pictures")).to_be_visible()
        expect(main.locator("li.picture")).to_have_count(0)
        assert [page.url for page in visit.page.context.pages if page.url.startswith("file:")] == []


def test_a_weights_file_can_be_dropped_on_its_field(site, visiting):
    with visiting() as visit:
        field = visit.show("versions").get_by_label("Weights file")
        visit.drop(site.folder / "v1.pth", field)
        expect(field).to_have_value(re.compile(r"v1\.pth$"))


def test_a_picture_can_be_pasted_on_any_view(site, visiting):
    script = """bytes => {
        const held = new DataTransfer();
        held.items.add(new File([new Uint8Array(bytes)], "held.png", {type: "image/png"}));
        dispatchEvent(new ClipboardEvent("paste", {clipboardData: held}));
    }"""
    with visiting() as visit:
        main = visit.show("pool")
        visit.page.evaluate(script, list((site.folder / "one.png").read_bytes()))
        expect(main.locator("li.picture.answered")).to_contain_text("held.png")


# As anybody may write one.
FORM = """<form method="post" action="{url}/predict" enctype="multipart/form-data">
    <input type="file" name="file"><button>Send</button></form>"""


def test_a_browser_without_script_gets_a_page_that_everybody_can_read(site, visiting):
    with visiting() as visit:
        visit.page.set_content(FORM.format(url=site.url))
        visit.page.locator("input").set_input_files(site.folder / "one.png")
        visit.button("Send").click()
        expect(visit.page.get_by_text("Answered by")).to_be_visible()
        assert visit.violations() == []


def test_each_trouble_with_a_picture_has_clear_words(visiting):
    troubles = {
        "bad_image": "can't be read",
        "too_large": "too large",
        "unsupported_type": "This is not a picture",
        "broker_unreachable": "The pool does not answer",
        "deadline_exceeded": "No answer in time",
    }
    assert troubles.keys() <= BY_CODE.keys() | {UnsupportedType.code}
    script = """codes => import('/static/words.js').then(({pictureTrouble}) => codes.map((code) =>
        pictureTrouble({code, status: 500, message: "why it is so", retryAfter: 2}, null).join(": ")))"""
    with visiting() as visit:
        visit.show("pool")
        for said, expected in zip(visit.page.evaluate(script, list(troubles)), troubles.values(), strict=True):
            assert expected in said
