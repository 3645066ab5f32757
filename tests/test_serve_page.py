"""The page: its files, and the page itself in a real browser."""

from __future__ import annotations

import base64
import http.client
import json
import re
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from serving import TOKEN, Held, encoded, live, multipart, picture, wait_until
from tiny import tiny_segmenter

from textsam.inference.segmenter import Segmenter
from textsam.serve.app import page_files

BROWSER, DRIVER = Path("/usr/bin/chromium"), Path("/usr/bin/chromedriver")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--window-size=1280,860",
)  # fmt: skip


def test_page_names_nothing_that_is_elsewhere() -> None:
    files = page_files()
    assert set(files) == {
        "/", "/page/page.css", "/page/page.js", "/page/draw.js", "/page/server.js",
        "/page/icon.svg",
    }  # fmt: skip
    for path, (content, _) in files.items():
        text = content.decode("utf-8").replace("http://www.w3.org/2000/svg", "")
        assert "http:" not in text, path
        assert "https:" not in text, path
        for reference in re.findall(r"""(?:src|href|from)\s*=?\s*"([^"]+)\"""", text):
            name = reference.replace("./", "/page/")
            assert name in files, (path, reference)


def test_page_keeps_to_its_policy() -> None:
    html = page_files()["/"][0].decode("utf-8")
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", html)
    scripts = "".join(page_files()[f"/page/{n}.js"][0].decode() for n in ("page", "draw", "server"))
    # What comes from a server or a user is text, never markup.
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", scripts)


def test_every_input_has_a_label() -> None:
    html = page_files()["/"][0].decode("utf-8")
    labelled = set(re.findall(r'<label[^>]*\sfor="([\w-]+)"', html))
    assert set(re.findall(r'<input[^>]*?\sid="([\w-]+)"', html)) == labelled


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    return tiny_segmenter()


@pytest.fixture(scope="module")
def server(segmenter: Segmenter) -> Iterator[str]:
    with live(segmenter) as port:
        yield f"http://127.0.0.1:{port}/"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium")
    from selenium.webdriver.chrome.service import Service

    if not (BROWSER.exists() and DRIVER.exists()):
        pytest.skip("needs chromium and chromedriver in /usr/bin")
    profile = tempfile.mkdtemp(prefix="textsam-page-")
    options = webdriver.ChromeOptions()
    options.binary_location = str(BROWSER)
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(str(DRIVER)))
    try:
        yield driver
    finally:
        driver.quit()
        shutil.rmtree(profile, ignore_errors=True)


def by_id(browser: Any, name: str) -> Any:
    return browser.find_element("id", name)


def wait(browser: Any, true: Any, seconds: float = 120) -> Any:
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(browser, seconds).until(true)


def mask_alpha(browser: Any) -> np.ndarray:
    """(H, W, 4) pixels of the canvas with the masks."""
    width, height, values = browser.execute_script(
        "const c = document.getElementById('mask');"
        "if (!c.width) return [0, 0, []];"
        "const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;"
        "return [c.width, c.height, Array.from(d)];"
    )
    return np.array(values, dtype=np.uint8).reshape(height, width, 4)


