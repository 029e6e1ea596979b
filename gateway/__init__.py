"""The HTTP edge: owns calls, tenants and wiring. It does not own counting or prices.

One call, and the module of each step:

1. `listener`   a client's connection, which `acceptor` took, as many as other workers; `http1` makes requests of its bytes,
                `strand` drives the call that each begins
2. `callers`    whose is it: key → tenant, scopes, from the `snapshot`
3. `routing`    which provider and endpoint, and `sharing`: may it, on an account that several tenants share
4. `providers`  what each provider's request and answer say; `proxy` holds the path of the call and is the place to begin;
                `request_body` is looked through on its way, `account_alias` names the account on each side, and
                `answer_links` leads the URLs of answers back here
5. `recorder`   the intent goes into the spool before the first byte leaves
6. `upstream`   one attempt at the provider; `http1` makes an answer of its bytes. What a turn of the loop brings on either
                side leaves together at its end, by way of `departures`: its records first, in one piece. `tls` is spoken
                on either side
7. `proxy`      relays the answer past the endpoint's meter, or what is said in a session past that session's
8. `recorder`   the outcome is in the spool before the client can conclude success; where the answer does not
                say it, `estimator` and its `estimator_process` count it
9. `shipper`    spools → ledger: `spool_batches` of facts, each with event, charge and daily sums in one transaction, in
                `kept_memory`; `replay` does it once more on demand
                what is known only later comes past in another call's answer, or `poller` asks the provider for it
10. `api`       answers questions from ledger and sums; `commands` ask them on the command line

A provider that tells by itself comes to the same listener: `webhooks` holds the path of a delivery and is the place to
begin. `callback_addresses` is where providers are told to come, `inbox` what applications do not have yet, `deliverer` brings
it to them, signed as their SDKs verify it and by `standard_webhooks`, and `egress` is the only way there; `integrations` say
where that is, `connector` leads a tenant's numbers here, `subaccounts` asks what its account signs with (sooner where
a worker left `doubts`), and `switch_records` takes what a switch posts.

What went around the gateway is found by `collector` in providers' own lists (`asking` is how they are asked), or brought by
`importer` out of `call_details`. `reconciler` holds the ledger against what providers say themselves, which `provider_lists`
reads for it; `unknown_outcomes` finds calls again that nobody recorded the end of, `reconciliations` keeps runs and reports.

Each call is a line of the `access_log`. `counters` count all of that in the worker, and `monitor` looks at all workers, spools and the ledger for who asks.
`request_tags` serve tenants and `cost_estimates` calls that ask for them, `books` are what is rated by. `limits` bound what either
side may take. `app` starts all of it, in one process or, under a `supervisor`, in several: each opens the `office`, a
`worker` does 1 to 8 and the `back_office` 9 and 10. `provider_access` is how the latter asks providers, and as whom. `simulator` stands in for providers, and shares nothing with the rest.
"""
