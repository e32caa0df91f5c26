"""Runs MediaPipe's face mesh on frames from standard input. A script for an environment of its own: it is run by path
and imports nothing of this project (see `mvp4d_jax/tracking/detector.py`).

In: one line of JSON {"frames", "faces", "video"}, then each frame: height and width as little-endian uint32, raw RGB.
Out: an npz at the path given as argument with `faces` [F, K, 478, 2] in pixels, NaN where there is no face.
Progress: the number of each finished frame, one a line, on standard output.
"""

import json
import sys

import mediapipe
import numpy as np


def main() -> None:
    facts = json.loads(sys.stdin.buffer.readline())
    count = facts["faces"]
    found = np.full((facts["frames"], count, 478, 2), np.nan, np.float32)
    with make_mesh(count, still=not facts["video"]) as mesh, make_mesh(count, still=True) as careful:
        for frame in range(facts["frames"]):
            height, width = np.frombuffer(sys.stdin.buffer.read(8), "<u4").tolist()
            data = sys.stdin.buffer.read(width * height * 3)
            picture = np.frombuffer(data, np.uint8).reshape(height, width, 3)
            points = detect(mesh, picture)
            if not points and not found_recently(found, frame):
                points = search(careful, picture)
            for index, face in enumerate(points[:count]):
                found[frame, index] = face
            print(frame, flush=True)
    np.savez(sys.argv[1], faces=found)


def make_mesh(count: int, still: bool) -> object:
    return mediapipe.solutions.face_mesh.FaceMesh(
        static_image_mode=still,
        max_num_faces=count,
        refine_landmarks=True,
        min_detection_confidence=0.3,
        min_tracking_confidence=0.5,
    )


def detect(mesh: object, picture: np.ndarray) -> list[np.ndarray]:
    """Faces as [478, 2] pixels; MediaPipe's coordinates are fractions of the picture, corner to corner."""
    result = mesh.process(np.ascontiguousarray(picture))
    size = np.array([picture.shape[1], picture.shape[0]], np.float32)
    return [
        np.array([(point.x, point.y) for point in face.landmark], np.float32) * size
        for face in result.multi_face_landmarks or []
    ]


def search(mesh: object, picture: np.ndarray) -> list[np.ndarray]:
    """Faces too small for the whole picture: looks into overlapping halves, then thirds."""
    height, width = picture.shape[:2]
    for pieces in (2, 3):
        side_y, side_x = int(height / pieces * 1.4), int(width / pieces * 1.4)
        for top in np.linspace(0, height - side_y, pieces + 1).astype(int):
            for left in np.linspace(0, width - side_x, pieces + 1).astype(int):
                faces = detect(mesh, picture[top : top + side_y, left : left + side_x])
                if faces:
                    return [face + np.float32([left, top]) for face in faces]
    return []


def found_recently(found: np.ndarray, frame: int, span: int = 10) -> bool:
    """Whether one of the last frames has a face: then a gap is a blink of the detector, not worth a search."""
    return frame > 0 and bool(np.isfinite(found[max(frame - span, 0) : frame]).any())


if __name__ == "__main__":
    main()
