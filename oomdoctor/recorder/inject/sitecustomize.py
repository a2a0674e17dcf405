"""Python imports this at start when the recorder's directory is on PYTHONPATH (see
``site.execsitecustomize``).

It switches the recorder on, takes its own directory off ``sys.path`` and hands over to the ``sitecustomize``
that Python would have imported without it. Any Python may come by, version 2 included, so this file is
written in what all of them read; the recorder itself begins at 3.8.
"""

import os
import sys

_here = os.path.dirname(os.path.abspath(__file__))

if os.environ.get("OOMDOCTOR_RUN"):
    try:
        if sys.version_info >= (3, 8):  # noqa: UP036
            from _oomdoctor_recorder import entry

            entry.activate()
        elif os.environ.get("OOMDOCTOR_NOTIFY"):
            _word = "old\t{}\t{}.{}\n".format(os.getpid(), *sys.version_info[:2])
            _fd = os.open(os.environ["OOMDOCTOR_NOTIFY"], os.O_WRONLY | os.O_NONBLOCK)
            os.write(_fd, _word.encode("ascii"))
            os.close(_fd)
    except Exception:
        # Not even the recorder's own reporting is there. The program goes first.
        if os.environ.get("OOMDOCTOR_DEBUG"):
            sys.excepthook(*sys.exc_info())

# PYTHONPATH stays in os.environ, so that children are recorded too.
sys.path[:] = [_entry for _entry in sys.path if os.path.abspath(_entry or os.curdir) != _here]
sys.path_importer_cache.pop(_here, None)

# The next sitecustomize takes this one's place, as if this one had never been. Where there is none, the
# ImportError is the one that site.execsitecustomize expects; where it fails, its exception is reported as
# ever.
sys.modules.pop("sitecustomize", None)
import sitecustomize  # noqa: E402, F401
