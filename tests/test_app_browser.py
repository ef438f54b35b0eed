"""The app in a real browser: clicks, lasso, keyboard, questions, corrections and exports; contrast and names."""

import json
import socket

import anndata as ad
import numpy as np
import pytest

from cell2text.app.desk import Desk
from cell2text.app.options import AppOptions
from cell2text.app.server import serve

from .app_files import HOSTILE, N_CELLS, SCRIPT, TEMPLATE, described_cells
from .browser import headless_browser, text_of, wait_until


CONTRAST = """
const luminance = ([r, g, b]) => {
  const [x, y, z] = [r, g, b].map(v => v / 255).map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  return 0.2126 * x + 0.7152 * y + 0.0722 * z;
};
const numbers = text => (text.match(/[\\d.]+/g) || [0, 0, 0, 0]).map(Number);
const behind = element => {
  for (let one = element; one; one = one.parentElement) {
    const [r, g, b, a = 1] = numbers(getComputedStyle(one).backgroundColor);
    if (a > 0.5) return [r, g, b];
  }
  return [255, 255, 255];
};
const bad = [];
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const element = walker.currentNode.parentElement, style = getComputedStyle(element);
  if (!walker.currentNode.textContent.trim() || !element.checkVisibility({ checkVisibilityCSS: true })) continue;
  if (element.closest("[aria-hidden=true], script, style, :disabled")) continue;
  const [one, two] = [luminance(numbers(style.color)), luminance(behind(element))].sort((a, b) => b - a);
  const ratio = (one + 0.05) / (two + 0.05);
  if (ratio < 4.5) bad.push([walker.currentNode.textContent.trim().slice(0, 40), Number(ratio.toFixed(2))]);
}
return bad;
"""
INTERACTIVE = {
    "button",
    "textbox",
    "combobox",
    "radio",
    "tab",
    "searchbox",
    "checkbox",
    "link",
    "application",
    "listbox",
}


@pytest.fixture(scope="module")
def contacted():
    """Hosts that this process looked up or connected to while the app started and ran."""
    hosts: set[str] = set()
    look_up, connect = socket.getaddrinfo, socket.socket.connect

    def recorded_look_up(host, *arguments, **options):
        hosts.add(str(host))
        return look_up(host, *arguments, **options)

    def recorded_connect(self, address):
        hosts.add(str(address[0]) if isinstance(address, tuple) else "")
        return connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", recorded_look_up)
        patch.setattr(socket.socket, "connect", recorded_connect)
        yield hosts


@pytest.fixture(scope="module")
def app(tmp_path_factory, contacted):
    pytest.importorskip("gradio")
    path = tmp_path_factory.mktemp("app") / "cells.described.h5ad"
    described_cells().write_h5ad(path)
    with serve(path, AppOptions()) as running:
        yield running


@pytest.fixture(scope="module")
def browser():
    with headless_browser(width=1400) as driver:
        yield driver


class AppPage:
    """The page of the app in a browser."""

    def __init__(self, browser, url):
        self.browser = browser
        browser.get(url)
        wait_until(lambda: self.state("cells") == str(N_CELLS), 60)

    def state(self, name: str) -> str:
        return self.browser.execute_script(
            "const found = document.querySelector('.c2t-map'); return found ? found.dataset[arguments[0]] : ''", name
        )

    def text(self, panel: str) -> str:
        return text_of(self.browser, f"#{panel}")

    def click(self, selector: str) -> None:
        self.browser.find_element("css selector", selector).click()

    def tab(self, name: str) -> None:
        (one,) = [one for one in self.browser.find_elements("css selector", "[role=tab]") if one.text == name]
        one.click()

    def write(self, field: str, text: str, *keys: str) -> None:
        box = self.browser.find_element("css selector", f"#{field} textarea, #{field} input")
        box.clear()
        box.send_keys(text, *keys)

    @property
    def canvas(self):
        return self.browser.find_element("css selector", ".c2t-canvas canvas")

    def place(self, point: int) -> list[int]:
        """Return where a cell is, relative to the centre of the map."""
        return self.browser.execute_script(
            """
            const map = document.querySelector(".c2t-map"), box = map.querySelector("canvas").getBoundingClientRect();
            const [x, y] = map.positionOf(arguments[0]);
            return [Math.round(x - box.left - box.width / 2), Math.round(y - box.top - box.height / 2)];
            """,
            point,
        )

    def actions(self):
        from selenium.webdriver.common.action_chains import ActionChains

        return ActionChains(self.browser, duration=20)

    def click_cell(self, point: int) -> None:
        self.show_map()
        self.actions().move_to_element_with_offset(self.canvas, *self.place(point)).click().perform()

    def lasso(self, points: list[int]) -> None:
        """Draw a lasso around some cells."""
        self.show_map()
        self.click("[data-mode=lasso]")
        places = np.array([self.place(point) for point in points])
        (left, top), (right, bottom) = places.min(axis=0) - 14, places.max(axis=0) + 14
        drawn = self.actions().move_to_element_with_offset(self.canvas, int(left), int(top)).click_and_hold()
        for x, y in ((right - left, 0), (0, bottom - top), (left - right, 0)):
            drawn = drawn.move_by_offset(int(x), int(y))
        drawn.release().perform()

    def show_map(self) -> None:
        self.browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", self.canvas)


