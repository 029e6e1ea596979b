"""Tags out of what a request says of itself, for the applications that ask for it. Pure.

Whoever an end user is stands there as a keyed hash, unless the application asks for it as it is: a ledger is for ever,
and a name in it can not be erased. What does not fit is left out; a call does not fail for its labels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from gateway.callers import TAG, TAGS_MAX, RequestTags
from gateway.providers.api import Labels


def tagged(
    tags: Mapping[str, str], labels: Labels, how: RequestTags, reference: Callable[[str], str]
) -> dict[str, str]:
    """These tags, and as many of the labels as there is room for: none takes the place of a tag that is there."""
    all_tags = dict(tags)
    users = {name: reference(user) if how is RequestTags.HASHED else user for name, user in labels.users.items()}
    for name, value in (users | {name: value for name, value in labels.notes.items() if name not in users}).items():
        if len(all_tags) < TAGS_MAX and TAG.fullmatch(f"{name}={value}"):
            all_tags.setdefault(name, value)
    return all_tags
