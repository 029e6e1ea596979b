"""Judgements: what an event costs us, and what its tenant owes for it.

Pricing owns price books, the ways of charging, plans, and the rating of events. It does not own what was used (that is
metering's), nor HTTP, tenants or providers: a provider is named in the data of a book, never in a module. The same
event and the same versions of two books give the same amounts for ever, without a database.

The life of an amount:

1. A price in a book is an exact decimal string, `"0.0075"`; from there on it is an integer count of nanos (`money`).
2. A rate turns a quantity into an amount: the exact rational price, rounded once, half to even, to the nano (`rates`).
3. Rating finds, in each of two books, the one price of each dimension, and adds up the lines (`book`, `rating`). What
   has no price is `priced: false`, which is not zero.
4. Charges, daily sums and balances add nanos, and never round.
5. An invoice rounds its total to the currency's smallest coin. That is the only other rounding, and a line of its own.

The words, one per idea: a *nano* is 10⁻⁹ of a currency unit; a *rate* is a way of charging for a quantity; a *price* is
a rate and what it applies to; a *book* is a named, immutable version of a set of prices; what a plan asks of a tenant
is the *charge*, what a provider asks of us the *cost*; a *plan* names the book a tenant is charged by, and the credit
that comes with it; a *list* is a provider's own price list, as somebody keeps it.
"""
