"""Moving the authority: when it may move, how it moves, and who does it.

gates      pure: the conditions, over one snapshot of everything they look at
machine    pure: what the states of the two clusters mean, and what to do next
conductor  performs one switch, or finishes one that somebody else began
survey     reads the snapshot that the gates judge
trial      tries out what a switch and the way back will need
surveyor   keeps reading it, and verifies when that is due
engine     the loop that owns a database: lease, converge, backfill, switch
"""
