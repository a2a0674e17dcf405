"""Serving the dashboard on this machine, or, with a token, to others."""

from __future__ import annotations

import contextlib
import signal
import socket
from collections.abc import Callable, Sequence
from typing import Optional

from oomdoctor.errors import OomdoctorError, UsageError
from oomdoctor_dashboard.access import Access, is_loopback, new_token
from oomdoctor_dashboard.app import create_app
from oomdoctor_dashboard.library import Library

_THREADS = 16


def serve(
    paths: Sequence[str],
    *,
    host: str,
    port: int,
    remote: bool = False,
    token: Optional[str] = None,
    upload_limit: int,
    say: Callable[[str], None],
) -> None:
    """Open recordings and serve until interrupted.

    Args:
        paths: run folders and snapshots.
        port: 0: any that is free.
        remote: whether an address that others reach is meant.
        token: what visitors show; made up for ``remote`` where None.
        say: takes the address, once the server listens.

    Raises:
        InputError: a path is no recording.
        UsageError: the address is not this machine's own and ``remote`` is not given.
        OomdoctorError: the address cannot be had.
    """
    from waitress import create_server

    if not is_loopback(host) and not remote:
        raise UsageError(
            f"{host} can be reached from other machines",
            where="--host",
            why="a recording shows paths and code of your work, and the server reads what is uploaded",
            next_step="add --remote to serve it to whoever has the token, or use an SSH tunnel instead: "
            f"ssh -L {port or 8050}:127.0.0.1:{port or 8050} HOST",
        )
    if remote and token is None:
        token = new_token()
    library = Library()
    first = None
    for path in paths:
        added = library.add(path)
        first = first or (added[0].key if added else None)
    access = Access(hosts=Access().hosts | {host.lower()}, token=token)
    app = create_app(library, access=access, first=first, upload_limit=upload_limit)
    try:
        server = create_server(
            app.server,
            host=host,
            port=port,
            threads=_THREADS,
            # More than is taken: that a file is too large is for us to say.
            max_request_body_size=upload_limit + (64 << 20),
            ident="oomdoctor",
        )
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise OomdoctorError(
            f"cannot listen on {host}:{port}",
            why=why,
            next_step="choose another port, or any that is free: --port 0",
        ) from error
    shown = (
        "localhost" if host == "127.0.0.1" else socket.gethostname() if host in ("0.0.0.0", "::") else host
    )
    shown = f"[{shown}]" if ":" in shown else shown
    address = f"http://{shown}:{_port(server, port)}/"
    say(address + (f"?token={token}" if token else ""))
    with contextlib.suppress(ValueError):  # only the main thread may
        signal.signal(signal.SIGTERM, _interrupt)
    try:
        server.run()
    except KeyboardInterrupt:
        pass
    finally:
        server.close()
        library.close()


def _interrupt(*_: object) -> None:
    """What was uploaded goes at SIGTERM as well."""
    raise KeyboardInterrupt


def _port(server: object, asked: int) -> int:
    found = getattr(server, "effective_port", None)
    return int(found) if found is not None else asked
