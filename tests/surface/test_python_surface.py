"""Every method of OpenAI's SDK for Python through the gateway: what the provider gets and what the SDK hears and returns is
what it is directly, byte for byte but for the documented changes.

The methods are found in the SDK's tree of resources, arguments and answers made of its annotations: with a new release of the
SDK there are more of them, and nothing to write here.
"""

from __future__ import annotations

import openai
import pytest

from tests.surface.calls import methods
from tests.surface.python_sides import AsyncSide, Side
from tests.surface.ways import differences

METHODS: dict[str, list] = {}
for method in methods():
    METHODS.setdefault(method.name, []).append(method)

LOCAL = {
    "beta.agents.sessions.artifacts.for_result": "gives an object that calls other methods",
    "webhooks.unwrap": "checks what an application was sent",
    "webhooks.verify_signature": "checks what an application was sent",
}
"""Methods that ask the provider nothing."""

WEBSOCKETS = {name for name in METHODS if name.endswith(".connect")}
"""Methods that open a WebSocket, in test_python_websockets."""

RAISES = {
    "beta.agents.sessions.stream": "follows two calls at once, which are compared as sessions.events.stream and .create",
    "beta.chat.completions.parse": "a finish_reason that was made up is an error to it",
    "beta.threads.create_and_run_stream": "puts events together that belong together, and these do not",
    "beta.threads.runs.create_and_stream": "the same",
    "beta.threads.runs.stream": "the same",
    "beta.threads.runs.submit_tool_outputs_stream": "the same",
    "chat.completions.parse": "a finish_reason that was made up is an error to it",
    "responses.stream": "puts events together that belong together, and these do not",
}
"""Methods of which the SDK makes nothing out of made-up answers. That both ways it raises the same is compared."""

ASKING = sorted(METHODS.keys() - LOCAL.keys() - WEBSOCKETS)

with openai.OpenAI(api_key="sk-none") as client:
    WITH_RAW = [name for name in ASKING if METHODS[name][0].has_raw(client)]

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*serialized value.*:UserWarning")


@pytest.fixture(scope="module")
def sides(found, tmp_path_factory):
    directory = tmp_path_factory.mktemp("files")
    made = [(way, Side(way, found.upstream, directory)) for way in found[:3]]
    yield directory, *made
    for _, side in made:
        side.client.close()


@pytest.mark.parametrize("name", ASKING)
def test_a_method_does_through_the_gateway_what_it_does_directly(sides, name):
    directory, (_, direct), *through = sides
    for method in METHODS[name]:

        def call(client, method=method):
            return method.of(client)(**method.arguments(directory, everything=not method.helps))

        expected = direct.told(method.label, call, method.fields)

        assert expected.seen
        assert name in RAISES or not expected.raised, expected.result
        for way, side in through:
            told = side.told(method.label, call, method.fields)
            if expected.raised:
                # How much of an answer was there when it gave up is a matter of chance.
                assert (told.result, len(told.seen)) == (expected.result, len(expected.seen))
            else:
                assert differences(expected, told, way.cut) == []


@pytest.mark.parametrize("name", WITH_RAW)
def test_a_method_with_the_least_arguments_hears_the_raw_answer_that_comes_directly(sides, name):
    directory, (_, direct), (way, own), _ = sides
    for method in METHODS[name]:

        def call(client, method=method):
            return method.of(client.with_raw_response)(**method.arguments(directory, everything=False))

        expected = direct.told(f"{method.label} raw", call)

        assert expected.seen
        assert differences(expected, own.told(f"{method.label} raw", call), way.cut) == []


async def test_the_asynchronous_client_does_through_the_gateway_what_it_does_directly(found, tmp_path):
    direct, brought = (AsyncSide(way, found.upstream, tmp_path) for way in (found.direct, found.brought))
    async with direct.client, brought.client:
        for name in ASKING:
            for method in METHODS[name]:
                if method.helps or "event_handler" in method.kinds:
                    continue  # The same calls; their handlers are of another class.
                label = f"{method.label} async"

                def call(client, method=method):
                    return method.of(client)(**method.arguments(tmp_path, everything=False))

                expected = await direct.told(label, call)

                assert expected.seen, name
                assert differences(expected, await brought.told(label, call), frozenset()) == []


def test_every_method_is_compared_or_named_with_a_reason():
    assert len(ASKING) > 400
    assert len(WITH_RAW) > 380
    assert LOCAL.keys() | RAISES.keys() <= METHODS.keys()
    assert not LOCAL.keys() & RAISES.keys()
