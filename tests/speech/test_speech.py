"""Speech to motion: lips measured on the built-in head's vertices, sound files of all kinds, phones from elsewhere."""

import dataclasses
import importlib.util
import json
import sys
import wave

import numpy as np
import pytest

from mvp4d.cli import main
from mvp4d.core.driving import load_motion
from mvp4d.core.errors import UserError
from mvp4d.core.heads import load_head
from mvp4d.core.heads.arkit import ARKIT_NAMES
from mvp4d.core.sound import RATE, Sound, add_sound, loudness, read_sound
from mvp4d.core.speech.manner import manner, stresses
from mvp4d.core.speech.phones import BILABIALS, VOWELS, Phone, arpabet, read_phones
from mvp4d.core.speech.speak import speak
from mvp4d.core.video import VideoWriter, count_frames

pytest.importorskip("openfacefx", reason="the extra `speech` is not installed")
SAID = (
    "And Mister John Dashwood had then leisure to consider how much there might be prudently in his power "
    "to do for them."
)


def write_wav(path, samples, rate=RATE, channels=1, width=2):
    """PCM with the stdlib's writer, the same in every channel."""
    scaled = np.round(np.clip(samples, -1, 1) * (2 ** (8 * width - 1) - 1)).astype("<i4")
    data = np.repeat(scaled, channels).view(np.uint8).reshape(-1, 4)[:, :width].tobytes()
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(data)
    return path


def tone(seconds, rate=RATE, height=0.5, pitch=220.0):
    return height * np.sin(2 * np.pi * pitch * np.arange(int(seconds * rate)) / rate)


@pytest.fixture(scope="module")
def head():
    return load_head("builtin")


def lips(head, motion):
    """[F] millimetres by which the inner lips (mean of three pairs) are further apart than at rest, the chin higher."""
    corners = [61, 62, 63, 67, 66, 65, 8]
    faces, weights = head.faces[head.landmark_faces[corners]], head.landmark_barycentric[corners][..., None]
    basis = (head.expression_basis[:, faces] * weights).sum(2)
    moved = np.einsum("fe,elk->flk", motion.expression, basis)[..., 1] * 1000
    return (moved[:, :3] - moved[:, 3:6]).mean(1), moved[:, 6]


# --- the mouth -------------------------------------------------------------------------------------------------------
def random_phones(seed, seconds=6.0):
    rng = np.random.default_rng(seed)
    symbols, phones, time = sorted(VOWELS), [], 0.15
    consonants = ["M", "B", "P", "T", "S", "K", "L", "R", "F", "W"]
    while time < seconds:
        for symbol, shortest in ((rng.choice(consonants), 0.03), (rng.choice(symbols), 0.06)):
            length = shortest + rng.exponential(0.05)
            phones.append(Phone(str(symbol), time, time + length))
            time += length
    return phones


