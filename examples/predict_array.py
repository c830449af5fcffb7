"""Predict from a NumPy array, such as a camera's frame, as often as frames come.

    python examples/predict_array.py runs/example
    python examples/predict_array.py convnext_tiny.in22k_in1k      # a released model, downloaded once

The model is opened once and can be of any task: a classifier, a detector or a segmenter; a run, a file or an exported file.
"""

import argparse
import time

import numpy as np

import convnext


def frames(count: int):
    """Stand in for a camera: arrays (480, 640, 3) uint8 in RGB order. OpenCV's are BGR: give `frame[..., ::-1]`."""
    y, x = np.mgrid[:480, :640]
    for i in range(count):
        inside = (x - 200 - 20 * i) ** 2 + (y - 240) ** 2 < 120**2  # a disc that moves to the right
        yield np.where(inside[..., None], (178, 34, 34), (255, 255, 255)).astype(np.uint8)


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("model", help="a run's folder, a file, or a released model")
parser.add_argument("--count", type=int, default=5, help="number of frames")
arguments = parser.parse_args()

model = convnext.load(arguments.model)
print(model)
for number, frame in enumerate(frames(arguments.count)):
    began = time.perf_counter()
    answer = model.predict(frame)
    milliseconds = 1000 * (time.perf_counter() - began)  # the first call prepares the model, so it takes longer
    print(f"frame {number}, {milliseconds:.0f} ms:", answer.summary()[0])
print(answer.to_dict())  # values for JSON, as a server would send them
