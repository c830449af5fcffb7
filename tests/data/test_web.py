"""Images from a server of the test's own: what is taken, what is refused, and how it is said."""

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO

import pytest
from PIL import Image

from convnext.data import web
from convnext.data.images import ImageError, decode
from convnext.errors import ConvNextError
from convnext.task.inputs import inputs_of


@pytest.fixture(scope="module")
def server():
    stream = BytesIO()
    Image.new("RGB", (8, 6), "red").save(stream, "PNG")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            where = {
                "/file": "file:///etc/passwd",
                "/ftp": "ftp://127.0.0.1/a",
                "/round": "/round",
                "/moved": "/cat.png",
            }
            if self.path in where:
                self.send_response(302)
                self.send_header("Location", where[self.path])
                self.end_headers()
            elif self.path == "/none.png":
                self.send_error(404)
            else:
                self.send_response(200)
                self.end_headers()
                self.wfile.write(stream.getvalue() if "cat" in self.path else b"<html>")
                if self.path == "/long-cat.png":
                    self.wfile.write(bytes(100_000))
                if self.path == "/silent-cat.png":
                    self.wfile.flush()
                    time.sleep(1)

        def log_message(self, format, *args):
            pass

    served = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=served.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{served.server_port}"
    served.shutdown()
    served.server_close()


def test_an_image_is_fetched_when_its_turn_comes(server):
    inputs, single = inputs_of(f"{server}/cat.png?size=large")
    assert single
    assert inputs[0].name == f"{server}/cat.png?size=large"
    assert inputs[0].image().size == (8, 6)
    assert inputs_of(f"{server}/moved")[0][0].image().getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/none.png", "the server answers 404"),
        ("/file", "is not allowed"),
        ("/ftp", "sends on from http to ftp"),
        ("/round", "302"),
        ("/page", "its content is none of"),
    ],
)
def test_what_is_refused_is_an_unreadable_image(server, path, reason):
    with pytest.raises(ImageError, match=reason) as error:
        inputs_of(server + path)[0][0].image()
    assert server + path in str(error.value)


def test_bytes_and_seconds_are_bounded(server, monkeypatch):
    with pytest.raises(ImageError, match="more than the 50,000 bytes"):
        web.fetch(f"{server}/long-cat.png", largest=50_000)
    assert decode(web.fetch(f"{server}/long-cat.png", largest=200_000)).size == (8, 6)
    monkeypatch.setattr(web, "SILENCE", 0.1)
    with pytest.raises(ImageError, match="timed out"):
        web.fetch(f"{server}/silent-cat.png")
    monkeypatch.setattr(web, "WHOLE", -1.0)
    with pytest.raises(ImageError, match="more than -1 seconds"):
        web.fetch(f"{server}/cat.png")


def test_no_server_there():
    with pytest.raises(ImageError, match="check the address and the network"):
        web.fetch("http://127.0.0.1:1/cat.png")


def test_the_opener_knows_no_files():
    with pytest.raises(ImageError, match="unknown url type"):
        web.fetch("file:///etc/hostname")


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("https://me:secret@example.org/cat.png", "a name and a password is not taken"),
        ("https://example.org/clip.MP4?x=1", "download .* first"),
        ("http://[::1/cat.png", "is no address"),
    ],
)
def test_addresses_that_are_never_taken(url, reason):
    with pytest.raises(ConvNextError, match=reason) as error:
        inputs_of(url)
    assert "secret" not in str(error.value)


def test_nobody_is_sent_from_https_to_http():
    import urllib.request

    redirects, asked = web._Redirects(), urllib.request.Request("https://example.org/cat.png")
    with pytest.raises(ImageError, match="from https to http"):
        redirects.redirect_request(asked, BytesIO(), 302, "", {}, "http://example.org/cat.png")
    assert redirects.redirect_request(asked, BytesIO(), 302, "", {}, "https://example.org/dog.png").full_url.endswith(
        "dog.png"
    )
