"""Looking through JSON of any size as it goes by, without holding it. Pure.

The grammar is RFC 8259's. What is no JSON is looked through as far as it makes sense and never raises: whether it is
acceptable is the provider's to say.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType

import msgspec

UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What decoding raises for bytes that are no JSON, or other JSON than is asked for, or that nest too deep to be read."""

DEPTH_MAX = 8
"""So many levels are known by name; what lies deeper is only counted in and out."""

TEXT_BYTES_MAX = 512
"""Of a name, or of a text that is asked for, so much is held; the longest address has 320 bytes (RFC 3696 errata 1690)."""

_TOKEN = re.compile(
    rb'"([^"\\]*+(?:\\.[^"\\]*+)*+)(?:("[ \t\r\n]*+(?::|(?=.)))|(\\|"[ \t\r\n]*+)?)|([{}\[\]])', re.DOTALL
)
"""Either group 4, a bracket; or group 1, a text. Group 2 is its end, with the colon that makes it a name. Where that is
not to be seen in this chunk, group 3 is the backslash or the quote that only the next chunk gives a meaning."""

Path = tuple[str, ...]
"""Names of objects' fields in lower case, since servers exist that read them in any case; `[]` for an array."""


class JsonScan:
    """Tells of each object, and of the texts and the fields at some paths, in the order in which they begin."""

    __slots__ = ("_begun", "_fields", "_levels", "_object", "_over", "_texts", "complete")

    def __init__(
        self,
        opened: Callable[[Path], None],
        texts: Mapping[Path, Callable[[str], None]],
        fields: Mapping[Path, Callable[[], None]] = MappingProxyType({}),
    ) -> None:
        """`opened` is told the path of each object within DEPTH_MAX; `texts` each text at their paths, unless it is long;
        `fields` that there is one, whatever it holds."""
        self._object = opened
        self._texts = [(list(path), wanted) for path, wanted in texts.items()]
        self._fields = [(list(path), wanted) for path, wanted in fields.items()]
        self._levels: list[str] = []
        """The path of the innermost array or object: for an object, the name of the field that is being read."""
        self._over = 0
        """So many levels deeper than DEPTH_MAX."""
        self._begun: tuple[bytes, bytes] | None = None
        """Of a text that goes on in the next chunk, its beginning and group 3; None between texts."""
        self.complete = False
        """True once the outermost value has ended."""

    def feed(self, chunk: bytes) -> None:
        begun = b""
        if self._begun is not None:
            begun, carried = self._begun
            chunk = b'"' + carried + chunk
        for text, end, carried, bracket in _TOKEN.findall(chunk):
            if bracket:
                if bracket in b"{[":
                    self._open(is_object=bracket == b"{")
                elif self._over:
                    self._over -= 1
                elif self._levels:
                    self._levels.pop()
                    self.complete = not self._levels
            elif end:
                if not self._over and self._levels:
                    self._read(begun + text if begun else text, is_name=end[-1] == 0x3A)
                begun = b""
            else:
                held = begun if len(begun) > TEXT_BYTES_MAX else begun + text[: TEXT_BYTES_MAX + 1]
                self._begun = held, carried[:1]
                return
        self._begun = None

    def _read(self, text: bytes, *, is_name: bool) -> None:
        if is_name:
            if self._levels[-1] != "[]":
                name = _content(text)
                # A field may be called `[]`, and is no array for that.
                self._levels[-1] = "" if name is None or name == "[]" else name.lower()
                for path, field in self._fields:
                    if self._levels == path:
                        field()
            return
        for path, wanted in self._texts:
            if self._levels == path:
                content = _content(text)
                if content is not None:
                    wanted(content)

    def _open(self, *, is_object: bool) -> None:
        if self._over or len(self._levels) == DEPTH_MAX:
            self._over += 1
            return
        if is_object:
            self._object(tuple(self._levels))
        self._levels.append("" if is_object else "[]")


def _content(raw: bytes) -> str | None:
    """What a text says, or None if it is too long, or no text."""
    if len(raw) > TEXT_BYTES_MAX:
        return None
    try:
        return raw.decode() if b"\\" not in raw else msgspec.json.decode(b'"' + raw + b'"', type=str)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
