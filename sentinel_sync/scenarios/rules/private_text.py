"""Finds in a text what may not leave the vehicle: fine places in every spelling in common use, persons, paths.

What it knows and what it cannot know is written down in docs/privacy.md; each pattern names its form.
"""

import html
import re
import unicodedata
from collections.abc import Callable
from functools import lru_cache
from urllib.parse import unquote

from sentinel_sync.base.payloads import MalformedJSONError
from sentinel_sync.base.privacy import COORDINATE_DECIMALS, coarse_degrees

#: What stands for something that cannot be made coarse, or is a person's.
PLACE, PERSON, PLATE, PHONE, MAIL = "[place]", "[person]", "[plate]", "[phone]", "[mail]"
VEHICLE = "[vehicle]"
_MOST_DEGREES = 180.0
#: Of a geohash so many letters stay (a cell of 5 km), of a plus code (open location code) so many (6 km).
GEOHASH_LETTERS = 5
PLUS_CODE_LETTERS = 6
#: Decimals of a number that is a coordinate's even where the one beside it is written with fewer.
_BY_FAR = 5
#: A text is unpacked so often: JSON in JSON in a percent-encoded query is three.
_DEEPEST = 4

#: A text without any of these holds nothing that is looked for below.
_WORTH_A_LOOK = re.compile(
    r"[\\/@\uff20%~&=]|\w\+\w|\d[\d.,:/ °º'\u2019\u2032-]*\d|:\s?\w|(?:Mr|Mrs|Ms|Dr|Herr|Frau)\b|\\u|\w\.\w+\.\w"
    r"|(?:river|wner|nger|upant|rator|ahrer|ahrerin|alter|alterin|nsass(?:e|in)|ducteur|ductrice|ductora?|ssager|ssagère)\s[A-ZÀ-ÞĀ-Ž]"
    r"|[\[(]at[\])]|[a-z] [A-Z]\S+ [A-Z]|\d[A-Z]|\d,? [A-Z]|[a-zß.] \d|\d,? (?:rue|avenue|boulevard|quai|chemin) "
)

