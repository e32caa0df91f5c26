"""Runs MediaPipe's face mesh on frames from standard input. A script for an environment of its own: it is run by path
and imports nothing of this project (see `mvp4d_jax/tracking/detector.py`).

In: one line of JSON {"frames", "faces", "video", "turn"}, then each frame: height and width as
little-endian uint32, raw RGB.
Out: an npz at the path given as argument with `faces` [F, K, 478, 2] in pixels, NaN where there is no face.
Progress: the number of each finished frame, one a line, on standard output.

Live, where {"live": true, "camera"}: one face. Frames as above until a height of 0, or those of a camera (a number),
the newest one at a time. Out, for each, on standard output: the time of the monotonic clock as float64, height and
width as uint32, [478, 2] float32 pixels (NaN where there is no face). Exit codes: 3 no such camera, 4 it has stopped.
"""

import json
import struct
import sys
import threading
import time
from collections.abc import Iterator

import mediapipe
import numpy as np

SURE = 0.3  # score of a detected face, at least
SURER = 0.3  # sums of four scores: upright portraits have 2.5 to 3.8, inverted ones 0.6 to 2.9, at least 0.6 less
SIDE = 512  # pixels of the longer side at least that it is shown; it looks at 128 and 192
MARGIN = 0.35  # border over the longer side: the detector wants room around a face


def main() -> None:
    facts = json.loads(sys.stdin.buffer.readline())
    if facts.get("live"):
        follow(camera_frames(facts["camera"]) if facts["camera"] is not None else piped_frames())
    else:
        search_all(facts)


def search_all(facts: dict) -> None:
    count = facts["faces"]
    found = np.full((facts["frames"], count, 478, 2), np.nan, np.float32)
    with make_mesh(count, still=not facts["video"]) as mesh, make_mesh(count, still=True) as careful:
        for frame in range(facts["frames"]):
            picture = read_frame()
            turned = facts["turn"] and upside_down(picture)
            seen = picture[::-1, ::-1] if turned else picture
            points = detect(mesh, seen)
            if not points and not found_recently(found, frame):
                points = search(careful, seen)
            if turned:
                points = [np.float32([picture.shape[1], picture.shape[0]]) - face for face in points]
            for index, face in enumerate(points[:count]):
                found[frame, index] = face
            print(frame, flush=True)
    np.savez(sys.argv[1], faces=found)


def upside_down(picture: np.ndarray) -> bool:
    """Whether the face detector is clearly surer of a picture that is turned by 180 degrees.

    It finds upright faces in inverted ones, too, with eyes below the nose, and the mesh follows it.
    """
    step = max(1, max(picture.shape[:2]) // SIDE)
    height, width = (side // step for side in picture.shape[:2])
    blocks = picture[: height * step, : width * step].reshape(height, step, width, step, 3)
    picture = blocks.mean((1, 3)).astype(np.uint8)
    border = int(MARGIN * max(picture.shape[:2]))
    padded = np.pad(picture, ((border, border), (border, border), (0, 0)), constant_values=128)
    scores = np.zeros(2)  # of the picture as it is, and turned
    for model in (0, 1):  # near and far faces
        with mediapipe.solutions.face_detection.FaceDetection(SURE, model) as detector:
            for seen in (picture, padded):
                for way, one in enumerate((seen, seen[::-1, ::-1])):
                    faces = detector.process(np.ascontiguousarray(one)).detections or []
                    scores[way] += max([0.0, *(face.score[0] for face in faces)])
    return bool(scores[1] > scores[0] + SURER)


def read_frame() -> np.ndarray | None:
    """The next picture of standard input, uint8 [H, W, 3]; None at its end."""
    header = sys.stdin.buffer.read(8)
    height, width = struct.unpack("<II", header) if len(header) == 8 else (0, 0)
    if not height:
        return None
    return np.frombuffer(sys.stdin.buffer.read(width * height * 3), np.uint8).reshape(height, width, 3)


def follow(frames: Iterator[tuple[float, np.ndarray]]) -> None:
    with make_mesh(1, still=False) as mesh:
        for moment, picture in frames:
            points = detect(mesh, picture) or [np.full((478, 2), np.nan, np.float32)]
            height, width = picture.shape[:2]
            sys.stdout.buffer.write(struct.pack("<dII", moment, height, width) + points[0].astype("<f4").tobytes())
            sys.stdout.buffer.flush()


def piped_frames() -> Iterator[tuple[float, np.ndarray]]:
    while (picture := read_frame()) is not None:
        yield time.monotonic(), picture


def camera_frames(device: int | str) -> Iterator[tuple[float, np.ndarray]]:
    """The newest picture of a camera, each once, with the moment when it came; a thread takes the others away."""
    import cv2

    camera = cv2.VideoCapture(device)
    if not camera.isOpened():
        sys.exit(3)
    newest, fresh = [], threading.Condition()

    def grab() -> None:
        while True:
            there, picture = camera.read()
            with fresh:
                newest[:] = [(time.monotonic(), picture if there else None)]
                fresh.notify()
            if not there:
                return

    threading.Thread(target=grab, daemon=True).start()
    while True:
        with fresh:
            fresh.wait_for(lambda: newest)
            moment, picture = newest.pop()
        if picture is None:
            sys.exit(4)
        yield moment, np.ascontiguousarray(picture[..., ::-1])  # OpenCV's order is blue, green, red


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
