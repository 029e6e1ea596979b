"""The providers: everything we know about each, as data and pure functions.

To add an endpoint, add a line to its provider's `endpoints`. To add a provider, copy the module that is nearest to it,
answer every field of :class:`gateway.providers.api.Provider`, and add it to the tuple below: being in the tuple is being
routed, being configured, and being tested. What speaks the protocol of one of them needs no module: the settings name it,
and `compatible` makes it.
"""

from gateway.providers import openai, sendgrid, twilio
from gateway.providers.api import Provider
from gateway.providers.compatible import Kind, compatible

__all__ = ["PROVIDERS", "Kind", "Provider", "compatible"]

PROVIDERS: tuple[Provider, ...] = (openai.PROVIDER, twilio.PROVIDER, sendgrid.PROVIDER)