_N = r"[-+\u2212]?\d{1,3}[.]\d+(?:[eE][-+]?\d+)?"
_HEMISPHERE = r"(?:\s?[°º]?\s?[NSEWO]\b|\s?[°º])?"
#: Two decimal numbers side by side: "37.774929, -122.419416", "N37.774929 W122.419416", "37.774929°N / 122.419416°W",
#: WKT's "-122.419416 37.774929", a map's "17/37.77493/-122.41942" or "cp=47.677~-122.387".
_PAIR = re.compile(
    rf"(?<![\w.])(?:[NSEW]\s?)?({_N}){_HEMISPHERE}(\s{{0,3}}[,;/|~:]\s{{0,3}}|\s{{1,4}})(?:[NSEW]\s?)?({_N})"
    rf"(?:\s?[°º]?\s?[NSEWO]\b|\s?[°º])?(?![\d.])"
)
#: The same with decimal commas.
_COMMA_PAIR = re.compile(
    r"(?<![\w.,])([-+]?\d{1,3}),(\d{3,})(\s{0,3}[;/|]\s{0,3}|\s{1,4})([-+]?\d{1,3}),(\d{3,})(?![\d,])"
)
#: The corners of an area, or east and north as x and y: "xmin=-122.42231 ymin=37.77212", "x: -122.41942, y: 37.77493".
_XY_PAIR = re.compile(
    rf"((?<![A-Za-z])[xX]_?(?:min|max)?\s?[:=]\s?)({_N})([,;&\s]{{1,3}}[yY]_?(?:min|max)?\s?[:=]\s?)({_N})(?![\d.])"
)
#: A number with its hemisphere alone, and so fine that it is no force or power: "122.4194W", "122.41942 W".
_WITH_HEMISPHERE = re.compile(
    r"(?<![\w.])([-+\u2212]?\d{1,3}\.\d{4,})(?=[°º]?[NSEW]\b|(?<=\d{5})\s?[°º]?\s?[NSEW]\b(?!/))"
)
#: Sides of an area: "north: 37.78123, east=-122.41123".
_SIDE = re.compile(r"((?<![A-Za-z])(?:[Nn]orth|[Ss]outh|[Ee]ast|[Ww]est)\s?[:=]\s?)([-+]?\d{1,3}\.\d{4,})(?![\d.])")
#: Two whole numbers: degrees times 10⁷ or 10⁶, or semicircles.
_SCALED_PAIR = re.compile(r"(?<![\w.])[-+]?\d{7,10}\s{0,3}[,;/ ]\s{0,3}[-+]?\d{7,10}(?![\w.])")
_LABEL = (
    r"(?:(?<![A-Za-z])|(?<=[a-z_]))(?:[Ll]at(?:itude)?|[Ll]on(?:gitude)?|[Ll]ng|[Ll]ong|LAT|LON|LNG|LATITUDE|LONGITUDE)"
)
#: A number after a word for a coordinate: "lat: 37.774929", "mlat=37.7", "latE7 377749290", "longitude is -122,419416".
_LABELLED = re.compile(
    rf"({_LABEL}(?:_?[eE]\d|_?deg)?[\"']?\s{{0,3}}(?:[:=]|is)?\s{{0,3}}[\"']?)([-+\u2212]?\d+(?:[.,]\d+)?)"
)
#: Degrees, minutes and perhaps seconds with their signs: only whole degrees of them stay.
_MINUTES = re.compile(
    r"(\d{1,3}\s?(?:[°º]|deg(?:rees)?\.?|d(?=\s?\d)))\s{0,4}\d{1,2}(?:[.,]\d+)?\s?(?:['\u2032\u2019m]|min(?:utes)?\.?)"
    r"(?:\s{0,4}\d{1,2}(?:[.,]\d+)?\s?(?:[\"\u2033\u201ds]|''|sec(?:onds)?\.?)?)?"
)
#: Forms that are a place and cannot be made coarse by rounding what is written.
_UNCOARSE_FORMS = (
    # NMEA 0183 sentences with a position, u-blox's own, and what stands in them.
    (
        r"\$?\b(?:(?:G[PNLABQI]|BD|QZ|II)(?:RMC|GGA|GLL|GNS|WPL|BWC|BWR|RMB|RMA)|PUBX),"
        r"[^*\r\n]*(?:\*[0-9A-Fa-f]{2})?"
    ),
    r"\d{3,5}\.\d+,\s?[NS],\s?\d{3,5}\.\d+,\s?[EW]",
    # Links to a place on a map, also short ones.
    (
        r"https?://[^\s\"'<>]*(?:maps|geo|osm|waze|what3words|w3w|wego\.here|mapy\.|yandex\.[a-z]+/[^\s]*ll=|goo\.gl"
        r"|plus\.codes|streetview)[^\s\"'<>]*"
    ),
    r"(?<!:)///[^\W\d_]+\.[^\W\d_]+\.[^\W\d_]+",
    r"![34]d[-+]?\d+\.\d+",
    # ISO 6709: +37.7749-122.4194/, +374629.7-1222509.9+12/
    r"(?<![\w.])[+-]\d{2,6}(?:\.\d+)?[+-]\d{3,7}(?:\.\d+)?(?:[+-]\d+(?:\.\d+)?)?(?:CRS[\w:]*)?/?(?![\w.])",
    # Degrees, minutes, seconds without signs: 37 46 29.7 N, N 37-46-29, N37 46.495, 374629N1222510W
    r"(?<![\w.])\d{1,3}[ :-]\d{1,2}[ :-]\d{1,2}(?:\.\d+)?\s?[\"\u2033]?\s?[NSEW]\b",
    r"\b[NSEW]\s?\d{1,3}[ :-]\d{1,2}[ :-]\d{1,2}(?:\.\d+)?(?![\w.])",
    r"\b[NSEW]\s?\d{1,3}[ °º]\s?\d{1,2}\.\d+'?",
    r"(?<![\w.])\d{1,3}[ °º]\s?\d{1,2}\.\d+'?\s?[NSEW]\b",
    r"(?<![\w.])\d{4,6}(?:\.\d+)?\s?[NS][ ,/]{0,2}\d{5,7}(?:\.\d+)?\s?[EW]\b",
    # EXIF rationals: 37/1, 46/1, 2970/100
    r"(?<![\w/])\d+/10*[,;\s]+\d+/10*[,;\s]+\d+/10*(?![\w/])",
    # MGRS and UTM: 10S EG 51885 80825, 10S 551885 4180825, 551885mE 4180825mN
    (
        r"(?<![A-Za-z0-9])(?:0?[1-9]|[1-5]\d|60)[C-HJ-NP-X]\s?[A-HJ-NP-Z][A-HJ-NP-V]\s?"
        r"(?:\d{3}\s?\d{3}|\d{4}\s?\d{4}|\d{5}\s?\d{5})(?!\w)"
    ),
    r"(?<![A-Za-z0-9])\d{1,2}\s?[C-HJ-NP-X]\s+0?\d{6}(?:\.\d+)?\s?m?E?[,\s]+\d{6,7}(?:\.\d+)?\s?m?N?(?!\w)",
    r"(?<![\w.])\d{6}(?:\.\d+)?\s?m?\s?E[,;\s]+\d{6,7}(?:\.\d+)?\s?m?\s?N\b",
    # A house in a street: 1600 Amphitheatre Parkway, Hauptstraße 12, 12 rue de Rivoli
    (
        r"(?<![\w.])\d{1,5}[A-Za-z]?,?\s(?:[NSEW]\.?\s)?(?:[A-Z][\w'\u2019.-]+\s){1,3}(?:Street|St|Avenue|Ave|Road|Rd"
        r"|Boulevard|Blvd|Drive|Lane|Way|Parkway|Pkwy|Court|Square|Terrace|Close|Crescent)\b\.?"
    ),
    r"\b[A-ZÄÖÜ][\w-]{0,30}(?:straße|strasse|str\.|gasse|allee|platz|weg)\s\d{1,4}\s?[a-z]?\b",
    r"(?<![\w.])\d{1,4}(?:\s?bis)?,?\s(?:rue|avenue|boulevard|quai|chemin)\s(?:[\w'\u2019-]+\s?){1,4}",
    r"\b(?:Via|Viale|Piazza|Corso|Calle|Avenida|Plaza|Paseo|Rua)\s(?:[\w'\u2019.-]+\s){0,3}[A-Z][\w'\u2019-]+,?\s\d{1,4}\b",
    # A short plus code with its town.
    r"(?<!\w)[23456789CFGHJMPQRVWX]{4,6}\+[23456789CFGHJMPQRVWX]{2,3}(?!\w)",
)
_UNCOARSE = re.compile("|".join(_UNCOARSE_FORMS))
_PLUS_CODE = re.compile(
    r"(?<!\w)([23456789CFGHJMPQRVWX]{6})[23456789CFGHJMPQRVWX]{2}\+[23456789CFGHJMPQRVWX]{0,7}(?!\w)"
)
_GEOHASH = re.compile(r"(?<![\w.])(?=[a-z]*\d)([0-9b-hjkmnp-z]{5})[0-9b-hjkmnp-z]{1,7}(?![\w.])")
#: Numbers finer than two decimals, in a text that stands for a place.
_FINE_NUMBER = re.compile(r"[-+]?(?:(?<!\d)\d++(?:\.\d*+)?|\.\d++)[eE][-+]?\d+|[-+]?(?:(?<!\d)\d++)?\.\d{3,}")
_GRID = re.compile(r"(?<![\w.])\d{6}(?:\.\d+)?[,;\s]+\d{7}(?:\.\d+)?(?![\w.])")

