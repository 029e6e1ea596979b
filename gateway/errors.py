"""Every answer the gateway gives on its own behalf: code, HTTP status, and the sentence that says what to do.

The provider's own error shape is put around it where it leaves, so that each SDK raises its natural exception. No
message holds a secret, a number, an address or any part of a body.
"""

from __future__ import annotations


class Refusal(Exception):
    """A call that goes no further. The class says which; the message says why and what helps."""

    status = 500
    code = "internal"
    retry_pointless = True
    """Sent as `x-should-retry: false`, which keeps SDKs from trying again what can not succeed."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class NoKey(Refusal):
    status = 401
    code = "missing_key"


class WrongKey(Refusal):
    status = 401
    code = "invalid_key"


class ExpiredKey(Refusal):
    status = 401
    code = "expired_key"


class ScopeMissing(Refusal):
    status = 403
    code = "scope_missing"


class TenantMismatch(Refusal):
    status = 403
    code = "tenant_mismatch"


class TenantRequired(Refusal):
    status = 403
    code = "tenant_required"


class TenantUnknown(Refusal):
    status = 403
    code = "tenant_unknown"


class TenantSuspended(Refusal):
    status = 403
    code = "tenant_suspended"


class NoCredential(Refusal):
    status = 403
    code = "no_credential"


class NotOnSharedAccount(Refusal):
    status = 403
    code = "not_on_shared_account"


class UnlistedDenied(Refusal):
    status = 403
    code = "unlisted_endpoint"


class NoSuchProvider(Refusal):
    status = 404
    code = "unknown_provider"


class ObjectMissing(Refusal):
    """Somebody else's object, or none: the two look the same. Its body is the provider's own for a missing object."""

    status = 404
    code = "not_found"

    def __init__(self, object_id: str) -> None:
        super().__init__("No such object.")
        self.object_id = object_id


class NoSuchProduct(Refusal):
    status = 404
    code = "unknown_product"


class BadHeader(Refusal):
    status = 400
    code = "invalid_header"


class Repeated(Refusal):
    """The call was forwarded before, under the same `X-Gateway-Idempotency-Key`."""

    status = 409
    code = "repeated_call"


class IdempotencyMismatch(Refusal):
    status = 422
    code = "idempotency_mismatch"


class EncodedBody(Refusal):
    status = 415
    code = "encoded_body"


class UpstreamRefusedCredential(Refusal):
    status = 401
    code = "upstream_unauthorized"


class UpstreamUnreachable(Refusal):
    status = 502
    code = "upstream_unreachable"
    retry_pointless = False


class ConnectTimeout(UpstreamUnreachable):
    status = 504
    code = "upstream_connect_timeout"


class UpstreamBroke(Refusal):
    """The provider may have acted on the request, so trying again could do it twice."""

    status = 502
    code = "upstream_broke"


class UpstreamTooSlow(Refusal):
    status = 504
    code = "upstream_timeout"


class NotRecordable(Refusal):
    """Nothing was sent to the provider."""

    status = 503
    code = "usage_not_recordable"
    retry_pointless = False


class OwnerUnknown(Refusal):
    """Nothing was sent to the provider."""

    status = 503
    code = "owner_unknown"
    retry_pointless = False


class Overloaded(Refusal):
    """The worker has more to do than it can in time. Nothing was sent to the provider."""

    status = 503
    code = "overloaded"
    retry_pointless = False


class UpgradeRefused(Refusal):
    """The connection can not go on in another protocol here."""

    status = 400
    code = "upgrade_refused"


class Internal(Refusal):
    status = 500
    code = "internal"
