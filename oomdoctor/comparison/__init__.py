"""Two recordings beside one another: before and after a change, or two ranks of one job.

Whether a difference is the change's doing can only be told where both asked for the same memory. So the
requests are matched first (:mod:`.matching`), and everything else says how far that holds.
"""
