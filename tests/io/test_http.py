"""HTTP servers that take their liberties: whole files for parts, other parts, and requests to come back later."""

import threading
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from helpers.streams import quiet_scan

from mlaas4hep_tf import ReadOptions, ReadPolicy
from mlaas4hep_tf.errors import InputFileError
from mlaas4hep_tf.io.http import seconds_until
from mlaas4hep_tf.testing import free_port, write_files

EVENTS = 300


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    """A file of many blocks, and more bytes behind it than fit into the buffers of a connection."""
    (path,) = write_files(tmp_path_factory.mktemp("http"), [EVENTS], basket=50)
    with open(path, "rb") as file:
        return file.read() + bytes(30 << 20)


def whole(request, content):
    request.answer(200, content)


def parts(request, content):
    request.answer_part(content, *request.range)


def no_content_range(request, content):
    first, last = request.range
    request.answer(206, content[first : last + 1])


def other_part(request, content):
    first, last = request.range
    request.answer_part(content, first + 1, last + 1)


def longer_part(request, content):
    first, last = request.range
    request.answer_part(content, first, last + 100)


def no_size(request, content):
    first, last = request.range
    request.answer(206, content[first : last + 1], **{"Content-Range": f"bytes {first}-{last}/*"})


def broken_off(request, content):
    """A file of which the server has the first half of the bytes that hold its trees."""
    request.answer_part(content[:5000], *request.range)


def refuses(status, **headers):
    return lambda request, _: request.answer(status, b"", **headers)