_MAIL = re.compile(
    r"[\w.+-]{1,64}@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63})*\.[A-Za-z]{2,24}"
    r"|[\w.+-]{1,64}\s?[\[(]at[\])]\s?[A-Za-z0-9-]{1,63}(?:(?:\.|\s?[\[(]dot[\])]\s?)[A-Za-z0-9-]{1,63}){1,4}"
)
#: International numbers, North American ones, national ones with a leading zero, `tel:` links, after a word for one.
_PHONE = re.compile(
    r"tel:[+\d][\d ()./-]{5,}\d|(?<![\w.+])(?:\+|00)[1-9]\d{0,2}[ (./-]{0,2}\d[\d ()./-]{5,16}\d(?![\w.])"
    r"|(?<![\w.+-])(?:\(\d{3}\)\s?|\d{3}[-. ])\d{3}[-. ]\d{4}(?![\w.-])"
    r"|(?<![\w.+/-])0\d{2,4}[ /-]\d{3,4}[ -]?\d{3,5}(?![\w.-])"
    r"|(?:(?<=phone )|(?<=phone: )|(?<=phone=)|(?<=mobile )|(?<=mobile: )|(?<=tel )|(?<=tel: )|(?<=tel\. )|(?<=Tel\. )"
    r"|(?<=call )|(?<=fax )|(?<=fax: )|(?<=WhatsApp )|(?<=Handy ))\d[\d ()/-]{4,16}\d(?![\w.])"
)
_PLATE = re.compile(
    r"(?:(?<=plate )|(?<=plate: )|(?<=Kennzeichen )|(?<=registration ))[A-Z0-9][A-Z0-9 -]{2,9}[A-Z0-9]\b"
    r"|(?<![\w-])(?:\d[A-Z]{3}\d{3}|[A-Z]{2}\d{2} ?[A-Z]{3}|[A-Z]{2}-\d{3}-[A-Z]{2}"
    r"|[A-ZÄÖÜ]{1,3}-[A-Z]{1,2} \d{1,4}[EH]?|\d[ -][A-Z]{3}[ -]\d{3}|[A-Z]{2}[ -]?\d{1,2}[ -]?[A-Z]{1,3}[ -]?\d{4}"
    r"|[A-Z]{2}[ -]?\d{3}[ -]?[A-Z]{2}|\d{2}-[A-Z]{2}-\d{2}|[A-Z]{2}-\d{2}-[A-Z]{2}"
    r"|[\u4e00-\u9fff][A-Z][ \u00b7\u2022]?[A-Z0-9]{5,6})(?![\w-])"
)
#: A vehicle identification number (ISO 3779): 17 letters and digits without I, O and Q, the last four digits.
_VEHICLE = re.compile(r"(?<![A-Za-z0-9])(?=\d{0,12}[A-Z])[A-HJ-NPR-Z0-9]{13}\d{4}(?![A-Za-z0-9])")
#: A word for a person, after which a word with a capital is a name: "hard braking, driver Anna".
_PERSON_WORD = (
    r"(?:(?:[Cc]o-?)?[Dd]river|[Oo]wner|[Pp]assenger|[Oo]ccupant|[Oo]perator|(?:[Bb]ei)?[Ff]ahrer(?:in)?|[Hh]alter(?:in)?"
    r"|[Ii]nsass(?:e|in)|[Cc]onduct(?:eur|rice|or|ora)|[Pp]assag(?:er|ère))"
)
#: What a vehicle calls by such a word itself: "driver Monitoring", "Passenger Seat".
_NO_NAME = (
    r"Monitor(?:ing)?|Attenti(?:on|ve)|Inattenti(?:on|ve)|Assist(?:ance|ant|ed)?|Alert(?:ness|s)?|Warning|Stat(?:e|us)|Drows(?:y|iness)"
    r"|Distract(?:ed|ion)|Fatigue|Side|Seat|Seats|Door|Window|Airbag|Belt|Seatbelt|Overr(?:ide|ode)|Inputs?|Take|Takeover|Took"
    r"|Interven(?:ed|tion)|Camera|Face|Head|Eyes?|Gaze|Mode|Behavio(?:u?r|ural)|Risk|Score|Presen(?:ce|t)|Detect(?:ed|ion)|Phone|Hands?"
    r"|Yawn(?:ed|ing)?|Smok(?:ed|ing)|Sleep(?:y|ing)?|Awa(?:ke|y)|Identi(?:fication|fied|ty)|Name|Profile|Login|Error|Fail(?:ed|ure)|Ready"
    r"|Events?|Trigger(?:ed)?|Brak(?:e|ed|ing)|Steer(?:ed|ing)?|Request(?:ed|s)?|Safety|Health|Emotion|Pose|View|Zone|Area|Info|Log|Data"
    r"|Display|Vigilance|Engage(?:d|ment)|Respon(?:se|ded)|Workload|Unknown|None|Not|No|Is|Was|Has|And|Or|In|On|At|The"
)
#: Not "DMS" or "ID": a name has small letters.
_ONE_NAME = r"[A-ZÀ-ÞĀ-Ž](?=[\w'\u2019-]*[a-zß-ž])[\w'\u2019-]+"
_NAMED = re.compile(
    r"((?:driver|owner|passenger|operator|user|occupant|author|annotator|[Ff]ahrer(?:in)?|[Hh]alter(?:in)?|conduct(?:eur|or)"
    r"|passager)(?:[ _]?name)?\s?[:=]\s?)[A-Z][\w'\u2019.-]*(?:\s+[A-Z][\w'\u2019.-]*)*"
    r"|((?<![A-Za-z])(?:user(?:[ _]?name)?|login|account)\s?[:=]\s?)[\w.-]+"
    r"|((?<![A-Za-z])[Nn]ame\s?[:=]\s?)[A-Z][\w'\u2019.-]*(?:\s[A-Z][\w'\u2019.-]*)+"
    rf"|((?<![A-Za-z]){_PERSON_WORD}\s)(?!(?:{_NO_NAME})\b){_ONE_NAME}(?:\s{_ONE_NAME})*"
    r"|\b(?:Mr|Mrs|Ms|Dr|Herr|Frau)\.?\s[A-Z][\w'\u2019-]+(?:\s[A-Z][\w'\u2019-]+)?",
)
#: A path: absolute (two segments or more, so that "24 m/s" and "and/or" are none), home, relative by dots, a drive's,
#: or a file URL.
_PATH = re.compile(
    r"""(?<![\w/.:\]}%])(?:(?:file|smb|nfs|content|sftp):/{0,3}|[A-Za-z]:(?=[\\/])|~\w*|\.{1,2}(?=[\\/])|\$\{?\w+\}?|%\w+%)?"""
    r"""(?:[\\/][^\\/\s"':;,]+){2,}[\\/]?"""
)
#: A value that is nothing but a path may be shorter, and have blanks in it.
_WHOLE_PATH = re.compile(
    r"\s*(?:(?:file|smb|nfs|content|sftp):|~\w*[\\/]|\.{1,2}[\\/]|[\\/]|[A-Za-z]:[\\/]|\$\{?\w+\}?[\\/]|%\w+%[\\/]"
    r"|(?:home|Users|mnt|media|root|var|storage|sdcard)[\\/]).*"
    r"|[\w.-]+(?:[\\/][\w .-]+)*[\\/][\w .-]+\.(?:[A-Za-z][A-Za-z0-9]{1,4}|7z)",
    re.DOTALL,
)
_SEPARATOR = re.compile(r"[\\/]+")
_ESCAPED = re.compile(r"%[0-9A-Fa-f]{2}")
_UNICODE_ESCAPE = re.compile(r"\\u([0-9A-Fa-f]{4})|\\/")
_JSON_START = re.compile(r"\s*[\[{\"]")

