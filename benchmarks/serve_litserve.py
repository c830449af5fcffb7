"""The same model behind LitServe, as its documentation shows: `python benchmarks/serve_litserve.py MODEL PORT`.

Needs `pip install litserve`. POST /predict: {"image": base64 of an image's bytes}. Batches are as large, and waits and
deadlines as long, as those of `convnext serve`; decoder, deployed model and answers are this package's.
"""

import sys
from base64 import b64decode
from typing import Any

import litserve

import convnext
from convnext.serve.model import of_bytes
from convnext.serve.options import Limits

LIMITS = Limits()


class Api(litserve.LitAPI):
    """Decodes in the process of the model, which is how LitServe batches."""

    def __init__(self, model: str):
        super().__init__(max_batch_size=LIMITS.max_batch, batch_timeout=LIMITS.max_wait_ms / 1000)
        self.model = model

    def setup(self, device: str) -> None:
        trained = convnext.load(self.model, device="cpu")
        self.spec, (self.loaded, self.precision) = trained.spec, trained.deployed()
        self.options = self.spec.predict_options()

    def decode_request(self, request: dict) -> Any:
        image = of_bytes(b64decode(request["image"]), "image", LIMITS.max_pixels)
        return self.spec.prepare(self.loaded, image, self.options)

    def batch(self, inputs: list) -> list:
        return inputs

    def predict(self, batch: list) -> list:
        outputs = self.spec.compute(self.loaded, batch, self.precision)
        return [self.spec.finish(self.loaded, *each) for each in zip(batch, outputs, strict=True)]

    def unbatch(self, output: list) -> list:
        return output

    def encode_response(self, output: Any) -> dict:
        return output.to_dict()


if __name__ == "__main__":
    server = litserve.LitServer(Api(sys.argv[1]), accelerator="cpu", timeout=LIMITS.deadline, restart_workers=True)
    server.run("127.0.0.1", int(sys.argv[2]), log_level="critical", generate_client_file=False)
