"""The SSE decoder against the standard, against a slow twin of it, and against people who send too much."""

from collections.abc import Iterable, Sequence
from itertools import chain, pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from aiwrapper._core.errors import ModelCallError
from aiwrapper._core.sse import MAX_EVENT_BYTES, ServerSentEvent, SseDecoder


def decode(*chunks: bytes) -> list[ServerSentEvent]:
    decoder = SseDecoder()
    return [event for chunk in chunks for event in decoder.feed(chunk)]


def message(data: str, *, event: str = "message", last_id: str = "") -> ServerSentEvent:
    return ServerSentEvent(event, data, last_id)


def twin(body: bytes) -> list[ServerSentEvent]:
    """The standard word by word: decode the whole stream, cut it into lines, interpret each."""
    text = body.decode("utf-8", "replace").removeprefix("\ufeff")
    *lines, _tail = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    events = []
    data, kind, buffered_id, last_id = "", "", "", ""
    for line in lines:
        if not line:
            last_id = buffered_id
            if data:
                events.append(ServerSentEvent(kind or "message", data.removesuffix("\n"), last_id))
            data, kind = "", ""
            continue
        if line.startswith(":"):
            continue
        name, colon, value = line.partition(":")
        if colon:
            value = value.removeprefix(" ")
        if name == "data":
            data += value + "\n"
        elif name == "event":
            kind = value
        elif name == "id" and "\0" not in value:
            buffered_id = value
    return events


# Made of the letters that mean something, so that most draws hit a rule.
bodies = st.lists(
    st.sampled_from(
        (
            *(
                b"data",
                b"data: ",
                b"data:",
                b"event: e",
                b"id",
                b"id: 1",
                b"\0",
                b"retry: 5",
                b"retry: \xc2\xb2",
            ),
            *(b":", b" ", b"x", b"\n", b"\n\n", b"\r", b"\r\n", b"\r\n\r\n", b"\xef\xbb\xbf"),
            *(
                "\u00e9\u2028\U0001f44d".encode(),
                b"\xe2\x82",
                b"\xff",
                b"\xed\xa0\x80",
                b"\x85",
                b"\x0b\x0c\x1c",
            ),
        )
    ),
    max_size=24,
).map(b"".join)


def split(body: bytes, places: Iterable[int]) -> list[bytes]:
    cuts = sorted({0, len(body), *(place % (len(body) + 1) for place in places)})
    return [body[begin:end] for begin, end in pairwise(cuts)]


@given(bodies, st.lists(st.integers(0, 10_000), max_size=8))
@example(b"data: a\r\n\r\ndata: b\r\n\r\n", [8, 10])  # between CR and LF
@example(b"\xef\xbb\xbfdata: a\n\n", [1, 2])
@example("data: \U0001f44d\n\n".encode(), [7, 8, 9])
def test_any_split_gives_the_events_of_the_standard(body: bytes, places: Sequence[int]) -> None:
    assert twin(body) == decode(*split(body, places))


@given(bodies)
def test_bytes_one_by_one_give_the_events_of_the_standard(body: bytes) -> None:
    assert twin(body) == decode(*(body[at : at + 1] for at in range(len(body))))


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"], ids=["LF", "CR", "CRLF"])
def test_lines_end_in_each_of_three_ways(end: bytes) -> None:
    body = end.join([b"data: a", b"data: b", b"", b"data: c", b"", b""])

    assert [message("a\nb"), message("c")] == decode(body)


def test_an_event_is_given_at_the_carriage_return_without_waiting_for_a_line_feed() -> None:
    decoder = SseDecoder()

    assert [message("a")] == list(decoder.feed(b"data: a\r\r"))
    assert [] == list(decoder.feed(b"\n"))
    assert [message("b")] == list(decoder.feed(b"data: b\r\n\r"))


def test_an_empty_chunk_between_carriage_return_and_line_feed_changes_nothing() -> None:
    assert [message("a\nb")] == decode(b"data: a\r", b"", b"\ndata: b\n\n")


def test_a_byte_order_mark_is_dropped_at_the_start_and_nowhere_else() -> None:
    assert [message("a")] == decode(b"\xef\xbb\xbfdata: a\n\n\xef\xbb\xbfdata: b\n\n")


def test_comments_and_unknown_fields_say_nothing() -> None:
    assert [message("a")] == decode(b": keep-alive\n\nfoo: bar\nfoo\ndata: a\n\n")


def test_only_one_space_after_the_colon_is_dropped() -> None:
    assert [message(" a "), message("b")] == decode(b"data:  a \n\ndata:b\n\n")


def test_a_field_without_a_colon_has_an_empty_value() -> None:
    assert [message(""), message("\n")] == decode(b"data\n\ndata\ndata\n\n")


def test_an_event_without_data_is_none_and_its_type_is_forgotten() -> None:
    assert [message("a")] == decode(b"event: ping\n\ndata: a\n\n")


@pytest.mark.parametrize("line", [b"event: x", b"event:x"])
def test_the_space_after_the_type_is_optional(line: bytes) -> None:
    assert [message("a", event="x")] == decode(line + b"\ndata: a\n\n")


