"""Tags out of what a request says of itself, for the tenants that are set to it. Pure.

Whoever an end user is stands there as a keyed hash, unless the tenant is set to `plain`: a ledger is for ever,
and a name in it can not be erased. What does not fit is left out; a call does not fail for its labels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from gateway.callers import TAG, TAGS_MAX
from gateway.providers.api import Labels
from gateway.snapshot import RequestTags


def tagged(
    tags: Mapping[str, str], labels: Labels, how: RequestTags, reference: Callable[[str], str]
) -> dict[str, str]:
    """These tags, and as many of the labels as there is room for: none takes the place of a tag that is there."""
    all_tags = dict(tags)
    users = {name: user if how is RequestTags.PLAIN else reference(user) for name, user in labels.users.items()}
    for name, value in (users | {name: value for name, value in labels.notes.items() if name not in users}).items():
        if len(all_tags) < TAGS_MAX and TAG.fullmatch(f"{name}={value}"):
            all_tags.setdefault(name, value)
    return all_tags
