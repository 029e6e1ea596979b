"""Facts: what was used, by whom, when.

Metering owns usage events, the spool that keeps them through a crash, and the ledger that keeps them for ever. It does
not own prices, HTTP or providers: nothing here knows what an event costs, how it was heard of, or a provider by name.

The words, one per idea: a *call* is one request that an application sent through the gateway; an *event* is one fact of
use, most often of a call; a *quantity* is how much of one *dimension* (`input_tokens`, `segments`) an event used; the
*intent* of a call is written before it is forwarded and its *outcome* when its usage is known; the *ledger* is the
append-only table of events.
"""
