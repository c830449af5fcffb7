"""The page in Chromium: files chosen, dropped and pasted, the slider, errors, names that hold HTML, the token, a phone's width.

With CONVNEXT_SCREENSHOTS=FOLDER the pictures of the three tasks are kept there, to be looked at.
"""

import base64
import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from served_models import Process, classifier, detector, picture, segmenter

from chromium import PROGRAM, Browser

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not PROGRAM, reason="needs Chromium (apt-get install chromium)")]
PNG = picture(0, 320, 240)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    files = [make(folder / f"{make.__name__}.safetensors") for make in (classifier, segmenter, detector)]
    with Process(*files) as server:
        yield server


@pytest.fixture
def page(server, tmp_path):
    with Browser(tmp_path / "profile") as page:
        page.open(server.url)
        page.until("document.querySelectorAll('#model option').length === 3")
        yield page
        urls = [each["request"]["url"] for each in page.seen("Network.requestWillBeSent")]
        assert all(url.startswith((server.url, "blob:", "data:")) for url in urls if url != "about:blank"), urls
        assert page.seen("Runtime.exceptionThrown") == []
        told = [each["entry"]["text"] for each in page.seen("Log.entryAdded") if each["entry"]["level"] != "verbose"]
        assert [text for text in told if "422" not in text and "ERR_CONNECTION_REFUSED" not in text] == []


def transfer(content: bytes, name: str, kind: str = "image/png") -> str:
    """JavaScript that makes a DataTransfer with a file as `moved`."""
    text = json.dumps(base64.b64encode(content).decode())
    return (
        f"const bytes = Uint8Array.from(atob({text}), c => c.charCodeAt(0)); const moved = new DataTransfer(); "
        f"moved.items.add(new File([bytes], {json.dumps(name)}, {{type: {json.dumps(kind)}}}));"
    )


def drop(page: Browser, content: bytes, name: str, kind: str = "image/png") -> None:
    events = "for (const kind of ['dragover', 'drop']) document.querySelector('#drop').dispatchEvent("
    events += "new DragEvent(kind, {dataTransfer: moved, bubbles: true, cancelable: true}));"
    page.value(f"(() => {{ {transfer(content, name, kind)} {events} }})()")


def use(page: Browser, model: str) -> None:
    page.value(f"(() => {{ const s = document.querySelector('#model'); s.value = '{model}'; "
               "s.dispatchEvent(new Event('change')); })()")  # fmt: skip


def answered(page: Browser, name: str) -> None:
    page.until(f"document.querySelector('#status').textContent === 'Answered: {name}.'")


def pictures(page: Browser, name: str, tmp_path: Path) -> None:
    """The page on a desk, on a phone and in the dark; no width needs a scroll bar."""
    folder = Path(os.environ.get("CONVNEXT_SCREENSHOTS", tmp_path))
    for view, width, dark in (("desk", 1100, False), ("phone", 390, False), ("dark", 1100, True)):
        page.screenshot(folder / f"{name}-{view}.png", width, 900, dark)
        assert page.value("document.documentElement.scrollWidth <= innerWidth")


def drawn(page: Browser) -> str:
    return page.value("document.querySelector('article canvas').toDataURL()")


def test_a_classifier_a_chosen_file_and_names_that_hold_html(page, server, tmp_path):
    file = tmp_path / "it's <i>mine.png"
    file.write_bytes(PNG)
    page.choose("#open", file)
    answered(page, "it\\'s <i>mine.png")
    shown = page.text("article")
    assert "it's <i>mine.png" in shown
    assert "<b>dog</b>" in shown
    assert "ms in the server" in shown
    assert page.value("document.querySelectorAll('b, i').length") == 0
    assert page.value("document.querySelectorAll('article meter').length") == 3
    assert "classes" in page.text("#about")
    pictures(page, "classifier", tmp_path)

    copied = page.value("[...document.querySelectorAll('article button')].map(each => each.dataset.text)")
    answer = json.loads(copied[0])
    assert answer["file"] == file.name
    if shutil.which("curl"):
        done = subprocess.run(["bash", "-c", copied[1]], cwd=tmp_path, capture_output=True, text=True)
        assert json.loads(done.stdout)["predictions"] == answer["predictions"], done


def test_a_segmenter_a_drop_and_its_slider(page, tmp_path):
    use(page, "segmenter")
    assert page.text("h1") == "segmenter"
    drop(page, PNG, "street.png")
    answered(page, "street.png")
    assert "%" in page.text("article ul")
    before = drawn(page)
    page.value("document.querySelector('article input[type=range]').focus()")
    page.press("Home", 36)
    assert page.value("document.querySelector('article input[type=range]').value") == "0"
    assert drawn(page) != before
    page.press("End", 35)
    pictures(page, "segmenter", tmp_path)


def test_a_detector_a_paste_and_its_slider(page, tmp_path):
    use(page, "detector")
    paste = "document.dispatchEvent(new ClipboardEvent('paste', {clipboardData: moved}));"
    page.value(f"(() => {{ {transfer(PNG, 'pasted.png')} {paste} }})()")
    answered(page, "pasted.png")

    def found() -> int:
        return page.value("document.querySelectorAll('article li .swatch').length")

    page.value("document.querySelector('article input[type=range]').focus()")
    page.press("Home", 36)
    many, before = found(), drawn(page)
    assert many > 1
    for _ in range(34):
        page.press("ArrowRight", 39)
    assert page.text("article output") == "0.34"
    assert found() < many
    assert drawn(page) != before
    pictures(page, "detector", tmp_path)
    page.press("End", 35)
    assert (found(), page.text("article ul")) == (0, "nothing")


def test_errors_are_those_of_the_service_and_the_next_image_is_answered(page):
    drop(page, b"hello", "<img src=x onerror=alert(1)>.txt", "text/plain")
    page.until("document.querySelector('article .bad')")
    assert "its content is none of JPEG" in page.text("article .bad")
    assert page.value("document.querySelectorAll('img').length") == 0
    drop(page, PNG, "next.png")
    answered(page, "next.png")
    assert page.value("document.querySelectorAll('article').length") == 2


def test_a_token_is_asked_for_and_used_and_a_server_that_is_gone_is_told(tmp_path):
    file = classifier(tmp_path / "m.safetensors")
    with Process(file, env={"CONVNEXT_TOKEN": "t" * 20}) as server, Browser(tmp_path / "profile") as page:
        page.open(server.url)
        page.until("!document.querySelector('#locked').classList.contains('hidden')")
        assert "needs a token" in page.text("#about")
        for token in ("wrong", "t" * 20):
            page.value("(() => { const t = document.querySelector('#token'); t.value = ''; t.focus(); })()")
            page.ask("Input.insertText", text=token)
            page.press("Enter", 13)
            page.until(f"document.querySelector('h1').textContent === '{'m' if token[0] == 't' else 'convnext'}'")
        page.until("document.querySelector('#locked').classList.contains('hidden')")
        drop(page, PNG, "a.png")
        answered(page, "a.png")
        curl = page.value("document.querySelectorAll('article button')[1].dataset.text")
        assert "Bearer $TOKEN" in curl
        assert "tttt" not in curl
        server.end(signal.SIGTERM)
        drop(page, PNG, "b.png")
        page.until("document.querySelector('article .bad')")
        assert page.text("article .bad") == "The server does not answer."
