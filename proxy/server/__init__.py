"""The client side: from an accepted socket to relayed bytes.

listener   the sockets of clients
login      startup packet, authentication: then a `Session`
authentication   who a client is, and what its login is worth at the servers
accounts   who uses a database, and how many may
lookup     passwords by query of the database
timeouts   end clients that take too long
session    one client's requests, one after the other, each to its server
requests   cut the client's messages into requests
judge      what a text is: read or write, and how its changes are captured
translate  a request as the server must see it, and what is then owed
database   what all sessions of one database share: pools, authority, hold
cancel     which session a cancel key belongs to
"""
