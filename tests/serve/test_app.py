"""The routes of a service, asked in this process: answers equal those of `predict --json`, every refusal has its code."""

import asyncio
import base64
import json
from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from served_models import Asked, classifier, picture, service_of, told

import convnext
from convnext.cli.main import run as command
from convnext.serve.options import Limits

PICTURES = [picture(0), picture(1, 64, 90, "JPEG"), picture(2, 80, 60, "WEBP")]


@pytest.fixture(scope="module")
def service(models):
    return service_of(models)


def ask(service, conversation, **headers):
    """Run a coroutine function with a client of the service."""

    async def within():
        async with asyncio.timeout(30), Asked(service, **headers) as client:
            return await conversation(client)

    return asyncio.run(within())


def post(service, *args, **options):
    return ask(service, lambda client: client.post(*args, **options))


def expected_of(file, contents, folder, capsys) -> list[dict]:
    """The lines of `predict --json` for images, which are written to the folder as 0.image, 1.image, .."""
    files = [folder / f"{i}.image" for i in range(len(contents))]
    for path, content in zip(files, contents, strict=True):
        path.write_bytes(content)
    assert command(["predict", str(file), *map(str, files), "--json", "--device", "cpu"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    return [{**line, "file": path.name} for line, path in zip(lines, files, strict=True)]


def singles(service, name) -> list[dict]:
    """Answers for one image a request."""
    headers = [{"X-File-Name": f"{i}.image"} for i in range(len(PICTURES))]
    return [
        post(service, f"/predict/{name}", content=content, headers=each).json()
        for content, each in zip(PICTURES, headers, strict=True)
    ]


def together(service, name) -> list[dict]:
    """Answers for all images in one form, those of one shape in one batch."""
    form = [("images", (f"{i}.image", content)) for i, content in enumerate(PICTURES)]
    return post(service, f"/predict/{name}", files=form).json()


@pytest.mark.parametrize("name", ["classifier", "segmenter"])
def test_answers_are_those_of_the_command_predict(service, models, name, tmp_path, capsys):
    expected = expected_of(models[name], PICTURES, tmp_path, capsys)
    assert singles(service, name) == expected
    assert together(service, name) == expected


@pytest.mark.slow
def test_a_detector_s_answers_are_those_of_the_command_predict(detector_file, tmp_path, capsys):
    service = service_of({"detector": detector_file})
    expected = expected_of(detector_file, PICTURES, tmp_path, capsys)
    assert singles(service, "detector") == expected
    for found, line in zip(together(service, "detector"), expected, strict=True):
        assert [each["class"] for each in found["objects"]] == [each["class"] for each in line["objects"]]
        for key, slack in (("score", 2e-6), ("box", 0.011)):  # their roundings in JSON
            ours, theirs = ([np.ravel(each[key]) for each in answer["objects"]] for answer in (found, line))
            assert np.abs(np.concatenate(ours) - np.concatenate(theirs)).max() <= slack

    objects, drawn, bare = (
        post(service, f"/predict/detector?masks={form}", content=PICTURES[0]).json()["objects"]
        for form in ("rle", "png", "none")
    )
    assert Image.open(BytesIO(base64.b64decode(drawn[0]["mask"]))).size == (80, 60)
    assert [{k: v for k, v in each.items() if k != "mask"} for each in objects] == bare


def test_a_broken_image_fails_alone(service):
    form = [("a", ("good.png", PICTURES[0])), ("b", ("bad.png", PICTURES[0][:60])), ("c", ("text.txt", b"hello"))]
    answers = post(service, "/predict", files=form).json()
    assert "predictions" in answers[0]
    assert "Cannot read 'bad.png': it is truncated or corrupt" in answers[1]["error"]
    assert "Cannot read 'text.txt': its content is none of JPEG" in answers[2]["error"]
    alone = post(service, "/predict", content=b"hello")
    assert alone.status_code == 422
    assert alone.json()["error"].startswith("Cannot read 'image': its content is none of")


def test_options_and_masks(service):
    assert len(post(service, "/predict?top_k=2", content=PICTURES[0]).json()["predictions"]) == 2
    for query, sentence in {
        "top_k=0": "top-k is 0; it must be at least 1",
        "top_k=x": "top-k",
        "masks=tiff": "masks is one of rle, png, none",
        "topk=2": "There is no option 'topk'; there are: top_k, masks",
    }.items():
        refused = post(service, f"/predict?{query}", content=PICTURES[0])
        assert refused.status_code == 400
        assert sentence in told(refused)

    found = post(service, "/predict/segmenter?masks=png", content=PICTURES[0]).json()
    labels = np.asarray(Image.open(BytesIO(base64.b64decode(found["labels"]))))
    assert labels.shape == (60, 80)
    runs = post(service, "/predict/segmenter?masks=rle", content=PICTURES[0]).json()["masks"]
    assert runs.keys() == found["colours"].keys()
    total = 0
    for name, mask in runs.items():
        values = np.repeat(np.arange(len(mask["counts"])) % 2, mask["counts"]).reshape(mask["size"], order="F")
        assert np.array_equal(values, labels == service.models["segmenter"].version.loaded.classes.index(name))
        total += values.sum()
    assert total == 60 * 80


def test_codes_of_limits(models):
    limits = Limits(max_body=2000, max_files=2, max_pixels=5000)
    service = service_of({"m": models["classifier"]}, limits)

    def png(size):
        stream = BytesIO()
        Image.new("RGB", size).save(stream, "PNG")
        return stream.getvalue()

    for body, code in {
        b"": 422,
        b"x" * 2000: 422,
        b"x" * 2001: 413,
        png((50, 100)): 200,
        png((50, 101)): 422,
    }.items():
        assert post(service, "/predict", content=body).status_code == code

    async def chunks():
        for _ in range(3):
            yield b"x" * 667

    assert post(service, "/predict", content=chunks()).status_code == 413
    too_large = post(service, "/predict", content=png((50, 101)))
    assert "its 50 x 101 pixels are more than the limit of 5,000" in too_large.json()["error"]
    for files, code in {1: 200, 2: 200, 3: 413, 10: 413}.items():
        form = [("images", (f"{i}.png", png((8, 8)))) for i in range(files)]
        assert post(service, "/predict", files=form).status_code == code
    gzip = post(service, "/predict", content=png((8, 8)), headers={"Content-Encoding": "gzip"})
    assert gzip.status_code == 415
    assert service.bodies.taken == 0


@pytest.mark.parametrize(
    "content",
    [
        b"--b\r\n",
        b"nonsense",
        b"--b\r\nContent-Disposition: form-data; name=a; filename=x\r\n\r\ndata",
        b"--b\r\n\r\n\r\n--bx",
        b"",
    ],
)
def test_a_damaged_form_is_refused(service, content):
    refused = post(service, "/predict", content=content, headers={"Content-Type": "multipart/form-data; boundary=b"})
    assert refused.status_code in (400, 422)
    no_boundary = post(service, "/predict", content=content, headers={"Content-Type": "multipart/form-data"})
    assert no_boundary.status_code == 400


def test_wrong_names_methods_and_hosts(service):
    assert "Did you mean 'classifier'?" in told(post(service, "/predict/classifer", content=PICTURES[0]))
    assert post(service, "/predict/none").status_code == 404
    assert post(service, "/nothing").status_code == 404
    assert ask(service, lambda client: client.get("/predict")).status_code == 405
    assert post(service, "/admin/reload").status_code == 404  # off unless asked for
    assert post(service, "/predict", headers={"Host": "evil.example"}).status_code == 421
    assert post(service, "/predict", headers={"Host": "[::1]:80"}, content=PICTURES[0]).status_code == 200
    assert post(service, "/predict", headers={"Origin": "http://evil.example"}).status_code == 403
    assert post(service, "/predict", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403


def test_a_token_is_asked_for(models):
    service = service_of({"m": models["classifier"]}, token="t" * 20)
    for path in ("/predict", "/metrics", "/models", "/v2/models/m"):
        refused = ask(service, lambda client, path=path: client.request("POST" if "pred" in path else "GET", path))
        assert refused.status_code == 401
    assert post(service, "/predict", content=PICTURES[0], headers={"Authorization": "Bearer wrong"}).status_code == 401
    right = {"Authorization": f"Bearer {'t' * 20}"}
    assert post(service, "/predict", content=PICTURES[0], headers=right).status_code == 200
    assert ask(service, lambda client: client.get("/v2/health/ready")).status_code == 200


def test_headers_and_no_path_of_the_server(service, models):
    async def all_pages(client):
        paths = ("/", "/models", "/metrics", "/openapi.json", "/v2", "/v2/models/classifier", "/nothing")
        pages = [await client.get(path) for path in paths]
        return [*pages, await client.post("/predict", content=PICTURES[0]), await client.post("/predict", content=b"x")]

    for page in ask(service, all_pages):
        assert str(models["classifier"].parent) not in page.text
        assert page.headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in page.headers["content-security-policy"]


def test_a_full_queue_answers_at_once_and_the_others_are_answered(models):
    service = service_of({"m": models["classifier"]}, Limits(queue=3, max_batch=2))

    async def storm(client):
        return await asyncio.gather(*(client.post("/predict", content=PICTURES[0]) for _ in range(12)))

    replies = ask(service, storm)
    codes = [reply.status_code for reply in replies]
    assert set(codes) == {200, 503}
    assert codes.count(200) >= 3
    assert all(int(reply.headers["retry-after"]) >= 1 for reply in replies if reply.status_code == 503)
    assert service.models["m"].batcher.places == 0
    assert post(service, "/predict", content=PICTURES[0]).status_code == 200


def test_a_deadline_is_kept_and_what_is_late_is_not_computed(service):
    calls = []
    served = service.models["classifier"]
    compute = served.batcher.compute

    async def slow(items):
        calls.append(len(items))
        await asyncio.sleep(0.3)
        return await compute(items)

    served.batcher.compute = slow

    async def conversation(client):
        long = asyncio.create_task(client.post("/predict", content=PICTURES[0]))
        while not calls:
            await asyncio.sleep(0.01)
        late = await client.post("/predict", content=PICTURES[0], headers={"X-Deadline-Seconds": "0.1"})
        return late, await long

    try:
        late, long = ask(service, conversation)
    finally:
        served.batcher.compute = compute
    assert (late.status_code, long.status_code, calls) == (504, 200, [1])
    assert post(service, "/predict", content=b"x", headers={"X-Deadline-Seconds": "nan"}).status_code == 400


def test_while_draining_nothing_new_is_accepted(models):
    service = service_of({"m": models["classifier"]})
    service.draining = True
    assert ask(service, lambda client: client.get("/v2/health/ready")).status_code == 503
    assert ask(service, lambda client: client.get("/v2/health/live")).status_code == 200
    refused = post(service, "/predict", content=PICTURES[0])
    assert (refused.status_code, refused.headers["connection"]) == (503, "close")


def test_a_reload_swaps_the_model_and_a_damaged_file_does_not(tmp_path):
    file = classifier(tmp_path / "m.safetensors", 0)
    service = service_of({"m": file}, admin=True)
    first = post(service, "/predict", content=PICTURES[0])
    classifier(file, 1)
    assert post(service, "/predict", content=PICTURES[0]).json() == first.json()
    assert post(service, "/admin/reload").json() == {"versions": {"m": 2}}
    second = post(service, "/predict", content=PICTURES[0])
    assert second.headers["x-model-version"] == "2"
    assert second.json() != first.json()
    content = bytearray(file.read_bytes())
    content[-20] ^= 1
    file.write_bytes(content)
    refused = post(service, "/admin/reload")
    assert refused.status_code == 409
    assert str(tmp_path) not in refused.text
    assert post(service, "/predict", content=PICTURES[0]).json() == second.json()


def test_the_model_s_errors_do_not_reach_the_client(service, monkeypatch, capsys):
    served = service.models["classifier"]

    def broken(batch):
        return [RuntimeError("/home/somebody/model.onnx is gone")] * len(batch)

    monkeypatch.setattr(type(served.version), "compute", lambda self, batch: broken(batch))
    refused = post(service, "/predict", content=PICTURES[0])
    assert refused.status_code == 500
    assert "/home" not in refused.text
    assert "/home/somebody" in capsys.readouterr().err


def test_the_open_inference_protocol(service, models):
    expected = convnext.load(models["classifier"], device="cpu").predict(PICTURES[0])
    b64 = base64.b64encode(PICTURES[0]).decode()
    tensor = {"name": "images", "datatype": "BYTES", "shape": [2], "data": [b64, b64]}
    reply = post(service, "/v2/models/classifier/infer", json={"id": "7", "inputs": [tensor]}).json()
    assert (reply["id"], reply["model_name"]) == ("7", "classifier")
    outputs = {each["name"]: each for each in reply["outputs"]}
    assert json.loads(outputs["predictions"]["data"][1])["predictions"] == expected.to_dict()["predictions"]
    assert outputs["probabilities"]["shape"] == [2, 3]
    assert outputs["probabilities"]["data"][:3] == pytest.approx(expected.probabilities.tolist(), abs=1e-6)

    pixels = np.asarray(Image.open(BytesIO(PICTURES[0])))
    array = {"name": "images", "datatype": "UINT8", "shape": [1, *pixels.shape], "data": pixels.ravel().tolist()}
    flat = post(service, "/v2/models/classifier/infer", json={"inputs": [array]}).json()
    assert flat["outputs"][1]["data"] == pytest.approx(expected.probabilities.tolist(), abs=1e-6)

    head = json.dumps(
        {"inputs": [{"name": "images", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": 0}}]}
    ).encode()
    binary = head + len(PICTURES[0]).to_bytes(4, "little") + PICTURES[0]
    headers = {"Inference-Header-Content-Length": str(len(head))}
    same = post(service, "/v2/models/classifier/infer", content=binary, headers=headers).json()
    assert same["outputs"][0]["data"][0] == outputs["predictions"]["data"][0]
    cut = post(service, "/v2/models/classifier/infer", content=binary[:-1], headers=headers)
    assert cut.status_code == 400

    for body, code in {
        "{": 400,
        "[]": 400,
        '{"inputs": []}': 400,
        json.dumps({"inputs": [{**tensor, "data": ["!", "!"]}]}): 422,
        json.dumps({"inputs": [{**tensor, "shape": [3]}]}): 400,
        json.dumps({"inputs": [{**tensor, "shape": [1000]}]}): 413,
        json.dumps({"inputs": [{**array, "shape": [1, 1 << 20, 1 << 20, 3]}]}): 422,
        json.dumps({"inputs": [{**array, "datatype": "FP64"}]}): 400,
    }.items():
        assert post(service, "/v2/models/classifier/infer", content=body.encode()).status_code == code


def test_metrics_count_by_code_and_phase(models):
    service = service_of({"m": models["classifier"]})
    post(service, "/predict", content=PICTURES[0])
    post(service, "/predict", content=b"x")
    text = ask(service, lambda client: client.get("/metrics")).text
    assert 'convnext_requests_total{code="200",route="/predict"} 1.0' in text
    assert 'convnext_requests_total{code="422",route="/predict"} 1.0' in text
    assert 'convnext_batch_images_count{model="m"} 1.0' in text
    assert 'convnext_queue_images{model="m"} 0.0' in text
    assert 'convnext_phase_seconds_count{model="m",phase="decode"} 2.0' in text


def test_the_description_names_every_route(service):
    document = ask(service, lambda client: client.get("/openapi.json")).json()
    described = {(path, method.upper()) for path, methods in document["paths"].items() for method in methods}
    app = Asked(service).client._transport.app.app
    there = {(route.path, method) for route in app.routes for method in route.methods if method != "HEAD"}
    assert there - described == {("/", "GET"), ("/openapi.json", "GET")}
    assert described <= there
