"""The page at /, in a real Chromium, in front of the fake TorchServe."""

from __future__ import annotations

import os
import re
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import ExifTags, Image
from werkzeug.exceptions import NotFound
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.serving import make_server

from maskserve.gateway.app import PAGE
from maskserve.imaging.overlay import COLOURS
from maskserve.protos import wire
from tests.gateway.conftest import make_photo
from tests.waiting import until

HOW = "needs Chromium and its driver: apt-get install chromium chromium-driver"


def test_the_page_uses_the_pictures_colours():
    listed = re.search(r"COLOURS = \[(.*?)\]", (PAGE / "draw.js").read_text())[1]
    assert re.findall(r"#\w{6}", listed) == [f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in COLOURS]


def test_the_page_knows_the_limit_of_an_upload():
    assert f"MAX_BYTES = {wire.MAX_IMAGE_BYTES};" in (PAGE / "app.js").read_text()


def test_the_page_asks_no_other_host_and_has_no_inline_script_or_style():
    for path in PAGE.iterdir():
        text = path.read_text()
        assert not re.findall(r"https?://(?!www\.w3\.org/2000/svg)", text), path
        assert not re.findall(r"<script>|<style|\sstyle=|\son\w+=", text), path


def test_text_is_never_set_as_html():
    for name in ("app.js", "draw.js"):
        assert not re.findall(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", (PAGE / name).read_text()
        )


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        pytest.skip(HOW)
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for flag in (
        "headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", "disable-background-networking",
        "disable-component-update", "no-first-run", "window-size=1280,900",
    ):  # fmt: skip
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    yield driver
    driver.quit()


class Page:
    """What a person does and sees."""

    def __init__(self, driver, address: str) -> None:
        self.driver = driver
        driver.delete_all_cookies()
        driver.get(address)
        self.wait("input[value=compare]")

    def all(self, selector: str) -> list:
        return self.driver.find_elements("css selector", selector)

    def wait(self, selector: str, count: int = 1, seconds: float = 10.0) -> list:
        """The elements, as soon as there are so many."""
        deadline = time.monotonic() + seconds
        while len(found := self.all(selector)) != count:
            assert time.monotonic() < deadline, f"{len(found)} of {count} {selector}: {self.text('body')}"
            time.sleep(0.05)
        return found

    def wait_until_idle(self) -> None:
        self.wait("body:not(.busy)")

    def text(self, selector: str) -> str:
        return self.driver.execute_script("return document.querySelector(arguments[0]).innerText", selector)

    def choose(self, photo: Path) -> None:
        self.driver.find_element("id", "file").send_keys(str(photo))

    def pick(self, arm: str) -> None:
        (choice,) = self.wait(f"input[name=arm][value='{arm}']")
        assert until(lambda: choice.rect["width"])  # it is in the page before it has its place there
        choice.click()

    def complaints(self) -> list[str]:
        return [entry["message"] for entry in self.driver.get_log("browser") if "favicon" not in entry["message"]]


@pytest.fixture
def page(browser, live: str) -> Page:
    browser.get_log("browser")
    return Page(browser, live)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "panda.jpg"
    path.write_bytes(make_photo((240, 320)))
    return path


def lying(folder: Path, kind: str, orientation: int) -> Path:
    """A photo that a viewer must turn: blue above green, as it is meant."""
    upright = Image.new("RGB", (320, 240), "blue")
    upright.paste("green", (0, 120, 320, 240))
    undo = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90}[orientation]
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    path = folder / f"lying.{kind.lower()}"
    upright.transpose(undo).save(path, kind, exif=exif)
    return path


CORNERS = """
const image = document.querySelector(".picture:nth-child(2) img"), canvas = document.createElement("canvas");
[canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
const context = canvas.getContext("2d", { willReadFrequently: true });
context.drawImage(image, 0, 0);
return [[2, 2], [2, canvas.height - 3]].map(([x, y]) => [...context.getImageData(x, y, 1, 1).data]);
"""


@pytest.mark.browser
@pytest.mark.parametrize(("kind", "orientation"), [("JPEG", 6), ("WEBP", 6), ("WEBP", 3), ("PNG", 3)])
@pytest.mark.parametrize("arm", ["a", "compare"])
def test_masks_lie_right_on_a_photo_that_must_be_turned(page, tmp_path, kind, orientation, arm):
    """Chromium turns JPEG and PNG; a WebP's masks come in a picture of the gateway's."""
    page.pick(arm)
    page.choose(lying(tmp_path, kind, orientation))
    page.wait(".picture", 3 if arm == "compare" else 2)
    page.wait_until_idle()
    above, below = page.driver.execute_script(CORNERS)
    assert (above[2] > above[1], below[1] > below[2]) == (True, True)
    shape = page.driver.execute_script("const r = arguments[0].getBoundingClientRect(); return r.width / r.height",
                                       page.all(".picture:nth-child(2) .frame")[0])  # fmt: skip
    assert shape == pytest.approx(320 / 240, rel=0.01)
    laid_over = page.all(".picture:nth-child(2) .masks")
    assert bool(laid_over) == (kind != "WEBP")
    said = page.text(".picture:first-child figcaption")
    assert ("as your browser shows it" in said) == (kind == "WEBP")
    assert page.complaints() == []


