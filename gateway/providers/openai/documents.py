"""What is read of OpenAI's JSON, as types: the rest of it is skipped undecoded. Pure.

Apart from what is made of it, since structs do not compile (hatch_build.py).
"""

from __future__ import annotations

from typing import Annotated, TypeAlias, final

import msgspec

COUNT_MAX = 1 << 53
"""No count is larger than what every JSON reader can hold exactly (RFC 8259 section 6); one that is, is a mistake."""

Count: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=COUNT_MAX)] | msgspec.UnsetType


class CacheWrites(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """How long what was written stays: parts of the cache writes, which are counted as one."""

    ttl_30m_tokens: Count = msgspec.UNSET
    ttl_12h_tokens: Count = msgspec.UNSET


class InputDetails(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """What is a dimension of its own stands first, in the order in which it is taken out of the whole."""

    cached_tokens: Count = msgspec.UNSET
    cache_write_tokens: Count = msgspec.UNSET
    audio_tokens: Count = msgspec.UNSET
    image_tokens: Count = msgspec.UNSET
    text_tokens: Count = msgspec.UNSET
    cache_write_tokens_details: CacheWrites | msgspec.UnsetType = msgspec.UNSET


class OutputDetails(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """As above."""

    reasoning_tokens: Count = msgspec.UNSET
    audio_tokens: Count = msgspec.UNSET
    image_tokens: Count = msgspec.UNSET
    text_tokens: Count = msgspec.UNSET
    accepted_prediction_tokens: Count = msgspec.UNSET
    rejected_prediction_tokens: Count = msgspec.UNSET


@final
class Documented(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """A usage object as it is documented: nothing but counts, under the names of either of the two shapes."""

    prompt_tokens: Count = msgspec.UNSET
    completion_tokens: Count = msgspec.UNSET
    total_tokens: Count = msgspec.UNSET
    prompt_tokens_details: InputDetails | msgspec.UnsetType = msgspec.UNSET
    completion_tokens_details: OutputDetails | msgspec.UnsetType = msgspec.UNSET
    input_tokens: Count = msgspec.UNSET
    input_tokens_details: InputDetails | msgspec.UnsetType = msgspec.UNSET
    output_tokens: Count = msgspec.UNSET
    output_tokens_details: OutputDetails | msgspec.UnsetType = msgspec.UNSET


class _Answered(msgspec.Struct, gc=False):
    """What is read of an answer besides its usage; everything else is skipped undecoded."""

    id: object = None
    model: object = None
    choices: msgspec.Raw = msgspec.Raw(b"")
    service_tier: object = None
    status: object = None
    background: object = None
    response: msgspec.Raw = msgspec.Raw(b"")
    type: object = None
    tool_usage: msgspec.Raw = msgspec.Raw(b"")
    tools: msgspec.Raw = msgspec.Raw(b"")
    output: msgspec.Raw = msgspec.Raw(b"")


class Answer(_Answered, gc=False):
    """An answer, or one event of a stream, whose usage is as it is documented, or that has none."""

    usage: Documented | None = None


class OddAnswer(_Answered, gc=False):
    """Any other. Reading an answer twice costs more than once, and few are odd."""

    usage: msgspec.Raw = msgspec.Raw(b"")


class ModelRequest(msgspec.Struct, gc=False):
    """The fields of a request that matter here; a field of another type than documented counts as not there."""

    model: object = None
    stream: object = None
    stream_options: msgspec.Raw = msgspec.Raw(b"")
    background: object = None


class StreamOptions(msgspec.Struct):
    include_usage: object = None


class MediaRequest(msgspec.Struct):
    """What decides what a picture, a recording or a video costs."""

    model: object = None
    stream: object = None
    n: object = None
    size: object = None
    quality: object = None
    seconds: object = None
    input: object = None


class Session(msgspec.Struct):
    model: object = None


class SessionRequest(msgspec.Struct):
    model: object = None
    session: msgspec.Raw = msgspec.Raw(b"")


read_stream_options = msgspec.json.Decoder(StreamOptions).decode


read_media = msgspec.json.Decoder(MediaRequest).decode


read_session = msgspec.json.Decoder(Session).decode


read_asked_session = msgspec.json.Decoder(SessionRequest).decode
