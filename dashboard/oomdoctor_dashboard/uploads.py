"""Files that come through the browser: counted while they come, stored under a name of ours, read later."""

from __future__ import annotations

from typing import Any, Optional

from flask import Flask, jsonify, request

from oomdoctor.errors import OomdoctorError
from oomdoctor.units import format_bytes
from oomdoctor_dashboard.library import UPLOADS_KEPT, Item, Library

PATH = "/_upload"
# A page of another site cannot add a header without being asked about it first, which is refused.
HEADER = "X-Oomdoctor-Upload"
_PIECE = 1 << 20
# What takes longer to read is no longer waited for.
_READ_S = 10.0


class _TooLarge(Exception):
    pass


def add_upload_route(server: Flask, library: Library, limit: int) -> None:
    """``POST /_upload?name=NAME``, the file as the body; answers ``{"key": KEY}`` or ``{"error": TEXT}``.

    With ``&several=1``, one of several that come together, it is read first: the page follows only the last.
    """

    @server.post(PATH)
    def upload() -> Any:
        if HEADER not in request.headers:
            return jsonify(error="this is for the dashboard's own page"), 403
        name = request.args.get("name", "upload")
        if (request.content_length or 0) > limit:
            return jsonify(error=too_large(limit)), 413

        def pieces() -> Any:
            size = 0
            while piece := request.stream.read(_PIECE):
                size += len(piece)
                if size > limit:
                    raise _TooLarge
                yield piece

        try:
            item = library.upload(name, pieces(), keep=limit * UPLOADS_KEPT)
        except _TooLarge:
            return jsonify(error=too_large(limit)), 413
        except OSError as error:
            return jsonify(error=f"it could not be stored: {error.strerror}"), 507
        if request.args.get("several"):
            job = library.load(item.key, None)
            job.wait(_READ_S)
            if job.error is not None:
                library.jobs.forget((item.key, None))
                library.failed(item.key)
                return jsonify(error=str(as_named(job.error, item)))
        return jsonify(key=item.key)


def as_named(error: BaseException, item: Optional[Item]) -> BaseException:
    """An error about an uploaded file, with the name that it has where it came from."""
    if item is None or not item.is_upload or not isinstance(error, OomdoctorError):
        return error
    path = item.source.path

    def told(text: Optional[str]) -> Optional[str]:
        return None if text is None else text.replace(path, item.group)

    return type(error)(
        told(error.what) or "", where=told(error.where), why=told(error.why), next_step=told(error.next_step)
    )


def too_large(limit: int) -> str:
    return (
        f"files of more than {format_bytes(limit)} are not taken from a browser;"
        " start the dashboard with the file: oomdoctor dashboard FILE"
    )