@pytest.mark.parametrize("fps", [24.0, 30.0, 60.0])
def test_lips_meet_on_every_bilabial_and_part_on_every_vowel(head, fps, tmp_path):
    phones = random_phones(3, 12.0)
    samples = tone(phones[-1].end + 0.2)
    samples *= np.repeat(np.random.default_rng(0).uniform(0.2, 1, len(samples) // 1000 + 1), 1000)[: len(samples)]
    motion = speak(write_wav(tmp_path / "a.wav", samples), phones=phones, fps=fps)
    aperture, chin = lips(head, motion)
    frame = {phone: round(phone.centre * fps) for phone in phones}
    closed = [aperture[frame[phone]] for phone in phones if phone.symbol in BILABIALS]
    opened = [aperture[frame[phone]] for phone in phones if phone.symbol in VOWELS]
    assert len(closed) > 8 and len(opened) > 30
    assert max(closed) < 0.0  # nearer than at rest, where they touch
    assert min(chin[frame[phone]] for phone in phones if phone.symbol in BILABIALS) > -1.5
    assert min(opened) > 1.0 and np.median(opened) > 4.0
    assert max(opened) < 22.0


@pytest.fixture()
def austen(shared_data):
    """A LibriVox recording of 7 s."""
    pytest.importorskip("pocketsphinx", reason="the extra `speech` is not installed")
    return shared_data / "speech" / "austen.wav"


def test_a_recording_with_its_text(head, austen):
    from mvp4d.core.speech.recognise import align

    motion, sound = speak(austen, text=SAID), read_sound(austen)
    phones = align(sound, SAID, austen)
    assert "".join(phone.symbol[0] for phone in phones if phone.symbol in BILABIALS) == "MMMBPPM"
    aperture, chin = lips(head, motion)
    for phone in phones:
        frame = round(phone.centre * motion.fps)
        if phone.symbol in BILABIALS:
            assert aperture[frame] < 0 and chin[frame] > -0.5, phone
        if phone.symbol in VOWELS:
            assert aperture[frame] > 1.5, phone
    envelope = loudness(sound, motion.fps, motion.frame_count)
    assert np.corrcoef(aperture.clip(0), envelope)[0, 1] > 0.5


def test_another_head_by_names(shared_data, tmp_path):
    """ICT-FaceKit: the same expressions in its own order, and its lips meet as well."""
    other = load_head(f"ict:{shared_data / 'ict_facekit' / 'ict_facekit.npz'}")
    phones = random_phones(4)
    motion = speak(write_wav(tmp_path / "a.wav", tone(phones[-1].end + 0.2)), phones=phones, head=other)
    aperture, _ = lips(other, motion)
    rest, _ = lips(other, dataclasses.replace(motion, expression=motion.expression * 0))
    for phone in phones:
        gap = aperture[round(phone.centre * motion.fps)] - rest[0]
        if phone.symbol in BILABIALS | VOWELS:
            assert gap < 0 if phone.symbol in BILABIALS else gap > 1, phone


def test_without_its_text_most_of_it_is_the_same(austen):
    from mvp4d.core.speech.recognise import align, recognise

    sound = read_sound(austen)

    def track(phones):
        frames = np.full(int(sound.duration * 100), "SIL", object)
        for phone in phones:
            frames[round(phone.start * 100) : round(phone.end * 100)] = phone.symbol
        return frames

    assert np.mean(track(recognise(sound, "a")) == track(align(sound, SAID, "a"))) > 0.75
    with pytest.raises(UserError, match="does not hold the words"):
        align(sound, "the quick brown fox jumped over the lazy dog", "a")


# --- what goes along -------------------------------------------------------------------------------------------------
def test_seed_moves_all_but_the_mouth(tmp_path):
    phones = random_phones(1)
    path = write_wav(tmp_path / "a.wav", tone(phones[-1].end + 0.5))
    first, again, other = (speak(path, phones=phones, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.expression, again.expression)
    np.testing.assert_array_equal(first.neck, again.neck)
    mouth = [k for k, name in enumerate(ARKIT_NAMES) if name.startswith(("jaw", "mouth", "tongue"))]
    np.testing.assert_array_equal(first.expression[:, mouth], other.expression[:, mouth])
    assert np.abs(first.neck - other.neck).max() > 0.01
    assert not first.neck[[0, -1]].any()  # starts and ends at rest
    degrees = np.degrees(np.abs(first.neck))
    assert 1 < degrees.max() < 9
    gaze = first.eyes[:, 0, :2] + first.neck[:, :2]  # what the head turns, the eyes turn back
    assert np.degrees(np.abs(gaze)).max() < 5 < np.degrees(np.abs(first.neck[:, :2])).max() + 4.5


def test_blinks_are_neither_rare_nor_endless():
    loud = np.full(30 * 60, 0.1)
    expression, _, _ = manner([], loud, 30.0, seed=5)
    lid = expression[:, ARKIT_NAMES.index("eyeBlinkLeft")]
    np.testing.assert_array_equal(lid, expression[:, ARKIT_NAMES.index("eyeBlinkRight")])
    blinks = int((np.diff((lid > 0.5).astype(int)) > 0).sum())
    assert 12 <= blinks <= 30  # a minute
    assert (lid > 0.5).sum() / blinks < 8  # a quarter of a second at most


def test_the_loud_long_vowel_is_stressed():
    phones = [Phone("AH", k * 0.3, k * 0.3 + (0.2 if k == 4 else 0.08)) for k in range(10)]
    loud = np.full(100, 0.05)
    loud[int(1.2 * 30) : int(1.4 * 30) + 1] = 0.3
    (time, weight), *_ = stresses(phones, loud, 30.0)
    assert time == pytest.approx(1.3) and weight > 0.5
    assert stresses([], loud, 30.0) == []


# --- heads -----------------------------------------------------------------------------------------------------------
def test_a_head_without_named_expressions_opens_its_jaw(head, tmp_path):
    other = dataclasses.replace(head, name="flame2023", expression_names=tuple(f"expression{k}" for k in range(52)))
    phones = [Phone("M", 0.2, 0.4), Phone("AA", 0.4, 0.7)]
    motion = speak(write_wav(tmp_path / "a.wav", tone(1.0)), phones=phones, head=other)
    assert not motion.expression.any()
    assert motion.jaw[9, 0] == pytest.approx(0, abs=1e-3) and motion.jaw[17, 0] > 0.05


def test_files_are_read_back(head, tmp_path, capsys):
    write_wav(tmp_path / "a.wav", tone(1.0))
    (tmp_path / "p.json").write_text(json.dumps([{"phone": "AA1", "start": 0.2, "end": 0.6}]))
    for name in ("talk.npz", "talk.csv"):
        words = ["speak", str(tmp_path / "a.wav"), "--phones", str(tmp_path / "p.json"), "--out", str(tmp_path / name)]
        assert main(words) == 0
        motion, _ = load_motion(tmp_path / name, head)
        assert motion.frame_count == 30 and motion.fps == 30
        assert motion.expression[12, head.expression_names.index("jawOpen")] > 0.2
        assert main(words) == 2
        assert main([*words, "--overwrite"]) == 0
    (tmp_path / "mine.csv").write_text("Timecode,BlendShapeCount,JawOpen\n13:00:00:01.100,61,0\n")
    assert main([*words[:-1], str(tmp_path / "mine.csv"), "--overwrite"]) == 2
    assert "was not made by this program" in capsys.readouterr().err


# --- sound -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("rate", "channels", "width"), [(8000, 1, 2), (44100, 2, 2), (48000, 2, 3), (16000, 6, 4)])
def test_any_rate_channels_and_depth(tmp_path, rate, channels, width):
    """A sine of height a has the root mean square a / sqrt 2, and keeps its pitch."""
    sound = read_sound(write_wav(tmp_path / "a.wav", tone(1.0, rate), rate, channels, width))
    assert (sound.source_rate, sound.duration) == (rate, pytest.approx(1.0, abs=0.01))
    assert np.sqrt((sound.samples[2000:-2000] ** 2).mean()) == pytest.approx(0.5 / np.sqrt(2), rel=0.02)
    spectrum = np.abs(np.fft.rfft(sound.samples))
    assert np.argmax(spectrum) * RATE / len(sound.samples) == pytest.approx(220, abs=2)


def test_loudness_of_a_step():
    sound = Sound(np.concatenate([np.zeros(RATE), np.full(RATE, 0.5)]).astype(np.float32), RATE)
    loud = loudness(sound, 10.0, 20)
    assert loud[:9].max() < 1e-6 and loud[12:].min() == pytest.approx(0.5, rel=1e-5)


def test_silence_moves_no_lips(tmp_path, capsys):
    pytest.importorskip("pocketsphinx")
    motion = speak(write_wav(tmp_path / "a.wav", np.zeros(2 * RATE)))
    assert "silent" in capsys.readouterr().err
    mouth = [k for k, name in enumerate(ARKIT_NAMES) if name.startswith(("jaw", "mouth"))]
    assert not motion.expression[:, mouth].any()


def test_mistakes_end_in_one_line(tmp_path):
    pytest.importorskip("pocketsphinx")
    sound = write_wav(tmp_path / "a.wav", tone(1.5))
    (tmp_path / "broken.wav").write_bytes(b"RIFF\x10\x00\x00\x00WAVEgarbage")
    (tmp_path / "list.wav").write_text("#EXTM3U\n#EXTINF:1,\n/etc/passwd\n")
    write_wav(tmp_path / "short.wav", tone(0.01))
    write_wav(tmp_path / "empty.wav", np.zeros(0))
    with VideoWriter(tmp_path / "mute.mp4", (32, 32), 25.0) as writer:
        writer.add(np.zeros((32, 32, 3), np.uint8))
    chords = sum(tone(2.0, pitch=pitch, height=0.1) for pitch in (220, 277, 330, 440, 554))
    cases = [
        (tmp_path / "none.wav", {}, "no such sound"),
        (tmp_path / "broken.wav", {}, "not a readable sound"),
        (tmp_path / "list.wav", {}, "not a readable sound"),
        (tmp_path / "mute.mp4", {}, "pictures without sound"),
        (tmp_path / "short.wav", {}, "0.010 s of sound"),
        (tmp_path / "empty.wav", {}, "sound"),
        (write_wav(tmp_path / "music.wav", chords), {}, "no English speech"),
        (sound, {"text": "12 monkeys"}, "digits"),
        (sound, {"text": "世界"}, "no English word"),
        (sound, {"text": str(tmp_path / "none.txt")}, "none.txt: no such file"),
        (sound, {"text": "a", "phones": []}, "give one of them"),
        (sound, {"fps": 0.0}, "frames per second"),
        (sound, {"phones": [Phone("AA", 3.0, 4.0)]}, "the sound lasts 1.5 s"),
        (sound, {"phones": [], "out": tmp_path / "x.txt"}, "is no motion"),
    ]
    for path, options, expected in cases:
        with pytest.raises(UserError, match=expected) as caught:
            speak(path, **options)
            pytest.fail(f"{path.name} {options}")
        assert "\n" not in str(caught.value)


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pocketsphinx", None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "pocketsphinx" else object())
    sound = write_wav(tmp_path / "a.wav", tone(0.5))
    with pytest.raises(UserError, match=r"pocketsphinx; in the checkout: pip install '\.\[speech\]'"):
        speak(sound)
    assert speak(sound, phones=[Phone("AA", 0.1, 0.4)]).frame_count == 15  # timed phones need no recogniser


# --- phones from elsewhere -------------------------------------------------------------------------------------------
def test_phones_from_files(tmp_path):
    (tmp_path / "a.csv").write_text("start,end,phone\n0.1,0.2,m\n0.2,0.4,AH0\n0.4,0.5,sil\n")
    (tmp_path / "b.json").write_text(json.dumps({"phones": [["ʃ", 0, 0.1], ["ˈø", 0.1, 0.3], ["ts", 0.3, 0.4]]}))
    assert read_phones(tmp_path / "a.csv") == [Phone("M", 0.1, 0.2), Phone("AH", 0.2, 0.4), Phone("SIL", 0.4, 0.5)]
    assert [phone.symbol for phone in read_phones(tmp_path / "b.json")] == ["SH", "UW", "S"]
    assert arpabet("OW1", "x") == "OW" and arpabet("<eps>", "x") == "SIL"


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.csv", "start,end\n0,1\n", "lacks one of the columns"),
        ("a.csv", "phone,start,end\nAA,0\n", "row 2 has 2 of 3"),
        ("a.csv", "phone,start,end\nAA,0,nan\n", "row 2"),
        ("a.csv", "phone,start,end\nAA,0.5,0.2\n", "each ends after it starts"),
        ("a.csv", "phone,start,end\nAA,0,1\nAA,0.5,2\n", "row 3"),
        ("a.csv", "phone,start,end\n<b>x</b>,0,1\n", "is no phone"),
        ("a.csv", "phone,start,end\n", "holds no phones"),
        ("a.json", "[1, 2]", "phone 0 is no object"),
        ("a.json", "{}", "is no list"),
        ("a.json", "[[", "not readable JSON"),
    ],
)
def test_wrong_phones_end_in_one_line(tmp_path, name, text, expected):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=expected):
        read_phones(tmp_path / name)


