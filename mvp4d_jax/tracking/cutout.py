"""A person cut out of pictures: a segmentation network, held to the fitted head, and closed-form matting of the edge.

MediaPipe's selfie segmentation says roughly where people are. What is kept of it is what hangs together with the fitted
head and lies near it; along its edge, alpha and colours free of the background are solved for (pymatting). Both run in
MediaPipe's environment.
"""

from __future__ import annotations

import dataclasses
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from scipy import ndimage

from mvp4d.core.progress import progress
from mvp4d_jax.tracking.detector import MEDIAPIPE

# Lengths in heights of the head, from chin to crown.
CORE = 0.06  # the fitted head, shrunk by this, is the person whatever the network says
REACH = 0.15, 0.5  # hair and clothes this far from the rig: taken at the network's word; not taken at all
NECK = 0.03  # links thinner than twice this do not tie another person to this one
CLOSE = 0.02  # where another person may touch, the fitted head shrunk by this is ours
COMPACT = 3.0  # steps of colour that a head's height counts for where two people are told apart
SMOOTH = 0.01  # standard deviation of the blur before the edges between two people are looked for
INSIDE, OUTSIDE = 0.03, 0.05  # how far the edge's unknown band reaches to either side
SURE, POSSIBLE = 0.9, 0.1  # the network's person beyond doubt; below this there is none


@dataclasses.dataclass(frozen=True)
class Subject:
    """A picture and where the fitted head is in it.

    Attributes:
      rgb: [H, W, 3] uint8.
      rig: [H, W] bool, silhouette of the whole rig, neck and shoulders included (no hair).
      head: [H, W] bool, silhouette of what moves with the skull.
      faces: [H, W] uint8: 2 in other people's faces, 1 around them (hair, neck), else 0.
      alpha: [H, W] uint8 where it is known: then only the colours of its edge are solved for.
    """

    rgb: np.ndarray
    rig: np.ndarray
    head: np.ndarray
    faces: np.ndarray
    alpha: np.ndarray | None = None


def cut_out(subjects: Sequence[Subject]) -> list[np.ndarray]:
    """The person of each picture, as `cut_out_each`."""
    return list(cut_out_each(subjects, len(subjects)))


def cut_out_each(subjects: Iterable[Subject], count: int) -> Iterator[np.ndarray]:
    """The person of each of `count` pictures, one at a time.

    Yields:
      [H, W, 4] uint8, straight alpha, the colours of the edge free of the old background.

    Raises:
      UserError: the environment cannot be made, or what runs in it fails.
    """
    script = Path(__file__).with_name("selfie.py")
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log:
        process = MEDIAPIPE.start(script, log=log)
        try:
            for subject in progress(subjects, total=count, what="cutting out", unit="photo"):
                yield _cut_one(process, subject)
        except (BrokenPipeError, EOFError):
            process.wait()
            log.seek(0)
            raise MEDIAPIPE.failure(log.read()) from None
        finally:
            process.kill()
            process.wait()
            process.stdin.close()
            process.stdout.close()


def _cut_one(process: subprocess.Popen, subject: Subject) -> np.ndarray:
    size = subject.rgb.shape[:2]
    _send(process, np.array(size, "<u4"), subject.rgb)
    person = _receive(process, size) / np.float32(255)
    if subject.alpha is None:
        person, known = hold(subject.rgb, person, subject.rig, subject.head, subject.faces)
        _send(process, np.uint8(np.rint(person * 255)), known)
    else:
        _send(process, subject.alpha, np.full(size, 1, np.uint8))
    return _receive(process, (*size, 4))


