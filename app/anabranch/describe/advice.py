"""For each error code, what it means and what to do: the text of the pages under /problems/. A test checks that no code is missing."""

from typing import Final, NamedTuple


class Advice(NamedTuple):
    meaning: str
    client: str
    operator: str


_TRY_LATER: Final = "Retry after a pause, and make it longer after each failure."
_NOTHING: Final = "Nothing: the request is valid. Give the request id to the operator."

ADVICE: Final[dict[str, Advice]] = {
    "internal_error": Advice(
        "An unexpected error occurred in the gateway.",
        "Give the request id to the operator. A retry may help.",
        "Search the log for the request id: the entry has the stack trace. This is a bug, so please report it.",
    ),
    "config_error": Advice(
        "The gateway document or a setting is invalid. The gateway does not start, or keeps its current document.",
        "Nothing: no request is ever answered with this code.",
        "Run `anabranch check FILE`, which lists every problem with file, line and column.",
    ),
    "cannot_start": Advice(
        "A part of the gateway cannot start: the admin port is taken, or the processes of a compute pool end at once.",
        "Nothing: no request is ever answered with this code.",
        "The message names the part. The lines of the log before it say why a process has ended.",
    ),
    "missing_extra": Advice(
        "The document uses a feature that needs a library which is not installed.",
        "Nothing: no request is ever answered with this code.",
        "Install the extra named in the message.",
    ),
    "bad_request": Advice("The request is invalid.", "Read `detail` and `errors`.", "Nothing."),
    "malformed_request": Advice(
        "The bytes on the connection are not a valid HTTP/1.1 request. The connection was closed.",
        "`detail` says what is wrong. Check the code that writes the request: a wrong Content-Length also breaks the request that follows.",
        "`anabranch_refused_connections_total` counts these connections, and the log has the addresses of some. Common causes are "
        "TLS sent to a plain port and port scanners.",
    ),
    "target_too_long": Advice(
        "The request line exceeds the size limit of the gateway. The connection was closed.",
        "Send a shorter path and query. Put large values in the body.",
        "Nothing: the limit is fixed.",
    ),
    "head_too_large": Advice(
        "The request line and header fields together exceed the size limit of the gateway. The connection was closed.",
        "Send fewer or smaller header fields; cookies are the usual cause. Put large values in the body.",
        "Nothing: the limit is fixed. Find out why cookies or tokens grow.",
    ),
    "head_timeout": Advice(
        "The request line and header fields did not arrive in time. The connection was closed, and the request was not processed.",
        "Send the request line and all header fields together, without pauses.",
        "Many of these at once mean clients that hold connections open on purpose, or a network that loses packets.",
    ),
    "expectation_failed": Advice(
        "The `Expect` field asks for something other than `100-continue`. The connection was closed, and the request was not processed.",
        "Send the request without `Expect`, or with `Expect: 100-continue`.",
        "Nothing.",
    ),
    "not_implemented": Advice(
        "The request has a transfer coding other than `chunked`, or asks for a tunnel (`CONNECT`). The connection was closed, and the request "
        "was not processed.",
        "Send the body with `Content-Length`, or in chunks without a further coding. Do not configure the gateway as a proxy.",
        "Nothing. `CONNECT` usually means that somebody probes for an open proxy.",
    ),
    "version_not_supported": Advice(
        "The request is not of HTTP/1.1 or HTTP/1.0. The connection was closed.",
        "Configure the client to use HTTP/1.1. HTTP/2 without TLS (`h2c`, prior knowledge) is not available.",
        "For HTTP/2 to clients, put a load balancer or ingress in front of the gateway.",
    ),
    "invalid_parameters": Advice(
        "Parameters in the path, query or headers are missing, or do not match the endpoint's declaration.",
        "`errors` lists every faulty parameter with its location, name and fault. /docs shows what is allowed.",
        "Nothing. Many of these can mean that a client has not adopted a change of the API.",
    ),
    "invalid_body": Advice(
        "The request body is missing, is not JSON in UTF-8, or does not match the endpoint's schema.",
        "For broken JSON, `detail` has line and column. For a schema mismatch, `errors` lists every fault.",
        "Nothing. The schema is under `body` of the endpoint.",
    ),
    "body_too_large": Advice(
        "The request body exceeds the endpoint's size limit.",
        "Send a smaller body, or split it over several requests.",
        "Raise `body.max_size` of the endpoint, or `defaults.max_body`.",
    ),
    "body_timeout": Advice(
        "The request body did not arrive before the request's deadline.",
        "Send the body faster, or send a smaller one.",
        "Raise the endpoint's `timeout` if clients have slow connections.",
    ),
    "unsupported_media_type": Advice(
        "The endpoint accepts one media type, JSON unless its description says otherwise, without a content coding. The request declares another media "
        "type or a `Content-Encoding`.",
        "Send the content type that the `Accept` field of the answer names: with curl, `--json` for JSON, `-d` for a form, `-F` for multipart. Send the "
        "body uncompressed.",
        "Nothing, or `body: {type: ...}` on the endpoint.",
    ),
    "not_found": Advice(
        "No endpoint has this path.",
        "See /docs for the paths. A trailing slash makes a different path.",
        "Check that the document that contains this endpoint is loaded.",
    ),
    "method_not_allowed": Advice("The path exists, but does not allow this method.", "The `Allow` header lists the methods.", "Nothing."),
    "upload_not_stored": Advice(
        "The gateway could not store an uploaded file while it was receiving the request. No service has been called.",
        _TRY_LATER,
        "Files above 1 MiB are kept on disk while their request runs, in the folder of the environment variable `TMPDIR`, or else `/tmp`. It must be "
        "writable, and have room for `max_size` of each concurrent request. The log has the reason.",
    ),
    "not_acceptable": Advice(
        "The `Accept` field of the request does not allow the media type that the endpoint answers with. Nothing was called.",
        "Send `Accept` with one of the types in `available`, with `*/*`, or leave it out.",
        "Nothing. If clients need another type, set `content-type` under `response.headers` of the endpoint.",
    ),
    "unauthenticated": Advice(
        "The request has no credential that the endpoint accepts, or one that is not valid, or not valid any more. Nothing was called.",
        "Send a valid credential of one of the kinds in `WWW-Authenticate`. A token may have expired: get a new one.",
        "The log and the metrics tell why credentials are refused. Check `auth` of the document, and the clock of this machine.",
    ),
    "unavailable": Advice(
        "The gateway cannot decide at the moment whether the request may come in. Nothing was called.",
        "Retry after the seconds in `Retry-After`.",
        "An authority that verifies credentials, or the shared store, does not answer. The log and /readyz say which one.",
    ),
    "forbidden": Advice(
        "The client is not allowed to do this. Nothing was called.",
        "The same request will be refused again. Ask the operator of this API for the permission.",
        "A rule of the document refused the request: `allow` of the endpoint's `auth`, `rules`, `allow_from` or `deny_from`.",
    ),
    "rate_limited": Advice(
        "With status 429: the client has sent more requests than its rate limit or its quota allows, and the request was not processed. With status 503, or of a step: "
        "the gateway may not call an upstream more often, and the call's turn would have come after its deadline.",
        "Retry after the seconds in `Retry-After`. With 429, `RateLimit` and `RateLimit-Policy` say how much is left.",
        "429: `rate_limits` of the document, as the endpoint names them. A step: `rate` of the upstream. The metrics count what each of them rejects.",
    ),
    "not_cached": Advice(
        "The client sent `Cache-Control: only-if-cached`, and no stored answer is good enough. No service was asked.",
        "Send the request without `only-if-cached`.",
        "Nothing. `obey_client` of the call's `cache` lets clients say this.",
    ),
    "overloaded": Advice(
        "The limit of concurrent requests was reached, and no slot became free in time. The request was not processed.",
        "Retry after the seconds in `Retry-After`, plus a random delay.",
        "The load exceeds `ANABRANCH_MAX_REQUESTS` or the endpoint's `max_requests`. Add processes, or find out what is slow.",
    ),
    "step_failed": Advice(
        "A required step failed.",
        _TRY_LATER,
        "`errors` names the step and the upstream. Request the endpoint with `?_explain=true` where that is allowed.",
    ),
    "nothing_answered": Advice(
        "Every step that the response shows failed, or every step that an `any` step names. None of them is required, but without any value there is no "
        "response to send.",
        _TRY_LATER,
        "`errors` has the reason for each step. If the reasons are the same, look for what these upstreams have in common.",
    ),
    "upstream_error": Advice("A call to an upstream failed.", _TRY_LATER, "Check the upstream named in `errors`."),
    "connect_failed": Advice(
        "An upstream refused the connection or could not be reached. It has not received the request.",
        _TRY_LATER,
        "Check that the upstream is running, that `url` is right, and that the network allows the connection.",
    ),
    "resolve_failed": Advice(
        "The host name of an upstream has no address.",
        _TRY_LATER,
        "Check the host in `url` and the DNS configuration of the machine.",
    ),
    "connect_timeout": Advice(
        "An upstream did not accept a connection within `connect_timeout`.",
        _TRY_LATER,
        "Common causes are a firewall that drops packets and an upstream whose listen backlog is full.",
    ),
    "tls_failed": Advice(
        "The TLS handshake with an upstream failed: its certificate was rejected, or it rejected the gateway's.",
        _NOTHING,
        "The step's `detail` says what was wrong. Check `tls.ca`, `tls.server_name`, validity dates, and `tls.cert` for mutual TLS.",
    ),
    "timeout": Advice(
        "An upstream did not answer within its timeout, or not with what `until` waits for. It may have processed the request nevertheless.",
        "Retry if the request is safe to repeat.",
        "Compare the upstream's `timeout` with its measured latency. Consider `hedge` if slow responses are rare.",
    ),
    "connection_lost": Advice(
        "An upstream closed or reset the connection before its response was complete. It may have processed the request.",
        "Retry if the request is safe to repeat.",
        "Look for restarts and crashes of the upstream, and for an idle timeout on its side that is shorter than `pool.idle_timeout`.",
    ),
    "protocol_error": Advice(
        "An upstream sent invalid HTTP, so its response cannot be trusted.",
        _NOTHING,
        "Check that `url` has the right scheme and the port of an HTTP server.",
    ),
    "response_too_large": Advice(
        "The response of an upstream is larger than `max_response`.",
        "Request less data, if the endpoint has parameters for that.",
        "Raise `max_response` of the upstream, or fetch the data in pages.",
    ),
    "invalid_json": Advice(
        "An upstream answered with a 2xx status, but the body is not JSON in UTF-8.",
        _NOTHING,
        "Call the upstream directly. The usual cause is an HTML login or error page with status 200.",
    ),
    "invalid_format": Advice(
        "An upstream answered with a 2xx status, but the body is not what `decode` of the step says: an empty or truncated page, or an error page of "
        "another type.",
        _NOTHING,
        "The step's `detail` says what was wrong. Call the upstream directly and compare with docs/formats.md.",
    ),
    "invalid_charset": Advice(
        "An upstream answered with text in a charset that is unknown, or with bytes that are no characters in the charset that it declares.",
        _NOTHING,
        "Correct the `charset` in the upstream's `Content-Type`. With `decode: bytes` the body can be used as it is.",
    ),
    "upstream_status": Advice(
        "An upstream answered with an error status. The 4xx of a required step is passed on; anything else becomes a 502.",
        "For a 4xx: check the request. Otherwise: retry after a pause.",
        "`received-status` in the `Proxy-Status` header is the upstream's status.",
    ),
    "queue_full": Advice(
        "All slots of an upstream are in use, and the queue for them is full.",
        "Retry after the seconds in `Retry-After`.",
        "The upstream is slower, or the load higher, than `concurrency` allows for. Raise `limit` only if the upstream can handle more.",
    ),
    "queue_timeout": Advice(
        "A call waited `queue_timeout` for a free slot of an upstream, and none became free.",
        "Retry after the seconds in `Retry-After`.",
        "As for `queue_full`. A shorter queue rejects sooner.",
    ),
    "breaker_open": Advice(
        "The circuit breaker of an upstream is open: too many recent calls failed, so no calls are sent for a while.",
        "Retry after the seconds in `Retry-After`.",
        "Check the upstream. The breaker closes by itself when its probes succeed.",
    ),
    "deadline_exceeded": Advice(
        "The deadline passed before a step could start.",
        _TRY_LATER,
        "`anabranch explain` compares the critical path of the steps with the endpoint's `timeout`.",
    ),
    "skipped": Advice("A step was not run because an input is missing.", _TRY_LATER, "Check the steps that this step needs."),
    "missing_reference": Advice(
        "A step refers to a value that is missing from the response of another step, or that the client did not send.",
        "Check the optional parameters and body fields that you left out.",
        "Compare the reference with the upstream's actual response. If the value may be missing, give the step a `default`.",
    ),
    "no_client_token": Advice(
        "A service is called with the token of the client, or with one in exchange for it, and the request had none.",
        "Authenticate by a token, if the endpoint accepts one.",
        "`client_token` and `token_exchange` of an upstream are for endpoints whose `auth` is of a kind with tokens, and for Python routes with such a principal.",
    ),
    "too_many_items": Advice(
        "A step runs for each element of an array, and the array has more elements than the document allows.",
        "Ask for less at once, for instance for a smaller page.",
        "Raise `max_items` of the step, ask the service for fewer elements, or set `truncate: true` to use only the first ones.",
    ),
    "unexpected_answer": Advice(
        "A service answered with success, but not as the document expects: a condition on the answer does not hold, or the answer to a batch is not an "
        "array.",
        _NOTHING,
        "The detail says which. `_explain` and the journal show the answer; correct `expect`, `target` or `match`, or the service.",
    ),
    "condition_failed": Advice(
        "A condition on whether a step runs (`when`) or on its answer (`expect`, `until`) could not be evaluated on the values of this request.",
        _TRY_LATER,
        "`detail` names the operation. Compare values of the same type only, and test for null where a value may be missing.",
    ),
    "dependency_failed": Advice(
        "A step was not run because a step that it needs failed.",
        _TRY_LATER,
        "The other entries of `errors` have the cause.",
    ),
    "invalid_status": Advice(
        "The status of the response comes from a service's answer, and is not one that a response can have.",
        _NOTHING,
        "Compare the reference in `response.status` with the service's actual answer: it must be a number from 200 to 599.",
    ),
    "unencodable_body": Advice(
        "The body of a call to a service could not be written in the format that the service gets: the value has another shape than the format.",
        "Check the parameters and the body of the request. Otherwise nothing.",
        "Compare the step's `body` with its `encode`: `form` needs an object of texts, numbers, booleans and arrays of these, `multipart` an object, "
        "`text` a single value, and `xml` an object with one member.",
    ),
    "not_mergeable": Advice(
        "The value of a step does not have the shape that the document requires, such as an array instead of an object.",
        _NOTHING,
        "Compare `target`, `pick`, `rename` and `merge` with the upstream's actual response.",
    ),
    "processing_timeout": Advice(
        "The services have answered, but the deadline passed while the gateway was reading or merging large answers.",
        "Request less data, if the endpoint has parameters for that. Otherwise retry after a pause.",
        "Raise the endpoint's `timeout`, `pick` less of the answers, or give the gateway more CPU. The services are not the cause.",
    ),
    "compute_error": Advice("A Python function of the operator failed.", _NOTHING, "The log has the reason, under the step's name."),
    "refused": Advice(
        "A Python function of the operator decided that this request gets no response.",
        "Read `title`, `detail` and the further members: they are this API's own.",
        "The function has raised `Refused`. That is no fault, and the log has nothing about it.",
    ),
    "compute_failed": Advice(
        "A Python function of the operator raised an exception.",
        _NOTHING,
        "The log has the exception and its stack trace, with the names of the function and the step.",
    ),
    "compute_timeout": Advice(
        "A Python function of the operator was still running at its deadline.",
        _TRY_LATER,
        "Raise the step's `timeout`, make the function faster, or run it with `executor: process`, which can stop it.",
    ),
    "compute_invalid_input": Advice(
        "The arguments of a Python function, taken from the request or an upstream's response, do not match its annotations.",
        "Check the parameters and the body. Otherwise nothing.",
        "The log lists the mismatches. Compare the function's annotations with the references under `input`.",
    ),
    "compute_invalid_result": Advice(
        "The result of a Python function of the operator does not match its annotation, or cannot be written as JSON.",
        _NOTHING,
        "The log has the mismatch. Correct the function or its annotation.",
    ),
    "compute_worker_lost": Advice(
        "The worker process that ran a Python function of the operator ended: it crashed, exited, or was killed for its memory use.",
        _TRY_LATER,
        "The log has the signal or the exit code. Signal 9 without a timeout usually means out of memory.",
    ),
    "compute_pool_full": Advice(
        "No worker was free for a Python function, and the queue was full or the wait too long.",
        "Retry after the seconds in `Retry-After`.",
        "Give the pool more `workers`, or give heavy steps their own pool. Look for functions that do not return (`stuck`).",
    ),
    "compute_pool_down": Advice(
        "The workers that run Python functions are unavailable: they cannot be started, or the cluster cannot be reached.",
        "Retry after the seconds in `Retry-After`.",
        "The log has the reason. The gateway keeps retrying by itself.",
    ),
    "journal_unavailable": Advice(
        "This endpoint sends a response only after its record is on disk, and the record was not written, or not in time. The upstreams "
        "were called.",
        "Retry after the seconds in `Retry-After`. A call that changes something may have taken effect, so check before repeating it.",
        "The log and /readyz have the reason: a full or slow disk, or a read-only or missing folder. The gateway keeps retrying by itself.",
    ),
}