def problems(browser: Any) -> list[str]:
    return [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


def addresses(browser: Any) -> set[str]:
    messages = [json.loads(e["message"])["message"] for e in browser.get_log("performance")]
    return {
        m["params"]["request"]["url"]
        for m in messages
        if m["method"] == "Network.requestWillBeSent"
    }


def open_page(browser: Any, server: str) -> None:
    browser.get_log("browser")  # what an earlier test left
    browser.get(server)
    wait(browser, lambda b: by_id(b, "model").text)


def choose(browser: Any, file: Path) -> None:
    by_id(browser, "file").send_keys(str(file))
    wait(browser, lambda b: by_id(b, "stage").is_displayed())


def ask(browser: Any, words: str) -> None:
    from selenium.webdriver.common.keys import Keys

    by_id(browser, "words").send_keys(words, Keys.ENTER)


def segment(browser: Any, server: str, file: Path, words: str) -> None:
    open_page(browser, server)
    choose(browser, file)
    ask(browser, words)


def answered(browser: Any) -> bool:
    return bool(by_id(browser, "answer").is_displayed())


@pytest.mark.slow
def test_upload_words_and_enter_show_masks(
    browser: Any, server: str, segmenter: Segmenter, tmp_path: Path
) -> None:
    from selenium.webdriver.common.keys import Keys

    file = tmp_path / "scan.png"
    file.write_bytes(encoded(picture()))
    segment(browser, server, file, "tumor, lung")
    wait(browser, answered)
    wanted = segmenter.segment(picture(), ["tumor", "lung"])
    assert all(result.found for result in wanted)
    alpha = mask_alpha(browser)[..., 3]
    np.testing.assert_array_equal(alpha > 0, wanted[0].mask | wanted[1].mask)
    assert "2 of 2 found" in by_id(browser, "status").text
    rows = browser.find_elements("css selector", "#results li")
    assert [row.find_element("tag name", "label").text for row in rows] == ["tumor", "lung"]
    assert f"{wanted[0].area_px:,} px" in rows[0].text
    assert f"score {wanted[0].score:.2f}" in rows[0].text

    # One class off: what is left is the other, in its own colour.
    rows[0].find_element("tag name", "input").send_keys(Keys.SPACE)
    pixels = mask_alpha(browser)
    np.testing.assert_array_equal(pixels[..., 3] > 0, wanted[1].mask)
    inside = pixels[wanted[1].mask & (pixels[..., 3] == 255)][:, :3]
    assert (np.abs(inside.astype(int) - (86, 180, 233)) <= 2).all()

    # Less opacity, fainter pixels inside; none at all, none.
    slider = by_id(browser, "opacity")
    before = int(pixels[..., 3].astype(int).sum())
    slider.send_keys(Keys.ARROW_LEFT * 20)
    assert by_id(browser, "opacity-value").text == "25 %"
    assert 0 < int(mask_alpha(browser)[..., 3].astype(int).sum()) < before
    slider.send_keys(Keys.HOME)
    assert not mask_alpha(browser)[..., 3].any()

    assert problems(browser) == []
    outside = {address for address in addresses(browser) if not address.startswith(server)}
    # Blobs are this page's own memory, chrome and data addresses the browser's.
    assert {a for a in outside if not a.startswith(("blob:", "chrome", "data:"))} == set()


@pytest.mark.slow
def test_keyboard_alone(browser: Any, server: str, tmp_path: Path) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    def press(*keys: str) -> None:
        ActionChains(browser).send_keys(*keys).perform()

    file = tmp_path / "scan.png"
    file.write_bytes(encoded(picture()))
    browser.get(server)
    wait(browser, lambda b: by_id(b, "model").text)
    press(Keys.TAB)
    assert browser.switch_to.active_element.get_attribute("id") == "file"
    outline = "return getComputedStyle(document.activeElement).outlineStyle"
    assert browser.execute_script(outline) == "solid"
    # The dialogue of the system is not part of the page; this is what it comes back with.
    by_id(browser, "file").send_keys(str(file))
    wait(browser, lambda b: b.switch_to.active_element.get_attribute("id") == "words")
    press("tumor", Keys.ENTER)
    wait(browser, answered)
    order = []
    for _ in range(5):
        press(Keys.TAB)
        order.append(browser.switch_to.active_element.get_attribute("id"))
    assert order == ["go", "shown-0", "opacity", "save-masks", "save-json"]
    assert problems(browser) == []


@pytest.mark.slow
def test_absent_and_unknown_are_said(browser: Any, tmp_path: Path) -> None:
    file = tmp_path / "scan.png"
    file.write_bytes(encoded(picture()))
    with live(tiny_segmenter(found_threshold=1.0)) as port:
        segment(browser, f"http://127.0.0.1:{port}/", file, "left lung")
        wait(browser, answered)
        assert "not found" in by_id(browser, "results").text
        assert "0 of 1 found" in by_id(browser, "status").text
        assert "did you mean lung" in by_id(browser, "warnings").text
        assert not by_id(browser, "save-masks").is_enabled()
        assert not mask_alpha(browser)[..., 3].any()


@pytest.mark.slow
def test_markup_in_names_and_words_stays_text(browser: Any, server: str, tmp_path: Path) -> None:
    markup = "<img src=x onerror=alert(1)>"
    file = tmp_path / f"{markup}.png"
    file.write_bytes(encoded(picture()))
    segment(browser, server, file, markup)
    wait(browser, answered)
    assert markup in by_id(browser, "file-name").text
    assert markup in by_id(browser, "results").text
    assert markup in by_id(browser, "warnings").text
    assert browser.find_elements("tag name", "img") == []
    # An alert would make this raise; a script kept out by the policy would be a problem.
    assert problems(browser) == []


@pytest.mark.slow
def test_errors_are_shown_and_gone_after(browser: Any, server: str, tmp_path: Path) -> None:
    file = tmp_path / "notes.png"
    file.write_bytes(b"this is text")
    segment(browser, server, file, "tumor")
    wait(browser, lambda b: by_id(b, "problem").is_displayed())
    assert "export the image as one of these" in by_id(browser, "problem").text
    assert not answered(browser)
    browser.get_log("browser")  # the refusal is logged by the browser itself
    file.write_bytes(encoded(picture()))
    by_id(browser, "other").click()
    by_id(browser, "file").send_keys(str(file))
    wait(browser, lambda b: not by_id(b, "problem").is_displayed())
    by_id(browser, "go").click()
    wait(browser, answered)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["scan.tif", "scan.png"])  # shown by the server, by the browser
