"""What each error code means and what to do about it, in words for the pages under /problems/. A test keeps it complete."""

from typing import Final, NamedTuple


class Advice(NamedTuple):
    meaning: str
    client: str
    operator: str


_TRY_LATER: Final = "Try again after a pause; longer after each failure."
_NOTHING: Final = "Nothing: the request is fine. Give the request id to the operator."

ADVICE: Final[dict[str, Advice]] = {
    "internal_error": Advice(
        "The gateway met something that it was not made for.",
        "Give the request id to the operator. Trying again may help.",
        "Look for the request id in the log: the entry has the stack. Please report it, it is a bug.",
    ),
    "config_error": Advice(
        "The gateway document or a setting cannot be used. The gateway does not start, or keeps its old document.",
        "Nothing: this never answers a request.",
        "Run `anabranch check FILE`; it lists every problem with its place.",
    ),
    "missing_extra": Advice(
        "A feature that the document uses needs a library that is not installed.",
        "Nothing: this never answers a request.",
        "Install the extra that the message names.",
    ),
    "bad_request": Advice("The request cannot be understood.", "Read `detail` and `errors`.", "Nothing."),
    "malformed_request": Advice(
        "What came over the connection is no HTTP/1.1, so it never became a request. The connection was closed.",
        "`detail` says what is wrong. Look at what writes the request: a length that does not fit its body spoils the request behind it.",
        "`anabranch_refused_connections_total` counts them, and the log has the address of some. TLS sent to a plain port and "
        "port scanners look like this.",
    ),
    "head_too_large": Advice(
        "Request line and header fields together have more bytes than the gateway takes. The connection was closed.",
        "Send fewer or smaller header fields; cookies are the usual cause. Large values belong into the body.",
        "Nothing; the limit is fixed. Look for what lets cookies or tokens grow.",
    ),
    "head_timeout": Advice(
        "Request line and header fields were not whole in time. The connection was closed, and nothing was done.",
        "Send the head of a request at once.",
        "Many of these at once are clients that hold connections open on purpose, or a network that loses packets.",
    ),
    "invalid_parameters": Advice(
        "Parameters in the path, the query or the headers are missing or do not fit what the endpoint declares.",
        "`errors` lists every one with its place, its name and what is wrong. /docs shows what is allowed.",
        "Nothing; many of these can mean that a client has not followed a change.",
    ),
    "invalid_body": Advice(
        "The request body is missing, is not JSON in UTF-8, or does not fit the endpoint's schema.",
        "`detail` has line and column of broken JSON; `errors` lists every fault against the schema.",
        "Nothing; the schema stands under `body` of the endpoint.",
    ),
    "body_too_large": Advice(
        "The request body has more bytes than the endpoint takes.",
        "Send less, in several requests if need be.",
        "Raise `body.max_size` of the endpoint, or `defaults.max_body`.",
    ),
    "body_timeout": Advice(
        "The request body was not whole when the time of the request was over.",
        "Send it faster, or send less.",
        "Raise the endpoint's `timeout` when clients are on slow lines.",
    ),
    "unsupported_media_type": Advice(
        "The endpoint takes JSON, and the request says that its body is something else.",
        "Send `Content-Type: application/json`. curl does so with `--json`.",
        "Nothing.",
    ),
    "not_found": Advice(
        "No endpoint has this path.",
        "Look at /docs. A slash at the end makes a different path.",
        "Check that the document with this endpoint is loaded.",
    ),
    "method_not_allowed": Advice("The path exists, but not with this method.", "The `Allow` header lists the methods.", "Nothing."),
    "overloaded": Advice(
        "As many requests as allowed were under way, and no place became free for this one in time. Nothing of it was done.",
        "Come back after the seconds in `Retry-After`, with some randomness added.",
        "The load is higher than `ANABRANCH_MAX_REQUESTS` or the endpoint's `max_requests` allows for. Add processes, or find what is slow.",
    ),
    "step_failed": Advice(
        "A step that the response cannot do without failed.",
        _TRY_LATER,
        "`errors` names the step and the upstream; ask for the endpoint with `?_explain=true` where that is allowed.",
    ),
    "nothing_answered": Advice(
        "Every step that the response could show failed. None of them is required by itself, but nothing at all is no answer.",
        _TRY_LATER,
        "`errors` has the reason of each step. When all of them are the same, look for what these services have in common.",
    ),
    "upstream_error": Advice("A service failed.", _TRY_LATER, "Look at the service that `errors` names."),
    "connect_failed": Advice(
        "A service refused the connection or could not be reached. It has not seen the request.",
        _TRY_LATER,
        "Check that the service runs, that `url` is right, and that the network lets the gateway through.",
    ),
    "resolve_failed": Advice(
        "The name of a service has no address.",
        _TRY_LATER,
        "Check the host in `url` and the name service of the machine.",
    ),
    "connect_timeout": Advice(
        "A service did not accept a connection within `connect_timeout`.",
        _TRY_LATER,
        "A firewall that drops packets or a service with a full backlog looks like this.",
    ),
    "tls_failed": Advice(
        "The service's certificate was refused, or it refused ours.",
        _NOTHING,
        "The step's detail says what was wrong. Check `tls.ca`, `tls.server_name`, dates, and `tls.cert` for mutual TLS.",
    ),
    "timeout": Advice(
        "A service did not answer within its timeout. It may have acted on the request all the same.",
        "Try again if the request may be repeated.",
        "Compare the upstream's `timeout` with its real latency; consider `hedge` for rare slow answers.",
    ),
    "connection_lost": Advice(
        "A service closed the connection before its answer was whole. It may have acted on the request.",
        "Try again if the request may be repeated.",
        "Look for restarts and crashes of the service, and for an idle timeout there that is shorter than `pool.idle_timeout`.",
    ),
    "protocol_error": Advice(
        "A service sent something that is not valid HTTP, so nothing of it can be trusted.",
        _NOTHING,
        "Check that `url` points at an HTTP port and has the right scheme.",
    ),
    "response_too_large": Advice(
        "A service answered with more than `max_response`.",
        "Ask for less, if the endpoint lets you.",
        "Raise `max_response` of the upstream, or page the call.",
    ),
    "invalid_json": Advice(
        "A service answered with a success whose body is not JSON in UTF-8.",
        _NOTHING,
        "Ask the service directly; an HTML login or error page with status 200 is the usual cause.",
    ),
    "upstream_status": Advice(
        "A service answered with an error. A 4xx of a required step is passed on with its status; anything else is a 502.",
        "For a 4xx: check what you asked for. Else try again after a pause.",
        "`received-status` in the Proxy-Status header is what the service said.",
    ),
    "queue_full": Advice(
        "So many requests wait for a service that this one was not let in.",
        "Come back after the seconds in `Retry-After`.",
        "The service is slower or the load higher than `concurrency` allows for. Raise `limit` only if the service can take it.",
    ),
    "queue_timeout": Advice(
        "The request waited `queue_timeout` for its turn at a service, and its turn did not come.",
        "Come back after the seconds in `Retry-After`.",
        "As for queue_full; a shorter queue gives the same answer sooner.",
    ),
    "breaker_open": Advice(
        "A service failed so often that it is left alone for a while.",
        "Come back after the seconds in `Retry-After`.",
        "Look at the service. The breaker closes by itself when its probes succeed.",
    ),
    "deadline_exceeded": Advice(
        "No time was left to begin a step.",
        _TRY_LATER,
        "`anabranch explain` shows the longest chain of steps against the endpoint's `timeout`.",
    ),
    "skipped": Advice("A step had nothing to work on, so it was not run.", _TRY_LATER, "Look at the steps that it needs."),
    "missing_reference": Advice(
        "A value that a step needs was not in the answer that it should come from, or the client did not send it.",
        "Check optional parameters and fields of the body that you left out.",
        "Check the reference against what the service really answers; give the step a `default` if that is normal.",
    ),
    "dependency_failed": Advice(
        "A step that this one needs failed, so it was not run.",
        _TRY_LATER,
        "Look at the other entries of `errors`: the cause is there.",
    ),
    "not_mergeable": Advice(
        "A service's answer has another shape than the document's rules for it ask, such as an array where an object must be.",
        _NOTHING,
        "Compare `target`, `pick`, `rename` and `merge` with what the service really answers.",
    ),
    "compute_error": Advice("A Python function of the operator gave no value.", _NOTHING, "The log says why, under the step's name."),
    "compute_failed": Advice(
        "A Python function of the operator raised an exception.",
        _NOTHING,
        "The log has the exception and its stack, with the function's and the step's name.",
    ),
    "compute_timeout": Advice(
        "A Python function of the operator was still running when its time was over.",
        _TRY_LATER,
        "Raise the step's `timeout`, give the function less to do, or let it run on `executor: process`, where it is really stopped.",
    ),
    "compute_invalid_input": Advice(
        "What a service answered, or what the client sent, does not fit the annotations of the Python function that it was meant for.",
        "Check the parameters and the body; otherwise nothing.",
        "The log lists what does not fit. Compare the function's annotations with the references under `input`.",
    ),
    "compute_invalid_result": Advice(
        "A Python function of the operator returned something that does not fit its own annotation, or that JSON cannot hold.",
        _NOTHING,
        "The log says what. Correct the function or its annotation.",
    ),
    "compute_worker_lost": Advice(
        "The process in which a Python function of the operator ran has ended: it crashed, left by itself, or was killed for its memory.",
        _TRY_LATER,
        "The log has the signal or the exit code. Signal 9 without a timeout mostly means that memory ran out.",
    ),
    "compute_pool_full": Advice(
        "No worker was free for a Python function, and the queue was full or the wait too long.",
        "Come back after the seconds in `Retry-After`.",
        "Give the pool more `workers`, or the heavy steps a pool of their own; look for functions that do not end (`stuck`).",
    ),
    "compute_pool_down": Advice(
        "The workers that run Python functions are not there: they cannot be started, or the cluster cannot be reached.",
        "Come back after the seconds in `Retry-After`.",
        "The log says why. The gateway goes on trying by itself.",
    ),
    "journal_unavailable": Advice(
        "This endpoint answers only when the record of its response is on the disk, and it could not be written (in time). The services "
        "were called.",
        "Come back after the seconds in `Retry-After`. A call that changes something may have been carried out: do not repeat it blindly.",
        "The log and /readyz say why: a full disk, a read-only or vanished folder, a slow disk. The gateway goes on trying by itself.",
    ),
}
