"""The page in which a network draws: what was exported, and what a visitor sees in Chromium."""

import functools
import http.server
import sys
import threading
from pathlib import Path

import pytest
import torch

from ddpm_helpers import guide, load_pretrained
from ddpm_helpers.metrics import load_feature_net
from ddpm_helpers.sampling import ddim_trajectory

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))
import play  # noqa: E402

COUNT = 4  # images on the page


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    try:
        made = tmp_path_factory.mktemp("site") / "below" / "play"
        play.write(made)
    except play.Missing as missing:
        pytest.skip(str(missing))
    return made


@pytest.fixture(scope="module")
def page(browser, folder):
    """The page on a server, below a sub-path, after its first digits; it asked for nothing outside of its folder."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder.parents[1])
    handler.log_message = lambda *_: None
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/below/play/"
        page, asked, said = browser.new_page(viewport={"width": 390, "height": 800}), [], []
        page.on("request", lambda request: asked.append(request.url.removeprefix("blob:")))
        page.on("console", lambda message: said.append(message.text))
        page.goto(f"{address}play.html")
        finished(page)
        assert all(url.startswith(address[: address.index("/below")]) for url in asked), asked
        assert not said, said
        yield page
        page.close()
        server.shutdown()


def finished(page) -> str:
    page.wait_for_function("/^(Four|Stopped)/.test(at('status').textContent)", timeout=180_000)
    return page.locator("#status").inner_text()


def drawn(page, what: str = "frames.at(-1).x") -> torch.Tensor:
    return torch.tensor(page.evaluate(f"[...{what}]")).reshape(-1, 1, 28, 28)


@pytest.mark.parametrize("count", [1, 3, 8])
def test_the_exported_network_is_the_network(page, count):
    """In the page that draws with it, with every label, and with any number of images."""
    model = load_pretrained("mnist_labels").model
    x = torch.randn(count, 1, 28, 28, generator=torch.Generator().manual_seed(count))
    for t in (1, 400, 1000):
        labels = [(t + i) % 11 for i in range(count)]
        eps = page.evaluate(
            "async ([x, t, labels]) => [...await run(session, Float32Array.from(x), t, labels)]",
            [x.flatten().tolist(), t, labels],
        )
        with torch.no_grad():
            expected = model(x, torch.full((count,), t), torch.tensor(labels))
        torch.testing.assert_close(torch.tensor(eps).reshape(x.shape), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("digit", "scale"), [(3, 0), (3, 1), (3, 2.5), (10, 2.5)])
def test_the_sampler_is_that_of_the_course(page, digit, scale):
    model, schedule, _ = load_pretrained("mnist_labels")
    x = drawn(page, "noise(5, 0)")
    with torch.no_grad():
        guided, label = guide(model, 0 if digit == 10 else scale), torch.tensor([digit % 10])
        *_, expected = ddim_trajectory(lambda x, t: guided(x, t, label), schedule, x, steps=7)
    page.evaluate(
        """async ([x, wish]) => {
            for await (const step of trajectory(session, Float32Array.from(x), wish)) window.last = step
        }""",
        [x.flatten().tolist(), {"digit": digit, "scale": scale, "steps": 7}],
    )
    print((drawn(page, "last.x") - expected.x).abs().max(), (drawn(page, "last.clean") - expected.x0_hat).abs().max())
    assert page.evaluate("last.t") == 0
    torch.testing.assert_close(drawn(page, "last.x"), expected.x, atol=0.02, rtol=0)
    torch.testing.assert_close(drawn(page, "last.clean"), expected.x0_hat, atol=0.02, rtol=0)


def test_noise_is_normal_and_every_image_has_its_own(page):
    x = torch.cat([drawn(page, f"noise({seed}, {image})") for seed in (0, 1, 2, 999_999_999) for image in range(COUNT)])
    assert x.flatten(1).mean(1).abs().max() < 4 / 28
    assert (x.flatten(1).std(1) - 1).abs().max() < 0.1
    assert (x.flatten(1).corrcoef() - torch.eye(len(x))).abs().max() < 4.5 / 28
    assert x.abs().max() > 3.5
    assert torch.equal(x[:1], drawn(page, "noise(0, 0)"))


def test_digits_come_out_as_asked(page):
    net, right = load_feature_net(), 0
    page.locator("#steps").fill("10")
    for digit in range(10):
        page.get_by_role("radio", name=str(digit)).check()
        page.get_by_role("button", name="Draw", exact=True).click()
        assert f"times the digit {digit}" in finished(page)
        right += (net(drawn(page)).argmax(1) == digit).sum().item()
    print(f"{right} of {10 * COUNT} digits are read as asked")
    assert right >= 8 * COUNT