def test_a_file_that_is_gone_is_told_as_that(
    browser: Any, server: str, tmp_path: Path, name: str
) -> None:
    file = tmp_path / name
    PIL.Image.fromarray(picture()).save(file)
    open_page(browser, server)
    choose(browser, file)
    file.unlink()
    ask(browser, "tumor")
    wait(browser, lambda b: by_id(b, "problem").is_displayed())
    wanted = "The file was changed, moved or removed since it was chosen. Choose it again."
    assert by_id(browser, "problem").text == wanted


@pytest.mark.slow
def test_a_server_that_is_gone_is_told_as_that(
    browser: Any, segmenter: Segmenter, tmp_path: Path
) -> None:
    file = tmp_path / "scan.png"
    file.write_bytes(encoded(picture()))
    with live(segmenter) as port:
        open_page(browser, f"http://127.0.0.1:{port}/")
    choose(browser, file)
    ask(browser, "tumor")
    wait(browser, lambda b: by_id(b, "problem").is_displayed())
    assert "server cannot be reached" in by_id(browser, "problem").text


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    """A NIfTI file of 9 slices."""
    nibabel = pytest.importorskip("nibabel")
    file = tmp_path / "volume.nii.gz"
    values = np.random.default_rng(0).integers(0, 255, (30, 24, 9)).astype(np.uint8)
    nibabel.save(nibabel.Nifti1Image(values, np.diag([2.0, 3.0, 4.0, 1.0])), file)
    return file


@pytest.mark.slow
def test_the_frame_cannot_be_changed_under_a_question(
    browser: Any, segmenter: Segmenter, volume: Path
) -> None:
    held = Held(segmenter)
    with live(held) as port:
        segment(browser, f"http://127.0.0.1:{port}/", volume, "tumor")
        wait_until(held.entered.is_set)
        wait(browser, lambda b: by_id(b, "frame").is_displayed())
        assert not by_id(browser, "frame").is_enabled()
        held.release.set()
        wait(browser, answered)
        assert by_id(browser, "frame").is_enabled()
        by_id(browser, "frame").clear()
        by_id(browser, "frame").send_keys("7")
        by_id(browser, "go").click()
        wait(browser, answered)
    assert by_id(browser, "frame").get_attribute("value") == "7"


