"""For all tests."""

import signal

# Where a shell runs the tests in the background it has them ignore Ctrl+C, and so would every program that
# they start: tests that send it would then see nothing happen.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