def test_a_user_reads_asks_compares_corrects_and_exports_without_a_network(app, browser, contacted):
    page = AppPage(browser, app.url)
    assert "cells.described.h5ad" in page.text("head") and f"{N_CELLS} cells" in page.text("head")
    page.click_cell(10)
    wait_until(lambda: "cell10" in page.text("cell"))
    assert "Type probabilities" in page.text("cell") and "AUCell" in page.text("cell")

    page.tab("Ask")
    page.write("question", "What cell type is this?", "\n")
    wait_until(lambda: "Answering" not in page.text("conversation") and "cell10" in page.text("conversation"))
    assert "This cell is" in page.text("conversation") or "cell type" in page.text("conversation")

    page.lasso(list(range(N_CELLS // 4)))
    wait_until(lambda: "cells selected" in page.text("message"))
    page.tab("Compare")
    page.click("#group-A")
    wait_until(lambda: "Group A" in page.text("comparison"))
    page.lasso([N_CELLS - 1, N_CELLS - 2, N_CELLS - 3])
    wait_until(lambda: "cells selected" in page.text("message"))
    page.click("#group-B")
    wait_until(lambda: "Group B" in page.text("comparison"))
    page.click("#compare")
    wait_until(lambda: "Composition" in page.text("comparison"), 60)

    page.tab("Correct")
    page.write("label", "NK cell")
    wait_until(lambda: "CL:0000623" in page.text("term"))
    page.write("by", "Ada")
    page.click("#save")
    wait_until(lambda: "natural killer cell" in page.text("corrections"))
    page.tab("File")
    page.click("#export-h5ad")
    link = wait_until(lambda: browser.find_elements("css selector", "#download a[download]"))[0]
    assert link.get_attribute("href").startswith(app.url)
    (written,) = app.desk.folder.glob("*/cells.curated.h5ad")
    obs = ad.read_h5ad(written).obs
    assert obs.loc["cell10", "cell2text_curated_cell_type"] == "natural killer cell"
    assert obs.loc["cell10", "cell2text_corrected_by"] == "Ada"

    requested = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = {one["params"]["request"]["url"] for one in requested if one["method"] == "Network.requestWillBeSent"}
    assert urls and all(url.startswith((app.url, "data:", "blob:", "chrome:")) for url in urls), urls
    assert contacted <= {"", "127.0.0.1", "localhost", "::1", "None"}
    errors = [one for one in browser.get_log("browser") if one["level"] == "SEVERE" and "favicon" not in str(one)]
    assert not errors


def test_no_function_is_open_to_other_programs_unless_tools_are_served(app):
    from cell2text.app.page import Page

    assert app.blocks.get_api_info()["named_endpoints"] == {}
    served = Page(Desk(None, AppOptions(mcp=True))).blocks.get_api_info()["named_endpoints"]
    assert set(served) == {"/find_cells", "/describe_cell", "/ask_about_cells"}


def test_names_and_labels_of_a_file_are_text_and_never_code(app, browser):
    page = AppPage(browser, app.url)
    for name in (HOSTILE, TEMPLATE, SCRIPT):
        page.write("find", name, "\n")
        wait_until(lambda name=name: " ".join(name.split()) in " ".join(page.text("cell").split()))
    page.tab("Ask")
    page.write("question", HOSTILE, "\n")
    wait_until(lambda: HOSTILE in page.text("conversation"))
    page.tab("Correct")
    page.write("label", SCRIPT)
    wait_until(lambda: "</script>" in page.text("term"))
    assert browser.execute_script("return document.body.dataset.evil") is None


def test_the_keyboard_reaches_a_cell_and_selects_it(app, browser):
    from selenium.webdriver.common.keys import Keys

    page = AppPage(browser, app.url)
    browser.execute_script("document.querySelector('#find textarea, #find input').focus()")
    visited = []
    for _ in range(14):  # the order of the focus: from the name of a cell over the tools to the map and its legend
        page.actions().send_keys(Keys.TAB).perform()
        visited.append(
            browser.execute_script(
                "const one = document.activeElement; return one.dataset.mode || one.dataset.do || one.tagName"
            )
        )
    tools = ["move", "lasso", "box", "in", "out", "fit", "clear", "CANVAS"]
    start = visited.index("move")
    assert visited[start : start + len(tools)] == tools
    browser.execute_script("arguments[0].focus()", page.canvas)
    page.actions().send_keys(Keys.ARROW_RIGHT, Keys.ARROW_UP).perform()
    said = text_of(browser, ".c2t-say")
    page.actions().send_keys(Keys.ENTER).perform()
    wait_until(lambda: "Type probabilities" in page.text("cell") or "no text" in page.text("cell"))
    assert said.split(",")[0] in page.text("cell")
    page.actions().send_keys(Keys.SPACE).perform()
    wait_until(lambda: "1 cells selected" in page.text("message"))
    page.actions().send_keys(Keys.ESCAPE).perform()
    wait_until(lambda: "selected" not in page.text("message"))
    before = page.place(10)
    page.actions().send_keys("+").perform()
    assert page.place(10) != before
    page.actions().send_keys("0").perform()
    assert page.place(10) == before


def test_an_uploaded_file_is_opened_and_a_bad_one_is_refused(app, browser, tmp_path):
    page = AppPage(browser, app.url)
    page.tab("File")
    bad, good = tmp_path / "bad.h5ad", tmp_path / "uploaded.described.h5ad"
    bad.write_text("not HDF5")
    described_cells()[:20].copy().write_h5ad(good)
    for path, panel, expected in ((bad, "message", "damaged"), (good, "head", "uploaded.described.h5ad")):
        browser.find_element("css selector", "input[type=file]").send_keys(str(path))
        wait_until(lambda panel=panel, expected=expected: expected in page.text(panel))
    wait_until(lambda: page.state("cells") == "20")
    page.tab("Correct")
    assert "lost when the page is closed" in page.text("corrections")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_texts_are_readable_and_controls_have_names(app, browser, theme):
    page = AppPage(browser, f"{app.url}?__theme={theme}")
    page.click_cell(10)
    wait_until(lambda: "cell10" in page.text("cell"))
    for name in ("Cell", "Ask", "Compare", "Correct", "File"):
        page.tab(name)
        assert browser.execute_script(CONTRAST) == [], (theme, name)
        tree = browser.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
        nameless = [
            node["role"]["value"]
            for node in tree
            if not node.get("ignored")
            and node.get("role", {}).get("value") in INTERACTIVE
            and not node.get("name", {}).get("value")
        ]
        assert not nameless, (name, nameless)


def test_the_page_fits_a_narrow_screen(app, browser):
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 400, "height": 900, "deviceScaleFactor": 1, "mobile": True}
    )
    try:
        page = AppPage(browser, app.url)
        assert browser.execute_script("return document.documentElement.scrollWidth") <= 400
        tabs = [one.text for one in browser.find_elements("css selector", "[role=tab]") if one.is_displayed()]
        assert tabs == ["Cell", "Ask", "Compare", "Correct", "File"]
        page.click_cell(12)
        wait_until(lambda: "cell12" in page.text("cell"))
        assert browser.execute_script("return document.documentElement.scrollWidth") <= 400
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
