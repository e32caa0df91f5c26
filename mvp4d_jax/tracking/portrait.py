"""From photos of a person, or a clip, to a Portrait: one identity, and a camera, pose, expression and cut-out of each.

The photos' identity is solved for together. Of a clip the whole is tracked and a few frames are kept. Each picture is
cropped around the head, at its own resolution.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw
from scipy.spatial import ConvexHull
from scipy.spatial.transform import Rotation

from mvp4d.core.cameras.camera import Camera, angle_off, crop, project, resize, stack
from mvp4d.core.cameras.crops import MARGIN, head_vertices
from mvp4d.core.capture.portrait import MAX_PHOTOS, Portrait
from mvp4d.core.errors import UserError
from mvp4d.core.heads import load_head
from mvp4d.core.heads.model import HeadModel
from mvp4d.core.heads.motion import Motion
from mvp4d.core.images import read_photo
from mvp4d.core.progress import progress, say
from mvp4d_jax.geometry.framing import crop_box
from mvp4d_jax.geometry.rasterize import rasterize
from mvp4d_jax.heads.skinning import skin
from mvp4d_jax.tracking.choice import (
    CLIP_PHOTOS,
    check_one_person,
    choose_frames,
    note_differences,
    note_small_face,
)
from mvp4d_jax.tracking.cutout import Subject, cut_out
from mvp4d_jax.tracking.detector import detect_faces
from mvp4d_jax.tracking.landmarks import MESH_POINTS, POINTS, Landmarks, choose_face, from_mesh, read_landmarks
from mvp4d_jax.tracking.solve import Solution, SolveConfig, solve_photos, told
from mvp4d_jax.tracking.track import MAX_ERROR, Source, track
from mvp4d_jax.tracking.upright import turned_upright

Pathlike = str | os.PathLike
PHOTO_SIDE = 1024  # pixels of the longer side of a kept photo, at most
MATTES = ("auto", "none")  # whether the person is cut out of pictures without a mask
AT_REST = ("noseSneer",)  # expressions that landmarks show of everybody's face at rest: who they are, not what they do
RARELY = 0.07  # standard deviation in several photos of expressions that one of them cannot tell from the identity
PHOTO_MARGIN = 1.3 * MARGIN  # half side of a kept photo over the larger half extent of the head: hair and shoulders


@dataclasses.dataclass(frozen=True)
class FittedPhoto:
    """One picture of the person with what was fitted to it.

    Attributes:
      name: of the file that it comes from.
      rgb: [H, W, 3] uint8, the whole picture.
      alpha: [H, W] uint8: a given mask, or the picture's own transparency.
      camera: unbatched; motion: one frame.
      faces: [K, 478, 2] pixels, other people's faces; None where they were not looked for.
      points: [68, 2] pixels, where the picture has Multi-PIE's points; None where they were not looked for.
    """

    name: str
    rgb: np.ndarray
    alpha: np.ndarray
    camera: Camera
    motion: Motion
    faces: np.ndarray | None = None
    points: np.ndarray | None = None


def track_portrait(
    paths: Sequence[Pathlike],
    head: str | HeadModel = "builtin",
    *,
    masks: Sequence[Pathlike] | None = None,
    matte: str = "auto",
    landmarks: Sequence[Pathlike] | None = None,
    face: int | None = None,
    focal: float | None = None,
    same_person: bool = False,
    most: int = CLIP_PHOTOS,
) -> Portrait:
    """Fits one head to photos of a person, or to a clip, and cuts the person out of each.

    Args:
      paths: image files, one or several of one person; or one video, of which some frames are kept.
      head: "builtin", "ict:PATH", "flame:PATH" or a HeadModel.
      masks: a picture of each photo's size, white where the person is; given instead of the automatic cut-out.
      matte: "auto" cuts the person out of photos without a mask, "none" keeps the background.
      landmarks: an npz for each photo or video to use instead of MediaPipe's.
      face: which face of each, counted from the left from 1; the largest by default.
      focal: focal length in pixels, where it is known; of photos of one size.
      same_person: take several photos for one person's, unchecked.
      most: frames to keep of a video.

    Returns:
      A Portrait of all photos as crops of at most 1,024 pixels a side; the most frontal one is its reference.

    Raises:
      UserError: names the first file that is no picture, has no face, shows someone else or does not fit the head.
    """
    sources = [Source.open(path) for path in paths]
    _check_inputs(sources, masks, landmarks, matte, focal, most)
    model = head if isinstance(head, HeadModel) else load_head(head)
    if sources[0].video:
        fitted, shape = _from_clip(sources[0], model, None if landmarks is None else landmarks[0], face, focal, most)
    else:
        fitted, shape = _from_photos(sources, model, masks, landmarks, face, focal, same_person)
    fitted, rig = settle(fitted, model.personalise(shape))
    return assemble(fitted, rig, cut=matte == "auto" and (masks is None or landmarks is None))


def check_matte(matte: str) -> None:
    """Refuses a `matte` that is none of `MATTES`. Raises UserError."""
    if matte not in MATTES:
        raise UserError("`matte`", f"'{matte}' is none of {', '.join(MATTES)}")


def check_photos(paths: Sequence[Pathlike], masks: Sequence[Pathlike] | None = None) -> None:
    """What `track_portrait` asks of its files before it looks for faces.

    Raises:
      UserError: names the first file that is no picture or video, or the mask that does not fit.
    """
    sources = [Source.open(path) for path in paths]
    _check_inputs(sources, masks, None, "auto", None, CLIP_PHOTOS)
    for index, source in enumerate(sources):
        if not source.video:
            read_photo(source.path, None if masks is None else masks[index])


def _from_photos(
    sources: Sequence[Source],
    head: HeadModel,
    masks: Sequence[Pathlike] | None,
    landmarks: Sequence[Pathlike] | None,
    face: int | None,
    focal: float | None,
    same_person: bool,
) -> tuple[list[FittedPhoto], np.ndarray]:
    """Every photo with its fit, and the shape coefficients of all."""
    pictures = [
        read_photo(source.path, None if masks is None else masks[index]) for index, source in enumerate(sources)
    ]
    seen, faces = _photo_landmarks(sources, landmarks, face)
    names = [source.path for source in sources]
    turned = [turned_upright(*parts) for parts in zip(names, pictures, seen, faces)]
    pictures, seen, faces = (list(parts) for parts in zip(*turned))
    colours = [rgb for rgb, _ in pictures]
    if len(sources) > 1:
        note_differences(names, colours, seen)
        if not same_person and landmarks is None:
            check_one_person(names, colours, seen)
    solutions = _solve(sources, head, seen, focal)
    note_small_face(names, seen)
    return [
        FittedPhoto(source.path.name, rgb, alpha, solution.camera, solution.motion, others, found.points[0])
        for source, (rgb, alpha), solution, others, found in zip(sources, pictures, solutions, faces, seen)
    ], solutions[0].shape


def _from_clip(
    source: Source, head: HeadModel, landmarks: Pathlike | None, face: int | None, focal: float | None, most: int
) -> tuple[list[FittedPhoto], np.ndarray]:
    """Frames of a clip with their fits, and its shape coefficients."""
    fit, solution, found = track(source, head, landmarks=landmarks, face=face, focal=focal)
    note_small_face([source.path], [found])
    chosen = choose_frames(source.frames(), found, solution.motion, solution.error, most)
    kept = ", ".join(str(index) for index in chosen)
    say(f"{source.path}: frames {kept} of {source.frame_count} are kept: sharp, and spread over pose and expression")
    fitted = []
    for index, rgb in enumerate(itertools.islice(source.frames(), max(chosen) + 1)):
        if index in chosen:
            alpha = np.full(rgb.shape[:2], 255, np.uint8)
            fitted.append(
                FittedPhoto(
                    f"{source.path.name} frame {index}",
                    rgb,
                    alpha,
                    solution.camera,
                    solution.motion[slice(index, index + 1)],
                    points=found.points[index],
                )
            )
    return fitted, fit.shape


def settle(fitted: Sequence[FittedPhoto], rig: HeadModel) -> tuple[list[FittedPhoto], HeadModel]:
    """The same faces with what the pictures have of `AT_REST`, on the mean, in the head instead of the expressions.

    As expressions these would go when the head moves, and the person would look like someone else.
    """
    resting = np.array([name.startswith(AT_REST) for name in rig.expression_names])
    mean = np.mean([np.asarray(photo.motion.expression[0]) for photo in fitted], axis=0)
    held = np.where(resting, mean, 0).astype(np.float32)
    settled = dataclasses.replace(
        rig,
        template=np.asarray(rig.template) + np.tensordot(held, rig.expression_basis, 1).astype(np.float32),
        joints=np.asarray(rig.joints) + np.tensordot(held, rig.joint_expression_basis, 1).astype(np.float32),
    )
    motions = [dataclasses.replace(photo.motion, expression=photo.motion.expression - held) for photo in fitted]
    return [dataclasses.replace(photo, motion=motion) for photo, motion in zip(fitted, motions)], settled


def assemble(fitted: Sequence[FittedPhoto], rig: HeadModel, *, cut: bool) -> Portrait:
    """A Portrait of fitted pictures: crops of each around the head.

    Args:
      rig: the personalised head.
      cut: whether to cut the person out.

    Raises:
      UserError: a mask, or a picture's transparency, that leaves out the head.
    """
    crops = [_crop(photo, rig) for photo in fitted]
    for part, photo in zip(crops, fitted):
        _check_alpha(part.rgba, part.camera, photo, rig)
    photos = [part.rgba for part in crops]
    if cut:
        photos = cut_out(
            [subject(part.rgba, part.camera, photo.motion, rig, part.faces) for part, photo in zip(crops, fitted)]
        )
    angles = [frontal_angle(photo.camera, photo.motion) for photo in fitted]
    parts = [vars(photo.motion) for photo in fitted]
    motion = Motion(
        **{name: np.concatenate([part[name] for part in parts]) for name in parts[0] if name != "fps"},
        fps=fitted[0].motion.fps,
    )
    points = np.stack([part.points for part in crops])
    return Portrait(
        tuple(photos),
        stack([part.camera for part in crops]),
        motion,
        rig,
        int(np.argmin(angles)),
        tuple(photo.name for photo in fitted),
        points if np.isfinite(points).any() else None,
    )


def frontal_angle(camera: Camera, motion: Motion) -> float:
    """Degrees between a head's forward axis and the direction from it to the camera. Both unbatched, one frame."""
    forward = Rotation.from_rotvec(np.asarray(motion.rotation[0], np.float64)).apply([0.0, 0.0, 1.0])
    return float(np.degrees(angle_off(camera, np.asarray(motion.translation[0], np.float64), forward)))