@contextmanager
def server(content, *behaviours):
    """Yields the URL of a file and the list of the ranges asked for; each request meets the next behaviour, then the last."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        @property
        def range(self):
            first, _, last = self.headers.get("Range", "bytes=0-0").removeprefix("bytes=").partition("-")
            return int(first), int(last)

        def answer_part(self, content, first, last):
            part = content[first : last + 1]
            told = f"bytes {first}-{first + len(part) - 1}/{len(content)}"
            if part:
                self.answer(206, part, **{"Content-Range": told})
            else:
                self.answer(416, b"")

        def answer(self, status, body, **headers):
            self.send_response(status)
            for name, value in (headers | {"Content-Length": str(len(body))}).items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self):
            behave = behaviours[min(len(asked), len(behaviours) - 1)]
            asked.append(self.range)
            behave(self, content)

        def handle(self):
            try:
                super().handle()
            except ConnectionError:
                self.close_connection = True

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as served:
        threading.Thread(target=served.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{served.server_port}/f000.root", asked
        served.shutdown()


def read(retries=0, work_timeout_s=30.0, **options):
    policy = ReadPolicy(request_timeout_s=10, work_timeout_s=work_timeout_s, retries=retries, backoff_s=0.01, **options)
    return ReadOptions(policy=policy)


def test_parts_are_all_that_is_asked_for(content):
    with server(content, parts) as (url, asked):
        assert quiet_scan(url, read=read()).entries == EVENTS
    assert sum(last - first for first, last in asked) < 1 << 20


def test_a_server_that_ignores_ranges_is_told_at_once(content):
    with server(content, whole) as (url, asked):
        with pytest.raises(InputFileError, match=r"/f000\.root: its server sends whole files only") as caught:
            quiet_scan(url, read=read(retries=3))
        assert "\n" not in str(caught.value)
    assert len(asked) == 1


def test_a_page_to_log_in_is_no_file(content):
    page = b"<html>Who are you?</html>"
    with (
        server(content, lambda request, _: request.answer(200, page, Content_Type="text/html; charset=utf-8")) as (
            url,
            asked,
        ),
        pytest.raises(InputFileError, match=r"f000\.root: its server sends a page to read \(text/html\)"),
    ):
        quiet_scan(url, read=read(retries=3))
    assert len(asked) == 1


@pytest.mark.parametrize("behaviour", [no_content_range, other_part, longer_part])
def test_an_answer_to_another_question_is_asked_again(content, behaviour):
    with server(content, behaviour, parts, behaviour, behaviour, parts) as (url, _):
        assert quiet_scan(url, read=read(retries=4)).entries == EVENTS
    with (
        server(content, parts, behaviour) as (url, _),
        pytest.raises(InputFileError, match=r"f000\.root.*the server sent .* where bytes \d+-\d+ were asked for"),
    ):
        quiet_scan(url, read=read())


def test_a_cut_file_is_called_so(content):
    with (
        server(content, broken_off) as (url, _),
        pytest.raises(InputFileError, match=r"f000\.root.*the file is cut short"),
    ):
        quiet_scan(url, read=read())


def test_a_server_that_does_not_tell_the_size(content):
    with (
        server(content, no_size) as (url, _),
        pytest.raises(InputFileError, match=r"f000\.root.*does not tell the size of the file"),
    ):
        quiet_scan(url, read=read())


@pytest.mark.parametrize(("status", "tries"), [(404, 1), (410, 1), (401, 1), (403, 1), (500, 3), (503, 3)])
def test_only_what_may_pass_is_tried_again(content, status, tries):
    with server(content, refuses(status)) as (url, asked):
        with pytest.raises(InputFileError, match=rf"f000\.root.*{status}"):
            quiet_scan(url, read=read(retries=2))
        assert len(asked) == tries


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_server_is_waited_for_and_that_is_no_failed_try(content, status):
    busy = refuses(status, Retry_After="1")
    with server(content, busy, parts, busy, busy, parts) as (url, asked):
        assert quiet_scan(url, read=read(retries=0)).entries == EVENTS
        assert len(asked) > 5


def test_who_asks_for_more_than_the_deadline_is_not_waited_for(content):
    with server(content, refuses(503, Retry_After="3600")) as (url, asked):
        with pytest.raises(InputFileError, match=r"f000\.root.*503.*asks to come back in 3600 s"):
            quiet_scan(url, read=read(retries=3))
        assert len(asked) == 1
    with server(content, refuses(503, Retry_After="1")) as (url, asked):
        with pytest.raises(InputFileError, match=r"f000\.root.*503.*asks to come back in 1 s"):
            quiet_scan(url, read=read(work_timeout_s=2))
        assert len(asked) == 2  # a second later there is less than a second left


@pytest.mark.parametrize("chance", [0.0, 0.5, 0.999])
def test_who_always_asks_for_more_time_is_waited_for_until_the_deadline_and_no_longer(chance):
    policy = ReadPolicy(work_timeout_s=8, backoff_s=0.5)
    waited, pauses = 0.0, []
    while (pause := policy.busy_pause_s(2.5, waited, attempt=0, chance=chance)) is not None:
        pauses.append(pause)
        waited += pause
    assert 8 - 2.5 < waited <= 8
    assert pauses[:2] == [2.75 + 0.25 * chance] * 2  # others that wait do not come back at the same time
    assert policy.busy_pause_s(2.5, 5.3, attempt=0, chance=chance) == pytest.approx(2.7)  # which is what is left


def test_a_replica_is_not_made_to_wait(content):
    with (
        server(content, refuses(503, Retry_After="3600")) as (url, asked),
        server(content, parts) as (replica, _),
    ):
        places = {url.removesuffix("f000.root"): [replica.removesuffix("f000.root")]}
        assert quiet_scan(url, read=read(retries=1, replicas=places)).entries == EVENTS
        assert asked


def folder(request, content):
    if request.path.endswith(".root"):
        parts(request, content)
    else:
        request.answer(200, b'<a href="f000.root">f000.root</a>', Content_Type="text/html")


def test_a_folder_that_a_busy_server_lists_later(content):
    busy = refuses(503, Retry_After="1")
    with server(content, busy, folder) as (url, asked):
        assert quiet_scan(url.replace("f000", "*"), read=read()).entries == EVENTS
    with server(content, refuses(500)) as (url, asked):
        with pytest.raises(InputFileError, match=r"/\*\.root: .*the server answers 500"):
            quiet_scan(url.replace("f000", "*"), read=read(retries=2))
        assert len(asked) == 3


@pytest.mark.parametrize(
    ("told", "seconds"),
    [("7", 7), (formatdate(1000.0 + 30, usegmt=True), 30), (formatdate(900.0, usegmt=True), 0), ("", 0), ("soon", 0)],
)
def test_a_time_to_come_back_is_seconds_or_a_date(told, seconds):
    assert seconds_until(told, 1000.0) == seconds


def test_a_server_that_is_not_there(content):
    with pytest.raises(InputFileError, match=r"cannot read file http://127\.0\.0\.1:\d+/f000\.root"):
        quiet_scan(f"http://127.0.0.1:{free_port()}/f000.root", read=read())
