"""What holds for all tests."""

import shutil
import signal
from pathlib import Path

import pytest

# Whoever starts the tests with `&` or nohup lets them ignore Ctrl-C, which some of them send.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="module")
def browser():
    """The system's Chromium, else the one that `playwright install chromium` put in place."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install -e '.[test]'")
    with api.sync_playwright() as playwright:
        names = ("chromium", "chromium-browser", "google-chrome")
        found = next(filter(None, map(shutil.which, names)), playwright.chromium.executable_path)
        if not Path(found).exists():
            pytest.skip("there is no Chromium here: apt-get install chromium, or playwright install chromium")
        running = playwright.chromium.launch(executable_path=found)
        yield running
        running.close()
