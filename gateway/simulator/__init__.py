"""The providers, simulated: real protocols over real sockets, and a log of the truth.

It serves two ends: the demonstration behind `tollkeeper sandbox`, and the other side of every test. It therefore imports
nothing else of this product, so that what it writes into its truth log (:mod:`gateway.simulator.truth`) can be held
against what the gateway believes.

    python -m gateway.simulator --truth-log truth.jsonl

prints one line of JSON when it listens, with the base URL of each provider, and runs until SIGTERM or SIGINT. One call
through it:

1. `server` reads the request and, by the first segment of its path, finds the provider (the tuple `PROVIDERS` there).
2. `controls` reads what the request asks the simulator to do.
3. the provider's module (`openai`, `sendgrid`, `twilio`) thinks of an answer; `prose` has the words, `store` the
   objects it remembers.
4. `truth` gets the record of the exchange, in one write, before the first byte of the answer.
5. `wire` lays the answer out in bytes, faults included, and `server` writes them; `truth` is told how that ended. What
   begins with a 101 is a session instead (`openai_realtime`, `openai_turns`), which `sessions` holds over a WebSocket.
6. `misdelivery` loses, doubles and delays where the request asks for it, and `deliveries` sends what the provider makes by
   itself after that, status callbacks and the questions of a call that was answered, to loopback and private
   addresses only; `truth` is told of each.

What tests ask of the simulator itself, they ask under `/_simulator` (`director`): messages and calls that come in with
their webhooks, a whole history at once, and the bill of everybody. `--rate-limit N` refuses what a credential asks above
so many calls in a second, with the provider's own 429 and a Retry-After.

To add a provider: one module with a class like :class:`gateway.simulator.openai.OpenAI`, and its line in `PROVIDERS`.

What a request can ask for, in headers, because headers pass through a proxy untouched:

`x-simulator-latency-ms: N`
    Wait so long before the head of the answer; else what `--latency-ms` says.
`x-simulator-chunk-ms: N`
    Wait so long between two events of a streamed answer.
`x-simulator-words: N`
    Make the text of the answer that long.
`x-simulator-usage: JSON`
    Report this as the usage, byte for byte. `none` leaves the usage out. SendGrid reports none, and refuses this.
`x-simulator-status: N`
    Answer with this error (400 to 599), in the provider's own shape.
`x-simulator-outcome: …`
    How what is made ends. A Twilio message: `delivered` (the default), `sent`, `read`, `partially_delivered`,
    `undelivered`, `failed` or `canceled`. A Twilio call: `completed` (the default), `busy`, `no-answer`, `failed` or
    `canceled`. SendGrid's mail, to all its recipients: `delivered`, `deferred` (and delivered later), `bounce`,
    `blocked`, `dropped`, or delivered and then `open`, `click`, `spamreport` or `unsubscribe`; without it each address
    decides, by such a word before the `@` or a `+` (bounce+7@example.com), and others are delivered to.
`x-simulator-seconds: N`
    How long a Twilio call lasts, by what it says; it is over no later for that.
`x-simulator-step-ms: N`
    How long what is made takes from each of its states to the next: else 50. With 0 it is over by the next request. A
    scheduled message goes out after one such step, whatever its SendAt.
`x-simulator-price-ms: N`
    How long after its end a Twilio message or call says what it cost: else one step. Before, its price is null.
`x-simulator-at: TIME`
    What is made was made then, in ISO 8601, and not now: a time that has passed. Mail, messages, calls, numbers and
    subaccounts of then, and what OpenAI's answers used then.
`x-simulator-callbacks: …`
    What happens to the callbacks of what is made, as words with a comma in between. `lost`: none is sent, or with
    `lost=N` so many of a hundred are not. `doubled`: each is sent twice, or with `repeat=N` so often, up to 100 times,
    with the same idempotency token or event ids. `shuffled`: all of them after the last one's time, in any order.
    `delayed`: a second later, or with `delayed=N` so many milliseconds.
`x-simulator-fault: …`
    `reset-before-head` reads the request and resets the connection. `hang` reads it and never answers. `cut-body` sends
    a Content-Length, half of the body, and breaks off. `cut-chunked` sends half of the body in chunks and breaks off
    without the last one. `cut-stream` breaks off in the middle of an event, half-way through. `no-done` ends a stream in
    good order but without its closing event (`[DONE]`, `response.completed`). `close-delimited` sends neither a length
    nor chunks: the body ends where the connection does. `stall-stream` stops half-way through the events and stays
    silent until the client goes. `response-failed` lets a response of the Responses API end as failed.
    In a session, `cut-stream` breaks off in the middle of a frame and `stall-stream` falls silent, both at the first word
    of a response; `no-done` closes it in good order where `response.done` would be.
    A fault that a successful answer cannot have, such as `cut-stream` where nothing is streamed, is refused.
`x-simulator-framing: chunked | length`
    How the body is framed; else events are chunked, and everything else has a length.
`x-simulator-sse: crlf | byte-by-byte | one-write`
    Events end their lines with CRLF; or leave one byte at a time; or all leave at once.
`x-simulator-encoding: identity | gzip | deflate | br | zstd`
    Code the body so, whatever its size and whatever the client accepts. Without it, JSON of 1 KiB and more is coded as
    Accept-Encoding prefers, and events are not. In a session, `deflate` agrees to compress where the client offers it.
`x-simulator-close-code: N`
    Close the session with this code (1000 to 4999) once a response is over.

Every other header that starts with `x-simulator-`, and every other value, is refused with a 400 that says what is
allowed: a test that misspells its fault must not pass.
"""