#: Treats the JSON that a text holds; returns it as a text again, or None where the text is none.
InnerJSON = Callable[[str], str | None]


@lru_cache(maxsize=8192)
def is_plain(text: str) -> bool:
    """Whether nothing in a text is worth a look: most texts in annotations are labels, and the same few again."""
    return _WORTH_A_LOOK.search(text) is None


def clean(text: str, inner_json: InnerJSON, *, place: bool, depth: int = _DEEPEST) -> str:
    """The text as it may leave.

    Args:
        inner_json: For JSON inside the text.
        place: Whether it stands under a key that names a place: then every fine number in it is part of one.
    """
    if is_plain(text) and not place:
        return text
    if depth and _JSON_START.match(text):
        try:
            inner = inner_json(text)
        except MalformedJSONError:
            inner = None
        if inner is not None:
            return inner
    if depth:
        # What is hidden by an encoding is only unpacked for good where there is something in it.
        for unpacked in (_unquoted(text), _unescaped(text), html.unescape(text), unicodedata.normalize("NFKC", text)):
            if unpacked != text and (cleaned := clean(unpacked, inner_json, place=place, depth=depth - 1)) != unpacked:
                return cleaned
    text = _without_places(text, place=place)
    text = _MAIL.sub(MAIL, text)
    text = _PHONE.sub(PHONE, text)
    text = _VEHICLE.sub(VEHICLE, text)
    text = _PLATE.sub(PLATE, text)
    text = _NAMED.sub(lambda found: f"{next(filter(None, found.groups()), '')}{PERSON}", text)
    return _without_paths(text)


