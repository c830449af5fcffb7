import hashlib
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch

from convnext import models, paper
from convnext.errors import ConvNextError
from convnext.tasks import of_model
from convnext.weights import catalog, download
from convnext.weights.load import load_model
from convnext.weights.save import save_weights

NAME, FILE = "convnext_tiny.in1k", "convnext_tiny_1k_224_ema.pth"
CONTENT = bytes(range(256)) * 1000


class Server(ThreadingHTTPServer):
    """Serves CONTENT as FILE. `sends` limits the bytes of the next answers, after which the connection breaks."""

    sends: list[int]
    asked: list[str | None]


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        span = self.headers["Range"]
        self.server.asked.append(span)
        start = int(span.removeprefix("bytes=").rstrip("-")) if span else 0
        if self.path != f"/{FILE}" or start >= len(CONTENT):
            self.send_error(416 if self.path == f"/{FILE}" else 404)
            return
        body = CONTENT[start:]
        self.send_response(206 if span else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: self.server.sends.pop(0)] if self.server.sends else body)

    def log_message(self, format, *args):
        pass


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CONVNEXT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def server(cache, monkeypatch):
    with Server(("127.0.0.1", 0), Handler) as server:
        server.sends, server.asked = [], []
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setenv("CONVNEXT_MIRROR", f"http://127.0.0.1:{server.server_port}/")
        yield server
        server.shutdown()


def test_every_released_file_is_there_once():
    assert len(catalog.names()) == len({entry.file for entry in catalog.ENTRIES}) == 40
    tasks = [of_model(entry.model).name for entry in catalog.ENTRIES]
    assert {task: tasks.count(task) for task in set(tasks)} == {"classification": 27, "detection": 7, "segmentation": 6}
    for entry in catalog.ENTRIES:
        if entry.model in models.names():
            assert (entry.num_classes, entry.preprocess["size"]) == (
                21841 if "_22k_224" in entry.file else 1000,
                384 if "384" in entry.file else 224,
            )
            assert entry.preprocess["crop_ratio"] == (1.0 if entry.preprocess["size"] == 384 else 0.875)


def paper_metrics(entry):
    """What the paper prints for the model of a released file."""
    pretrain = "22k" if "in22k" in entry.name else "1k"
    backbone = entry.model[entry.model.index("convnext") :]
    if "rcnn" in entry.model:
        row = paper.detection(backbone, "cascade" if "cascade" in entry.model else "mask", pretrain)
        return {"box_ap": row.box_ap, "mask_ap": row.mask_ap}
    if "upernet" in entry.model:
        row = paper.segmentation(backbone, pretrain)
        return {"miou": row.miou_single_scale, "miou_ms": row.miou_multi_scale}
    if "isotropic" in entry.model:
        return {"top1": paper.isotropic(backbone).top1}
    return {"top1": paper.classification(backbone, entry.preprocess["size"]).top1(pretrain)}


def test_released_files_measure_what_the_paper_prints():
    differ = set()
    for entry in catalog.ENTRIES:
        published = {metric: value for metric, value in entry.metrics.items() if metric != "top5"}
        if published and published != pytest.approx(paper_metrics(entry), abs=0.05):
            differ.add(entry.name)
    assert differ == {"convnext_isotropic_small.in1k"}  # 78.7 with the file, 79.7 in Table 2


def test_an_entry():
    entry = catalog.get("cascade_mask_rcnn_convnext_base.in22k_coco")
    assert entry.url == "https://dl.fbaipublicfiles.com/convnext/coco/cascade_mask_rcnn_convnext_base_22k_3x.pth"
    assert entry.metrics == {"box_ap": 54.0, "mask_ap": 46.9}
    assert entry.metrics_text == "box_ap 54.0, mask_ap 46.9"
    assert catalog.get("convnext_base.in22k_in1k").metrics == {"top1": 85.82, "top5": 97.868}
    with pytest.raises(ConvNextError, match=r"Did you mean 'convnext_base\.in22k_in1k'"):
        catalog.get("convnext_base.in22k_1k")


def test_the_catalog_needs_no_torch():
    code = "import sys, convnext.weights.catalog; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_download_is_kept_and_used_offline(server, cache, monkeypatch):
    progress = []
    file = catalog.fetch(NAME, lambda done, total: progress.append((done, total)))
    assert file == cache / FILE
    assert file.read_bytes() == CONTENT
    assert progress[-1] == (len(CONTENT), len(CONTENT))
    assert (cache / f"{FILE}.sha256").read_text() == f"{hashlib.sha256(CONTENT).hexdigest()}  {FILE}\n"
    monkeypatch.setenv("CONVNEXT_MIRROR", "http://127.0.0.1:9")  # nobody is there
    assert catalog.resolve(NAME) == file
    assert len(server.asked) == 1


