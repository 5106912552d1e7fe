"""Bytes in, values out: the PostgreSQL frontend/backend protocol, version 3.

    frames      split both directions of the stream without decoding bodies
    messages    read and write the bodies that the proxy has to understand
    startup     the packets before authentication, which carry no type code
    scram       SCRAM-SHA-256, with and without channel binding, from both chairs
    auth        what a server asks of us; md5

Nothing in this package reads a socket, a clock or a log.
Source of the formats: PostgreSQL documentation, chapter "Frontend/Backend Protocol".
"""