def test_the_type_holds_for_one_event() -> None:
    assert [message("a", event="x"), message("b")] == decode(b"event: x\ndata: a\n\ndata: b\n\n")


def test_an_id_stays_until_another_comes_and_one_with_nul_is_ignored() -> None:
    body = b"id: 1\ndata: a\n\ndata: b\n\nid: 2\0\ndata: c\n\nid\ndata: d\n\n"

    assert [
        message("a", last_id="1"),
        message("b", last_id="1"),
        message("c", last_id="1"),
        message("d"),
    ] == decode(body)


@pytest.mark.parametrize(
    ("value", "milliseconds"),
    [
        (b"1500", 1500),
        (b"007", 7),
        (b"-1", None),
        (b"1.5", None),
        (b"", None),
        (b"\xc2\xb2", None),
        (b"9" * 5000, None),
    ],
)
def test_retry_takes_ascii_digits_only(value: bytes, milliseconds: int | None) -> None:
    decoder = SseDecoder()
    assert [] == list(decoder.feed(b"retry: " + value + b"\n"))

    assert milliseconds == decoder.retry_milliseconds


def test_a_tail_without_a_blank_line_is_dropped() -> None:
    assert [message("a")] == decode(b"data: a\n\ndata: b\n")
    assert [message("a")] == decode(b"data: a\n\ndata: b")


def test_invalid_utf8_becomes_replacement_characters() -> None:
    assert [message("a\ufffdb\ufffd")] == decode(b"data: a\xffb\xe2\x82\n\n")


def test_other_line_separators_of_unicode_end_no_line() -> None:
    assert [message("a\u2028b\u0085c\x0b\x0c\x1cd")] == decode(
        "data: a\u2028b\u0085c\x0b\x0c\x1cd\n\n".encode()
    )


def test_events_are_given_one_by_one_before_what_follows_is_read() -> None:
    decoder = SseDecoder(max_event_bytes=20)

    events = decoder.feed(b"data: a\n\ndata: " + b"x" * 100 + b"\n\n")

    assert message("a") == next(events)
    with pytest.raises(ModelCallError, match="max_event_bytes=20") as caught:
        next(events)
    assert "limit" == caught.value.kind


@given(st.lists(st.integers(0, 10_000), max_size=6), st.integers(0, 40))
def test_whether_an_event_is_too_large_does_not_depend_on_the_split(places: list[int], limit: int) -> None:
    body = (
        b"\xef\xbb\xbfdata: abc\n\n: comment\nevent: e\ndata: 0123456789\ndata: 01\n\nid: "
        + b"7" * 25
        + b"\n\n"
    )

    def outcome(chunks: Iterable[bytes]) -> tuple[list[ServerSentEvent], bool]:
        decoder = SseDecoder(max_event_bytes=limit)
        events: list[ServerSentEvent] = []
        try:
            for chunk in chunks:
                events.extend(decoder.feed(chunk))
        except ModelCallError:
            return events, True
        return events, False

    # Given one by one, so that what a chunk gives before it fails is seen, too.
    assert outcome([body])[1] == outcome(split(body, places))[1]


@pytest.mark.parametrize(
    "endless",
    [b"data: x\n", b"x", b": x", b"event: x", b"data\n"],
    ids=["data lines", "no line end", "comment", "event", "empty data lines"],
)
def test_an_endless_event_is_refused_before_it_fills_the_memory(endless: bytes) -> None:
    decoder = SseDecoder(max_event_bytes=10_000)

    with pytest.raises(ModelCallError):
        list(chain.from_iterable(decoder.feed(endless) for _ in range(20_000 // len(endless))))


def test_comments_may_go_on_for_ever() -> None:
    """OpenRouter and others send them while the model is loaded; nothing of them is kept."""
    decoder = SseDecoder(max_event_bytes=100)

    assert [] == [event for _ in range(1_000) for event in decoder.feed(b": still working\n")]
    assert [message("a")] == list(decoder.feed(b"data: a\n\n"))


def test_an_event_as_large_as_allowed_arrives() -> None:
    line = b"data: " + b"x" * (MAX_EVENT_BYTES - 6)

    assert [message("x" * (MAX_EVENT_BYTES - 6))] == decode(line + b"\n\n")


class CountingBytes(bytes):
    """A chunk that counts how many of its bytes were read."""

    read = 0

    def splitlines(self, keepends: bool = False) -> list[bytes]:
        CountingBytes.read += len(self)
        return super().splitlines(keepends)


def test_each_byte_is_looked_at_once_however_the_line_dribbles_in() -> None:
    """Linear work, counted and not timed: a line of 100,000 bytes, byte by byte."""
    CountingBytes.read = 0
    body = b"data: " + b"x" * 100_000 + b"\n\n"
    decoder = SseDecoder()

    events = [event for at in range(len(body)) for event in decoder.feed(CountingBytes(body[at : at + 1]))]

    assert [message("x" * 100_000)] == events
    assert CountingBytes.read == len(body)
