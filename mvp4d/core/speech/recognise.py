"""English phones with times, by pocketsphinx: its models come with the package."""

from __future__ import annotations

import re

import numpy as np

from mvp4d.core.errors import UserError
from mvp4d.core.sound import RATE, Sound
from mvp4d.core.speech.phones import SILENCE, Phone

_FRAMES = 100  # the recogniser's frames per second
# Mean log likelihood of a frame under its phone. Clean reading has -15, with noise 10 dB below it -20; chords -22,
# noise as loud as the speech -26.
_SPEECH_LIKE = -21.0
_SLOWEST = 4.0  # phones in a second of them; read English has 11 to 14, a word laid over a held chord 1 or 2
_QUIETEST = 10 ** (-50 / 20)  # root mean square of a frame that may be speech
_FEWER_PATHS = {"maxhmmpf": 3000, "maxwpf": 10}  # a quarter less time for the same words


def recognise(sound: Sound, where: object) -> list[Phone]:
    """Phones of what is said: words by the English language model, then aligned to the sound.

    Returns an empty list where all is silent.

    Raises:
      UserError: hardly anything sounds like English speech.
    """
    if np.sqrt(_power(sound).max()) < _QUIETEST:
        return []
    decoder = _decoder(**_FEWER_PATHS)
    _hear(decoder, sound)
    heard = decoder.hyp()
    words = heard.hypstr.split() if heard else []
    phones, score = _align(words, sound) if words else ([], -np.inf)
    spoken = [phone.duration for phone in phones if phone.symbol != SILENCE]
    if score < _SPEECH_LIKE or len(spoken) < _SLOWEST * sum(spoken):
        raise UserError(where, "no English speech is recognised in it", "give `text`, or timed `phones`")
    return phones


def align(sound: Sound, text: str, where: object) -> list[Phone]:
    """Phones of a text that is said in the sound.

    Raises:
      UserError: there is no word in the text, or the sound does not hold it.
    """
    words = words_of(text)
    phones, score = _align(words, sound)
    if not phones or score < 2 * _SPEECH_LIKE:
        raise UserError(where, "does not hold the words of `text`", "give what is said, word by word, or leave it out")
    return phones


def words_of(text: str) -> list[str]:
    """Lower-case words. Raises UserError for digits, whose reading is anybody's guess, and where there is none."""
    if re.search(r"\d", text):
        raise UserError("`text`", "holds digits", "write numbers as they are spoken")
    words = re.findall(r"[a-z]+(?:'[a-z]+)*", text.lower().replace("’", "'"))
    if not words:
        raise UserError("`text`", "holds no English word", "give what is said, or leave it out")
    return words


def _align(words: list[str], sound: Sound) -> tuple[list[Phone], float]:
    """Phones with times and the mean score of their frames; nothing where the words do not fit."""
    decoder = _decoder(lm=None, bestpath=False)
    for word in words:
        if decoder.lookup_word(word) is None:
            decoder.add_word(word, " ".join(_pronounce(word)), True)
    try:
        decoder.set_align_text(" ".join(words))
        _hear(decoder, sound)  # words
        decoder.set_alignment()
        _hear(decoder, sound)  # their phones
        found = [phone for word in decoder.get_alignment().words() for phone in word]
    except (RuntimeError, AttributeError, TypeError):  # how it says that no path reaches the end
        return [], -np.inf
    phones = [
        Phone(
            name if (name := phone.name).isalpha() and name != "SIL" else SILENCE,
            phone.start / _FRAMES,
            (phone.start + phone.duration) / _FRAMES,
        )
        for phone in found
    ]
    spoken = [phone for phone, made in zip(found, phones) if made.symbol != SILENCE]
    frames = sum(phone.duration for phone in spoken)
    return phones, sum(phone.score for phone in spoken) / frames if frames else -np.inf


def _pronounce(word: str) -> list[str]:
    """ARPAbet of a word that the dictionary lacks, by openfacefx's letter rules."""
    from openfacefx.g2p import G2P
    from openfacefx.phonemes import strip_stress

    phones = [strip_stress(phone) for phone in G2P().word(word)]
    return [phone for phone in phones if phone.isalpha()] or ["AH"]


def _decoder(**options):
    from pocketsphinx import Decoder

    return Decoder(samprate=RATE, loglevel="FATAL", **options)


def _hear(decoder, sound: Sound) -> None:
    decoder.start_utt()
    decoder.process_raw((sound.samples * 32767).astype("<i2").tobytes(), full_utt=True)
    decoder.end_utt()


def _power(sound: Sound) -> np.ndarray:
    """Mean square of frames of 10 ms."""
    size = RATE // _FRAMES
    whole = sound.samples[: len(sound.samples) // size * size].astype(np.float64)
    return (whole.reshape(-1, size) ** 2).mean(1)
