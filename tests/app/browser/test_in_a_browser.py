"""The app as people meet it: a real server, a real library, a real Chromium."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest
from PIL import Image

from indexer import index_folders
from model import Encoder
from search import Library

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from .conftest import Server

pytest.importorskip(
    "playwright.sync_api", reason="Playwright is not installed: the browser tests are left out"
)

from playwright.sync_api import expect

expect.set_options(timeout=30_000)  # the first query of all loads the model

Visit = Callable[..., "Page"]


def field(page: "Page"):
    return page.get_by_role("combobox", name="Search your pictures")


def tiles(page: "Page"):
    return page.locator(".tile")


def names(page: "Page") -> list[str]:
    """The names under the pictures, in the order of the page."""
    expect(tiles(page).first).to_be_visible()
    return page.locator(".caption .name").all_inner_texts()


def test_words_find_the_same_as_in_python_best_first(
    visit: Visit, gallery_server: "Server", indexed_gallery: Path
) -> None:
    page = visit(gallery_server.address)
    expect(field(page)).to_be_visible()
    page.keyboard.press("/")
    page.keyboard.type("a red car")
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile(r"\?q=a\+red\+car$"))
    with Library.open(indexed_gallery) as library:
        expected = [hit.path.name for hit in library.search("a red car", k=12)]
    expect(page.get_by_role("list", name="Pictures for a red car")).to_be_visible()
    assert names(page) == expected


def test_back_forward_and_reload_keep_query_and_picture(visit: Visit, gallery_server: "Server") -> None:
    page = visit(f"{gallery_server.address}/?q=dog")
    first = names(page)
    field(page).fill("cat")
    field(page).press("Enter")
    page.wait_for_url("**/?q=cat")
    expect(page.get_by_role("list", name="Pictures for cat")).to_be_visible()
    second = names(page)
    page.go_back()
    expect(field(page)).to_have_value("dog")
    expect(page.get_by_role("list", name="Pictures for dog")).to_be_visible()
    assert names(page) == first
    page.go_forward()
    expect(field(page)).to_have_value("cat")
    expect(page.get_by_role("list", name="Pictures for cat")).to_be_visible()
    tiles(page).nth(1).click()
    opened = page.get_by_role("dialog", name=second[1])
    expect(opened).to_be_visible()
    page.reload()
    expect(opened).to_be_visible()
    page.keyboard.press("Escape")
    expect(opened).to_be_hidden()
    assert page.url.endswith("/?q=cat")


def test_everything_works_from_the_keyboard(visit: Visit, gallery_server: "Server") -> None:
    page = visit(gallery_server.address)
    expect(field(page)).to_be_visible()
    page.keyboard.press("/")
    page.keyboard.type("dog")
    page.keyboard.press("Enter")
    expect(page.get_by_role("list", name="Pictures for dog")).to_be_visible()
    listed = names(page)
    field(page).press("Escape")
    page.keyboard.press("ArrowDown")
    expect(tiles(page).first).to_be_focused()
    page.keyboard.press("ArrowRight")
    expect(tiles(page).nth(1)).to_be_focused()
    page.keyboard.press("ArrowDown")
    below = page.evaluate("document.activeElement.shadowRoot.activeElement.closest('li').ariaPosInSet")
    assert int(below) > 2
    page.keyboard.press("Home")
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog", name=listed[0])).to_be_visible()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("dialog", name=listed[1])).to_be_visible()
    assert "#image=" in page.url
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(tiles(page).nth(1)).to_be_focused()


def test_names_and_metadata_from_files_are_text_only(visit: Visit, gallery_server: "Server") -> None:
    from .conftest import HOSTILE_CAMERA, HOSTILE_NAME

    page = visit(f"{gallery_server.address}/?q=dog")
    listed = names(page)
    assert HOSTILE_NAME in listed
    tiles(page).nth(listed.index(HOSTILE_NAME)).click()
    expect(page.get_by_role("heading", name=HOSTILE_NAME)).to_be_visible()
    page.keyboard.press("Escape")
    tiles(page).nth(listed.index("with-exif.jpg")).click()
    expect(page.get_by_text(HOSTILE_CAMERA)).to_be_visible()
    assert page.title() == "Imago"
    assert page.evaluate("document.querySelectorAll('img[src=x]').length") == 0


def test_a_query_cannot_write_html(visit: Visit, gallery_server: "Server") -> None:
    evil = "<img src=x onerror=document.title=1>"
    page = visit(f"{gallery_server.address}/?q={quote(evil)}")
    expect(field(page)).to_have_value(evil)
    expect(tiles(page).first).to_be_visible()
    assert page.title() == "Imago"


def test_pictures_are_small_and_come_as_they_are_seen(visit: Visit, gallery_server: "Server") -> None:
    page = visit(f"{gallery_server.address}/?q=dog")
    picture = tiles(page).first.locator("img")
    expect(picture).to_have_js_property("complete", value=True)
    assert re.search(r"/pictures/\d+/[0-9a-f]{64}/thumbnail\.webp$", picture.get_attribute("src") or "")
    assert picture.evaluate("image => image.naturalWidth") > 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_and_dark_follow_the_system(visit: Visit, gallery_server: "Server", scheme: str) -> None:
    page = visit(f"{gallery_server.address}/?q=dog", color_scheme=scheme)
    names(page)
    background = page.locator(".stApp").evaluate("element => getComputedStyle(element).backgroundColor")
    brightness = sum(int(value) for value in re.findall(r"\d+", background)[:3]) / 3
    assert brightness > 200 if scheme == "light" else brightness < 50


def test_a_phone_shows_everything_without_sideways_scrolling(visit: Visit, gallery_server: "Server") -> None:
    page = visit(
        f"{gallery_server.address}/?q=dog",
        viewport={"width": 390, "height": 800},
        has_touch=True,
        is_mobile=True,
    )
    listed = names(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    for tile in tiles(page).all():
        box = tile.bounding_box()
        assert box is not None
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 390
    tiles(page).first.tap()
    expect(page.get_by_role("dialog", name=listed[0])).to_be_visible()
    expect(page.get_by_role("button", name="Close (Esc)")).to_be_in_viewport()


def test_a_picture_finds_itself_whether_chosen_or_pasted_or_dropped(
    visit: Visit, gallery_server: "Server", gallery: Path
) -> None:
    page = visit(gallery_server.address)
    expect(field(page)).to_be_visible()
    page.get_by_label("Search by a picture").last.set_input_files(gallery / "3.png")
    expect(page).to_have_url(re.compile(r"\?q=upload%3A[0-9a-f]{16}$"))
    expect(page.get_by_role("img", name="the picture")).to_be_visible()
    expect(tiles(page).first).to_have_attribute("title", str(gallery / "3.png"))
    page.reload()
    expect(tiles(page).first).to_have_attribute("title", str(gallery / "3.png"))
    for event, property_name, target in (("paste", "clipboardData", 4), ("drop", "dataTransfer", 5)):
        data = list((gallery / f"{target}.png").read_bytes())
        page.evaluate(
            """([event, property, data]) => {
                const files = new DataTransfer();
                files.items.add(new File([new Uint8Array(data)], "picture.png", { type: "image/png" }));
                const sent = event === "paste"
                    ? new ClipboardEvent(event, { clipboardData: files, bubbles: true })
                    : new DragEvent(event, { dataTransfer: files, bubbles: true, cancelable: true });
                document.body.dispatchEvent(sent);
            }""",
            [event, property_name, data],
        )
        expect(tiles(page).first).to_have_attribute("title", str(gallery / f"{target}.png"))


def test_a_file_that_is_no_picture_is_refused_beside_the_field(
    visit: Visit, gallery_server: "Server", tmp_path: Path
) -> None:
    page = visit(gallery_server.address, expected_errors=["400"])
    expect(field(page)).to_be_visible()
    (tmp_path / "letter.png").write_text("Dear all")
    page.get_by_label("Search by a picture").last.set_input_files(tmp_path / "letter.png")
    expect(page.get_by_role("alert")).to_contain_text("no picture that can be read")


def test_more_like_this_starts_with_the_picture_itself(visit: Visit, gallery_server: "Server") -> None:
    page = visit(f"{gallery_server.address}/?q=dog&all=1")
    chosen = names(page)[2]
    tiles(page).nth(2).click()
    page.get_by_role("button", name="More like this").click()
    expect(page).to_have_url(re.compile(r"\?q=id%3A\d+$"))
    expect(tiles(page).first).to_have_attribute("title", re.compile(re.escape(chosen) + "$"))
    page.go_back()
    expect(page.get_by_role("list", name="Pictures for dog")).to_be_visible()


def test_filters_write_the_query(visit: Visit, gallery_server: "Server") -> None:
    page = visit(f"{gallery_server.address}/?q=is:landscape")
    names(page)
    page.get_by_text("portrait 4").click()
    expect(field(page)).to_have_value("is:portrait")
    expect(tiles(page)).to_have_count(4)
    page.reload()
    expect(tiles(page)).to_have_count(4)


def test_suggestions_complete_what_is_typed(visit: Visit, gallery_server: "Server") -> None:
    page = visit(f"{gallery_server.address}/?q=dog")
    names(page)
    field(page).fill("is:po")
    option = page.get_by_role("option", name="is:portrait")
    expect(option).to_be_visible()
    field(page).press("ArrowDown")
    expect(option).to_have_attribute("aria-selected", "true")
    field(page).press("Enter")
    expect(tiles(page)).to_have_count(4)
    field(page).fill("")
    expect(page.get_by_role("option", name="dog")).to_be_visible()


def test_an_error_in_the_query_is_marked_where_it_is(visit: Visit, gallery_server: "Server") -> None:
    page = visit(f"{gallery_server.address}/?q=dog%20colour:red")
    problem = page.get_by_role("alert")
    expect(problem).to_contain_text("colour")
    expect(problem.locator("mark")).to_have_text(re.compile("^colour"))
    expect(field(page)).to_have_attribute("aria-invalid", "true")


def map_of(page: "Page"):
    """The map, once it has been drawn and fetched."""
    drawn = page.get_by_role("application")
    expect(drawn).to_be_visible(timeout=120_000)
    expect(page.locator(".groups a").first).to_be_visible()
    expect(page.locator(".waiting")).to_be_empty()
    return drawn


def box_of(page: "Page"):
    box = map_of(page).bounding_box()
    assert box is not None
    return box


def view(page: "Page") -> float:
    """How many pixels of the screen a step on the map takes."""
    return page.locator(".explore_map").evaluate("root => root.imago.scale")


def place_on_screen(page: "Page", at: int) -> tuple[float, float]:
    """Where a picture of the map, by its number there, lies on the screen."""
    x, y = page.locator(".explore_map").evaluate(
        "(root, at) => [0, 1].map(axis => (root.imago.places[2 * at + axis] - [root.imago.x, root.imago.y][axis])"
        " * root.imago.scale)",
        at,
    )
    box = box_of(page)
    return box["x"] + x, box["y"] + y


def test_the_map_is_drawn_and_shows_a_picture_below_the_pointer(
    visit: Visit, gallery_server: "Server"
) -> None:
    page = visit(f"{gallery_server.address}/explore")
    assert map_of(page).get_attribute("aria-label") == "Map of 12 pictures in 3 groups"
    free = page.locator(".explore_map").evaluate(
        """root => [...root.imago.ids.keys()].filter(at => {
            const box = root.imago.canvas.getBoundingClientRect();
            const x = (root.imago.places[2 * at] - root.imago.x) * root.imago.scale + box.x;
            const y = (root.imago.places[2 * at + 1] - root.imago.y) * root.imago.scale + box.y;
            return root.getRootNode().elementFromPoint(x, y) === root.imago.canvas;  // below no label
        })"""
    )
    assert len(free) > 1
    for at in free[:2]:
        page.mouse.move(*place_on_screen(page, at))
        preview = page.locator(".preview")
        expect(preview).to_be_visible()
        expect(preview).to_have_js_property("complete", value=True)
        assert preview.evaluate("image => image.naturalWidth") > 0
    expect(preview).to_have_attribute("src", re.compile(r"/pictures/\d+/thumbnail\.webp$"))


def test_the_map_comes_closer_by_wheel_button_and_key(visit: Visit, gallery_server: "Server") -> None:
    page = visit(f"{gallery_server.address}/explore")
    box = box_of(page)
    all_shown = view(page)
    page.mouse.move(box["x"] + 200, box["y"] + 200)
    page.mouse.wheel(0, -300)
    page.wait_for_timeout(100)
    closer = view(page)
    assert closer > all_shown
    page.get_by_role("button", name="Closer (+)").click()
    assert view(page) > closer
    map_of(page).focus()
    page.keyboard.press("-")
    page.keyboard.press("-")
    assert view(page) < closer
    page.keyboard.press("0")
    assert view(page) == pytest.approx(all_shown)


def test_a_lasso_restricts_the_search_and_stands_in_the_address(
    visit: Visit, gallery_server: "Server"
) -> None:
    page = visit(f"{gallery_server.address}/explore")
    map_of(page)
    x, y = place_on_screen(page, 0)
    page.get_by_role("button", name="Draw around").click()
    page.mouse.move(x - 9, y - 9)
    page.mouse.down()
    for step_x, step_y in ((9, -9), (9, 9), (-9, 9), (-9, -8)):
        page.mouse.move(x + step_x, y + step_y, steps=4)
    page.mouse.up()
    told = page.locator(".chosen [role=status]")
    expect(told).to_have_text(re.compile(r"^\d+ pictures?$"))
    number = int(re.sub(r"\D", "", told.inner_text()))
    assert 1 <= number < 12
    page.get_by_role("button", name="Search among them").click()
    expect(page).to_have_url(re.compile(r"\?within=[0-9a-f]{12}\.p[\w%=-]+$"))
    expect(tiles(page)).to_have_count(number)
    field(page).fill("dog")
    field(page).press("Enter")
    expect(page.get_by_role("list", name="Pictures for dog")).to_be_visible()
    expect(tiles(page)).to_have_count(number)
    page.reload()
    expect(tiles(page)).to_have_count(number)
    page.get_by_role("button", name="Show on the map").click()
    expect(told).to_have_text(re.compile(rf"^{number} picture"))
    page.go_back()
    page.get_by_role("button", name="All pictures").click()
    expect(tiles(page)).to_have_count(12)


def test_the_map_works_from_the_keyboard_and_its_groups_are_links(
    visit: Visit, gallery_server: "Server"
) -> None:
    page = visit(f"{gallery_server.address}/explore")
    map_of(page).focus()
    page.keyboard.press("Enter")
    told = page.locator(".chosen [role=status]")
    expect(told).to_have_text("12 pictures")
    page.keyboard.press("Escape")
    expect(told).to_be_hidden()
    group = page.locator(".groups a").first
    count = int(re.search(r"(\d+) picture", group.inner_text())[1])
    group.focus()
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile(r"\?within=[0-9a-f]{12}\.g0$"))
    expect(tiles(page)).to_have_count(count)


def test_a_click_on_the_map_finds_what_resembles_the_picture(visit: Visit, gallery_server: "Server") -> None:
    page = visit(f"{gallery_server.address}/explore")
    map_of(page)
    page.mouse.click(*place_on_screen(page, 5))
    expect(page).to_have_url(re.compile(r"\?q=id%3A\d+$"))
    expect(tiles(page).first).to_be_visible()


def test_a_place_is_shown_on_a_map_that_came_along(visit: Visit, gallery_server: "Server") -> None:
    page = visit(f"{gallery_server.address}/?q=near:41.89,12.49")
    tiles(page).first.click()
    dialog = page.get_by_role("dialog")
    expect(dialog.locator(".marker")).to_be_visible()
    assert len(dialog.locator(".land").get_attribute("d") or "") > 10_000
    near = dialog.locator(".world").get_attribute("viewBox")
    dialog.get_by_role("button", name="Whole world").click()
    assert dialog.locator(".world").get_attribute("viewBox") == "0 0 7200 3600" != near
    away = dialog.get_by_role("link", name="Open in OpenStreetMap")
    expect(away).to_have_attribute("href", re.compile(r"mlat=41\.89000&mlon=12\.49222"))
    expect(dialog.get_by_text("That leaves this machine")).to_be_visible()


def test_the_model_is_changed_from_the_library_page(
    visit: Visit, start_server: Callable[[Path], "Server"], pictures: Path, tmp_path: Path, other_model: Path
) -> None:
    library = tmp_path / "library"
    index_folders(library, [pictures], Encoder.load("starter"), workers=1)
    page = visit(f"{start_server(library).address}/library")
    page.get_by_text("Change the model").click()
    # A click while the expander still grows can miss what moves under it.
    page.wait_for_function(
        "document.querySelector('details[open]')?.getAnimations({ subtree: true }).length === 0"
    )
    page.get_by_text("another one").click()
    page.get_by_label("Hub id or folder").fill(str(other_model))
    page.get_by_label("Hub id or folder").press("Enter")
    page.get_by_role("button", name="See what it takes").click()
    agree = page.get_by_role("button", name="Move the library to")
    expect(agree).to_be_visible(timeout=120_000)
    expect(page.get_by_text("Moving 6 pictures to")).to_be_visible()
    agree.click()
    expect(page.get_by_text("Done after")).to_be_visible(timeout=120_000)
    with Library.open(library) as opened:
        assert opened.reader.model is not None
        assert opened.reader.model.name == str(other_model)
    page.get_by_role("link", name="Search").click()
    field(page).fill("dog")
    field(page).press("Enter")
    expect(tiles(page).first).to_be_visible()


def test_a_newcomer_is_led_to_the_first_index(
    visit: Visit, start_server: Callable[[Path], "Server"], tmp_path: Path
) -> None:
    server = start_server(tmp_path / "none")
    page = visit(server.address)
    expect(page.get_by_role("heading", name="Find your pictures by what they show")).to_be_visible()
    expect(page.get_by_role("button", name="Index")).to_be_visible()


@pytest.mark.parametrize(
    ("path", "landmark", "scheme"),
    [
        ("/?q=is:landscape", ".tile", "dark"),
        ("/?q=is:landscape#image=1", "dialog[open] dd >> nth=2", "light"),
        ("/?q=dog%20colour:red", "mark", "light"),
        ("/?q=dog%20name:nowhere", "text=No picture fits", "light"),
        ("/duplicates", "text=Nothing is deleted here", "dark"),
        ("/explore", ".groups a", "light"),
        ("/explore", ".groups a", "dark"),
        ("/?q=near:41.89,12.49#image=12", ".marker", "light"),
        ("/library", "text=Model", "light"),
        ("/library", "text=Model", "dark"),
    ],
)
def test_axe_finds_nothing_serious(
    visit: Visit, gallery_server: "Server", path: str, landmark: str, scheme: str
) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed").Axe()
    page = visit(gallery_server.address + path, color_scheme=scheme)
    expect(page.locator(landmark).first).to_be_visible()
    expect(page.locator("[data-test-script-state=notRunning]")).to_be_visible()
    violations = axe.run(page).response["violations"]
    serious = [violation for violation in violations if violation["impact"] in {"serious", "critical"}]
    assert [(violation["id"], [node["html"] for node in violation["nodes"]]) for violation in serious] == []


def test_many_hits_come_as_one_scrolls_and_only_some_are_in_the_page(
    visit: Visit, start_server: Callable[[Path], "Server"], tmp_path: Path
) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(900):
        colour = (number % 16 * 16, number // 16 % 16 * 16, number // 256 * 60)
        Image.new("RGB", (24, 16), colour).save(folder / f"{number:04}.png")
    index_folders(tmp_path / "library", [folder], Encoder.load("starter"))
    page = visit(f"{start_server(tmp_path / 'library').address}/?q=is:landscape&order=name")
    assert names(page)[0] == "0000.png"
    tiles(page).first.focus()
    for _ in range(100):
        page.keyboard.press("End")  # reaches the list only while the focus is in it
        page.wait_for_timeout(300)
        if page.locator("li[aria-posinset='900']").count():
            break
    page.keyboard.press("End")
    expect(page.get_by_role("button", name="0899.png")).to_be_focused()
    expect(page.get_by_role("button", name="0899.png")).to_be_in_viewport()
    assert tiles(page).count() < 300
    assert page.locator("li[aria-posinset='900']").get_attribute("aria-setsize") == "900"
