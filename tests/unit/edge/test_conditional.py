"""Whether a client has a response already. On sockets it is in tests/specs/conditional_answers.yaml."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anabranch.edge.conditional import Conditional, is_known
from anabranch.edge.respond import Response
from tests.support.edge_plans import endpoint
from tests.support.requests import request_of

OPAQUE = st.lists(st.sampled_from([*range(0x23, 0x7F), 0x21, *range(0x80, 0x100)]), max_size=5).map(bytes)
TAGS = st.builds(lambda weak, opaque: b'%b"%b"' % (weak, opaque), st.sampled_from([b"", b"W/"]), OPAQUE)


def tagged(tag: bytes) -> Response:
    return Response(200, [(b"etag", tag)], b"{}")


@given(TAGS, st.lists(TAGS, max_size=5), st.sampled_from([b",", b", ", b" ,\t, "]))
def test_a_tag_is_known_when_a_list_has_its_opaque_part(tag: bytes, others: list[bytes], between: bytes) -> None:
    """RFC 9110 section 8.8.3.2."""
    expected = any(other.removeprefix(b"W/") == tag.removeprefix(b"W/") for other in others)
    assert is_known(between.join(others), tagged(tag)) is expected
    assert is_known(between.join([*others, tag]), tagged(tag))


@given(st.binary(max_size=40))
def test_no_field_fails(field: bytes) -> None:
    assert is_known(field, tagged(b'"no such tag here at all"')) is (field.strip() == b"*")


@pytest.mark.parametrize("field", [b'"a', b'a"', b"a", b'"b" "ab', b"", b"**", b'"*"'])
def test_what_is_no_list_of_tags_has_none(field: bytes) -> None:
    assert not is_known(field, tagged(b'"a"'))


@pytest.mark.parametrize("status", [200, 201, 404, 502])
async def test_only_a_response_of_status_200_with_a_tag_becomes_304(status: int) -> None:
    request = request_of(endpoint(), lines=[(b"if-none-match", b"*")])
    for headers in ([(b"etag", b'"a"')], []):
        finished = await Conditional().finish(Response(status, list(headers), b"{}"), request)
        assert finished.status == (304 if status == 200 and headers else status)
        assert finished.body == (b"" if finished.status == 304 else b"{}")


async def test_the_response_itself_is_not_changed() -> None:
    """The journal may still have to write it."""
    response = Response(200, [(b"etag", b'"a"'), (b"content-type", b"x")], b"{}")
    await Conditional().finish(response, request_of(endpoint(), lines=[(b"if-none-match", b'"a"')]))
    assert response == Response(200, [(b"etag", b'"a"'), (b"content-type", b"x")], b"{}")