def _check_inputs(
    sources: Sequence[Source],
    masks: Sequence[Pathlike] | None,
    landmarks: Sequence[Pathlike] | None,
    matte: str,
    focal: float | None,
    most: int,
) -> None:
    if not sources:
        raise UserError("`photos`", "no photo", "give at least one")
    check_matte(matte)
    video = next((source for source in sources if source.video), None)
    if video is not None and len(sources) > 1:
        raise UserError(video.path, "is a video among other files", "give photos, or one video")
    if video is not None and masks is not None:
        raise UserError("`masks`", "a video has none", "leave them out")
    if not 1 <= most <= MAX_PHOTOS:
        raise UserError("`most`", f"{most}", f"it is 1 to {MAX_PHOTOS}")
    for name, files in (("masks", masks), ("landmarks", landmarks)):
        if files is not None and len(files) != len(sources):
            raise UserError(f"`{name}`", f"{len(files)} for {len(sources)} photos", "give one for each photo")
    if focal is not None and not 1 <= focal <= 1e6:
        raise UserError("`focal`", f"{focal} pixels", "it is at least 1")
    if focal is not None and len({tuple(sorted(source.image_size)) for source in sources}) > 1:
        raise UserError("`focal`", "one focal length for photos of several sizes", "leave it out")


def _photo_landmarks(
    sources: Sequence[Source], files: Sequence[Pathlike] | None, face: int | None
) -> tuple[list[Landmarks], list[np.ndarray]]:
    """Landmarks of each photo, and the meshes [K, 478, 2] of other people's faces in it."""
    if files is not None:
        seen = [read_landmarks(file, source.image_size, 1, source.fps) for file, source in zip(files, sources)]
        return seen, [np.zeros((0, MESH_POINTS, 2))] * len(sources)
    pictures = (picture for source in sources for picture in source.frames())
    meshes = detect_faces(pictures, len(sources), video=False, turn=True)
    chosen = [choose_face(found[None], face, source.path)[0] for found, source in zip(meshes, sources)]
    others = [
        found[np.isfinite(found).all((1, 2)) & ~(found == ours).all((1, 2))] for found, ours in zip(meshes, chosen)
    ]
    for source, others_in_it in zip(sources, others):
        if len(others_in_it) and face is None:
            say(f"note: {source.path.name}: {len(others_in_it) + 1} faces, the largest is taken; `face` takes another")
    return [from_mesh(ours[None], source.image_size, source.fps) for ours, source in zip(chosen, sources)], others


