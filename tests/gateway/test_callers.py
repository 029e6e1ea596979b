"""Who is calling."""

import asyncio
import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy

from gateway import errors, snapshot
from gateway.callers import Callers
from gateway.keys import Secrets
from gateway.providers import Kind, compatible, openai
from gateway.snapshot import KeyRecord, Snapshot, SnapshotFile, TenantRecord
from tests.gateway.proxied import made_up_key

SECRETS = Secrets.derived("one installation")
KEY_ID, KEY = made_up_key("key")
SERVICE_ID, SERVICE = made_up_key("service")
UNPUBLISHED_ID, UNPUBLISHED = made_up_key("unpublished")
NOW_S = 1_700_000_000.0


def record(key_id, key, tenant_id="acme", **fields):
    scopes = fields.pop("scopes", frozenset({"proxy"}))
    return KeyRecord(key_id=key_id, digest=SECRETS.digest(key).hex(), tenant_id=tenant_id, scopes=scopes, **fields)


def tenant(tenant_id, status="active"):
    return TenantRecord(tenant_id=tenant_id, status=status, account_sid="AC" + "0" * 32)


def state(*tenants, **key):
    records = (record(KEY_ID, KEY, **key), record(SERVICE_ID, SERVICE, None))
    return Snapshot(
        version=snapshot.VERSION,
        keys={made.key_id: made for made in records},
        tenants={made.tenant_id: made for made in (tenants or (tenant("acme"), tenant("other")))},
    )


def callers_of(path, held, create=None):
    snapshot.write(path, held)
    file = SnapshotFile(path)
    file.refresh()
    return Callers(file, SECRETS, create, lambda: NOW_S)


@pytest.fixture
def identify(tmp_path):
    """Tells who sends some headers, to a gateway whose key and tenants are as given."""

    async def identify(*headers, held=None, create=None, provider=openai.PROVIDER):
        callers = callers_of(tmp_path / "snapshot.json", held or state(), create)
        return await callers.identify(provider, CIMultiDictProxy(CIMultiDict(headers)))

    return identify


def bearer(key):
    return ("Authorization", f"Bearer {key}")


async def test_a_tenant_s_key_names_its_tenant(identify):
    caller = await identify(bearer(KEY))

    assert (caller.tenant.tenant_id, caller.key.key_id) == ("acme", KEY_ID)
    assert (caller.category, caller.tags, caller.metered, caller.brings_credential) == (
        "uncategorised",
        {},
        True,
        False,
    )


@pytest.mark.parametrize("header", [bearer("SG." + KEY), ("Authorization", "bearer  " + KEY), ("x-gateway-key", KEY)])
async def test_a_key_may_stand_wherever_an_sdk_puts_it(identify, header):
    assert (await identify(header)).tenant.tenant_id == "acme"


@pytest.mark.parametrize(
    "headers", [(), (("Authorization", "Bearer "),), (("Authorization", f"Basic {KEY}"),), (("X-Gateway-Key", ""),)]
)
async def test_without_a_key_nobody_is_calling(identify, headers):
    with pytest.raises(errors.NoKey):
        await identify(*headers)


@pytest.mark.parametrize(
    "key", ["sk-proj-abc", "tk_x", "tk_000000000000_" + "x" * 43, KEY + "A", KEY[:-1], "tk_" + SERVICE_ID + KEY[15:]]
)
async def test_what_is_not_a_key_of_ours_is_refused(identify, key):
    with pytest.raises(errors.WrongKey) as refused:
        await identify(bearer(key))

    assert key not in str(refused.value)


async def test_one_character_decides(identify):
    """Guards the comparison of the whole key."""
    for place in range(len(KEY)):
        altered = KEY[:place] + ("A" if KEY[place] != "A" else "B") + KEY[place + 1 :]
        for key in (altered, KEY[:place]):
            with pytest.raises((errors.WrongKey, errors.NoKey)):
                await identify(bearer(key))


async def test_a_key_that_was_just_made_works_at_once(tmp_path):
    """Guards looking again for a key that is not known: without it, the first call after `key create` fails."""
    path = tmp_path / "snapshot.json"
    callers = callers_of(path, state())
    held = state()
    snapshot.write(
        path, Snapshot(version=1, keys={UNPUBLISHED_ID: record(UNPUBLISHED_ID, UNPUBLISHED)}, tenants=held.tenants)
    )

    caller = await callers.identify(openai.PROVIDER, CIMultiDictProxy(CIMultiDict((bearer(UNPUBLISHED),))))

    assert caller.key.key_id == UNPUBLISHED_ID


