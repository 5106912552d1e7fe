"""`python -m proxy` is the command `crossfade`, without needing its script on the path."""

from __future__ import annotations

from proxy.cli import main

if __name__ == "__main__":
    main()
