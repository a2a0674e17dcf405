"""The recorder, inside the traced process: standard library only, Python 3.8 and torch 2.0 or later.

``entry`` is what every Python process pays for; everything else is imported once torch is there. No failure
in here may reach the program: each entry point (import hook, lazy call, observer, signal, exit, fork) catches
and reports.
"""

VERSION = "0.1.0"