# --- under a video ---------------------------------------------------------------------------------------------------
def test_sound_lies_under_the_video_in_step(tmp_path):
    """A click at 1.0 s, the first half second left out: it is heard at 0.5 s; the video's length decides."""
    click = np.zeros(3 * RATE)
    click[RATE : RATE + 160] = 0.9
    write_wav(tmp_path / "click.wav", click)
    for name, frames in (("long.mp4", 125), ("short.mp4", 25)):  # 5 s and 1 s at 25 a second; 2.5 s of sound are left
        with VideoWriter(tmp_path / name, (32, 32), 25.0) as writer:
            for index in range(frames):
                writer.add(np.full((32, 32, 3), index, np.uint8))
        add_sound(tmp_path / name, tmp_path / "click.wav", 0.5)
        assert count_frames(tmp_path / name) == frames
        heard = read_sound(tmp_path / name)
        assert heard.duration == pytest.approx(frames / 25, abs=0.07)
        assert np.argmax(np.abs(heard.samples)) / RATE == pytest.approx(0.5, abs=0.03)
    with pytest.raises(UserError, match="cannot be laid under"):
        add_sound(tmp_path / "long.mp4", tmp_path / "none.wav")
    assert {path.name for path in tmp_path.iterdir()} == {"click.wav", "long.mp4", "short.mp4"}