@pytest.mark.parametrize(("after_s", "works"), [(1, True), (0.001, True), (0, False), (-1, False)])
async def test_a_key_works_until_the_moment_it_expires(identify, after_s, works):
    held = state(expires_at_ms=int((NOW_S + after_s) * 1000))

    if works:
        assert (await identify(bearer(KEY), held=held)).key.key_id == KEY_ID
    else:
        with pytest.raises(errors.ExpiredKey):
            await identify(bearer(KEY), held=held)


@pytest.mark.parametrize(
    ("scopes", "works"),
    [({"proxy"}, True), ({"proxy:openai"}, True), ({"proxy:twilio"}, False), ({"usage:read"}, False), (set(), False)],
)
async def test_a_key_needs_the_scope_of_what_it_calls(identify, scopes, works):
    held = state(scopes=frozenset(scopes))

    if works:
        await identify(bearer(KEY), held=held)
    else:
        with pytest.raises(errors.ScopeMissing):
            await identify(bearer(KEY), held=held)


@pytest.mark.parametrize("status", ["suspended", "closed", ""])
async def test_a_tenant_that_is_not_active_makes_no_calls(identify, status):
    with pytest.raises(errors.TenantSuspended):
        await identify(bearer(KEY), held=state(tenant("acme", status)))


async def test_a_tenant_s_own_key_may_repeat_its_tenant(identify):
    assert (await identify(bearer(KEY), ("X-Tenant-ID", "acme"))).tenant.tenant_id == "acme"


@pytest.mark.parametrize(
    "named", [["other"], ["acme", "other"], ["other", "acme"], [""], ["ACME"], ["acme,other"], ["nobody"]]
)
async def test_no_header_overrides_the_tenant_of_a_key(identify, named):
    with pytest.raises(errors.TenantMismatch):
        await identify(bearer(KEY), *(("X-Tenant-ID", name) for name in named))


@pytest.mark.parametrize("named", [["acme"], ["other"], ["other", "other"]])
async def test_a_service_key_speaks_for_the_tenant_it_names(identify, named):
    caller = await identify(bearer(SERVICE), *(("x-tenant-id", name) for name in named))

    assert (caller.tenant.tenant_id, caller.key.key_id) == (named[0], SERVICE_ID)


@pytest.mark.parametrize("named", [[], [""], ["acme", "other"]])
async def test_a_service_key_names_one_tenant_and_one_only(identify, named):
    with pytest.raises(errors.TenantRequired):
        await identify(bearer(SERVICE), *(("X-Tenant-ID", name) for name in named))


@pytest.mark.parametrize("named", ["nobody", "acme,other", "acme, acme", "../acme"])
async def test_a_tenant_that_does_not_exist_is_refused(identify, named):
    with pytest.raises(errors.TenantUnknown):
        await identify(bearer(SERVICE), ("X-Tenant-ID", named))


async def test_where_it_is_allowed_a_tenant_is_made_at_first_sight(tmp_path):
    path = tmp_path / "snapshot.json"
    made = []

    async def create(tenant_id):
        await asyncio.sleep(0)
        made.append(tenant_id)
        snapshot.write(path, state(tenant("acme"), *(tenant(name) for name in made)))

    callers = callers_of(path, state(), create)
    headers = CIMultiDictProxy(CIMultiDict((bearer(SERVICE), ("X-Tenant-ID", "new"))))

    found = await asyncio.gather(*(callers.identify(openai.PROVIDER, headers) for _ in range(5)))

    assert {caller.tenant.tenant_id for caller in found} == {"new"}
    assert made == ["new"]


async def test_a_tenant_s_own_key_makes_no_tenants(identify):
    made = []

    async def create(tenant_id):
        made.append(tenant_id)

    with pytest.raises(errors.TenantUnknown):
        await identify(bearer(KEY), held=state(tenant("other")), create=create)
    assert made == []


async def test_an_application_may_bring_its_own_credential(identify):
    caller = await identify(bearer("sk-their-own"), ("X-Gateway-Key", KEY))

    assert caller.brings_credential
    assert caller.tenant.tenant_id == "acme"


@pytest.mark.parametrize(
    "headers",
    [
        [bearer(KEY)],
        [bearer(SERVICE)],
        [],
        [bearer(f"Bearer {KEY}")],
        [bearer(f"Bearer ion: {KEY}")],
        [bearer("tk_a_b")],
    ],
)
async def test_a_gateway_key_is_never_taken_for_a_provider_s_credential(identify, headers):
    """Guards brings_credential: with the header alone deciding, a gateway key in Authorization went to the provider."""
    caller = await identify(*headers, ("X-Gateway-Key", KEY))

    assert not caller.brings_credential
    assert caller.key.key_id == KEY_ID


