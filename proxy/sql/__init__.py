"""SQL text, judged without a server: the only package that imports pglast. No I/O.

statement   the values: Statement, Kind, Target, Setting, Pin
classify    text -> statements, through PostgreSQL's own grammar (about 50 us)
extent      where a statement really ends
normalise   text -> the same text without its literals, or None (about 1 us)
cache       text -> statements, remembered; bounded in bytes
quote       names and texts as SQL literals
"""