@pytest.mark.slow
def test_a_volume_shows_a_slice_and_asks_for_its_number(
    browser: Any, server: str, volume: Path
) -> None:
    segment(browser, server, volume, "tumor")
    wait(browser, answered)
    assert by_id(browser, "frame").get_attribute("value") == "4"
    assert "0 to 8" in by_id(browser, "frame-row").text
    assert "mm²" in by_id(browser, "results").text
    drawn = browser.execute_script(
        "const c = document.getElementById('picture');"
        "return [c.width, c.height, Array.from(c.getContext('2d')"
        ".getImageData(0, 0, c.width, c.height).data).filter((v, i) => i % 4 < 3 && v > 0).length]"
    )
    assert drawn[0] * drawn[1] == 30 * 24
    assert drawn[2] > 1000


@pytest.mark.slow
def test_the_token_is_asked_for_and_used(
    browser: Any, segmenter: Segmenter, tmp_path: Path
) -> None:
    from selenium.webdriver.common.keys import Keys

    file = tmp_path / "scan.png"
    file.write_bytes(encoded(picture()))
    with live(segmenter, token=TOKEN) as port:
        browser.get(f"http://127.0.0.1:{port}/")
        wait(browser, lambda b: by_id(b, "token").is_displayed())
        by_id(browser, "file").send_keys(str(file))
        by_id(browser, "words").send_keys("tumor")
        by_id(browser, "token").send_keys(TOKEN, Keys.ENTER)
        wait(browser, answered)
        assert not by_id(browser, "problem").is_displayed()
        wait(browser, lambda b: "tiny" in by_id(b, "model").text)


def downloads(browser: Any, folder: Path) -> None:
    behaviour = {"behavior": "allow", "downloadPath": str(folder)}
    browser.execute_cdp_cmd("Browser.setDownloadBehavior", behaviour)


@pytest.fixture
def scan() -> Path:
    """CT_small.dcm, of which a segmentation can be made."""
    pydicom = pytest.importorskip("pydicom")
    pytest.importorskip("highdicom")
    return Path(pydicom.__file__).parent / "data" / "test_files" / "CT_small.dcm"


@pytest.mark.slow
def test_dicom_can_be_saved_as_masks_report_and_segmentation(
    browser: Any, server: str, scan: Path, tmp_path: Path
) -> None:
    pydicom = pytest.importorskip("pydicom")
    downloads(browser, tmp_path)
    segment(browser, server, scan, "tumor")
    wait(browser, answered)
    assert by_id(browser, "picture").is_displayed()
    for button, name in (
        ("save-masks", "mask-1-tumor.png"),
        ("save-json", "segmentation.json"),
        ("save-seg", "segmentation.dcm"),
    ):
        by_id(browser, button).click()
        wait(browser, lambda _, name=name: (tmp_path / name).exists())
    mask = np.asarray(PIL.Image.open(tmp_path / "mask-1-tumor.png"))
    report = json.loads((tmp_path / "segmentation.json").read_text(encoding="utf-8"))
    assert np.count_nonzero(mask == 255) == report["results"][0]["area_px"] > 0
    made = pydicom.dcmread(tmp_path / "segmentation.dcm")
    assert made.Modality == "SEG"
    np.testing.assert_array_equal(made.pixel_array.reshape(mask.shape) > 0, mask == 255)
    assert problems(browser) == []


@pytest.mark.slow
@pytest.mark.parametrize("way", ["drop", "paste"])
def test_images_can_be_dropped_and_pasted(browser: Any, server: str, way: str) -> None:
    data = base64.b64encode(encoded(picture())).decode()
    browser.get(server)
    wait(browser, lambda b: by_id(b, "model").text)
    browser.execute_script(
        "const bytes = Uint8Array.from(atob(arguments[0]), (c) => c.charCodeAt(0));"
        "const transfer = new DataTransfer();"
        "transfer.items.add(new File([bytes], 'scan.png', { type: 'image/png' }));"
        "const event = arguments[1] === 'drop'"
        "  ? new DragEvent('drop', { dataTransfer: transfer, bubbles: true })"
        "  : new ClipboardEvent('paste', { clipboardData: transfer, bubbles: true });"
        "document.getElementById('drop').dispatchEvent(event);",
        data,
        way,
    )
    wait(browser, lambda b: by_id(b, "picture").is_displayed())
    by_id(browser, "words").send_keys("tumor")
    by_id(browser, "go").click()
    wait(browser, answered)
    assert mask_alpha(browser)[..., 3].any()


