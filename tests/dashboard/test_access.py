"""Who may look: names, origins, tokens; and what an upload may be."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from oomdoctor_dashboard.access import Access, is_loopback
from oomdoctor_dashboard.app import create_app
from oomdoctor_dashboard.library import UPLOADS_KEPT, Library
from oomdoctor_dashboard.serve import serve
from oomdoctor_dashboard.uploads import HEADER, PATH

from oomdoctor.errors import OomdoctorError, UsageError


def client(access: Any = None, limit: int = 1000, library: Any = None) -> FlaskClient:
    return create_app(library or Library(), access=access, upload_limit=limit).server.test_client()


def test_this_machine_may_look_by_its_own_names_alone() -> None:
    page = client()
    assert page.get("/", base_url="http://127.0.0.1:8050").status_code == 200
    assert page.get("/", base_url="http://localhost:8050").status_code == 200
    assert page.get("/", base_url="http://[::1]:8050").status_code == 200
    assert page.get("/", base_url="http://rebound.example:8050").status_code == 403


def test_other_sites_may_not_ask() -> None:
    page = client()
    for origin, code in (("http://evil.example", 403), ("null", 403), ("http://localhost", 200)):
        assert page.get("/_dash-layout", headers={"Origin": origin}).status_code == code


def test_with_a_token_only_who_has_it() -> None:
    page = client(Access(token="s3cret-token"))
    other_name = "http://gpu-box:8050"
    assert page.get("/", base_url=other_name).status_code == 403
    assert page.get("/?token=wrong", base_url=other_name).status_code == 403
    assert page.get("/_dash-layout", base_url=other_name).status_code == 403
    assert page.post(PATH, data=b"x", headers={HEADER: "1"}, base_url=other_name).status_code == 403
    let_in = page.get("/?item=a&token=s3cret-token", base_url=other_name)
    assert let_in.status_code == 302
    assert let_in.headers["Location"] == "/?item=a"
    assert "HttpOnly" in let_in.headers["Set-Cookie"]
    assert "SameSite=Lax" in let_in.headers["Set-Cookie"]
    assert page.get("/", base_url=other_name).status_code == 200


def test_nothing_comes_from_elsewhere() -> None:
    answer = client().get("/")
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'self'" in policy
    assert "connect-src 'self'" in policy
    assert "http" not in policy
    text = answer.get_data(as_text=True)
    assert "https://" not in text
    assert "http://" not in text


@pytest.mark.parametrize(
    ("address", "isolated"),
    [("http://127.0.0.1:8050", True), ("http://localhost:8050", True), ("http://gpu-box:8050", False)],
)
def test_the_page_is_isolated_where_browsers_heed_it(address: str, isolated: bool) -> None:
    """tidy.js needs it; over plain HTTP by another name a browser ignores it and says so in the console."""
    access = Access(token="s3cret-token")
    headers = (
        client(access).get("/", base_url=address, headers={"Cookie": "oomdoctor-token=s3cret-token"}).headers
    )
    assert (headers.get("Cross-Origin-Opener-Policy") == "same-origin") == isolated
    assert (headers.get("Cross-Origin-Embedder-Policy") == "require-corp") == isolated


@pytest.mark.parametrize("origin", ["http://[", "null", "http://"])
def test_an_origin_that_is_none_is_another_site(origin: str) -> None:
    assert client().get("/", headers={"Origin": origin}).status_code == 403


def test_uploads_are_bounded() -> None:
    library = Library()
    page = client(limit=10, library=library)
    assert page.post(PATH + "?name=a", data=b"x" * 10, headers={HEADER: "1"}).get_json()["key"]
    too_large = page.post(PATH + "?name=a", data=b"x" * 11, headers={HEADER: "1"})
    assert too_large.status_code == 413
    assert "oomdoctor dashboard FILE" in too_large.get_json()["error"]
    assert page.post(PATH + "?name=a", data=b"x").status_code == 403
    assert len(library.items()) == 1
    for _ in range(UPLOADS_KEPT + 3):
        page.post(PATH + "?name=a", data=b"x" * 10, headers={HEADER: "1"})
    kept = library.items()
    assert len(kept) == UPLOADS_KEPT
    assert len(list(Path(kept[0].source.path).parent.iterdir())) == UPLOADS_KEPT, "the oldest are gone"
    library.close()


def test_one_of_several_that_cannot_be_read_is_refused() -> None:
    library = Library()
    page = client(limit=1 << 20, library=library)
    bad = page.post(
        PATH + "?name=bad.pickle&several=1", data=b"no snapshot", headers={HEADER: "1"}
    ).get_json()
    assert "bad.pickle" in bad["error"]
    assert tempfile.gettempdir() not in bad["error"]
    assert library.items() == []
    good = b'{"segments": [{"device": 0, "address": 4096, "total_size": 2097152, "stream": 0, "blocks": []}]}'
    answer = page.post(PATH + "?name=good.json&several=1", data=good, headers={HEADER: "1"}).get_json()
    assert [item.key for item in library.items()] == [answer.get("key")], answer
    library.close()


def test_uploads_without_a_length_are_counted_as_they_come() -> None:
    library = Library()
    page = client(limit=10, library=library)
    answer = page.post(
        PATH,
        input_stream=_Endless(),
        headers={HEADER: "1"},
        environ_overrides={"wsgi.input_terminated": True},
    )
    assert answer.status_code == 413
    assert library.items() == []
    library.close()


class _Endless:
    def read(self, size: int = -1) -> bytes:
        return b"x" * (size if size > 0 else 100)

    def tell(self) -> int:
        return 0

    def seek(self, *_: int) -> int:
        return 0


@pytest.mark.parametrize(
    ("host", "own"),
    [("127.0.0.1", True), ("127.1.2.3", True), ("::1", True), ("localhost", True), ("0.0.0.0", False),
     ("192.168.1.2", False), ("::", False), ("example.org", False)],
)  # fmt: skip
def test_which_addresses_are_this_machine(host: str, own: bool) -> None:
    assert is_loopback(host) is own


def test_other_addresses_take_a_flag(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="can be reached from other machines") as caught:
        serve([], host="0.0.0.0", port=0, upload_limit=1, say=print)
    assert "--remote" in str(caught.value)


def test_a_port_that_is_taken_is_said() -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(OomdoctorError, match=f"cannot listen on 127.0.0.1:{port}"):
            serve([], host="127.0.0.1", port=port, upload_limit=1, say=print)