def _without_places(text: str, *, place: bool) -> str:
    text = _UNCOARSE.sub(_place_unless_phone, text)
    text = _PLUS_CODE.sub(rf"\g<1>{'0' * (8 - PLUS_CODE_LETTERS)}+", text)
    text = _MINUTES.sub(r"\1", text)
    text = _COMMA_PAIR.sub(_coarse_comma_pair, text)
    text = _PAIR.sub(_coarse_pair, text)
    text = _XY_PAIR.sub(_coarse_xy_pair, text)
    text = _WITH_HEMISPHERE.sub(lambda found: _coarse_degrees_in(found[1]), text)
    text = _SIDE.sub(lambda found: found[1] + _coarse_degrees_in(found[2]), text)
    text = _LABELLED.sub(_coarse_labelled, text)
    text = _SCALED_PAIR.sub(_scaled_place, text)
    if place:
        text = _GRID.sub(PLACE, text)
        text = _GEOHASH.sub(r"\1", text)
        text = _FINE_NUMBER.sub(lambda found: repr(coarse_degrees(float(found[0]))), text)
    return text


def _place_unless_phone(found: re.Match[str]) -> str:
    # "+49-1701234567" has the form of ISO 6709, but no latitude is that long: a phone number is told as one.
    return found[0] if found[0].startswith("+") and _PHONE.fullmatch(found[0]) else PLACE