def _solve(
    sources: Sequence[Source], head: HeadModel, seen: Sequence[Landmarks], focal: float | None
) -> list[Solution]:
    with progress(total=1, what="fitting", unit="step") as bar:

        def report(step: int, total: int) -> None:
            bar.total = total
            bar.update(step - bar.n)

        config = SolveConfig() if len(sources) == 1 else SolveConfig(rare=RARELY)
        config = told(config, [source.focal for source in sources])
        solutions = solve_photos(head, seen, config, focal, report)
    for source, solution in zip(sources, solutions):
        if not float(solution.error[0]) < MAX_ERROR:
            raise UserError(
                source.path,
                "the head cannot be laid on this face (landmarks "
                f"{100 * solution.error[0]:.0f} % of the face box away)",
                "is it the same person's face, seen from the front or the side, in focus?",
            )
    return solutions


class _Crop(NamedTuple):
    """The head's surroundings, as far as a picture shows them: RGBA and camera, other faces [K, 478, 2] and the
    person's own points [68, 2] in its pixels, NaN where they were not looked for."""

    rgba: np.ndarray
    camera: Camera
    faces: np.ndarray
    points: np.ndarray


def _crop(photo: FittedPhoto, rig: HeadModel) -> _Crop:
    height, width = photo.rgb.shape[:2]
    left, top, right, bottom = crop_box((height, width), photo.camera, photo.motion, rig, PHOTO_MARGIN)
    left, top = max(0, int(np.floor(left))), max(0, int(np.floor(top)))
    right, bottom = min(width, int(np.ceil(right))), min(height, int(np.ceil(bottom)))
    rgba = np.dstack([photo.rgb, photo.alpha])[top:bottom, left:right]
    small, camera = shrink(rgba, crop(photo.camera, left, top))
    faces = np.zeros((0, MESH_POINTS, 2)) if photo.faces is None else photo.faces
    points = np.full((POINTS, 2), np.nan) if photo.points is None else photo.points
    scale = small.shape[0] / rgba.shape[0]
    return _Crop(small, camera, (faces - [left, top]) * scale, (points - [left, top]) * scale)