DROP = """
const [bytes, name] = arguments, transfer = new DataTransfer();
transfer.items.add(new File([Uint8Array.from(atob(bytes), (c) => c.charCodeAt(0))], name, { type: "image/jpeg" }));
document.getElementById("drop").dispatchEvent(
  new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true }));
"""
PASTE = DROP.split("document.getElementById")[0] + (
    'document.body.dispatchEvent(new ClipboardEvent("paste", { clipboardData: transfer, bubbles: true }));'
)


@pytest.mark.browser
@pytest.mark.parametrize("script", [DROP, PASTE], ids=["dropped", "pasted"])
def test_a_photo_that_comes_by_drop_or_paste_is_shown_with_its_masks(page, file, script):
    import base64

    page.driver.execute_script(script, base64.b64encode(file.read_bytes()).decode(), file.name)
    page.wait(".picture", 2)
    assert len(page.all(".picture:nth-child(2) .masks path")) == 2
    assert page.complaints() == []


@pytest.mark.browser
def test_a_chosen_photo_shows_overlay_coverage_timings_and_which_arm_answered(page, file, fake_torchserve):
    page.pick("b")
    page.choose(file)
    page.wait(".picture", 2)
    page.wait_until_idle()
    assert page.text(".picture:nth-child(2) figcaption") == f"b: {wire.MODEL_MNV2}\n2 found"
    facts = page.text(".fact")
    for words in ("version 1.0", "mobilenetv2", "you asked for it", "giant panda", "red panda", "network", "30 ms"):
        assert words in facts
    total = float(page.all("[data-total]")[0].get_attribute("data-total"))
    assert 0.1 < total < 0.5
    assert f"{100 * total:.1f} %" in facts
    assert [row.text.split()[-2:-1] for row in page.all(".fact tbody tr")]
    assert "b found 2" in page.text("#status")
    assert fake_torchserve.calls[-1].image == file.read_bytes()
    assert page.complaints() == []


@pytest.mark.browser
@pytest.mark.parametrize("size", [(240, 320), (1600, 1200), (900, 1600), (40, 60), (1600, 400)])
def test_the_masks_lie_where_the_photo_shows_them(page, file, size):
    file.write_bytes(make_photo(size))
    page.choose(file)
    page.wait(".masks", 1)
    page.wait_until_idle()
    boxes = page.driver.execute_script("""
      const photo = document.querySelector(".picture:nth-child(2) img").getBoundingClientRect();
      const mask = document.querySelector(".masks path[data-instance='0']").getBoundingClientRect();
      return [(mask.left + mask.width / 2 - photo.left) / photo.width,
              (mask.top + mask.height / 2 - photo.top) / photo.height];
    """)
    assert boxes == pytest.approx([0.35, 0.35], abs=0.02)
    shape = page.driver.execute_script("""
      const photo = document.querySelector(".picture:nth-child(2) img").getBoundingClientRect();
      return photo.width / photo.height;
    """)
    assert shape == pytest.approx(size[1] / size[0], rel=0.02)


@pytest.mark.browser
def test_of_labels_in_the_same_place_the_best_score_lies_on_top(page, file):
    page.choose(file)
    page.wait(".chip", 2)
    later_on_top = [chip.text for chip in page.all(".chip")]
    assert later_on_top == ["red panda 75 %", "giant panda 95 %"]


@pytest.mark.browser
def test_compare_shows_two_overlays_and_how_they_differ(page, file):
    page.pick("compare")
    page.choose(file)
    page.wait(".picture", 3)
    page.wait(".fact", 3)
    assert len(page.all(".picture .masks")) == 2
    assert "b against a" in page.text(".differences")
    assert "1.00" in page.text(".differences")
    assert page.complaints() == []


@pytest.mark.browser
def test_the_slider_asks_again_with_the_new_score(page, file, fake_torchserve):
    page.choose(file)
    page.wait(".masks path", 2)
    page.driver.execute_script("""
      const slider = document.getElementById("threshold");
      slider.value = 0.9;
      for (const name of ["input", "change"]) slider.dispatchEvent(new Event(name, { bubbles: true }));
    """)
    page.wait(".masks path", 1)
    assert page.text("#threshold-value") == "90 %"
    assert fake_torchserve.calls[-1].options.score_threshold == pytest.approx(0.9)


@pytest.mark.browser
def test_a_file_that_is_no_photo_is_said_plainly_and_the_next_photo_works(page, file, tmp_path):
    text = tmp_path / "notes.txt"
    text.write_text("not a photo")
    page.choose(text)
    page.wait(".problem:not([hidden])")
    assert "send a JPEG, PNG or WebP" in page.text("#problem")
    assert "image_unsupported" in page.text("#problem")
    page.choose(file)
    page.wait(".picture", 2)
    page.wait(".problem[hidden]")


