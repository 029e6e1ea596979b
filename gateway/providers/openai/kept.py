"""What can be done with the objects that OpenAI keeps: it all follows one pattern. Pure."""

from __future__ import annotations

from gateway.providers.api import Endpoint
from gateway.providers.free import makes, reads_back


def kept(name: str, path: str, verbs: str) -> tuple[Endpoint, ...]:
    """The endpoints of one kind of object, none of which costs anything, by the names that the SDKs call them.

    `path` is that of one object. `create` and `list` go to what is before its last segment, `retrieve`, `update` and
    `delete` to the object, `content` below it; any other verb is POSTed below it. A list of all there is shows what
    everybody made; one within an object shows what its owner did.
    """
    collection = path.rpartition("/")[0]
    found = []
    for verb in verbs.split():
        called = f"{name}.{verb}"
        match verb:
            case "create":
                found.append(makes(called, collection))
            case "list":
                found.append(reads_back(called, "GET", collection, lists="{" not in collection))
            case "retrieve":
                found.append(reads_back(called, "GET", path))
            case "update":
                found.append(reads_back(called, "POST", path))
            case "delete":
                found.append(reads_back(called, "DELETE", path))
            case "content":
                found.append(reads_back(called, "GET", f"{path}/content"))
            case _:
                found.append(reads_back(called, "POST", f"{path}/{verb}"))
    return tuple(found)
