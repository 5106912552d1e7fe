"""One client's state, as values that can follow it from server to server; no I/O.

settings     what the client SET, and how a server is brought to the same
prepares     statements of SQL-level PREPARE, likewise
statements   prepared statements by identity, of clients and of servers
replies      what a server still owes us, and what the client may see of it
"""
