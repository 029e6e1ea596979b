"""How many segments a text message takes: GSM 03.38 where its alphabet has every character, else UCS-2. Pure."""

from __future__ import annotations

GSM_7 = frozenset(
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?"
    "¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿abcdefghijklmnopqrstuvwxyzäöñüà"
)
GSM_7_EXTENDED = frozenset("\f^{}\\[~]|€")
"""Each is sent as an escape and another character, so it counts two."""

GSM_7_ALONE, GSM_7_EACH = 160, 153
UCS_2_ALONE, UCS_2_EACH = 70, 67
"""What fits into one segment: less where there are several, for each then says which it is."""


def segments(text: str) -> int:
    """The segments of a message. What counts two is never cut between two segments."""
    if set(text) <= GSM_7 | GSM_7_EXTENDED:
        sizes = [2 if character in GSM_7_EXTENDED else 1 for character in text]
        alone, each = GSM_7_ALONE, GSM_7_EACH
    else:
        sizes = [2 if character > "\uffff" else 1 for character in text]
        alone, each = UCS_2_ALONE, UCS_2_EACH
    if sum(sizes) <= alone:
        return 1
    count, room = 1, each
    for size in sizes:
        if size > room:
            count, room = count + 1, each
        room -= size
    return count
