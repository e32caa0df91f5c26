"""Phones with times: ARPAbet symbols, as the recogniser, aligners and speech synthesisers give them."""

from __future__ import annotations

import csv
import dataclasses
import os
from pathlib import Path

from mvp4d.core.errors import UserError
from mvp4d.core.files import read_json

SILENCE = "SIL"
VOWELS = frozenset(("AA", "AE", "AH", "AO", "AW", "AY", "EH", "ER", "EY", "IH", "IY", "OW", "OY", "UH", "UW"))
BILABIALS = frozenset(("M", "B", "P"))  # the lips meet
CONSONANTS = BILABIALS | frozenset(
    ("CH", "D", "DH", "F", "G", "HH", "JH", "K", "L", "N", "NG", "R", "S", "SH", "T", "TH", "V", "W", "Y", "Z", "ZH")
)
_SILENT = frozenset(("", "SIL", "SP", "SPN", "<SIL>", "<EPS>", "PAU", "_", "+NSN+", "+SPN+", "+NOISE+"))
_TEXT_LIMIT = 64 << 20


@dataclasses.dataclass(frozen=True)
class Phone:
    """One phone.

    Attributes:
      symbol: ARPAbet without a stress digit, or `SILENCE`.
      start, end: seconds.
    """

    symbol: str
    start: float
    end: float

    @property
    def centre(self) -> float:
        return (self.start + self.end) / 2

    @property
    def duration(self) -> float:
        return self.end - self.start


def read_phones(path: str | os.PathLike) -> list[Phone]:
    """Reads timed phones: how other languages and synthetic voices come in.

    CSV with the columns `phone,start,end`, or JSON: a list of objects with these keys (or of such triples); seconds;
    ARPAbet with or without stress digits, or IPA, which is told by its letters. What is between phones is silence.

    Raises:
      UserError: names the row at fault.
    """
    path = Path(path)
    rows = _csv_rows(path) if path.suffix.lower() == ".csv" else _json_rows(path)
    phones: list[Phone] = []
    for number, (symbol, start, end) in rows:
        try:
            begin, stop = float(start), float(end)
        except (TypeError, ValueError):
            raise UserError(path, f"{number}: '{start}' and '{end}' are not times in seconds") from None
        after = phones[-1].end if phones else 0.0
        if not after - 1e-3 <= begin < stop <= 1e5:
            raise UserError(
                path,
                f"{number}: a phone from {begin:g} to {stop:g} s, after one that ends at {after:g} s",
                "phones are in order, each ends after it starts",
            )
        phones.append(Phone(arpabet(str(symbol), f"{path}: {number}"), max(begin, after), stop))
    if not phones:
        raise UserError(path, "holds no phones", "a CSV has the columns phone,start,end")
    return phones


def arpabet(symbol: str, where: object) -> str:
    """A symbol in ARPAbet without stress. Raises UserError for one that is neither ARPAbet nor IPA."""
    upper = symbol.strip().upper().rstrip("012")
    if upper in _SILENT:
        return SILENCE
    if upper in VOWELS | CONSONANTS:
        return upper
    from openfacefx.phonemes import IPA_ALIASES

    plain = symbol.strip().strip("ˈˌː.")
    table = {ipa: name for name, ipa in IPA_ALIASES.items()} | _MORE_IPA
    if plain in table:
        return table[plain]
    raise UserError(where, f"'{symbol}' is no phone", "use ARPAbet (AA, B, CH, ...) or IPA")


# IPA beyond General American, to the English phone that looks most alike on the lips
_MORE_IPA = {
    "a": "AA",
    "ɐ": "AH",
    "ɒ": "AO",
    "ə": "AH",
    "ɜ": "ER",
    "ɚ": "ER",
    "e": "EH",
    "o": "AO",
    "ø": "UW",
    "œ": "UH",
    "y": "UW",
    "ʏ": "UH",
    "ɨ": "IH",
    "ɯ": "IH",
    "ɤ": "AH",
    "æ̃": "AE",
    "ɑ̃": "AA",
    "ɔ̃": "AO",
    "ɛ̃": "EH",
    "g": "G",
    "x": "K",
    "χ": "K",
    "ɣ": "G",
    "q": "K",
    "ʁ": "R",
    "r": "R",
    "ɾ": "D",
    "ʔ": "HH",
    "ç": "SH",
    "ɲ": "N",
    "ʎ": "L",
    "ɫ": "L",
    "β": "B",
    "ɸ": "F",
    "ʋ": "V",
    "ɥ": "W",
    "ts": "S",
    "pf": "F",
    "ɦ": "HH",
    "c": "K",
    "ɟ": "G",
    "ʈ": "T",
    "ɖ": "D",
    "ʂ": "SH",
    "ʐ": "ZH",
    "ɕ": "SH",
    "ʑ": "ZH",
    "tɕ": "CH",
    "dʑ": "JH",
}


def _csv_rows(path: Path):
    if not path.is_file():
        raise UserError(path, "no such file")
    if path.stat().st_size > _TEXT_LIMIT:
        raise UserError(path, f"{path.stat().st_size >> 20} MiB, too large for a list of phones")
    try:
        with open(path, newline="", encoding="utf-8-sig") as handle:
            rows = [row for row in csv.reader(handle) if row]
    except (csv.Error, UnicodeDecodeError) as error:
        raise UserError(path, f"not a readable CSV ({error})") from None
    header = [cell.strip().lower() for cell in rows[0]] if rows else []
    if not {"phone", "start", "end"} <= set(header):
        raise UserError(path, "lacks one of the columns phone, start, end")
    places = [header.index(name) for name in ("phone", "start", "end")]
    for number, row in enumerate(rows[1:], 2):
        if len(row) < len(header):
            raise UserError(path, f"row {number} has {len(row)} of {len(header)} columns")
        yield f"row {number}", tuple(row[place] for place in places)


def _json_rows(path: Path):
    items = read_json(path, limit=_TEXT_LIMIT)
    if isinstance(items, dict):
        items = items.get("phones")
    if not isinstance(items, list):
        raise UserError(path, "is no list of phones", 'for example [{"phone": "AA", "start": 0.1, "end": 0.25}]')
    for number, item in enumerate(items):
        if isinstance(item, dict) and {"phone", "start", "end"} <= item.keys():
            yield f"phone {number}", (item["phone"], item["start"], item["end"])
        elif isinstance(item, list) and len(item) == 3:
            yield f"phone {number}", tuple(item)
        else:
            raise UserError(path, f"phone {number} is no object with phone, start and end")