@pytest.mark.browser
def test_a_photo_that_was_changed_meanwhile_is_said_plainly_and_may_be_chosen_again(page, file):
    page.choose(file)
    page.wait(".picture", 2)
    file.write_bytes(make_photo((320, 240)))
    os.utime(file, (0, 0))
    page.driver.find_element("id", "again").click()
    page.wait(".problem:not([hidden])")
    assert "Choose it again" in page.text("#problem")
    page.choose(file)
    page.wait(".picture", 2)
    assert "240 × 320 px" in page.text("figcaption")


@pytest.mark.browser
def test_a_folder_that_is_dropped_is_said_plainly(page, tmp_path):
    for kind in ("dragEnter", "dragOver", "drop"):
        data = {"items": [], "files": [str(tmp_path)], "dragOperationsMask": 1}
        page.driver.execute_cdp_cmd("Input.dispatchDragEvent", {"type": kind, "x": 150, "y": 250, "data": data})
    page.wait(".problem:not([hidden])")
    assert "folder" in page.text("#problem")


@pytest.mark.browser
def test_an_arm_that_is_down_is_said_plainly(page, file, fake_torchserve):
    fake_torchserve.set_ready(wire.MODEL_R50, False)
    page.pick("a")
    page.choose(file)
    page.wait(".problem:not([hidden])")
    assert "Try again in a few seconds" in page.text("#problem")
    page.wait(".pills .down", 1)


@pytest.mark.browser
def test_an_answer_stays_when_its_picture_cannot_be_saved(page, file, fake_torchserve):
    page.pick("a")
    page.choose(file)
    page.wait(".masks path", 2)
    page.wait_until_idle()
    fake_torchserve.play(wire.MODEL_R50, "handler_failed")
    save = page.all("#save")[0]
    save.click()
    page.wait(".problem:not([hidden])")
    page.wait("#save:enabled")
    assert len(page.all(".masks path")) == 2
    save.click()
    page.wait(".problem[hidden]")


@pytest.mark.browser
def test_a_proxys_own_error_is_said_plainly(page, file):
    page.driver.execute_script("""
      const real = window.fetch;
      window.fetch = (url, options) => options?.method === "POST"
        ? Promise.resolve(new Response("<html>Bad Gateway</html>", { status: 502 })) : real(url, options);
    """)
    page.choose(file)
    page.wait(".problem:not([hidden])")
    assert "HTTP 502" in page.text("#problem")
    assert "SyntaxError" not in page.text("#problem")


@pytest.mark.browser
def test_a_proxy_may_show_it_below_a_path(browser, make_app, file):
    server = make_server("127.0.0.1", 0, DispatcherMiddleware(NotFound(), {"/masks": make_app()}), threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        page = Page(browser, f"http://127.0.0.1:{server.port}/masks/")
        page.choose(file)
        page.wait(".masks path", 2)
        assert f":{server.port}/masks/v1/predictions" in page.all("code")[0].get_attribute("textContent")
        browser.get("about:blank")  # its connections end
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.browser
def test_a_class_name_is_text_and_never_html(page, file, fake_torchserve):
    for model in fake_torchserve.models.values():
        model.class_names = ("<img src=x onerror=document.title='hacked'>", "b")
    page.choose(file)
    page.wait(".picture", 2)
    page.wait_until_idle()
    assert "<img src=x" in page.text(".fact")
    assert page.driver.title == "maskserve"


@pytest.mark.browser
def test_pointing_at_a_row_lights_its_mask(page, file):
    from selenium.webdriver import ActionChains

    page.choose(file)
    page.wait(".picture", 2)
    page.wait_until_idle()
    ActionChains(page.driver).move_to_element(page.all(".fact tbody tr")[1]).perform()
    lit = page.wait(".masks path.lit")
    assert lit[0].get_attribute("data-instance") == "1"


@pytest.mark.browser
def test_it_can_be_worked_with_the_keyboard_alone(page, file):
    from selenium.webdriver import ActionChains, Keys

    page.choose(file)
    page.wait(".picture", 2)
    page.wait_until_idle()
    names = []
    page.driver.execute_script("document.activeElement.blur(); document.querySelector('.brand').focus()")
    for _ in range(9):
        ActionChains(page.driver).send_keys(Keys.TAB).perform()
        names.append(page.driver.execute_script("const e = document.activeElement; return e.id || e.name || e.tagName"))
    for name in ("file", "arm", "threshold", "again"):
        assert name in names


@pytest.mark.browser
def test_every_control_has_a_name(page):
    unnamed = page.driver.execute_script("""
      return [...document.querySelectorAll("input, button, a")]
        .filter((e) => !(e.labels?.length || e.innerText?.trim() || e.getAttribute("aria-label")))
        .map((e) => e.outerHTML);
    """)
    assert unnamed == []


@pytest.mark.browser
@pytest.mark.parametrize("arm", ["", "compare"])
def test_a_phone_shows_it_without_sideways_scrolling(page, file, arm):
    page.driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 375, "height": 812, "deviceScaleFactor": 2, "mobile": True}
    )
    try:
        page.pick(arm)
        page.choose(file)
        page.wait(".picture", 3 if arm else 2)
        widths = page.driver.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
        assert widths == [375, 375]
    finally:
        page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
