"""Values of any type that the SDK declares: arguments for its methods, and answers for it to read.

They are made of the annotations alone, and the same each time: what is chosen depends on the place in the value by a checksum.
"""

from __future__ import annotations

import collections.abc
import datetime as dt
import io
import os
import types
import typing
import zlib
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Union

import pydantic
import typing_extensions

DEPTH_MAX = 5
"""Deeper than that there is only what must be there."""

TEXTS = (
    "Grüße aus Köln 👋🏽",
    'a "quoted" \\ text / with </script>',
    "100 % & a+b=c;d?e#f[0]",
    "two\nlines\r\nand\ta tab",
    "e\u0301 ﷽ 日本語 \u2028 \u0000 \x7f",
    "plain",
    "",
    "data: [DONE]",
)
NAMES = ("id_Ü/ä?b#c", "100%25+a b", "a&b=c;d,e", "~(!*'):@$[]", 'q"uo\\te', "plain_0123456789", "…", "../up")
"""For what may stand in a path."""

FILE = b"\x00\xff\r\n--boundary\r\n" + "Zeile 1 · Grüße\r\n".encode() * 40
_ABSENT = (type(None), "NotGiven", "Omit")


@cache
def hints_of(kind: Any) -> dict[str, Any]:
    """The types of a typed dictionary's fields."""
    return typing_extensions.get_type_hints(kind, include_extras=True)


@cache
def made_file(directory: Path) -> Path:
    """A file on the disk."""
    path = directory / "ein Bild.png"
    path.write_bytes(FILE)
    return path


class MadeUp:
    """Values that are the same for the same seed; `everything` gives what may be left out as well."""

    def __init__(self, seed: str, directory: Path, *, everything: bool) -> None:
        self._seed = seed
        self._directory = directory
        self._everything = everything

    def chosen(self, options: typing.Sequence[Any], place: str) -> Any:
        return options[zlib.crc32(f"{self._seed}{place}".encode()) % len(options)]

    def name(self, place: str) -> str:
        return self.chosen(NAMES, place)

    def value(self, kind: Any, place: str, depth: int = 0) -> Any:
        """A value of that type."""
        origin, arguments = typing.get_origin(kind), typing.get_args(kind)
        if origin in (Annotated, typing_extensions.Required, typing_extensions.NotRequired):
            return self.value(arguments[0], place, depth)
        if isinstance(kind, typing_extensions.TypeAliasType):
            return self.value(kind.__value__, place, depth)
        if isinstance(kind, typing.TypeVar):
            return self.value(kind.__bound__ or object, place, depth)
        if origin in (Union, types.UnionType):
            return self._one_of(arguments, place, depth)
        if origin is Literal:
            return self.chosen(arguments, place)
        if typing_extensions.is_typeddict(kind):
            return self._typed(kind, place, depth)
        if isinstance(origin or kind, type):
            return self._of_class(kind, origin or kind, arguments, place, depth)
        return self.chosen(TEXTS, place)

    def _one_of(self, kinds: tuple[Any, ...], place: str, depth: int) -> Any:
        given = [kind for kind in kinds if kind not in _ABSENT and getattr(kind, "__name__", "") not in _ABSENT]
        if any(kind is bytes or typing.get_origin(kind) is tuple for kind in given):
            return self._file(place)
        if depth > DEPTH_MAX:
            given.sort(key=lambda kind: isinstance(kind, type) and issubclass(kind, dict | pydantic.BaseModel))
            return self.value(given[0], place, depth + 1)
        return self.value(self.chosen(given, place), place, depth + 1) if given else None

    def _file(self, place: str) -> Any:
        """A file in one of the forms in which one can be given; always with a name, which is sent."""
        named = io.BytesIO(FILE)
        named.name = "von Hand.wav"
        forms = (
            made_file(self._directory),
            named,
            ('na"me · ü.txt', FILE),
            ("typed.jsonl", FILE, "application/jsonl"),
            ("with headers", io.BytesIO(FILE), "image/png", {"X-Part": "7"}),
            FILE,
            ("empty", b""),
        )
        return self.chosen(forms, place)

    def _typed(self, kind: Any, place: str, depth: int) -> dict[str, Any]:
        found = {}
        for name, hint in hints_of(kind).items():
            if name in kind.__required_keys__ or (self._everything and depth <= DEPTH_MAX - 2):
                found[name] = self.value(hint, f"{place}.{name}", depth + 1)
        return found

    def model(self, kind: type[pydantic.BaseModel], place: str, depth: int) -> dict[str, Any]:
        found = {}
        for name, field in kind.model_fields.items():
            if name == "error" and depth == 0 and not field.is_required():
                continue  # An answer that is a success has none.
            if field.is_required() or (self._everything and depth <= DEPTH_MAX - 2):
                found[field.alias or name] = self.value(field.annotation, f"{place}.{name}", depth + 1)
        return found

    def _of_class(self, kind: Any, plain: type, arguments: tuple[Any, ...], place: str, depth: int) -> Any:
        if issubclass(plain, pydantic.BaseModel):
            return self.model(kind, place, depth)
        if issubclass(plain, bool):
            return self.chosen((True, False), place)
        if issubclass(plain, int) and place.endswith("index"):
            return 0  # SDKs put the pieces of a stream together by it.
        if issubclass(plain, int):
            return self.chosen((0, 7, 1_795_305_600, 9_007_199_254_740_993), place)
        if issubclass(plain, float):
            return self.chosen((0.1, 1.0, 1e-7, 2.5e20), place)
        if issubclass(plain, dt.datetime):
            return "2026-11-22T00:00:00Z"
        if issubclass(plain, str) and place.endswith(("id", "_id")):
            return self.name(place)
        if issubclass(plain, str):
            return self.chosen(TEXTS, place)
        if issubclass(plain, bytes | os.PathLike):
            return self._file(place)
        if issubclass(plain, tuple):
            return tuple(self.value(item, f"{place}.{n}", depth + 1) for n, item in enumerate(arguments))
        if issubclass(plain, collections.abc.Mapping):
            inner = arguments[1] if arguments else object
            return {key: self.value(inner, f"{place}.{key}", depth + 1) for key in ("k", "schlüssel 2")}
        if issubclass(plain, collections.abc.Iterable):
            inner = arguments[0] if arguments else object
            count = 1 if depth > DEPTH_MAX else self.chosen((1, 2, 3), place)
            return [self.value(inner, f"{place}.{n}", depth + 1) for n in range(count)]
        if plain is object:
            return {"any": [1, None, "thing", {}]}
        return None
