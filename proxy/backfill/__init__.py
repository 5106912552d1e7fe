"""Copying the history, once, in small steps.

chunks     where tables are cut, in which order chunks come, what is done
barrier    who must have ended before the first chunk
throttle   how fast it may go; pure
signals    what the throttle looks at
backfill   the steps
"""
