"""The page in a real browser (chromium and chromedriver, if they are installed): its filters hide what they say, and no width
cuts its first table."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import urllib.request
from contextlib import suppress

import pytest

from rrk.evaluation import report, webpage
from tests.evaluation.test_report import rows_of


class Browser:
    """Chromium by the W3C's WebDriver protocol, which is JSON over HTTP."""

    def __init__(self, driver, chromium, folder):
        command = [driver, "--port=0"]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, env={**os.environ, "HOME": str(folder)}
        )
        line = next(line for line in self.process.stdout if "successfully on port" in line)
        self.url = f"http://127.0.0.1:{int(line.rstrip().rstrip('.').rsplit(' ', 1)[1])}"
        arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        wanted = {"goog:chromeOptions": {"binary": chromium, "args": arguments}}
        self.session = "/session/" + self.say("POST", "/session", capabilities={"alwaysMatch": wanted})["sessionId"]

    def say(self, method, path, **body):
        data = json.dumps(body).encode() if method == "POST" else None
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"}, method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read())["value"]

    def open(self, url):
        self.say("POST", self.session + "/url", url=url)

    def find(self, css):
        return [
            next(iter(one.values()))
            for one in self.say("POST", self.session + "/elements", using="css selector", value=css)
        ]

    def click(self, css):
        [element] = self.find(css)
        self.say("POST", f"{self.session}/element/{element}/click")

    def shown(self, css):
        return sum(self.say("GET", f"{self.session}/element/{one}/displayed") for one in self.find(css))

    def rectangle(self, css):
        return self.say("GET", f"{self.session}/element/{self.find(css)[0]}/rect")

    def resize(self, width):
        self.say("POST", self.session + "/window/rect", width=width, height=900)

    def close(self):
        with suppress(OSError, AttributeError):
            self.say("DELETE", self.session)
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    driver = shutil.which("chromedriver")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not driver or not chromium:
        pytest.skip("no chromium with chromedriver here (Debian: apt install chromium-driver)")
    found = Browser(driver, chromium, tmp_path_factory.mktemp("home"))
    yield found
    found.close()


def test_filters_links_and_widths(browser, tmp_path):
    rows = rows_of(3, problems=8, languages=("py", "cpp"))
    for number, row in enumerate(rows):
        row["score"] = float(not row["passed"]) + number / 1000
        row["status"] = "OK" if row["passed"] else "Timeout" if row["task_id"] < "HumanEval_4" else "Exception"
    samples = report.Samples(keep=True)
    for row in rows:
        samples.add(row)
    path = tmp_path / "page.html"
    webpage.write(str(path), report.build(samples, repeats=200), samples, "rows.jsonl")
    browser.open(path.as_uri())
    everything = browser.shown(".problem")
    counts = {}
    for mark in ("fl0", "fl1", "fs0", "fs1"):
        browser.click(f"#{mark}")
        counts[mark] = browser.shown(".problem")
        assert counts[mark] == browser.shown(f".problem.{mark}") == len(browser.find(f".problem.{mark}"))
        browser.click(f"input[name={mark[1]}]:not([id])")
        assert browser.shown(".problem") == everything
    assert 0 < counts["fl0"] < everything
    assert counts["fl0"] + counts["fl1"] == counts["fs0"] + counts["fs1"] == everything
    [first, *_] = [line for line in path.read_text().split('<div id="') if line.startswith("p-")]
    name = first.split('"')[0]
    assert not browser.shown(f"#{name}"), "closed until it is opened"
    browser.open(f"{path.as_uri()}#{name}")
    assert browser.shown(f"#{name}"), "a link to a problem opens it"
    for pixels in (800, 1280):
        browser.resize(pixels)
        [table, *_] = browser.find("table")
        width = browser.say("GET", f"{browser.session}/element/{table}/property/scrollWidth")
        assert width <= browser.say("GET", f"{browser.session}/element/{table}/property/clientWidth"), (
            "no column is cut"
        )
    for pixels in (400, 800, 1280):
        browser.resize(pixels)
        [body] = browser.find("body")
        wide = browser.say("GET", f"{browser.session}/element/{body}/property/scrollWidth")
        assert wide <= browser.say("GET", f"{browser.session}/element/{body}/property/clientWidth") + 1
