"""The same model in a plain FastAPI application, one `predict` per request: `python benchmarks/serve_fastapi.py MODEL PORT`.

POST /predict: an image's bytes (pip install fastapi). The predictions run in FastAPI's thread pool.
"""

import sys
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool

import convnext

app = FastAPI()


@app.post("/predict")
async def predict(request: Request) -> Any:
    content = await request.body()
    return (await run_in_threadpool(model.predict, content)).to_dict()


if __name__ == "__main__":
    model = convnext.load(sys.argv[1], device="cpu")
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[2]), log_level="critical", access_log=False)