def test_a_broken_download_is_continued(server, cache):
    server.sends = [1000, 50_000]
    for arrived in (1000, 51_000):
        with pytest.raises(ConvNextError, match=f"broke off after {arrived} of 256000 bytes. .*try again"):
            catalog.fetch(NAME)
    assert not (cache / FILE).exists()
    assert catalog.fetch(NAME).read_bytes() == CONTENT
    assert server.asked == [None, "bytes=1000-", "bytes=51000-"]
    assert not (cache / f"{FILE}.part").exists()


def test_a_part_with_nothing_to_follow_is_started_again(server, cache):
    cache.mkdir()
    (cache / f"{FILE}.part").write_bytes(b"x" * (len(CONTENT) + 1))
    assert catalog.fetch(NAME).read_bytes() == CONTENT


def test_a_file_that_has_changed_is_noticed(server, cache):
    file = catalog.fetch(NAME)
    file.write_bytes(CONTENT[:-1])
    with pytest.raises(ConvNextError, match="Delete it"):
        catalog.fetch(NAME)
    with pytest.raises(ConvNextError, match="should be 00"):
        download.verify(file, "00")


@pytest.mark.parametrize("record", [b"", b"\n", b"nonsense", b"\xff\xfe" * 40, b"0" * 63, b"  " + b"0" * 64])
def test_a_damaged_record_is_written_again(record, server, cache):
    file = catalog.fetch(NAME)
    beside = cache / f"{FILE}.sha256"
    whole = beside.read_bytes()
    beside.write_bytes(record)
    assert catalog.fetch(NAME) == file
    assert beside.read_bytes() == whole
    file.write_bytes(CONTENT[:-1])
    with pytest.raises(ConvNextError, match="Delete it"):
        catalog.fetch(NAME)


def test_the_first_digits_of_a_hash_are_enough(server, cache):
    file = catalog.fetch(NAME)
    download.verify(file, hashlib.sha256(CONTENT).hexdigest()[:8])


def test_no_network_and_no_such_file(server, cache, monkeypatch):
    with pytest.raises(ConvNextError, match=r"answers 404 .*CONVNEXT_MIRROR"):
        catalog.fetch("convnext_small.in1k")
    monkeypatch.setenv("CONVNEXT_MIRROR", "http://127.0.0.1:9")
    with pytest.raises(ConvNextError, match=rf"could not be downloaded: .*put the file at {cache / FILE}"):
        catalog.fetch(NAME)


def test_a_cache_that_cannot_be_written(server, cache):
    cache.mkdir()
    (cache / f"{FILE}.part").mkdir()
    with pytest.raises(ConvNextError, match="could not be written"):
        catalog.fetch(NAME)


def test_a_local_folder_as_mirror(cache, tmp_path, monkeypatch):
    monkeypatch.setenv("CONVNEXT_MIRROR", str(tmp_path))
    with pytest.raises(ConvNextError, match="has neither"):
        catalog.fetch("upernet_convnext_tiny.ade20k_512")
    for place in ("ade20k/upernet_convnext_tiny_1k_512x512.pth", "upernet_convnext_small_1k_512x512.pth"):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / place).write_bytes(CONTENT)
    assert catalog.fetch("upernet_convnext_tiny.ade20k_512").read_bytes() == CONTENT
    assert catalog.fetch("upernet_convnext_small.ade20k_512").read_bytes() == CONTENT
    assert not cache.exists()


def test_a_name_works_wherever_a_file_does(tmp_path, monkeypatch):
    monkeypatch.setenv("CONVNEXT_MIRROR", str(tmp_path))
    source = models.build("convnext_atto", num_classes=4)
    save_weights(source, tmp_path / "convnext_base_1k_384.pth", "official")
    model, checkpoint = load_model("convnext_base.in1k_384")
    assert torch.equal(model.head.weight, source.head.weight)
    assert checkpoint.metadata["preprocess"] == {
        "size": 384, "crop_ratio": 1.0, "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)
    }  # fmt: skip
    assert checkpoint.metadata["metrics"] == {"top1": 85.1}