@pytest.mark.parametrize(
    "beside",
    [
        bearer(f"Bearer {KEY}"),
        ("Authorization", "Basic " + base64.b64encode(f"acme:{KEY}".encode()).decode()),
        ("Authorization", f"Digest {KEY}"),
        ("OpenAI-Organization", KEY),
    ],
    ids=["a-token", "a-pair", "another-scheme", "another-header"],
)
async def test_nor_where_the_provider_s_credential_stands_elsewhere(identify, beside):
    """Guards brings_credential: Azure's is in `api-key`, and what stood beside it went to the provider as it was."""
    azure = compatible("azure", Kind.AZURE_OPENAI, asks_for_usage=True)
    own = (("X-Gateway-Key", KEY), ("api-key", "their-own"))

    assert (await identify(*own, provider=azure)).brings_credential
    assert not (await identify(*own, beside, provider=azure)).brings_credential


async def test_a_call_says_what_it_is_for(identify):
    caller = await identify(
        bearer(KEY), ("X-Gateway-Category", "rag"), ("X-Gateway-Tags", "team=a, env=prod"), ("X-Gateway-Tags", "x=1,")
    )

    assert caller.category == "rag"
    assert caller.tags == {"team": "a", "env": "prod", "x": "1"}


async def test_a_key_s_own_labels_are_the_default_and_stay_it(tmp_path):
    held = state(category="summary", tags={"team": "a", "env": "dev"})
    callers = callers_of(tmp_path / "snapshot.json", held)

    async def identified(*headers):
        return await callers.identify(openai.PROVIDER, CIMultiDictProxy(CIMultiDict((bearer(KEY), *headers))))

    said = await identified(("X-Gateway-Tags", "env=prod"), ("X-Gateway-Category", ""))
    plain = await identified()

    assert (said.category, said.tags) == ("summary", {"team": "a", "env": "prod"})
    assert (plain.category, plain.tags) == ("summary", {"team": "a", "env": "dev"})


@pytest.mark.parametrize(
    "header",
    [
        ("X-Gateway-Category", "a b"),
        ("X-Gateway-Category", "é"),
        ("X-Gateway-Category", "a" * 65),
        ("X-Gateway-Category", "-a"),
        ("X-Gateway-Tags", "blue"),
        ("X-Gateway-Tags", "=x"),
        ("X-Gateway-Tags", "k=" + "v" * 65),
        ("X-Gateway-Tags", "k" * 33 + "=v"),
        ("X-Gateway-Tags", "k=<script>"),
        ("X-Gateway-Tags", ",".join(f"k{n}=v" for n in range(11))),
        ("X-Gateway-Metering", "OFF"),
        ("X-Gateway-Metering", ""),
        ("X-Gateway-Metering", "no"),
    ],
)
async def test_labels_that_are_none_are_refused(identify, header):
    with pytest.raises(errors.BadHeader):
        await identify(bearer(KEY), header)


@given(st.text(st.characters(min_codepoint=0x20, max_codepoint=0xFF, exclude_characters="\x7f"), max_size=200))
def test_no_label_can_hold_more_than_plain_characters(text):
    async def labelled():
        callers = Callers(held, SECRETS, None, lambda: NOW_S)
        headers = (bearer(KEY), ("X-Gateway-Category", text or "a"), ("X-Gateway-Tags", text))
        return await callers.identify(openai.PROVIDER, CIMultiDictProxy(CIMultiDict(headers)))

    class held:  # noqa: N801  Stands where a snapshot file stands.
        current = state()

    try:
        caller = asyncio.run(labelled())
    except errors.BadHeader:
        return
    for value in (caller.category, *caller.tags, *caller.tags.values()):
        assert value.isascii()
        assert len(value) <= 64
        assert not set(value) & set("<>\"'\\{}&;\r\n")


async def test_leaving_metering_out_needs_a_scope_of_its_own(identify):
    with pytest.raises(errors.ScopeMissing):
        await identify(bearer(KEY), ("X-Gateway-Metering", "off"))

    allowed = state(scopes=frozenset({"proxy", "metering:off"}))
    assert not (await identify(bearer(KEY), ("X-Gateway-Metering", "off"), held=allowed)).metered
    assert (await identify(bearer(KEY), ("X-Gateway-Metering", "on"), held=allowed)).metered


async def test_beside_a_gateway_key_an_application_says_who_it_is_once(identify):
    """Guards what is forwarded: of two such headers one could be a key of ours, and both would go to the provider."""
    with pytest.raises(errors.BadHeader):
        await identify(("X-Gateway-Key", KEY), ("Authorization", "Bearer sk-own"), bearer(KEY))