def _check_alpha(rgba: np.ndarray, camera: Camera, photo: FittedPhoto, rig: HeadModel) -> None:
    """Refuses a picture [H, W, 4] of which most of the head is transparent: a mask with black and white exchanged."""
    vertices = np.asarray(skin(rig, photo.motion))[0][head_vertices(rig)]
    columns, rows = np.floor(np.asarray(project(camera, vertices)[0])).astype(int).T
    height, width = rgba.shape[:2]
    seen = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    share = np.mean(rgba[rows[seen], columns[seen], 3] > 127) if seen.any() else 1.0
    if share < 0.5:
        raise UserError(
            photo.name,
            f"its mask, or its own transparency, keeps {share:.0%} of the head",
            "white, or opaque, is where the person is",
        )


def subject(rgba: np.ndarray, camera: Camera, motion: Motion, rig: HeadModel, faces: np.ndarray) -> Subject:
    """What is cut out of a picture [H, W, 4] uint8: all but its alpha where it is transparent somewhere.

    Args:
      faces: [K, 478, 2] pixels, other people's faces.
    """
    vertices = np.asarray(skin(rig, motion))[0]
    belongs = head_vertices(rig)[np.asarray(rig.faces)].all(1)  # triangles that move with the skull
    face = np.asarray(rasterize(camera, vertices, rig.faces, rgba.shape[:2]).face)
    return Subject(
        rgba[..., :3],
        face >= 0,
        (face >= 0) & belongs[np.maximum(face, 0)],
        draw_faces(rgba.shape[:2], faces),
        rgba[..., 3] if (rgba[..., 3] < 255).any() else None,
    )


def draw_faces(size: tuple[int, int], faces: Sequence[np.ndarray]) -> np.ndarray:
    """[H, W] uint8: 2 in the hulls of face meshes [478, 2], 1 around them, where hair and necks are."""
    picture = Image.new("L", size[::-1])
    for value, shares in ((1, (-0.3, 0.35)), (2, (0.0,))):
        for points in faces:
            moved = np.concatenate([points + [0, share * np.ptp(points[:, 1])] for share in shares])
            hull = moved[ConvexHull(moved).vertices]
            ImageDraw.Draw(picture).polygon([tuple(point) for point in hull], fill=value)
    return np.asarray(picture)


def shrink(rgba: np.ndarray, camera: Camera, side: int = PHOTO_SIDE) -> tuple[np.ndarray, Camera]:
    """A picture [H, W, 4] uint8 with straight alpha, and its camera, at most `side` pixels a side."""
    height, width = rgba.shape[:2]
    scale = side / max(height, width)
    if scale >= 1:
        return np.ascontiguousarray(rgba), camera
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    small = Image.fromarray(rgba).resize(size[::-1], Image.Resampling.LANCZOS)
    return np.asarray(small), resize(camera, (height, width), size)