def hold(
    rgb: np.ndarray, person: np.ndarray, rig: np.ndarray, head: np.ndarray, faces: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The part of the network's people that is the fitted person.

    Args:
      person: [H, W] float in [0, 1], the network's word.
      rgb, rig, head, faces: as in `Subject`.

    Returns:
      person: [H, W] float32, zero where it is someone or something else.
      known: [H, W] uint8: 0 background, 255 person, 128 the edge between, to be matted.
    """
    height = head_height(head)
    distance = _distance(rig, head) / height
    # The further from the rig, the surer the network has to be; beyond reach nothing counts.
    near, far = REACH
    need = 0.5 + 0.5 * np.clip((distance - near) / (far - near), 0, 1)
    core = shrink(head, CORE * height)
    theirs = np.where(faces > 0, person > POSSIBLE, person > 0.5) & (distance > np.choose(faces, (far, near, INSIDE)))
    ours = core | shrink(head, CLOSE * height) | shrink(rig, near * height)
    strangers = _strangers(rgb, person, theirs, ours, height)
    kept = core | _connected(((person > need) & ~strangers) | core, core, NECK * height)
    person = np.where(ndimage.binary_dilation(kept, iterations=2), person, 0)
    person = np.where(core, 1, person).astype(np.float32)
    sure = shrink(kept & (person > SURE), INSIDE * height) | core
    possible = grow(kept, OUTSIDE * height)
    known = np.where(sure, 255, np.where(possible, 128, 0)).astype(np.uint8)
    return person, known


def _strangers(rgb: np.ndarray, person: np.ndarray, theirs: np.ndarray, ours: np.ndarray, height: float) -> np.ndarray:
    """[H, W] bool: people who are not ours: a compact watershed of the colours' edges between ours and theirs."""
    if not theirs.any():
        return theirs
    from skimage.segmentation import watershed  # a tenth of a second for whoever imports this module

    smooth = ndimage.gaussian_filter(rgb.astype(np.float32) / 255, (SMOOTH * height, SMOOTH * height, 0))
    slope = np.sqrt(sum(ndimage.sobel(smooth, axis) ** 2 for axis in (0, 1)).sum(-1))
    markers = np.where(ours, 1, np.where(theirs, 2, 0))
    return watershed(slope, markers, mask=(person > POSSIBLE) | ours, compactness=COMPACT / height) == 2


def head_height(head: np.ndarray) -> float:
    """Pixels from chin to crown of a silhouette [H, W]; the longer side of its box where it lies on its side."""
    rows, columns = np.flatnonzero(head.any(1)), np.flatnonzero(head.any(0))
    if not len(rows):
        return head.shape[0] / 2
    return float(max(np.ptp(rows), np.ptp(columns)) + 1)


def _distance(rig: np.ndarray, head: np.ndarray) -> np.ndarray:
    """[H, W] pixels to the fitted person: to the head, or to the shoulders and then up along the picture: who stands
    beside a face is not near because its shoulders are."""
    if not head.any():
        return np.full(rig.shape, np.inf)
    chin = np.flatnonzero(head.any(1))[-1]
    above = np.maximum(chin - np.arange(len(rig)), 0)[:, None]
    return np.minimum(ndimage.distance_transform_edt(~head), ndimage.distance_transform_edt(~rig) + above)


def _connected(mask: np.ndarray, core: np.ndarray, radius: float) -> np.ndarray:
    """The part of `mask` that hangs together with `core` when links thinner than `radius` to either side are cut."""
    labels, _ = ndimage.label(shrink(mask, radius) | core)
    ours = np.isin(labels, np.unique(labels[core & (labels > 0)]))
    return mask & grow(ours, 1.5 * radius)


def shrink(mask: np.ndarray, radius: float) -> np.ndarray:
    """Pixels further than `radius` from the outside of the mask; the picture's border is no outside."""
    return mask if mask.all() else ndimage.distance_transform_edt(mask) > radius


def grow(mask: np.ndarray, radius: float) -> np.ndarray:
    """Pixels within `radius` of the mask."""
    return mask if not mask.any() else ndimage.distance_transform_edt(~mask) <= radius


def _send(process: subprocess.Popen, *arrays: np.ndarray) -> None:
    for array in arrays:
        process.stdin.write(np.ascontiguousarray(array).tobytes())
    process.stdin.flush()


def _receive(process: subprocess.Popen, shape: tuple[int, ...]) -> np.ndarray:
    count = int(np.prod(shape))
    data = process.stdout.read(count)
    if len(data) < count:
        raise EOFError
    return np.frombuffer(data, np.uint8).reshape(shape)