@pytest.mark.slow
def test_of_several_dropped_files_it_is_said_which_is_taken(browser: Any, server: str) -> None:
    open_page(browser, server)
    browser.execute_script(
        "const transfer = new DataTransfer();"
        "for (const name of ['first.dcm', 'second.dcm'])"
        "  transfer.items.add(new File([new Uint8Array(9)], name));"
        "const event = new DragEvent('drop', { dataTransfer: transfer, bubbles: true });"
        "document.getElementById('drop').dispatchEvent(event);"
    )
    wait(browser, lambda b: by_id(b, "no-preview").is_displayed())
    assert by_id(browser, "file-name").text.startswith("first.dcm")
    said = by_id(browser, "status").text
    assert said == "Of the 2 files only first.dcm is taken: one image at a time."


@pytest.mark.slow
def test_a_busy_server_is_asked_again(browser: Any, segmenter: Segmenter, tmp_path: Path) -> None:
    file = tmp_path / "scan.png"
    file.write_bytes(encoded(picture()))
    held = Held(segmenter)
    with live(held, queue=1) as port, ThreadPoolExecutor(2) as pool:
        body, kind = multipart(encoded(picture(1)), ["tumor"])

        def ask() -> int:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
            connection.request("POST", "/segment", body, {"Content-Type": kind})
            status = connection.getresponse().status
            connection.close()
            return status

        def full() -> bool:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
            connection.request("GET", "/health")
            queue = json.loads(connection.getresponse().read())["queue"]
            connection.close()
            return (queue["working"], queue["waiting"]) == (1, 1)

        taken = [pool.submit(ask) for _ in range(2)]
        wait_until(full)
        segment(browser, f"http://127.0.0.1:{port}/", file, "tumor")
        wait(browser, lambda b: "busy" in by_id(b, "status").text)
        held.release.set()
        wait(browser, answered)
        assert [future.result() for future in taken] == [200, 200]


def health(port: int) -> Any:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    connection.request("GET", "/health")
    queue = json.loads(connection.getresponse().read())["queue"]
    connection.close()
    return queue["working"], queue["waiting"]


def grey_at(browser: Any, x: int, y: int) -> tuple[int, int, int]:
    """Width, height and the red of one pixel of what is shown as the image."""
    width, height, red = browser.execute_script(
        "const c = document.getElementById('picture');"
        "return [c.width, c.height, c.getContext('2d').getImageData(...arguments, 1, 1).data[0]]",
        x,
        y,
    )
    return width, height, red


def two_images(folder: Path) -> tuple[Path, Path]:
    """Two files of one size whose masks differ; the second is bright throughout."""
    first, second = folder / "first.png", folder / "second.png"
    first.write_bytes(encoded(picture(1)))
    second.write_bytes(encoded(np.maximum(picture(2), 200)))
    return first, second


@pytest.mark.slow
@pytest.mark.parametrize("again", [False, True])
def test_an_answer_is_shown_over_its_own_image_alone(
    browser: Any, segmenter: Segmenter, tmp_path: Path, again: bool
) -> None:
    first, second = two_images(tmp_path)
    held = Held(segmenter)
    with live(held) as port:
        segment(browser, f"http://127.0.0.1:{port}/", first, "lung")
        wait_until(held.entered.is_set)
        shown = second
        by_id(browser, "file").send_keys(str(second))
        if again:  # the file asked about is chosen anew; its first answer is to another word
            by_id(browser, "other").click()
            by_id(browser, "file").send_keys(str(first))
            shown = first
        wait(browser, lambda b: shown.name in by_id(b, "file-name").text)
        assert by_id(browser, "status").text == ""
        by_id(browser, "words").clear()
        by_id(browser, "words").send_keys("tumor")
        by_id(browser, "go").click()
        assert "Looking" in by_id(browser, "status").text
        wait_until(lambda: health(port) == (1, 1))
        held.release.set()
        wait(browser, answered)
    pixels = np.asarray(PIL.Image.open(shown))
    wanted = segmenter.segment(pixels, "tumor")
    other = segmenter.segment(np.asarray(PIL.Image.open(first)), "lung")
    assert not np.array_equal(wanted.mask, other.mask)
    np.testing.assert_array_equal(mask_alpha(browser)[..., 3] > 0, wanted.mask)
    assert grey_at(browser, 3, 5) == (56, 40, pixels[5, 3, 0])
    assert by_id(browser, "file-name").text.startswith(shown.name)
    assert "tumor" in by_id(browser, "results").text
    assert not by_id(browser, "problem").is_displayed()
    assert problems(browser) == []


