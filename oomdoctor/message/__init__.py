"""A text becomes out-of-memory events: one grammar a message family, read as a stream.

The way through, each step a value into a value: ``reader`` cuts a stream into the regions around words that
matter, ``cleaning`` takes terminals, loggers and escapes off them, the grammars find ``Sighting``s in what is
left, and the ``ledger`` tells reprints from events.
"""

from oomdoctor.message.reader import Reading, read_stream, read_text

__all__ = ["Reading", "read_stream", "read_text"]