def is_fine(number: str) -> bool:
    """Whether a number written so may be finer than two decimals."""
    return "e" in number.lower() or len(number.partition(".")[2]) > COORDINATE_DECIMALS


def is_fine_pair(one: str, other: str) -> bool:
    """Whether two numbers written so are finer than may leave: both, or one by far; a last zero is often left out."""
    return (is_fine(one) and is_fine(other)) or max(len(text.partition(".")[2]) for text in (one, other)) >= _BY_FAR


def coarse_number(number: str) -> str:
    """A number as it was written, to two decimals."""
    if not is_fine(number):
        return number
    return repr(coarse_degrees(float(number.replace("\u2212", "-"))))


def is_pair(one: float, other: float) -> bool:
    """Whether two numbers can be a place: on Earth, and not both so small that they are shares of a picture."""
    return (
        max(abs(one), abs(other)) <= _MOST_DEGREES
        and min(abs(one), abs(other)) <= _MOST_DEGREES / 2
        and max(abs(one), abs(other)) > 1.0
    )


def _coarse_pair(found: re.Match[str]) -> str:
    one, _, other = found.groups()
    try:
        likely = is_pair(*(float(number.replace("\u2212", "-")) for number in (one, other)))
    except OverflowError:
        return PLACE
    if not likely or not is_fine_pair(one, other):
        return found[0]
    start, middle, end = found.start(0), found.start(1), found.start(3)
    text = found.string
    return (
        text[start:middle]
        + coarse_number(one)
        + text[found.end(1) : end]
        + coarse_number(other)
        + text[found.end(3) : found.end(0)]
    )


def _coarse_xy_pair(found: re.Match[str]) -> str:
    east, north = found[2], found[4]
    numbers = [float(number.replace("\u2212", "-")) for number in (east, north)]
    if not is_pair(*numbers) or not is_fine_pair(east, north):
        return found[0]
    return f"{found[1]}{coarse_number(east)}{found[3]}{coarse_number(north)}"


def _coarse_degrees_in(number: str) -> str:
    return coarse_number(number) if abs(float(number.replace("\u2212", "-"))) <= _MOST_DEGREES else number


def _coarse_comma_pair(found: re.Match[str]) -> str:
    one, other = (f"{found[at]}.{found[at + 1]}" for at in (1, 4))
    if not is_pair(float(one), float(other)):
        return found[0]
    return f"{coarse_number(one)}{found[3]}{coarse_number(other)}"


def _coarse_labelled(found: re.Match[str]) -> str:
    number = found[2].replace(",", ".").replace("\u2212", "-")
    if abs(float(number)) > _MOST_DEGREES:
        return f"{found[1]}{PLACE}"
    return f"{found[1]}{coarse_number(number)}" if is_fine(number) else found[0]


def _scaled_place(found: re.Match[str]) -> str:
    """Whether it can be a place times 10⁷, 10⁶, or in semicircles; two times of day are none."""
    one, other = sorted(abs(int(number)) for number in re.findall(r"\d+", found[0]))
    return PLACE if one <= 1_073_741_824 and other <= 2_147_483_647 and "," in found[0] else found[0]


def _unquoted(text: str) -> str:
    return unquote(text, errors="replace") if _ESCAPED.search(text) else text


def _unescaped(text: str) -> str:
    return _UNICODE_ESCAPE.sub(lambda found: chr(int(found[1], 16)) if found[1] else "/", text)


def _without_paths(text: str) -> str:
    """Reduce every path in a text to its last segment."""
    if _WHOLE_PATH.fullmatch(text):
        return _last_segment(text)
    return _PATH.sub(lambda found: _last_segment(found[0]), text)


def _last_segment(path: str) -> str:
    return next((segment for segment in reversed(_SEPARATOR.split(path.strip())) if segment.strip(".~")), "")
