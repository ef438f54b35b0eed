"""Measure the app end to end in headless Chromium: time to the first answer, reactions to clicks, and memory.

    python benchmarks/app.py --work FOLDER      # writes benchmarks/results/app.json
    python benchmarks/app.py --pictures         # and docs/guides/app_*.png

Two files: the packaged example cells, undescribed, and 20,000 described cells, which are resampled with a seed from two
studies of the reference data and thinned. Both are opened twice: the second time, their map is kept. `--work` keeps the
files for the next run. Times are wall clock on this machine, with one thread; a browser runs beside the app. Depends on
selenium, Chromium and ChromeDriver.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import anndata as ad
import numpy as np
import psutil
import scipy.sparse as sp

from cell2text.app.layout import layout_path
from cell2text.describe.run import describe_file
from cell2text.example import write_example
from cell2text.files import write_atomically


PROJECT = Path(__file__).resolve().parents[1]
RESULTS, PICTURES = PROJECT / "benchmarks" / "results" / "app.json", PROJECT / "docs" / "guides"
STUDIES, N_CELLS, KEPT_COUNTS = ("baron_pancreas", "kang_pbmc_sle"), 20_000, 0.8
CHOSEN = 10  # point of the map that is clicked
WIDTHS = (1400, 400)


def resampled_cells(data: Path, seed: int = 0) -> ad.AnnData:
    """Return `N_CELLS` cells drawn with replacement from two studies, each count kept with `KEPT_COUNTS`."""
    random = np.random.default_rng(seed)
    parts = []
    for name in STUDIES:
        adata = ad.read_h5ad(data / f"{name}.h5ad")
        rows = np.sort(random.integers(0, adata.n_obs, N_CELLS // len(STUDIES)))
        part = ad.AnnData(sp.csr_matrix(adata.X)[rows], var=adata.var[[]])
        part.X.data = random.binomial(part.X.data.astype(np.int64), KEPT_COUNTS).astype(np.float32)
        part.X.eliminate_zeros()
        part.obs_names = [f"{name}_{i}" for i in range(part.n_obs)]
        part.obs["study"] = name
        part.var_names_make_unique()
        parts.append(part)
    return ad.concat(parts, join="outer")


def large_file(data: Path, work: Path) -> Path:
    """Return the described file of resampled cells, which is made unless it is there."""
    source, out = work / "cells20k.h5ad", work / "cells20k.described.h5ad"
    if not source.exists():
        resampled_cells(data).write_h5ad(source)
    if not out.exists():
        describe_file(source, out, progress=False)
    return out


@contextmanager
def running_app(path: Path) -> Iterator[tuple[str, psutil.Process, float]]:
    """Start the command in a process of its own; yield its address, the process, and the seconds it took to start."""
    started = time.perf_counter()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-u", "-m", "cell2text", "app", str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            line = process.stdout.readline()
            yield line.split()[4], psutil.Process(process.pid), time.perf_counter() - started
        finally:
            process.terminate()


class PeakMemory(threading.Thread):
    """Watches the resident memory of a process, in MB."""

    def __init__(self, process: psutil.Process):
        super().__init__(daemon=True)
        self.process, self.peak, self.ended = process, 0.0, False
        self.start()

    def run(self) -> None:
        while not self.ended and self.process.is_running():
            try:
                self.peak = max(self.peak, self.process.memory_info().rss / 1e6)
            except psutil.Error:
                return
            time.sleep(0.2)


class Page:
    """The page of the app in headless Chromium."""

    def __init__(self, width: int):
        from selenium import webdriver

        options = webdriver.ChromeOptions()
        options.binary_location = shutil.which("chromium")
        for flag in ("headless", "no-sandbox", "disable-gpu", "disable-background-networking", "disable-sync",
                     "disable-component-update", "no-first-run", f"window-size={width},1000"):  # fmt: skip
            options.add_argument(f"--{flag}")
        options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
        if width < 500:
            metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": True}
            self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def script(self, text: str, *values):
        return self.driver.execute_script(text, *values)

    def text(self, panel: str) -> str:
        return self.script("const e = document.getElementById(arguments[0]); return e ? e.innerText : ''", panel)

    def n_cells(self) -> int:
        return int(self.script("const e = document.querySelector('.c2t-map'); return (e && e.dataset.cells) || 0"))

    def canvas(self):
        return self.driver.find_element("css selector", ".c2t-canvas canvas")

    def place(self, point: int) -> list[int]:
        return self.script(
            """
            const map = document.querySelector(".c2t-map"), box = map.querySelector("canvas").getBoundingClientRect();
            const [x, y] = map.positionOf(arguments[0]);
            return [Math.round(x - box.left - box.width / 2), Math.round(y - box.top - box.height / 2)];
            """,
            point,
        )

    def actions(self):
        from selenium.webdriver.common.action_chains import ActionChains

        return ActionChains(self.driver, duration=20)

    def show_map(self) -> None:
        self.script("arguments[0].scrollIntoView({block: 'center'})", self.canvas())

    def click_cell(self, point: int) -> None:
        self.show_map()
        self.actions().move_to_element_with_offset(self.canvas(), *self.place(point)).click().perform()

    def lasso(self, point: int, reach: int) -> None:
        """Draw a square around a cell."""
        self.show_map()
        self.driver.find_element("css selector", "[data-mode=lasso]").click()
        x, y = self.place(point)
        drawn = self.actions().move_to_element_with_offset(self.canvas(), x - reach, y - reach).click_and_hold()
        for dx, dy in ((2 * reach, 0), (0, 2 * reach), (-2 * reach, 0)):
            drawn = drawn.move_by_offset(dx, dy)
        drawn.release().perform()

    def tab(self, name: str) -> None:
        tabs = self.driver.find_elements("css selector", "[role=tab]")
        next(one for one in tabs if one.text == name).click()

    def ask(self, question: str) -> None:
        box = self.driver.find_element("css selector", "#question textarea, #question input")
        box.clear()
        box.send_keys(question + "\n")

    def foreign_requests(self) -> int:
        """Return how many requests went to another host."""
        messages = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        urls = [one["params"]["request"]["url"] for one in messages if one["method"] == "Network.requestWillBeSent"]
        return sum(url.startswith("http") and "//127.0.0.1" not in url for url in urls)

    def close(self) -> None:
        self.driver.quit()


def seconds_until(holds: Callable[[], object], limit: float = 900) -> float:
    """Wait until a function returns a true value, and return the seconds it took."""
    started = time.perf_counter()
    while not holds():
        if time.perf_counter() - started > limit:
            raise TimeoutError("the page did not get there")
        time.sleep(0.02)
    return time.perf_counter() - started


def measure(path: Path, reach: int) -> dict:
    """Return seconds and memory of one walk through the app on a file."""
    with running_app(path) as (url, process, start):
        memory, page = PeakMemory(process), Page(WIDTHS[0])
        try:
            opened = time.perf_counter()
            page.driver.get(url)
            seconds_until(page.n_cells)
            found = {"start_s": start, "map_s": time.perf_counter() - opened, "cells_on_map": page.n_cells()}
            page.click_cell(CHOSEN)
            found["first_cell_s"] = seconds_until(lambda: "Type probabilities" in page.text("cell"))
            page.tab("Ask")
            page.ask("What cell type is this?")
            found["first_answer_s"] = seconds_until(lambda: _is_answered(page, 1))
            found["start_to_first_answer_s"] = start + time.perf_counter() - opened
            page.ask("How sure are you?")
            found["next_answer_s"] = seconds_until(lambda: _is_answered(page, 2))
            page.lasso(CHOSEN, reach)
            found["lasso_s"] = seconds_until(lambda: "selected" in page.text("message"))
            found["cells_selected"] = int(page.text("message").split()[0].replace(",", ""))
            page.driver.find_elements("css selector", "#ask-scope input")[1].click()
            page.ask("Which cell types are these?")
            found["answer_of_selection_s"] = seconds_until(lambda: _is_answered(page, 3))
            found["requests_to_other_hosts"] = page.foreign_requests()
            found["memory_mb"] = round(memory.peak)
        finally:
            memory.ended = True
            page.close()
    return {name: round(value, 2) if isinstance(value, float) else value for name, value in found.items()}


def _is_answered(page: Page, n: int) -> bool:
    answers = page.script("return document.querySelectorAll('#conversation .c2t-said').length")
    return answers == n and "Answering" not in page.text("conversation")


def take_pictures(path: Path) -> None:
    """Write the pictures of the guide."""
    from PIL import Image

    with running_app(path) as (url, _, _):
        for width in WIDTHS:
            page = Page(width)
            try:
                page.driver.get(url)
                seconds_until(page.n_cells)
                page.click_cell(CHOSEN)
                seconds_until(lambda page=page: "Type probabilities" in page.text("cell"))
                page.actions().move_to_element_with_offset(page.canvas(), 0, 0).perform()
                page.script(
                    "window.scrollTo(0, 0)" if width > 500 else "document.querySelector('.c2t-tools').scrollIntoView()"
                )
                time.sleep(0.5)
                out = PICTURES / f"app_{width}.png"
                page.driver.save_screenshot(str(out))
                Image.open(out).convert("P", palette=Image.Palette.ADAPTIVE, colors=256).save(out, optimize=True)
            finally:
                page.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=PROJECT.parent / "shared" / "data", help="Reference data.")
    parser.add_argument("--work", type=Path, help="Folder for the files; a temporary one if omitted.")
    parser.add_argument("--pictures", action="store_true", help="Write the pictures of the guide as well.")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = options.work or Path(temporary)
        large = large_file(options.data, work)
        layout_path(large).unlink(missing_ok=True)  # of an earlier run
        fresh = Path(temporary) / "fresh"
        fresh.mkdir()
        write_example(fresh / "example.h5ad")
        results = {
            "example.h5ad, not described": measure(fresh / "example.h5ad", reach=40),
            "example.described.h5ad, opened again": measure(fresh / "example.described.h5ad", reach=40),
            f"{N_CELLS:,} cells, described": measure(large, reach=40),
            f"{N_CELLS:,} cells, opened again": measure(large, reach=40),
        }
        write_atomically(RESULTS, json.dumps(results, indent=1) + "\n")
        print(json.dumps(results, indent=1))
        if options.pictures:
            take_pictures(fresh / "example.described.h5ad")


if __name__ == "__main__":
    main()
