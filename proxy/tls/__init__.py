"""TLS on both sides: what is asked for, and the encryption itself.

contexts   from files and modes of the configuration to `ssl.SSLContext`
layer      encryption between a socket's transport and its protocol

A connection without TLS passes through nothing of this.
"""
