"""The dashboard: recordings on a timeline, down to the block.

``app`` puts pages together, ``pages`` hold layout and thin callbacks, ``figures`` are pure functions from
tables to what plotly.js draws, ``library`` keeps what was opened, on the server.
"""
