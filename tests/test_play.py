"""The page in which a network draws: what was exported, and what a visitor sees in Chromium."""

import sys
from pathlib import Path

import pytest
import torch

from ddpm_helpers import guide, load_pretrained
from ddpm_helpers.metrics import load_feature_net
from ddpm_helpers.sampling import ddim_trajectory

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tools"))
import play

SITE = "http://course.example/below/"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site") / "play"
    try:
        play.write(folder)
    except play.Missing as missing:
        pytest.skip(str(missing))
    return folder


@pytest.fixture(scope="module")
def page(browser, folder):
    """The page as a server sends it, below a sub-path, after its first digits; nothing else is to be had."""
    page, complaints = browser.new_page(viewport={"width": 390, "height": 800}), []
    page.route("**", lambda route: route.abort())
    page.route(f"{SITE}**", lambda route: route.fulfill(path=folder.parent / route.request.url.removeprefix(SITE)))
    page.on("requestfailed", lambda request: complaints.append(request.url))
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.goto(f"{SITE}play/play.html")
    finished(page)
    yield page
    assert complaints == []
    page.close()


def finished(page) -> str:
    page.wait_for_function("/^(Four|Stopped)/.test(at('status').textContent)", timeout=180_000)
    return page.locator("#status").inner_text()


def numbers(page, what: str = "frames.at(-1).x") -> torch.Tensor:
    return torch.tensor(page.evaluate(f"(async () => [...{what}])()")).reshape(-1, 1, 28, 28)


def shown(page) -> torch.Tensor:
    """The upper row of pictures, (4, 1, 28, 28) in [-1, 1]."""
    grey = "c => [...c.getContext('2d').getImageData(0, 0, 28, 28).data].filter((_, i) => i % 4 === 0)"
    return numbers(page, f"[...at('noisy').children].flatMap({grey})") / 127.5 - 1


@pytest.mark.parametrize(("count", "t"), [(1, 1), (3, 400), (8, 1000), (11, 20)])
def test_the_exported_network_is_the_network(page, count, t):
    """As it runs in the page: with every label, and any number of images."""
    x, labels = torch.randn(count, 1, 28, 28, generator=torch.Generator().manual_seed(count)), list(range(count))
    found = numbers(page, f"await run(session, Float32Array.from({x.flatten().tolist()}), {t}, {labels})")
    with torch.no_grad():
        expected = load_pretrained("mnist_labels").model(x, torch.full((count,), t), torch.tensor(labels))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("digit", "scale"), [(3, 0), (3, 1), (3, 2.5), (10, 2.5)])
def test_the_sampler_is_that_of_the_course(page, digit, scale):
    model, schedule, _ = load_pretrained("mnist_labels")
    guided, label = guide(model, 0 if digit == 10 else scale), torch.tensor([digit % 10])
    steps = list(ddim_trajectory(lambda x, t: guided(x, t, label), schedule, numbers(page, "noise(5, 0)"), steps=7))
    page.evaluate(
        "async wish => { window.all = []; for await (const s of trajectory(session, noise(5, 0), wish)) all.push(s) }",
        {"digit": digit, "scale": scale, "steps": 7},
    )
    assert page.evaluate("all.map(step => step.t)") == [step.t for step in steps]
    for i in (3, 6):  # half-way, and the end; near t = T the clean image is a quotient of tiny numbers
        found = numbers(page, f"all[{i}].x"), numbers(page, f"all[{i}].clean")
        torch.testing.assert_close(found, (steps[i].x, steps[i].x0_hat), atol=1e-4, rtol=0)


def test_noise_is_normal_and_every_image_has_its_own(page):
    x = torch.cat([numbers(page, f"noise({seed}, {i})") for seed in (0, 1, 2, 999_999_999) for i in range(4)])
    x = x.flatten(1)
    assert x.mean(1).abs().max() < 4 / 28
    assert (x.std(1) - 1).abs().max() < 0.1
    assert (x.corrcoef() - torch.eye(len(x))).abs().max() < 4.5 / 28


def test_digits_come_out_as_asked(page):
    net, right = load_feature_net(), 0
    page.locator("#steps").fill("10")
    for digit in range(10):
        page.get_by_role("radio", name=str(digit)).check()
        page.get_by_role("button", name="Draw", exact=True).click()
        assert f"times the digit {digit}" in finished(page)
        right += (net(shown(page)).argmax(1) == digit).sum().item()
    assert right >= 0.8 * 40, f"{right} of 40 digits are read as asked"


def test_controls(page):
    """By keyboard; what is no seed is not drawn; a drawing can be stopped, and looked at step by step."""
    draw, status = page.locator("#draw"), page.locator("#status")
    page.locator("#steps").fill("50")
    page.get_by_role("radio", name="9").press("ArrowRight")
    assert page.get_by_role("slider", name="Guidance").is_disabled(), "towards what?"
    page.keyboard.press("Enter")
    draw.press("Enter")
    assert finished(page).startswith("Stopped after step")
    for wrong in ("", "1.5", "-1"):
        page.get_by_role("spinbutton", name="Seed").fill(wrong)
        draw.press("Enter")
        assert page.locator("#seed:invalid").count() == 1
        assert "Stopped" in status.inner_text()
    page.locator("#steps").fill("2")
    page.get_by_role("button", name="another").press("Enter")
    assert "any kind" in finished(page)
    for key, place, t in (("Home", 0, 1000), ("ArrowRight", 1, 500), ("End", 2, 0)):
        page.get_by_role("slider", name="Look at a step").press(key)
        assert page.locator("#step").get_attribute("aria-valuetext") == f"{place} of 2, t = {t}"
        torch.testing.assert_close(shown(page), numbers(page, f"frames[{place}].x").clamp(-1, 1), atol=0.004, rtol=0)


def test_from_a_folder_in_the_dark_it_is_the_same(browser, folder, page):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    dark = browser.new_page(color_scheme="dark")
    dark.goto((folder / "play.html").as_uri())
    finished(dark)
    page.evaluate("at('wish').reset(), draw()")
    assert torch.equal(numbers(dark), numbers(page))
    for each in (dark, page):
        assert axe.Axe().run(each).response["violations"] == []
        assert each.evaluate("document.documentElement.scrollWidth") == each.viewport_size["width"]
    dark.close()


def test_without_webassembly_it_shows_the_moving_picture(browser, folder):
    page = browser.new_page()
    page.add_init_script("delete window.WebAssembly")
    page.goto((folder / "play.html").as_uri())
    assert page.get_by_text("it needs scripts and WebAssembly").is_visible()
    assert page.get_by_role("img", name="Thirty-two squares").evaluate("image => image.decode().then(() => true)")
    assert not page.locator("#wish").is_visible()
    page.close()


@pytest.mark.parametrize("npm", [None, sys.executable], ids=["no npm", "npm fails"])
def test_without_npm_there_is_a_sentence_and_no_page(tmp_path, monkeypatch, capsys, npm):
    monkeypatch.setattr(play, "PLAY", tmp_path / "play")
    monkeypatch.setattr(play.shutil, "which", lambda _: npm)
    play.PLAY.mkdir()  # an older one
    assert play.main() == 0
    assert "No page with a network in it: npm" in capsys.readouterr().out
    assert not play.PLAY.exists()


def test_another_package_is_refused(tmp_path):
    (tmp_path / "package.tgz").write_bytes(b"not what was tried")
    with pytest.raises(SystemExit, match="SHA-512"):
        play.files_of(tmp_path / "package.tgz")
