from anabranch.core.exchange import Request
from anabranch.policy.call import Call
from tests.support.policies import ADDRESS


def new_call(*, wants_notes: bool = False) -> Call:
    return Call(Request("GET", "/"), deadline=5.0, is_idempotent=True, is_required=True, is_coalesced=True, wants_notes=wants_notes)


def test_notes_are_kept_only_when_the_call_wants_them() -> None:
    quiet, traced = new_call(), new_call(wants_notes=True)
    quiet.note("something")
    traced.note("something")
    assert (quiet.notes, traced.notes) == (None, ["something"])


def test_fork_shares_the_request_and_not_the_address() -> None:
    call = new_call(wants_notes=True)
    call.attempts, call.queue_s, call.address, call.avoid = 2, 0.5, ADDRESS, (ADDRESS,)
    twin = call.fork()
    assert twin.request is call.request
    assert (twin.deadline, twin.is_idempotent, twin.is_required) == (5.0, True, True)
    assert (twin.attempts, twin.queue_s, twin.address, twin.avoid, twin.is_coalesced) == (2, 0.0, None, (ADDRESS,), False)
    twin.note("from the twin")
    assert call.notes == ["from the twin"]