@pytest.mark.slow
def test_a_question_ends_where_its_image_is_taken_away(
    browser: Any, segmenter: Segmenter, tmp_path: Path
) -> None:
    first, second = two_images(tmp_path)
    held = Held(segmenter)
    with live(held) as port:
        segment(browser, f"http://127.0.0.1:{port}/", first, "tumor")
        wait_until(held.entered.is_set)
        by_id(browser, "other").click()
        assert by_id(browser, "go").is_enabled()
        assert by_id(browser, "status").text == ""
        held.release.set()
        wait_until(lambda: health(port) == (0, 0))
        by_id(browser, "file").send_keys(str(second))
        wait(browser, lambda b: by_id(b, "picture").is_displayed())
        assert not answered(browser)
        assert not mask_alpha(browser).size


@pytest.mark.slow
def test_a_segmentation_whose_image_is_taken_away_is_said_not_to_be_saved(
    browser: Any, segmenter: Segmenter, scan: Path, tmp_path: Path
) -> None:
    first, _ = two_images(tmp_path)
    downloads(browser, tmp_path)
    held = Held(segmenter)
    held.release.set()
    with live(held) as port:
        segment(browser, f"http://127.0.0.1:{port}/", scan, "tumor")
        wait(browser, answered)
        held.release.clear()
        by_id(browser, "save-seg").click()
        wait_until(lambda: health(port) == (1, 0))
        by_id(browser, "file").send_keys(str(first))
        wait(browser, lambda b: "CT_small.dcm is not saved" in by_id(b, "status").text)
        held.release.set()
        wait_until(lambda: health(port) == (0, 0))
        by_id(browser, "go").click()
        wait(browser, answered)
    assert not (tmp_path / "segmentation.dcm").exists()
    assert not by_id(browser, "save-seg").is_displayed()


@pytest.mark.slow
def test_an_image_that_is_slow_to_decode_does_not_come_after_the_next(
    browser: Any, server: str, tmp_path: Path
) -> None:
    slow, quick = tmp_path / "slow.png", tmp_path / "quick.png"
    slow.write_bytes(encoded(picture(1, height=90, width=80)))
    pixels = picture(2)
    quick.write_bytes(encoded(pixels))
    browser.get(server)
    wait(browser, lambda b: by_id(b, "model").text)
    browser.execute_script(
        "const decode = window.createImageBitmap;"
        "window.createImageBitmap = async (blob, options) => {"
        "  const slow = blob.name === 'slow.png';"
        "  if (slow) await new Promise((done) => { window.letGo = done; });"
        "  const bitmap = await decode(blob, options);"
        "  if (slow) setTimeout(() => { window.wasDecoded = true; });"
        "  return bitmap;"
        "};"
    )
    by_id(browser, "file").send_keys(str(quick))
    wait(browser, lambda b: by_id(b, "picture").is_displayed())
    by_id(browser, "file").send_keys(str(slow))
    wait(browser, lambda b: b.execute_script("return Boolean(window.letGo)"))
    # The image before is not shown under the name of one that is still being decoded.
    assert by_id(browser, "file-name").text.startswith("slow.png")
    assert not by_id(browser, "picture").is_displayed()
    by_id(browser, "file").send_keys(str(quick))
    wait(browser, lambda b: by_id(b, "picture").is_displayed())
    browser.execute_script("window.letGo();")
    wait(browser, lambda b: b.execute_script("return window.wasDecoded"))
    assert by_id(browser, "file-name").text.startswith("quick.png")
    assert grey_at(browser, 3, 5) == (56, 40, pixels[5, 3, 0])
    assert problems(browser) == []
